from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from ops.color.bins import soft_encoding
from ops.color.lab import luminance_and_chroma
from ops.color.quality import SCORES, picture_scores
from tasks.metrics.colors import FLOORS, ColorBatch, ColorScores, Floors, FloorScores
from tests.checks import rejects
from tests.tasks.metrics.helpers import by_processes, cut, numbers


def random_pictures(pictures: int = 7) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(pictures, 3, 20, 16, generator=generator)
    noise = torch.randn(target.shape, generator=generator) * torch.linspace(0.01, 0.3, pictures).view(-1, 1, 1, 1)
    valid = torch.zeros(pictures, 1, 20, 16, dtype=torch.bool)
    for index in range(pictures):
        valid[index, :, index : 20 - index % 3, 1:14] = True
    return {"prediction": (target + noise).clamp(0, 1), "target": target, "valid": valid}


def test_scores_are_means_over_images_without_padding() -> None:
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


def test_images_without_a_score_are_skipped() -> None:
    fields = random_pictures(3)
    fields["valid"][1] = False
    fields["valid"][2, :, 10:] = False  # eight rows: no window fits
    metric = ColorScores(names=("ssim", "psnr"))
    metric.update(**fields)
    first, third = (picture_scores(**cut(fields, slice(index, index + 1))) for index in (0, 2))
    expected = {"ssim": first["ssim"].item(), "psnr": (first["psnr"].item() + third["psnr"].item()) / 2}
    assert numbers(metric.compute()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_scores_without_images_are_zero() -> None:
    floors = Floors()
    scores = numbers(ColorScores().compute()) | numbers(FloorScores(floors.colored).compute())
    assert set(scores.values()) == {0}
    assert set(scores) == {*SCORES} | {f"{a}_{b}" for a in FLOORS for b in ("psnr", "delta_e76", "delta_e2000")}


def test_baselines_are_scored_like_predictions() -> None:
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


def test_baselines_stay_out_of_the_metrics_state() -> None:
    metric = FloorScores(Floors().colored)
    assert list(metric.state_dict()) == []
    assert list(metric.buffers()) == []


def test_training_in_bfloat16_leaves_the_scores_exact() -> None:
    fields = random_pictures()
    expected, metric = ColorScores(), ColorScores().to(torch.bfloat16)
    expected.update(**fields)
    with torch.autocast("cpu", torch.bfloat16):
        metric.update(**fields)
    assert numbers(metric.compute()) == numbers(expected.compute())


def collected(batches: list[slice]) -> dict[str, Tensor]:
    collection = MetricCollection([ColorScores(), FloorScores(Floors().colored)], compute_groups=False)
    for batch in batches:
        collection.update(**cut(random_pictures(), batch))
    return collection.compute()


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path: Path) -> None:
    alone = numbers(collected([slice(0, 3), slice(3, 5), slice(5, 7)]))
    shares = [[slice(0, 3)], [slice(3, 5), slice(5, 7)]]
    assert by_processes(collected, shares, tmp_path / "processes") == [alone, alone]


def random_batches() -> list[ColorBatch]:
    """Two batches of dull pictures: part of them padding, and none darker than L = 20."""
    generator = torch.Generator().manual_seed(0)
    batches: list[ColorBatch] = []
    for pictures in (3, 2):
        rgb = 0.4 + 0.5 * torch.rand(pictures, 3, 20, 24, generator=generator)
        valid = torch.ones(pictures, 1, 20, 24, dtype=torch.bool)
        valid[:, :, :5] = False
        rgb = torch.where(valid, rgb, 0)
        batches.append((*luminance_and_chroma(rgb), valid))
    return batches


def pixels(batches: list[ColorBatch]) -> tuple[Tensor, Tensor]:
    """L (N,), and scaled chroma (N, 2), of all that counts."""
    lightness, chroma = [], []
    for luminance, colors, valid in batches:
        assert valid is not None
        lightness.append((luminance[valid] + 1) * 50)
        chroma.append(colors.movedim(1, 3)[valid[:, 0]])
    return torch.cat(lightness), torch.cat(chroma)


def fitted() -> Floors:
    floors = Floors()
    floors.fit(random_batches())
    return floors


