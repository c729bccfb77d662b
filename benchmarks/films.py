"""How steady the colors of films are: `python -m benchmarks.films CHECKPOINT`, with $BELVEDERE_DATA set.

Films are made of the first photographs, by name, of $BELVEDERE_DATA/colorization_photos: a pan with a slight zoom, so
that the true motion of every pixel is known, in gray and with noise. Each frame is colored by the checkpoint of
`colorization/best`, alone and with the frames before it (`ops.color.film`). Prints in Markdown, as means over all
frames: the warping error, the distance in a and b between a frame and the one before it, moved as the photograph moved;
flicker, the same of second differences over three frames; and CIEDE2000 from the photograph. Then the same with ten
hints, of the photograph's own colors, on the frame in the middle alone: followed through the film, and left where they
are.

With `--clips`, films are video files in color instead, reduced to 640 pixels and made gray. Their motion is estimated
from the original frames by another method (Farnebäck's) than the one that keeps colors together, and errors count where
it agrees forth and back and the original's own colors hardly change. Nothing is compared across a cut, which is where
nothing of a frame is found in the next.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import belvedere
from callbacks.writers.coloring.video import added
from callbacks.writers.coloring.writer import given_colors
from datamodules.read.names import picture_files
from datamodules.read.pictures import read_picture
from datamodules.read.video import VideoFile
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
CLIP = 120  # frames of a video file
LONGER = 640  # pixels of their longer side
ALIKE = 1.0  # pixels by which flow forth and back may differ
STEADY = 10.0  # units of a and b by which the original may change where it is compared
SEEN = 0.1  # share of a frame that has to be found in the next; below, another scene begins
Chroma = NDArray[np.float32]
Places = NDArray[np.float32]
"""Where each pixel of a frame is in the one before it, x and y, (h, w, 2); NaN where it is not seen there."""


def pan(photo: Picture) -> Iterator[tuple[Picture, NDArray[np.float64]]]:
    """Yields frames of a pan over a photograph, of size `SIZE`, and the matrix from their pixels to its own."""
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


def panned(of: NDArray[np.float64], to: NDArray[np.float64]) -> Places:
    """Returns where the pixels of a frame of a pan are in the one before it, whose matrix is the first."""
    whole = [np.vstack([matrix, [0, 0, 1]]) for matrix in (of, to)]
    between = (np.linalg.inv(whole[0]) @ whole[1])[:2]
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    places = np.stack([x, y, np.ones_like(x)], axis=-1) @ between.T
    outside = (places < 0).any(axis=-1) | (places > np.array(SIZE[::-1]) - 1).any(axis=-1)
    return np.where(outside[..., None], np.nan, places).astype(np.float32)


def estimated(before: Picture, frame: Picture) -> Places | None:
    """Returns where the pixels of a frame are in the one before it; None after a cut."""
    grays = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (before, frame)]
    forth, back = (
        cv2.calcOpticalFlowFarneback(*pair, np.zeros((*grays[0].shape, 2), np.float32), 0.5, 4, 21, 3, 7, 1.5, 0)
        for pair in (grays, grays[::-1])
    )
    y, x = np.mgrid[: frame.shape[0], : frame.shape[1]]
    places = np.stack([x, y], axis=-1).astype(np.float32) + np.asarray(back, np.float32)
    missed = np.linalg.norm(carried(np.asarray(forth, np.float32), places) + back, axis=2)
    changed = np.linalg.norm(chroma_of(frame) - carried(chroma_of(before), places), axis=2)
    known = (missed < ALIKE) & (changed < STEADY)  # False where NaN
    return np.where(known[..., None], places, np.nan).astype(np.float32) if known.mean() > SEEN else None


def carried(maps: Chroma, places: Places) -> Chroma:
    """Returns maps of one frame where they are in the next; NaN where it was not seen."""
    x, y = (np.ascontiguousarray(each) for each in np.moveaxis(places, 2, 0))
    found = cv2.remap(maps, np.nan_to_num(x, nan=-9), np.nan_to_num(y, nan=-9), cv2.INTER_LINEAR,
                      borderValue=(np.nan, np.nan))  # fmt: skip
    return np.asarray(found, np.float32)


def chroma_of(frame: Picture) -> Chroma:
    """Returns a and b of a frame, (h, w, 2)."""
    return luminance_and_chroma(pixels(frame, torch.device("cpu")))[1][0].movedim(0, 2).numpy() * SCALE


def unsteady(frames: list[Picture], moves: list[Places | None]) -> tuple[float, float]:
    """Returns the warping error and the flicker of a film.

    Args:
        frames: The frames.
        moves: The motion from each to the next; None at a cut.
    """
    every = [chroma_of(frame) for frame in frames]
    first = [None if move is None else now - carried(before, move)
             for (before, now), move in zip(pairwise(every), moves, strict=True)]  # fmt: skip
    second = [later - carried(earlier, move) for (earlier, later), move in zip(pairwise(first), moves[1:], strict=True)
              if earlier is not None and later is not None and move is not None]  # fmt: skip
    several = [each for each in first if each is not None], second
    means = [np.mean([np.nanmean(np.linalg.norm(each, axis=2)) for each in kind]) for kind in several]
    return float(means[0]), float(means[1])


@torch.no_grad()
def answer(task: LinearColorizationTask, frame: Picture) -> tuple[Tensor, Tensor]:
    """Returns the chroma and the luminance of a frame at the size of the network."""
    place = torch.tensor(box(frame.shape[:2], 224))
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
    size = frames[0].shape[:2]
    places = np.column_stack([rng.integers(2, side - 2, HINTS) for side in size])
    blurred = cv2.blur(frames[middle], (3, 3))
    hints = np.column_stack([places, blurred[places[:, 0], places[:, 1]]]).astype(np.int64)
    scale = max(answers[0][1].shape) / max(size)
    small = ((places[:, ::-1] + 0.5) * scale - 0.5).astype(np.float32)
    points = followed((reduced(luminance) for _, luminance in answers), {middle: small})
    found = []
    for (chroma, luminance), (where, rows) in zip(answers, points, strict=True):
        own = hints[rows[:, 1]] if follow else hints.copy()
        if follow:
            own[:, :2] = ((where[:, ::-1] + 0.5) / scale - 0.5).round()
        more = added(given_colors(own), chroma, luminance, size) if len(own) else torch.zeros(2, 1, 1)
        found.append((chroma + more, luminance))
    return found


def difference(found: list[Picture], frames: list[Picture]) -> float:
    """Returns the mean CIEDE2000 from the photograph."""
    pairs = [[pixels(each, torch.device("cpu")) for each in pair] for pair in zip(found, frames, strict=True)]
    return float(np.mean([float(picture_scores(*pair, names=["delta_e2000"])["delta_e2000"]) for pair in pairs]))


def show(rows: dict[str, list[tuple[float, float, float]]]) -> None:
    """Prints the means over films."""
    print("| | warping error | flicker | CIEDE2000 |\n|---|---|---|---|")
    for kind, values in rows.items():
        print(f"| {kind} | " + " | ".join(f"{value:.2f}" for value in np.mean(values, axis=0)) + " |")
    print(flush=True)


def timed(call: Callable[[], object], count: int) -> float:
    """Returns the seconds of this process's time that each of `count` parts of a call takes."""
    start = time.process_time()
    call()
    return (time.process_time() - start) / count


