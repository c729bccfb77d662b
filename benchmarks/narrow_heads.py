"""Narrow dense layers of AlexNet and VGG16 beside their own pooled features: `python -m benchmarks.narrow_heads`.

The crops and folds of `benchmarks.aesthetics_recipes`. What the frozen convolutions see in each crop, enlarged to 224
pixels, and in its mirror image is computed once and kept in a folder; then the dense layers of the product, 250 units
wide, are trained on it, as the configs train them and with one thing after the other changed. The baseline is logistic
regression on the mean of each channel.
"""

import argparse
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.aesthetics_recipes import area, balanced, interval, judged, logistic, photographs, seen
from tasks.losses import emd_loss
from tasks.networks.aesthetics import Judge, judge, load_judge

FILES = {"alexnet_torchvision": "alexnet_features", "vgg16": "vgg16_features_fp16"}
Array = NDArray[Any]


@dataclass(frozen=True)
class Recipe:
    """How dense layers are trained.

    Attributes:
        optimizer: `sgd` without momentum, `momentum` (.9), or `adamw` with weight decay .01.
        rate: Learning rate; with `cosine` it falls to 0.
        epochs: Epochs of batches of `batch`.
        choose: The epoch that counts: `accuracy`, the best balanced accuracy on a tenth of the training crops; `loss`,
            the lowest loss on them; or the `last`, of all training crops.
        flips: Whether training takes mirror images too, and the answer is the mean of both views.
        pooled: Whether the dense layers see the mean of each channel only.
        standardized: Whether their input has mean 0 and standard deviation 1 over the training crops.
        distribution: Whether they learn the shares of the votes by earth mover's distance, not the two classes; a crop
            is then judged by its mean vote.
    """

    optimizer: Literal["sgd", "momentum", "adamw"] = "sgd"
    rate: float = 1e-3
    epochs: int = 10
    batch: int = 128
    cosine: bool = False
    choose: Literal["accuracy", "loss", "last"] = "accuracy"
    flips: bool = False
    pooled: bool = False
    standardized: bool = False
    distribution: bool = False


STEADY = Recipe("adamw", 3e-4, 30, 32, cosine=True, choose="last", flips=True)
RECIPES = {
    "as configured: SGD 1e-3, 10 epochs of 128": Recipe(),
    "the same, 100 epochs": Recipe(epochs=100),
    "SGD with momentum, 100 epochs": Recipe("momentum", epochs=100),
    "the same, epoch by the loss": Recipe("momentum", epochs=100, choose="loss"),
    "AdamW 3e-4, cosine, 30 epochs of 32, mirror images, last epoch": STEADY,
    "the same, best epoch by accuracy": replace(STEADY, choose="accuracy"),
    "the same as AdamW, without mirror images": replace(STEADY, flips=False),
    "the same as AdamW, standardized": replace(STEADY, standardized=True),
    "the same as AdamW, mean of each channel": replace(STEADY, pooled=True),
    "the same as AdamW, mean of each channel, without mirror images": replace(STEADY, pooled=True, flips=False),
    "the same as AdamW, mean of each channel, distribution": replace(STEADY, pooled=True, distribution=True),
    "mean of each channel, distribution, without mirror images": replace(
        STEADY, pooled=True, flips=False, distribution=True
    ),
    "mean of each channel, distribution, without mirror images, AdamW 1e-3": replace(
        STEADY, pooled=True, flips=False, distribution=True, rate=1e-3
    ),
    "the same as AdamW, distribution": replace(STEADY, distribution=True),
    "the same as AdamW, mean of each channel, standardized": replace(STEADY, pooled=True, standardized=True),
}


def flat(folder: Path, name: str, weights: Path, paths: list[Path]) -> Array:
    """Returns what the dense layers see, float16 (2, N, F), from the folder, or computed and kept there."""
    path = folder / f"{name}_flat.npy"
    if not path.is_file():
        network = judge(name, dense_width=1).eval()
        load_judge(network, name, weights)
        start = time.process_time()
        np.save(path, seen(network.flat, paths, 224, 2).astype(np.float16))
        print(f"{name}: {time.process_time() - start:.0f} CPU seconds")
    return np.asarray(np.load(path, mmap_mode="r"))


def dense_layers(network: Judge, inputs: int) -> nn.Sequential:
    """Returns the dense layers of a network, with random weights, for so many inputs."""
    layers = network.dense
    first = layers.get_submodule("fc6")
    assert isinstance(first, nn.Linear)
    layers.fc6 = nn.Linear(inputs, first.out_features)
    return layers


