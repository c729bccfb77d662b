from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics import Metric

from belvedere.features import Features, InOrder, Vector
from datamodules.base import ImageDataModule
from datamodules.loaders import Samples
from ops.descriptors import color_moments, gradient_histograms
from ops.errors import ArgumentError
from tasks.base import Batch, ImageTask
from tasks.metrics.meter import Step


class Judge(nn.Module):
    """Three vectors that are easily distinguished; `fc7` is flattened."""

    vectors = ("pooled", "fc6", "fc7")

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward_features(self, image: Tensor) -> dict[str, Tensor]:
        pooled = image.mean(dim=(2, 3))
        return {"pooled": pooled, "fc6": (2 * self.scale * pooled).half(), "fc7": image[:, :, :2, :2]}


class Task(ImageTask):
    """A task that is only a network."""

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


def test_vectors_are_in_the_requested_order(batch: Batch) -> None:
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


def test_descriptors_need_no_network(batch: Batch) -> None:
    task = Task()
    task.network = nn.Identity()
    features = Features(task, ["color_moments"])
    features.load(None)
    assert features.predict_step(batch)["color_moments"].shape == (4, 81)
    with pytest.raises(ArgumentError, match="no dense layers"):
        Features(task, ["color_moments", "fc7"])
    task.network = Judge()
    task.network.vectors = ("pooled",)  # type: ignore[assignment]  # a network without dense layers
    with pytest.raises(ArgumentError, match=r"no vectors fc7; it has pooled"):
        Features(task, ["pooled", "fc7"])
    with pytest.raises(ArgumentError, match="--vectors is empty"):
        Features(task, [])


def test_weights_are_those_of_the_checkpoint_or_pretrained(tmp_path: Path) -> None:
    trained, task = Task(), Task()
    nn.init.constant_(trained.network.get_parameter("scale"), 3)
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "best.ckpt")
    Features(task, ["fc7"]).load(tmp_path / "best.ckpt")
    assert task.network.get_parameter("scale") == 3
    Features(task, ["pooled"]).load(None)
    assert task.network.get_parameter("scale") == 7
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ArgumentError, match="another network"):
        Features(task, ["fc7"]).load(tmp_path / "other.ckpt")


def test_random_layers_are_rejected() -> None:
    with pytest.raises(ArgumentError, match=r"fc6 and fc7 .*random.*\[pooled\]"):
        Features(Task(), ["pooled", "fc6", "fc7"]).load(None)
    task = Task(keep_dense_weights=True)
    Features(task, ["fc6"]).load(None)
    assert task.network.get_parameter("scale") == 7


COUNTS = {"train": 9, "val": 3, "test": 0}  # nine in batches of four: training would drop the last


class Numbered(ImageDataModule):
    """Images that are as bright as their index on the left, and black on the right."""

    def __init__(self, pictures: str | None = None) -> None:
        super().__init__("here", pictures, 4, 0, 0.1, 0.1, 0, flips=True)
        self.stages: list[str] = []

    def prepare_data(self) -> None:
        self.stages.append("prepare")

    def setup(self, stage: str) -> None:
        self.stages.append(stage)
        counts = {"predict": 5} if stage == "predict" else COUNTS
        for split, count in counts.items():
            self.datasets[split] = Samples([f"{split}{i}" for i in range(count)], self.make)

    def make(self, index: int) -> dict[str, Any]:
        image = torch.zeros(3, 2, 2, dtype=torch.uint8)
        image[..., 0] = index
        return {"image": image}


class Seen(LightningModule):
    """Records the batches to predict."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[int, dict[str, Any]]] = []

    def predict_step(self, batch: dict[str, Any], batch_index: int, dataloader_idx: int = 0) -> None:
        self.batches.append((dataloader_idx, batch))


@pytest.fixture
def see(make_trainer: Callable[..., Trainer]) -> Callable[[InOrder], Seen]:
    def run(data: InOrder) -> Seen:
        module = Seen()
        make_trainer(use_distributed_sampler=False).predict(module, data, return_predictions=False)
        return module

    return run


def test_every_image_is_seen_once_in_order_without_augmentation(see: Callable[[InOrder], Seen]) -> None:
    data = InOrder(Numbered())
    batches = see(data).batches
    assert data.splits == ["train", "val"]
    assert [len(batch["name"]) for _, batch in batches] == [4, 4, 1, 3]
    names = [(data.splits[loader], name) for loader, batch in batches for name in batch["name"]]
    assert names == [(split, f"{split}{i}") for split in data.splits for i in range(COUNTS[split])]
    for _, batch in batches:
        wanted = torch.zeros(len(batch["name"]), 3, 2, 2)
        wanted[..., 0] = batch["index"].view(-1, 1, 1) / 255  # flipped ones would be dark at the left
        assert torch.equal(batch["image"], wanted)


def test_only_given_images_are_seen(see: Callable[[InOrder], Seen]) -> None:
    numbered = Numbered(pictures="album")
    data = InOrder(numbered)
    batches = see(data).batches
    assert data.splits == ["predict"]
    assert [name for _, batch in batches for name in batch["name"]] == [f"predict{i}" for i in range(5)]
    assert numbered.stages == ["predict"], "the dataset is not read"


def test_processes_share_the_images() -> None:
    shares = []
    for rank in range(2):
        data = InOrder(Numbered())
        data.trainer = SimpleNamespace(world_size=2, global_rank=rank, training=False)  # type: ignore[assignment]
        data.setup("predict")
        shares.append([name for loader in data.predict_dataloader() for batch in loader for name in batch["name"]])
    assert shares[0] == ["train0", "train2", "train4", "train6", "train8", "val0", "val2"]
    assert shares[1] == ["train1", "train3", "train5", "train7", "val1"]
