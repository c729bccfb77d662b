"""What the page gives to download: all results in one zip file."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

from belvedere.app.models import AppResult, Model
from drawing.pictures import labelled, overlay, save_picture
from ops.atomic import replacing, write_table, write_text
from ops.files.names import safe_name, safe_path


def archive(models: Sequence[Model], found: Sequence[Sequence[AppResult]], thresholds: Sequence[Sequence[float]],
            path: Path) -> Path:  # fmt: skip
    """Writes the results of all images into a zip file.

    - masks: `masks/<class>/<image>.png` (0 and 255), `overlays/<image>.jpg`, `polygons/<image>.geojson` and
      `thresholds.csv`
    - colors: `colored/<image>.png`
    - scores: `scores.csv`, the best first
    - `skipped.csv` if some images cannot be used

    Args:
        models: What predicted; with several, each gets a folder.
        found: What each of them found.
        thresholds: Thresholds of each of them, as set on the page.
        path: The zip file.

    Returns:
        Its path.
    """
    with TemporaryDirectory(prefix="belvedere-") as made:
        for model, results, limits in zip(models, found, thresholds, strict=True):
            folder = Path(made) / (safe_name(model.name) if len(models) > 1 else "")
            usable = [each for each in _unique(results) if not each.problem]
            if model.kind == "scores":
                columns = list(dict.fromkeys(key for each in usable for key in each.scores))
                rows = sorted(usable, key=lambda each: -each.scores["probability"])
                table = [[each.name, *(each.scores.get(key, "") for key in columns)] for each in rows]
                write_table(folder / "scores.csv", ["name", *columns], table)
            for each in usable:
                if each.colored is not None:
                    save_picture(each.colored, folder / "colored" / safe_path(each.name, ".png"))
                if each.probability is not None:
                    _write_masks(model, each, limits, folder)
            if model.kind == "masks":
                table = [list(row) for row in zip(model.classes, limits, strict=True)]
                write_table(folder / "thresholds.csv", ["class", "threshold"], table)
            problems = [[each.name, each.problem] for each in results if each.problem]
            if problems:
                write_table(folder / "skipped.csv", ["name", "problem"], problems)
        with replacing(path) as temporary, ZipFile(temporary, "w") as file:
            for written in sorted(Path(made).rglob("*")):
                if written.is_file():
                    kind = ZIP_STORED if written.suffix in (".png", ".jpg") else ZIP_DEFLATED
                    file.write(written, written.relative_to(made).as_posix(), kind)
    return path


def _write_masks(model: Model, found: AppResult, thresholds: Sequence[float], folder: Path) -> None:
    masks = model.masks(found, thresholds)
    for name, mask in zip(model.classes, masks, strict=True):
        save_picture((mask * 255).astype("uint8"), folder / "masks" / safe_name(name) / safe_path(found.name, ".png"))
    drawn = labelled(overlay(found.picture, masks), model.classes, [bool(mask.any()) for mask in masks])
    save_picture(drawn, folder / "overlays" / safe_path(found.name, ".jpg"))
    polygons = model.outlines.geojson(model.stitched(found, masks))
    write_text(folder / "polygons" / safe_path(found.name, ".geojson"), json.dumps(polygons) + "\n")


def _unique(found: Sequence[AppResult]) -> list[AppResult]:
    """Returns the images with names that differ in more than the file type, as those of their results do."""
    taken: set[str] = set()
    unique = []
    for each in found:
        first, number = Path(each.name).stem, 1
        stem = first
        while stem in taken:
            number += 1
            stem = f"{first}_{number}"
        taken.add(stem)
        unique.append(replace(each, name=f"{stem}{Path(each.name).suffix}"))
    return unique
