"""Draws a synthetic sample dataset: `python -m datamodules.samples TASK FOLDER`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from datamodules.samples.aesthetics import draw_aesthetics
from datamodules.samples.avalanches import draw_avalanches
from datamodules.samples.clouds import draw_clouds
from datamodules.samples.colorization import draw_colorization
from datamodules.samples.roads import draw_roads
from ops.errors import UserError

SAMPLES: dict[str, Callable[..., Path]] = {
    "aesthetics": draw_aesthetics,
    "avalanches": draw_avalanches,
    "clouds": draw_clouds,
    "colorization": draw_colorization,
    "roads": draw_roads,
}


def main() -> None:
    """Generates the sample of a task and lists what it wrote."""
    parser = argparse.ArgumentParser(
        prog="python -m datamodules.samples",
        description="Generate a small synthetic dataset in the layout of the task's real dataset.",
    )
    parser.add_argument("task", choices=sorted(SAMPLES))
    parser.add_argument("folder", type=Path, help="missing, empty, or generated before with the same options")
    parser.add_argument("--pictures", type=int,
                        help="number of images (default: 80 aesthetics, 12 avalanches, 48 clouds, 60 colorization, "
                        "64 roads)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (default 0)")
    arguments = parser.parse_args()
    pictures = [] if arguments.pictures is None else [arguments.pictures]
    try:
        root = SAMPLES[arguments.task](arguments.folder, *pictures, seed=arguments.seed)
    except UserError as error:
        parser.error(str(error))
    for part in sorted(root.iterdir()):
        count = sum(path.is_file() for path in part.rglob("*"))
        print(f"{part}: {count} files" if part.is_dir() else part)


if __name__ == "__main__":
    main()
