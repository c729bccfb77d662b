"""Colors of real paintings, by artist: `python -m benchmarks.colorization_recipes FOLDER WEIGHTS`.

Artist-wise cross-validation: each of the 94 paintings under $BELVEDERE_DATA/colorization is colored by
`LinearColorizationTask` fitted on paintings by other artists, in five folds; a fifth of the other artists validates.
Prints PSNR, CIEDE2000 and colorfulness at the network's 224 pixels beside the mean color of each luminance, with paired
95 % intervals over the paintings, and then what simulated hints add: 1, 3, 10 and 30 random points, whose color is the
mean of 3 x 3 pixels. What the frozen networks see is computed once, into FOLDER.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.avalanches import rows, table
from datamodules.batch import DataFacts
from datamodules.decoded.letterboxed import checked_picture
from drawing.pictures import Picture, panel, scaled
from ops.color.coloring import colored, grey
from ops.color.hints import Hints
from ops.color.lab import luminance_and_chroma, to_rgb
from ops.color.quality import picture_scores
from ops.pictures import box, cropped, letterboxed, valid_pixels
from tasks.colorization import LinearColorizationTask

SIDE, FOLDS, BATCH, HINTS = 224, 5, 20, (0, 1, 3, 10, 30)
CELL = 320  # pixels across an image of the panel
FILES = {"mobilenet_v2": "mobilenet_v2", "resnet50_v1": "resnet50_fp16", "vgg16": "vgg16_features_fp16"}
SCORES = ("psnr", "delta_e2000", "colorfulness", "colorfulness_true")
Item = dict[str, Any]
SHOWN = {
    "jan_vermeer__the_girl_with_a_pearl_earring.jpg": "Vermeer, Girl with a Pearl Earring",
    "fra_angelico__the_annunciation.jpg": "Fra Angelico, The Annunciation",
    "frederic_edwin_church__heart_of_the_andes.jpg": "Church, Heart of the Andes",
    "vincent_van_gogh__the_bedroom.jpg": "van Gogh, The Bedroom",
    "paul_gauguin__when_will_you_marry.jpg": "Gauguin, When Will You Marry?",
}
"""Paintings of the panel, all in the public domain, and their captions."""


def read_items(folder: Path) -> list[Item]:
    """Returns a batch of each painting."""
    items = []
    for work in rows(folder / "list.csv"):
        picture = checked_picture(folder / "images" / work["image"])
        place = torch.tensor(box((picture.shape[0], picture.shape[1]), SIDE))[None]
        image = torch.from_numpy(letterboxed(picture, SIDE)).permute(2, 0, 1)[None].float() / 255
        items.append({"name": [work["image"]], "artist": work["artist"], "image": image, "box": place,
                      "valid": valid_pixels(place, SIDE)})  # fmt: skip
    return items


def task_of(names: list[str], weights: Path, load: bool) -> LinearColorizationTask:
    """Returns a new task."""
    task = LinearColorizationTask({name: str(weights / f"{FILES[name]}.safetensors") for name in names})
    if load:
        task.load_pretrained()
    return task.eval()


def add_cells(items: list[Item], weights: Path, cache: Path) -> None:
    """Adds what each network sees to the items."""
    for name in FILES:
        path = cache / f"{name}.pt"
        if not path.exists():
            task, found = task_of([name], weights, load=True), []
            for item in items:
                luminance, _ = luminance_and_chroma(item["image"])
                found.append(task.network.cells(luminance, item["valid"]).half())
            torch.save(torch.cat(found), path)
        for item, cells in zip(items, torch.load(path), strict=True):
            item[name] = cells[None].float()


def folds(items: list[Item]) -> Iterator[tuple[list[Item], list[Item], list[Item]]]:
    """Yields training, validation and test paintings by other artists."""
    artists = sorted({item["artist"] for item in items})
    order = np.random.default_rng(0).permutation(len(artists))
    for fold in range(FOLDS):
        tested = {artists[place] for place in order[fold::FOLDS]}
        others = [artists[place] for place in order if artists[place] not in tested]
        validated = set(others[::FOLDS])
        kinds = (set(others) - validated, validated, tested)
        train, val, test = ([item for item in items if item["artist"] in kind] for kind in kinds)
        yield train, val, test


def fitted(names: list[str], weights: Path, train: list[Item], val: list[Item]) -> LinearColorizationTask:
    """Returns a task fitted on what has been seen already."""
    task = task_of(names, weights, load=False)
    task._seen = lambda luminance, batch: seen(batch, names)  # type: ignore[method-assign]  # features are cached
    task.prepare([joined(train[start : start + BATCH], names) for start in range(0, len(train), BATCH)])
    task.calibrate(val)
    return task


def joined(items: list[Item], names: list[str]) -> Item:
    """Returns a batch of several paintings."""
    return {key: torch.cat([item[key] for item in items]) for key in ("image", "valid", *names)}


def seen(batch: Item, names: list[str]) -> Tensor:
    """Returns what the networks see in a painting."""
    return torch.cat([batch[name] for name in names], dim=1)


def scores(image: Tensor, item: Item) -> list[float]:
    """Returns PSNR, CIEDE2000, and how far colorfulness is from the truth."""
    found = picture_scores(image, item["image"], item["valid"], SCORES)
    psnr, difference, own, true = (float(found[name]) for name in SCORES)
    return [psnr, difference, own, abs(own - true)]


def hinted(chroma: Tensor, item: Item, count: int, chosen: bool = False) -> tuple[Picture, Picture]:
    """Returns a painting in these estimates and hints of its own colors, and the original.

    Args:
        chroma: The estimates, (1, 2, S, S).
        item: The painting.
        count: Number of hints.
        chosen: Whether they are where the estimate is most wrong, one after the other, instead of random.
    """
    image, part = (cropped(each, item["box"][0]) for each in (item["image"][0], chroma[0]))
    luminance, truth = (each[0] for each in luminance_and_chroma(image[None]))
    picture = (255 * image).round().byte().permute(1, 2, 0).numpy()
    means = torch.nn.functional.avg_pool2d(truth[None], 3, 1, 1)[0]
    rng = np.random.default_rng(sum(map(ord, item["name"][0])))
    places = np.column_stack([rng.integers(1, side - 1, max(HINTS)) for side in image.shape[1:]])[:count]
    for number in range(count if chosen else 0):
        found = answer_of(picture, part, luminance, places[:number], means)
        wrong = torch.from_numpy(found).permute(2, 0, 1)[None].float() / 255 - image[None]
        smooth = torch.nn.functional.avg_pool2d(wrong.square().sum(1, keepdim=True), 15, 1, 7)[0, 0]
        places[number] = np.unravel_index(int(smooth.argmax()), smooth.shape)
    return answer_of(picture, part, luminance, places, means), picture


def answer_of(picture: Picture, part: Tensor, luminance: Tensor, places: np.ndarray, means: Tensor) -> Picture:
    """Returns a painting colored by estimates and by hints at these places."""
    hints = Hints(places, means[:, places[:, 0], places[:, 1]].T.numpy())
    return colored(picture, part, luminance, True, hints)


def compared(found: Picture, original: Picture) -> list[float]:
    """Returns the scores of a colored painting."""
    pair = (torch.from_numpy(each).permute(2, 0, 1)[None].float() / 255 for each in (found, original))
    image, truth = pair
    return scores(image, {"image": truth, "valid": None})


def referenced(task: LinearColorizationTask, item: Item, others: list[Item]) -> Tensor:
    """Returns the scaled chroma of a painting that takes colors from the nearest of other works."""
    task.receive(DataFacts(references=others))
    chroma: Tensor = task.predict(item)["chroma"]
    task.receive(DataFacts())
    return chroma


def interval(differences: np.ndarray) -> str:
    """Returns a mean and its 95 % interval over the paintings by the bootstrap."""
    rng = np.random.default_rng(0)
    means = [differences[rng.integers(0, len(differences), len(differences))].mean() for _ in range(5000)]
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{differences.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def lines(found: dict[str, list[list[float]]], base: str) -> Iterator[list[str]]:
    """Yields a row of the table per answer."""
    against = np.array(found[base])
    for name, values in found.items():
        own = np.array(values)
        means = [f"{value:.2f}" for value in own.mean(axis=0)]
        yield [name, *means, *(interval(own[:, column] - against[:, column]) for column in (0, 1, 3))]


def timed(call: Callable[[], object]) -> float:
    """Returns the seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@torch.no_grad()
