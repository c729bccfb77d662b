"""Checks what the config of a checkpoint asks for: people share checkpoints.

A config names classes, and a class can be one that runs commands. Without `--trust`, a checkpoint may only name the
classes that `known_classes` lists, and give them numbers, texts, lists and mappings.
"""

import inspect
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import FunctionType, NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from belvedere.names import MOVED, MOVED_MODULES, class_modules
from ops.errors import ArgumentError

# torch's learning-rate schedulers, except those that take functions or other schedulers
SCHEDULERS = ("StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR", "PolynomialLR", "CosineAnnealingLR",
              "CosineAnnealingWarmRestarts", "OneCycleLR", "ReduceLROnPlateau")  # fmt: skip
LARGEST = 100_000  # values in a config; YAML anchors can describe far more in a few lines
PLAIN = (bool, int, float, str)
HARMLESS = {*PLAIN, NoneType, Path, list, tuple, dict, Any, ...}
CONTAINERS = {Union, UnionType, list, tuple, dict, Sequence, Mapping, Iterable}


def known_classes() -> dict[str, type]:
    """Returns the classes that a checkpoint may name, by bare name and by path.

    These are the tasks and data modules, the callbacks and output formats in `callbacks` (but no loggers), the
    schedules in `tasks.schedules`, the optimizers of `torch.optim` and the `SCHEDULERS`, and Lightning's
    ReduceLROnPlateau.
    """
    import torch
    from lightning.pytorch import Callback
    from lightning.pytorch.cli import ReduceLROnPlateau

    import callbacks
    from callbacks.writers.format import Format
    from tasks import schedules

    found: dict[str, type] = {name: getattr(import_module(path), name) for name, path in class_modules().items()}
    for module in pkgutil.walk_packages(callbacks.__path__, "callbacks."):
        if module.name != "callbacks.loggers" and not module.ispkg:
            members = vars(import_module(module.name)).values()
            found |= {each.__name__: each for each in members if inspect.isclass(each)
                      and each.__module__ == module.name and issubclass(each, Callback | Format)}  # fmt: skip
    found |= {name: each for name, each in vars(schedules).items()
              if inspect.isclass(each) and issubclass(each, schedules.StepSchedule)}  # fmt: skip
    found |= {f"{each.__module__}.{each.__name__}": each for each in found.values()}
    found |= {f"torch.optim.{name}": each for name, each in vars(torch.optim).items()
              if inspect.isclass(each) and issubclass(each, torch.optim.Optimizer)}  # fmt: skip
    found |= {f"torch.optim.lr_scheduler.{name}": getattr(torch.optim.lr_scheduler, name) for name in SCHEDULERS}
    found["lightning.pytorch.cli.ReduceLROnPlateau"] = ReduceLROnPlateau
    earlier = {today: module for module, today in MOVED_MODULES.items()}
    found |= {f"{earlier[each.__module__]}.{each.__name__}": each for each in found.values()
              if each.__module__ in earlier}  # fmt: skip
    return found | {path: found[today] for path, today in MOVED.items()}


def check_trusted(config: Mapping[str, Any], source: Path) -> None:
    """Checks that a config from a checkpoint names known classes only, and has plain values.

    Args:
        config: Settings by name: `model`, `data` and `callbacks`, each a class or a list of classes, and plain ones.
        source: The file that the config is from.

    Raises:
        ArgumentError: It names another class, has a value that is not plain, or is too large.
    """
    check = _Check(source)
    for name, value in config.items():
        check.value(value, name, type if name in ("model", "data", "callbacks") else Any)


class _Check:
    """Checks the values of a config, one inside the other.

    Args:
        source: The file that the config is from.
    """

    def __init__(self, source: Path) -> None:
        self.source, self.count, self.known = source, 0, known_classes()

    def value(self, value: Any, place: str, hint: Any) -> None:
        """Checks a value.

        Args:
            value: The value.
            place: Where it is in the config, in dots.
            hint: The type of the argument that it is for.
        """
        self.count += 1
        if self.count > LARGEST or place.count(".") > 50:
            raise ArgumentError(f"The config in {self.source} is too large: more than {LARGEST} values.")
        if isinstance(value, Mapping):
            self.mapping(value, place, hint)
        elif isinstance(value, list | tuple):
            for number, each in enumerate(value):
                self.value(each, f"{place}.{number}", hint)
        elif isinstance(value, str):
            if wants_class(hint) and value not in self.known:  # the parser takes a text for a class path
                self.reject(f"{place} is {value!r}")
        elif value is not None and type(value) not in PLAIN:
            self.reject(f"{place} is a {type(value).__name__}")

    def mapping(self, value: Mapping[Any, Any], place: str, hint: Any) -> None:
        if "class_path" not in value:
            for name, each in value.items():
                if not isinstance(name, str | int) or (wants_class(hint) and not str(name).isidentifier()):
                    self.reject(f"{place} has the key {name!r}")
                self.value(each, f"{place}.{name}", hint)
            return
        path, arguments = value["class_path"], value.get("init_args") or {}
        if not isinstance(path, str) or path not in self.known:
            self.reject(f"{place} has the class_path {path!r}")
        if not isinstance(arguments, Mapping) or not value.keys() <= {"class_path", "init_args"}:
            self.reject(f"{place} has the keys {', '.join(map(str, value))}")
        hints = argument_hints(self.known[path])
        for name, each in arguments.items():
            if not isinstance(name, str) or not name.isidentifier():
                self.reject(f"{place} has the key {name!r}")
            self.value(each, f"{place}.{name}", hints.get(name, Any))

    def reject(self, found: str) -> NoReturn:
        """Rejects the config.

        Raises:
            ArgumentError: Always.
        """
        raise ArgumentError(
            f"{self.source}: {found[:300]}. A checkpoint's config may only name belvedere's tasks, data modules and "
            "callbacks and torch's optimizers and schedulers, because other classes can run any program. If you trust "
            "whoever made this file, add --trust (from Python: trust=True)."
        )


def argument_hints(kind: type) -> dict[str, Any]:
    """Returns the types of a class's arguments and of those it hands to its parents, by name."""
    found: dict[str, Any] = {}
    for parent in reversed(kind.__mro__):
        function = vars(parent).get("__init__")
        if inspect.isfunction(function):
            found |= {name: _hint(function, name) for name in function.__annotations__}
    return found


def _hint(function: FunctionType, name: str) -> Any:
    alone = SimpleNamespace(__annotations__={name: function.__annotations__[name]})
    try:
        return get_type_hints(alone, function.__globals__)[name]
    except NameError:  # imported for type checkers only
        return type


def wants_class(hint: Any) -> bool:
    """Whether a value of this type can be an object or a function, for which the parser imports what a text names."""
    origin = get_origin(hint)
    if origin in CONTAINERS:
        return any(wants_class(each) for each in get_args(hint))
    return not (origin is Literal or hint in HARMLESS)
