"""Pictures of the page for docs/howto/app.md: `python -m benchmarks.app_pictures [TASK …] --weights FOLDER`.

Trains each task for a few minutes through the command line, unless that is done already, opens its page in a headless
Chromium, drops held-out images, and writes `docs/images/app_<task>.jpg`. Roads and avalanches are synthetic, the others
from $BELVEDERE_DATA: Landsat 8 tiles (public domain), a painting (public domain by age), photographs under CC0.
"""

import argparse
import base64
import csv
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from belvedere.app import serving
from belvedere.app.models import opened_models
from benchmarks import browser as page
from benchmarks.gallery import FREE, IMAGES, split
from benchmarks.one_class import lay_out
from benchmarks.recipes import belvedere
from datamodules.read.names import picture_files
from datamodules.samples.avalanches import draw_avalanches
from datamodules.samples.roads import draw_roads
from drawing.pictures import save_picture, scaled

WIDTH = 1000  # pixels of a picture
HIDDEN = "document.head.insertAdjacentHTML('beforeend', '<style>::-webkit-scrollbar {display: none}</style>')"
LOWEST = (
    "return Math.max(...[...document.querySelectorAll('.block, button')].map(e => e.getBoundingClientRect().bottom))"
)
Shown = tuple[Path, list[Path], Callable[[Any], None], int]  # checkpoint, images, what is done, height of the window


def trained(config: str, root: Path, work: Path, options: Sequence[str]) -> Path:
    """Trains a config, unless that is done; returns the best checkpoint."""
    run, done = work / config.partition("/")[0], work / "done"
    if not done.is_file():
        belvedere(
            "fit", "--config", config, "--data.root", str(root), "--output", str(run), "--resume", "auto", *options
        )
        done.touch()
    return run / "checkpoints" / "best.ckpt"


def roads(work: Path, weights: Path) -> Shown:
    """Shows a synthetic town."""
    root = work / "data" if (work / "data").is_dir() else draw_roads(work / "data")
    pictures = sorted(picture_files(root / "pictures"), key=lambda path: -path.stat().st_size)
    return trained("roads/demo", root, work, []), pictures, marked, 840


def clouds(work: Path, weights: Path) -> Shown:
    """Shows Landsat 8 tiles that are held out."""
    home, root = Path(os.environ["BELVEDERE_DATA"]) / "clouds" / "landsat8", work / "data"
    tiles = picture_files(home / "images")
    if not root.is_dir():
        lay_out(tiles, root / "images")
        lay_out(picture_files(home / "masks"), root / "masks" / "cloud")
    held_out = [home / "images" / name for name in split(root, [path.name for path in tiles], 4)]
    options = ["--data.classes", "[cloud]", "--model.pretrained", str(weights / "mobilenet_v2.safetensors")]
    return trained("clouds/best", root, work, options), held_out, marked, 840


def avalanches(work: Path, weights: Path) -> Shown:
    """Shows synthetic mountains, with polygons."""
    root = work / "data" if (work / "data").is_dir() else draw_avalanches(work / "data")

    def with_polygons(browser: Any) -> None:
        marked(browser)
        before = page.images(browser, "view0")
        page.click(browser, "#polygons input")
        page.until(lambda: page.images(browser, "view0") != before)

    return trained("avalanches/demo", root, work, []), picture_files(root / "images")[:4], with_polygons, 840


def marked(browser: Any) -> None:
    """Waits for the overlay."""
    page.until(lambda: "marked" in browser.find_element("css selector", "#areas0").text)


def colorization(work: Path, weights: Path) -> Shown:
    """Shows a painting by Constable, held out, with a stroke of blue in its sky."""
    root = work / "data"
    root.mkdir(parents=True, exist_ok=True)
    names = []
    for path in picture_files(Path(os.environ["BELVEDERE_DATA"]) / "colorization" / "images"):
        (root / "images").mkdir(exist_ok=True)
        if not (root / "images" / path.name).exists():
            (root / "images" / path.name).symlink_to(path.resolve())
        names.append(path.name)
    constable = [name for name in names if name.startswith("john_constable")]
    kinds = dict.fromkeys(names, "train") | dict.fromkeys(names[::10], "val") | dict.fromkeys(constable, "test")
    (root / "splits.csv").write_text("name,split\n" + "".join(f"{name},{kind}\n" for name, kind in kinds.items()))
    files = {"mobilenet_v2": "mobilenet_v2", "resnet50": "resnet50_fp16", "vgg16": "vgg16_features_fp16"}
    backbones = json.dumps({name: str(weights / f"{file}.safetensors") for name, file in files.items()})

    def with_hint(browser: Any) -> None:
        before = page.until(lambda: found if len(found := page.images(browser, "view0")) == 2 else None)
        page.paint(browser, 80, -60)
        page.click(browser, "#hint")
        page.until(lambda: len(found := page.images(browser, "view0")) == 2 and found[1] != before[1])

    checkpoint = trained("colorization/best", root, work, ["--model.backbones", backbones])
    shown = [root / "images" / name for name in constable if "weymouth" in name]
    return checkpoint, shown, with_hint, 640


def aesthetics(work: Path, weights: Path) -> Shown:
    """Shows held-out photographs under CC0."""
    source, root = Path(os.environ["BELVEDERE_DATA"]) / "aesthetics", work / "data"
    root.mkdir(parents=True, exist_ok=True)
    for name in ("images", "labels.csv"):
        if not (root / name).exists():
            (root / name).symlink_to(source / name)
    sources = {row["image"]: row["db"] for row in csv.DictReader(io.StringIO((source / "labels.csv").read_text()))}
    held_out = split(root, sorted(sources), len(sources) // 5)
    files = {"mobilenet_v2": "mobilenet_v2.safetensors", "resnet50_v1": "resnet50_fp16.safetensors"}
    backbones = json.dumps({name: str(weights / file) for name, file in files.items()})
    shown = [root / "images" / name for name in held_out if sources[name] in FREE][:12]

    def scored(browser: Any) -> None:
        page.until(lambda: len(page.images(browser, "gallery")) == len(shown))

    return trained("aesthetics/best", root, work, ["--model.backbones", backbones]), shown, scored, 800


def draw(task: str, shown: Shown, folder: Path = IMAGES) -> None:
    """Writes the picture of a task."""
    checkpoint, images, act, height = shown
    with (
        serving(opened_models([str(checkpoint)]), 7860) as (local, _),
        TemporaryDirectory() as downloads,
        page.chromium(Path(downloads)) as browser,
    ):
        view = {"width": 1400, "height": height, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", view)
        browser.get(local)
        browser.execute_script(HIDDEN)
        page.drop(browser, images)
        act(browser)
        time.sleep(2)  # images fade in
        clip = {"x": 0, "y": 0, "width": view["width"], "height": browser.execute_script(LOWEST) + 24, "scale": 1}
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
        taken = np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB"))
    save_picture(scaled(taken, WIDTH, WIDTH), folder / f"app_{task}.jpg")


def main() -> None:
    """Makes what is asked for."""
    makers = {each.__name__: each for each in (clouds, roads, avalanches, colorization, aesthetics)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=list(makers), choices=[*makers, []])
    parser.add_argument("--weights", type=Path, required=True, help="folder of weights files")
    parser.add_argument("--work", type=Path, default=Path("runs/app"), help="folder for datasets and runs")
    options = parser.parse_args()
    if page.missing():
        parser.error(f"there is no {page.missing()} on the path; on Debian: apt install chromium chromium-driver")
    for task in options.tasks:
        draw(task, makers[task](options.work.absolute() / task, options.weights.absolute()))


if __name__ == "__main__":
    main()
