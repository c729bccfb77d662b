"""Does labeling what `belvedere suggest` proposes beat labeling at random?

`python -m benchmarks.replay roads avalanches --weights FILE`.

Replays the labeling of real images whose masks are known: a network is trained on 8 random images; then, round after
round, 4 more are "labeled", at random or by one of the ways of `ops.statistics.selection.chosen` that the command
offers, and the network is trained anew. A fold of `benchmarks/folds.json` is never labeled and tests it: seed 0 and 5
test on fold 0, seed 1 and 6 on fold 1. All ways start from the same 8 images, the same weights and the same random
numbers.

Networks are those of the shipped configs at a small size, on MobileNetV2 with ImageNet weights, with their loss (BCE
and dice), AdamW, warm-up and cosine:

- `features`, of `<task>/features`: a small head on the frozen encoder, whose maps of each view (all flips and quarter
  turns of roads, mirror images of avalanches) are computed once. A training takes a second or two.
- `unet`, of `<task>/best`, with the views of that config. A training takes ten seconds.

As the command does with `--model.tta flip`, uncertainty is the entropy of the mean over both mirror images, and images
are compared by what the encoder sees.

Writes `benchmarks/results/suggest_<network>_<dataset>.json`, and resumes there. `--table` prints, for all datasets that
are there, the dice of all test pixels in each round, the mean over the rounds after the first (the area under the
learning curve), and its difference from random labeling, paired by dataset and seed, with a 95 % bootstrap interval.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.plain_unet import DATASETS, folds_of, truths_of, turned
from ops.jitter import Augment, RandomViews
from ops.statistics.selection import By, Covered, chosen, entropy
from tasks.avalanches import AvalanchesTask
from tasks.networks.backbones import encoder_of
from tasks.networks.features_head import chosen as chosen_maps
from tasks.roads import RoadsTask
from tasks.schedules import WarmupCosine
from tasks.segmentation import SegmentationTask

Kind = Literal["features", "unet"]
RESULTS = Path(__file__).parent / "results"
SIZES = {"roads": (128, 128), "avalanches": (128, 96)}
VIEWS: dict[str, Augment] = {"roads": "d4", "avalanches": "photo"}
TURNS = {"roads": (0, 4, 1, 2, 3, 5, 6, 7), "avalanches": (0, 4)}  # as in `turned`; the second is the mirror image
START, ADDED, ROUNDS = 8, 4, 5  # images labeled at first, in each round, and trainings
FEWEST = 3  # pairs that have an interval
STEPS, BATCH = {"features": 100, "unet": 60}, {"features": 8, "unet": 4}


class Maps(nn.Module):
    """Stands for a frozen encoder: returns the maps of the images and views that `now` names.

    Args:
        maps: Of each of four stages (V, N, C, h, w).
    """

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps, self.now = maps, ([0], [0])

    def forward(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Ignores the images."""
        views, rows = self.now
        return [each[views, rows] for each in self.maps], []


