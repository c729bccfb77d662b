from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.averaging import AveragedWeights
from callbacks.best import BestCheckpoint
from callbacks.handover import Handover
from callbacks.resuming import LastCheckpoint
from datamodules.batch import Batch, DataFacts
from tasks.clouds import CloudsTask
from tests.checks import rejects
from tests.tasks.helpers import Trainers, loader


class Data:
    """Facts about no data, which must not be copied along with the task."""

    def facts(self) -> DataFacts:
        return DataFacts()

    def unaugmented(self, split: str) -> list[Batch]:
        return []

    def __deepcopy__(self, memo: Any) -> Any:
        raise AssertionError("the data module was copied")


@pytest.fixture
def images() -> Batch:
    torch.manual_seed(0)
    return {"image": torch.rand(2, 3, 32, 32), "mask": torch.rand(2, 1, 32, 32).round()}


class Remembering(CloudsTask):
    """Keeps a weight after every step, and the one that each validation uses."""

    def watched(self) -> float:
        return float(next(self.network.parameters()).flatten()[0])

    def on_train_batch_end(self, *arguments: Any) -> None:
        super().on_train_batch_end(*arguments)
        self.steps = [*getattr(self, "steps", []), self.watched()]

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        super().validation_step(batch, batch_index)
        self.validated = [*getattr(self, "validated", []), self.watched()]


def test_validation_and_checkpoints_use_the_average(make_trainer: Trainers, images: Batch, tmp_path: Path) -> None:
    task = Remembering(architecture="pspnet", pretrained=False, classes=["cloud"])
    best = BestCheckpoint("val/loss", "min")
    callbacks = [Handover(Data(), task), AveragedWeights(decay=0.5), best, LastCheckpoint()]  # type: ignore[arg-type]
    trainer = make_trainer(max_epochs=2, callbacks=callbacks, enable_checkpointing=True)
    trainer.fit(task, loader(images, 3), loader(images))
    average, averages = task.steps[0], [task.steps[0]]
    for step in task.steps[1:]:
        average = 0.5 * average + 0.5 * step
        averages.append(average)
    assert task.validated == pytest.approx([averages[2], averages[5]], rel=1e-4)
    assert len(set(task.steps)) == 6
    saved = torch.load(best.best_model_path, weights_only=True)
    first = next(name for name in saved["state_dict"] if name.startswith("network."))
    assert float(saved["state_dict"][first].flatten()[0]) == pytest.approx(averages[saved["global_step"] - 1], rel=1e-4)
    assert task.ask_facts is not None
    sizes = {path.stem: path.stat().st_size for path in Path(best.best_model_path).parent.iterdir()}
    assert sizes["best"] < 0.4 * sizes["last"]  # which has the weights beside their average, and the optimizer
    assert "current_model_state" not in saved


def test_decay_is_a_share() -> None:
    rejects("decay is 1", AveragedWeights, 1)
