"""Converts the colors of images with an embedded ICC profile to sRGB."""

import warnings
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

# Color spaces of profiles, and the modes in which Pillow gives them to LittleCMS.
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# Color spaces of profiles that fit the modes of images; only RGB fits all others.
FITTING = {"L": ("GRAY", "RGB"), "LA": ("GRAY", "RGB"), "CMYK": ("CMYK",)}
_warned: set[str] = set()  # what is wrong with profiles, each reported once per process


def to_srgb(picture: Image.Image, profile: bytes | None, path: Path) -> Image.Image:
    """Returns an image as RGB of 8 bits without alpha, its colors converted from a profile to sRGB.

    A profile that is broken, or belongs to images of another kind, is ignored with a warning.

    Args:
        picture: The image.
        profile: The ICC profile that its file embeds; None is sRGB.
        path: The file, for the warning.
    """
    if profile is not None:
        space, transform = conversion(profile)
        if not space:
            _warn(path, "is broken")
        elif space not in FITTING.get(picture.mode, ("RGB",)):
            _warn(path, f"belongs to {space} images, but this one is {picture.mode}")
        elif transform is not None:
            converted = ImageCms.applyTransform(_as(picture, MODES[space]), transform)
            assert converted is not None  # it is not in place
            return converted
    return _as(picture, "RGB")


def profile_of(picture: Image.Image) -> bytes | None:
    """Returns the ICC profile that an open file embeds; b"" if it cannot be read, None if there is none."""
    if "icc_profile" not in picture.info:
        return None
    return picture.info["icc_profile"] or b""


@lru_cache(16)
def conversion(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Returns the color space of a profile, "" if it is broken, and its conversion to sRGB.

    The conversion is None where it would change no channel by more than 1, because the profile is one of sRGB.
    """
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        mode = MODES[space]
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except Exception:  # a broken profile makes LittleCMS or Pillow raise anything
        return "", None
    if space == "CMYK":
        return space, transform
    levels = np.arange(256, dtype=np.uint8)
    colors = np.stack(np.meshgrid(*[levels[::17]] * 3), axis=-1).reshape(64, 64, 3)
    sample = Image.fromarray(colors if space == "RGB" else levels[None])
    changed = np.asarray(ImageCms.applyTransform(sample, transform)).astype(int) - np.asarray(sample.convert("RGB"))
    return space, transform if abs(changed).max() > 1 else None


def _as(picture: Image.Image, mode: str) -> Image.Image:
    return picture if picture.mode == mode else picture.convert(mode)


def _warn(path: Path, what: str) -> None:
    if what not in _warned:
        _warned.add(what)
        warnings.warn(f"The color profile in {path} {what}; its colors are taken for sRGB. Further files like it are "
                      "not reported.", stacklevel=2)  # fmt: skip
