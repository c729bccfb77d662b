import ast
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from belvedere import TASKS

ROOT = Path(__file__).parents[1]
PACKAGES = ("belvedere", "tasks", "datamodules", "callbacks", "drawing", "ops", "studies")
FILES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# What each package may import of ours.
ALLOWED = {"ops": {"ops"}, "drawing": {"drawing", "ops"}, "datamodules": {"datamodules", "ops"},
           "tasks": {"tasks", "ops", "datamodules.batch"},
           "callbacks": {"callbacks", "drawing", "ops", "datamodules.batch", "tasks.base", "tasks.segmentation",
                         "tasks.decision", "tasks.boosting", "tasks.metrics"},
           "studies": {"studies", "drawing", "ops"}, "belvedere": set(PACKAGES)}  # fmt: skip
# Importing one of these takes seconds or asks the network; every command would pay for it.
HEAVY = {
    "wandb",
    "albumentations",
    "segmentation_models_pytorch",
    "matplotlib",
    "timm",
    "kornia",
    "pandas",
    "xgboost",
    "pyvips",
    "sklearn",
    "jinja2",
}
HEAVIER = HEAVY | {"torch", "torchvision", "lightning", "torchmetrics", "scipy"}  # for those who only start processes
HOMES = {"albumentations": {"datamodules/augmentations.py"},
         "segmentation_models_pytorch": {"tasks/networks/backbones.py"},
         "timm": {"tasks/networks/backbones.py"}}  # fmt: skip


def imports(source: str, module_level: bool = False) -> Iterator[str]:
    """Dotted names that a source imports, at module level only or anywhere; those for type checkers not."""
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
    """Libraries that only one file may know, in another one."""
    libraries = {name.split(".")[0] for name in imports(source)} & HOMES.keys()
    return [library for library in libraries if path.as_posix() not in HOMES[library]]


def unpackaged(paths: list[Path], include: list[str]) -> list[Path]:
    """Files of ours that no pattern of `tool.setuptools.packages.find` covers, or that lie in no package."""
    tops = {pattern.removesuffix("*") for pattern in include}
    initialised = {path.parent for path in paths if path.name == "__init__.py"}
    return [path for path in paths if path.parts[0] not in tops or path.parent not in initialised]


def homeless(word: str, root: Path) -> list[str]:
    """What a task lacks of the grid: (word, kind) is the address of any line."""
    title = word.title()
    classes = {f"tasks/{word}.py": f"{title}Task", f"datamodules/{word}.py": f"{title}DataModule"}
    lacking = [f"{file}: {name}" for file, name in classes.items() if name not in _classes(root / file)]
    configs = list((root / "configs" / word).glob("*.yaml"))
    if not configs:
        lacking.append(f"configs/{word}/*.yaml")
    wanted = {"model": f"{title}Task", "data": f"{title}DataModule"}
    for path in configs:
        config = yaml.safe_load(path.read_text())
        for key, name in wanted.items():
            if config.get(key, {}).get("class_path", name) != name:
                lacking.append(f"{path.name}: {name}")
    return lacking


def _classes(path: Path) -> set[str]:
    tree = ast.parse(path.read_text()) if path.is_file() else ast.Module([], [])
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_file_is_where_and_what_it_should_be(path: Path) -> None:
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


def test_circles_are_seen_inside_functions() -> None:
    sources = {"ops.a": "from ops.b import f", "ops.b": "def f():\n    from ops import c", "ops.c": "import ops.a",
               "ops.d": "import ops.a"}  # fmt: skip
    assert cycles(import_graph(sources)) == [{"ops.a", "ops.b", "ops.c"}]
    assert cycles({"a": ["a"]}) == [{"a"}]


def hidden_links(source: str) -> list[str]:
    """Places where a source reaches for the trainer's data module, or switches the trainer's stage by hand."""
    found = re.findall(r"trainer\.datamodule|[\"']datamodule[\"']|trainer\.(?:training|validating|testing) =", source)
    return list(map(str, found))


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] in ("tasks", "callbacks")], ids=str)
def test_data_reach_tasks_and_callbacks_by_handover_alone(path: Path) -> None:
    assert hidden_links((ROOT / path).read_text()) == []


