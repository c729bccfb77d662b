"""What tests of callbacks share: a dataset of given batches."""

from collections.abc import Iterator, Sequence
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.batch import Batch, DataFacts


class Given(LightningDataModule):
    """Gives these batches to train on and these to validate and test on; notes which splits are read unaugmented."""

    def __init__(self, train: Sequence[Batch], val: Sequence[Batch], facts: DataFacts | None = None) -> None:
        super().__init__()
        self.batches = {"train": list(train), "val": list(val)}
        self.known, self.splits = facts or DataFacts(), list[str]()

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.batches["train"], batch_size=None)  # type: ignore[arg-type]  # a list is a dataset

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.batches["val"], batch_size=None)  # type: ignore[arg-type]

    test_dataloader = val_dataloader

    def facts(self) -> DataFacts:
        return self.known

    def unaugmented(self, split: str) -> Iterator[Batch]:
        for batch in self.batches[split]:
            self.splits.append(split)
            yield batch

    def fingerprint(self) -> str:
        return ""

    def picture_names(self) -> dict[str, list[str]]:
        return {}
