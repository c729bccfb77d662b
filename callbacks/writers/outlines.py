"""Writes what `predict` found of regions in large pictures: masks, polygons, and the stages on the way to them."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from callbacks.writers.base import new_part, place, remove_part
from callbacks.writers.stitch import Marker
from drawing.pictures import Picture, color_of, labelled, save_picture, scaled, scaled_masks
from ops.polygons import Ring, intersection_over_union, polygon_mask, rings, simplified, smoothed
from tasks.base import Batch

VIEW = 1200  # pixels of the longer side of what is drawn over
TINT = 0.3  # share of the colour in what is drawn inside a mask
SMOOTHNESS = 16.0  # pixels of the waves of an outline that are halved where it is smoothed
FRACTION = 4  # bits of the fractions of pixels that OpenCV is given
CONVENTION = (
    "Points are [x, y] in pixels of the full picture, x to the right and y down. Whole numbers are pixel centres: the "
    "picture reaches from -0.5 to width - 0.5 and from -0.5 to height - 0.5. The last point of a ring joins its first. "
    "A pixel is inside where its centre lies in an odd number of rings (even-odd), so that a ring in a ring is a hole. "
    "size is [height, width]; iou is the intersection over union of the polygon and the mask."
)


class OutlineWriter(Callback):
    """Writes the mask, the polygon and an overlay of every picture into the run's folder.

    - `masks/<stem>.png`: 0 and 255, as large as the picture.
    - `polygons.json`: for each picture its size, its polygon, the number of its vertices, and its IoU with the mask.
    - `overlays/<stem>.jpg`: the picture with the mask tinted and the polygon drawn, 1200 pixels long at most.
    - `stages/<stem>/<number>_<name>.png`: what led to it, at the level of the pyramid where it was found.

    The task predicts pictures at a level of a pyramid: `probability` (B, 1, h, w) and, where they are kept, `stages`,
    by name and in order, (B, 1, h, w) or (B, 3, h, w), bool or in [0, 1]. It decides by `marked` what of the enlarged
    probability is the mask. The batch has `name`, `index`, `size`, `source` and `level`, how often each picture was
    halved, and maybe `inside`, bool (B, 1, H, W), beyond which nothing is marked. Several processes write their own
    pictures; the polygons are merged at the end. All is written into the folder `part` and moved when it is whole, in
    the place of an earlier prediction's.

    Args:
        keep_stages: Whether the stages are written.
        tolerance: How far in pixels of the full picture a polygon may be from the outline; 0 keeps every vertex.
        smooth: Whether outlines are smoothed by splines first, which are then followed four times as closely.
        least_iou: IoU with its mask that a polygon must have; where it has less, as small and narrow regions may, it is
            simplified and smoothed half as much, and so on. 0 accepts all.

    Raises:
        ValueError: The tolerance is not a distance, or the IoU not in [0, 1].
    """

    def __init__(
        self, keep_stages: bool = False, tolerance: float = 1.0, smooth: bool = False, least_iou: float = 0.98
    ) -> None:
        if not (0 <= tolerance < math.inf and 0 <= least_iou <= 1):
            raise ValueError(
                f"tolerance is {tolerance} and least_iou {least_iou}; wanted are a distance of 0 pixels or more and an "
                "IoU in [0, 1]"
            )
        self.keep_stages, self.tolerance, self.smooth, self.least_iou = keep_stages, tolerance, smooth, least_iou
        self.part = Path()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the folders and an empty table."""
        self.task = cast(Marker, pl_module)
        self.part = new_part(trainer, ["masks", "overlays", *(["stages"] if self.keep_stages else [])])
        self._table(trainer.global_rank).write_text("")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves nothing that is half written."""
        remove_part(trainer, self.part)

    def _table(self, rank: int) -> Path:
        return self.part / f"polygons{rank}.jsonl"

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes a batch.

        Raises:
            ValueError: Stages are to be kept and the task has none, or a map has not the size of its level.
        """
        for i, name in enumerate(batch["name"]):
            height, width = batch["size"][i].tolist()
            probability = outputs["probability"][i : i + 1].float()
            marked = self.task.decision.marked(enlarged(probability, int(batch["level"][i]), (height, width)))
            if "inside" in batch:  # enlarged, it reaches beyond the boxes' edges
                marked &= batch["inside"][i : i + 1]
            mask = self.task.decision.cleaned(marked[0].cpu().numpy())[0]
            polygon, iou = fitted_polygon(mask, self.tolerance, self.smooth, self.least_iou)
            record = {
                "size": [height, width],
                "rings": [ring.tolist() for ring in polygon],
                "vertices": sum(map(len, polygon)),
                "iou": round(iou, 6),
            }
            with self._table(trainer.global_rank).open("a") as file:
                file.write(json.dumps([int(batch["index"][i]), name, record]) + "\n")
            stem = Path(name).stem
            save_picture(mask.view(np.uint8) * np.uint8(255), self.part / "masks" / f"{stem}.png")
            drawn = labelled(drawn_polygon(batch["source"][i], mask, polygon), self.task.classes, [bool(mask.any())])
            save_picture(drawn, self.part / "overlays" / f"{stem}.jpg")
            if self.keep_stages:
                _save_stages(outputs.get("stages", {}), i, self.part / "stages" / stem)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merges the polygons in the order of the data, and moves all to its place."""
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        records = self._merge(trainer.world_size)
        if not self.keep_stages:
            shutil.rmtree(self.part.parent / "stages", ignore_errors=True)  # an earlier prediction's
        rank_zero_info(f"Pictures predicted: {len(records)}.{place(self.part)}\n{_summary(records)}")

    def _merge(self, world_size: int) -> list[dict[str, Any]]:
        tables = [self._table(rank) for rank in range(world_size)]
        rows = [json.loads(line) for table in tables for line in table.read_text().splitlines()]
        rows.sort(key=lambda row: int(row[0]))
        pictures = ",\n".join(f"{json.dumps(name)}: {json.dumps(record)}" for _, name, record in rows)
        text = f'{{"convention": {json.dumps(CONVENTION)},\n"pictures": {{\n{pictures}\n}}}}\n'
        (self.part / "polygons.json").write_text(text)
        for table in tables:
            table.unlink()
        return [record for *_, record in rows]


def fitted_polygon(
    mask: NDArray[np.bool_], tolerance: float = 1.0, smooth: bool = False, least_iou: float = 0.98
) -> tuple[list[Ring], float]:
    """The polygon of a mask (H, W), to hundredths of pixels, and the IoU of the two; see `OutlineWriter`."""
    traced = rings(mask)
    for factor in (1, 1 / 2, 1 / 4, 1 / 8, 0):  # at 0, the polygon is the mask
        near = smoothed(traced, smoothness=SMOOTHNESS * factor) if smooth and factor else traced
        polygon = simplified(near, tolerance * factor / (4 if smooth else 1))
        polygon = [np.round(ring, 2) for ring in polygon]
        iou = intersection_over_union(mask, polygon_mask(polygon, mask.shape))
        if iou >= least_iou:
            break
    return polygon, iou


def enlarged(maps: Tensor, levels: int, size: tuple[int, int]) -> Tensor:
    """Maps of a level of a pyramid at the size of its picture, where sample k comes to pixel k · 2^levels.

    Bilinear in between; beyond the last sample it is repeated.

    Args:
        maps: Maps (B, K, ceil(H / 2^levels), ceil(W / 2^levels)).
        levels: How often the picture was halved, as `ops.pyramids` does by the backend "opencv".
        size: Height H and width W of the picture.

    Returns:
        Maps (B, K, H, W).

    Raises:
        ValueError: The maps have not that size.
    """
    step = 2**levels
    rows, columns = (math.ceil(side / step) for side in size)
    if maps.shape[-2:] != (rows, columns):
        raise ValueError(
            f"maps of {maps.shape[-2]} x {maps.shape[-1]} at level {levels} of a picture of {size[0]} x {size[1]}; "
            f"wanted are {rows} x {columns}: halve pictures by ops.pyramids with the backend 'opencv'"
        )
    # align_corners keeps the k-th sample at pixel k · step; without it all would move by half a step.
    reached = ((rows - 1) * step + 1, (columns - 1) * step + 1)
    maps = functional.interpolate(maps, reached, mode="bilinear", align_corners=True)
    return functional.pad(maps, (0, size[1] - reached[1], 0, size[0] - reached[0]), mode="replicate")


def drawn_polygon(source: Picture, mask: NDArray[np.bool_], polygon: Sequence[Ring]) -> Picture:
    """A view of a picture with the mask tinted and the polygon drawn as a line.

    Args:
        source: The picture, as large as the mask or smaller, (h, w, 3).
        mask: The mask (H, W).
        polygon: Rings in pixels of the mask.

    Returns:
        The view, its longer side `VIEW` pixels at most.
    """
    side = min(VIEW, max(source.shape[:2]))
    view = scaled(source, side, side)
    height, width = view.shape[:2]
    [inside] = scaled_masks(mask[None], width, height)
    color = np.array(color_of(0), np.float32)
    view[inside] = np.rint((1 - TINT) * view[inside] + TINT * color)
    scale = np.array([width / mask.shape[1], height / mask.shape[0]])
    # A picture's corner, not the centre of its first pixel, stays where it is.
    points = [np.rint(((ring + 0.5) * scale - 0.5) * 2**FRACTION).astype(np.int32) for ring in polygon]
    thickness = max(1, round(min(height, width) / 400))
    cv2.polylines(view, points, True, color.tolist(), thickness, cv2.LINE_AA, FRACTION)
    return view


def _save_stages(stages: Mapping[str, Tensor], index: int, folder: Path) -> None:
    """Writes the stages of one picture of a batch."""
    if not stages:
        raise ValueError("keep_stages is true and the task predicts no stages; set keep_stages to false")
    for number, (name, stage) in enumerate(stages.items(), start=1):
        levels = (stage[index].float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        picture = levels[0] if len(levels) == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0))
        save_picture(picture, folder / f"{number}_{name}.png")


def _summary(records: Sequence[Mapping[str, Any]]) -> str:
    """How near the polygons are to the masks that are not empty."""
    found = [record for record in records if record["vertices"] or record["iou"] < 1]
    if not found:
        return "No picture has anything marked in it, so that there are no polygons."
    shares = [record["iou"] for record in found]
    vertices = np.mean([record["vertices"] for record in found])
    return (
        f"Polygons of the {len(found)} pictures with something marked: {vertices:.1f} vertices on average; IoU with "
        f"the mask {np.mean(shares):.4f} on average, {min(shares):.4f} at least."
    )
