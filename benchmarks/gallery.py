"""Galleries of the documentation: `python -m benchmarks.gallery clouds roads avalanches colorization aesthetics front`.

Trains each task for a few minutes through the command line, predicts held-out images, and writes
`docs/images/gallery_<task>.jpg`, from the best to the worst of them. `front` joins one pair per task, which the
galleries leave in the work folder, to `docs/images/five_tasks.jpg` of the README.

Real images are shown where their license allows it: Landsat 8 tiles (public domain), paintings (public domain by age)
and photographs under CC0. Roads and avalanches are synthetic: the real images of $BELVEDERE_DATA have no license. Work
that is done already is not done again.
"""

import argparse
import csv
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from benchmarks.one_class import dice, lay_out, trained
from benchmarks.paintings import lay_out as lay_out_paintings
from benchmarks.recipes import CSV, belvedere
from datamodules.read.mask_files import read_mask
from datamodules.read.names import picture_files
from datamodules.read.pictures import read_picture
from datamodules.samples.avalanches import draw_avalanches
from datamodules.samples.roads import draw_roads
from drawing.pictures import Picture, font_of, overlay, save_picture, scaled
from ops.color.coloring import grey

IMAGES = Path(__file__).parents[1] / "docs" / "images"
CELL, GAP, TEXT = 300, 8, 19
COLUMNS = 5
FRONT = {"clouds": "clouds in satellite images", "roads": "roads (synthetic here)",
         "avalanches": "avalanches (synthetic here)", "colorization": "colors for gray images",
         "aesthetics": "photographs, best first"}  # fmt: skip
COLORED = ["gray", "automatic", "three hints", "reference", "original"]
FREE = {"500px_cc0", "pixabay_first50k"}  # sources of photographs under CC0
Row = tuple[float, str, list[Picture]]  # score, caption, images


def fit_and_predict(task: str, root: Path, pictures: Path, run: Path, options: Sequence[str]) -> Path:
    """Trains a config on `root`, unless that is done, and predicts `pictures`; returns the folder of the results."""
    found = run / "found"
    if not (run / "done").is_file():
        run.mkdir(parents=True, exist_ok=True)
        (run / "csv.yaml").write_text(CSV)
        belvedere("fit", "--config", task, "--config", str(run / "csv.yaml"), "--data.root", str(root), "--output",
                  str(run / "fit"), "--resume", "auto", *options)  # fmt: skip
        belvedere("predict", "--ckpt_path", str(run / "fit" / "checkpoints" / "best.ckpt"), "--data.pictures",
                  str(pictures), "--output", str(found), "--overwrite")  # fmt: skip
        (run / "done").touch()
    return found


