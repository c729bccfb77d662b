import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import Metric

from callbacks.handover import Handover
from callbacks.intervals import SEED, Intervals, bootstrap, by_image
from datamodules.aesthetics import AestheticsDataModule
from datamodules.avalanches import AvalanchesDataModule
from datamodules.base import ImageDataModule
from datamodules.clouds import CloudsDataModule
from datamodules.colorization import ColorizationDataModule
from datamodules.roads import RoadsDataModule
from tasks.aesthetics import AestheticsTask
from tasks.avalanches import AvalanchesTask
from tasks.base import Batch, ImageTask
from tasks.clouds import CloudsTask
from tasks.colorization import ColorizationTask
from tasks.metrics.colors import ColorScores
from tasks.metrics.dice import DiceScores, PixelAveragePrecision
from tasks.metrics.judgements import JudgementScores, VoteScores
from tasks.metrics.meter import Meter, States, Step
from tasks.metrics.pixels import BoundaryDistance, PixelScores
from tasks.roads import RoadsTask
from tests.datamodules.helpers import csv_rows
from tests.scripted import quiet_trainer

CLASSES = ("Fish", "Flower")
DRAWS = 40


def masks(pictures: int, classes: int) -> list[Step]:
    random = torch.Generator().manual_seed(0)
    steps = []
    for _ in range(pictures):
        target = torch.rand(1, classes, 12, 16, generator=random) < 0.3
        probability = (target * 0.3 + 0.7 * torch.rand(target.shape, generator=random)).clamp(0, 1)
        steps.append(Step(torch.tensor(0.0), probability > 0.5, target.float(), probability))
    return steps


def judged(pictures: int) -> list[Step]:
    random = torch.Generator().manual_seed(0)
    steps = []
    for index in range(pictures):
        shares = torch.rand(1, 10, generator=random).softmax(dim=1)
        votes = torch.randint(1, 9, (1, 10), generator=random)
        target = torch.rand(1, generator=random).round()
        tags = [["Sky", "Sea"][: index % 3]]
        prediction = (target * 0.2 + 0.8 * torch.rand(1, generator=random)).clamp(0, 1)
        steps.append(Step(torch.tensor(0.0), prediction, target, shares, votes=votes, tags=tags))
    return steps


def colored(pictures: int) -> list[Step]:
    random = torch.Generator().manual_seed(0)
    images = [torch.rand(2, 3, 16, 16, generator=random) for _ in range(pictures)]
    return [Step(torch.tensor(0.0), both[:1], both[1:], valid=torch.ones(1, 1, 16, 16) > 0) for both in images]


CASES: dict[str, tuple[Callable[[], Mapping[str, Metric]], list[Step]]] = {
    "clouds": (lambda: {"dice": DiceScores(CLASSES), "auprc": PixelAveragePrecision(CLASSES)}, masks(7, 2)),
    "roads": (lambda: {"pixels": PixelScores(), "boundary": BoundaryDistance()}, masks(6, 1)),
    "aesthetics": (lambda: {"judgement": JudgementScores(["Sky", "Sea"]), "votes": VoteScores()}, judged(11)),
    "colorization": (lambda: {"colors": ColorScores(["psnr", "delta_e76"])}, colored(5)),
}


def counted(metrics: Mapping[str, Metric], steps: Sequence[Step]) -> Meter:
    meter = Meter(metrics)
    for step in steps:
        meter.update(step, 1)
    return meter


def figures_of(meter: Meter) -> dict[str, float]:
    return {name: value.item() for name, value in meter.result().items() if name != "loss"}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tiles", [1, 2])
def test_intervals_are_those_of_a_slow_bootstrap(case: str, tiles: int) -> None:
    make, steps = CASES[case]
    meter = Meter(make())
    meter.each = []
    for step in steps:
        meter.update(step, 1)
    names = [f"picture {index // tiles}" for index in range(len(steps))]
    pictures = by_image(list(zip(names, meter.each, strict=True)))
    found = bootstrap(meter, pictures, DRAWS)

    order = sorted(set(names))
    random = np.random.default_rng(SEED)
    drawn = random.multinomial(len(order), np.full(len(order), 1 / len(order)), size=DRAWS)
    values: dict[str, list[float]] = {}
    for times in drawn:
        chosen = [step for name, count in zip(order, times, strict=True) for _ in range(count)
                  for step, of in zip(steps, names, strict=True) if of == name]  # fmt: skip
        for name, value in figures_of(counted(make(), chosen)).items():
            values.setdefault(name, []).extend([] if math.isnan(value) else [value])
    wanted = {name: np.percentile(each, [2.5, 97.5]).tolist() for name, each in values.items() if each}
    assert found.keys() == wanted.keys()
    for name, limits in wanted.items():
        assert found[name] == pytest.approx(limits, abs=1e-7)
    assert any(low < high for low, high in found.values())
    assert figures_of(meter) == figures_of(counted(make(), steps))  # its own counts are unchanged


