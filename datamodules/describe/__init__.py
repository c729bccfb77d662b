"""What `belvedere describe` checks and shows: one module per task, with `problems(data)` and `study(data)`."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from datamodules.base import ImageDataModule
from ops.errors import ArgumentError


def describer(data: ImageDataModule) -> ModuleType:
    """Returns the module that describes a data module.

    That is the one named like the file of the data module's class, or of the closest parent class that has one:
    `datamodules.describe.segmentation` for a subclass of a segmentation data module without a file of its own.

    Raises:
        ArgumentError: There is none.
    """
    for parent in type(data).__mro__:
        package, _, task = parent.__module__.rpartition(".")
        if package == "datamodules" and find_spec(f"datamodules.describe.{task}") is not None:
            return import_module(f"datamodules.describe.{task}")
    raise ArgumentError(
        f"describe does not know {type(data).__name__}; expected a data module of a task, or a subclass of one. "
        "Add a module with problems(data) and study(data) to datamodules/describe."
    )
