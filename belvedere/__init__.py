"""Five image tasks for small datasets. This module is the Python API; the command line is in `belvedere.__main__`.

`load` opens a checkpoint and `predict` applies it to images. Tasks and data modules are here by their class names, such
as `belvedere.CloudsTask`. Importing this module imports no library; the first use of a name does.

>>> import belvedere
>>> found = belvedere.predict("run/checkpoints/best.ckpt", ["data/images/avalanche_001.jpg"])
>>> found[0].name, found[0].masks["avalanche"].dtype
('avalanche_001.jpg', dtype('bool'))
>>> belvedere.TASKS["clouds"]
'cloud patterns in satellite images'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from belvedere.packages import claim

claim()

from belvedere.names import TASKS, class_modules  # noqa: E402  # `claim` comes before anything that imports our packages

if TYPE_CHECKING:
    from belvedere.prediction import Predictions, load, predict
    from callbacks.writers.prediction import Prediction

__version__ = "0.1.0"
__all__ = ["TASKS", "Prediction", "Predictions", "load", "predict"]
__all__ += class_modules().keys()

_MODULES = class_modules() | dict.fromkeys(("Predictions", "load", "predict"), "belvedere.prediction")
_MODULES["Prediction"] = "callbacks.writers.prediction"


def __getattr__(name: str) -> Any:
    """Imports what a name of this module stands for, at its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'belvedere' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Returns the names that this module offers, imported or not."""
    return sorted({*globals(), *_MODULES})
