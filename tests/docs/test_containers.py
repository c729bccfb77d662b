"""The container recipes hold what the package needs."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = {each.rstrip("*") for each in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
FILES = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE"} | PACKAGES


def test_both_recipes_and_the_ignore_list_name_the_files_of_the_package() -> None:
    docker = (ROOT / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", docker, flags=re.MULTILINE) for name in line.split()}
    recipe = (ROOT / "belvedere.def").read_text()
    bound = dict(re.findall(r"^    (\S+) /opt/belvedere/(\S+)$", recipe, flags=re.MULTILINE))
    kept = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), flags=re.MULTILINE)
    assert copied == FILES
    assert bound == {name: name for name in FILES}
    assert set(kept) == FILES
    assert all((ROOT / name).exists() for name in FILES)


def test_both_recipes_install_the_tested_versions_on_a_python_that_is_allowed() -> None:
    for name in ("Dockerfile", "belvedere.def"):
        text = (ROOT / name).read_text()
        assert "pip install --no-cache-dir --constraint constraints.txt '.[all]'" in text
        [version] = re.findall(r"python:3\.(\d+)-slim", text)
        assert int(version) >= int(PROJECT["project"]["requires-python"].removeprefix(">=3."))


def test_the_sections_of_the_apptainer_recipe() -> None:
    text = (ROOT / "belvedere.def").read_text()
    sections = re.findall(r"^%(\w+)$", text, flags=re.MULTILINE)
    assert sections == ["files", "post", "runscript", "test"]
    assert re.search(r"^Bootstrap: docker\nFrom: \S+$", text, flags=re.MULTILINE)
    shell = shutil.which("sh")
    assert shell
    for script in re.split(r"^%\w+$", text, flags=re.MULTILINE)[2:]:
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_the_docker_recipe_passes_the_linter() -> None:
    subprocess.run([Path(sys.executable).parent / "hadolint", ROOT / "Dockerfile"], check=True)
