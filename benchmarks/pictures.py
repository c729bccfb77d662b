"""How fast photographs come off the disk: `python -m benchmarks.pictures`, with $BELVEDERE_DATA set.

Links to the six full-size AVA photographs, and to the same enlarged to 12 megapixels, as telephones take them. They are
delivered as random crops of 224 x 224 by one and by two loader workers: as most scripts do (PIL, then torchvision's
Resize(256), RandomCrop, RandomHorizontalFlip, ToTensor and Normalize), and by the aesthetics data module, without and
with the crops and flips that it makes on the device, here on the same cores. Turn by turn, the medians of five epochs;
workers have been started before.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from datamodules.aesthetics import AestheticsDataModule

LARGE = (4000, 3000)
TURNS = 5
BATCH = 16


def lay_out(root: Path, count: int, size: tuple[int, int] | None) -> None:
    """Votes and links to the AVA photographs, as they are or enlarged to `size`, width and height."""
    sources = sorted((Path(os.environ["BELVEDERE_DATA"]) / "ava_fullsize").glob("*.jpg"))
    for folder in ("images", "whole"):
        (root / folder).mkdir(parents=True)
    for source in sources:
        if size is None:
            (root / "whole" / source.name).symlink_to(source.absolute())
        else:
            picture = Image.open(source).convert("RGB").resize(size, Image.Resampling.BICUBIC)
            picture.save(root / "whole" / source.name, quality=90)
    rows = ["image,count_1,count_2"]
    for place in range(count):
        (root / "images" / f"{place}.jpg").symlink_to(root / "whole" / sources[place % len(sources)].name)
        rows.append(f"{place}.jpg,{1 + place % 2},{2 - place % 2}")
    (root / "labels.csv").write_text("\n".join(rows))
    splits = [f"{place}.jpg,{('train', 'val')[place < 2]}" for place in range(count)]
    (root / "splits.csv").write_text("\n".join(["name,split", *splits]))


class Plain(Dataset[Any]):
    """Pictures as most scripts read them."""

    def __init__(self, folder: Path, count: int) -> None:
        self.paths = [folder / f"{place}.jpg" for place in range(2, count)]
        self.transform = transforms.Compose(
            [
                transforms.Resize(256),
                transforms.RandomCrop(224),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.open(self.paths[index]).convert("RGB")), index % 2


def epochs(root: Path, count: int, workers: int) -> Iterator[tuple[str, Callable[[], int]]]:
    """Yields what delivers all pictures once, by name; each returns how many there were."""
    plain: DataLoader[Any] = DataLoader(
        Plain(root / "images", count), BATCH, shuffle=True, num_workers=workers, persistent_workers=True
    )
    yield "PIL and torchvision", lambda: sum(len(image) for image, _ in plain)
    data = AestheticsDataModule(root, batch_size=BATCH, num_workers=workers)
    data.trainer = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False)
    data.trainer.training = True
    data.setup("fit")
    loader = data.train_dataloader()
    yield "data module, without crops", lambda: sum(len(batch["image"]) for batch in loader)
    # A loader of its own: workers of one are asked by one.
    other = data.train_dataloader()
    yield "data module", lambda: sum(len(data.on_after_batch_transfer(batch, 0)["image"]) for batch in other)


def measured(root: Path, count: int, workers: int) -> dict[str, float]:
    """Pictures a second, by name."""
    makers = dict(epochs(root, count, workers))
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    for turn in range(TURNS + 1):
        for name, make in makers.items():
            start = time.perf_counter()
            delivered = make()
            if turn:
                seconds[name].append((time.perf_counter() - start) / delivered)
    return {name: 1 / statistics.median(each) for name, each in seconds.items()}


def main() -> None:
    """Prints a table in Markdown."""
    torch.set_num_threads(1)
    sets: dict[str, tuple[int, tuple[int, int] | None]] = {"AVA": (290, None), "12 megapixels": (66, LARGE)}
    print("| photographs | workers | | pictures a second | ratio |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BELVEDERE_CACHE"] = str(Path(folder) / "cache")
        for name, (count, size) in sets.items():
            root = Path(folder) / name
            lay_out(root, count, size)
            for workers in (1, 2):
                rates = measured(root, count, workers)
                for what, rate in rates.items():
                    ratio = rate / rates["PIL and torchvision"]
                    print(f"| {name} | {workers} | {what} | {rate:.0f} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    main()
