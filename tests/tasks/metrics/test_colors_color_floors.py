from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ops.color import luminance_and_chroma
from ops.color_bins import soft_encoding
from tasks.losses import chroma_loss
from tasks.metrics.colors import FLOORS, ColorBatch, Floors
from tests.checks import rejects


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


def test_luminances_that_did_not_occur_take_the_nearest_ones_colors() -> None:
    floors = fitted()
    lowest = int(pixels(random_batches())[0].round().min())
    assert lowest > 20
    assert floors.by_luminance[lowest].abs().min() > 0
    torch.testing.assert_close(floors.by_luminance[:lowest], floors.by_luminance[lowest].expand(lowest, 2))


def test_the_prior_counts_the_nearest_bin_of_every_pixel() -> None:
    floors = fitted()
    _, chroma = pixels(random_batches())
    indices, _ = soft_encoding(128 * chroma.T.reshape(1, 2, 1, -1), floors.centres, neighbours=1)
    assert floors.prior.sum() == len(chroma)
    assert torch.equal(floors.prior, torch.bincount(indices.flatten(), minlength=len(floors.prior)))


def test_the_prior_of_saturated_colors_is_that_of_the_encoding() -> None:
    rgb = torch.rand(1, 3, 60, 60, generator=torch.Generator().manual_seed(1)).round(decimals=1)
    luminance, chroma = luminance_and_chroma(rgb)
    floors = Floors()
    floors.fit([(luminance, chroma, None)])
    indices, _ = soft_encoding(128 * chroma, floors.centres, neighbours=1)
    assert torch.equal(floors.prior, torch.bincount(indices.flatten(), minlength=len(floors.prior)))


def test_each_floor_costs_less_than_the_one_before() -> None:
    floors = fitted()
    losses = dict.fromkeys(FLOORS, 0.0)
    for luminance, chroma, valid in random_batches():
        for name, guess in floors.chroma(luminance).items():
            assert guess.shape == chroma.shape
            losses[name] += chroma_loss(guess, chroma, valid).item() * len(chroma)
    assert losses["grey"] > losses["mean"] > losses["mean_by_luminance"] > 0


def test_any_order_and_any_part_of_the_pictures_gives_the_same() -> None:
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


def test_floors_come_back_from_a_checkpoint() -> None:
    assert not Floors().fitted
    floors, loaded = fitted(), Floors()
    loaded.load_state_dict(floors.state_dict())
    assert loaded.fitted
    assert set(floors.state_dict()) == {"mean", "by_luminance", "prior"}
    luminance = random_batches()[0][0]
    torch.testing.assert_close(loaded.chroma(luminance), floors.chroma(luminance))


def test_colored_pictures_keep_their_luminance() -> None:
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


def test_pictures_without_a_pixel_that_counts_are_refused() -> None:
    luminance, chroma, _ = random_batches()[0]
    rejects("no pixel", Floors().fit, [(luminance, chroma, torch.zeros_like(luminance, dtype=torch.bool))])


@pytest.mark.real
def test_paintings_are_brown(real_data: Path) -> None:
    import cv2

    paths = sorted((real_data / "colorization" / "images").iterdir())[::8]
    pictures = [cv2.resize(cv2.imread(str(path)), (64, 64), interpolation=cv2.INTER_AREA)[..., ::-1] for path in paths]
    rgb = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
    floors = Floors()
    floors.fit([(*luminance_and_chroma(rgb), None)])
    assert (floors.mean > 0).all()  # reddish and yellowish
    assert 128 * floors.mean.norm() < 30