class Images:
    """The images (N, 3, h, w) in [0, 1] and masks (N, 1, h, w) of a dataset at the size of the network, by name."""

    def __init__(self, dataset: str, kind: Kind, weights: Path) -> None:
        self.dataset, self.kind, self.weights = dataset, kind, weights
        data, (height, width) = Path(os.environ["BELVEDERE_DATA"]), SIZES[dataset]
        truths = truths_of(dataset, data)
        pixels = [cv2.cvtColor(cv2.imread(str(data / DATASETS[dataset][0] / name)), cv2.COLOR_BGR2RGB)
                  for name in truths]  # fmt: skip
        small = [cv2.resize(each, (width, height), interpolation=cv2.INTER_AREA) for each in pixels]
        masks = [cv2.resize(each.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) > 0.5
                 for each in truths.values()]  # fmt: skip
        self.names = list(truths)
        self.image = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255
        self.mask = torch.from_numpy(np.stack(masks))[:, None].float()
        self.masks = torch.stack([turned(self.mask, turn) for turn in TURNS[dataset]])
        self.maps = Maps(self._maps()) if kind == "features" else None
        self.head: SegmentationTask | None = None

    @torch.no_grad()
    def _maps(self) -> list[Tensor]:
        encoder = encoder_of(self.task().network)
        found = []
        for turn in TURNS[self.dataset]:
            parts = [chosen_maps(encoder(part)[0]) for part in turned(self.image, turn).split(16)]
            found.append([torch.cat(stage) for stage in zip(*parts, strict=True)])
        return [torch.stack(stage) for stage in zip(*found, strict=True)]

    def task(self) -> SegmentationTask:
        """Returns a new network with ImageNet weights."""
        options: dict[str, Any] = {"network": self.kind, "encoder": "mobilenet_v2", "loss": "bce_dice", "tta": "flip",
                                   "pretrained": str(self.weights)}  # fmt: skip
        new = RoadsTask(**options) if self.dataset == "roads" else AvalanchesTask(second_input="none", **options)
        new.load_pretrained()
        return new

    def fresh(self, seed: int) -> SegmentationTask:
        """Returns the network before training."""
        if self.maps is None:
            torch.manual_seed(seed)
            return self.task()
        if self.head is None:
            self.head = self.task()
            self.head.network.get_submodule("1.network").encoder = self.maps
        torch.manual_seed(seed)
        for layer in self.head.network.modules():
            if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
                layer.reset_parameters()
        return self.head

    def trained(self, rows: list[int], seed: int) -> SegmentationTask:
        """Returns the network, trained on some images."""
        task, rng, batch = self.fresh(seed), np.random.default_rng(seed), BATCH[self.kind]
        views = RandomViews(VIEWS[self.dataset], SIZES[self.dataset])
        optimizer = torch.optim.AdamW(task.trained_parameters(), lr=1e-3, weight_decay=1e-2)
        schedule = WarmupCosine(optimizer)
        schedule.spread(STEPS[self.kind])
        order: list[int] = []
        task.train()
        for step in range(STEPS[self.kind]):
            while len(order) < batch:
                order += rng.permutation(rows).tolist()
            now, order = order[:batch], order[batch:]
            if self.maps is not None:
                turns = rng.integers(len(self.masks), size=batch).tolist()
                self.maps.now = (turns, now)
                logits, mask = task.outputs({"image": self.image[now]}), self.masks[turns, now]
            else:
                seeds = torch.arange(step * batch, (step + 1) * batch) + seed * 1_000_000
                image, mask = views(self.image[now], self.mask[now], seeds)
                with torch.autocast("cpu", torch.bfloat16):
                    logits = task.outputs({"image": image})
            loss = task.loss(logits.float(), mask, None)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        task.eval()
        return task

    @torch.no_grad()
    def looked(self, task: SegmentationTask) -> tuple[Tensor, NDArray[np.float32]]:
        """Returns the mean probability of all images over both mirror images, and what the encoder sees in them."""
        if self.maps is None:
            parts = self.image.split(8)
            seen = [each for each in map(task.vectors, parts) if each is not None]
            return torch.cat([task.probability({"image": part}) for part in parts]), torch.cat(seen).numpy()
        views = []
        for view in (0, 1):
            self.maps.now = ([view] * len(self.image), list(range(len(self.image))))
            maps = task.outputs({"image": self.image}).sigmoid()
            views.append(maps.flip(3) if view else maps)
        return torch.stack(views).mean(dim=0), self.maps.maps[-1][0].mean(dim=(2, 3)).numpy()


def dice(found: Tensor, true: Tensor) -> tuple[float, float]:
    """Returns the dice of all pixels of some images together, and its mean over the images, by probability and mask."""
    marked, true = found >= 0.5, true > 0.5
    both, total = (marked & true).sum((1, 2, 3)), marked.sum((1, 2, 3)) + true.sum((1, 2, 3))
    return float(2 * both.sum() / total.sum()), float((2 * both / total.clamp(min=1)).mean())


def suggestions(
    found: Tensor, vectors: NDArray[np.float32], labeled: list[int], pool: list[int], by: By, seed: int
) -> list[int]:
    """Returns the next images to label, by the probability and the vectors of all images."""
    rows = [*labeled, *pool]
    unsure = entropy(found[rows]).flatten(1).mean(dim=1).double().numpy()
    covered = Covered(vectors[rows])
    covered.cover(range(len(labeled)))
    candidates = np.arange(len(rows)) >= len(labeled)
    picks = chosen(by, unsure, covered, candidates, seed=seed)
    return [rows[row] for (row, *_), _ in zip(picks, range(ADDED), strict=False)]


