"""How predictions come to their place: written beside it first, and moved when all of it is whole."""

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from lightning.pytorch import Trainer


def new_part(trainer: Trainer, folders: Iterable[str]) -> Path:
    """The folder `part` in the run's folder, which all processes write into, with these empty folders in it."""
    part = Path(trainer.strategy.broadcast(trainer.default_root_dir)) / "part"
    if trainer.is_global_zero:
        shutil.rmtree(part, ignore_errors=True)
        for name in folders:
            (part / name).mkdir(parents=True)
    trainer.strategy.barrier()
    return part


def remove_part(trainer: Trainer, part: Path) -> None:
    """Leaves nothing that is half written, where `predict` failed; `part` is `Path()` until `new_part` has made it."""
    if trainer.predicting and trainer.is_global_zero and part.name:
        shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):  # of the run's folder stays what else there is
            part.parent.rmdir()


def place(part: Path) -> str:
    """Moves what is in the folder `part` one up, in the place of an earlier prediction's.

    Returns:
        Where it lies now, a line each, to be appended to a message.
    """
    written = sorted(part.iterdir())
    for path in written:
        earlier = part.parent / path.name
        if earlier.is_dir():
            shutil.rmtree(earlier)
        path.replace(earlier)
    part.rmdir()
    return "".join(f"\n  {part.parent / path.name}" for path in reversed(written))
