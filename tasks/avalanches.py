"""Avalanches: which pixels of a mountain photograph show one, judged by the window around each pixel?

After M. Alharbi, T. Faut, A. Gumina, K. Kelso and O. Miller, "Predicting avalanche field in images using convolutional
neural networks and edge detection", 2020: a window classifier makes a first prediction; its edges are drawn into the
image for a second pass of the same network.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric

from datamodules.batch import Batch
from ops.errors import ArgumentError, NoDenseFormError, TrainingError, WeightsError
from ops.exact.backends import Backend
from ops.exact.edges import canny
from ops.extras import check_installed
from ops.windows import resized_maps
from tasks.base import ImageTask, check_images
from tasks.boosting import with_trees
from tasks.decision import Decision
from tasks.losses import SegmentationLoss
from tasks.metrics.dice import DiceScores, PixelAveragePrecision
from tasks.metrics.meter import Meter, Step
from tasks.metrics.pixels import BoundaryDistance, PixelScores
from tasks.networks.backbones import load_features, segmentation_network
from tasks.networks.dense import DenseForm
from tasks.networks.sliding import classify_picture
from tasks.networks.window_classifier import fill_projection, is_filled, window_classifier
from tasks.segmentation import SegmentationTask, counted, known, lost_pieces

if TYPE_CHECKING:
    from xgboost import Booster

Network = Literal["cnn1d", "cnn2d", "vgg16", "resnet50", "resnet50_v1", "inception_resnet_v2", "unet", "fpn", "pspnet",
                  "features"]  # fmt: skip
Final = Literal["auto", "first", "edges", "enhanced", "boosted"]
SECOND = ("edges", "enhanced")
PASSES = ("first", *SECOND, "boosted")
FITTED = ("thresholds", "minimum_areas")
DECISIONS = ("decision", "boosted_decision", *(f"second_decisions.{each}" for each in SECOND))
UNKNOWN = -1.0
LEAST_GAIN = 0.01  # in validation dice over the first pass; less is chance with a dozen images, and costs another pass
WHOLE = ("unet", "fpn", "pspnet", "features")
"""Networks that mark a whole photograph at once, not in the paper."""
OF_WHOLE = ("encoder_lr", "tta", "pretrained_bands", "encoder_frozen_steps", "border")
OF_WINDOWS = ("bce", 1.0, "none", None, 0, 0)
"""What networks of windows need for the loss and for the options of those of whole photographs."""


class AvalanchesTask(SegmentationTask):
    """Marks avalanches in photographs, or any one class, by a classifier of windows or a segmentation network.

    Trains on windows, or on whole images with `unet`, `fpn` and `pspnet`, and is measured on whole images. Headline
    metric: `val/dice` of the network's first pass. A pixel is avalanche where its probability reaches a threshold, in a
    region no smaller than a minimum area. Both start at 0.5 and 0, are fitted on the validation images after training,
    and are kept in the checkpoint.

    A second pass sees the edges of the first mask. `callbacks.boosting` can fit boosted trees on the network's outputs.
    Each pass has a threshold and a minimum area of its own. Test measures all passes; predict writes the `final` one,
    by default the one with the best dice on the validation images, if it gains .01 or more over the first pass.

    Args:
        network: `cnn1d`, `cnn2d`, `vgg16`, `resnet50`, `resnet50_v1` or `inception_resnet_v2` classify windows; `unet`,
            `fpn`, `pspnet` and `features`, a small head on a frozen network, mark whole photos.
        encoder: The encoder of the latter, by its name in segmentation_models_pytorch; for `features` by that or by
            timm's.
        size: Height and width that photos are resized to for the latter; follows the data's.
        window: Height and width of the windows in pixels; follows the data's.
        channels: 3, or 1 for a small network that sees gray only.
        components: Principal components of training windows that `cnn1d` sees instead of the windows; null for none.
        pretrained: What the large networks and the encoder start from: `false`, random weights; `true`, the library's
            ImageNet weights; or the path of a weights file.
        stride: Pixels from one classified pixel to the next for networks without a dense form, which are the large
            ones.
        second_input: Input of the second pass: the `edges` of the first mask, the image `enhanced` by them in white,
            `both` for two second passes, or `none`.
        train_on: `first` trains on images only. `both` trains on the inputs of second passes too: on windows with the
            edges of the true mask, on whole photos with those of the mask that the network makes in training.
        final: The pass that predict writes: `first`, `edges`, `enhanced` or `boosted`. `auto` takes the one with the
            best dice on the validation images if that gains .01 or more over the first pass; where none was measured,
            the trees if there are trees, otherwise the first pass.
        xgboost_on: What boosted trees are fitted on after training: the network's `predictions`, its `features`
            (the values before its last layer), or `none` for no trees.
        edge_thresholds: Canny's lower and upper threshold for edges of masks of 0 and 255.
        tile: Height and width in pixels of the parts in which an image is classified.
        backend: Finds the edges: `exact` like OpenCV, or `kornia`, which has the Euclidean gradient only and needs
            thresholds above 0.
        loss: What training minimizes: `bce`, cross-entropy, and for whole photos also `bce_dice`, `bce_lovasz` or
            `focal_dice`.
        optimizer: Builds the optimizer; the paper used Adam or RMSprop at 1e-3.
        **options: Options of every segmentation task, see `SegmentationTask`.

    Attributes:
        decision: Threshold and minimum area of the first pass.
        second_decisions: Those of the second passes, by their input.
        boosted_decision: Those of the trees.
        validation_dice: The dice of each of `PASSES` on the validation images with its fitted decision; -1 if unknown.
        trees: The boosted trees, or None; `tasks.boosting.load` reads them.

    Raises:
        ValueError: The network is unknown or cannot take such windows, or a number is out of range.
    """

    network: nn.Sequential
    fixed = ("architecture", "freeze_encoder", "presence_head")
    classes = ("avalanche",)
    fitted_keys = ("decision.", "second_decisions.", "validation_dice")
    optional_keys = (
        "validation_dice",
        *(f"second_decisions.{each}.{name}" for each in SECOND for name in FITTED),
        *(f"{each}.temperature.values" for each in DECISIONS),
    )
    second_decisions: Mapping[str, Decision]
    validation_dice: Tensor

    def __init__(
        self,
        network: Network = "cnn2d",
        window: int = 33,
        channels: Literal[1, 3] = 3,
        components: int | None = None,
        pretrained: bool | str = False,
        stride: Literal[1, 2, 4] = 1,
        second_input: Literal["none", "edges", "enhanced", "both"] = "both",
        train_on: Literal["first", "both"] = "first",
        final: Final = "auto",
        xgboost_on: Literal["none", "predictions", "features"] = "none",
        edge_thresholds: tuple[float, float] = (100, 200),
        tile: int = 128,
        backend: Backend = "exact",
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=1e-3),
        encoder: str = "mobilenet_v2",
        size: tuple[int, int] | None = None,
        loss: SegmentationLoss = "bce",
        **options: Any,
    ) -> None:
        self.whole = network in WHOLE
        if self.whole and (components is not None or xgboost_on != "none" or channels != 3):
            raise ValueError(f"{network} sees whole photos in color: it has no components, trees or gray input")
        if tile < 1 or not all(0 <= each < math.inf for each in edge_thresholds):
            raise ValueError(f"{tile=} and {edge_thresholds=}; expected 1 pixel or more and finite numbers from 0")
        if backend == "kornia" and not all(edge_thresholds):
            raise ValueError(f"backend 'kornia' needs edge thresholds above 0, got {list(edge_thresholds)}")
        second = SECOND if second_input == "both" else (second_input,)
        if final not in ("auto", "first", "boosted", *second) or (final == "boosted" and xgboost_on == "none"):
            raise ValueError(f"final is {final!r}, but {second_input=} and {xgboost_on=} make no such pass")
        if train_on == "both" and second_input == "none":
            raise ValueError("train_on is 'both', but second_input is 'none'; expected edges, enhanced or both")
        self.train_on, self.given_final = train_on, final
        self.name, self.window, self.channels, self.components = network, window, channels, components
        self.stride, self.tile, self.edge_thresholds, self.size = stride, tile, edge_thresholds, size
        self.backend = backend
        if xgboost_on != "none":
            check_installed("xgboost", "Boosted trees (xgboost_on) need")
        self.second_input, self.xgboost_on = second_input, xgboost_on
        self.trees: Booster | None = None
        super().__init__(
            architecture="unet",
            encoder=encoder,
            pretrained=pretrained,
            freeze_encoder=False,
            presence_head=False,
            optimizer=optimizer,
            loss=loss,
            **options,
        )
        if not self.whole and (loss, *(getattr(self, name) for name in OF_WHOLE)) != OF_WINDOWS:
            raise ValueError(f"{network} classifies windows: loss, {', '.join(OF_WHOLE)} are for {', '.join(WHOLE)}")
        self.boosted_decision = Decision(1)
        self.second_decisions = nn.ModuleDict({each: Decision(1) for each in SECOND})  # type: ignore[assignment]  # alike
        self.register_buffer("validation_dice", torch.full((len(PASSES),), UNKNOWN))

    def build_network(self) -> nn.Module:
        match self.name:
            case "unet" | "fpn" | "pspnet" | "features":
                return segmentation_network(self.name, self.encoder, 1, self.pretrained_bands)
            case _:
                return window_classifier(self.name, self.window, self.channels, self.components)

    def build_metrics(self) -> dict[str, Metric]:
        """Returns metrics of whole images: of their windows, one per pixel, and of their masks."""
        return picture_metrics(self.classes)

    def build_training_metrics(self) -> dict[str, Metric]:
        return mask_metrics(self.classes) if self.whole else window_metrics(self.classes)

    @property
    def seconds(self) -> Sequence[str]:
        """The inputs of the second passes."""
        return SECOND if self.second_input == "both" else [each for each in SECOND if each == self.second_input]

    @property
    def final(self) -> str:
        if self.given_final != "auto":
            return self.given_final
        made = ["first", *self.seconds, *(["boosted"] if self.trees is not None else [])]
        dice = dict(zip(PASSES, self.validation_dice.tolist(), strict=True))
        measured = {each: dice[each] for each in made if dice[each] >= 0}
        if not measured:
            return "first" if self.trees is None else "boosted"
        best = max(measured, key=lambda each: measured[each])  # the earliest of equal ones
        return best if measured[best] >= measured.get("first", UNKNOWN) + LEAST_GAIN else "first"

    @property
    def active_decision(self) -> Decision:
        final = self.final
        return {"first": self.decision, "boosted": self.boosted_decision, **self.second_decisions}[final]

    def fit_order(self) -> Sequence[Mapping[str, Decision]]:
        seconds = {each: self.second_decisions[each] for each in self.seconds}
        return [{"first": self.decision}, *([seconds] if seconds else [])]

    def passes(self, batch: Batch, names: Iterable[str]) -> dict[str, Tensor]:
        batch = {key: value for key, value in batch.items() if key != "ignored"}  # which is not known of new images
        outputs = None if self.trees is None else self.outputs(batch)
        first = self.probability(batch, None if outputs is None else outputs[:, :1])
        found = {"first": first}
        for each in names:
            if each == "boosted":
                assert outputs is not None
                found[each] = self.activate(outputs[:, 1:], batch)
            elif each != "first":
                found[each] = self.passes(self._again(batch, self.decision.masks(first), each), ["first"])["first"]
        return {each: found[each] for each in names}

    def keep_dice(self, dice: Mapping[str, float]) -> None:
        for each, value in dice.items():
            self.validation_dice[PASSES.index(each)] = value

    def add_members(self, members: Sequence[ImageTask], names: Sequence[object]) -> None:
        """Averages the probabilities of other tasks with this one's, see `ImageTask.add_members`.

        Raises:
            ArgumentError: One predicts something else, or has boosted trees.
        """
        every = zip((self, *members), ("the first checkpoint", *names), strict=True)
        trees = [str(name) for member, name in every if getattr(member, "xgboost_on", "none") != "none"]
        if members and trees:
            raise ArgumentError(
                f"Boosted trees decide about the outputs of one network, and these have some: {', '.join(trees)}. "
                "Checkpoints are averaged without their trees: --model.xgboost_on none."
            )
        super().add_members(members, names)

    def load_pretrained(self) -> None:
        """Fills the features of a large network.

        Raises:
            WeightsError: The weights are missing or do not fit.
        """
        if self.whole:
            super().load_pretrained()
            return
        if self.pretrained is not False and self.name in ("cnn1d", "cnn2d"):
            raise WeightsError(f"{self.name} has no pretrained weights: give --model.pretrained false.")
        if self.pretrained is not False:
            load_features(self.network[0], self.name, self.pretrained)

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Takes the principal components from the training windows."""
        if self.components is not None and not is_filled(self.network):
            held = fill_projection(self.network, (batch["image"] for batch in batches), self.summed)
            rank_zero_info(f"{self.components} principal components hold {held:.1%} of the windows' variance.")

    def on_fit_start(self) -> None:
        """Drops what is fitted after training: resumed epochs compare with the earlier ones.

        Raises:
            TrainingError: The network has no principal components yet.
        """
        self.trees = None
        for decision in (self.decision, self.boosted_decision, *self.second_decisions.values()):
            decision.reset()
        self.validation_dice.fill_(UNKNOWN)
        if self.components is not None and not is_filled(self.network):
            raise TrainingError(
                "The principal components are not fitted. Add callbacks.handover.Handover(data) to the trainer's "
                "callbacks."
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Drops the trees: those of a checkpoint lie beside it, and `callbacks.boosting` reads them.

        Earlier versions marked second passes with the decision of the first, and always wrote the last pass.
        """
        self.trees = None
        state = checkpoint["state_dict"]
        state.setdefault("validation_dice", torch.arange(len(PASSES), dtype=torch.float32))
        for each in SECOND:
            for name in FITTED:
                state.setdefault(f"second_decisions.{each}.{name}", state[f"decision.{name}"].clone())
        super().on_load_checkpoint(checkpoint)

    def classified(self, image: Tensor, valid: Tensor | None = None) -> Tensor:
        """Classifies the window around each pixel of images (B, 3, H, W) in [0, 1].

        Args:
            image: The images.
            valid: Pixels to classify, bool (B, 1, H, W); logits elsewhere are undefined.

        Returns:
            The network's logits (B, 1, H, W); with trees (B, 2, H, W), theirs after the network's.
        """
        network, head = self.network, None
        if self.trees is not None:
            network, head = with_trees(self.network, self.trees, self.xgboost_on)
        classify = partial(classify_picture, network, window=self.window, stride=self.stride, tile=self.tile, head=head)
        parts = [None] * len(image) if valid is None else valid[:, 0]
        with torch.autocast(image.device.type, enabled=False):
            return torch.stack([classify(each, where=part) for each, part in zip(image.float(), parts, strict=True)])

    def outputs(self, batch: Batch) -> Tensor:
        """Returns logits: of windows with a `label` each (B, 1, 1, 1), otherwise of all pixels (B, 1 or 2, H, W)."""
        if self.whole:
            return self.marked(batch["image"])
        if "label" in batch:
            return self(batch["image"])[:, :, None, None]  # type: ignore[no-any-return]  # untyped in Lightning
        return self.classified(batch["image"], batch.get("valid"))

    def exported(self) -> Callable[[Batch], dict[str, Tensor]]:
        """Returns the function for the `probability` of one pass, that of windows by the network's dense form."""
        if self.whole:
            return super().exported()
        try:
            dense = DenseForm(self.network, self.window)
        except NoDenseFormError as error:
            raise ArgumentError(
                f"{self.name} cannot be exported: {error} Export cnn1d, cnn2d, or a network of whole photographs."
            ) from error
        before = self.window // 2
        border = (before, self.window - 1 - before) * 2

        def classified(batch: Batch) -> dict[str, Tensor]:
            logits = dense(functional.pad(batch["image"], border, mode="reflect"))
            return {"probability": self.calibrated(logits.float().sigmoid())}

        return classified

    def vectors(self, image: Tensor) -> Tensor | None:
        return super().vectors(self._at_size(image)) if self.whole else None

    def _at_size(self, image: Tensor) -> Tensor:
        """Returns images (B, 3, H, W) at the size that whole photos are computed at."""
        size = self.size or image.shape[-2:]
        if tuple(size) == tuple(image.shape[-2:]):
            return image
        return functional.interpolate(image, size, mode="bilinear", antialias=True)

    def marked(self, image: Tensor) -> Tensor:
        """Returns logits (B, 1, H, W) of whole images (B, 3, H, W) in [0, 1], computed at `size`."""
        logits: Tensor = resized_maps(self(self._at_size(image)), image.shape[-2:])
        return logits

    def activate(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Turns logits into probabilities (B, 1, H, W), the trees' if they are final; 0 where not valid."""
        by_trees = self.trees is not None and self.final == "boosted"
        if "label" in batch:  # windows, whose mask is larger than their one logit
            batch = {key: value for key, value in batch.items() if key != "mask"}
        return super().activate(outputs[:, -1:] if by_trees else outputs[:, :1], batch)

    def target(self, batch: Batch) -> Tensor:
        """Returns the truth, without avalanches that are not valid: nobody looked for them there."""
        truth: Tensor = batch["label"][:, None, None, None] if "label" in batch else batch["mask"]
        return truth * batch["valid"] if "valid" in batch else truth

    def step(self, batch: Batch) -> Step:
        """Returns loss and decisions of the first pass: of windows, or of all pixels of whole images.

        With `train_on: both` the loss of training is the mean over the first and the second passes.
        """
        if not self.training or self.train_on == "first":
            return self._step(self.outputs(batch)[:, :1], batch, self.decision)
        mask = batch["mask"] > 0.5 if "label" in batch else self._first_mask(batch)
        images = [batch["image"], *(self._again(batch, mask, each)["image"] for each in self.seconds)]
        # Together, because batch statistics of one kind of image do not fit the others.
        first, *seconds = self.outputs(batch | {"image": torch.cat(images)})[:, :1].chunk(len(images))
        step = self._step(first, batch, self.decision)
        count = counted(batch, step.target.shape[-2:])
        losses = [step.loss, *(self.loss(logits, step.target, count) for logits in seconds)]
        return replace(step, loss=torch.stack(losses).mean())

    def _first_mask(self, batch: Batch) -> Tensor:
        """Returns the masks of the first pass as they are in prediction."""
        self.eval()
        with torch.no_grad():
            mask = self.decision.masks(self.activate(self.outputs(batch), batch))
        self.train()
        return mask

    def _step(self, logits: Tensor, batch: Batch, decision: Decision) -> Step:
        """Returns loss and decisions of logits (B, 1, H, W)."""
        target, probability = self.target(batch), self.measured(batch, logits)
        loss = self.loss(logits, target, counted(batch, target.shape[-2:]))
        return Step(loss, decision.masks(probability), target, probability, known(batch))

    def on_test_start(self) -> None:
        """Makes meters for every pass and every condition of the test images."""
        passes = {"first": "", **({} if self.trees is None else {"boosted": "boosted_"})}
        passes |= {each: self._prefix(each) for each in self.seconds}
        self._passes = PassMeters(list(passes.values()), self.facts.conditions, self.classes, self.device)
        if len(passes) > 1:
            rank_zero_info(f"Predict writes the pass {self.final!r}: its metrics are test/{passes[self.final]}…")

    def test_meters(self) -> dict[tuple[str, str], Meter]:
        """Returns the meters of the first pass, `boosted_…` of the trees, `second_…`; and of each `…@<condition>`."""
        return self._passes.named()

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Counts a test image after the first pass, of the network and of the trees, and after each second one."""
        logits = self.outputs(batch)
        self._count("", logits[:, :1], batch, self.decision)
        if self.trees is not None:
            self._count("boosted_", logits[:, 1:], batch, self.boosted_decision)
        if self.seconds:
            shown = {key: value for key, value in batch.items() if key != "ignored"}  # as `passes` does
            mask = self.decision.masks(self.measured(shown, logits[:, :1]))
            for each in self.seconds:
                again = self._again(batch, mask, each)
                self._count(self._prefix(each), self.outputs(again)[:, :1], again, self.second_decisions[each])

    def _count(self, prefix: str, logits: Tensor, batch: Batch, decision: Decision) -> None:
        step = self._step(logits, batch, decision)
        self._passes.count(prefix, step, batch.get("condition", []))
        if decision is self.active_decision:
            self.lost = lost_pieces(step, decision)

    def _prefix(self, second: str) -> str:
        """Returns what names of a second pass's metrics and stages begin with."""
        return f"second_{second}_" if len(self.seconds) > 1 else "second_"

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Any]:
        """Classifies whole images.

        Args:
            batch: `image` (B, 3, H, W) in [0, 1], and optionally `valid` (B, 1, H, W), the pixels to classify.

        Returns:
            `probability` (B, 1, H, W) of the final pass, and `stages`, the intermediate results by name.
        """
        check_images(batch)
        final, batch = self.final, batch | {"image": batch["image"].float()}
        names = ["first", *(each for each in self.seconds if self.every_stage or each == final)]
        found = self.passes(batch, [*names, *([final] if final == "boosted" else [])])
        mask = self.decision.masks(found["first"])
        stages = {"first_probability": found["first"], "first_mask": mask, "first_edges": self._edges(mask)}
        for each in names[1:]:
            stages[f"{self._prefix(each)}input"] = self._again(batch, mask, each)["image"]
            stages[f"{self._prefix(each)}probability"] = found[each]
            again = self.second_decisions[each].masks(found[each])
            stages |= {f"{self._prefix(each)}mask": again, f"{self._prefix(each)}mask_edges": self._edges(again)}
        if final == "boosted":
            boosted = self.masks(found[final])
            stages |= {"boosted_mask": boosted, "boosted_mask_edges": self._edges(boosted)}
        return {"probability": found[final], "stages": stages}

    def _again(self, batch: Batch, mask: Tensor, second: str) -> Batch:
        """Returns a batch with the input of a second pass, from the mask (B, 1, H, W) of the first."""
        return batch | {"image": redrawn(batch["image"], self._edges(mask), second)}

    def _edges(self, mask: Tensor) -> Tensor:
        levels = mask.to(torch.uint8) * 255
        return canny(levels, *self.edge_thresholds, l2=self.backend == "kornia", backend=self.backend)


def window_metrics(classes: Sequence[str]) -> dict[str, Metric]:
    """Returns metrics of classified windows, or of pixels classified by the windows around them."""
    return {"windows": PixelScores(["accuracy", "balanced_accuracy"]), "auprc": PixelAveragePrecision(classes)}


def mask_metrics(classes: Sequence[str]) -> dict[str, Metric]:
    """Returns metrics of the masks of whole images."""
    return {"masks": DiceScores(classes, pooled=False), "pixels": PixelScores(["iou"])}


def picture_metrics(classes: Sequence[str]) -> dict[str, Metric]:
    """Returns metrics of whole images: of their pixels, of their masks, and of the outlines of these."""
    return {**window_metrics(classes), **mask_metrics(classes), "boundary": BoundaryDistance()}


def redrawn(image: Tensor, edges: Tensor, second_input: str) -> Tensor:
    """Returns the input of the second pass: edges (B, 1, H, W), bool, or images (B, 3, H, W) with them in white."""
    return edges.to(image).expand_as(image) if second_input == "edges" else image.masked_fill(edges, 1.0)


class PassMeters:
    """One meter per pass, and one per pass and condition.

    Args:
        passes: Prefix of each pass's metrics.
        conditions: Conditions of the images; the same in all processes.
        classes: Names of the masks' classes.
        device: Where the meters count.
    """

    def __init__(
        self,
        passes: Sequence[str],
        conditions: Sequence[str],
        classes: Sequence[str],
        device: torch.device,
    ) -> None:
        self.meters = {
            (each, condition): Meter(mask_metrics(classes) if condition else picture_metrics(classes)).to(device)
            for each in passes
            for condition in ("", *conditions)
        }

    def count(self, each: str, step: Step, conditions: Sequence[str]) -> None:
        """Counts a batch of one pass, whose images all have these conditions."""
        for condition in {"", *conditions}:
            self.meters[each, condition].update(step, len(step.target))

    def named(self) -> dict[tuple[str, str], Meter]:
        """Returns the meters by the prefix of their metrics' names, the pass's, and the suffix, `@<condition>`."""
        return {(each, condition and f"@{condition}"): meter for (each, condition), meter in self.meters.items()}
