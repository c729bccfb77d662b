"""Applies albumentations transforms from the config to training samples, on the host."""

import os
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.read.pictures import channels_first, resized, resized_mask, touched
from ops.errors import ArgumentError, DataError, nearest
from ops.pictures import valid_pixels

EXAMPLE = "{class_path: albumentations.RandomBrightnessContrast, init_args: {p: 0.5}}"


class Augmentations:
    """Transforms of training samples, seeded per sample.

    The result depends on the sample and its seed only, so it is the same for any number of workers and processes and
    after resuming. Masks are transformed along with their image. A transform that changes the size, such as a crop, is
    followed by resizing to the size before. Areas without image, such as the corners of a rotated one, are filled as
    the transform's arguments define and belong to no mask.

    Args:
        transforms: For each transform its `class_path` and, optionally, `init_args`, in which transforms may be nested,
            as in `albumentations.OneOf`.
        moving: Whether transforms may move pixels, such as flips and rotations.

    Raises:
        ArgumentError: A transform is unknown or rejects its arguments, or moves pixels although it must not.
    """

    def __init__(self, transforms: Sequence[Any], moving: bool = True) -> None:
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # importing it would ask the network for a newer version
        import albumentations

        built = [_built(each) for each in transforms]
        for each in _leaves(built):
            if each.invalid_args:  # albumentations only warns about these
                raise ArgumentError(
                    f"data.augmentations: albumentations.{type(each).__name__} has no argument "
                    f"{', '.join(each.invalid_args)}."
                )
            if not moving and isinstance(each, albumentations.DualTransform):
                raise ArgumentError(
                    f"data.augmentations: {type(each).__name__} moves pixels, but a label belongs to the central pixel "
                    "of its window. Choose transforms of colors, blur or noise."
                )
        self._compose = albumentations.Compose(built)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Returns a transformed sample.

        Args:
            sample: `image` uint8 (3, H, W), `seed`, and maybe `mask` uint8 (K, H, W), `ignored`, bool (1, H, W), and
                `box` (4,), the top, left, height and width of the valid pixels of a square, which become `valid`, bool
                (1, H, W).

        Raises:
            DataError: A transform fails or does not return an RGB image of 8 bits.
        """
        self._compose.set_random_state(np.random.default_rng(sample["seed"]), random.Random(sample["seed"]))
        image, size = sample["image"], (sample["image"].shape[1], sample["image"].shape[2])
        planes = list(sample["mask"].numpy()) if "mask" in sample else []
        if "ignored" in sample:
            planes.append(sample["ignored"][0].numpy().astype(np.uint8))
        if "box" in sample:
            planes.append(valid_pixels(sample["box"][None], size[0])[0, 0].numpy().astype(np.uint8))
        given: dict[str, Any] = {"image": np.ascontiguousarray(image.permute(1, 2, 0).numpy())}
        if planes:
            given["masks"] = [np.ascontiguousarray(plane) for plane in planes]
        try:
            found = self._compose(**given)
        except Exception as error:  # transforms raise errors of all kinds
            raise DataError(f"data.augmentations: {type(error).__name__}: {error}") from error
        values: NDArray[np.uint8] = found["image"]
        if values.dtype != np.uint8 or values.ndim != 3 or values.shape[2] != 3:
            raise DataError(
                f"data.augmentations return an image of shape {values.shape} and {values.dtype}; expected (H, W, 3) of "
                "uint8. Remove transforms that normalize images or convert their type."
            )
        changed = {**sample, "image": channels_first(resized(values, size))}
        moved = [plane > 0 for plane in found.get("masks", ())]
        if "box" in sample:
            changed["valid"] = torch.from_numpy(resized_mask(moved.pop(), size))[None]
        if "ignored" in sample:
            changed["ignored"] = torch.from_numpy(touched(moved.pop(), size))[None]
        if moved:
            changed["mask"] = torch.stack([torch.from_numpy(resized_mask(each, size)) for each in moved]).to(
                torch.uint8
            )
        return changed

    def images(self, images: Tensor, seeds: Tensor) -> Tensor:
        """Returns transformed images uint8 (B, 3, H, W) with these seeds (B,), on the device that they are on."""
        pairs = zip(images.cpu(), seeds.tolist(), strict=True)
        changed = [self({"image": image, "seed": seed})["image"] for image, seed in pairs]
        return torch.stack(changed).to(images.device)


def _built(spec: Any) -> Any:
    """Returns the transform that a config describes, or the transform itself.

    Raises:
        ArgumentError: It is unknown or rejects its arguments.
    """
    import albumentations

    kinds = albumentations.BasicTransform | albumentations.BaseCompose
    if isinstance(spec, kinds):  # jsonargparse builds nested ones itself
        return spec
    if not isinstance(spec, Mapping) or not {"class_path"} <= spec.keys() <= {"class_path", "init_args"}:
        raise ArgumentError(f"data.augmentations has {spec!r}; expected class_path and init_args, such as {EXAMPLE}.")
    path = str(spec["class_path"])
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(import_module(module), name, None)
    except (ImportError, ValueError):
        kind = None
    if not (isinstance(kind, type) and issubclass(kind, kinds)):
        hint = nearest(f"albumentations.{name}", [f"albumentations.{each}" for each in dir(albumentations)])
        raise ArgumentError(f"data.augmentations: there is no transform {path!r}.{hint}")
    arguments = {key: _nested(value) for key, value in (spec.get("init_args") or {}).items()}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Argument\(s\)")  # rejected later, nested ones too
            return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"data.augmentations: {path} rejects its arguments: {error}") from error


def _nested(value: Any) -> Any:
    """Returns the value of an argument, with transforms in place of their descriptions."""
    if isinstance(value, Mapping) and "class_path" in value:
        return _built(value)
    return [_nested(each) for each in value] if isinstance(value, list) else value


def _leaves(transforms: Sequence[Any]) -> Iterator[Any]:
    """Yields all transforms, nested ones too, without those that only contain others."""
    for each in transforms:
        if hasattr(each, "transforms"):
            yield from _leaves(each.transforms)
        else:
            yield each