def main() -> None:
    """Fits, colors and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder for what the networks see")
    parser.add_argument("weights", type=Path, help="folder of the weights files")
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    items = read_items(Path(os.environ["BELVEDERE_DATA"]) / "colorization")
    print(f"features: {timed(lambda: add_cells(items, asked.weights, asked.output)):.0f} s")
    recipes = {"mobilenet_v2": ["mobilenet_v2"], "all three": list(FILES)}
    found: dict[str, list[list[float]]] = {name: [] for name in ("mean by luminance", *recipes)}
    hints: dict[str, list[list[float]]] = {f"{count} hints": [] for count in HINTS}
    references: dict[str, list[list[float]]] = {"0 hints": [], "reference": []}
    shown: dict[str, list[Picture]] = {}
    for train, val, test in folds(items):
        for recipe, names in recipes.items():
            task = fitted(names, asked.weights, train, val)
            print(f"{recipe}: {len(train)} / {len(val)} / {len(test)}, shrunk by {float(task.shrink):.2f}", flush=True)
            for item in test:
                answer = task.predict(item)
                found[recipe].append(scores(answer["image"], item))
                if recipe == "all three":
                    luminance, _ = luminance_and_chroma(item["image"])
                    base = to_rgb(luminance, task.baseline(luminance))
                    found["mean by luminance"].append(scores(base, item))
                    for count in HINTS:
                        hints[f"{count} hints"].append(compared(*hinted(answer["chroma"], item, count)))
                    others = [each for each in test if each["artist"] == item["artist"] and each is not item]
                    if others:
                        chroma = referenced(task, item, others)
                        references["0 hints"].append(hints["0 hints"][-1])
                        references["reference"].append(compared(*hinted(chroma, item, 0)))
                    if item["name"][0] in SHOWN:
                        automatic, original = hinted(answer["chroma"], item, 0)
                        three = hinted(answer["chroma"], item, 3, chosen=True)[0]
                        taken = hinted(chroma if others else answer["chroma"], item, 0)[0]
                        shown[item["name"][0]] = [grey(original), automatic, three, taken, original]
    head = "answer | PSNR | ΔE2000 | colorfulness | its gap | PSNR against the first | ΔE2000 | gap"
    table(head, lines(found, "mean by luminance"))
    table(head, lines(hints, "0 hints"))
    print(f"\n{len(references['reference'])} paintings with another work by the artist")
    table(head, lines(references, "0 hints"))
    titles = ["gray", "automatic", "three hints", "reference", "original"]
    rows_shown = [[scaled(each, CELL, 2 * CELL) for each in shown[name]] for name in SHOWN]
    drawn = panel(rows_shown, titles, list(SHOWN.values()))
    Image.fromarray(drawn).save(asked.output / "colorization.jpg", quality=88)


if __name__ == "__main__":
    main()
