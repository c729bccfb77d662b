"""What an exported file computes: a network with all that comes before and after it, for images of any size."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.color.coloring import EPSILON, RADIUS
from ops.color.lab import in_gamut, joined, lab_to_rgb, luminance_and_chroma
from ops.pictures import WHITE, seen
from ops.resampling import levels_resized, matrix, resampled
from tasks.base import ImageTask
from tasks.segmentation import SegmentationTask

Settings = Mapping[str, Any]


class Portable(nn.Module):
    """Prepares images, applies a task and finishes its outputs, in operations that ONNX has.

    Images are (N, H, W, 3): uint8, or floats in [0, 1], which are rounded to 8-bit levels like those of training.

    Args:
        task: The trained task.
        preparation: See `ImageDataModule.preparation`.

    Attributes:
        names: Names of the outputs of `forward`, which each subclass has.
    """

    names: tuple[str, ...]

    def __init__(self, task: ImageTask, preparation: Settings) -> None:
        super().__init__()
        self.task, self.preparation = task.eval().requires_grad_(False), preparation
        self.compute = task.exported()
        for parent in [*task.modules()]:
            for name, child in parent.named_children():
                if type(child) is nn.AdaptiveAvgPool2d and child.output_size not in (1, (1, 1)):
                    setattr(parent, name, PooledAnySize(child.output_size))


class PooledAnySize(nn.AdaptiveAvgPool2d):
    """Pools maps of any size, which ONNX can only do of sizes that it knows."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C, *output_size)."""
        if not torch.compiler.is_exporting():
            return super().forward(input)
        size: Any = self.output_size
        wanted = size if isinstance(size, tuple) else (size, size)
        matrices = []
        for length, count in zip(input.shape[-2:], wanted, strict=True):
            rows, places = torch.arange(count)[:, None], torch.arange(length)
            first, last = rows * length // count, ((rows + 1) * length + count - 1) // count
            inside = ((places >= first) & (places < last)).float()
            matrices.append(inside / inside.sum(dim=1, keepdim=True))
        return resampled(input, *matrices)


def levels_of(image: Tensor) -> Tensor:
    """Returns images (N, H, W, 3) as levels from 0 to 255, float32 (N, 3, H, W)."""
    levels = image.permute(0, 3, 1, 2).float()
    return (levels * 255).round().clamp(0, 255) if image.is_floating_point() else levels


class PortableMasks(Portable):
    """Marks classes: `probability` (N, K, H, W) and `mask`, where it reaches the thresholds, without minimum areas.

    Outputs are as large as the images, or of the `output_size`.
    """

    names = ("probability", "mask")
    task: SegmentationTask

    def __init__(self, task: ImageTask, preparation: Settings) -> None:
        super().__init__(task, preparation)
        self.decision = self.task.active_decision  # may depend on values in the checkpoint

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns the outputs for images that are resized to the network's input, or by the scale of windows."""
        height, width = image.shape[1:3]
        (rows, columns), window = self.preparation["size"], self.preparation.get("window")
        if window is not None:
            rows = (2 * height * rows + window[0]) // (2 * window[0])  # rounded
            columns = (2 * width * columns + window[1]) // (2 * window[1])
        levels = levels_of(image)
        if window is None or [*window] != [*self.preparation["size"]]:
            levels = levels_resized(levels, (rows, columns))
        batch = {"image": levels / 255}
        if self.preparation.get("leave_out_gaps"):
            batch["valid"] = seen(batch["image"])
        maps = self.compute(batch)["probability"]
        size = self.preparation.get("output_size") or (height, width)
        return self.decided(F.interpolate(maps, tuple(size), mode="bilinear"))

    def decided(self, probability: Tensor) -> tuple[Tensor, ...]:
        """Returns probabilities (N, K, H, W) and masks."""
        return probability, self.decision.marked(probability)


class PortableScene(PortableMasks):
    """As `PortableMasks`, of images whose sides are halved `levels` times; one image at a time."""

    def forward(self, image: Tensor, prepared: Tensor | None = None) -> tuple[Tensor, ...]:
        """Returns the outputs for an image; `prepared` (1, h, w, 3) uint8 is the image with its sides halved."""
        levels = levels_of(image if prepared is None else prepared)
        maps = self.compute({"image": levels / 255})["probability"]
        if prepared is not None:
            maps = _between(maps, 2 ** self.preparation["levels"], image)
        return self.decided(maps)


def _between(maps: Tensor, step: int, image: Tensor) -> Tensor:
    """Returns maps as large as the image, with sample k at pixel k · step (`callbacks.writers.segmentation.stitch`)."""
    reached = [(side - 1) * step + 1 for side in maps.shape[-2:]]
    maps = F.interpolate(maps, reached, mode="bilinear", align_corners=True)
    sides = zip(image.shape[1:3], reached, strict=True)
    rows, columns = (torch.arange(side).clamp(max=last - 1) for side, last in sides)
    return maps[:, :, rows][..., columns]


