"""What the code imports, what `pyproject.toml` declares and what `constraints.txt` pins agree."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import packages_distributions, version

from ops.extras import EXTRAS as EXTRAS_OF_MODULES
from tests.helpers import ROOT

PACKAGES = ("belvedere", "tasks", "datamodules", "callbacks", "drawing", "ops", "studies")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Extras whose modules are imported.
WITH_MODULES = ("wandb", "boosting", "classifiers", "video", "geo", "export", "run", "app")
# Declared although no module of ours needs to import them.
INDIRECT = {
    "jsonargparse": "LightningCLI parses with it, from this version on",
    "torchvision": "timm and segmentation-models-pytorch import it; it must belong to torch",
    "wandb": "Lightning's WandbLogger imports it",
    "jinja2": "imported where templates are drawn",
    "onnx": "imported where files are exported",
    "onnxscript": "torch's exporter imports it",
    "onnxruntime": "imported where exported files run",
}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: Iterable[str]) -> dict[str, str]:
    """Requirements by the normal name of their distribution."""
    return {normal(re.split(r"[\[<>=~! ]", each)[0]): each for each in requirements}


def imported(source: str) -> set[str]:
    """Top-level modules that a source imports anywhere, other than Python's."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {*PACKAGES}


def undeclared(modules: Iterable[str], requirements: Iterable[str], owners: Mapping[str, list[str]]) -> list[str]:
    """Modules of distributions that are not among the requirements."""
    names = {normal(each) for each in requirements}
    return sorted(module for module in modules if not names & {normal(owner) for owner in owners.get(module, [])})


MODULES = {module for package in PACKAGES for path in (ROOT / package).rglob("*.py")
           for module in imported(path.read_text())}  # fmt: skip
CORE = declared(PROJECT["dependencies"])
EXTRAS = PROJECT["optional-dependencies"]
OF_OPTIONS = declared([each for name in WITH_MODULES for each in EXTRAS[name]])
DECLARED = CORE | OF_OPTIONS


def test_every_import_is_declared() -> None:
    assert undeclared(MODULES, DECLARED, packages_distributions()) == []


def test_every_declared_package_is_imported() -> None:
    owners = packages_distributions()
    used = {normal(owner) for module in MODULES for owner in owners[module]}
    assert DECLARED.keys() - used - INDIRECT.keys() == set()


def test_packages_of_options_are_known_by_their_modules() -> None:
    known = {normal(package): extra for package, extra in EXTRAS_OF_MODULES.values()}
    assert {name: extra for extra in WITH_MODULES for name in declared(EXTRAS[extra])} == known
    assert CORE.keys() & OF_OPTIONS.keys() == set()


def test_every_lower_bound_has_its_reason() -> None:
    lines = [line for line in (ROOT / "pyproject.toml").read_text().splitlines() if re.match(r'  "[\w-]+.*[<>=]', line)]
    without = [line for line in lines if "#" not in line and "types-" not in line]
    assert len(lines) >= len(DECLARED)
    assert without == []


def test_declared_packages_are_pinned_as_installed() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {normal(name): pin for name, pin in (line.split("==") for line in lines)}
    assert all(re.fullmatch(r"[\w.+!-]+", pin) for pin in pins.values())  # versions, no paths and no hosts
    missing = DECLARED.keys() - pins.keys()
    assert missing == set()
    for name in DECLARED:
        assert pins[name] == version(name).split("+")[0], name


def test_an_undeclared_import_is_detected() -> None:
    source = "import os, yaml\ndef f():\n    from scipy.special import stdtrit\n    import ops.masks.rle"
    assert imported(source) == {"yaml", "scipy"}
    owners = {"yaml": ["PyYAML"], "scipy": ["scipy"]}
    assert undeclared({"yaml", "scipy"}, declared(["pyyaml>=6"]), owners) == ["scipy"]
    assert declared(["jsonargparse[signatures]>=4,<5", "a_b == 1"]).keys() == {"jsonargparse", "a-b"}