def test_counting_image_by_image_gives_the_same_metrics() -> None:
    steps = judged(9)
    batch = Step(
        torch.tensor(0.5),
        torch.cat([step.prediction for step in steps]),
        torch.cat([step.target for step in steps]),
        votes=torch.cat([step.votes for step in steps if step.votes is not None]),
        tags=[tags for step in steps for tags in step.tags or []],
    )
    whole, single = (Meter({"judgement": JudgementScores(["Sky", "Sea"])}) for _ in range(2))
    single.each = []
    for meter in (whole, single):
        meter.update(batch, 9)
    assert len(single.each) == 9
    assert single.result() == whole.result()


class Guesses(Metric):
    """Share of correct answers."""

    right: Tensor
    all: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("right", "all"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, prediction: Tensor) -> None:
        self.right += prediction.sum()
        self.all += len(prediction)

    def compute(self) -> dict[str, Tensor]:
        return {"accuracy": self.right / self.all}


def test_intervals_of_an_accuracy_cover_it_as_the_normal_approximation_says() -> None:
    share, pictures, sets = 0.7, 100, 100
    random = np.random.default_rng(1)
    covered, widths = 0, []
    for _ in range(sets):
        answers = torch.from_numpy(random.random(pictures) < share).long()
        meter = Meter({"guesses": Guesses()})
        each = [{("guesses", "right"): answer, ("guesses", "all"): torch.tensor(1)} for answer in answers]
        low, high = bootstrap(meter, [[states] for states in each], 300)["accuracy"]
        covered += low <= share <= high
        widths.append(high - low)
    normal = 2 * 1.96 * math.sqrt(share * (1 - share) / pictures)
    assert np.mean(widths) == pytest.approx(normal, rel=0.05)
    # 95 % of the sets, give or take three standard deviations of a binomial, and a little for so few images
    assert 0.95 - 3 * math.sqrt(0.95 * 0.05 / sets) - 0.01 <= covered / sets <= 1


def measured(task: ImageTask, data: ImageDataModule, folder: Path, *callbacks: Callback) -> dict[str, float]:
    seed_everything(0)
    [figures] = quiet_trainer(folder, Handover(data), *callbacks).test(task, data, verbose=False)
    return dict(figures)


def written(folder: Path) -> dict[str, dict[str, float]]:
    rows = csv_rows(folder / "intervals.csv")
    assert list(rows[0]) == ["figure", "low", "high", "pictures"]
    return {row.pop("figure"): {name: float(value) for name, value in row.items()} for row in rows}


MAKE: dict[str, Callable[[Path], tuple[ImageTask, ImageDataModule]]] = {
    "clouds": lambda root: (
        CloudsTask(architecture="pspnet", pretrained=False),
        CloudsDataModule(root, size=(32, 48), test_fraction=0.4, batch_size=4, num_workers=0),
    ),
    "roads": lambda root: (
        RoadsTask("vgg10"),
        RoadsDataModule(root, window=(32, 32), size=(32, 32), batch_size=4, num_workers=0),
    ),
    "avalanches": lambda root: (
        AvalanchesTask("cnn2d", window=17, second_input="edges"),
        AvalanchesDataModule(root, window=17, pyramid_levels=1, test_fraction=0.5, num_workers=0),
    ),
    "colorization": lambda root: (
        ColorizationTask(extractor=None),
        ColorizationDataModule(root, size=32, test_fraction=0.3, num_workers=0),
    ),
    "aesthetics": lambda root: (
        AestheticsTask("mobilenetv3_small_050", 8, "distribution", pretrained=False, freeze_convolutions=False),
        AestheticsDataModule(root, size=32, test_fraction=0.4, batch_size=4, num_workers=0),
    ),
}