def test_hidden_links_are_seen() -> None:
    source = 'a = trainer.datamodule\nself.trainer.validating = True\ngetattr(trainer, "datamodule", None)'
    assert len(hidden_links(source)) == 3
    assert hidden_links("if trainer.training: import datamodules.batch") == []


@pytest.mark.parametrize("word", TASKS)
def test_task_has_its_place_in_every_folder(word: str) -> None:
    assert homeless(word, ROOT) == []


def test_there_are_files() -> None:
    assert {path.parts[0] for path in FILES} == set(PACKAGES)


def test_every_package_is_installed() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    include = config["packages"]["find"]["include"]
    assert unpackaged(FILES, include) == []
    assert "configs*" in include
    assert config["package-data"]["configs"] == ["**/*.yaml"]


def test_tests_have_no_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []  # tests/tasks would shadow tasks


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("ops/rle.py", "from datamodules.read.cache import Rows", ["datamodules.read.cache.Rows"]),
        ("datamodules/clouds.py", "def f():\n    import tasks.base", ["tasks.base"]),
        ("tasks/clouds.py", "if True:\n    from datamodules import clouds", ["datamodules.clouds"]),
        ("callbacks/best.py", "from tasks.clouds import CloudsTask", ["tasks.clouds.CloudsTask"]),
        ("callbacks/best.py", "from tasks import clouds", ["tasks.clouds"]),
        ("callbacks/best.py", "from tasks.base import Batch\nimport ops.rle\nfrom callbacks import drawing", []),
        ("belvedere/cli.py", "from datamodules.base import ImageDataModule", []),
        ("studies/figures.py", "from drawing.charts import bars\nfrom tasks.base import Batch", ["tasks.base.Batch"]),
    ],
)
def test_wrong_ways_are_seen(path: str, source: str, found: list[str]) -> None:
    assert wrong_ways(Path(path), source) == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import matplotlib.pyplot as plt", ["matplotlib.pyplot"]),
        ("class A:\n    from timm import create_model", ["timm.create_model"]),
        ("try:\n    import wandb\nexcept ImportError:\n    pass", ["wandb"]),
        ("def f():\n    import kornia", []),
        ("if TYPE_CHECKING:\n    import pandas\nelse:\n    import kornia", ["kornia"]),
    ],
)
def test_heavy_imports_are_seen(source: str, found: list[str]) -> None:
    assert heavy(source) == found


def test_a_study_imports_no_torch() -> None:
    assert heavy("import torch.nn") == []
    assert heavy("import torch.nn", "studies") == ["torch.nn"]


def test_strangers_are_seen() -> None:
    source = "def f():\n    import segmentation_models_pytorch.encoders as e"
    assert strangers(Path("tasks/clouds.py"), source) == ["segmentation_models_pytorch"]
    assert strangers(Path("tasks/networks/backbones.py"), source) == []


def test_packages_left_out_are_seen() -> None:
    files = [Path("tasks/__init__.py"), Path("tasks/base.py"), Path("tasks/networks/layers.py"), Path("new/base.py")]
    assert unpackaged(files, ["tasks*"]) == [Path("tasks/networks/layers.py"), Path("new/base.py")]


def test_gaps_in_the_grid_are_seen(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "roads.py").write_text("class RoadsTask: ...")
    assert homeless("roads", tmp_path) == ["datamodules/roads.py: RoadsDataModule", "configs/roads/*.yaml"]
    (tmp_path / "configs" / "roads").mkdir(parents=True)
    (tmp_path / "configs" / "roads" / "vgg.yaml").write_text("model: {class_path: tasks.roads.RoadsTask}")
    assert homeless("roads", tmp_path)[1:] == ["vgg.yaml: RoadsTask"]
