import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import Metric

from callbacks.intervals import Intervals, bootstrap, pictures_of
from tasks.base import Batch, ImageTask
from tasks.metrics.judgements import JudgementScores
from tasks.metrics.meter import Meter, States, Step

TAGS = ("Sea", "Sky")
# two professional shots, two snapshots, all judged rightly; only professional shots have the tag Sea
JUDGED = ((0.9, 1.0, ("Sea", "Sky")), (0.8, 1.0, ("Sea",)), (0.2, 0.0, ("Sky",)), (0.1, 0.0, ()))


def step(rows: Sequence[tuple[float, float, tuple[str, ...]]]) -> Step:
    prediction, target = (torch.tensor([row[place] for row in rows]) for place in (0, 1))
    return Step(torch.tensor(0.0), prediction, target, tags=[row[2] for row in rows])


def counted() -> tuple[Meter, list[list[States]]]:
    meter = Meter({"judgement": JudgementScores(TAGS)})
    meter.each = []
    meter.update(step(JUDGED), len(JUDGED))
    return meter, [[states] for states in meter.each]


def test_draws_of_one_class_are_none_of_an_areas() -> None:
    found = bootstrap(*counted(), 200)
    assert found["auc"] == found["auc@sky"] == (1, 1)  # of 200 draws some 25 are of one class
    assert "auc@sea" not in found  # it has one class in all of them
    assert found["accuracy@sea"] == found["balanced_accuracy@sea"] == found["majority@sea"] == (1, 1)


def test_pictures_of_a_tag_are_those_that_have_it() -> None:
    found = pictures_of(*counted())
    assert {name: found[name] for name in ("accuracy", "auc", "accuracy@sea", "auc@sky", "majority@sky")} == {
        "accuracy": 4, "auc": 4, "accuracy@sea": 2, "auc@sky": 2, "majority@sky": 2}  # fmt: skip


class Known(ImageTask):
    """Answers as it is told."""

    def build_metrics(self) -> dict[str, Metric]:
        return {"judgement": JudgementScores(TAGS)}

    def step(self, batch: Batch) -> Step:
        return step([JUDGED[index] for index in batch["index"].tolist()])

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        return {}


def test_the_table_has_the_pictures_of_each_tag(tmp_path: Path) -> None:
    data: list[Batch] = [{"name": str(index), "index": index, "image": torch.zeros(1)} for index in range(len(JUDGED))]
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False, callbacks=[Intervals(200)])  # fmt: skip
    task: LightningModule = Known(torch.optim.SGD)
    trainer.test(task, DataLoader(data, batch_size=3), verbose=False)  # type: ignore[arg-type]  # a list is a data set
    with (tmp_path / "intervals.csv").open(newline="") as file:
        found = {row["figure"]: row for row in csv.DictReader(file)}
    pictures = {name: int(row["pictures"]) for name, row in found.items()}
    endings = {"": 4, "@sea": 2, "@sky": 2}
    names = ("accuracy", "balanced_accuracy", "auc", "majority")
    assert pictures == {f"test/{name}{ending}": count for ending, count in endings.items() for name in names
                        if name + ending != "auc@sea"}  # fmt: skip
    assert [float(found["test/auc"][end]) for end in ("low", "high")] == [1, 1]