def test_means_are_those_of_numpy() -> None:
    floors = fitted()
    lightness, chroma = (each.double().numpy() for each in pixels(random_batches()))
    np.testing.assert_allclose(floors.mean.numpy(), chroma.mean(axis=0), atol=1e-5)
    steps = np.round(lightness)
    for step in (50, 60, 77):
        expected = chroma[steps == step].mean(axis=0)
        np.testing.assert_allclose(floors.by_luminance[step].numpy(), expected, atol=1e-4)


def test_missing_luminances_take_the_nearest_colors() -> None:
    floors = fitted()
    lowest = int(pixels(random_batches())[0].round().min())
    assert lowest > 20
    assert floors.by_luminance[lowest].abs().min() > 0
    torch.testing.assert_close(floors.by_luminance[:lowest], floors.by_luminance[lowest].expand(lowest, 2))


def test_the_prior_counts_the_nearest_bin_of_every_pixel() -> None:
    rgb = torch.rand(1, 3, 60, 60, generator=torch.Generator().manual_seed(1)).round(decimals=1)
    saturated: ColorBatch = (*luminance_and_chroma(rgb), torch.ones(1, 1, 60, 60, dtype=torch.bool))
    for batches in (random_batches(), [saturated]):
        floors, (_, chroma) = Floors(), pixels(batches)
        floors.fit(batches)
        indices, _ = soft_encoding(128 * chroma.T.reshape(1, 2, 1, -1), floors.centres, neighbours=1)
        assert floors.prior.sum() == len(chroma)
        assert torch.equal(floors.prior, torch.bincount(indices.flatten(), minlength=len(floors.prior)))


def test_fitting_does_not_depend_on_order_or_batches() -> None:
    whole = fitted()
    singles = [
        (luminance[i : i + 1], chroma[i : i + 1], valid[i : i + 1])
        for luminance, chroma, valid in reversed(random_batches())
        if valid is not None
        for i in range(len(luminance))
    ]
    again = Floors()
    again.fit(iter(singles))
    again.fit(iter(singles))  # anew, not on top
    parts: list[Tensor] = []
    Floors().fit(singles[2:], lambda counts: parts.append(counts.clone()) or counts)
    split = Floors()
    split.fit(singles[:2], lambda counts: counts + parts.pop(0))
    for floors in (again, split):
        torch.testing.assert_close(floors.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_a_checkpoint_restores_the_baselines() -> None:
    assert not Floors().fitted
    floors, loaded = fitted(), Floors()
    loaded.load_state_dict(floors.state_dict())
    assert loaded.fitted
    assert set(floors.state_dict()) == {"mean", "by_luminance", "prior"}
    luminance = random_batches()[0][0]
    torch.testing.assert_close(loaded.chroma(luminance), floors.chroma(luminance))


def test_colored_images_keep_their_luminance() -> None:
    floors = fitted()
    rgb = 0.4 + 0.2 * torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(2))
    pictures = floors.colored(rgb)
    assert tuple(pictures) == FLOORS
    luminance, _ = luminance_and_chroma(rgb)
    for name, chroma in floors.chroma(luminance).items():
        found_luminance, found_chroma = luminance_and_chroma(pictures[name])
        torch.testing.assert_close(found_luminance, luminance, atol=1e-4, rtol=0)
        torch.testing.assert_close(found_chroma, chroma.expand_as(found_chroma), atol=1e-4, rtol=0)
    assert (pictures["grey"].amax(dim=1) - pictures["grey"].amin(dim=1)).max() < 1e-3


def test_rejects_wrong_shapes_and_images_without_valid_pixels() -> None:
    image, (luminance, chroma, _) = torch.rand(2, 3, 12, 12), random_batches()[0]
    rejects(r"\(2, 3, 12, 12\) and .*\(2, 3, 12, 11\)", ColorScores().update, image, image[..., 1:])
    rejects(r"\(2, 1, 12, 12\).*got \(2, 12, 12\)", FloorScores(Floors().colored).update, image, torch.ones(2, 12, 12))
    rejects("no pixel", Floors().fit, [(luminance, chroma, torch.zeros_like(luminance, dtype=torch.bool))])
