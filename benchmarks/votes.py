"""Starting on as many pictures as AVA has: `python -m benchmarks.votes FOLDER`, on a disk with 2 GB left.

Writes an AVA.txt of 250,000 lines, and as many links to 500 small JPEGs; then the table as labels.csv. Measures the
seconds until the data module is ready to train, twice, the votes in memory, and what each of two loader workers has in
memory of its own early in an epoch and at its end, beside workers that share lists of names, counts and tags, as they
are usually kept. Pictures are read for the first and last 2,000 samples only; the votes of all are.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from datamodules.aesthetics import AestheticsDataModule
from datamodules.votes.pictures import ScoredPicture

COUNT = 250_000
FILES = 500
READ = 2_000


def lay_out(root: Path) -> None:
    """Writes AVA.txt, labels.csv in `table/` and the links."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "table").mkdir()
    (root / "drawn").mkdir()
    for number in range(FILES):
        cv2.imwrite(str(root / "drawn" / f"{number}.jpg"), rng.integers(0, 256, (60, 90, 3), np.uint8))
    means = rng.normal(5.4, 0.75, (COUNT, 1)).clip(1.5, 9.5)
    shares = np.exp(-0.5 * ((np.arange(1, 11) - means) / 1.4) ** 2)
    counts = rng.multinomial(200, shares / shares.sum(axis=1, keepdims=True))
    ids = np.sort(rng.choice(np.arange(1000, 960_000), COUNT, replace=False))
    tags = rng.integers(0, 67, (COUNT, 2))
    with (root / "AVA.txt").open("w") as ava, (root / "table" / "labels.csv").open("w") as table:
        table.write("image," + ",".join(f"count_{vote}" for vote in range(1, 11)) + "\n")
        for number, (name, votes, tag) in enumerate(zip(ids.tolist(), counts.tolist(), tags.tolist(), strict=True)):
            ava.write(" ".join(map(str, (number + 1, name, *votes, *tag, 1 + number % 1397))) + "\n")
            table.write(",".join(map(str, (f"{name}.jpg", *votes))) + "\n")
            (root / "images" / f"{name}.jpg").symlink_to(root / "drawn" / f"{number % FILES}.jpg")
    (root / "table" / "images").symlink_to(root / "images")


class Compact(Dataset[Any]):
    """What a sample looks at; its picture too, if it is one of the first or last."""

    def __init__(self, make: ScoredPicture) -> None:
        self.make = make

    def __len__(self) -> int:
        return len(self.make.votes)

    def __getitem__(self, index: int) -> tuple[str, Any, list[str]]:
        if not READ <= index < len(self) - READ:
            self.make(index % len(self.make.rows))
        return self.make.votes.names[index], self.make.votes.counts[index], self.make.tags.of(index)


class Listed(Compact):
    """The same from lists, one small object a value."""

    def __init__(self, make: ScoredPicture) -> None:
        super().__init__(make)
        self.names = list(make.votes.names)
        self.counts: list[list[int]] = make.votes.counts.tolist()
        self.tags = [make.tags.of(row) for row in range(len(self.names))]

    def __getitem__(self, index: int) -> tuple[str, Any, list[str]]:
        super().__getitem__(index)
        return self.names[index], self.counts[index], self.tags[index]


def own_memory(samples: list[Any]) -> int:
    """Bytes of memory that this process shares with no other, when it has made these samples."""
    with open("/proc/self/smaps_rollup") as file:
        return 1024 * sum(int(line.split()[1]) for line in file if line.startswith("Private_"))


def grown(data: Dataset[Any]) -> tuple[float, float]:
    """Returns what a loader worker has in its own memory after its first batch of 1,000 and its last, in MB."""
    loader: DataLoader[Any] = DataLoader(data, batch_size=1000, num_workers=2, collate_fn=own_memory)
    memory = list(loader)
    return max(memory[:2]) / 1e6, max(memory[-2:]) / 1e6


def start_ups(root: Path) -> Iterator[tuple[str, float, float, AestheticsDataModule]]:
    """Yields twice each: what is read, seconds until there are loaders, those of the processor, the data module."""
    for what, folder in (("AVA.txt", root), ("labels.csv", root / "table")):
        for turn in ("first", "second"):
            data = AestheticsDataModule(folder, num_workers=0)
            begin, processor = time.perf_counter(), time.process_time()
            data.setup("fit")
            data.train_dataloader()
            seconds = time.perf_counter() - begin
            yield f"{what}, {turn} time", seconds, time.process_time() - processor, data


def main(folder: str) -> None:
    """Prints tables in Markdown."""
    root = Path(folder).absolute()
    os.environ["BELVEDERE_CACHE"] = str(root / "cache")
    if not root.exists():
        lay_out(root)
    print(f"| {COUNT} pictures | seconds until ready | of the processor |\n|---|---|---|")
    make: ScoredPicture | None = None
    for what, seconds, processor, data in start_ups(root):
        print(f"| {what} | {seconds:.1f} | {processor:.1f} |")
        if make is None:
            found = data.datasets["train"].make
            assert isinstance(found, ScoredPicture)
            make = found
    assert make is not None
    votes, tags = make.votes, make.tags
    held = votes.counts.nbytes + votes.tags.nbytes + votes.names.nbytes + tags.numbers.nbytes + tags.ends.nbytes
    print(f"\nNames, votes and tags in memory: {held / 1e6:.1f} MB.\n")
    print("| a loader worker's own memory | early, MB | at the end, MB | more |\n|---|---|---|---|")
    for what, each in {"arrays": Compact(make), "lists": Listed(make)}.items():
        start, end = grown(each)
        print(f"| {what} | {start:.0f} | {end:.0f} | {end - start:.0f} |")


if __name__ == "__main__":
    main(sys.argv[1])
