"""Picture of docs/howto/export.md: `python -m benchmarks.export_picture --weights FOLDER`.

Masks of one held-out Landsat 8 tile (public domain) by torch, by its ONNX file and by the file of 8-bit integers, with
the pixels that differ from torch in red. The checkpoint is that of `benchmarks.app_pictures clouds`; it is trained and
exported unless that is done already.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import belvedere as api
from belvedere.export import FILE, QUANTIZED, REPORT
from belvedere.run import Model
from benchmarks.app_pictures import clouds
from benchmarks.gallery import IMAGES
from benchmarks.recipes import belvedere
from datamodules.read.pictures import read_picture
from drawing.pictures import Picture, font_of, overlay, save_picture, scaled

SIDE, GAP, TEXT = 320, 8, 17
RED = (230, 30, 30)
SHOWN = {"torch": "torch", FILE: "ONNX", QUANTIZED: "8-bit integers"}


def exported(work: Path, checkpoint: Path, images: list[Path]) -> Path:
    """Returns the folder of the files, calibrated on images that are not held out."""
    folder = work / "export"
    if not (folder / QUANTIZED).is_file():
        calibration = work / "calibration"
        calibration.mkdir(exist_ok=True)
        for path in images:
            if not (calibration / path.name).exists():
                (calibration / path.name).symlink_to(path.resolve())
        belvedere("export", "--ckpt_path", str(checkpoint), "--int8", str(calibration), "--output", str(folder))
    return folder


def drawn(image: Picture, mask: Picture, other: Picture) -> Picture:
    """Returns an image with a mask, and what differs from another mask in red."""
    shown = overlay(scaled(image, SIDE, SIDE), np.asarray(_large(mask))[None])
    shown[_large(mask != other)] = RED
    return shown


def _large(mask: Picture) -> Picture:
    resized = Image.fromarray(np.asarray(mask, np.uint8)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    return np.asarray(resized) > 0


def main() -> None:
    """Makes the picture, and prints how many pixels differ in each held-out tile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of weights files")
    parser.add_argument("--work", type=Path, default=Path("runs/app"), help="folder for datasets and runs")
    options = parser.parse_args()
    work = options.work.absolute() / "clouds"
    checkpoint, held_out, *_ = clouds(work, options.weights.absolute())
    names = {path.name for path in held_out}
    folder = exported(work, checkpoint, [path for path in sorted((work / "data" / "images").iterdir())
                                         if path.name not in names])  # fmt: skip
    report = json.loads((folder / REPORT).read_text())
    models = {name: Model(folder / name) for name in (FILE, QUANTIZED)}
    panels: list[tuple[Picture, list[str]]] = []
    for path in held_out:
        [expected] = api.predict(str(checkpoint), path)
        masks = {"torch": expected.masks["cloud"]} | {
            name: model.predict(path).masks["cloud"] for name, model in models.items()
        }
        differing = {name: int((mask != masks["torch"]).sum()) for name, mask in masks.items()}
        print(path.name, masks["torch"].size, differing)
        if panels:
            continue
        image = read_picture(path)
        panels.append((scaled(image, SIDE, SIDE), [path.name, f"{image.shape[1]} x {image.shape[0]} pixels"]))
        for name, title in SHOWN.items():
            cost = f"{report['size_mb'][name]:.1f} MB, {report['seconds']['1'][name]:.2f} s"
            off = "" if name == "torch" else f"; {differing[name]:,} pixels differ"
            panels.append((drawn(image, masks[name], masks["torch"]), [title, f"{cost}{off}"]))
    canvas = Image.new("RGB", (len(panels) * (SIDE + GAP) - GAP, SIDE + 3 * TEXT), "white")
    draw = ImageDraw.Draw(canvas)
    for column, (picture, lines) in enumerate(panels):
        canvas.paste(Image.fromarray(picture), (column * (SIDE + GAP), 0))
        for row, line in enumerate(lines):
            place = column * (SIDE + GAP) + SIDE / 2, SIDE + TEXT * (0.8 + 1.3 * row)
            draw.text(place, line, fill=(32, 32, 32), font=font_of(TEXT - 2 * row), anchor="mm")
    save_picture(np.asarray(canvas), IMAGES / "export_masks.jpg")


if __name__ == "__main__":
    main()
