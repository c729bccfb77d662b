"""Colorization: which colours does a grey picture have?

After a student report of the Indian Institute of Technology Guwahati (DA526, group 20), which follows F. Baldassarre,
D. González Morín and L. Rodés-Guirao, "Deep Koalarization: image colorization using CNNs and Inception-ResNet-v2",
arXiv:1712.03400: from the luminance, a small network and what a large one sees, to the chroma in L*a*b*.
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from datamodules.batch import Batch
from ops.color import SCALE, luminance_and_chroma, to_rgb
from ops.color_bins import TEMPERATURE, annealed_mean, soft_encoding
from ops.errors import TrainingError, WeightsError
from tasks.base import ImageTask
from tasks.losses import bins_loss, chroma_loss
from tasks.metrics.colors import FLOORS, ColorScores, Floors, FloorScores
from tasks.metrics.meter import Step
from tasks.networks.colorizer import Colorizer, Encoder
from tasks.networks.extractor import Extractor
from tasks.remembered import Remembered

VECTORS = 4.0
"""GiB of the extractor's vectors that a process remembers: a million pictures."""


class ColorizationTask(ImageTask):
    """Colours for grey pictures.

    Headline figure: `val/loss`. The loss is the paper's C, half the squared error of the scaled chroma (`regression`),
    or the rebalanced cross-entropy of R. Zhang, P. Isola and A. A. Efros, "Colorful Image Colorization", ECCV 2016
    (`classes`): where several colours are plausible, the first gives their mean, which is brownish, and the second can
    choose. Beside every figure stand those of three floors that do not look at the picture, `grey_…`, `mean_…` and
    `mean_by_luminance_…`; they are fitted on the training pictures at the start and kept in the checkpoint.

    Args:
        encoder: `pooled`, the report's Table 1, or `strided`, its text.
        extractor: The frozen classifier whose view of the picture is fused in, by any name of timm, or `resnet50_v1`;
            null for none. It is not part of the checkpoint, which keeps a digest of its weights.
        extractor_weights: Its weights: `true` for the library's ImageNet weights, the path of a weights file, or
            `false` for random ones.
        extractor_vector: What is taken of it: `logits`, the values before the softmax, 1000 of ImageNet; or `features`,
            what its classifier looks at, which files without a classifier have too.
        objective: `regression` or `classes`.
        temperature: Of the annealed mean of the classes: 1 is their mean, towards 0 the most likely one.
        optimizer: Makes the optimiser; Adam at 1e-3 in the report.
        scheduler: Makes the learning-rate schedule; the report's notebook halves the rate after 3 flat epochs.

    Raises:
        ValueError: There is no such encoder or extractor, or a number is out of its range.
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
                f"objective is {objective!r} and temperature {temperature}; wanted are regression or classes, and a "
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
        """Scores of the coloured pictures, and of the floors."""
        return {"colors": ColorScores(), "floors": FloorScores(self.floor_pictures)}

    def build_training_metrics(self) -> dict[str, Metric]:
        """The scores that take little time."""
        return {"colors": ColorScores(["psnr", "delta_e76"])}

    def floor_pictures(self, image: Tensor) -> dict[str, Tensor]:
        """Pictures (B, 3, H, W) in [0, 1] in the colours of each floor, by its name."""
        return self.floors.colored(image)

    def load_pretrained(self) -> None:
        """Loads the extractor.

        Raises:
            WeightsError: Its weights cannot be had or do not fit.
        """
        if self.extractor is not None:
            self.extractor.load()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps which extractor the network learned with."""
        if self.extractor is not None:
            checkpoint["extractor"] = self.extractor.digest

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks that the extractor is the one that the network learned with.

        Raises:
            WeightsError: Its weights differ or are missing, or only one of the two has an extractor.
        """
        super().on_load_checkpoint(checkpoint)
        digest = checkpoint.get("extractor")
        if self.extractor is None:
            if digest is not None:
                raise WeightsError(
                    f"The network was trained with an extractor (digest {digest}), and is opened without one. Open it "
                    "as it was trained: leave --model.extractor out."
                )
        elif digest is None:
            raise WeightsError(
                f"The network was trained without an extractor, and is opened with {self.extractor.name}, which it "
                "does not know. Open it as it was trained: --model.extractor null."
            )
        else:
            self.extractor.check(digest)

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Fits the baselines' colors on the training images, unless a checkpoint brought them."""
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
        """Scaled luminance (B, 1, H, W) and the extractor's vectors (B, V) to the network's maps.

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
        """Returns the network's maps, see `forward`."""
        luminance, _ = luminance_and_chroma(batch["image"])
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
        maps = self.outputs(batch)
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
        luminance, _ = luminance_and_chroma(batch["image"])
        chroma = self.probability(batch)
        return {"chroma": chroma, "image": to_rgb(luminance, chroma)}

    def _vector(self, luminance: Tensor, batch: Batch) -> Tensor | None:
        """What the extractor sees in the grey pictures; that of unaltered ones is remembered in training."""
        if self.extractor is None:
            return None
        names = batch.get("name", [])
        fitting = self._trainer is not None and self.trainer.state.fn == "fit"
        if fitting and names and "altered" not in batch:
            return self._vectors(names, luminance, self._seen)
        return self._seen(luminance)

    def _seen(self, luminance: Tensor) -> Tensor:
        """What the extractor sees in scaled luminance (B, 1, H, W)."""
        assert self.extractor is not None
        grey = to_rgb(luminance, luminance.new_zeros(len(luminance), 2, *luminance.shape[2:]))[:, :1]
        vector: Tensor = self.extractor(grey)
        return vector
