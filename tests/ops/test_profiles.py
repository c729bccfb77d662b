"""Colors come from the embedded profile: what is read is what a viewer shows."""

import struct
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms

from datamodules.read.mask_files import read_mask
from datamodules.read.pictures import read_picture
from datamodules.read.strips import picture_bands
from datamodules.votes.pictures import read_square
from drawing.pictures import save_picture
from ops import profiles
from ops.color.coloring import colored
from ops.color.lab import rgb_to_lab

ROWS, COLUMNS = np.mgrid[:96, :128]
COLORS = np.stack([COLUMNS * 2, ROWS * 2.6, 255 - COLUMNS * 2], -1).clip(0, 255).astype(np.uint8)
GRAYS = (COLUMNS * 2).astype(np.uint8)


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def profile(space: bytes, gamma: float, **primaries: tuple[float, float, float]) -> bytes:
    """An ICC profile of version 2, with a gamma for each channel."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    name = b"test\0"
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(74),
            b"cprt": b"text\0\0\0\0none\0", b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9505, 1, 1.0891)}  # fmt: skip
    tags |= {f"{key}XYZ".encode(): b"XYZ \0\0\0\0" + fixed(*xyz) for key, xyz in primaries.items()}
    tags |= {f"{key}TRC".encode(): curve for key in primaries or "k"}
    body, table, start = b"", struct.pack(">I", len(tags)), 132 + 12 * len(tags)
    for key, data in tags.items():
        table += key + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s6H4s", start + len(body), b"lcms", 0x02200000, b"mntr", space, b"XYZ ",
                       2020, 1, 1, 0, 0, 0, b"acsp")  # fmt: skip
    return head + bytes(28) + fixed(0.9642, 1, 0.8249) + bytes(48) + table + body


ADOBE = profile(
    b"RGB ", 2.2, r=(0.60974, 0.31111, 0.01947), g=(0.20528, 0.62567, 0.06087), b=(0.14919, 0.06322, 0.74457)
)
GRAY18 = profile(b"GRAY", 1.8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(autouse=True)
def unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "_warned", set())


def shown(path: Path) -> NDArray[np.uint8]:
    """What a viewer shows, by Pillow's own function."""
    image = Image.open(path)
    icc = image.info.get("icc_profile")
    if not icc:
        return np.asarray(image.convert("RGB"))
    source = ImageCms.ImageCmsProfile(BytesIO(icc))
    made = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert made is not None
    return np.asarray(made)


def lightness(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = rgb_to_lab(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255)[0, 0].numpy()
    return found


@pytest.mark.parametrize("suffix", ["tif", "jpg", "png", "webp"])
@pytest.mark.parametrize("kind", ["adobe", "gray"])
def test_every_reader_sees_what_a_viewer_shows(kind: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"scan.{suffix}"
    gray = kind == "gray" and suffix != "webp"  # WebP has no gray
    pixels, icc = (GRAYS, GRAY18) if gray else (COLORS, ADOBE)
    Image.fromarray(pixels).save(path, icc_profile=icc, quality=98)
    expected = shown(path)
    plain = np.asarray(Image.open(path).convert("RGB"))
    assert np.abs(lightness(expected) - lightness(plain)).max() > (4 if gray else 1)  # the profile matters
    np.testing.assert_array_equal(read_picture(path), expected)
    np.testing.assert_array_equal(np.vstack(list(picture_bands(path))), expected)
    np.testing.assert_array_equal(read_square(path, 96), expected[:, 16:112])


def test_palettes_alpha_rotations_and_gray_images_with_an_rgb_profile_are_converted(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLORS).quantize(64).save(tmp_path / "palette.png", icc_profile=ADOBE)
    Image.fromarray(COLORS).convert("RGBA").save(tmp_path / "alpha.png", icc_profile=ADOBE, exif=exif)
    Image.fromarray(GRAYS).save(tmp_path / "gray.png", icc_profile=ADOBE)
    Image.fromarray(GRAYS).convert("LA").save(tmp_path / "gray_alpha.png", icc_profile=GRAY18)
    for name in ("palette", "alpha", "gray", "gray_alpha"):
        path = tmp_path / f"{name}.png"
        read, image = read_picture(path), Image.open(path)
        source = ImageCms.ImageCmsProfile(BytesIO(image.info["icc_profile"]))
        opaque = image.convert("L" if name == "gray_alpha" else "RGB")
        made = ImageCms.profileToProfile(opaque, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        assert made is not None
        np.testing.assert_array_equal(read, np.rot90(np.asarray(made), -1) if name == "alpha" else np.asarray(made))
        np.testing.assert_array_equal(np.vstack(list(picture_bands(path))), read)


def test_a_profile_of_srgb_changes_no_pixel(tmp_path: Path) -> None:
    Image.fromarray(COLORS).save(tmp_path / "a.png", icc_profile=SRGB)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), COLORS)


@pytest.mark.parametrize("icc", [b"rubbish", ADOBE[:200], GRAY18, bytes(5000)])
def test_broken_and_foreign_profiles_are_ignored_with_one_warning(icc: bytes, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(COLORS).save(tmp_path / name, icc_profile=icc)
    with pytest.warns(UserWarning, match=r"profile in .*a\.png"):
        np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), COLORS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_picture(tmp_path / "b.png"), COLORS)
        np.testing.assert_array_equal(np.vstack(list(picture_bands(tmp_path / "b.png"))), COLORS)


def test_masks_keep_their_values(tmp_path: Path) -> None:
    mask = GRAYS > 100
    Image.fromarray(mask.view(np.uint8)).save(tmp_path / "a.png", icc_profile=GRAY18)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), mask)


def test_colors_for_a_gray_scan_keep_its_lightness(tmp_path: Path) -> None:
    """What viewers show of the scan and of the colored image has the same L, to 0.5."""
    Image.fromarray(GRAYS).save(tmp_path / "scan.tif", icc_profile=GRAY18)
    source = read_picture(tmp_path / "scan.tif")
    chroma = torch.rand(2, 24, 32, generator=torch.Generator().manual_seed(0)) * 0.4 - 0.2
    small = torch.from_numpy(source[2::4, 2::4].copy()).permute(2, 0, 1)[None] / 255
    save_picture(colored(source, chroma, rgb_to_lab(small)[0, :1] / 100, guided=False), tmp_path / "colored.png")
    assert Image.open(tmp_path / "colored.png").info["srgb"] == 0
    result = shown(tmp_path / "colored.png")
    assert np.ptp(result.astype(int), axis=2).max() > 20  # it has colors
    assert np.abs(lightness(result) - lightness(shown(tmp_path / "scan.tif"))).max() <= 0.5