@pytest.mark.parametrize("name", MAKE)
def test_every_test_metric_has_an_interval(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    torch.manual_seed(0)
    task, data = MAKE[name](request.getfixturevalue(f"{name}_root"))
    plain = measured(task, data, tmp_path)
    assert not (tmp_path / "intervals.csv").exists()
    figures = measured(task, data, tmp_path, Intervals(50))
    assert figures == pytest.approx(plain, rel=0, abs=0, nan_ok=True)  # keeping states changes no metric
    rows = written(tmp_path)
    # conditions of a single image, and an AUC of one class
    without = {name for name, value in figures.items() if "@" in name or math.isnan(value)} - rows.keys()
    assert rows.keys() | without == {name for name in figures if not name.endswith("loss")}
    assert rows["test/" + task.headline if task.headline != "loss" else "test/psnr"]["pictures"] == len(
        data.picture_names()["test"]
    )
    for name, row in rows.items():
        assert row["low"] <= row["high"], name
        assert row["low"] - 0.1 * abs(figures[name]) <= figures[name] <= row["high"] + 0.1 * abs(figures[name]), name


def test_zero_resamples_write_nothing_and_old_intervals_are_removed(clouds_root: Path, tmp_path: Path) -> None:
    (tmp_path / "intervals.csv").write_text("of an earlier test")
    task, data = MAKE["clouds"](clouds_root)
    measured(task, data, tmp_path, Intervals(0))
    assert not (tmp_path / "intervals.csv").exists()
    with pytest.raises(ValueError, match="resamples is -1"):
        Intervals(-1)


def test_one_image_has_no_interval(clouds_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class One(Callback):
        def on_test_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
        ) -> None:
            for name, value in list(batch.items()):
                batch[name] = value[:1]

    task, data = MAKE["clouds"](clouds_root)
    data.batch_size = 64
    caplog.set_level("INFO")
    measured(task, data, tmp_path, One(), Intervals(20))
    assert "they need two or more test images" in caplog.text
    assert list(tmp_path.iterdir()) == []


TAGS = ("Sea", "Sky")
# Two professional shots and two snapshots, all judged correctly; only professional shots have the tag Sea.
JUDGED = ((0.9, 1.0, ("Sea", "Sky")), (0.8, 1.0, ("Sea",)), (0.2, 0.0, ("Sky",)), (0.1, 0.0, ()))


def judged_rows(rows: Sequence[tuple[float, float, tuple[str, ...]]]) -> Step:
    prediction, target = (torch.tensor([row[place] for row in rows]) for place in (0, 1))
    return Step(torch.tensor(0.0), prediction, target, tags=[row[2] for row in rows])


def tagged() -> tuple[Meter, list[list[States]]]:
    meter = Meter({"judgement": JudgementScores(TAGS)})
    meter.each = []
    meter.update(judged_rows(JUDGED), len(JUDGED))
    return meter, [[states] for states in meter.each]


def test_resamples_of_one_class_are_ignored_by_an_auc() -> None:
    found = bootstrap(*tagged(), 200)
    assert found["auc"] == found["auc@sky"] == (1, 1)  # about 25 of the 200 resamples have one class
    assert "auc@sea" not in found  # all of its resamples have one class
    assert found["accuracy@sea"] == found["balanced_accuracy@sea"] == found["majority@sea"] == (1, 1)


class Known(ImageTask):
    """Answers as written in JUDGED."""

    def build_metrics(self) -> dict[str, Metric]:
        return {"judgement": JudgementScores(TAGS)}

    def step(self, batch: Batch) -> Step:
        return judged_rows([JUDGED[index] for index in batch["index"].tolist()])

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        return {}


def test_the_table_counts_the_images_of_each_tag(tmp_path: Path) -> None:
    data: list[Batch] = [{"name": str(index), "index": index, "image": torch.zeros(1)} for index in range(len(JUDGED))]
    trainer = quiet_trainer(tmp_path, Intervals(200))
    task: LightningModule = Known(torch.optim.SGD)
    trainer.test(task, DataLoader(data, batch_size=3), verbose=False)  # type: ignore[arg-type]  # a list is a dataset
    found = written(tmp_path)
    pictures = {name: row["pictures"] for name, row in found.items()}
    endings = {"": 4, "@sea": 2, "@sky": 2}
    names = ("accuracy", "balanced_accuracy", "auc", "majority")
    assert pictures == {f"test/{name}{ending}": count for ending, count in endings.items() for name in names
                        if name + ending != "auc@sea"}  # fmt: skip
    assert [found["test/auc"][end] for end in ("low", "high")] == [1, 1]
