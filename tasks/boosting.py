"""Gradient-boosted trees that classify pixels by the outputs of a network.

Alharbi et al. fit them on the predictions of a window classifier ("Predicting avalanche field in images using
convolutional neural networks and edge detection", 2020). The trees are XGBoost's (T. Chen, C. Guestrin, "XGBoost: A
Scalable Tree Boosting System", KDD 2016).
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ops.atomic import replacing
from ops.errors import TreesError

if TYPE_CHECKING:
    from xgboost import Booster

On = Literal["none", "predictions", "features"]
OBJECTIVE = "binary:logistic"
SUFFIXES = (".ubj", ".json")
LEAST = 2.0**-24  # 1 minus the largest float32 below 1 is about this


def fit_boosted(
    features: NDArray[np.float32], labels: NDArray[Any], seed: int, rounds: int = 100, **parameters: Any
) -> "Booster":
    """Fits trees that predict the probability of label 1, by gradient boosting of the binary cross-entropy.

    Trees are grown on histograms. The same arguments give the same trees, bit for bit.

    Args:
        features: Features of N samples, (N, F): a network's prediction alone, or the values before its last layer.
        labels: 0 or 1, (N,).
        seed: Random seed, used if `subsample` or `colsample_bytree` is below 1.
        rounds: Number of trees.
        **parameters: XGBoost's own, such as `max_depth` and `learning_rate`.

    Raises:
        ValueError: The features are not finite numbers (N, F), the labels are not (N,) of which some are 0 and some 1,
            or XGBoost rejects a parameter or does not know it, or it must not be changed.
    """
    import xgboost

    if features.ndim != 2 or labels.shape != features.shape[:1] or not np.isfinite(features).all():
        raise ValueError(
            f"features of shape {features.shape}, {np.count_nonzero(~np.isfinite(features))} of its values not "
            f"finite, and labels of shape {labels.shape}; expected finite numbers (N, F) and one label per row, (N,)"
        )
    if not np.array_equal(np.unique(labels), [0, 1]):
        raise ValueError(
            f"labels with the values {np.unique(labels)[:5].tolist()}; expected both 0 and 1: sample windows of "
            "either class"
        )
    if parameters.get("objective", OBJECTIVE) != OBJECTIVE or rounds < 1:
        raise ValueError(
            f"objective is {parameters.get('objective', OBJECTIVE)!r} and rounds {rounds}; expected {OBJECTIVE!r}, "
            "which makes probabilities, and 1 or more"
        )
    threads = torch.get_num_threads()
    chosen = {"tree_method": "hist", **parameters, "objective": OBJECTIVE, "seed": seed, "nthread": threads}
    data = xgboost.DMatrix(features, label=labels, nthread=threads)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        booster = xgboost.train(chosen, data, rounds)
    for warning in caught:
        if "are not used" in str(warning.message):  # XGBoost's only sign that it does not know a parameter
            raise ValueError(
                f"parameters {', '.join(parameters)}: XGBoost does not know, or does not use, "
                f"{str(warning.message).partition('{')[2].partition('}')[0].strip()}; correct or remove these"
            )
        warnings.warn(warning.message, stacklevel=2)
    return booster


def save(booster: "Booster", path: Path) -> None:
    """Writes trees in XGBoost's own format, atomically.

    Args:
        booster: The trees of `fit_boosted`.
        path: Ends in `.ubj`, which is binary and small, or `.json`.

    Raises:
        ValueError: The path has another ending.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} ends in {path.suffix!r}; expected {' or '.join(SUFFIXES)}")
    with replacing(path) as temporary:
        booster.save_model(temporary)


def load(path: Path) -> "Booster":
    """Reads trees that `save` wrote; they predict the same probabilities, bit for bit.

    Raises:
        TreesError: The file is missing or incomplete, or holds another kind of model.
    """
    import xgboost

    if not path.is_file():
        raise TreesError(f"There is no file {path}; expected boosted trees: fit them, or correct the path")
    try:
        booster = xgboost.Booster({"nthread": torch.get_num_threads()}, model_file=path)
        objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    except ValueError as error:  # XGBoost's own error and that of undecodable text are ValueErrors
        raise TreesError(
            f"{path} cannot be read; expected a complete .ubj or .json file of XGBoost: fit the trees again, or "
            "correct the path"
        ) from error
    if objective != OBJECTIVE:
        raise TreesError(
            f"{path} holds a model for {objective}; expected {OBJECTIVE}, which predicts probabilities: fit the "
            "trees with fit_boosted"
        )
    return booster


def probabilities(booster: "Booster", maps: Tensor, block: int = 1 << 24) -> Tensor:
    """Returns the probabilities of all pixels of an image.

    Args:
        booster: The trees of `fit_boosted` or `load`.
        maps: Features of each pixel, (F, H, W), on any device.
        block: Values of the maps to copy and classify at a time, at least a row of pixels. The result does not
            depend on it.

    Returns:
        Probabilities in [0, 1], float32 (H, W), on the device of the maps.

    Raises:
        ValueError: The trees were fitted on another number of features.
    """
    if maps.ndim != 3 or len(maps) != booster.num_features():
        raise ValueError(
            f"maps of shape {tuple(maps.shape)}; expected ({booster.num_features()}, H, W), a map for each feature "
            "that the trees were fitted on: fit them on this network's features"
        )
    features, height, width = maps.shape
    rows = max(1, block // (features * width))
    result = torch.empty((height, width), device=maps.device)
    for top in range(0, height, rows):
        samples = maps[:, top : top + rows].detach().float().flatten(1).T.contiguous()
        found = booster.inplace_predict(samples.cpu().numpy())
        result[top : top + rows] = torch.from_numpy(found).view(-1, width)
    return result


def window_features(network: nn.Sequential, on: On, windows: Tensor) -> Tensor:
    """Returns the trees' input for windows: the network's probabilities, or the values before its last layer.

    Args:
        network: Maps windows to logits (B, 1), the last layer a linear one.
        on: `predictions` or `features`.
        windows: (B, 3, w, w) in [0, 1].

    Returns:
        (B, F); F is 1 for predictions.
    """
    return network[:-1](windows) if on == "features" else network(windows).sigmoid()  # type: ignore[no-any-return]  # torch's own


def with_trees(network: nn.Sequential, trees: "Booster", on: On) -> tuple[nn.Sequential, Callable[[Tensor], Tensor]]:
    """Splits a window classifier with trees into the two parts that `classify_picture` takes.

    Args:
        network: Maps windows to logits (B, 1), the last layer a linear one.
        trees: Fitted on its `window_features`.
        on: What the trees were fitted on.

    Returns:
        The part of the network that is applied to windows, and a function from its maps (C, h, w) to the logits
        (2, h, w) of network and trees.
    """
    last: nn.Linear = network[-1]  # type: ignore[assignment]  # a module, as far as nn.Sequential knows

    def head(maps: Tensor) -> Tensor:
        logits, features = maps, maps.sigmoid()
        if on == "features":
            logits, features = F.conv2d(maps, last.weight[..., None, None], last.bias), maps
        boosted = probabilities(trees, features)[None].to(maps.dtype)
        return torch.cat([logits, torch.logit(boosted, eps=LEAST)])

    return (network[:-1].train(network.training) if on == "features" else network), head
