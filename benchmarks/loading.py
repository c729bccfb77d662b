"""How fast clouds come off the disk: `python -m benchmarks.loading`, with $BELVEDERE_DATA set.

64 links to the real 1400 x 2100 pictures, delivered as 224 x 224 pictures and masks by one process and thread of
loading: as most notebooks do (decode the JPEG, paint the runs one by one, resize both), and from the cache.
"""

import csv
import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from datamodules.clouds import CloudsDataModule

SIZE = (224, 224)


def lay_out(root: Path, copies: int) -> None:
    """Makes a Kaggle folder of links to the real pictures."""
    source = Path(os.environ["BELVEDERE_DATA"]) / "clouds" / "modis"
    with (source / "train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (root / "train_images").mkdir(parents=True)
    with (root / "train.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Image_Label", "EncodedPixels"])
        for copy in range(copies):
            for row in rows:
                table.writerow([f"{copy:02d}{row['Image_Label']}", row["EncodedPixels"]])
            for name in {row["Image_Label"].rpartition("_")[0] for row in rows}:
                (root / "train_images" / f"{copy:02d}{name}").symlink_to((source / "images" / name).absolute())


def notebook(root: Path) -> int:
    """Reads every picture and its masks as the usual notebook does; returns how many."""
    with (root / "train.csv").open(newline="") as file:
        runs = {row["Image_Label"]: row["EncodedPixels"] for row in csv.DictReader(file)}
    pictures = sorted((root / "train_images").iterdir())
    for path in pictures:
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        masks = np.zeros((4, *image.shape[:2]), np.uint8)
        for mask, label in zip(masks, ("Fish", "Flower", "Gravel", "Sugar"), strict=True):
            flat = np.zeros(mask.size, np.uint8)
            values = np.array(runs[f"{path.name}_{label}"].split(), dtype=int)
            for start, length in zip(values[::2], values[1::2], strict=True):
                flat[start - 1 : start - 1 + length] = 1
            mask[:] = flat.reshape(mask.shape[::-1]).T
        cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_AREA)
        for mask in masks:
            cv2.resize(mask, SIZE[::-1], interpolation=cv2.INTER_NEAREST)
    return len(pictures)


def main() -> None:
    """Prints a table in Markdown."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "kaggle"
        os.environ["BELVEDERE_CACHE"] = str(Path(folder) / "cache")
        lay_out(root, 32)
        notebook(root)  # the files are in the system's cache for all
        start = time.perf_counter()
        count = notebook(root)
        rows = {"notebook, every epoch": count / (time.perf_counter() - start)}
        data = CloudsDataModule(root, size=SIZE, val_fraction=0.02, test_fraction=0.0, num_workers=0)
        start = time.perf_counter()
        data.setup("fit")
        rows[f"filling the cache, once, {os.cpu_count()} threads"] = count / (time.perf_counter() - start)
        loader = data.train_dataloader()
        list(loader)
        start = time.perf_counter()
        epochs = 10
        delivered = sum(len(batch["name"]) for _ in range(epochs) for batch in loader)
        rows["from the cache, every epoch after"] = delivered / (time.perf_counter() - start)
    print("| | pictures a second | ratio |\n|---|---|---|")
    for name, rate in rows.items():
        print(f"| {name} | {rate:.0f} | {rate / rows['notebook, every epoch']:.1f} |")


if __name__ == "__main__":
    main()
