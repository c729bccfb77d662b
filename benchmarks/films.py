"""How steady the colors of films are: `python -m benchmarks.films CHECKPOINT`, with $BELVEDERE_DATA set.

Films are made of the first photographs, by name, of $BELVEDERE_DATA/colorization_photos: a pan with a slight zoom, so
that the true motion of every pixel is known, in gray and with noise. Each frame is colored by the checkpoint of
`colorization/best`, alone and with the frames before it (`ops.color.film`). Prints in Markdown, as means over all
frames: the warping error, the distance in a and b between a frame and the one before it, moved as the photograph moved;
flicker, the same of second differences over three frames; and CIEDE2000 from the photograph. Then the same with ten
hints, of the photograph's own colors, on the frame in the middle alone: followed through the film, and left where they
are.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import belvedere
from callbacks.writers.colorings import given_colors
from callbacks.writers.video import added
from datamodules.read.names import picture_files
from datamodules.read.pictures import read_picture
from drawing.pictures import Picture
from ops.color.coloring import colored, pixels
from ops.color.film import Coherence, followed
from ops.color.lab import SCALE, luminance_and_chroma
from ops.color.quality import picture_scores
from ops.pictures import box, cropped, letterboxed, valid_pixels
from tasks.colorization import LinearColorizationTask

COUNT, LENGTH, SIZE = 3, 25, (360, 640)
NOISE = 3.0  # levels, alike in all channels
SHARES = (1.0, 0.5, 0.2, 0.1)
HINTS = 10
Chroma = NDArray[np.float32]


def pan(photo: Picture) -> Iterator[tuple[Picture, NDArray[np.float64]]]:
    """Yields frames of a pan over a photograph, and the matrix from their pixels to its own."""
    height, width = SIZE
    zoom = min(0.7 * photo.shape[1] / width, 0.85 * photo.shape[0] / height)
    for number in range(LENGTH):
        part = number / (LENGTH - 1)
        scale = zoom * (1 + 0.06 * part)
        middle = width * scale / 2 + (photo.shape[1] - 1.06 * width * zoom) * part, photo.shape[0] / 2
        matrix = np.array([[scale, 0, middle[0] - scale * width / 2], [0, scale, middle[1] - scale * height / 2]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        frame = cv2.warpAffine(photo, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
        yield np.asarray(frame, np.uint8), matrix


def gray_of(frame: Picture, rng: np.random.Generator) -> Picture:
    """Returns a frame in gray, with noise."""
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) + rng.normal(0, NOISE, frame.shape[:2])
    return np.repeat(gray.round().clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def carried(maps: Chroma, of: NDArray[np.float64], to: NDArray[np.float64]) -> Chroma:
    """Returns maps of one frame where the photograph puts them in another; NaN where it had not seen them."""
    whole = [np.vstack([matrix, [0, 0, 1]]) for matrix in (of, to)]
    between = (np.linalg.inv(whole[0]) @ whole[1])[:2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(maps, between, SIZE[::-1], flags=flags, borderValue=(np.nan, np.nan)), np.float32)


def unsteady(frames: list[Picture], matrices: list[NDArray[np.float64]]) -> tuple[float, float]:
    """Returns the warping error and the flicker of a film."""
    every = [luminance_and_chroma(pixels(frame, torch.device("cpu")))[1][0].movedim(0, 2).numpy() * SCALE
             for frame in frames]  # fmt: skip
    pairs = list(zip(every, matrices, strict=True))
    first = [now - carried(before, then, here) for (before, then), (now, here) in pairwise(pairs)]
    second = [later - carried(earlier, then, here)
              for (earlier, then), (later, here) in pairwise(zip(first, matrices[1:], strict=True))]  # fmt: skip
    means = [np.mean([np.nanmean(np.linalg.norm(each, axis=2)) for each in several]) for several in (first, second)]
    return float(means[0]), float(means[1])


@torch.no_grad()
def answer(task: LinearColorizationTask, frame: Picture) -> tuple[Tensor, Tensor]:
    """Returns the chroma and the luminance of a frame at the size of the network."""
    place = torch.tensor(box(SIZE, 224))
    image = torch.from_numpy(letterboxed(frame, 224)).movedim(2, 0)[None].float() / 255
    found = task.predict({"image": image, "valid": valid_pixels(place[None], 224)})["chroma"]
    return cropped(found[0], place), luminance_and_chroma(cropped(image, place))[0][0]


def reduced(luminance: Tensor) -> NDArray[np.uint8]:
    """Returns scaled luminance (1, h, w) as levels."""
    return np.asarray((255 * (luminance[0] + 1) / 2).round().clamp(0, 255).byte().numpy())


def film(grays: list[Picture], answers: list[tuple[Tensor, Tensor]], share: float) -> list[Picture]:
    """Returns the frames in color."""
    steady = Coherence(share)
    found = []
    for gray, (chroma, luminance) in zip(grays, answers, strict=True):
        averaged = steady(reduced(luminance), (SCALE * chroma).movedim(0, 2).numpy())
        found.append(colored(gray, torch.from_numpy(averaged).movedim(2, 0) / SCALE, luminance))
    return found


def hinted(frames: list[Picture], answers: list[tuple[Tensor, Tensor]], follow: bool) -> list[tuple[Tensor, Tensor]]:
    """Returns the answers with hints on the frame in the middle, which are followed or stay where they are."""
    rng, middle = np.random.default_rng(0), len(frames) // 2
    places = np.column_stack([rng.integers(2, side - 2, HINTS) for side in SIZE])
    blurred = cv2.blur(frames[middle], (3, 3))
    hints = np.column_stack([places, blurred[places[:, 0], places[:, 1]]]).astype(np.int64)
    scale = max(answers[0][1].shape) / max(SIZE)
    small = ((places[:, ::-1] + 0.5) * scale - 0.5).astype(np.float32)
    points = followed((reduced(luminance) for _, luminance in answers), {middle: small})
    found = []
    for (chroma, luminance), (where, rows) in zip(answers, points, strict=True):
        own = hints[rows[:, 1]] if follow else hints.copy()
        if follow:
            own[:, :2] = ((where[:, ::-1] + 0.5) / scale - 0.5).round()
        more = added(given_colors(own), chroma, luminance, SIZE) if len(own) else torch.zeros(2, 1, 1)
        found.append((chroma + more, luminance))
    return found


def difference(found: list[Picture], frames: list[Picture]) -> float:
    """Returns the mean CIEDE2000 from the photograph."""
    pairs = [[pixels(each, torch.device("cpu")) for each in pair] for pair in zip(found, frames, strict=True)]
    return float(np.mean([float(picture_scores(*pair, names=["delta_e2000"])["delta_e2000"]) for pair in pairs]))


def timed(call: Callable[[], object], count: int) -> float:
    """Returns the seconds of this process's time that each of `count` parts of a call takes."""
    start = time.process_time()
    call()
    return (time.process_time() - start) / count


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    task = belvedere.load(parser.parse_args().checkpoint)
    assert isinstance(task, LinearColorizationTask)
    files = picture_files(Path(os.environ["BELVEDERE_DATA"]) / "colorization_photos")[:COUNT]
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for file in files:
        rng = np.random.default_rng(0)
        frames, matrices = (list(each) for each in zip(*pan(read_picture(file)), strict=True))
        grays = [gray_of(frame, rng) for frame in frames]
        answers = [answer(task, gray) for gray in grays]
        kinds = {f"own share {share}": film(grays, answers, share) for share in SHARES}
        kinds |= {f"{HINTS} hints on one frame, {name}": film(grays, hinted(frames, answers, follow), SHARES[2])
                  for name, follow in (("not followed", False), ("followed", True))}  # fmt: skip
        for name, found in kinds.items():
            rows.setdefault(name, []).append((*unsteady(found, matrices), difference(found, frames)))
        print(file.name, {name: [round(value, 2) for value in each[-1]] for name, each in rows.items()}, flush=True)
    print("\n| | warping error | flicker | CIEDE2000 |\n|---|---|---|---|")
    for name, values in rows.items():
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in np.mean(values, axis=0)) + " |")
    chroma, luminance = answers[0]
    levels, maps = reduced(luminance), (SCALE * chroma).movedim(0, 2).numpy()
    steady = Coherence()
    print(f"\nseconds of one core a frame: network {timed(lambda: answer(task, grays[0]), 1):.2f}, coherence "
          f"{timed(lambda: [steady(levels, maps) for _ in range(10)], 10):.3f}, coloring at full size "
          f"{timed(lambda: colored(grays[0], chroma, luminance), 1):.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