class Halved(nn.Module):
    """Halves the sides of 8-bit images like `cv2.pyrDown`, see `ops.exact.pyramids`.

    Args:
        levels: How often.
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels
        kernel = torch.tensor([1.0, 4, 6, 4, 1]) / 16
        self.register_buffer("kernel", (kernel[:, None] * kernel).expand(3, 1, 5, 5).clone())

    def forward(self, image: Tensor) -> Tensor:
        """Maps images (N, H, W, 3) to uint8 (N, h, w, 3)."""
        levels = levels_of(image)
        for _ in range(self.levels):
            padded = F.pad(levels, (2, 2, 2, 2), mode="reflect")
            levels = (F.conv2d(padded, self.get_buffer("kernel"), stride=2, groups=3) + 0.5).floor()
        return levels.permute(0, 2, 3, 1).to(torch.uint8)


class PortableScores(Portable):
    """Judges images: `probability` (N,), `shares` of the classes or votes (N, V), and of votes `mean` and `spread`."""

    def __init__(self, task: ImageTask, preparation: Settings) -> None:
        super().__init__(task, preparation)
        votes = ("mean", "spread") if getattr(task, "head", "") == "distribution" else ()
        self.names = ("probability", "shares", *votes)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns the scores of images, whose central square is resized, or all of them if they are squeezed."""
        side, size = self.preparation["side"], self.preparation["size"]
        lengths = [torch.full((), length, dtype=torch.int64) for length in image.shape[1:3]]
        shorter = torch.minimum(*lengths)
        spans = lengths if self.preparation["squeeze"] else [shorter, shorter]
        sources = [((length - span) // 2, span) for length, span in zip(lengths, spans, strict=True)]
        levels = levels_resized(levels_of(image), (side, side), (sources[0], sources[1]))
        first = (side - size) // 2
        found = self.compute({"image": levels[..., first : first + size, first : first + size] / 255})
        return tuple(found[name] for name in self.names)


class PortableColors(Portable):
    """Colors an image at its own size, `image` uint8 (1, H, W, 3); one image at a time.

    The steps are those of `ops.color.coloring.colored`, with the square in place of the image that it is cropped to.

    Args:
        task: The trained task.
        preparation: See `ImageDataModule.preparation`.
        guided: Whether colors stop at edges of the luminance.
    """

    names = ("colored",)

    def __init__(self, task: ImageTask, preparation: Settings, guided: bool = True) -> None:
        super().__init__(task, preparation)
        self.guided = guided

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns the colored image."""
        height, width = image.shape[1:3]
        levels, side = levels_of(image), self.preparation["side"]
        square, valid, boxes = letterbox(levels, side)
        batch = {"image": square / 255, "valid": valid}
        if "view" in self.preparation:
            batch["view"] = letterbox(levels, self.preparation["view"])[0] / 255
        found = self.compute(batch)
        small = guide_inside(found["chroma"], found["luminance"], valid, self.guided)
        rows, columns = (
            matrix("cubic", side, length, source=box) for length, box in zip((height, width), boxes, strict=True)
        )
        large = resampled(small, rows, columns)
        chroma, slopes, blurred = large[:, :2], large[:, 2:4], large[:, 4:]
        luminance = luminance_and_chroma(levels / 255)[0]
        rgb = lab_to_rgb(in_gamut(joined(luminance, chroma + slopes * (luminance - blurred))))
        return ((255 * rgb).round().clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8),)


Part = tuple[Tensor, Tensor]


def letterbox(levels: Tensor, side: int) -> tuple[Tensor, Tensor, tuple[Part, Part]]:
    """Letterboxes an image like `ops.pictures.letterboxed`.

    Args:
        levels: (1, 3, H, W).
        side: Side S of the square.

    Returns:
        The square (1, 3, S, S), where it shows the image, bool (1, 1, S, S), and the rows and columns of the image in
        it: the first and their number.
    """
    lengths = [torch.full((), length, dtype=torch.int64) for length in levels.shape[-2:]]
    longest = torch.maximum(*lengths)
    counts = [((2 * length * side + longest) // (2 * longest)).clamp(min=1) for length in lengths]
    rows, columns = (((side - count) // 2, count) for count in counts)
    places = torch.arange(side)
    inside = [(places >= first) & (places < first + count) for first, count in (rows, columns)]
    valid = (inside[0][:, None] & inside[1])[None, None]
    square = levels_resized(levels, (side, side), targets=(rows, columns))
    return torch.where(valid, square, WHITE), valid, (rows, columns)


def guide_inside(chroma: Tensor, luminance: Tensor, valid: Tensor, guided: bool) -> Tensor:
    """Returns what `ops.color.coloring.guide` does of the valid part of squares, in place, and 0 elsewhere."""
    share = _box(valid.float())

    def mean(maps: Tensor) -> Tensor:
        return _box(maps * valid) / share.clamp(min=1e-6)

    center, level = mean(chroma), mean(luminance)
    variance = (mean(luminance * luminance) - level * level).clamp(min=0)
    slopes = mean((mean(luminance * chroma) - level * center) / (variance + EPSILON))
    found = torch.cat([chroma, slopes if guided else torch.zeros_like(slopes), luminance], dim=1)
    return torch.where(valid, found, 0)


def _box(maps: Tensor) -> Tensor:
    return F.avg_pool2d(maps, 2 * RADIUS + 1, stride=1, padding=RADIUS)


def portable(task: ImageTask, preparation: Settings, guided: bool = True) -> Portable:
    """Returns what a file computes for a task and the preparation of its data."""
    match preparation["kind"]:
        case "letterboxed":
            return PortableColors(task, preparation, guided)
        case "squared":
            return PortableScores(task, preparation)
        case "pyramid":
            return PortableScene(task, preparation)
        case _:
            return PortableMasks(task, preparation)
