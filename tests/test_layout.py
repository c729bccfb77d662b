import ast
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path

import pytest

from tests.helpers import ROOT

PACKAGES = ("belvedere", "tasks", "datamodules", "callbacks", "drawing", "ops", "studies")
FILES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# What each package may import of ours.
ALLOWED = {"ops": {"ops"}, "drawing": {"drawing", "ops"}, "datamodules": {"datamodules", "ops"},
           "tasks": {"tasks", "ops", "datamodules.batch"},
           "callbacks": {"callbacks", "drawing", "ops", "datamodules.batch", "tasks.base", "tasks.segmentation",
                         "tasks.decision", "tasks.boosting", "tasks.metrics"},
           "studies": {"studies", "drawing", "ops"}, "belvedere": set(PACKAGES)}  # fmt: skip
# Importing one of these takes seconds or asks the network; every command would pay for it.
HEAVY = {"albumentations", "jinja2", "kornia", "matplotlib", "pandas", "pyvips", "segmentation_models_pytorch",
         "sklearn", "timm", "wandb", "xgboost"}  # fmt: skip
HEAVIER = HEAVY | {"torch", "torchvision", "lightning", "torchmetrics", "scipy"}  # of what only starts processes
HOMES = {"albumentations": {"datamodules/augmentations.py"}, "gradio": {"belvedere/app/page.py"},
         "segmentation_models_pytorch": {"tasks/networks/backbones.py"},
         "timm": {"tasks/networks/batch_norm.py", "tasks/networks/backbones.py"}}  # fmt: skip


def imports(source: str, module_level: bool = False) -> Iterator[str]:
    """Dotted names that a source imports anywhere or at module level, except for type checkers."""
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import hides which package it reaches"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        inside_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for_types = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if not (module_level and inside_function):
            waiting += node.orelse if for_types else ast.iter_child_nodes(node)


def undocumented(source: str) -> Iterator[tuple[str, str]]:
    """Public functions ("", name) and methods (class, name) without a docstring, except overloads and setters."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from ((node.name, name) for name in _without_docstring(node.body))
        yield from (("", name) for name in _without_docstring([node]))


def _without_docstring(nodes: list[ast.stmt]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            own = not any(ast.unparse(each).endswith((".setter", "overload")) for each in node.decorator_list)
            if own and ast.get_docstring(node) is None:
                yield node.name


def overrides(kind: type, name: str) -> bool:
    return any(name in vars(parent) for parent in kind.__mro__[1:])


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def wrong_ways(path: Path, source: str) -> list[str]:
    """Imports of ours against the direction."""
    ours = [name for name in imports(source) if name.split(".")[0] in PACKAGES]
    return [name for name in ours if not any(within(name, allowed) for allowed in ALLOWED[path.parts[0]])]


def heavy(source: str, package: str = "") -> list[str]:
    """Heavy libraries that importing a module would import."""
    libraries = HEAVIER if package == "studies" else HEAVY
    return [name for name in imports(source, module_level=True) if name.split(".")[0] in libraries]


def strangers(path: Path, source: str) -> list[str]:
    """Libraries that another file imports than the one that may."""
    libraries = {name.split(".")[0] for name in imports(source)} & HOMES.keys()
    return [library for library in libraries if path.as_posix() not in HOMES[library]]


def unpackaged(paths: list[Path], include: list[str]) -> list[Path]:
    """Files of ours that no pattern of `tool.setuptools.packages.find` covers, or that lie in no package."""
    tops = {pattern.removesuffix("*") for pattern in include}
    initialised = {path.parent for path in paths if path.name == "__init__.py"}
    return [path for path in paths if path.parts[0] not in tops or path.parent not in initialised]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_are_allowed(path: Path) -> None:
    source = (ROOT / path).read_text()
    assert wrong_ways(path, source) == []
    assert heavy(source, path.parts[0]) == []
    assert strangers(path, source) == []


def test_only_what_overrides_lacks_a_docstring() -> None:
    for path in FILES:
        for kind, name in undocumented((ROOT / path).read_text()):
            assert kind, f"{path}: {name}"
            module = import_module(".".join(path.with_suffix("").parts))
            assert overrides(getattr(module, kind), name), f"{path}: {kind}.{name}"


def test_missing_docstrings_are_seen() -> None:
    source = """
class A(B):
    def size(self): "Returns the size."
    def plain(self): ...
    def _hidden(self): ...
    @size.setter
    def size(self, value): ...
class _Hidden:
    def plain(self): ...
def alone():
    def inner(): ...
