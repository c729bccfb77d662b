"""Keeps finished predictions in memory instead of writing files."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.writers.base import Writer
from callbacks.writers.format import Image
from datamodules.batch import Batch


class Collector(Callback, Generic[Image]):
    """Collects what a writer would write, as arrays and tables; for one process.

    ```python
    collector = Collector(SegmentationWriter())
    Trainer(callbacks=[collector], logger=False).predict(task, data, return_predictions=False)
    for image in collector.images:  # in the order of the data
        image.name, image.problem   # of every kind
    ```

    What an image has depends on the writer:

    - `SegmentationWriter` and `OutlineWriter` give a `segmentation.stitched.Stitched`: `classes`, `masks` (K, H, W)
      bool, `probability` (K, H, W) float32, `source` (the image to draw over) and `stages`. In `segmentation.masks`,
      `runs(image)` are its rows of `submission.csv` and `overlaid(image)` is its overlay; in `segmentation.polygons`,
      `outlined` makes the polygon of a mask and `geojson(image)` a GeoJSON feature per class.
    - `ColoringWriter` gives a `coloring.writer.Colorized`: `image` (H, W, 3) uint8, and `scores`, a row of
      `figures.csv`.
    - `ScoreWriter` gives a `judged.Judged`: `probability`, `mean` and `spread`, nan if not predicted.
    - `FeatureWriter` gives a `features.Described`: `vectors`, float32 (V,) by name.

    Args:
        writer: The writer, such as the one among a run's callbacks; none of its output formats is used.

    Attributes:
        images: The finished images.
    """

    def __init__(self, writer: Writer[Image]) -> None:
        self.writer = writer
        self.images: list[Image] = []
        self._folder: TemporaryDirectory[str] | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._folder = TemporaryDirectory()
        self._found: list[tuple[int, Image]] = []
        self.writer.begin(pl_module, Path(self._folder.name), in_memory=True)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._found += [(dataloader_idx, image) for image in self.writer.images(outputs, batch)]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.images = [image for _, image in sorted(self._found, key=lambda found: (found[0], found[1].index))]
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._release()

    def _release(self) -> None:
        self.writer.end()
        if self._folder is not None:
            self._folder.cleanup()
