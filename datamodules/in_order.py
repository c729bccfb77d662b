"""A data set's pictures for a pass that only looks at them: every one once, in order, none altered."""

from typing import Any

from lightning.pytorch import LightningDataModule

from datamodules.base import SPLITS, ImageDataModule
from datamodules.loaders import EpochLoader


class InOrder(LightningDataModule):
    """Lets a trainer's `predict` see all splits of a data set, one after the other, or the pictures to predict.

    The training pictures come as the validation pictures do: each once, in the order of their names, whole batches or
    not, and without augmentation.

    Args:
        data: The data set. Where it has `pictures`, only these are seen.

    Attributes:
        splits: Which splits are seen, in the order of the loaders.
    """

    def __init__(self, data: ImageDataModule) -> None:
        super().__init__()
        self.data = data
        self.splits: list[str] = [] if data.pictures is None else ["predict"]

    def prepare_data(self) -> None:
        """What the data set does once on each machine."""
        if self.data.pictures is None:
            self.data.prepare_data()

    def setup(self, stage: str) -> None:
        """Makes the data sets."""
        self.data.trainer = self.trainer
        if self.data.pictures is not None:
            self.data.setup("predict")
            return
        for needed in ("fit", "test"):
            self.data.setup(needed)
        self.splits = [split for split in SPLITS if self.data.datasets.get(split)]

    def predict_dataloader(self) -> list[EpochLoader]:
        """A loader a split."""
        if self.splits == ["predict"]:
            return [self.data.predict_dataloader()]
        for split in self.splits:  # under its own name `train` would be shuffled, and lack a last picture
            self.data.datasets[f"{split}, in order"] = self.data.datasets[split]
        return [self.data._loader(f"{split}, in order") for split in self.splits]

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_index: int) -> dict[str, Any]:
        """What the data set does on the device."""
        return self.data.on_after_batch_transfer(batch, dataloader_index)
