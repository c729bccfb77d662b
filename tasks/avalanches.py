"""Avalanches: which pixels of a mountain photograph show one, by the window around each pixel?

After H. Alharbi, R. Faut, M. Gumina, C. Kelso and C. Miller, "Predicting avalanche field in images using convolutional
neural networks and edge detection", 2020: a window classifier gives a first prediction, whose edges are put into the
picture for a second one by the same network.
"""

from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from ops.edges import canny
from ops.regions import without_small_regions
from tasks.base import Batch, ImageTask, Meter, Step
from tasks.boundary_metrics import BoundaryDistance
from tasks.losses import bce_loss
from tasks.metrics import DiceScores, PixelAveragePrecision
from tasks.networks.backbones import load_features
from tasks.networks.dense_evaluation import classify_picture
from tasks.networks.window_classifier import window_classifier
from tasks.pixel_metrics import PixelScores

Network = Literal["cnn1d", "cnn2d", "vgg16", "resnet50", "inception_resnet_v2"]
WINDOWS = ("accuracy", "balanced_accuracy")


class AvalanchesTask(ImageTask):
    """Masks of avalanches in photographs, or of any one class, by a classifier of windows.

    Trained on windows, measured on whole pictures. Headline metric: `val/dice`, of the first pass. A pixel is
    avalanche where its probability reaches a threshold, in a region no smaller than a minimum area; they start at .5
    and 0, are fitted on the validation pictures after training and are kept in the checkpoint.

    Args:
        network: `cnn1d`, `cnn2d`, `vgg16`, `resnet50` or `inception_resnet_v2`.
        window: Height and width of the windows in pixels; the data's too.
        channels: 3, or 1 for a small network that sees grey only.
        pretrained: What the last three networks start from: `false`, random weights; `true`, the library's ImageNet
            weights; or the path of a weights file.
        stride: Pixels from one classified pixel to the next where a network has no dense form, as the last three.
        second_input: What the network is given in the second pass: the `edges` of the first mask, the picture
            `enhanced` by them in white, or `none` for no second pass.
        low: Canny's lower threshold for edges of masks of 0 and 255.
        high: Canny's upper threshold.
        tile: Height and width in pixels of the parts in which a picture is classified.
        optimizer: Makes the optimiser; the paper used Adam or RMSprop at 1e-3.
        scheduler: Makes the learning-rate schedule; none in the paper.

    Raises:
        ValueError: There is no such network, or it is not for such windows.
    """

    headline = "dice"
    classes = ("avalanche",)
    thresholds: Tensor
    minimum_areas: Tensor

    def __init__(
        self,
        network: Network = "cnn2d",
        window: int = 33,
        channels: Literal[1, 3] = 3,
        pretrained: bool | str = False,
        stride: Literal[1, 2, 4] = 1,
        second_input: Literal["none", "edges", "enhanced"] = "enhanced",
        low: float = 100,
        high: float = 200,
        tile: int = 128,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(optimizer, scheduler)
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        self.name, self.window, self.pretrained, self.stride, self.tile = network, window, pretrained, stride, tile
        self.second_input, self.low, self.high = second_input, low, high
        self.network = window_classifier(network, window, channels)
        self.second_meter = Meter({"masks": DiceScores(self.classes, pooled=False), "pixels": PixelScores(["iou"]),
                                   "boundary": BoundaryDistance()})  # fmt: skip
        self.register_buffer("thresholds", torch.full((1,), 0.5))
        self.register_buffer("minimum_areas", torch.zeros(1))

    def build_metrics(self) -> dict[str, Metric]:
        """Of whole pictures: the scores of their windows, one a pixel, and those of their masks."""
        return {
            "windows": PixelScores(WINDOWS),
            "auprc": PixelAveragePrecision(self.classes),
            "masks": DiceScores(self.classes, pooled=False),
            "pixels": PixelScores(["iou"]),
            "boundary": BoundaryDistance(),
        }

    def build_training_metrics(self) -> dict[str, Metric]:
        """Of windows."""
        return {"windows": PixelScores(WINDOWS), "auprc": PixelAveragePrecision(self.classes)}

    def load_pretrained(self) -> None:
        """Fills the features of a large network.

        Raises:
            WeightsError: The weights cannot be had or do not fit.
        """
        if self.pretrained is not False:
            load_features(self.network[0], self.name, self.pretrained)

    def on_fit_start(self) -> None:
        """Unfits threshold and area, where training goes on from a fitted checkpoint: epochs compare at .5 and 0."""
        self.thresholds.fill_(0.5)
        self.minimum_areas.zero_()

    def forward(self, image: Tensor) -> Tensor:
        """Windows (B, 3, w, w) in [0, 1] to logits (B, 1)."""
        logits: Tensor = self.network(image)
        return logits

    def classified(self, image: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] to logits (B, 1, H, W), one for the window around each pixel."""
        with torch.autocast(image.device.type, enabled=False):
            maps = [classify_picture(self.network, each, self.window, self.stride, self.tile) for each in image.float()]
        return torch.stack(maps)

    def step(self, batch: Batch) -> Step:
        """Loss and decisions: of windows with a `label` each, or of all pixels of pictures with a `mask`.

        Where `valid` is false there is neither loss nor avalanche.
        """
        valid = batch.get("valid")
        if "label" in batch:
            logits, target = self(batch["image"])[:, :, None, None], batch["label"][:, None, None, None]
        else:
            logits, target = self.classified(batch["image"]), batch["mask"]
        probability = _probability(logits.detach(), valid)
        return Step(bce_loss(logits, target, valid), self.marked(probability), target, probability)

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Counts a test picture, after the first pass and after the second."""
        super().test_step(batch, batch_index)
        if self.second_input != "none":
            found = self.predict(batch)
            loss = torch.zeros((), device=self.device)
            self.second_meter.update(Step(loss, found["mask"], batch["mask"], found["probability"]), len(batch["mask"]))

    def on_test_epoch_end(self) -> None:
        """Logs `test/…`, and `test/second_…` of the second pass."""
        super().on_test_epoch_end()
        if self.second_input != "none":
            for name, value in self.second_meter.result().items():
                if name != "loss":
                    self.log(f"test/second_{name}", value, batch_size=1)

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Any]:
        """Masks of pictures.

        Args:
            batch: `image` (B, 3, H, W) in [0, 1]; where `valid` (B, 1, H, W) is there and false, nothing is seen.

        Returns:
            `probability` (B, 1, H, W) and `mask`, bool, of the last pass; and `stages`, what led to them, by name.
        """
        image, valid = batch["image"].float(), batch.get("valid")
        probability = _probability(self.classified(image), valid)
        mask = self._cleaned(self.marked(probability))
        stages: dict[str, Tensor] = {"first_probability": probability, "first_mask": mask}
        if self.second_input != "none":
            edges = canny(mask.to(torch.uint8) * 255, self.low, self.high)
            drawn = edges.float().expand_as(image) if self.second_input == "edges" else image.masked_fill(edges, 1.0)
            probability = _probability(self.classified(drawn), valid)
            mask = self._cleaned(self.marked(probability))
            stages |= {"first_edges": edges, "second_input": drawn, "second_probability": probability,
                       "second_mask": mask}  # fmt: skip
        stages["last_edges"] = canny(mask.to(torch.uint8) * 255, self.low, self.high)
        return {"probability": probability, "mask": mask, "stages": stages}

    def marked(self, probability: Tensor) -> Tensor:
        """Which pixels reach the threshold, bool, of probabilities (B, 1, H, W)."""
        return probability >= self.thresholds

    def cleaned(self, masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The mask (1, H, W) of a whole picture without the regions below the minimum area."""
        return without_small_regions(masks, self.minimum_areas.tolist())

    def _cleaned(self, masks: Tensor) -> Tensor:
        if not self.minimum_areas.any():
            return masks
        return torch.stack([torch.from_numpy(self.cleaned(mask.numpy())) for mask in masks.cpu()]).to(masks.device)


def _probability(logits: Tensor, valid: Tensor | None) -> Tensor:
    """Probabilities in float32, 0 where a picture is not valid."""
    probability = logits.float().sigmoid()
    return probability if valid is None else probability * valid