def answers(
    name: str, views: Tensor, votes: Array, labels: Array, recipe: Recipe, seed: int, train: Array, test: Array
) -> Array:
    """Returns probabilities (M,) of the test crops by dense layers that are trained on the training crops."""
    torch.manual_seed(seed)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    rows = torch.from_numpy(train)[order]
    held = rows[: 0 if recipe.choose == "last" else len(rows) // 10]
    rows = rows[len(held) :]
    target = torch.from_numpy(labels)
    mean, scale = torch.zeros(1), torch.ones(1)
    if recipe.standardized:
        scale, mean = torch.std_mean(views[0, rows], dim=0)
        scale = scale.clamp(min=1e-6)
    shares = torch.from_numpy(votes / votes.sum(1, keepdims=True)).float()
    places = torch.arange(votes.shape[1]) / (votes.shape[1] - 1)  # mean votes from 0 to 1: above .5 is professional
    network = dense_layers(judge(name, 250, votes.shape[1] if recipe.distribution else 2), views.shape[2])
    kinds: dict[str, Any] = {"sgd": torch.optim.SGD, "momentum": torch.optim.SGD, "adamw": torch.optim.AdamW}
    more = {"momentum": {"momentum": 0.9}, "adamw": {"weight_decay": 1e-2}}.get(recipe.optimizer, {})
    optimizer = kinds[recipe.optimizer](network.parameters(), lr=recipe.rate, **more)
    steps = recipe.epochs * -(-len(rows) // recipe.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if recipe.cosine else None

    @torch.no_grad()
    def judgements(which: Tensor) -> Tensor:
        network.eval()
        each = [network((view[which] - mean) / scale).softmax(1) for view in views[: 1 + recipe.flips]]
        network.train()
        found = torch.stack(each).mean(0)
        return found @ places if recipe.distribution else found[:, 1]

    best, found = -np.inf, torch.empty(0)
    for epoch in range(recipe.epochs):
        for part in rows[torch.randperm(len(rows))].split(recipe.batch):
            view = torch.randint(0, 1 + recipe.flips, (len(part),))
            logits = network((views[view, part] - mean) / scale)
            if recipe.distribution:
                loss = emd_loss(logits.softmax(1), shares[part])
            else:
                loss = F.cross_entropy(logits, target[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
        if recipe.choose == "last":
            score = float(epoch)
        elif recipe.choose == "accuracy":
            score = balanced(labels[held], judgements(held).numpy())
        else:
            score = -float(F.binary_cross_entropy(judgements(held), target[held].float()))
        if score > best and (recipe.choose != "last" or epoch == recipe.epochs - 1):
            best, found = score, judgements(torch.from_numpy(test))
    return found.numpy()


def by_regression(vectors: Array, labels: Array, train: Array, test: Array) -> Array:
    """Returns probabilities (M,) of the test crops by the baseline."""
    return logistic(vectors[train], labels[train], vectors[test])


def main() -> None:
    """Prints a table in Markdown for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="keeps what the convolutions see")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the weights files")
    parser.add_argument("--networks", nargs="+", default=list(FILES), choices=list(FILES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--recipes", nargs="+", type=int, help="numbers of the recipes, from 0; all by default")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    votes, labels, folds, paths = photographs()
    chosen = list(RECIPES.items())
    if asked.recipes is not None:
        chosen = [chosen[number] for number in asked.recipes]
    for name in asked.networks:
        views = torch.from_numpy(flat(asked.folder, name, asked.weights / f"{FILES[name]}.safetensors", paths)).float()
        means = views.unflatten(2, (judge(name, dense_width=1).channels, -1)).mean(3)
        baseline = judged(folds, partial(by_regression, means[0].numpy(), labels))
        print(f"\n| {name}, 250 units | AUC | more than the baseline by | balanced accuracy | more by | CPU seconds |")
        print("|---|---|---|---|---|---|")
        cells = ["logistic regression on the mean of each channel", f"{area(labels, baseline):.3f}", "",
                 f"{balanced(labels, baseline):.3f}", "", ""]  # fmt: skip
        print(f"| {' | '.join(cells)} |")
        for what, recipe in chosen:
            start, given = time.process_time(), means if recipe.pooled else views
            found = [judged(folds, partial(answers, name, given, votes, labels, recipe, seed))
                     for seed in range(asked.seeds)]  # fmt: skip
            cells = [what]
            for score in (area, balanced):
                cells.append(f"{np.mean([score(labels, each) for each in found]):.3f}")
                cells.append(interval(found[0], baseline, labels, score))
            print(f"| {' | '.join(cells)} | {time.process_time() - start:.0f} |", flush=True)


if __name__ == "__main__":
    main()
