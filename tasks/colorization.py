"""Colorization: which colors does a gray image have?

After a student report of the Indian Institute of Technology Guwahati (DA526, group 20), which follows F. Baldassarre,
D. González Morín and L. Rodés-Guirao, "Deep Koalarization: image colorization using CNNs and Inception-ResNet-v2",
arXiv:1712.03400: from the luminance, and a large classifier's view of the image, to the chroma in L*a*b*.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn import functional as F

from datamodules.batch import Batch, DataFacts
from ops.color.bins import TEMPERATURE, annealed_mean, soft_encoding
from ops.color.lab import SCALE, luminance_and_chroma, to_rgb
from ops.color.reference import nearest, transferred
from ops.color.samples import class_spread, from_classes
from ops.errors import WeightsError
from ops.statistics.ridge import Moments, fit_shrunk
from tasks.closed_form import ClosedFormTask
from tasks.coloring import LEVELS, ColoringTask, error_covariance, error_moments
from tasks.losses import bins_loss, chroma_loss
from tasks.metrics.meter import Step
from tasks.networks.colorizer import Colorizer, Encoder
from tasks.networks.extractor import Extractor
from tasks.networks.linear_colorizer import LinearColorizer, cell_means, enlarged
from tasks.remembered import Remembered

BACKBONES = ("mobilenet_v2", "resnet50", "vgg16")
PARTS = 4
"""Parts of the training images, batch by batch, that are left out in turn."""
VECTORS = 4.0
"""GiB of extractor vectors that a process caches: a million images."""


class ColorizationTask(ColoringTask):
    """Colors gray images by an encoder and a decoder, see `ColoringTask`.

    The loss is the paper's C, half the squared error of the scaled chroma (`regression`, `residual`), or the rebalanced
    cross-entropy of R. Zhang, P. Isola and A. A. Efros, "Colorful Image Colorization", ECCV 2016 (`classes`): where
    several colors are plausible, the first predicts their mean, which is brownish; the last can choose. `residual`
    predicts what is added to the training images' mean color of each luminance, and starts from adding nothing; see
    `ColoringTask.shrink`, which is fitted after each validation.

    Args:
        encoder: `pooled`, the report's Table 1, or `strided`, its text.
        extractor: The frozen classifier whose features are fused in, by any name of timm, or `resnet50_v1`; null for
            none. The checkpoint stores only a hash of its weights, so keep the weights file.
        extractor_weights: `true` for the library's ImageNet weights, the path of a weights file, or `false` for random
            weights.
        extractor_vector: Its output to use: `logits`, the 1000 values before the softmax; or `features`, the input of
            its last layer, which weights files without a classifier have too.
        objective: `regression`, `residual` or `classes`.
        temperature: Temperature of the annealed mean of the classes: 1 is their mean, near 0 the most likely class.
        samples: How many further plausible colorings to predict, of `classes` from what the network gives each class,
            of `residual` from the errors on validation images.
        optimizer: Builds the optimizer; Adam at 1e-3 in the report.
        scheduler: Builds the learning-rate schedule; the report's notebook halves the rate after 3 flat epochs.

    Raises:
        ValueError: The encoder or extractor is unknown, or a number is out of range.
    """

    _products: Tensor
    _errors: Tensor

    def __init__(
        self,
        encoder: Encoder = "pooled",
        extractor: str | None = "inception_resnet_v2",
        extractor_weights: bool | str = True,
        extractor_vector: Literal["logits", "features"] = "logits",
        objective: Literal["regression", "residual", "classes"] = "regression",
        temperature: float = TEMPERATURE,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: LRSchedulerCallable | None = None,
        samples: int = 0,
    ) -> None:
        if objective not in ("regression", "residual", "classes") or not 0 < temperature <= 1:
            raise ValueError(
                f"objective is {objective!r} and temperature {temperature}; expected regression, residual or classes, "
                "and a number in (0, 1]"
            )
        if samples and objective == "regression":
            raise ValueError(
                f"samples is {samples} and objective regression, which gives each pixel one color; expected 0 samples, "
                "or the objective classes or residual"
            )
        super().__init__(optimizer, scheduler, samples)
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        self.objective, self.temperature = objective, temperature
        self.extractor = None if extractor is None else Extractor(extractor, extractor_weights, extractor_vector)
        vector = 0 if self.extractor is None else self.extractor.length
        outputs = len(self.floors.centres) if objective == "classes" else 2
        self.network = Colorizer(encoder, vector, outputs, tanh=objective != "classes")
        if objective == "residual":
            self.network.zero_last()
        self._vectors = Remembered(VECTORS)
        self.register_buffer("_products", torch.zeros(2, dtype=torch.float64), persistent=False)
        self.register_buffer("_errors", torch.zeros(LEVELS, 13, dtype=torch.float64), persistent=False)

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

    def on_fit_start(self) -> None:
        """Forgets the extractor's vectors of an earlier training.

        Raises:
            TrainingError: The baselines' colors, which the loss of classes weighs with, are not fitted.
        """
        self._vectors.clear()
        super().on_fit_start()

    def on_validation_epoch_start(self) -> None:
        self._products.zero_()
        self._errors.zero_()

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics, and fits `shrink` and `unknown` for the checkpoint and the next epochs."""
        super().on_validation_epoch_end()
        of_truth, squared = self.summed(self._products)
        if self.fitting and squared > 0:
            self.shrink.copy_((of_truth / squared).clamp(0, 1))
        errors = self.summed(self._errors)
        if self.fitting and errors.any():
            self.unknown.copy_(error_covariance(errors, float(self.shrink)))

    def forward(self, luminance: Tensor, vector: Tensor | None = None) -> Tensor:
        """Maps scaled luminance (B, 1, H, W) and the extractor's vectors (B, V) to the network's output.

        Returns:
            Scaled chroma (B, 2, H, W), or logits of the classes at half the size, (B, Q, ceil(H / 2), ceil(W / 2)).
        """
        maps: Tensor
        maps = (
            self.network.half_size(luminance, vector)
            if self.objective == "classes"
            else self.network(luminance, vector)
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
        if self.objective == "residual":
            luminance = batch["luminance"] if "luminance" in batch else luminance_and_chroma(batch["image"])[0]
            return self.baseline(luminance) + (1 if self.training else self.shrink) * outputs.float()
        chroma = annealed_mean(outputs, self.floors.centres, self.temperature) / SCALE
        return F.interpolate(chroma, batch["image"].shape[-2:], mode="bilinear")

    def step(self, batch: Batch) -> Step:
        """Returns the loss and the colored images; pixels that are not `valid` count nowhere."""
        image, valid = batch["image"], batch["valid"]
        luminance, chroma = luminance_and_chroma(image)
        batch = {**batch, "luminance": luminance}
        maps = self.outputs(batch)
        if self.objective != "classes":
            loss = chroma_loss(self.activate(maps, batch), chroma, valid)
            if self.objective == "residual" and self.fitting and not self.training:
                added = torch.where(valid, maps.detach().float(), 0)
                truth = chroma - self.baseline(luminance)
                self._products += torch.stack([(added * truth).sum(), added.square().sum()])
                self._errors += error_moments(*counted_cells(valid, luminance[:, 0], truth, added))
        else:
            smaller = F.avg_pool2d(chroma, 2, ceil_mode=True)
            whole = F.avg_pool2d(valid.float(), 2, ceil_mode=True) == 1
            loss = bins_loss(maps, *soft_encoding(SCALE * smaller, self.floors.centres), self.floors.weights, whole)
        return Step(loss, to_rgb(luminance, self.probability(batch, maps.detach())), image, valid=valid)

    def alternatives(self, batch: Batch, chroma: Tensor) -> dict[str, Tensor]:
        if self.objective != "classes":
            return super().alternatives(batch, chroma)
        # the loss weighs rare colors up, and the network gives them as much too much
        logits = self.outputs(batch) - self.floors.weights.log()[:, None, None]
        centres = self.floors.centres
        luminance, size = F.interpolate(batch["luminance"], logits.shape[-2:], mode="area"), chroma.shape[-2:]

        def draw(row: int, seed: int) -> Tensor:
            found = from_classes(logits[row], luminance[row], centres, seed, self.temperature) / SCALE
            return F.interpolate(found[None], size, mode="bilinear")[0]

        spread = torch.stack([class_spread(each, centres) for each in logits])
        return {"samples": self.drawn(batch, draw), "spread": F.interpolate(spread, size, mode="bilinear")}

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


def counted_cells(valid: Tensor, luminance: Tensor, *maps: Tensor) -> list[Tensor]:
    """Returns the means of the cells of which at least half is valid.

    Args:
        valid: (B, 1, H, W).
        luminance: (B, H, W).
        maps: (B, C, H, W) each.

    Returns:
        Of the luminance (N,), of the others (N, C).
    """
    counted = cell_means(valid.float(), valid.new_ones(valid.shape))[:, 0] >= 0.5
    light, *others = (cell_means(each, valid).movedim(1, 3)[counted] for each in (luminance[:, None], *maps))
    return [light[:, 0], *others]


@dataclass(frozen=True)
class Reference:
    """Cells of a color image that others take colors from.

    Attributes:
        features: Standardized, (M, D).
        mean: Their mean, (D,).
        luminance: (M,).
        difference: Chroma minus what is estimated for them, (M, 2).
    """

    features: Tensor
    mean: Tensor
    luminance: Tensor
    difference: Tensor


class LinearColorizationTask(ClosedFormTask, ColoringTask):
    """Colors gray images by the mean color of each luminance plus what frozen networks see, see `ColoringTask`.

    A linear layer turns what they see into color. It is fitted before the only epoch, in closed form: on a grid of
    cells of 16 pixels, for each network a ridge regression of the training images' difference from their mean color of
    each luminance. Its penalty, and the factor `shrink`, suit left-out images best: those of validation, and parts of
    those of training. The guided filter enlarges it. Checkpoints contain the frozen networks, in half precision, so
    that they need no other file.

    Args:
        backbones: The frozen networks, and for each `true` for the library's ImageNet weights, or the path of a weights
            file, or `false` for random weights, for tests only. Names are those of
            `tasks.networks.backbones.Stages`: `mobilenet_v2`, `resnet50`, `vgg16`, or any network of timm, such as
            `vit_small_patch14_dinov2`. Null is MobileNetV2, ResNet-50 and VGG16.
        samples: How many further plausible colorings to predict, from the errors on validation images.

    Raises:
        ValueError: A network is unknown, or the number of samples negative.
    """

    takes_references = True
    network: LinearColorizer

    def __init__(self, backbones: dict[str, bool | str] | None = None, samples: int = 0) -> None:
        self.weights = dict.fromkeys(BACKBONES, True) if backbones is None else backbones
        if not self.weights:
            raise ValueError("backbones is empty; expected one network or more")
        # without gradients it changes nothing, but counts the steps, by which the trainer numbers checkpoints
        super().__init__(lambda p: torch.optim.SGD(p, lr=0.0), None, samples)
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.network = LinearColorizer(list(self.weights))
        self._cells = Remembered(VECTORS)
        self._moments: list[Moments] = []
        self._references: list[Reference] = []

    def load_pretrained(self) -> None:
        """Fills the frozen networks.

        Raises:
            WeightsError: Weights are missing or do not fit.
        """
        self.network.load(self.weights)

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Fits the baselines on the training images and sums what the linear layer needs of them."""
        super().prepare(batches)
        self._cells.clear()
        if not self.network.fitted:
            trainer = self.attached_trainer()
            limit = getattr(trainer, "limit_train_batches", None)
            self._moments = self._summed(islice(batches, limit if isinstance(limit, int) else None), PARTS)

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Fits the linear layer, whose penalties and shrinkage the validation images choose."""
        if self.network.fitted or not self._moments:
            return
        [validation] = self._summed(batches, 1)
        found = fit_shrunk(self._moments, validation, self.network.blocks)
        self.network.fill(found.mean, found.scale, found.weight, found.bias)
        self.shrink.fill_(found.shrink)
        self._moments.clear()
        errors = torch.zeros(LEVELS, 13, dtype=torch.float64, device=self.device)
        for batch in batches:
            luminance, chroma = luminance_and_chroma(batch["image"])
            wrong = chroma - self.activate(self.outputs(batch), batch)
            errors += error_moments(*counted_cells(batch["valid"], luminance[:, 0], wrong, torch.zeros_like(wrong)))
        self.unknown.copy_(error_covariance(self.summed(errors), 0.0))
        rank_zero_info(
            f"Fitted a linear layer on {sum(self.network.blocks)} features, penalty {found.penalty:.1e}. What it adds "
            f"to the mean color of each luminance is multiplied by {found.shrink:.2f}, where 0 leaves them alone; "
            f"the squared error on left-out images is {found.error:.3f} times theirs."
        )

    def _summed(self, batches: Iterable[Batch], parts: int) -> list[Moments]:
        """Returns the moments of the cells of images, over all processes, in parts.

        Images come sorted by name, so that works of one artist are mostly in one part.
        """
        found = [Moments(sum(self.network.blocks), 2, self.device) for _ in range(parts)]
        for number, batch in enumerate(batches):
            luminance, chroma = luminance_and_chroma(batch["image"])
            valid = batch["valid"]
            added = cell_means(chroma - self.baseline(luminance), valid)
            counted = cell_means(valid.float(), valid.new_ones(valid.shape))[:, 0] >= 0.5
            cells = self._seen(luminance, batch)
            found[number % parts].add(cells.movedim(1, 3)[counted], added.movedim(1, 3)[counted])
        for moments in found:
            moments.products = self.summed(moments.products)
        return found

    def _seen(self, luminance: Tensor, batch: Batch) -> Tensor:
        """Returns the features of the cells; fitting caches those of images that are not altered."""
        valid = batch["valid"] if "valid" in batch else torch.ones_like(luminance, dtype=torch.bool)
        names = batch.get("name", [])
        if not (self.fitting and names and "altered" not in batch):
            return self.network.cells(luminance, valid)
        both = torch.cat([luminance, valid.to(luminance)], dim=1)
        return self._cells(names, both, lambda each: self.network.cells(each[:, :1], each[:, 1:] > 0))

    def outputs(self, batch: Batch) -> Tensor:
        """Returns what is added to the chroma of each cell, (B, 2, ceil(H / 16), ceil(W / 16))."""
        luminance = batch["luminance"] if "luminance" in batch else luminance_and_chroma(batch["image"])[0]
        return self.network.chroma(self._seen(luminance, batch))

    def receive(self, facts: DataFacts) -> None:
        """Stores the facts about the data, and forgets earlier references."""
        super().receive(facts)
        self._references.clear()

    def averaged(self, batch: Batch) -> Tensor:
        """Returns the chroma of a batch, with colors from the references if there are any."""
        if not self.facts.references:
            return super().averaged(batch)
        if not self._references:
            self._references += [self._reference(each) for each in self.facts.references]
        luminance = batch["luminance"] if "luminance" in batch else luminance_and_chroma(batch["image"])[0]
        valid = batch["valid"] if "valid" in batch else torch.ones_like(luminance, dtype=torch.bool)
        cells = self._seen(luminance, batch)
        outputs = self.network.chroma(cells)
        light = cell_means(luminance, valid)
        for row, every in enumerate(self.network.standard(cells.movedim(1, 3))):
            counted = cell_means(valid[row : row + 1].float(), torch.ones_like(valid[row : row + 1])).flatten() >= 0.5
            if not counted.any():
                continue
            features = every.flatten(0, 1)
            chosen = nearest(features[counted], torch.stack([each.mean for each in self._references]))
            own = self._references[chosen]
            added = transferred(features, light[row].flatten(), own.features, own.luminance, own.difference)
            outputs[row] += added.T.view_as(outputs[row])
        return self.activate(outputs, batch)

    def _reference(self, batch: Batch) -> "Reference":
        batch = {key: value.to(self.device) if isinstance(value, Tensor) else value for key, value in batch.items()}
        luminance, chroma = luminance_and_chroma(batch["image"])
        valid = batch["valid"]
        cells = self._seen(luminance, batch)
        difference = cell_means(chroma - self.baseline(luminance), valid) - self.network.chroma(cells)
        counted = cell_means(valid.float(), torch.ones_like(valid)).flatten() >= 0.5
        features = self.network.standard(cells.movedim(1, 3))[0].flatten(0, 1)[counted]
        light = cell_means(luminance, valid).flatten()[counted]
        return Reference(features, features.mean(dim=0), light, difference[0].flatten(1).T[counted])

    def activate(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Turns what is added to each cell into scaled chroma (B, 2, H, W)."""
        luminance = batch["luminance"] if "luminance" in batch else luminance_and_chroma(batch["image"])[0]
        valid = batch["valid"] if "valid" in batch else torch.ones_like(luminance, dtype=torch.bool)
        return self.baseline(luminance) + enlarged(outputs, luminance, valid)

    def step(self, batch: Batch) -> Step:
        """Returns the loss and the colored images; pixels that are not `valid` count nowhere."""
        luminance, chroma = luminance_and_chroma(batch["image"])
        batch = {**batch, "luminance": luminance}
        found = self.probability(batch, self.outputs(batch))
        loss = chroma_loss(found, chroma, batch["valid"])
        return Step(loss, to_rgb(luminance, found.detach()), batch["image"], valid=batch["valid"])
