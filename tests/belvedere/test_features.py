from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from belvedere.features import Features, Vector
from ops.descriptors import color_moments, gradient_histograms
from ops.errors import ArgumentError
from tasks.base import Batch, ImageTask
from tasks.metrics.meter import Step


class Judge(nn.Module):
    """Two vectors that are easily told apart; a map would be flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward_features(self, image: Tensor) -> dict[str, Tensor]:
        pooled = image.mean(dim=(2, 3))
        return {"pooled": pooled, "fc6": (2 * self.scale * pooled).half(), "fc7": image[:, :, :2, :2]}


class Task(ImageTask):
    """A task of which only the network matters."""

    def __init__(self, keep_dense_weights: bool = False) -> None:
        super().__init__(lambda parameters: torch.optim.SGD(parameters))
        self.save_hyperparameters()
        self.network: nn.Module = Judge()

    def build_metrics(self) -> dict[str, Metric]:
        return {}

    def step(self, batch: Batch) -> Step:
        raise NotImplementedError

    def predict(self, batch: Batch) -> dict[str, Any]:
        raise NotImplementedError

    def load_pretrained(self) -> None:
        nn.init.constant_(self.network.get_parameter("scale"), 7)


@pytest.fixture
def batch() -> Batch:
    return {"image": torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))}


def test_vectors_come_in_the_order_in_which_they_are_asked_for(batch: Batch) -> None:
    asked: list[Vector] = ["gradient_histograms", "fc7", "pooled", "color_moments", "fc6", "fc7"]
    found = Features(Task(), asked).predict_step(batch)
    image = batch["image"]
    wanted = {"gradient_histograms": gradient_histograms(image), "fc7": image[:, :, :2, :2].flatten(1),
              "pooled": image.mean(dim=(2, 3)), "color_moments": color_moments(image),
              "fc6": (2 * image.mean(dim=(2, 3))).half().float()}  # fmt: skip
    assert list(found) == list(wanted)
    for name, vectors in found.items():
        assert vectors.dtype == torch.float32
        assert not vectors.requires_grad
        torch.testing.assert_close(vectors, wanted[name])


def test_descriptors_ask_no_network(batch: Batch) -> None:
    task = Task()
    task.network = nn.Identity()
    features = Features(task, ["color_moments"])
    features.load(None)
    assert features.predict_step(batch)["color_moments"].shape == (4, 81)
    with pytest.raises(ArgumentError, match=r"Task has no dense layers .*'\[color_moments,gradient_histograms\]'"):
        Features(task, ["color_moments", "fc7"])
    with pytest.raises(ArgumentError, match="--vectors is empty"):
        Features(task, [])


def test_weights_come_from_a_checkpoint_or_from_where_training_starts(tmp_path: Path) -> None:
    trained, task = Task(), Task()
    nn.init.constant_(trained.network.get_parameter("scale"), 3)
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "best.ckpt")
    Features(task, ["fc7"]).load(tmp_path / "best.ckpt")
    assert task.network.get_parameter("scale") == 3
    Features(task, ["pooled"]).load(None)
    assert task.network.get_parameter("scale") == 7
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ArgumentError, match="holds the weights of another network"):
        Features(task, ["fc7"]).load(tmp_path / "other.ckpt")


def test_random_layers_are_refused_unless_published_ones_are_kept() -> None:
    with pytest.raises(ArgumentError, match=r"fc6 and fc7 would be random: .* --ckpt_path .* --vectors '\[pooled\]'"):
        Features(Task(), ["pooled", "fc6", "fc7"]).load(None)
    task = Task(keep_dense_weights=True)
    Features(task, ["fc6"]).load(None)
    assert task.network.get_parameter("scale") == 7
