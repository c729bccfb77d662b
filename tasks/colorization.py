"""Colorization: which colors does a gray image have?

After a student report of the Indian Institute of Technology Guwahati (DA526, group 20), which follows F. Baldassarre,
D. González Morín and L. Rodés-Guirao, "Deep Koalarization: image colorization using CNNs and Inception-ResNet-v2",
arXiv:1712.03400: from the luminance, and a large classifier's view of the image, to the chroma in L*a*b*.
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from datamodules.batch import Batch
from ops.color.bins import TEMPERATURE, annealed_mean, soft_encoding
from ops.color.lab import SCALE, luminance_and_chroma, to_rgb
from ops.errors import TrainingError, WeightsError
from tasks.base import ImageTask, check_images
from tasks.losses import bins_loss, chroma_loss
from tasks.metrics.colors import FLOORS, ColorScores, Floors, FloorScores
from tasks.metrics.meter import Step
from tasks.networks.colorizer import Colorizer, Encoder
from tasks.networks.extractor import Extractor
from tasks.remembered import Remembered

VECTORS = 4.0
"""GiB of extractor vectors that a process caches: a million images."""


class ColorizationTask(ImageTask):
    """Colors gray images.

    Headline metric: `val/loss`. The loss is the paper's C, half the squared error of the scaled chroma (`regression`),
    or the rebalanced cross-entropy of R. Zhang, P. Isola and A. A. Efros, "Colorful Image Colorization", ECCV 2016
    (`classes`): where several colors are plausible, the first predicts their mean, which is brownish; the second can
    choose. Three trivial baselines are reported beside every metric, `grey_…`, `mean_…` and `mean_by_luminance_…`; they
    are fitted on the training images at the start and kept in the checkpoint.

    Args:
        encoder: `pooled`, the report's Table 1, or `strided`, its text.
        extractor: The frozen classifier whose features are fused in, by any name of timm, or `resnet50_v1`; null for
            none. The checkpoint stores only a hash of its weights, so keep the weights file.
        extractor_weights: `true` for the library's ImageNet weights, the path of a weights file, or `false` for random
            weights.
        extractor_vector: Its output to use: `logits`, the 1000 values before the softmax; or `features`, the input of
            its last layer, which weights files without a classifier have too.
        objective: `regression` or `classes`.
        temperature: Temperature of the annealed mean of the classes: 1 is their mean, near 0 the most likely class.
        optimizer: Builds the optimizer; Adam at 1e-3 in the report.
        scheduler: Builds the learning-rate schedule; the report's notebook halves the rate after 3 flat epochs.

    Raises:
        ValueError: The encoder or extractor is unknown, or a number is out of range.
    """

    baselines = FLOORS

    def __init__(
        self,
        encoder: Encoder = "pooled",
        extractor: str | None = "inception_resnet_v2",
        extractor_weights: bool | str = True,
        extractor_vector: Literal["logits", "features"] = "logits",
        objective: Literal["regression", "classes"] = "regression",
        temperature: float = TEMPERATURE,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        if objective not in ("regression", "classes") or not 0 < temperature <= 1:
            raise ValueError(
                f"objective is {objective!r} and temperature {temperature}; expected regression or classes, and a "
                "number in (0, 1]"
            )
        super().__init__(optimizer, scheduler)
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        self.objective, self.temperature = objective, temperature
        self.floors = Floors()
        self.extractor = None if extractor is None else Extractor(extractor, extractor_weights, extractor_vector)
        vector = 0 if self.extractor is None else self.extractor.length
        outputs = 2 if objective == "regression" else len(self.floors.centres)
        self.network = Colorizer(encoder, vector, outputs, tanh=objective == "regression")
        self._vectors = Remembered(VECTORS)

    def build_metrics(self) -> dict[str, Metric]:
        """Returns metrics of the colored images, and of the baselines."""
        # not a bound method: a copy of the metric would copy the task and its trainer with it
        return {"colors": ColorScores(), "floors": FloorScores(lambda image: self.floors.colored(image))}

    def build_training_metrics(self) -> dict[str, Metric]:
        """Returns the metrics that are fast to compute."""
        return {"colors": ColorScores(["psnr", "delta_e76"])}

    def load_pretrained(self) -> None:
        """Loads the extractor.

        Raises:
            WeightsError: Its weights are missing or do not fit.
        """
        if self.extractor is not None:
            self.extractor.load()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores which extractor the network was trained with."""
        if self.extractor is not None:
            checkpoint["extractor"] = self.extractor.digest

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks that the network was trained with this extractor.

        Raises:
            WeightsError: Its weights differ or are missing, or only one of the two has an extractor.
        """
        super().on_load_checkpoint(checkpoint)
        digest = checkpoint.get("extractor")
        if self.extractor is None:
            if digest is not None:
                raise WeightsError(
                    f"The network was trained with an extractor (digest {digest}) and is opened without one. Open it "
                    "as it was trained: remove --model.extractor."
                )
        elif digest is None:
            raise WeightsError(
                f"The network was trained without an extractor and is opened with {self.extractor.name}. Open it as it "
                "was trained: --model.extractor null."
            )
        else:
            self.extractor.check(digest)

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Fits the baselines' colors on the training images, unless a checkpoint provided them."""
        if not self.floors.fitted:
            self.floors.fit(((*luminance_and_chroma(each["image"]), each["valid"]) for each in batches), self.summed)

    def on_fit_start(self) -> None:
        """Forgets the extractor's vectors of an earlier training.

        Raises:
            TrainingError: The baselines' colors, which the loss of classes weighs with, are not fitted.
        """
        self._vectors.clear()
        if not self.floors.fitted:
            raise TrainingError(
                "The baselines' colors are not fitted. Add callbacks.handover.Handover(data) to the trainer's "
                "callbacks."
            )

    def forward(self, luminance: Tensor, vector: Tensor | None = None) -> Tensor:
        """Maps scaled luminance (B, 1, H, W) and the extractor's vectors (B, V) to the network's output.

        Returns:
            Scaled chroma (B, 2, H, W), or logits of the classes at half the size, (B, Q, ceil(H / 2), ceil(W / 2)).
        """
        maps: Tensor
        maps = (
            self.network(luminance, vector)
            if self.objective == "regression"
            else self.network.half_size(luminance, vector)
        )
        return maps

    def outputs(self, batch: Batch) -> Tensor:
        """Returns the network's maps, see `forward`; `luminance` in the batch saves converting the images again."""
        luminance = batch["luminance"] if "luminance" in batch else luminance_and_chroma(batch["image"])[0]
        maps: Tensor = self(luminance, self._vector(luminance, batch))
        return maps

    def activate(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Turns the network's maps into scaled chroma (B, 2, H, W), the annealed mean where they are of classes.

        Chroma takes the place of probabilities in this task: a color is what it is certain of.
        """
        if self.objective == "regression":
            return outputs.float()
        chroma = annealed_mean(outputs, self.floors.centres, self.temperature) / SCALE
        return F.interpolate(chroma, batch["image"].shape[-2:], mode="bilinear")

    def step(self, batch: Batch) -> Step:
        """Returns the loss and the colored images; pixels that are not `valid` count nowhere."""
        image, valid = batch["image"], batch["valid"]
        luminance, chroma = luminance_and_chroma(image)
        maps = self.outputs({**batch, "luminance": luminance})
        if self.objective == "regression":
            loss = chroma_loss(maps, chroma, valid)
        else:
            half = F.avg_pool2d(chroma, 2, ceil_mode=True)
            whole = F.avg_pool2d(valid.float(), 2, ceil_mode=True) == 1
            loss = bins_loss(maps, *soft_encoding(SCALE * half, self.floors.centres), self.floors.weights, whole)
        return Step(loss, to_rgb(luminance, self.probability(batch, maps.detach())), image, valid=valid)

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Any]:
        """Colors images; only their luminance is used.

        Args:
            batch: `image` (B, 3, H, W) in [0, 1], gray or not.

        Returns:
            `chroma` (B, 2, H, W), scaled, and `image` (B, 3, H, W) in [0, 1], the images in these colors.
        """
        check_images(batch)
        luminance, _ = luminance_and_chroma(batch["image"])
        chroma = self.probability({**batch, "luminance": luminance})
        return {"chroma": chroma, "image": to_rgb(luminance, chroma)}

    def _vector(self, luminance: Tensor, batch: Batch) -> Tensor | None:
        """Returns the extractor's vectors; training caches those of images that are not augmented."""
        if self.extractor is None:
            return None
        names = batch.get("name", [])
        if self.fitting and names and "altered" not in batch:
            return self._vectors(names, batch.get("view", luminance), self._seen)
        return self._seen(batch.get("view", luminance))

    def _seen(self, view: Tensor) -> Tensor:
        """Returns the extractor's vectors for scaled luminance (B, 1, H, W), or that of images (B, 3, H, W)."""
        assert self.extractor is not None
        luminance = view if view.shape[1] == 1 else luminance_and_chroma(view)[0]
        grey = to_rgb(luminance, luminance.new_zeros(len(luminance), 2, *luminance.shape[2:]))[:, :1]
        vector: Tensor = self.extractor(grey)
        return vector
