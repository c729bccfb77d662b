"""Lists doubtful labels, and shows them beside what the networks found."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from belvedere.folds.doubts import Doubt, doubts
from belvedere.folds.found import FoldResult
from datamodules.base import ImageDataModule
from drawing.pictures import Picture, overlay, panel, save_picture, scaled
from ops.atomic import write_table

VIEW = 300  # pixels of an image in a panel
SHOWN = 10
SURE = 0.75  # probability from which a wrong judgement makes the label doubtful


def write_doubts(found: Sequence[FoldResult], data: ImageDataModule, folder: Path) -> list[str]:
    """Writes `doubtful.csv` and `doubtful.png`, and returns lines about them, none if nothing is doubtful."""
    listed = _listed(found)
    rows = [[each.name, round(each.gap, 4), each.hint] for each in listed]
    write_table(folder / "doubtful.csv", ("name", "doubt", "hint"), rows)
    if not listed:
        (folder / "doubtful.png").unlink(missing_ok=True)  # that of earlier labels
        return []
    by_name = {each.name: each for each in found}
    shown = listed[:SHOWN]
    drawn = [_views(by_name[each.name], data) for each in shown]
    titles = ["image", "label", "prediction without it"][: len(drawn[0])]
    save_picture(panel(drawn, titles, [_caption(each) for each in shown]), folder / "doubtful.png")
    first = [f"  {each.name}: {each.hint or 'the network is sure of something else'}" for each in listed[:5]]
    return ["Labels to look at first (doubtful.csv, doubtful.png):", *first]


def _listed(found: Sequence[FoldResult]) -> list[Doubt]:
    """Returns the doubtful labels in the order of `doubts`; of judgements, the most doubtful first."""
    gaps = [each.expected - each.quality for each in found]
    if all(each.cells is not None for each in found):
        labels, probabilities = [each.label for each in found], [each.probability for each in found]
        return doubts([each.name for each in found], labels, probabilities, gaps)
    wrong = [Doubt(each.name, gap, f"the network is {each.expected:.0%} sure of the other class")
             for each, gap in zip(found, gaps, strict=True) if not each.quality and each.expected >= SURE]  # fmt: skip
    return sorted(wrong, key=lambda doubt: -doubt.gap)


def _caption(doubt: Doubt) -> str:
    return f"{doubt.name}: {doubt.hint}" if doubt.hint else doubt.name


def _views(found: FoldResult, data: ImageDataModule) -> list[Picture]:
    image = data.picture(found.name, VIEW)
    if image is None:
        image = np.full((VIEW, VIEW, 3), 200, np.uint8)
    view = scaled(image, VIEW, 2 * VIEW)
    if not found.label.size:
        return [view]
    masks = [(maps > 0.5).astype(np.uint8) for maps in (found.label, found.mask)]
    grown = [np.stack([_resized(plane, view.shape[:2]) for plane in mask]) for mask in masks]
    return [view, overlay(view, grown[0]), overlay(view, grown[1])]


def _resized(mask: NDArray[np.uint8], size: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.asarray(cv2.resize(mask, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)).astype(np.bool_)
