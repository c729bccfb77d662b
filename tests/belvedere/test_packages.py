import os
import subprocess
import sys
from pathlib import Path

import pytest

from belvedere import packages
from tests.helpers import ROOT

OWN = ("tasks.py", "ops/__init__.py", "callbacks.py", "studies/__init__.py", "drawing.py", "datamodules.py")


def run(folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """Runs Python in a folder that comes before Belvedere's on the path, as a script's own folder does."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["", str(ROOT)])}
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in OWN:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"raise SystemExit('the user has {name}')")
    return tmp_path


def test_the_command_runs_its_own_code(folder: Path) -> None:
    script = folder / "bin" / "belvedere"  # as installed: a script of that name in another folder
    script.parent.mkdir()
    script.write_text("import sys\nfrom belvedere.__main__ import main\nsys.exit(main())\n")
    for command in (["-m", "belvedere"], [str(script)]):
        done = run(folder, *command, "fit", "--config", "clouds/demo", "--print_config")
        assert done.returncode == 0, done.stderr
        assert "tasks.clouds.CloudsTask" in done.stdout
        done = run(folder, *command, "study", "--help")
        assert done.returncode == 0, done.stderr


def test_a_colliding_file_is_named(folder: Path) -> None:
    (folder / "script.py").write_text("import belvedere\n")
    done = run(folder, "script.py")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert str(folder / "ops" / "__init__.py") in last
    assert "'ops'" in last


def test_a_script_may_have_folders_without_code_and_its_own_modules(tmp_path: Path) -> None:
    (tmp_path / "ops").mkdir()
    (tmp_path / "mine.py").write_text("TASKS = 1")
    (tmp_path / "script.py").write_text("import mine, belvedere, ops, sys\nprint(ops.__file__, 'torch' in sys.modules)")
    done = run(tmp_path, "script.py")
    assert done.stdout == f"{ROOT / 'ops' / '__init__.py'} False\n", done.stderr


def test_an_imported_module_collides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "ROOT", tmp_path)
    with pytest.raises(ImportError, match=r"ops.__init__\.py hides the package 'ops'"):
        packages.claim()
