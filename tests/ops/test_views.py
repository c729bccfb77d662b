import pytest
import torch

from ops.views import TestTime, check_test_time, mean_over_views
from tests.checks import rejects


@pytest.mark.parametrize("views", ["none", "flip", "d4", "scales"])
def test_maps_return_to_where_they_belong(views: TestTime) -> None:
    image = torch.nn.functional.interpolate(torch.rand(2, 3, 4, 6), (32, 48), mode="bilinear")  # smooth: sizes change
    found = mean_over_views(lambda view: view[:, :1], image, views)
    assert found.shape == (2, 1, 32, 48)
    torch.testing.assert_close(found, image[:, :1], atol=0.03 if views == "scales" else 1e-6, rtol=0)


@pytest.mark.parametrize(("views", "count"), [("none", 1), ("flip", 2), ("d4", 8), ("scales", 6)])
def test_every_view_is_another_one(views: TestTime, count: int) -> None:
    seen: list[torch.Tensor] = []
    mean_over_views(lambda view: (seen.append(view), view)[1], torch.rand(1, 3, 8, 8), views)
    assert len(seen) == count
    assert len({(tuple(view.shape), view.sum(dim=1).flatten()[:5].numpy().tobytes()) for view in seen}) == count


def test_unknown_views_are_rejected() -> None:
    rejects("tta", check_test_time, "d8")