"""
    assert list(undocumented(source)) == [("A", "plain"), ("", "alone")]
    assert overrides(type("C", (str,), {"lower": str.lower, "new": str.lower}), "lower")
    assert not overrides(type("C", (str,), {"new": str.lower}), "new")


def cycles(graph: Mapping[str, Iterable[str]]) -> list[set[str]]:
    """Groups of modules that import each other, directly or through others."""
    reached = {module: _reached(graph, module) for module in graph}
    groups = {frozenset(other for other in reached[module] if module in reached[other]) for module in graph}
    return [set(group) for group in groups if group]


def _reached(graph: Mapping[str, Iterable[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [*graph[start]]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += graph[module]
    return found


def import_graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Which of these modules each imports, at module level or inside functions."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        names = {name if name in sources else name.rpartition(".")[0] for name in imports(source)}
        graph[module] = {name for name in names if name in sources and name != module}
    return graph


def test_nothing_imports_in_a_circle() -> None:
    sources = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): (ROOT / path).read_text()
               for path in FILES}  # fmt: skip
    assert cycles(import_graph(sources)) == []


def hidden_links(source: str) -> list[str]:
    """Places where a source reaches for the trainer's data module, or switches the trainer's stage by hand."""
    found = re.findall(r"trainer\.datamodule|[\"']datamodule[\"']|trainer\.(?:training|validating|testing) =", source)
    return list(map(str, found))


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] in ("tasks", "callbacks")], ids=str)
def test_tasks_and_callbacks_do_not_touch_the_data_module(path: Path) -> None:
    assert hidden_links((ROOT / path).read_text()) == []


def test_every_package_is_installed() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    include = config["packages"]["find"]["include"]
    assert {path.parts[0] for path in FILES} == set(PACKAGES)
    assert unpackaged(FILES, include) == []
    assert "configs*" in include
    assert config["package-data"]["configs"] == ["**/*.yaml"]


def test_tests_have_no_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []  # tests/tasks would shadow tasks


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("ops/masks/rle.py", "from datamodules.read.cache import Rows", ["datamodules.read.cache.Rows"]),
        ("datamodules/clouds.py", "def f():\n    import tasks.base", ["tasks.base"]),
        ("tasks/clouds.py", "if True:\n    from datamodules import clouds", ["datamodules.clouds"]),
        ("callbacks/best.py", "from tasks import clouds", ["tasks.clouds"]),
        ("callbacks/best.py", "from tasks.base import Batch\nimport ops.masks.rle\nfrom callbacks import drawing", []),
        ("studies/figures.py", "from drawing.charts import bars\nfrom tasks.base import Batch", ["tasks.base.Batch"]),
    ],
)
def test_imports_against_the_direction_are_detected(path: str, source: str, found: list[str]) -> None:
    assert wrong_ways(Path(path), source) == found


@pytest.mark.parametrize(
    ("package", "source", "found"),
    [
        ("ops", "class A:\n    from timm import create_model", ["timm.create_model"]),
        ("ops", "try:\n    import wandb\nexcept ImportError:\n    pass", ["wandb"]),
        ("ops", "def f():\n    import kornia", []),
        ("ops", "if TYPE_CHECKING:\n    import pandas\nelse:\n    import kornia", ["kornia"]),
        ("ops", "import torch.nn", []),
        ("studies", "import torch.nn", ["torch.nn"]),
    ],
)
def test_heavy_imports_are_detected(package: str, source: str, found: list[str]) -> None:
    assert heavy(source, package) == found


def test_other_faults_are_detected() -> None:
    sources = {"ops.a": "from ops.b import f", "ops.b": "def f():\n    from ops import c", "ops.c": "import ops.a",
               "ops.d": "import ops.a"}  # fmt: skip
    assert cycles(import_graph(sources)) == [{"ops.a", "ops.b", "ops.c"}]
    source = 'a = trainer.datamodule\nself.trainer.validating = True\ngetattr(trainer, "datamodule", None)'
    assert len(hidden_links(source)) == 3
    assert hidden_links("if trainer.training: import datamodules.batch") == []
    source = "def f():\n    import segmentation_models_pytorch.encoders as e"
    assert strangers(Path("tasks/clouds.py"), source) == ["segmentation_models_pytorch"]
    assert strangers(Path("tasks/networks/backbones.py"), source) == []
    files = [Path("tasks/__init__.py"), Path("tasks/base.py"), Path("tasks/networks/layers.py"), Path("new/base.py")]
    assert unpackaged(files, ["tasks*"]) == files[2:]