def pans() -> Iterator[tuple[str, list[Picture], list[Picture], list[Places | None]]]:
    """Yields the name, the frames in color and in gray, and the motion of pans over photographs."""
    for file in picture_files(Path(os.environ["BELVEDERE_DATA"]) / "colorization_photos")[:COUNT]:
        rng = np.random.default_rng(0)
        frames, matrices = (list(each) for each in zip(*pan(read_picture(file)), strict=True))
        grays = [gray_of(frame, rng) for frame in frames]
        yield file.name, frames, grays, [panned(*pair) for pair in pairwise(matrices)]


def videos(files: list[Path]) -> Iterator[tuple[str, list[Picture], list[Picture], list[Places | None]]]:
    """Yields the name, the frames in color and in gray, and the motion of video files."""
    for file in files:
        frames = [frame for frame, *_ in islice(VideoFile(file).frames(LONGER), CLIP)]
        grays = [np.repeat(cv2.cvtColor(each, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2) for each in frames]
        yield file.name, frames, grays, [estimated(*pair) for pair in pairwise(frames)]


def main() -> None:
    """Prints tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--clips", type=Path, nargs="+", metavar="FILE", help="video files in color")
    options = parser.parse_args()
    task = belvedere.load(options.checkpoint)
    assert isinstance(task, LinearColorizationTask)
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for name, frames, grays, moves in videos(options.clips) if options.clips else pans():
        answers = [answer(task, gray) for gray in grays]
        kinds = {f"own share {share}": film(grays, answers, share) for share in SHARES}
        kinds |= {f"{HINTS} hints on one frame, {word}": film(grays, hinted(frames, answers, follow), SHARES[2])
                  for word, follow in (("not followed", False), ("followed", True))}  # fmt: skip
        kinds["the original"] = frames
        for kind, found in kinds.items():
            rows.setdefault(kind, []).append((*unsteady(found, moves), difference(found, frames)))
        height, width = frames[0].shape[:2]
        print(f"{name}: {len(frames)} frames of {width} x {height}, {sum(move is None for move in moves)} cuts\n")
        show({kind: values[-1:] for kind, values in rows.items()})
    print("All films\n")
    show(rows)
    chroma, luminance = answers[0]
    levels, maps = reduced(luminance), (SCALE * chroma).movedim(0, 2).numpy()
    steady = Coherence()
    print(f"\nseconds of one core a frame: network {timed(lambda: answer(task, grays[0]), 1):.2f}, coherence "
          f"{timed(lambda: [steady(levels, maps) for _ in range(10)], 10):.3f}, coloring at full size "
          f"{timed(lambda: colored(grays[0], chroma, luminance), 1):.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
