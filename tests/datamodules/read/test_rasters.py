from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio

from datamodules.read import rasters
from datamodules.read.pictures import picture_size, read_picture
from datamodules.read.rasters import COLOR, Channels, channels_of, fitted_scale, raster_bands, read_raster
from datamodules.read.strips import Strip
from ops.errors import ArgumentError, DataError
from ops.geo import rasters as opening
from tests.ops.geo.helpers import UTM, write

PLACE: dict[str, Any] = {"crs": "EPSG:32632", "transform": UTM}
RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (4, 90, 70), np.uint8)
WORDS = RNG.integers(100, 4000, (4, 90, 70), np.uint16)


def named(path: Path, *names: str) -> Path:
    with rasterio.open(path, "r+") as raster:
        raster.descriptions = names
    return path


@pytest.mark.parametrize("layout", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16, "interleave": "band"}])
def test_strips_of_a_raster_are_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: dict[str, Any]
) -> None:
    monkeypatch.setattr(opening, "BLOCKS", 20_000)  # many strips
    path = write(tmp_path / "a.tif", BYTES[:3], nodata=7, **PLACE, **layout)
    whole = read_raster(path, COLOR)
    bands = list(raster_bands(path, COLOR))
    assert len(bands) > 2
    assert (np.concatenate(bands) == whole).all()
    there = (BYTES[:3] != 7).any(axis=0)
    assert ((whole[..., 3] == 255) == there).all()
    assert (whole[..., :3][there] == BYTES[:3].transpose(1, 2, 0)[there]).all()
    strip = Strip(path, picture_size(path), 32, (45, 35))
    assert strip.masked
    for top in (0, 20, 58):
        assert (strip.move(top) == whole[top : top + 32]).all()
    expected = cv2.resize(whole[..., :3], (35, 45), interpolation=cv2.INTER_AREA)
    assert np.abs(strip.view().astype(int) - expected).max() <= 1
    assert (read_picture(path) == whole[..., :3]).all()


def test_bands_by_number_by_name_and_by_color(tmp_path: Path) -> None:
    path = named(write(tmp_path / "a.tif", BYTES, photometric="minisblack", **PLACE), "Red", "green", "blue", "nir")
    for bands, rows in ((None, [0, 1, 2]), ([4, 1, 2], [3, 0, 1]), (["nir", "red"], [3, 0]), ([2], [1, 1, 1])):
        channels = channels_of(bands, None)
        found = read_picture(path, channels=channels)
        assert found.shape[2] == channels.count == len(rows)
        assert (found == BYTES[rows].transpose(1, 2, 0)).all()
    alpha = write(
        tmp_path / "b.tif",
        np.concatenate([BYTES[:3], (BYTES[3:] > 99) * np.uint8(255)]),
        photometric="RGB",
        alpha="yes",
        **PLACE,
    )
    assert ((read_raster(alpha, COLOR)[..., 3] == 255) == (BYTES[3] > 99)).all()


def test_values_are_scaled(tmp_path: Path) -> None:
    words = write(tmp_path / "words.tif", WORDS[:3], **PLACE)
    floats = WORDS[:3] / np.float32(4000)
    floats[0, 5, 5] = np.nan
    write(tmp_path / "floats.tif", floats, **PLACE)
    of_words = read_picture(words, channels=channels_of(None, [200, 3000]))
    expected = np.clip((WORDS[:3].astype(float) - 200) / 2800 * 255, 0, 255).transpose(1, 2, 0)
    assert np.abs(of_words - expected).max() <= 0.51
    each = read_picture(words, channels=channels_of(None, [[0, 4000], [200, 3000], [0, 65535]]))
    assert (each[..., 1] == of_words[..., 1]).all()
    of_type = read_picture(words, channels=channels_of(None, "dtype"))
    assert (each[..., 2] == of_type[..., 2]).all()
    of_floats = read_raster(tmp_path / "floats.tif", channels_of(None, "dtype"))
    assert not of_floats[5, 5].any()
    floats[1, 5, 5] = 0
    assert np.abs(of_floats[..., 1] - 255 * floats[1]).max() <= 0.51
    assert (of_floats[..., 3] == 255).sum() == 90 * 70 - 1


def test_percentiles_are_those_of_all_training_rasters(tmp_path: Path) -> None:
    values = [WORDS[:2], 2 * WORDS[:2]]
    values[0][:, :9] = 0
    paths = [write(tmp_path / f"{k}.tif", each, nodata=0, **PLACE) for k, each in enumerate(values)]
    found = fitted_scale(channels_of([1, 2], "percentiles"), paths)
    pooled = [np.concatenate([each[k][each[k] > 0] for each in values]) for k in (0, 1)]
    assert found.scale == tuple(tuple(np.percentile(each, [2, 98])) for each in pooled)
    assert found.recipe() != channels_of([1, 2], "percentiles").recipe()
    with pytest.raises(DataError, match="do not vary"):
        fitted_scale(
            channels_of([1], "percentiles"), [write(tmp_path / "flat.tif", np.full((1, 9, 9), 5, np.uint16), **PLACE)]
        )