def replayed(images: Images, seed: int, ways: list[By]) -> None:
    """Adds the rounds of a seed that are missing to the file of results."""
    path = RESULTS / f"suggest_{images.kind}_{images.dataset}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    number = {name: row for row, name in enumerate(images.names)}
    folds = folds_of(images.dataset, images.names)
    test = [number[name] for name in folds[seed % len(folds)]]
    rest = [row for row in range(len(images.names)) if row not in test]
    first = np.random.default_rng(seed).permutation(rest)[:START].tolist()
    begun = None
    for by in ways:
        if any(row["seed"] == seed and row["by"] == by for row in rows):
            continue
        labeled, new = list(first), []
        for turn in range(ROUNDS):
            start = time.process_time()
            if turn == 0 and begun is not None:
                found, vectors = begun
            else:
                found, vectors = images.looked(images.trained(labeled, seed))
            begun = (found, vectors) if turn == 0 else begun
            pooled, mean = dice(found[test], images.mask[test])
            new.append(
                {
                    "seed": seed,
                    "by": by,
                    "labeled": [images.names[row] for row in labeled],
                    "dice": pooled,
                    "mean_dice": mean,
                    "seconds": round(time.process_time() - start, 1),
                }
            )
            if turn + 1 < ROUNDS:
                pool = [row for row in rest if row not in labeled]
                labeled += suggestions(found, vectors, labeled, pool, by, seed + turn)
        rows += new
        path.write_text(json.dumps(rows, indent=1) + "\n")
        curve, seconds = " ".join(f"{row['dice']:.4f}" for row in new), sum(row["seconds"] for row in new)
        print(images.dataset, images.kind, seed, f"{by:16}", curve, f"{seconds:.0f} s", flush=True)


def curves(kind: Kind) -> Iterator[tuple[str, int, str, NDArray[np.float64]]]:
    """Returns the dataset, seed, way and the dice of each round, of all results."""
    for dataset in SIZES:
        path = RESULTS / f"suggest_{kind}_{dataset}.json"
        rows = json.loads(path.read_text()) if path.is_file() else []
        for seed, by in dict.fromkeys((row["seed"], row["by"]) for row in rows):
            yield dataset, seed, by, np.array([row["dice"] for row in rows if (row["seed"], row["by"]) == (seed, by)])


def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of the mean of areas' differences (N,)."""
    rng = np.random.default_rng(0)
    means = differences[rng.integers(len(differences), size=(10_000, len(differences)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def table(kind: Kind) -> None:
    """Prints the results in Markdown."""
    found = list(curves(kind))
    sizes = [START + ADDED * turn for turn in range(ROUNDS)]
    print(f"| {kind} | chosen by | {' | '.join(map(str, sizes))} | area | more than random | seeds |")
    print(f"|---|---|{'---|' * (len(sizes) + 3)}")
    for dataset in ("both", *SIZES):
        mine = [each for each in found if dataset in ("both", each[0])]
        random = {each[:2]: each[3] for each in mine if each[2] == "random"}
        for by in get_args(By):
            paired = [(curve, random[name, seed]) for name, seed, way, curve in mine
                      if way == by and (name, seed) in random]  # fmt: skip
            if not paired:
                continue
            own, other = (np.array([pair[side] for pair in paired]) for side in (0, 1))
            gain = own[:, 1:].mean(axis=1) - other[:, 1:].mean(axis=1)  # the first round is the same
            low, high = interval(gain)
            cells = [dataset, by, *(f"{each:.3f}" for each in own.mean(axis=0)), f"{own[:, 1:].mean():.4f}"]
            ends = f" [{low:+.4f}, {high:+.4f}]" if len(paired) >= FEWEST else ""
            cells += ["" if by == "random" else f"{gain.mean():+.4f}{ends}", str(len(paired))]
            print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Replays, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", metavar="{roads,avalanches}")
    parser.add_argument("--weights", type=Path, help="MobileNetV2 with ImageNet weights")
    parser.add_argument("--network", choices=get_args(Kind), default="features")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--ways", nargs="+", default=list(get_args(By)), choices=get_args(By))
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if {*asked.datasets} - {*SIZES}:
        parser.error(f"expected datasets among {', '.join(SIZES)}, got {', '.join(asked.datasets)}")
    torch.set_num_threads(1)
    datasets = [Images(dataset, asked.network, asked.weights) for dataset in asked.datasets]
    for seed in asked.seeds:
        for images in datasets:
            replayed(images, seed, asked.ways)
    if asked.table:
        table(asked.network)


if __name__ == "__main__":
    main()
