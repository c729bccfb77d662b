"""Writes files of tensors."""

from pathlib import Path
from typing import Any

import torch

from ops.atomic import replacing


def write_tensors(path: Path, content: Any, *, sync: bool = False) -> None:
    """Writes what `torch.load` reads, atomically.

    Args:
        path: The file.
        content: Tensors, in dictionaries and lists.
        sync: See `ops.atomic.replacing`.

    Raises:
        OSError: It cannot be written.
    """
    with replacing(path, sync=sync) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)  # to an open file: given a path, a full disk is an error without a reason
        except RuntimeError as error:
            reason = error.__context__  # what happened before torch's writer failed to end the file
            if isinstance(reason, OSError):
                raise OSError(reason.errno, reason.strerror, str(path)) from error
            raise
