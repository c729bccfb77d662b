"""Roads: which pixels of an aerial image show a road?

After A. Kebir, M. Taibi and F. Serradilla, "Compressed VGG16 auto-encoder for road segmentation from aerial images with
few data training", ICCSA 2021: VGG16 and two compressed auto-encoders, trained from scratch with binary cross-entropy.
"""

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torchmetrics import Metric

from datamodules.batch import Batch
from tasks.decision import Decision
from tasks.losses import SegmentationLoss
from tasks.metrics.dice import DiceScores
from tasks.metrics.pixels import PixelScores
from tasks.metrics.topology import PathSimilarity, RelaxedScores
from tasks.networks.backbones import encoder_of, load_encoder, segmentation_network
from tasks.networks.layers import Init
from tasks.networks.vgg_autoencoder import LAYERS, Norm, copy_kernels, vgg_autoencoder
from tasks.segmentation import SegmentationTask

Network = Literal["vgg10", "vgg12", "vgg16", "unet", "fpn", "pspnet", "features"]
COMPRESSED = ("vgg10", "vgg12")


class RoadsTask(SegmentationTask):
    """Marks roads in aerial images, or any one class.

    Trains on tiles and is measured on whole images, by the masks that `predict` writes. Headline metric:
    `val/f_measure`, because the mean dice counts a tile without roads that is left blank as perfect. A pixel is road
    where its probability reaches the threshold, in a region no smaller than the minimum area.
    `FittedThresholds` fits both on the validation images.

    Args:
        network: The paper's auto-encoders `vgg10`, `vgg12` or `vgg16`; or, not in the paper, a `unet`, `fpn` or
            `pspnet` with any encoder that clouds has, or `features`, a small head on a frozen network.
        encoder: The encoder of the latter, by its name in segmentation_models_pytorch; for `features` by that or by
            timm's.
        pretrained: What the encoder starts from: `false`, random weights, as in the paper; `true`, the library's
            ImageNet weights; or the path of a weights file. The compressed networks have no such weights.
        norm: `batch` adds batch normalization to the auto-encoders, after every convolution but the last, also after
            those of pretrained weights, whose biases it removes. The paper's have none, and without it they predict
            nothing for the first hundreds of steps.
        init: How the auto-encoders' weights start: `glorot`, Keras's default and so probably the paper's, or `he`,
            without which `vgg16` hardly sees its image at first.
        prior_bias: Whether the bias of the last convolution starts at the log-odds of road among the training pixels,
            instead of 0. The checkpoint keeps the share of road as `prior`.
        threshold: Probability in [0, 1] at and above which a pixel is road. A value that differs from the checkpoint's
            overrides the checkpoint's thresholds.
        minimum_area: Smallest region, in pixels, that is kept in whole images. In training smaller ones are kept,
            because a tile shows cut ends of roads.
        buffer: How far a road may be off in the relaxed metrics, in pixels, or in meters if there is a `pixel_size`.
        pixel_size: Meters per pixel of the test images, for the relaxed metrics and `apls`; 1 measures in pixels.
        loss: What training minimizes, see `SegmentationTask`; the paper used `bce`.
        optimizer: Builds the optimizer; the paper used RMSprop, whose rate and decay in Keras are 1e-3 and 0.9.
        **options: Options of every segmentation task, see `SegmentationTask`.

    Raises:
        ValueError: The network or encoder is unknown or has no pretrained weights, or a number is out of range.
    """

    classes = ("road",)
    line_classes = classes
    optional_keys = ("decision.thresholds", "decision.minimum_areas", *SegmentationTask.optional_keys)
    headline = "f_measure"
    fixed = ("architecture", "freeze_encoder", "presence_head")
    prior: Tensor

    def __init__(
        self,
        network: Network = "vgg10",
        encoder: str = "mobilenet_v2",
        pretrained: bool | str = False,
        norm: Norm = "none",
        init: Init = "glorot",
        prior_bias: bool = False,
        threshold: float = 0.5,
        minimum_area: int = 0,
        buffer: float = 3.0,
        pixel_size: float = 1.0,
        optimizer: OptimizerCallable = lambda p: torch.optim.RMSprop(p, lr=1e-3, alpha=0.9, eps=1e-7),
        loss: SegmentationLoss = "bce",
        **options: Any,
    ) -> None:
        if network in COMPRESSED and pretrained is not False:
            raise ValueError(
                f"pretrained is {pretrained!r}, but {network!r} has no pretrained weights; expected pretrained false, "
                "or the network vgg16, unet, fpn, pspnet or features"
            )
        if (norm, init) != ("none", "glorot") and network not in LAYERS:
            raise ValueError(
                f"norm is {norm!r}, init {init!r} and network {network!r}; expected norm none and init glorot, or one "
                f"of the networks {', '.join(LAYERS)}"
            )
        if not 0 <= threshold <= 1 or minimum_area < 0:
            raise ValueError(
                f"threshold is {threshold} and minimum_area {minimum_area}; expected a probability in [0, 1] and 0 "
                "pixels or more"
            )
        if not (0 <= buffer < math.inf and 0 < pixel_size < math.inf):
            raise ValueError(f"buffer is {buffer} and pixel_size {pixel_size}; expected 0 or more, and more than 0")
        self.buffer, self.pixel_size = buffer, pixel_size
        self.name, self.norm, self.init, self.prior_bias = network, norm, init, prior_bias
        self.threshold, self.minimum_area = threshold, minimum_area
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
        if network in LAYERS and self.pretrained_bands is not None:
            raise ValueError(f"pretrained_bands are for unet, fpn and pspnet; expected null for {network!r}")
        if prior_bias:
            self.register_buffer("prior", torch.tensor(math.nan))

    def build_network(self) -> nn.Module:
        match self.name:
            case "unet" | "fpn" | "pspnet" | "features":
                return segmentation_network(self.name, self.encoder, 1, self.pretrained_bands)
            case _:
                return vgg_autoencoder(self.name, norm=self.norm, init=self.init)

    def build_decision(self) -> Decision:
        return Decision(1, self.threshold, self.minimum_area)

    def build_metrics(self) -> dict[str, Metric]:
        """Returns the dice of images, and CDnet's metrics over all pixels, the F-measure among them."""
        return {"dice": DiceScores(self.classes, pooled=False), "pixels": PixelScores()}

    def build_test_metrics(self) -> dict[str, Metric]:
        """Returns the metrics of validation, and those of whole roads: the relaxed ones and the APLS."""
        relaxed = RelaxedScores(self.buffer / self.pixel_size)
        return {**self.build_metrics(), "relaxed": relaxed, "routes": PathSimilarity(self.pixel_size)}

    def load_pretrained(self) -> None:
        if self.name != "vgg16":
            load_encoder(self.network, self.encoder, self.pretrained, self.pretrained_bands)
        elif self.norm == "none" or self.pretrained is False:
            load_encoder(self.network, "vgg16", self.pretrained)
        else:
            plain = vgg_autoencoder("vgg16")
            load_encoder(plain, "vgg16", self.pretrained)
            copy_kernels(encoder_of(plain), encoder_of(self.network))

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Starts the last bias at the log-odds of road, if asked to, unless a checkpoint has been loaded."""
        if not self.prior_bias or self.prior.isfinite():
            return
        counts = torch.zeros(2, dtype=torch.int64)  # pixels with road, all
        for batch in batches:
            marked = batch["mask"] > 0.5
            counts += torch.tensor([int(marked.sum()), marked.numel()])
        road, pixels = (self.summed(counts) + torch.tensor([1, 2])).tolist()  # never 0 or 1
        self.prior.fill_(road / pixels)
        last = [layer for layer in self.network.modules() if isinstance(layer, nn.Conv2d)][-1]
        assert last.bias is not None
        nn.init.constant_(last.bias, math.log(road / (pixels - road)))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["threshold"] = self.threshold

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps a threshold that was given now and differs from the one that the checkpoint was trained with."""
        if checkpoint.get("threshold", self.threshold) != self.threshold:
            checkpoint["state_dict"].pop("decision.thresholds", None)
        super().on_load_checkpoint(checkpoint)
