"""Rasters and labels that cannot be used, by the command line: clear messages, and nothing half-written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely

from tests.datamodules.read.test_raster_masks import IMAGE, PLACE, TRIANGLE, labels
from tests.datamodules.read.test_rasters import BYTES, mosaic
from tests.helpers import SMALL, table
from tests.ops.geo.helpers import ROTATED, UTM, write

Command = Callable[..., Any]
FAR = UTM @ rasterio.Affine.translation(100_000, 0)


def broken_mosaic(folder: Path) -> None:
    """A VRT of two tiles, one of which is missing."""
    tiles = [folder / "tiles/left.tif", folder / "tiles/right.tif"]
    tiles[0].parent.mkdir()
    for tile, left in zip(tiles, (0, 70), strict=True):
        place = UTM @ rasterio.Affine.translation(left, 0)
        write(tile, BYTES[:3], crs="EPSG:32632", transform=place)
    vrt = mosaic(folder / "tiles/both.vrt", [(tiles[0], 0), (tiles[1], 70)])
    text = vrt.read_text().replace('relativeToVRT="1">', f'relativeToVRT="0">{tiles[0].parent}/')
    (folder / "images/both.vrt").write_text(text)
    vrt.unlink()
    tiles[1].unlink()


def spoiled(folder: Path, case: str) -> list[Any]:
    """Makes one image of a folder unusable, and returns the shapes of the labels."""
    image, plain = folder / "images/0.tif", {"photometric": "minisblack", **PLACE}
    match case:
        case "no system":
            write(image, IMAGE, transform=UTM)
        case "elsewhere":
            write(image, IMAGE, crs="EPSG:32632", transform=FAR)
        case "missing band":
            write(image, IMAGE[:2], **plain)
        case "no data":
            write(image, np.zeros_like(IMAGE), nodata=0, **PLACE)
        case "dtype":
            write(image, IMAGE.astype(np.uint16), **PLACE)
        case "complex":
            write(image, IMAGE.astype(np.complex64), **PLACE)
        case "missing tile":
            broken_mosaic(folder)
        case "no overlap":
            return [shapely.box(0, 0, 9, 9)]
        case "lines":
            return [shapely.LineString([(400_005, 5_199_955), (400_050, 5_199_995)])]
    return [TRIANGLE]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of six rasters."""
    (tmp_path / "town/images").mkdir(parents=True)
    for k in range(6):
        write(tmp_path / f"town/images/{k}.tif", IMAGE, **PLACE)
    return tmp_path / "town"


@pytest.mark.parametrize(
    ("case", "words", "options"),
    [
        ("no system", ["0.tif has no coordinate reference system", "gdal_edit"], []),
        ("elsewhere", ["do not overlap the image", "0.tif"], []),
        ("missing band", ["0.tif has 2 bands", "--data.bands"], []),
        ("missing band", ["0.tif has no band 3"], ["--data.bands", "[1,2,3]"]),
        ("no data", ["0.tif has no data", "nodata value"], []),
        ("no data", ["0.tif has no data"], ["--data.split_by", "block", "--data.block", "20"]),
        ("dtype", ["0.tif has values of the type uint16", "--data.scale"], []),
        ("complex", ["0.tif has complex numbers"], ["--data.scale", "dtype"]),
        ("missing tile", ["both.vrt", "right.tif: No such file", "A file that it refers to may be missing"], []),
        ("no overlap", ["The 1 features of", "a.gpkg", "do not overlap"], []),
        ("lines", ["a.gpkg has lines", "--data.line_width"], []),
    ],
)
def test_training_explains_what_it_cannot_use(
    root: Path, belvedere: Command, monkeypatch: pytest.MonkeyPatch, case: str, words: list[str], options: list[str]
) -> None:
    monkeypatch.setenv("BELVEDERE_CACHE", str(root.parent / "cache"))
    path = labels(root / "a.gpkg", spoiled(root, case))
    found = belvedere("fit", "--config", *SMALL["roads"][:-4], "--data.root", str(root), "--data.labels", str(path),
                      *options, "--output", "run")  # fmt: skip
    assert all(word in found.refusal for word in words), found.refusal
    assert not Path("run").exists() or not list(Path("run").rglob("*.ckpt"))
    assert not list((root.parent / "cache").rglob(".part-*"))


def test_masks_elsewhere_are_explained(root: Path, belvedere: Command) -> None:
    (root / "masks").mkdir()
    for k in range(6):
        write(root / f"masks/{k}.tif", (IMAGE[:1] > 99) * np.uint8(255), crs="EPSG:32632", transform=FAR)
    found = belvedere("fit", "--config", *SMALL["roads"][:-4], "--data.root", str(root), "--output", "run")
    assert "6 problems" in found.refusal
    assert "masks/0.tif does not overlap its image 0.tif" in found.refusal


def test_prediction_skips_what_it_cannot_use(
    root: Path, trained: Callable[[str], Path], belvedere: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = root / "images"
    for k in range(6):
        (images / f"{k}.tif").unlink()
    write(images / "good.tif", IMAGE, crs="EPSG:32632", transform=ROTATED)
    write(images / "nothing.tif", np.zeros_like(IMAGE), nodata=0, **PLACE)
    write(images / "words.tif", IMAGE.astype(np.uint16), **PLACE)
    write(images / "four.tif", BYTES, photometric="minisblack", **PLACE)
    whole = write(images / "cut.tif", IMAGE, **PLACE).read_bytes()
    (images / "cut.tif").write_bytes(whole[:-3000])
    write(images / "unplaced.tif", IMAGE, transform=UTM)
    with pytest.warns(UserWarning, match="no coordinate reference system"):
        found = belvedere("predict", "--ckpt_path", str(trained("roads")), "--data.pictures", str(images),
                          "--data.num_workers", "0", "--uncertainty", "--output", "out")  # fmt: skip
    assert found.code == 3
    problems = {row["name"]: row["problem"] for row in table("out/skipped.csv")}
    expected = {"words.tif": "uint16", "four.tif": "4 bands", "cut.tif": "truncated"}
    assert problems.keys() == expected.keys()
    assert all(word in problems[name] for name, word in expected.items())
    files = {path.name for path in Path("out/maps").iterdir()}
    ends = (".gpkg", "_mask.tif", "_probability.tif")
    assert files == {f"{stem}{end}" for stem in ("good", "nothing") for end in ends}
    assert {path.name for path in Path("out/uncertainty").glob("*.tif")} == {"good.tif", "nothing.tif"}
    assert {path.stem for path in Path("out/masks").iterdir()} == {"good", "nothing", "unplaced"}
    assert [row["share"] for row in table("out/areas.csv") if row["image"] == "nothing.tif"] == ["0.0"]
    assert not [*Path("out").rglob(".part-*"), *Path("out").rglob("part"), *Path("out").rglob("tmp*")]


def test_predicting_a_mosaic_names_its_missing_tile(
    root: Path, trained: Callable[[str], Path], belvedere: Command
) -> None:
    broken_mosaic(root)
    found = belvedere("predict", "--ckpt_path", str(trained("roads")), "--data.pictures", str(root / "images/both.vrt"),
                      "--data.num_workers", "0", "--output", "out")  # fmt: skip
    assert found.code == 3
    [row] = table("out/skipped.csv")
    assert "right.tif: No such file" in row["problem"]
    assert not Path("out/maps").exists()
    assert not Path("out/areas.csv").exists()