def split(root: Path, names: Sequence[str], test: int) -> list[str]:
    """Writes a `splits.csv`, with a tenth of the other images for validation; returns the test images."""
    order = [names[i] for i in np.random.default_rng(0).permutation(len(names))]
    held_out, others = order[:test], order[test:]
    kinds = dict.fromkeys(others, "train") | dict.fromkeys(others[: len(others) // 10], "val")
    lines = [f"{name},{kind}" for name, kind in (kinds | dict.fromkeys(held_out, "test")).items()]
    (root / "splits.csv").write_text("\n".join(["name,split", *lines]) + "\n")
    return held_out


def marked(image: Path, truth: Path, found: Path) -> Row:
    """Returns an image, its truth and its prediction as overlays, with the dice of the prediction."""
    picture, masks = read_picture(image), [read_mask(truth), read_mask(found)]
    score = dice([masks[1]], [masks[0]])["dice"]
    return score, f"dice {score:.2f}", [picture, *(overlay(picture, mask[None]) for mask in masks)]


def clouds(work: Path, weights: Path) -> list[Row]:
    """Landsat 8 tiles: FPN in three folds, so that every tile is held out once."""
    home = Path(os.environ["BELVEDERE_DATA"]) / "clouds" / "landsat8"
    images, masks = picture_files(home / "images"), picture_files(home / "masks")
    order = np.random.default_rng(0).permutation(len(images))
    rows = []
    for fold in range(3):
        root, run = work / f"fold{fold}", work / f"run{fold}"
        test = [int(i) for place, i in enumerate(order) if place % 3 == fold]
        if not (run / "done").is_file():
            others = [int(i) for i in order if i not in test]
            lay_out(images, root / "images")
            lay_out(masks, root / "masks" / "cloud")
            lay_out([images[i] for i in test], root / "held_out")
            split = dict.fromkeys(others, "train") | dict.fromkeys(others[:2], "val") | dict.fromkeys(test, "test")
            lines = [f"{images[i].name},{name}" for i, name in split.items()]
            (root / "splits.csv").write_text("\n".join(["name,split", *lines]) + "\n")
            trained(root, root / "held_out", weights / "mobilenet_v2.safetensors", 40, run)
            (run / "done").touch()
        found = next(path for path in run.glob("predict*/masks/cloud"))
        rows += [marked(images[i], masks[i], found / f"{images[i].stem}.png") for i in test]
    return rows


def synthetic(task: str, draw: Callable[[Path], Path], work: Path, weights: Path, options: Sequence[str]) -> list[Row]:
    """Synthetic images: `<task>/best` for a few short epochs."""
    root = work / "data" if (work / "data").is_dir() else draw(work / "data")
    images = {path.name: path for path in picture_files(root / "images")}
    masks = {path.stem: path for path in picture_files(root / "masks")}
    test = split(root, sorted(images), max(12, len(images) // 5))
    options = ["--model.pretrained", str(weights / "mobilenet_v2.safetensors"), *options]
    found = fit_and_predict(f"{task}/best", root, root / "images", work / "run", options)
    rows = []
    for name in test:
        stem = images[name].stem
        if read_mask(masks[stem]).any():  # an empty mask shows nothing
            rows.append(marked(images[name], masks[stem], found / "masks" / f"{stem}.png"))
    return rows


def roads(work: Path, weights: Path) -> list[Row]:
    """Synthetic tiles."""
    options = ["--data.window", "[256,256]", "--data.size", "[128,128]", "--trainer.max_epochs", "8"]
    return synthetic("roads", partial(draw_roads, tiles=128), work, weights, options)


def avalanches(work: Path, weights: Path) -> list[Row]:
    """Synthetic photographs."""
    return synthetic("avalanches", partial(draw_avalanches, pictures=60), work, weights, ["--trainer.max_epochs", "6"])


def colorization(work: Path, weights: Path) -> list[Row]:
    """Real paintings of artists that are not in training: automatic, with hints, and with a reference."""
    data, run = work / "data", work / "run"
    if not (run / "done").is_file():
        lay_out_paintings(data, 0)
    files = {"mobilenet_v2": "mobilenet_v2", "resnet50": "resnet50_fp16", "vgg16": "vgg16_features_fp16"}
    backbones = json.dumps({name: str(weights / f"{file}.safetensors") for name, file in files.items()})
    options = ["--data.val_fraction", "0.15", "--data.test_fraction", "0.2", "--model.backbones", backbones]
    found = fit_and_predict("colorization/best", data, data / "test", run, options)
    with (found / "figures.csv").open(newline="") as file:
        errors = {row["name"]: float(row["delta_e2000"]) for row in csv.DictReader(file)}
    print(f"colorization: CIEDE2000 of {len(errors)} paintings, mean {np.mean(list(errors.values())):.2f}")
    rows = []
    for score, picture, _ in spread([(-error, name, []) for name, error in errors.items()]):
        original, automatic = read_picture(data / "test" / picture), read_colored(found, picture)
        place = run / Path(picture).stem
        table = ["image,x,y,color", *(f"{picture},{hint}" for hint in worst_places(automatic, original))]
        place.mkdir(parents=True, exist_ok=True)
        (place / "hints.csv").write_text("\n".join(table) + "\n")
        others = place / "others"
        others.mkdir(exist_ok=True)
        for other in sorted((data / "test").iterdir()):
            if other.name.partition("__")[0] == picture.partition("__")[0] and other.name != picture:
                (others / other.name).unlink(missing_ok=True)
                (others / other.name).symlink_to(other.resolve())
        shown = [np.asarray(grey(original)), automatic]
        for kind, path in (("hints", place / "hints.csv"), ("reference", others)):
            if not (place / kind).exists():
                belvedere("predict", "--ckpt_path", str(run / "fit" / "checkpoints" / "best.ckpt"), f"--data.{kind}",
                          str(path), "--data.pictures", str(data / "test" / picture), "--output",
                          str(place / kind))  # fmt: skip
            shown.append(read_colored(place / kind, picture))
        rows.append((score, f"CIEDE2000 {-score:.1f}", [*shown, original]))
    return rows


def read_colored(folder: Path, name: str) -> Picture:
    """Returns what a prediction made of a painting."""
    return read_picture((folder / "colored" / name).with_suffix(".png"))


def worst_places(found: Picture, original: Picture, count: int = 3) -> list[str]:
    """Returns `x,y,color` of the original where colors are most wrong, each a fifth of the longer side apart."""
    wrong = np.square(found.astype(np.float32) - original).sum(axis=2)
    side, smooth = max(original.shape[:2]), cv2.blur(original, (5, 5))
    wrong = cv2.blur(wrong, (side // 15, side // 15))
    hints = []
    for _ in range(count):
        y, x = np.unravel_index(int(wrong.argmax()), wrong.shape)
        hints.append(f"{x},{y},#{bytes(smooth[y, x].tolist()).hex()}")
        cv2.circle(wrong, (int(x), int(y)), side // 5, (0,), -1)
    return hints


def aesthetics(work: Path, weights: Path) -> list[Row]:
    """Photographs under CC0 that were held out, with the votes of people."""
    source, root = Path(os.environ["BELVEDERE_DATA"]) / "aesthetics", work / "data"
    root.mkdir(parents=True, exist_ok=True)
    for name in ("images", "labels.csv"):
        if not (root / name).exists():
            (root / name).symlink_to(source / name)
    with (root / "labels.csv").open(newline="") as file:
        votes = {row["image"]: row for row in csv.DictReader(file)}
    test = split(root, sorted(votes), len(votes) // 4)
    backbones = {"mobilenet_v2": "mobilenet_v2.safetensors", "resnet50_v1": "resnet50_fp16.safetensors"}
    files = json.dumps({name: str(weights / file) for name, file in backbones.items()})
    shown = [name for name in test if votes[name]["db"] in FREE]
    (work / "shown").mkdir(exist_ok=True)
    for name in shown:
        if not (work / "shown" / name).exists():
            (work / "shown" / name).symlink_to(source / "images" / name)
    found = fit_and_predict("aesthetics/best", root, work / "shown", work / "run", ["--model.backbones", files])
    with (found / "scores.csv").open(newline="") as file:
        scores = {row["name"]: float(row["probability"]) for row in csv.DictReader(file)}
    rows = []
    for name in shown:
        caption = f"{scores[name]:.2f}, votes {float(votes[name]['mos']):.1f}"
        rows.append((scores[name], caption, [read_picture(root / "images" / name)]))
    return rows


def grid(rows: Sequence[Row], names: Sequence[str]) -> Picture:
    """Returns a grid: a column per image, its captions below, the name of each row at the left."""
    heights = [max(round(CELL * image.shape[0] / image.shape[1]) for _, _, images in rows for image in images)]
    height = min(heights[0], round(1.4 * CELL))
    font = font_of(TEXT)
    canvas = Image.new("RGB", (len(rows) * (CELL + GAP) + GAP + 28, len(names) * (height + GAP) + 2 * TEXT), "white")
    draw = ImageDraw.Draw(canvas)
    for place, name in enumerate(names):
        label = Image.new("RGB", (height, 26), "white")
        ImageDraw.Draw(label).text((height / 2, 13), name, fill=(70, 70, 70), font=font, anchor="mm")
        canvas.paste(label.rotate(90, expand=True), (0, place * (height + GAP)))
    for column, (_, caption, images) in enumerate(rows):
        x = 28 + column * (CELL + GAP)
        for place, image in enumerate(images):
            cell = Image.fromarray(scaled(image, CELL, height))
            canvas.paste(cell, (x + (CELL - cell.width) // 2, place * (height + GAP) + (height - cell.height) // 2))
        draw.text((x + CELL / 2, canvas.height - TEXT), caption, fill=(32, 32, 32), font=font, anchor="mm")
    return np.asarray(canvas)


def spread(rows: list[Row], count: int = COLUMNS) -> list[Row]:
    """Returns rows at equal ranks, from the best score to the worst."""
    ordered = sorted(rows, key=lambda row: -row[0])
    return [ordered[round(i * (len(ordered) - 1) / (count - 1))] for i in range(count)]


def square(image: Picture, side: int = CELL) -> Picture:
    """Returns the middle of an image as a square."""
    edge = min(image.shape[:2])
    top, left = (image.shape[0] - edge) // 2, (image.shape[1] - edge) // 2
    return scaled(image[top : top + edge, left : left + edge], side, side)


def sheet(rows: Sequence[Row], titled: bool) -> Picture:
    """Returns nine photographs as a square, with their scores if `titled`."""
    side = CELL // 3
    canvas = Image.new("RGB", (CELL, CELL), "white")
    for place, (score, _, images) in enumerate(rows):
        x, y = place % 3 * side, place // 3 * side
        canvas.paste(Image.fromarray(square(images[0], side)).resize((side - 2, side - 2)), (x, y))
        if titled:
            draw = ImageDraw.Draw(canvas)
            draw.rectangle((x, y + side - 22, x + 40, y + side - 3), fill="white")
            draw.text((x + 20, y + side - 12), f"{score:.2f}", fill=(32, 32, 32), font=font_of(15), anchor="mm")
    return np.asarray(canvas)


def quarters(images: Sequence[Picture]) -> Picture:
    """Returns four colorings of one painting as a square, with what they are."""
    side = CELL // 2
    canvas = Image.new("RGB", (CELL, CELL), "white")
    draw = ImageDraw.Draw(canvas)
    for place, (title, image) in enumerate(zip(COLORED[1:], images, strict=True)):
        x, y = place % 2 * side, place // 2 * side
        canvas.paste(Image.fromarray(square(image, side - 2)), (x, y))
        width = font_of(14).getlength(title) + 10
        draw.rectangle((x, y + side - 21, x + width, y + side - 3), fill="white")
        draw.text((x + width / 2, y + side - 12), title, fill=(32, 32, 32), font=font_of(14), anchor="mm")
    return np.asarray(canvas)


def draw_gallery(task: str, rows: list[Row], work: Path) -> None:
    """Writes the gallery of a task, and its pair for the README."""
    if task == "aesthetics":
        ordered = spread(rows, 10)
        picture = np.vstack([grid(ordered[:5], ["higher"]), grid(ordered[5:], ["lower"])])
        shown = spread(rows, 9)
        mixed = [shown[i] for i in np.random.default_rng(1).permutation(9)]
        pair = sheet(mixed, False), sheet(shown, True)
    else:
        ordered = spread(rows)
        picture = grid(ordered, COLORED if task == "colorization" else ["image", "truth", "prediction"])
        images = ordered[COLUMNS // 2][2]
        pair = square(images[0]), quarters(images[1:]) if task == "colorization" else square(images[2])
    save_picture(picture, IMAGES / f"gallery_{task}.jpg")
    for name, image in zip(("in", "out"), pair, strict=True):
        save_picture(image, work / f"{task}_{name}.png")
    scores = [row[0] for row in rows]
    print(f"{task}: {len(rows)} images, scores {max(scores):.3f} to {min(scores):.3f}, mean {np.mean(scores):.3f}")


def draw_front(work: Path) -> None:
    """Writes the picture of the README: one pair per task."""
    font = font_of(TEXT)
    canvas = Image.new("RGB", (len(FRONT) * (CELL + GAP) - GAP, 2 * (CELL + GAP) + 2 * TEXT), "white")
    draw = ImageDraw.Draw(canvas)
    for column, (task, title) in enumerate(FRONT.items()):
        x = column * (CELL + GAP)
        draw.text((x + CELL / 2, TEXT), title, fill=(32, 32, 32), font=font, anchor="mm")
        for place, name in enumerate(("in", "out")):
            canvas.paste(Image.open(work / f"{task}_{name}.png"), (x, 2 * TEXT + place * (CELL + GAP)))
    save_picture(np.asarray(canvas), IMAGES / "five_tasks.jpg")


def main() -> None:
    """Makes what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=[*FRONT, "front"])
    parser.add_argument("--weights", type=Path, required=True, help="folder of weights files")
    parser.add_argument("--work", type=Path, default=Path("runs/gallery"), help="folder for datasets and runs")
    options = parser.parse_args()
    work = options.work.absolute()
    makers = {each.__name__: each for each in (clouds, roads, avalanches, colorization, aesthetics)}
    for what in options.what:
        if what == "front":
            draw_front(work)
        else:
            draw_gallery(what, makers[what](work / what, options.weights.absolute()), work)


if __name__ == "__main__":
    main()
