"""A photograph of 4256 x 3694 pixels from end to end: `OMP_NUM_THREADS=1 python -m benchmarks.photograph FOLDER`.

Draws it, trains `cnn2d` for a minute on drawn photographs of half its height and width, and predicts both passes, mask,
polygon and overlay by `belvedere predict`, for windows of 17 and 33 pixels at three levels of the pyramid: seconds of
the processor, start-up counted, and the most memory that the process had (Linux). Beside them stands what one window a
pixel would take, reckoned from the rate at which this machine classifies single windows.
"""

import argparse
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from belvedere.commandline.cli import run
from benchmarks.dense import SMALL_SIDE, make_picture, one_by_one, peak, timed
from datamodules.samples.avalanches import draw_avalanches, mountain
from tasks.networks.window_classifier import window_classifier

ROOT = Path(__file__).parents[1]
SIZE = 3694, 4256
HALF = 1847, 2128
SMALL = 160, 240
LEVELS = (0, 1, 2)
WINDOWS = (17, 33)
MEBIBYTE = 2**20


def belvedere(*arguments: str) -> tuple[float, int]:
    """Runs a command in a process of its own, on one core.

    Returns:
        Seconds of the processor, and bytes of memory at the peak.

    Raises:
        SystemExit: It failed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"}
    command = [sys.executable, "-m", "benchmarks.photograph", "--measured", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"belvedere {' '.join(arguments)}\n{done.stderr}")
    seconds, memory = done.stdout.split()[-2:]
    return float(seconds), int(memory)


def measured(arguments: list[str]) -> int:
    """Runs a command in this process, and prints seconds of the processor and the peak of memory."""
    code = run(arguments)
    times = os.times()
    print(times.user + times.system, peak())
    return code


def trained(folder: Path, window: int) -> Path:
    """Returns the checkpoint of a network, trained on the drawn sample unless that has been done."""
    checkpoint = folder / f"window-{window}" / "checkpoints" / "best.ckpt"
    if not checkpoint.exists():
        sample = draw_avalanches(folder / "sample", pictures=5, size=HALF)
        clock = "{class_path: benchmarks.processor_time.ProcessorTime, init_args: {minutes: 1}}"
        belvedere("fit", "--config", "avalanches/cnn2d", "--data.root", str(sample), "--data.window", str(window),
                  "--trainer.callbacks+", clock, "--trainer.max_epochs", "1000", "--output",
                  str(checkpoint.parents[1]))  # fmt: skip
    return checkpoint


def drawn(path: Path, size: tuple[int, int]) -> Path:
    """Writes a drawn photograph as JPEG, in a file."""
    if not path.exists():
        picture, _ = mountain(np.random.default_rng(1), size, sunny=True)
        Image.fromarray(picture).save(path, quality=92)
    return path


def seconds_of_window(window: int) -> float:
    """Seconds of the processor to classify a window, among others, in the better of two sizes of batches."""
    torch.set_num_threads(1)
    network = window_classifier("cnn2d", window).eval()
    picture = make_picture(SMALL_SIDE)
    routes = [partial(one_by_one, network, picture, window, batch) for batch in (128, 512)]
    return min(timed(route)[0] for route in routes) / SMALL_SIDE**2


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder of the runs")
    output: Path = parser.parse_args().output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    pictures = {"240 x 160": drawn(output / "small.jpg", SMALL), "4256 x 3694": drawn(output / "large.jpg", SIZE)}
    print("| window | photograph | level | seconds | MiB at the peak | a window a pixel, twice, minutes | ratio |")
    print("|---|---|---|---|---|---|---|")
    for window in WINDOWS:
        checkpoint = trained(output, window)
        for size, picture in pictures.items():
            for level in LEVELS if picture.stem == "large" else LEVELS[:1]:
                each = seconds_of_window(window)
                seconds, memory = belvedere("predict", "--ckpt_path", str(checkpoint), "--data.pictures",
                                               str(picture), "--data.pyramid_levels", str(level), "--output",
                                               str(output / f"{picture.stem}-{window}-{level}"))  # fmt: skip
                pixels = SIZE if picture.stem == "large" else SMALL
                singly = 2 * each * -(-pixels[0] // 2**level) * -(-pixels[1] // 2**level)
                print(
                    f"| {window} | {size} | {level} | {seconds:.0f} | {memory / MEBIBYTE:.0f} | {singly / 60:.1f} | "
                    f"{singly / seconds:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measured"]:
        sys.exit(measured(sys.argv[2:]))
    main()
