"""Writes masks, polygons and intermediate stages of regions in large images."""

import math
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningModule

from callbacks.writers.format import Row
from callbacks.writers.segmentation.maps import Maps, Vectors
from callbacks.writers.segmentation.masks import MaskFiles, MaskOverview
from callbacks.writers.segmentation.polygons import LEAST, Kind, Outlines
from callbacks.writers.segmentation.stitch import StitchingWriter
from callbacks.writers.segmentation.stitched import Stitched, StitchedFormat
from drawing.pictures import save_picture
from ops.errors import ArgumentError
from ops.files.names import safe_path
from tasks.base import ImageTask


class OutlineWriter(StitchingWriter):
    """Writes the mask, the polygon and an overlay of every image of a one-class task into the run folder.

    - `masks/<path and stem>.png`: 0 and 255, as large as the image.
    - `polygons.json`: for each image its size, its polygon, the number of vertices, its IoU with the mask, the
      tolerance, the smoothing, and whether it is sunny or shady, see `ops.light`.
    - `overlays/<path and stem>.jpg`: the image with the mask tinted and the polygon drawn, at most 1200 pixels long.
    - `overview.html`: all images on one page, see `callbacks.writers.overview`.
    - `stages/<path and stem>/<number>_<name>.png`: the intermediate maps of the task, at their own size.
    - `maps/` and `areas.csv`: of images that have a georeference, see `callbacks.writers.segmentation.maps.Maps`.

    Args:
        keep_stages: Whether to write the stages.
        outline: What the polygon follows: `raw`, every region and hole of the mask; `clean`, its regions without holes
            that have at least a quarter of the largest one's area; `single`, the largest one alone. With `boxes.csv`,
            `clean` and `single` look at each box by itself. Masks stay as they are.
        tolerance: Maximum distance in pixels of the full image between polygon and outline; 0 keeps every vertex. Null
            is 1 for `raw`; for `clean` and `single` the largest that `least_iou` allows, up to 1/40 of the longer side.
        smooth: Whether to smooth outlines with splines first; the tolerance is then divided by four.
        least_iou: Minimum IoU of a polygon with the regions that it follows; null is 0.98 for `raw`, otherwise 0.95.
            Below it, tolerance and smoothing are reduced in steps until it is reached, which the end of `predict`
            reports. 0 accepts every polygon.
        vectors: Format of polygons on the ground: `gpkg`, `geojson` or `none`.

    Raises:
        ArgumentError: The outline is unknown, the tolerance is not a distance, or the IoU not in [0, 1].
    """

    def __init__(
        self,
        keep_stages: bool = False,
        tolerance: float | None = None,
        smooth: bool = False,
        least_iou: float | None = None,
        vectors: Vectors = "gpkg",
        outline: Kind = "raw",
    ) -> None:
        if outline not in LEAST:
            raise ArgumentError(f"outline is {outline!r}; expected one of {', '.join(LEAST)}")
        if not (0 <= (tolerance or 0) < math.inf and 0 <= (least_iou or 0) <= 1):
            raise ArgumentError(
                f"expected a tolerance of 0 pixels or more and a least_iou in [0, 1], got {tolerance} and {least_iou}"
            )
        self.keep_stages, self._stages = keep_stages, ExitStack()
        stages = [Stages()] if keep_stages else []
        outlines = Outlines(tolerance, smooth, least_iou, outline)
        super().__init__([outlines, MaskFiles(by_class=False), MaskOverview(), *stages, Maps(vectors)])

    def begin(self, task: LightningModule, folder: Path, in_memory: bool = False) -> None:
        if self.keep_stages and isinstance(task, ImageTask):
            self._stages.enter_context(task.with_stages())
        super().begin(task, folder, in_memory)

    def end(self) -> None:
        self._stages.close()
        super().end()


class Stages(StitchedFormat):
    """Writes `stages/<path and stem>/<number>_<name>.png`."""

    folders = ("stages",)

    def write(self, image: Stitched, folder: Path) -> list[Row]:
        if not image.stages:
            raise ArgumentError("keep_stages is true, but the task predicts no stages; set keep_stages to false")
        for number, (name, stage) in enumerate(image.stages.items(), start=1):
            levels = (stage.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
            drawn = levels[0] if len(levels) == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0))
            save_picture(drawn, folder / "stages" / safe_path(image.name, "") / f"{number}_{name}.png")
        return []
