"""The plain U-Net that Belvedere's recipes are measured against: `python -m benchmarks.plain_unet`.

A U-Net of segmentation_models_pytorch with ImageNet weights from a file, trained in about sixty lines without our
code: BCE + dice, flips (and quarter turns for aerial images), AdamW with warm-up and cosine, a fixed number of steps in
bfloat16, no validation. Five folds of the real images under $BELVEDERE_DATA, fixed in `benchmarks/folds.json`, so that
every image is tested once; the network trains on all images of the other folds.

Writes `benchmarks/results/plain_unet_<dataset>.json`: per image dice and pixel counts, with and without test-time
augmentation.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

# folder of images, folder of masks, height and width of the network's input, gray value from which a mask pixel counts
DATASETS = {
    "roads": ("roads/images", "roads/masks", (256, 256), 128),
    "avalanches": ("avalanches/images", "avalanches/masks", (240, 160), 128),
    "hyta": ("clouds/hyta/images", "clouds/hyta/mask_cloud", (224, 224), 128),
    "landsat8": ("clouds/landsat8/images", "clouds/landsat8/masks", (256, 256), 128),
}
AERIAL = ("roads", "landsat8")
FOLDS = Path(__file__).with_name("folds.json")
MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def truths_of(dataset: str, data: Path) -> dict[str, NDArray[np.bool_]]:
    """Returns masks at their own size by the names of their images, sorted."""
    images, masks, _, least = DATASETS[dataset]
    found = {path.stem: path for path in (data / masks).iterdir()}
    gray = {path.name: cv2.imread(str(found[path.stem]), cv2.IMREAD_GRAYSCALE)
            for path in sorted((data / images).iterdir())}  # fmt: skip
    high = max(int(truth.max()) for truth in gray.values() if truth is not None)
    return {name: truth >= (least if high > 1 else 1) for name, truth in gray.items() if truth is not None}


def read(dataset: str, data: Path) -> tuple[dict[str, NDArray[np.bool_]], NDArray[np.uint8], Tensor]:
    """Returns masks at their own size, and images (N, H, W, 3) and masks at the network's size."""
    images, _, size, _ = DATASETS[dataset]
    truths = truths_of(dataset, data)
    reduced = [cv2.resize(truth.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) > 0.5
               for truth in truths.values()]  # fmt: skip
    pixels = [cv2.cvtColor(cv2.imread(str(data / images / name)), cv2.COLOR_BGR2RGB) for name in truths]
    arrays = np.stack([cv2.resize(each, size[::-1], interpolation=cv2.INTER_AREA) for each in pixels])
    return truths, arrays, torch.from_numpy(np.stack(reduced))[:, None].float()


def folds_of(dataset: str, names: list[str], count: int = 5) -> list[list[str]]:
    """Returns each fold's test images, from `benchmarks/folds.json`; draws and writes them where they are missing."""
    known: dict[str, list[list[str]]] = json.loads(FOLDS.read_text()) if FOLDS.is_file() else {}
    if dataset not in known:
        order = np.random.default_rng(0).permutation(len(names))
        known[dataset] = [sorted(names[i] for i in order[start::count]) for start in range(count)]
        FOLDS.write_text(json.dumps(known, indent=1) + "\n")
    return known[dataset]


def network_of(weights: Path) -> torch.nn.Module:
    """Returns a U-Net on MobileNetV2 that knows ImageNet."""
    network = smp.Unet("mobilenet_v2", encoder_weights=None, classes=1)
    state = {name: value for name, value in load_file(weights).items() if not name.startswith("classifier")}
    network.encoder.load_state_dict(state)
    return network


def turned(x: Tensor, turn: int) -> Tensor:
    """Returns an image (…, H, W) under one of the square's symmetries: 0 to 3 quarter turns, 4 to 7 mirrored."""
    return torch.rot90(x.flip(-1) if turn >= 4 else x, turn % 4, (-2, -1))


def turned_back(x: Tensor, turn: int) -> Tensor:
    """Returns the inverse of `turned`."""
    x = torch.rot90(x, -(turn % 4), (-2, -1))
    return x.flip(-1) if turn >= 4 else x


def train(network: torch.nn.Module, images: Tensor, masks: Tensor, aerial: bool, steps: int, seed: int) -> None:
    """Trains for a number of steps of eight images."""
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    warm_up = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            (step + 1) / warm_up
            if step < warm_up
            else (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up))) / 2
        ),
    )
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    waiting: list[int] = []
    for _ in range(steps):
        while len(waiting) < 8:
            waiting += rng.permutation(len(images)).tolist()
        rows, waiting = waiting[:8], waiting[8:]
        turns = [int(rng.integers(8)) if aerial else 4 * int(rng.integers(2)) for _ in rows]
        x = torch.stack([turned(images[row], turn) for row, turn in zip(rows, turns, strict=True)])
        y = torch.stack([turned(masks[row], turn) for row, turn in zip(rows, turns, strict=True)])
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(x.contiguous(memory_format=torch.channels_last))
        probability = (logits := logits.float()).sigmoid()
        overlap, total = (probability * y).sum((1, 2, 3)), (probability + y).sum((1, 2, 3))
        dice = 1 - ((2 * overlap + 1) / (total + 1)).mean()
        loss = F.binary_cross_entropy_with_logits(logits, y) + dice
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def predict(network: torch.nn.Module, image: Tensor, turns: list[int]) -> Tensor:
    """Returns the probability (1, 1, H, W), the mean over these symmetries."""
    every = [turned_back(network(turned(image[None], turn)).sigmoid(), turn) for turn in turns]
    return torch.stack(every).mean(0)


def scored(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> dict[str, float]:
    """Returns counts and dice of one mask at its own size."""
    both, either = int((mask & truth).sum()), int(mask.sum()) + int(truth.sum())
    return {"overlap": both, "total": either, "dice": 1.0 if not either else 2 * both / either}


def summary(rows: dict[str, dict[str, float]]) -> str:
    """Returns mean dice over images and F1 over all pixels."""
    overlap, total = (sum(row[key] for row in rows.values()) for key in ("overlap", "total"))
    return f"dice {np.mean([row['dice'] for row in rows.values()]):.4f}, F1 of all pixels {2 * overlap / total:.4f}"


def main() -> None:
    """Trains every fold and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    truths, arrays, masks = read(options.dataset, Path(os.environ["BELVEDERE_DATA"]))
    names = list(truths)
    images = (torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255 - MEAN.view(3, 1, 1)) / DEVIATION.view(3, 1, 1)
    aerial = options.dataset in AERIAL
    results: dict[str, Any] = {"dataset": options.dataset, "steps": options.steps, "plain": {}, "tta": {}}
    start = time.process_time()
    for fold, test in enumerate(folds_of(options.dataset, names)):
        torch.manual_seed(fold)
        network = network_of(options.weights)
        others = [row for row, name in enumerate(names) if name not in test]
        train(network, images[others], masks[others], aerial, options.steps, fold)
        network.eval()
        for row, name in enumerate(names):
            if name in test:
                for key, turns in (("plain", [0]), ("tta", list(range(8)) if aerial else [0, 4])):
                    whole = F.interpolate(predict(network, images[row], turns), truths[name].shape, mode="bilinear")
                    results[key][name] = scored(whole[0, 0].numpy() >= 0.5, truths[name])
        print(fold, summary(results["plain"]), "| tta", summary(results["tta"]), flush=True)
    results["cpu_seconds"] = round(time.process_time() - start, 1)
    path = Path(__file__).parent / "results" / f"plain_unet_{options.dataset}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
