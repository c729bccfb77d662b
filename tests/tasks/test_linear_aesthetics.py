from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import Ridge
from torch import Tensor

from callbacks.handover import Handover
from datamodules.aesthetics import AestheticsDataModule
from ops.errors import ArgumentError, TrainingError
from ops.statistics.ridge import fit_ridge
from tasks import base
from tasks.aesthetics import AestheticsTask, LinearAestheticsTask, Sample
from tests.checks import rejects
from tests.tasks.helpers import Trainers, changed, logged, reloaded, state

SMALL: dict[str, bool | str] = {"test_resnet": False}


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images of noise, the redder the better its votes from 1 to 10."""
    root, rng = tmp_path_factory.mktemp("album"), np.random.default_rng(0)
    (root / "images").mkdir()
    rows = [["image", *(f"count_{vote}" for vote in range(1, 11))]]
    for number in range(40):
        pixels = rng.integers(0, 120, (64, 64, 3), np.uint8)
        pixels[:, :, 0] += np.uint8(3 * number)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        vote = 2 + number // 6
        rows.append([f"{number}.png", *(str(5 * (each == vote) + (abs(each - vote) == 1)) for each in range(1, 11))])
    (root / "labels.csv").write_text("\n".join(map(",".join, rows)) + "\n")
    return root


def made(**options: Any) -> LinearAestheticsTask:
    torch.manual_seed(0)
    task = LinearAestheticsTask(**{"backbones": SMALL, **options})
    task.load_pretrained()
    return task


def data_of(root: Path, **options: Any) -> AestheticsDataModule:
    given = {"size": 64, "load_size": 64, "crop": "center", "flips": False, "batch_size": 6, "num_workers": 0,
             "steps_per_epoch": None}  # fmt: skip
    return AestheticsDataModule(root, **{**given, **options})


def fitted(make_trainer: Trainers, data: AestheticsDataModule, task: LinearAestheticsTask, **options: Any) -> Any:
    trainer = make_trainer(max_epochs=1, callbacks=[Handover(data)], **options)
    trainer.fit(task, data)
    return trainer


def vectors_of(task: LinearAestheticsTask, data: AestheticsDataModule, split: str) -> tuple[Tensor, Tensor]:
    """The network's vectors of a split's images, and the mean votes."""
    vectors, means = [], []
    for batch in data.unaugmented(split):
        vectors.append(task.network.flat(batch["image"]))
        votes = batch["votes"]
        means.append(votes @ torch.arange(1.0, votes.shape[1] + 1) / votes.sum(1))
    return torch.cat(vectors), torch.cat(means)


@pytest.mark.parametrize("head", ["binary", "distribution"])
def test_fits_before_the_only_epoch(head: Any, make_trainer: Trainers, album: Path) -> None:
    task, data = made(head=head), data_of(album)
    before = state(task.network)
    trainer = fitted(make_trainer, data, task)
    assert trainer.global_step == 6
    moved = changed(task.network, before)
    assert moved == {"mean", "scale", "is_fitted", "output.weight", "output.bias"}
    found = logged(trainer)
    figures = {"loss", "accuracy", "balanced_accuracy", "auc", "majority"}
    figures |= {"srcc", "plcc", "emd", "emd2"} if head == "distribution" else set()
    assert found.keys() == {f"{stage}/{name}" for stage in ("train", "val") for name in figures}
    assert found["train/auc"] > 0.9
    vectors, means = vectors_of(task, data, "train")
    answers = task.network.dense(vectors).softmax(1)
    ranked = answers[:, 1] if head == "binary" else answers @ torch.arange(1.0, 11)
    assert torch.corrcoef(torch.stack([ranked.detach(), means]))[0, 1] > 0.8


def test_the_order_of_the_judgements_is_that_of_ridge_regression(make_trainer: Trainers, album: Path) -> None:
    task, data = made(), data_of(album)
    fitted(make_trainer, data, task)
    vectors, means = vectors_of(task, data, "train")
    deviation, mean = torch.std_mean(vectors.double(), dim=0, correction=0)
    inputs = (vectors - mean) / torch.where(deviation > 1e-6, deviation, torch.inf)
    logits = task.network.dense(vectors).detach()
    margin = (logits[:, 1] - logits[:, 0]).double()
    penalty = fit_ridge(vectors, means[:, None], torch.ones(1)).penalty
    model = Ridge(alpha=penalty * inputs.numel()).fit(inputs, means)
    assert np.corrcoef(model.predict(inputs), margin)[0, 1] > 1 - 1e-6
    assert margin.std() > 0.1


def test_a_checkpoint_needs_no_other_file(make_trainer: Trainers, album: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    weights = tmp_path / "weights.pth"
    stages: Any = LinearAestheticsTask(SMALL).network.backbones[0]
    torch.save(stages.network.state_dict(), weights)
    task, data = made(backbones={"test_resnet": str(weights)}), data_of(album)
    trainer = fitted(make_trainer, data, task)
    weights.unlink()
    found = reloaded(task, trainer, tmp_path)
    batch = {"image": torch.rand(4, 3, 64, 64)}
    assert torch.equal(found.predict(batch)["probability"], task.eval().predict(batch)["probability"])
    stored = torch.load(tmp_path / "run.ckpt", weights_only=True)["state_dict"]
    types = {value.dtype for key, value in stored.items() if key.startswith("network.backbones.") and value.ndim > 1}
    assert types == {torch.float16}
    assert stored["network.output.weight"].dtype == torch.float32


def test_a_fitted_layer_is_not_fitted_again(make_trainer: Trainers, album: Path, tmp_path: Path) -> None:
    task, data = made(), data_of(album)
    trainer = fitted(make_trainer, data, task)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    again = made()
    other = data_of(album, split_seed=1)
    resumed = make_trainer(max_epochs=2, callbacks=[Handover(other)])
    resumed.fit(again, other, ckpt_path=tmp_path / "run.ckpt", weights_only=True)
    assert changed(again.network, state(task.network)) == set()
    assert resumed.global_step == 12


def test_without_the_data_nothing_is_trained(make_trainer: Trainers, album: Path) -> None:
    rejects("not fitted.*Handover", make_trainer(max_epochs=1).fit, made(), data_of(album), error=TrainingError)


def test_as_many_images_as_asked_are_sampled_whatever_the_batches_and_processes() -> None:
    names = [f"{number}.jpg" for number in range(40)]
    values = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    found = []
    for size, processes in ((7, 1), (3, 2), (40, 3)):
        samples = [Sample(10) for _ in range(processes)]
        for process, sample in enumerate(samples):
            own = range(process, 40, processes)
            for start in range(0, len(own), size):
                rows = list(own[start : start + size])
                sample.add([names[row] for row in rows], values[rows], values[rows, 0])
            assert len(sample.rows) <= 20
        samples[0].merge([sample.rows for sample in samples])
        found.append(samples[0].stacked())
    for vectors, first in found:
        assert vectors.shape == (10, 3)
        assert torch.equal(vectors, found[0][0])
        assert torch.equal(first, vectors[:, 0])


def test_processes_fit_on_the_images_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[dict[str, Any]] = [{"image": torch.rand(4, 3, 32, 32), "name": [f"{place}{row}" for row in range(4)],
                "votes": torch.rand(4, 10) + 0.1, "professional": torch.tensor([0.0, 1, 0, 1])}
               for place in range(2)]  # fmt: skip
    whole, part = made(), made()
    whole.prepare(batches)
    other = Sample(20_000)
    other.add(
        batches[1]["name"], part.network.flat(batches[1]["image"]), batches[1]["votes"], batches[1]["professional"]
    )
    monkeypatch.setattr("tasks.aesthetics.gathered", lambda rows, count: [rows, other.rows])
    part.prepare(batches[:1])
    assert base.gathered(1, 1) == [1]
    for key, value in whole.network.state_dict().items():
        torch.testing.assert_close(part.network.state_dict()[key], value, msg=key)


def test_a_class_that_is_missing_is_improbable() -> None:
    task = made()
    batch = {"image": torch.rand(6, 3, 32, 32), "name": list("abcdef"), "votes": torch.rand(6, 10) + 0.1,
             "professional": torch.zeros(6)}  # fmt: skip
    task.prepare([batch])
    assert ((task.predict(batch)["probability"] > 0) & (task.predict(batch)["probability"] < 0.2)).all()


def test_rejects_wrong_arguments_and_data(make_trainer: Trainers, aesthetics_root: Path) -> None:
    rejects("expected one network or more", LinearAestheticsTask, {})
    rejects("most 1; ", LinearAestheticsTask, SMALL, most=1)
    rejects("'both', bins 10", LinearAestheticsTask, SMALL, "both")
    one = {"image": torch.rand(1, 3, 32, 32), "name": ["a"], "votes": torch.ones(1, 10), "professional": torch.ones(1)}
    rejects("1 training images; expected 2", made().prepare, [one], error=TrainingError)
    stars = data_of(aesthetics_root / "stars")
    trainer = make_trainer(max_epochs=1, callbacks=[Handover(stars)])
    rejects(r"votes 1 to 5, .*--model\.bins 5", trainer.fit, made(head="distribution"), stars, error=ArgumentError)
    small = data_of(aesthetics_root, size=31, load_size=31)
    trainer = make_trainer(max_epochs=1, callbacks=[Handover(small)])
    rejects(r"--data\.size is 31; test_resnet .* 32 or more", trainer.fit, made(), small, error=ArgumentError)


def test_mirror_images_average_the_probabilities_of_a_trained_network() -> None:
    torch.manual_seed(0)
    task = AestheticsTask(network="mobilenetv3_small_050", dense_width=8, tta="flip").eval()
    torch.nn.init.normal_(task.network.dense.get_submodule("output").get_parameter("weight"), std=20)
    image = torch.rand(2, 3, 64, 64)
    batch = {"image": image, "professional": torch.ones(2), "votes": torch.ones(2, 10)}
    with torch.no_grad():
        sides = [task(each).softmax(1)[:, 1] for each in (image, image.flip(3))]
    assert not torch.allclose(sides[0], sides[1], atol=1e-4)
    torch.testing.assert_close(task.predict(batch)["probability"], sum(sides) / 2)
    torch.testing.assert_close(task.step(batch).prediction, sum(sides) / 2)


def test_members_of_an_ensemble_predict_the_same() -> None:
    task, same = made(head="distribution"), made(head="distribution")
    task.add_members([same], ["same.ckpt"])
    for other in (made(), made(head="distribution", bins=5), made(head="distribution", threshold=6)):
        with pytest.raises(ArgumentError, match=r"^other\.ckpt is of .*expected checkpoints of one kind"):
            task.add_members([other], ["other.ckpt"])
        assert task.members == [same]
    made().add_members([made(threshold=4)], ["other.ckpt"])
