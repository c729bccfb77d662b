"""The tasks, the shipped configs, and what a config may call a class: its bare name, or a path of earlier versions."""

import pkgutil
import re
from importlib import import_module
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).parents[1] / "configs"
TASKS = {
    "clouds": "cloud patterns in satellite images",
    "roads": "roads in aerial images",
    "avalanches": "avalanches in mountain photographs",
    "colorization": "colors for gray images",
    "aesthetics": "professional shot or snapshot",
}
"""Name and subject of each task. A name is one lower-case word, that of the files in `tasks`, `datamodules` and
`configs`; a task's classes are called `<Name>Task` and `<Name>DataModule`. A task is registered nowhere else."""

COMMANDS = ("fit", "validate", "test", "predict", "features", "describe", "export", "suggest", "import", "pack", "app",
            "pool", "study", "learning-curve", "compare", "configs", "completion")  # fmt: skip

MORE_TASKS = {"LinearAestheticsTask": "tasks.aesthetics", "LinearColorizationTask": "tasks.colorization"}
"""Modules of classes that are other ways to do one of the tasks."""

MOVED = {
    "callbacks.predictions.SegmentationWriter": "SegmentationWriter",
    "callbacks.outlines.OutlineWriter": "OutlineWriter",
    "callbacks.colorings.ColoringWriter": "ColoringWriter",
    "callbacks.scores.ScoreWriter": "ScoreWriter",
    "callbacks.color_words.ColorWords": "ColorBaselines",
    "callbacks.judgement_words.JudgementWords": "JudgementBaseline",
}
"""Class paths in configs and checkpoints of earlier versions, and the bare names that are valid today."""

_SEGMENTATION = ("lines", "maps", "mask_files", "masks", "outlines", "polygons", "prelabels", "shards", "stitch",
                 "stitched", "uncertainty")  # fmt: skip
MOVED_MODULES = {
    "callbacks.writers.segmentation": "callbacks.writers.segmentation.writer",
    "callbacks.writers.colorings": "callbacks.writers.coloring.writer",
    "callbacks.writers.colored": "callbacks.writers.coloring.colored",
    "callbacks.writers.video": "callbacks.writers.coloring.video",
    **{f"callbacks.writers.{name}": f"callbacks.writers.segmentation.{name}" for name in _SEGMENTATION},
}
"""Modules in class paths of earlier versions, and where their classes are today."""


def task_name(module: Any) -> str:
    """Returns the name of a task, such as `roads`.

    Args:
        module: Its task or data module: class path, bare name, or the part of a config that has one.
    """
    class_path = str(module["class_path"] if isinstance(module, dict) else module)
    name = class_path.rpartition(".")[2].removesuffix("DataModule").removesuffix("Task")
    return name.removeprefix("Linear").lower()


def class_modules() -> dict[str, str]:
    """Returns the module of each task's classes, by class name."""
    found = {f"{task.title()}{kind}": f"{package}.{task}" for task in TASKS
             for kind, package in (("Task", "tasks"), ("DataModule", "datamodules"))}  # fmt: skip
    return found | MORE_TASKS


def import_classes() -> None:
    """Imports every task, data module and callback: the parser finds imported classes by their bare names."""
    import callbacks

    modules = list(dict.fromkeys(class_modules().values()))
    modules += [module.name for module in pkgutil.walk_packages(callbacks.__path__, "callbacks.") if not module.ispkg]
    for name in modules:
        import_module(name)


def renamed(config: Any) -> Any:
    """Returns a parsed config with every moved class path replaced; see `MOVED` and `MOVED_MODULES`."""
    if isinstance(config, dict):
        return {key: renamed(value) for key, value in config.items()}
    if isinstance(config, list):
        return [renamed(value) for value in config]
    if not isinstance(config, str):
        return config
    module, _, name = config.rpartition(".")
    return f"{MOVED_MODULES[module]}.{name}" if module in MOVED_MODULES else MOVED.get(config, config)


def best_first(path: Path) -> tuple[Path, bool, Path]:
    """Returns the place of a shipped config in lists: the recommended one is the first of its task."""
    return path.parent, path.stem != "best", path


def configs(task: str = "") -> str:
    """Lists the shipped configs with the first comment line of each, `best` first: experiments, overlays, studies.

    Args:
        task: Lists those of this task only.
    """
    lines: dict[str, list[str]] = {"experiments": [], "overlays": [], "studies": []}
    for path in sorted(SHIPPED.rglob("*.yaml"), key=best_first):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(SHIPPED).with_suffix("").as_posix()
        kind = "experiments" if "\nmodel:" in text else "overlays"
        kind, name = ("studies", name.removeprefix("studies/")) if name.startswith("studies/") else (kind, name)
        if not task or re.match(f"{re.escape(task)}(?![a-z])", name):
            lines[kind].append(f"  {name:32}{text.splitlines()[0].lstrip('# ')}")
    return "\n\n".join("\n".join([f"{kind}:", *rows]) for kind, rows in lines.items() if rows)
