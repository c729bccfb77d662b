from typing import Any

import pytest
import torch

from ops.jitter import JITTERS, Jitter, RandomViews
from tests.checks import rejects


def drawn(augment: Any, size: tuple[int, int] = (32, 32), crop: tuple[int, int] | None = None) -> Any:
    generator = torch.Generator().manual_seed(0)
    image = torch.nn.functional.interpolate(torch.rand(64, 3, 8, 8, generator=generator), size, mode="bicubic").clamp(
        0, 1
    )
    mask = (image[:, :2] > 0.5).float()
    return image, mask, RandomViews(augment, size, crop)(image, mask, torch.arange(64))


@pytest.mark.parametrize("augment", JITTERS)
def test_masks_follow_their_images(augment: str) -> None:
    _, _, (image, mask) = drawn(augment, crop=(20, 20))
    assert image.shape == (64, 3, 20, 20)
    assert mask.shape == (64, 2, 20, 20)
    assert set(mask.unique().tolist()) == {0, 1}
    assert 0 <= image.min() <= image.max() <= 1
    if augment in ("none", "flips", "d4"):
        assert torch.equal(mask, (image[:, :2] > 0.5).float())
    else:  # colors change, so the borders of the masks are sought by rank
        agree = []
        for view, truth in zip(image[:, 0], mask[:, 0], strict=True):
            if 0 < (marked := int(truth.sum())) < truth.numel():
                least = view.flatten().sort(descending=True).values[marked - 1]
                agree.append(((view >= least) == truth).float().mean())
        assert torch.stack(agree).mean() > 0.95


@pytest.mark.parametrize("augment", JITTERS)
def test_a_view_depends_on_its_seed_only(augment: Any) -> None:
    image, mask, (views, masks) = drawn(augment, crop=(24, 24))
    again = RandomViews(augment, (32, 32), (24, 24))(image[7:8], mask[7:8], torch.tensor([7]))
    torch.testing.assert_close(again[0][0], views[7], rtol=0, atol=1e-6)
    assert torch.equal(again[1][0], masks[7])


def test_symmetries_of_a_square_are_equally_likely_with_and_without_interpolation() -> None:
    image, mask = torch.rand(1, 3, 16, 16).expand(800, 3, 16, 16), torch.zeros(800, 1, 16, 16)
    exact = RandomViews("d4", (16, 16))
    almost = RandomViews("d4", (16, 16))
    almost.jitter = Jitter(mirror=True, upright=False, turns=True, zoom=1 + 1e-7)
    views, warped = (each(image, mask, torch.arange(800))[0] for each in (exact, almost))
    torch.testing.assert_close(views, warped, rtol=0, atol=1e-3)
    kinds = [torch.rot90(image[0].flip(2) if flip else image[0], turn, (1, 2)) for flip in (0, 1) for turn in range(4)]
    counts = torch.stack([(views == kind).flatten(1).all(dim=1).sum() for kind in kinds])
    assert counts.sum() == 800
    assert counts.min() > 60


@pytest.mark.parametrize("augment", ["none", "photo"])
def test_crops_are_everywhere(augment: Any) -> None:
    ramp = torch.arange(32.0) / 32
    image = torch.stack([ramp.expand(32, 32), ramp[:, None].expand(32, 32), torch.zeros(32, 32)])
    views = RandomViews(augment, (32, 32), (8, 8))
    views.jitter = JITTERS["none"] if augment == "none" else Jitter(zoom=1.01)
    found = (
        views(image.expand(500, 3, 32, 32), torch.zeros(500, 1, 32, 32), torch.arange(500))[0][:, :2].amin((2, 3)) * 32
    )
    for axis in (0, 1):
        corners = found[:, axis].round()
        assert corners.min() == 0
        assert corners.max() == 24
        assert len(corners.unique()) == 25


def test_zoom_shows_the_reflection_beyond_the_image() -> None:
    image = torch.rand(1, 3, 9, 9)
    views = RandomViews("photo", (9, 9))
    views.jitter = Jitter(zoom=1.5)
    found = torch.cat([views(image, image[:, :1] * 0, torch.tensor([seed]))[0] for seed in range(30)])
    assert found.min() >= image.min() - 1e-6  # no black border


@pytest.mark.parametrize(("match", "options"), [("augment", {"augment": "d5"}), ("crop", {"crop": (40, 20)}),
                                                ("90", {"augment": "d4", "image": (32, 48)}),
                                                ("90", {"augment": "d4", "crop": (32, 16)})])  # fmt: skip
def test_rejects(match: str, options: dict[str, Any]) -> None:
    rejects(match, RandomViews, **{"augment": "none", "image": (32, 32)} | options)
