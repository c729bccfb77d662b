"""Opens video files, which may come from anywhere, by FFmpeg's libraries."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ops.errors import DataError
from ops.extras import check_installed

if TYPE_CHECKING:
    import av


@contextmanager
def opened_film(path: Path) -> "Iterator[av.container.InputContainer]":
    """Opens a video file; errors while reading it become a DataError that names it.

    Raises:
        DataError: It cannot be read, or has no video.
        MissingPackageError: The package av is not installed.
    """
    check_installed("av", "Films need")
    import av

    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise DataError(f"{path} has no video, only {_kinds(container)}. Give another file.")
            container.streams.video[0].thread_type = "AUTO"
            yield container
    except av.error.FFmpegError as error:
        raise DataError(f"{path} cannot be read as a film: {error.strerror}. Convert or download it again.") from error


def _kinds(container: "av.container.InputContainer") -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
