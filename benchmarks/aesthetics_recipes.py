"""How well `aesthetics/best` judges photographs, and what its parts add: `python -m benchmarks.aesthetics_recipes`.

The 717 crops of $BELVEDERE_DATA/aesthetics (80 x 80, votes 1 to 5), in the five folds of `benchmarks/folds.json`: each
photograph is judged by a model that was fitted on the other folds. Photographs that probably have one maker are in one
fold: the makers' own ones, and those with neighboring numbers at one site.

The peers are logistic regressions on what the last convolution of a network sees, the mean of each channel, from the
same weights files; three and ten times weaker or stronger regularization is worse or equal. What the networks see is
kept in a folder, so that a second run takes a minute.
"""

import argparse
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata  # type: ignore[import-untyped]  # scipy has no types
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datamodules.read.pictures import channels_first
from datamodules.votes.pictures import read_square
from ops.statistics.ridge import fit_ridge, fit_softmax
from tasks.networks.aesthetics import judge, load_judge
from tasks.networks.backbones import Stages, load_stages

FOLDS = Path(__file__).with_name("folds.json")
SITE = 1000  # numbers of photographs at one site that are this close probably have one maker
RESAMPLES = 2000
Array = NDArray[Any]


def folds_of(table: pd.DataFrame, count: int = 5) -> list[list[str]]:
    """Returns each fold's test images, from `benchmarks/folds.json`; draws and writes them where they are missing."""
    known: dict[str, list[list[str]]] = json.loads(FOLDS.read_text()) if FOLDS.is_file() else {}
    if "aesthetics" not in known:
        makers = makers_of(table)
        names, sizes = np.unique(makers, return_counts=True)
        order = np.random.default_rng(0).permutation(len(names))
        folds: list[list[str]] = [[] for _ in range(count)]
        for place in order[np.argsort(-sizes[order], kind="stable")]:
            min(folds, key=len).extend(table.image[makers == names[place]])
        known["aesthetics"] = [sorted(fold) for fold in folds]
        FOLDS.write_text(json.dumps(known, indent=1) + "\n")
    return known["aesthetics"]


def makers_of(table: pd.DataFrame) -> NDArray[np.int64]:
    """Returns a number for each photograph, the same for those that probably have one maker."""
    makers = np.arange(len(table))
    for site, part in table.groupby("db"):
        if site == "own":
            makers[part.index] = part.index[0]
            continue
        numbers = {int(row): re.findall(r"\d+", Path(table.original[row]).stem) for row in part.index}
        numbered = sorted((int(each[2] if site == "aadb" else max(each, key=len)), row)
                          for row, each in numbers.items() if each)  # fmt: skip
        for (number, row), (following, other) in pairwise(numbered):
            if following - number <= SITE:
                makers[other] = makers[row]
    return makers


def seen(network: Callable[[torch.Tensor], torch.Tensor], paths: Sequence[Path], side: int, views: int) -> Array:
    """Returns vectors (views, N, D) of the images, the second view of their mirror images."""
    found: list[list[torch.Tensor]] = [[] for _ in range(views)]
    with torch.inference_mode():
        for start in range(0, len(paths), 32):
            squares = torch.stack([channels_first(read_square(path, side)) for path in paths[start : start + 32]])
            for view, vectors in enumerate(found):
                vectors.append(network((squares if view == 0 else squares.flip(3)).float() / 255))
    return np.stack([torch.cat(vectors).numpy() for vectors in found])