def test_percentiles_need_rasters_of_equal_bands(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{count}.tif", WORDS[:count], **PLACE) for count in (3, 1)]
    with pytest.raises(DataError, match=r"1\.tif has 1 bands.*3\.tif has 3.*--data\.bands"):
        fitted_scale(channels_of(None, "percentiles"), paths)
    with pytest.raises(DataError, match="no training image is one"):
        fitted_scale(channels_of(None, "percentiles"), [])


def test_bands_of_different_types_have_their_own_range(tmp_path: Path) -> None:
    bytes_, words = write(tmp_path / "8.tif", BYTES[:1], **PLACE), write(tmp_path / "16.tif", WORDS[:1], **PLACE)
    vrt = tmp_path / "both.vrt"
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{number}"><SimpleSource><SourceFilename>{path}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for number, (kind, path) in enumerate([("Byte", bytes_), ("UInt16", words)], 1)
    )
    vrt.write_text(f'<VRTDataset rasterXSize="70" rasterYSize="90">{bands}</VRTDataset>')
    found = read_raster(vrt, channels_of([1, 2], "dtype"))
    assert (found[..., 0] == BYTES[0]).all()
    assert np.abs(found[..., 1] - WORDS[0] / 257).max() <= 0.51


def test_a_halved_raster_is_the_mean_of_its_pixels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", BYTES[:3, :88, :68], **PLACE)
    halved = read_picture(path, at_least=(30, 30))
    assert halved.shape == (44, 34, 3)
    means = BYTES[:3, :88, :68].reshape(3, 44, 2, 34, 2).mean(axis=(2, 4))
    assert np.abs(halved - means.transpose(1, 2, 0)).max() <= 0.51


def test_palettes_become_colors(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", BYTES[:1] % 3, **PLACE)
    with rasterio.open(path, "r+") as raster:
        raster.write_colormap(1, {0: (9, 8, 7), 1: (0, 100, 0), 2: (0, 0, 200)})
    expected = np.array([(9, 8, 7), (0, 100, 0), (0, 0, 200)])[BYTES[0] % 3]
    assert (read_picture(path) == expected).all()


def test_a_mosaic_of_tiles_is_one_image(tmp_path: Path) -> None:
    left = write(tmp_path / "left.tif", BYTES[:3], **PLACE)
    moved = UTM @ rasterio.Affine.translation(70, 0)
    right = write(tmp_path / "right.tif", BYTES[1:], crs="EPSG:32632", transform=moved)
    vrt = mosaic(tmp_path / "both.vrt", [(left, 0), (right, 70)])
    assert (read_picture(vrt) == np.concatenate([read_picture(left), read_picture(right)], axis=1)).all()
    right.unlink()
    with pytest.raises(DataError, match=r"right\.tif"):
        read_picture(vrt)


def mosaic(path: Path, tiles: list[tuple[Path, int]]) -> Path:
    """Writes a VRT of tiles of 90 x 70 pixels beside each other."""
    sources = [
        "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="1">{tile.name}</SourceFilename>'
            f"<SourceBand>{band}</SourceBand>"
            f'<SrcRect xOff="0" yOff="0" xSize="70" ySize="90"/><DstRect xOff="{left}" yOff="0" xSize="70" ySize="90"/>'
            "</SimpleSource>"
            for tile, left in tiles
        )
        for band in (1, 2, 3)
    ]
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{k}">{each}</VRTRasterBand>' for k, each in enumerate(sources, 1)
    )
    place = ",".join(map(str, UTM.to_gdal()))
    path.write_text(
        f'<VRTDataset rasterXSize="{70 * len(tiles)}" rasterYSize="90"><SRS>EPSG:32632</SRS>'
        f"<GeoTransform>{place}</GeoTransform>{bands}</VRTDataset>"
    )
    return path


@pytest.mark.parametrize(
    ("values", "channels", "words"),
    [
        (BYTES, COLOR, "4 bands.*--data.bands"),
        (WORDS[:3], COLOR, "uint16.*--data.scale"),
        (BYTES, Channels((1, 2, 9)), "no band 9"),
        (BYTES, Channels(("rde",)), "no band 'rde'"),
        (BYTES[:1], Channels(None, ((0, 1), (0, 1), (0, 1))), "1 bands to read"),
        (WORDS[:3].astype(np.complex64), COLOR, "complex"),
        (WORDS[:1], Channels(None, "percentiles"), "percentiles fits them"),
    ],
)
def test_what_cannot_be_read_is_explained(tmp_path: Path, values: Any, channels: Channels, words: str) -> None:
    path = write(tmp_path / "a.tif", values, photometric="minisblack", **PLACE)
    with pytest.raises(DataError, match=words) as error:
        read_picture(path, channels=channels)
    assert str(path) in str(error.value)


def test_truncated_rasters_are_reported_when_they_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", BYTES[:3], **PLACE)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(DataError, match="truncated"):
        list(raster_bands(path, COLOR))


@pytest.mark.parametrize(
    ("bands", "scale", "words"),
    [([0], None, "from 1 on"), ([], None, "from 1 on"), ([1, 1], None, "different"), (None, "max", "percentiles"),
     (None, [5, 5], r"\[low, high\]"), ([1, 2], [[0, 1]] * 3, "3 pairs"), (None, [[0, 1], [1]], r"\[low, high\]")],
)  # fmt: skip
def test_options_are_checked(bands: Any, scale: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        channels_of(bands, scale)


def test_plain_images_have_no_other_bands(tmp_path: Path) -> None:
    assert rasters.COLOR.count == 3
    cv2.imwrite(str(tmp_path / "a.png"), BYTES[:3].transpose(1, 2, 0))
    with pytest.raises(DataError, match="red, green and blue only"):
        read_picture(tmp_path / "a.png", channels=Channels((1, 2, 3, 4)))
