"""What needs no training on clouds, beside the recipes: `python -m benchmarks.untrained --weights FILE`.

On the five folds of `benchmarks/folds.json`, each image at its own size: the pixels above the brightness that does best
on the other folds (HYTA and Landsat 8), and, on Landsat 8, a U-Net on EfficientNet-b4 as it comes, which the package
ukis-csmask trained on other satellite images: by blue, green, red and near infrared, or by red, green and blue, whose
mean then stands for near infrared.
"""

import argparse
import os
from pathlib import Path

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from benchmarks.one_class import best_level
from benchmarks.plain_unet import DATASETS, folds_of, scored, summary, truths_of

# Mean and deviation of blue, green, red and near infrared, of ukis-csmask 1.0.0
MEAN, DEVIATION = (0.2755, 0.2557, 0.2698, 0.3343), (0.2449, 0.2276, 0.2537, 0.2321)
CLOUD = 1  # of background, cloud and shadow
BANDS = (1, 2, 3, 4)  # their places among the seven bands of the tiles
Masks = dict[str, NDArray[np.bool_]]


def bright(dataset: str, data: Path, truths: Masks) -> Masks:
    """Returns the pixels above a brightness in [0, 1], by image."""
    images = data / DATASETS[dataset][0]
    grays = {name: cv2.imread(str(images / name), cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255 for name in truths}
    found: Masks = {}
    for test in folds_of(dataset, list(truths)):
        others = [name for name in truths if name not in test]
        level = best_level([grays[name] for name in others], [truths[name] for name in others])
        found |= {name: grays[name] > level for name in test}
    return found


@torch.no_grad()
def by_satellite(data: Path, names: list[str], weights: Path, infrared: bool) -> Masks:
    """Returns the clouds that the U-Net finds in the Landsat tiles, by image."""
    network = smp.Unet("efficientnet-b4", encoder_weights=None, in_channels=4, classes=3).eval()
    missing, unknown = network.load_state_dict({k: v.float() for k, v in load_file(weights).items()}, strict=False)
    if unknown or any(not name.startswith(("encoder._conv_head", "encoder._bn1")) for name in missing):
        raise SystemExit(f"{weights} has other layers: {[*missing, *unknown][:5]}")
    mean, deviation = (torch.tensor(each)[:, None, None] for each in (MEAN, DEVIATION))
    found: Masks = {}
    for name in names:
        bands = np.load(data / "clouds/landsat8/bands" / Path(name).with_suffix(".npz"))["bands"]
        stacked = torch.from_numpy(bands[list(BANDS)]).float() / 255
        if not infrared:
            stacked[3] = stacked[:3].mean(0)
        found[name] = (network(((stacked - mean) / deviation)[None])[0].argmax(0) == CLOUD).numpy()
    return found


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="satellite_unet_efficientnet_b4_4band_fp16")
    weights, data = parser.parse_args().weights, Path(os.environ["BELVEDERE_DATA"])
    for dataset in ("hyta", "landsat8"):
        truths = truths_of(dataset, data)
        answers = {"brighter than the best threshold": bright(dataset, data, truths)}
        if dataset == "landsat8":
            answers["satellite U-Net, four bands"] = by_satellite(data, list(truths), weights, True)
            answers["satellite U-Net, three bands"] = by_satellite(data, list(truths), weights, False)
        for what, masks in answers.items():
            print(f"{dataset}, {what}:", summary({name: scored(masks[name], truths[name]) for name in truths}))


if __name__ == "__main__":
    main()
