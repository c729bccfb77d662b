"""Packages that only some options need: the core installs without them."""

from importlib.util import find_spec

from ops.errors import UserError

EXTRAS = {
    "wandb": ("wandb", "wandb"),
    "xgboost": ("xgboost-cpu", "boosting"),
    "sklearn": ("scikit-learn", "classifiers"),
    "av": ("av", "video"),
    "rasterio": ("rasterio", "geo"),
    "pyogrio": ("pyogrio", "geo"),
    "gradio": ("gradio", "app"),
    "shapely": ("shapely", "geo"),
    "onnxruntime": ("onnxruntime", "run"),
    "onnx": ("onnx", "export"),
    "onnxscript": ("onnxscript", "export"),
}
"""Package and extra of `pyproject.toml` that bring each module."""


class MissingPackageError(UserError):
    """Reports a package that is not installed."""


def installed(module: str) -> bool:
    """Returns whether a module can be imported, without importing it."""
    return find_spec(module) is not None


def check_installed(module: str, purpose: str) -> None:
    """Rejects what needs a module that is not installed.

    Args:
        module: One of `EXTRAS`.
        purpose: The beginning of the message, such as "Boosted trees need".

    Raises:
        MissingPackageError: It is not installed; the message has the command that installs it.
    """
    if not installed(module):
        package, extra = EXTRAS[module]
        raise MissingPackageError(
            f"{purpose} the package {package}, which is not installed: pip install {package} (it belongs to the extra "
            f"{extra!r} of belvedere)."
        )
