"""Draws small sample datasets, seeded, in the layouts that the data modules read: for tests and demos."""

import argparse
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np

from datamodules.samples.aesthetics import draw_aesthetics
from datamodules.samples.avalanches import box_around, mountain, outlined
from datamodules.samples.clouds import CLOUD_CLASSES, cloud_picture
from datamodules.samples.colorization import NAMES, write_gallery
from datamodules.samples.files import Arguments, draw_once, write_picture, write_table
from datamodules.samples.roads import road_tile
from ops.rle import encode


def _hexadecimal_names(rng: np.random.Generator, count: int) -> list[str]:
    """Different names of seven hexadecimal digits, as Kaggle's pictures have."""
    return [f"{number:07x}" for number in rng.choice(16**7, count, replace=False)]


def draw_clouds(
    root: Path,
    pictures: int = 48,
    test_pictures: int = 6,
    size: tuple[int, int] = (280, 420),
    seed: int = 0,
) -> Path:
    """Draw a sample of Kaggle's "Understanding Clouds from Satellite Images" in its layout.

    `train.csv` has four rows a picture of `train_images/`, with a mask in half of them, which is the union of
    one to three boxes; `sample_submission.csv` has four rows a picture of `test_images/`. A black gap between
    two orbits crosses a third of the pictures. The same arguments give the same bytes.

    Args:
        root: The folder to draw: absent, empty, or drawn before from the same arguments.
        pictures: How many pictures have masks.
        test_pictures: How many have none.
        size: Height and width in pixels; lengths in the picture follow the height.
        seed: Decides everything else.

    Returns:
        `root`.

    Raises:
        ValueError: `root` has other content, there is no picture to draw, or pictures are under 64 pixels.
    """
    if pictures < 1 or test_pictures < 0 or min(size) < 64:
        raise ValueError(
            f"{pictures=}, {test_pictures=}, {size=}: at least one picture, no fewer than 0 test pictures "
            "and 64 pixels a side were wanted; ask for more."
        )

    def draw(folder: Path) -> None:
        rng = np.random.default_rng(seed)
        names = [f"{name}.jpg" for name in _hexadecimal_names(rng, pictures + test_pictures)]
        train, test = sorted(names[:pictures]), sorted(names[pictures:])
        truth = _draw_cloud_folder(rng, folder / "train_images", train, size)
        _draw_cloud_folder(rng, folder / "test_images", test, size)
        header = ("Image_Label", "EncodedPixels")
        write_table(folder / "train.csv", header, truth)
        answers = [(f"{name}_{cloud}", "1 1") for name, cloud in product(test, CLOUD_CLASSES)]
        write_table(folder / "sample_submission.csv", header, answers)

    arguments: Arguments = {"sample": "clouds", "pictures": pictures, "test_pictures": test_pictures}
    return draw_once(root, {**arguments, "size": list(size), "seed": seed}, draw)


def _draw_cloud_folder(
    rng: np.random.Generator, folder: Path, names: list[str], size: tuple[int, int]
) -> list[tuple[str, str]]:
    """Draw the named pictures; return the rows of their truth."""
    folder.mkdir()
    # Dealt, not thrown like dice: classes, empty pairs and gaps keep their shares among few pictures too.
    counts = rng.permutation(np.resize([2, 1, 3, 2, 1, 4, 2, 1], len(names)))
    gaps = rng.permutation(np.arange(len(names)) % 3 == 0)
    used = np.zeros(len(CLOUD_CLASSES))
    rows = []
    for name, count, gap in zip(names, counts, gaps, strict=True):
        dealt = np.argsort(used + rng.uniform(0, 1, len(used)))[:count]
        used[dealt] += 1
        picture, masks = cloud_picture(rng, size, [CLOUD_CLASSES[index] for index in dealt], gap)
        write_picture(folder / name, picture)
        rows += [(f"{name}_{cloud}", encode(masks[cloud]) if cloud in masks else "") for cloud in CLOUD_CLASSES]
    return rows


def draw_roads(root: Path, tiles: int = 64, size: int = 256, seed: int = 0) -> Path:
    """Draw a sample of aerial tiles with road masks in the layout that the roads data module reads.

    `images/` and `masks/` hold PNGs of equal names: sRGB tiles, and grey masks with 255 on roads, greys along
    their rims and 0 elsewhere. `categories.csv` calls half of the tiles `road`, which show one to three, and the
    others `no_road`. `pictures/town.png` is one larger picture without a mask, of 2.4 by 3.2 tiles, for
    prediction. The same arguments give the same bytes.

    Args:
        root: The folder to draw: absent, empty, or drawn before from the same arguments.
        tiles: How many tiles have masks; of an odd number, one more shows roads.
        size: Height and width of a tile in pixels. Larger tiles show more land, not wider roads.
        seed: Decides everything else.

    Returns:
        `root`.

    Raises:
        ValueError: `root` has other content, there is not a tile for each category, or tiles are under 64 pixels.
    """
    if tiles < 2 or size < 64:
        raise ValueError(
            f"{tiles=}, {size=}: at least 2 tiles, one with roads and one without, and 64 pixels a side were "
            "wanted; ask for more."
        )

    def draw(folder: Path) -> None:
        rng = np.random.default_rng(seed)
        for part in ("images", "masks", "pictures"):
            Path(folder, part).mkdir()
        rows = []
        for index, roads in enumerate(rng.permutation(np.resize([1, 0, 2, 0, 3, 0, 2, 0], tiles))):
            name = f"tile_{index:04d}.png"
            picture, mask = road_tile(rng, (size, size), int(roads))
            write_picture(folder / "images" / name, picture)
            write_picture(folder / "masks" / name, mask)
            rows.append((name, "road" if roads else "no_road"))
        write_table(folder / "categories.csv", ("image", "category"), rows)
        town, _ = road_tile(rng, (round(2.4 * size), round(3.2 * size)), 7)
        write_picture(folder / "pictures" / "town.png", town)

    return draw_once(root, {"sample": "roads", "tiles": tiles, "size": size, "seed": seed}, draw)


