import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from ops.color import luminance_and_chroma
from ops.color_quality import SCORES, picture_scores
from tasks.metrics.colors import FLOORS, ColorScores, Floors, FloorScores
from tests.checks import rejects


def random_pictures(pictures: int = 7) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(pictures, 3, 20, 16, generator=generator)
    noise = torch.randn(target.shape, generator=generator) * torch.linspace(0.01, 0.3, pictures).view(-1, 1, 1, 1)
    valid = torch.zeros(pictures, 1, 20, 16, dtype=torch.bool)
    for index in range(pictures):
        valid[index, :, index : 20 - index % 3, 1:14] = True
    return {"prediction": (target + noise).clamp(0, 1), "target": target, "valid": valid}


def numbers(scores: dict[str, Tensor]) -> dict[str, float]:
    assert all(score.shape == () and score.dtype == torch.float32 for score in scores.values())
    return {name: score.item() for name, score in scores.items()}


def cut(fields: dict[str, Tensor], batch: slice) -> dict[str, Tensor]:
    return {name: tensor[batch] for name, tensor in fields.items()}


def test_scores_are_the_means_of_single_pictures_without_their_padding() -> None:
    fields = random_pictures()
    metric = ColorScores()
    for batch in (slice(0, 4), slice(4, 7)):
        metric.update(**cut(fields, batch))
    totals = dict.fromkeys(SCORES, 0.0)
    for index in range(7):
        rows, columns = slice(index, 20 - index % 3), slice(1, 14)
        pair = (fields[name][index : index + 1, :, rows, columns] for name in ("prediction", "target"))
        for name, score in picture_scores(*pair).items():
            totals[name] += score.item() / 7
    found = numbers(metric.compute())
    assert found == pytest.approx(totals, abs=1e-4)
    assert found["colorfulness_difference"] == pytest.approx(
        found["colorfulness"] - found["colorfulness_true"], abs=1e-4
    )


def test_pictures_without_a_score_are_no_part_of_its_mean() -> None:
    fields = random_pictures(3)
    fields["valid"][1] = False
    fields["valid"][2, :, 10:] = False  # eight rows: no window fits
    metric = ColorScores(names=("ssim", "psnr"))
    metric.update(**fields)
    first, third = (picture_scores(**cut(fields, slice(index, index + 1))) for index in (0, 2))
    expected = {"ssim": first["ssim"].item(), "psnr": (first["psnr"].item() + third["psnr"].item()) / 2}
    assert numbers(metric.compute()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_scores_of_nothing_are_zero() -> None:
    floors = Floors()
    scores = numbers(ColorScores().compute()) | numbers(FloorScores(floors.colored).compute())
    assert set(scores.values()) == {0}
    assert set(scores) == {*SCORES} | {f"{a}_{b}" for a in FLOORS for b in ("psnr", "delta_e76", "delta_e2000")}


def test_a_broken_network_scores_badly() -> None:
    fields = random_pictures()
    metric = ColorScores()
    metric.update(torch.full_like(fields["target"], math.nan), fields["target"])
    scores = numbers(metric.compute())
    assert scores["psnr"] < 10
    assert scores["delta_e76"] > 30


def test_the_true_colors_score_best_and_grey_has_none() -> None:
    fields = random_pictures()
    grey = fields["target"].mean(dim=1, keepdim=True).expand_as(fields["target"])
    scores = {}
    for name, prediction in {"true": fields["target"], "grey": grey}.items():
        metric = ColorScores()
        metric.update(prediction, fields["target"], fields["valid"])
        scores[name] = numbers(metric.compute())
    expected = {"psnr": 60, "ssim": 1, "delta_e76": 0, "delta_e2000": 0, "colorfulness_difference": 0}
    assert {name: scores["true"][name] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert scores["grey"]["colorfulness"] == pytest.approx(0, abs=1e-3)
    assert scores["grey"]["colorfulness_difference"] == pytest.approx(-scores["true"]["colorfulness"], abs=1e-2)


def test_floors_are_scored_as_any_prediction() -> None:
    fields = random_pictures()
    floors = Floors()
    floors.fit([(*luminance_and_chroma(fields["target"]), fields["valid"])])
    metric = FloorScores(floors.colored)
    for batch in (slice(0, 4), slice(4, 7)):
        metric.update(fields["target"][batch], fields["valid"][batch])
    found = numbers(metric.compute())
    for floor, picture in floors.colored(fields["target"]).items():
        alone = ColorScores(names=("psnr", "delta_e76", "delta_e2000"))
        alone.update(picture, fields["target"], fields["valid"])
        expected = {f"{floor}_{name}": score for name, score in numbers(alone.compute()).items()}
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert found["grey_delta_e76"] > found["mean_delta_e76"]


def test_floors_that_a_metric_uses_stay_out_of_its_state() -> None:
    metric = FloorScores(Floors().colored)
    assert list(metric.state_dict()) == []
    assert list(metric.buffers()) == []


def test_scores_share_a_collection_and_start_anew() -> None:
    fields = random_pictures()
    collection = MetricCollection(
        {"scores": ColorScores(), "floors": FloorScores(Floors().colored)}, compute_groups=False
    )
    results = []
    for _ in range(2):
        collection.update(**fields, probability=fields["target"])
        results.append(numbers(collection.compute()))
        collection.reset()
    assert results[0] == results[1]
    assert len(results[0]) == 7 + 9


def test_training_in_bfloat16_leaves_the_scores_exact() -> None:
    fields = random_pictures()
    expected, metric = ColorScores(), ColorScores().to(torch.bfloat16)
    expected.update(**fields)
    with torch.autocast("cpu", torch.bfloat16):
        metric.update(**fields)
    assert numbers(metric.compute()) == numbers(expected.compute())


def test_pictures_of_other_shapes_are_refused() -> None:
    image = torch.rand(2, 3, 12, 12)
    rejects(r"\(2, 3, 12, 12\) and .*\(2, 3, 12, 11\)", ColorScores().update, image, image[..., 1:])
    rejects(r"\(2, 1, 12, 12\).*got \(2, 12, 12\)", FloorScores(Floors().colored).update, image, torch.ones(2, 12, 12))


def collected(batches: list[slice]) -> dict[str, Tensor]:
    collection = MetricCollection([ColorScores(), FloorScores(Floors().colored)], compute_groups=False)
    for batch in batches:
        collection.update(**cut(random_pictures(), batch))
    return collection.compute()


def compute_as_one_of_two(rank: int, folder: Path) -> None:
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.save(collected([slice(0, 3)] if rank == 0 else [slice(3, 5), slice(5, 7)]), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(compute_as_one_of_two, (tmp_path,), nprocs=2)
    alone = numbers(collected([slice(0, 3), slice(3, 5), slice(5, 7)]))
    for rank in range(2):
        assert numbers(torch.load(tmp_path / f"{rank}.pt")) == alone
