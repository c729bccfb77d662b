"""Writes pictures in the colours that `predict` gave them, at their own size, and how far these are from the truth."""

import csv
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from callbacks.writers.base import new_part, place, remove_part
from drawing.pictures import Picture, panel, save_picture, scaled
from ops.color import luminance_and_chroma
from ops.color_quality import picture_scores
from ops.coloring import colored, grey, has_colors
from ops.pictures import cropped
from tasks.base import Batch

VIEW = 800  # pixels of the longer side of a picture in a panel
SHOWN = 10  # pictures left out that are named in the message; the table has all
SCORES = ("psnr", "ssim", "delta_e76", "delta_e2000", "colorfulness", "colorfulness_true")
COLUMNS = ("name", *SCORES, "problem")


class ColoringWriter(Callback):
    """Writes every picture in colours, a panel of it, and a table of figures into the run's folder.

    - `colored/<path and stem>.png`: as large as the picture, and with its own luminance: L to 0.5.
    - `panels/<path and stem>.jpg`: grey and coloured side by side, and the picture itself where it has colours.
    - `figures.csv`: for each picture that has colours the scores of `ops.color_quality.picture_scores`, at its full
      size; `colorfulness` for every one; and in `problem` why a picture was left out.

    The task predicts `chroma` (B, 2, S, S), scaled as in `ops.color`; the batch has `name`, `index`, `image`, `box`,
    the place of the picture in it, `source`, the whole pictures (H, W, 3), and `problem`, "" for those that can be
    used. Several processes write their own pictures; the tables are merged at the end. All is written into the folder
    `part` and moved when it is whole, in the place of an earlier prediction's.

    Args:
        guided: Whether colours stop at edges of the full picture's luminance; otherwise they are interpolated.
        suffix: What coloured pictures are written as: `png`, or `jpg`, which is smaller but changes luminance too, at
            edges of colours by several units of L.

    Raises:
        ValueError: They cannot be written so.
    """

    def __init__(self, guided: bool = True, suffix: Literal["png", "jpg"] = "png") -> None:
        if suffix not in ("png", "jpg"):
            raise ValueError(f"suffix is {suffix!r}; png or jpg was wanted")
        self.guided, self.suffix = guided, suffix
        self.part = Path()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the folders and an empty table."""
        self.part = new_part(trainer, ["colored", "panels"])
        self._table(trainer.global_rank).write_text("")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves nothing that is half written."""
        remove_part(trainer, self.part)

    def _table(self, rank: int) -> Path:
        return self.part / f"rows{rank}.csv"

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes a batch.

        Raises:
            ValueError: A box does not lie in its picture.
        """
        for i, name in enumerate(batch["name"]):
            figures: dict[str, Any] = {"name": name, "problem": batch["problem"][i]}
            if not figures["problem"]:
                chroma, image = (cropped(maps[i], batch["box"][i]) for maps in (outputs["chroma"], batch["image"]))
                luminance = luminance_and_chroma(image[None])[0][0]
                picture = colored(batch["source"][i], chroma, luminance, self.guided)
                figures |= self._write(Path(name), batch["source"][i], picture, chroma.device)
            with self._table(trainer.global_rank).open("a", newline="") as file:
                csv.writer(file).writerow([int(batch["index"][i]), *(figures.get(column, "") for column in COLUMNS)])

    def _write(self, name: Path, source: Picture, picture: Picture, device: torch.device) -> dict[str, float]:
        """Writes a picture and its panel, and says how good it is."""
        save_picture(picture, self.part / "colored" / name.with_suffix(f".{self.suffix}"))
        true = has_colors(source)
        small = reduced(source)
        row = {"grey": grey(small), "coloured": reduced(picture), "original": small}
        titles = list(row) if true else list(row)[:2]
        drawn = panel([[row[title] for title in titles]], titles, [str(name)])
        save_picture(drawn, self.part / "panels" / name.with_suffix(".jpg"))
        prediction, target = (on_device(each, device) for each in (picture, source))
        scores = picture_scores(prediction, target, names=SCORES if true else ["colorfulness"])
        return {score: round(float(value), 4) for score, value in scores.items()}

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merges the tables in the order of the data, moves all to its place, and names what was left out."""
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        rows: list[list[str]] = []
        for rank in range(trainer.world_size):
            with self._table(rank).open(newline="") as file:
                rows.extend(csv.reader(file))
            self._table(rank).unlink()
        rows.sort(key=lambda row: int(row[0]))
        with (self.part / "figures.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *(row[1:] for row in rows)])
        problems = [row[-1] for row in rows if row[-1]]
        text = f"Pictures coloured: {len(rows) - len(problems)}.{place(self.part)}"
        rank_zero_info(text + left_out(problems))


def on_device(picture: Picture, device: torch.device) -> torch.Tensor:
    """A picture as a tensor (1, 3, H, W), on the host without a copy."""
    return torch.from_numpy(picture).to(device).permute(2, 0, 1)[None]


def left_out(problems: list[str]) -> str:
    """What is said of the pictures that could not be coloured, to be appended to a message."""
    if not problems:
        return ""
    shown = [f"\n  - {problem}" for problem in problems[:SHOWN]]
    more = len(problems) - SHOWN
    return (
        f"\nLeft out: {len(problems)}."
        + "".join(shown)
        + (f"\n  … and {more} more, see figures.csv" if more > 0 else "")
    )


def reduced(picture: Picture) -> Picture:
    """A picture whose longer side has 800 pixels at most."""
    return picture if max(picture.shape[:2]) <= VIEW else scaled(picture, VIEW, VIEW)