def statistics(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns the means of the channels of all maps, then standard deviations."""
    both = [torch.std_mean(each, dim=(2, 3), correction=0) for each in maps]
    return torch.cat([mean for _, mean in both] + [deviation for deviation, _ in both], dim=1)


def stages(name: str, weights: Path) -> tuple[Callable[[torch.Tensor], torch.Tensor], int]:
    """Returns a network of `aesthetics/best` with the statistics of all stages, and the length of the last stage."""
    network = Stages(name).eval()
    load_stages(network, name, weights, "backbones")
    last = network(torch.zeros(1, 3, 64, 64))[0][-1].shape[1]
    return lambda image: statistics(network(image)[0]), last


def convolutions(name: str, weights: Path) -> tuple[Callable[[torch.Tensor], torch.Tensor], int]:
    """Returns a network of the paper that returns the mean of its last maps, and how many there are."""
    network = judge(name, dense_width=1).eval()
    load_judge(network, name, weights)
    return lambda image: network.forward_features(image)["pooled"], network.channels


def kept(folder: Path, name: str, weights: Path, paths: Sequence[Path], side: int) -> tuple[Array, int]:
    """Returns what a network sees, computed and kept in the folder, and the length of the last stage's means."""
    path = folder / f"{name}_{side}.npz"
    if not path.is_file():
        of_paper = name in ("alexnet_torchvision", "vgg16")
        network, last = (convolutions if of_paper else stages)(name, weights)
        start = time.process_time()
        found = seen(network, paths, side, 1 if of_paper else 2)
        np.savez(path, found=found, last=last, seconds=time.process_time() - start)
    content = np.load(path)
    print(f"{name} at {side}: {content['found'].shape[2]} values, {float(content['seconds']):.0f} CPU seconds")
    return content["found"], int(content["last"])


def logistic(train: Array, labels: Array, test: Array) -> Array:
    """Returns probabilities by logistic regression, as strongly regularized as that of `belvedere features`."""
    model = make_pipeline(StandardScaler(), PCA(), LogisticRegression(C=1 / train.shape[1], max_iter=2000))
    return np.asarray(model.fit(train, labels).predict_proba(test)[:, 1])


def linear(train: Array, votes: Array, labels: Array, test: Array, head: str = "binary") -> Array:
    """Returns probabilities (M,) by the layer of `aesthetics/best`, or shares (M, V) of votes by its distribution."""
    shares = torch.from_numpy(votes / votes.sum(1, keepdims=True))
    scale = torch.arange(1.0, votes.shape[1] + 1)
    if head == "labels":
        targets, of = torch.from_numpy(labels)[:, None].double(), torch.ones(1)
    elif head == "binary":
        targets, of = shares @ scale.double()[:, None], torch.ones(1)
    else:
        targets, of = shares, scale
    ridge = fit_ridge(torch.from_numpy(train), targets, of)
    wanted = shares if head == "distribution" else torch.nn.functional.one_hot(torch.from_numpy(labels), 2)
    weight, bias = fit_softmax(ridge.left_out, wanted)
    scores = (torch.from_numpy(test).double() - ridge.mean) * ridge.scale @ ridge.weight + ridge.bias
    found = (scores @ weight + bias).softmax(1).numpy()
    return np.asarray(found if head == "distribution" else found[:, 1])


def judged(folds: Sequence[NDArray[np.bool_]], judge_fold: Callable[[Array, Array], Array]) -> Array:
    """Returns the answers for all images, each from the model of its fold."""
    parts = [judge_fold(np.flatnonzero(~fold), np.flatnonzero(fold)) for fold in folds]
    answers = np.empty((len(folds[0]), *parts[0].shape[1:]))
    for fold, part in zip(folds, parts, strict=True):
        answers[fold] = part
    return answers


def interval(first: Array, second: Array, labels: Array, score: Callable[[Array, Array], float]) -> str:
    """Returns the 95 % interval of a difference of scores, by resampling the images, both on the same."""
    rng, found = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        rows = rng.integers(0, len(labels), len(labels))
        found.append(score(labels[rows], first[rows]) - score(labels[rows], second[rows]))
    low, high = np.percentile(found, [2.5, 97.5])
    return f"{low:+.3f} to {high:+.3f}"


def area(labels: Array, probability: Array) -> float:
    """Returns area under the ROC curve, by ranks; scikit-learn's takes ten times as long."""
    ones = int(labels.sum())
    above = rankdata(probability)[labels > 0].sum() - ones * (ones + 1) / 2
    return float(above / (ones * (len(labels) - ones)))


def balanced(labels: Array, probability: Array) -> float:
    """Returns balanced accuracy at one half."""
    right = (probability > 0.5) == labels
    return float((right[labels > 0].mean() + right[labels == 0].mean()) / 2)


def photographs() -> tuple[NDArray[np.float64], NDArray[np.int64], list[NDArray[np.bool_]], list[Path]]:
    """Returns the votes (N, 5), classes and files of the photographs, and which of them each fold tests."""
    root = Path(os.environ["BELVEDERE_DATA"]) / "aesthetics"
    table = pd.read_csv(root / "labels.csv")
    votes = table[[f"count_{vote}" for vote in range(1, 6)]].to_numpy(float)
    labels = (votes @ np.arange(1, 6) / votes.sum(1) > 3).astype(np.int64)
    folds = [table.image.isin(fold).to_numpy() for fold in folds_of(table)]
    return votes, labels, folds, [root / "images" / name for name in table.image]


def main() -> None:
    """Prints the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="keeps what the networks see")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the weights files")
    parser.add_argument("--vgg16", action="store_true", help="VGG16 too, which takes minutes")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    votes, labels, folds, paths = photographs()
    files = {"mobilenet_v2": "mobilenet_v2", "resnet50_v1": "resnet50_fp16", "alexnet_torchvision": "alexnet_features"}
    files |= {"vgg16": "vgg16_features_fp16"} if asked.vgg16 else {}
    found = {name: kept(asked.folder, name, asked.weights / f"{file}.safetensors", paths, 224)
             for name, file in files.items()}  # fmt: skip
    small = kept(asked.folder, "mobilenet_v2", asked.weights / "mobilenet_v2.safetensors", paths, 80)

    def best(vectors: Array, head: str = "binary") -> Array:
        return judged(
            folds, lambda train, test: linear(vectors[train], votes[train], labels[train], vectors[test], head)
        )

    def peer(vectors: Array) -> Array:
        return judged(folds, lambda train, test: logistic(vectors[train], labels[train], vectors[test]))

    def last_means(name: str) -> Array:
        # of the stages, means come first, those of the last stage at their end
        vectors, last = found[name]
        end = vectors.shape[2] // (1 if vectors.shape[2] == last else 2)
        return vectors[:, :, end - last : end]

    mobile, residual = found["mobilenet_v2"][0], found["resnet50_v1"][0]
    both = np.concatenate([mobile, residual], axis=2)
    means = np.concatenate([each[:, :, : each.shape[2] // 2] for each in (mobile, residual)], axis=2)
    lasts = np.concatenate([last_means("mobilenet_v2"), last_means("resnet50_v1")], axis=2)
    distribution = best(both.mean(0), "distribution") @ np.arange(1, 6)
    answers = {
        "`aesthetics/best`": best(both.mean(0)),
        "the same, distribution of the votes": 0.5 + (distribution - 3) / 4,
        "without mirror images": best(both[0]),
        "without standard deviations": best(means.mean(0)),
        "without early stages and standard deviations": best(lasts.mean(0)),
        "fitted to the classes, not to the mean votes": best(both.mean(0), "labels"),
        "without MobileNetV2": best(residual.mean(0)),
        "without ResNet-50": best(mobile.mean(0)),
        "without ResNet-50, crops not enlarged": best(small[0].mean(0)),
        "logistic regression on MobileNetV2 and ResNet-50": peer(lasts[0]),
        **{f"logistic regression on {name}": peer(last_means(name)[0]) for name in files},
    }
    reference = answers["`aesthetics/best`"]
    print("\n| method | AUC | less than the first by | balanced accuracy | less than the first by |")
    print("|---|---|---|---|---|")
    for name, each in answers.items():
        cells = [f"{area(labels, each):.3f}", interval(reference, each, labels, area),
                 f"{balanced(labels, each):.3f}", interval(reference, each, labels, balanced)]  # fmt: skip
        print(f"| {name} | " + " | ".join(cells if each is not reference else [cells[0], "", cells[2], ""]) + " |")


if __name__ == "__main__":
    main()
