"""Makes sure that `tasks`, `ops` and the other packages are Belvedere's own, not files beside the user's script.

Their names are common ones, and Python looks into the working folder or the script's folder first.
"""

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
PACKAGES = ("ops", "drawing", "datamodules", "tasks", "callbacks", "studies")


def claim() -> None:
    """Binds the names of the packages to Belvedere's own code.

    Raises:
        ImportError: A user's script imports belvedere, and the name means the user's own file there.
    """
    if not _is_command():
        for name in PACKAGES:
            found = _location(name)
            if found is not None and found.parent != ROOT / name:
                raise ImportError(
                    f"{found} hides the package {name!r} of belvedere, which imports it by that name. Rename that file "
                    "or folder, or run the script from another folder."
                )
    for name in PACKAGES:
        if name not in sys.modules or _location(name) != ROOT / name / "__init__.py":
            _load(name)


def _is_command() -> bool:
    """Returns whether this process is `belvedere` or `python -m belvedere[.run]`, not a script that imports it."""
    program = Path(sys.argv[0]) if sys.argv else Path()
    modules = {("-m", f"belvedere{inner}") for inner in ("", ".__main__", ".run")}
    as_module = any(pair in modules for pair in pairwise(sys.orig_argv))
    return as_module or program.stem == "belvedere" or program == Path(__file__).with_name("__main__.py")


def _location(name: str) -> Path | None:
    """Returns the file that a package's name stands for now; None if there is none."""
    module: ModuleType | None = sys.modules.get(name)
    spec = find_spec(name) if module is None else module.__spec__
    return Path(spec.origin).absolute() if spec is not None and spec.origin is not None else None


def _load(name: str) -> None:
    folder = ROOT / name
    spec = spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None
    assert spec.loader is not None
    for module in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
        del sys.modules[module]
    sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