def draw_avalanches(root: Path, pictures: int = 12, size: tuple[int, int] = (160, 240), seed: int = 0) -> Path:
    """Draw a sample of mountain photographs with avalanche masks, as the avalanches data module reads them.

    `images/`, `masks/` and `references/` (with the outline in red) hold JPEGs of equal names, so that masks have greys.
    `conditions.csv` calls half of the pictures sunny, `boxes.csv` has a box for half of them. The same arguments give
    the same bytes.

    Args:
        root: The folder to draw: absent, empty, or drawn before from the same arguments.
        pictures: How many photographs.
        size: Height and width in pixels; lengths in the picture follow the height.
        seed: Decides everything else.

    Returns:
        `root`.

    Raises:
        ValueError: `root` has other content, there is no picture to draw, or pictures are under 64 pixels.
    """
    if pictures < 1 or min(size) < 64:
        raise ValueError(f"{pictures=}, {size=}: a picture or more, of 64 pixels a side or more, were wanted.")

    def draw(folder: Path) -> None:
        rng = np.random.default_rng(seed)
        for part in ("images", "masks", "references"):
            Path(folder, part).mkdir()
        conditions, boxes = [], []
        for index, sunny in enumerate(rng.permutation(np.arange(pictures) % 2 == 0)):
            name = f"avalanche_{index:03d}.jpg"
            picture, mask = mountain(rng, size, bool(sunny))
            for part, content in (("images", picture), ("masks", mask), ("references", outlined(picture, mask))):
                write_picture(folder / part / name, content)
            conditions.append((name, "sunny" if sunny else "shady"))
            if index % 2:
                boxes.append((name, *map(str, box_around(mask))))
        write_table(folder / "conditions.csv", ("image", "condition"), conditions)
        write_table(folder / "boxes.csv", ("image", "x0", "y0", "x1", "y1"), boxes)

    return draw_once(root, {"sample": "avalanches", "pictures": pictures, "size": list(size), "seed": seed}, draw)


def draw_colorization(root: Path, pictures: int = 60, size: int = 240, seed: int = 0) -> Path:
    """Draw a sample of paintings of all shapes, and old photographs to colour, as the colorization data module reads.

    `images/` has a folder an artist, six pictures each and ten artists at most, `metadata.csv` the rest that is known
    of them; `photographs/` has six grey pictures. The same arguments give the same bytes.

    Args:
        root: The folder to draw: absent, empty, or drawn before from the same arguments.
        pictures: How many paintings.
        size: The longest side of all pictures in pixels.
        seed: Decides everything else.

    Returns:
        `root`.

    Raises:
        ValueError: `root` has other content, there are too few pictures for three artists, or they are under 80 pixels.
    """
    if pictures < 3 or size < 80:
        raise ValueError(f"{pictures=}, {size=}: 3 pictures or more, and 80 pixels or more, were wanted.")
    artists = max(3, min(len(NAMES), pictures // 6))

    def draw(folder: Path) -> None:
        write_gallery(folder, pictures, artists, size, seed)

    return draw_once(root, {"sample": "colorization", "pictures": pictures, "size": size, "seed": seed}, draw)


DRAWN_BY: dict[str, Callable[..., Path]] = {
    "aesthetics": draw_aesthetics,
    "avalanches": draw_avalanches,
    "clouds": draw_clouds,
    "colorization": draw_colorization,
    "roads": draw_roads,
}


def main() -> None:
    """Draw a sample from the command line: `python -m datamodules.samples clouds FOLDER`, or another task."""
    parser = argparse.ArgumentParser(description="Draw a small sample dataset in the real one's layout.")
    parser.add_argument("task", choices=sorted(DRAWN_BY))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int,
                        help="default: 80 aesthetics, 12 avalanches, 48 clouds, 60 colorization, 64 roads")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same bytes (default 0)")
    arguments = parser.parse_args()
    wanted = [] if arguments.pictures is None else [arguments.pictures]
    try:
        root = DRAWN_BY[arguments.task](arguments.folder, *wanted, seed=arguments.seed)
    except ValueError as error:
        parser.error(str(error))
    for part in sorted(root.iterdir()):
        count = sum(path.is_file() for path in part.rglob("*"))
        print(f"{part}: {count} pictures" if part.is_dir() else part)


if __name__ == "__main__":
    main()
