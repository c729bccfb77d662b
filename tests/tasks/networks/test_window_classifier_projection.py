import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.networks.dense import DenseForm
from tasks.networks.window_classifier import fill_projection, is_filled, projection, window_classifier


def drawn(count: int, window: int, seed: int = 0) -> Tensor:
    """Windows uint8 (count, 3, window, window) that are smooth, so that few components hold most of them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    noise = torch.randint(-20, 21, (count, 3, window, window), generator=generator)
    return (200 * F.interpolate(coarse, (window, window), mode="bilinear") + 25 + noise).to(torch.uint8)


def filled(window: int, channels: int, components: int, windows: Tensor) -> nn.Sequential:
    torch.manual_seed(0)
    network = window_classifier("cnn1d", window, channels, components)
    fill_projection(network, windows.split(100))
    return network


def projected(network: nn.Sequential, windows: Tensor) -> Tensor:
    place = next(place for place, layer in enumerate(network) if isinstance(layer, nn.Conv2d))
    return network[: place + 1](windows.float() / 255).flatten(1)


@pytest.mark.parametrize(("window", "channels", "components"), [(17, 3, 9), (17, 1, 20), (12, 3, 432), (33, 1, 9)])
def test_windows_are_projected_on_unit_components(window: int, channels: int, components: int) -> None:
    windows = drawn(600, window)
    with torch.no_grad():
        found = projected(filled(window, channels, components, windows), windows).double()
    assert found.shape == (600, components)
    values = windows.double() if channels == 3 else windows.double().mean(dim=1)
    left, _, _ = np.linalg.svd((values - values.mean(dim=0)).flatten(1).numpy(), full_matrices=False)
    expected = left[:, :components] * 599**0.5  # of variance 1
    signs = np.sign((found.numpy() * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected * signs, atol=2e-3)
    np.testing.assert_allclose(found.mean(dim=0), 0, atol=1e-3)
    np.testing.assert_allclose(torch.cov(found.T), np.eye(components), atol=1e-3)


def test_the_share_of_the_variance_is_told() -> None:
    windows = drawn(300, 10)
    variances = np.linalg.eigvalsh(np.cov(windows.flatten(1).numpy().T))[::-1]
    for components in (1, 12, 300):
        network = window_classifier("cnn1d", 10, 3, components)
        share = fill_projection(network, [windows])
        assert share == pytest.approx(variances[:components].sum() / variances.sum(), abs=1e-6)
    assert share == pytest.approx(1)


@pytest.mark.parametrize(
    ("window", "channels"), [(17, 3), (17, 1), (33, 1), pytest.param(33, 3, marks=pytest.mark.slow)]
)
def test_the_dense_form_says_of_every_window_what_the_network_says(window: int, channels: int) -> None:
    network = filled(window, channels, 6, drawn(300, window)).double().eval()
    image = torch.rand(1, 3, window + 3, window + 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cut = torch.cat([image[..., y : y + window, x : x + window] for y in range(4) for x in range(5)])
    with torch.no_grad():
        expected = network(cut).T.reshape(1, 1, 4, 5)
        torch.testing.assert_close(DenseForm(network, window)(image), expected, rtol=0, atol=1e-12)
        single = DenseForm(network.float(), window)(image.float())
    torch.testing.assert_close(single, expected.float(), rtol=0, atol=1e-5)
    assert expected.std() > 1e-2


def test_the_projection_is_not_trained_and_the_rest_is() -> None:
    network = filled(10, 3, 5, drawn(200, 10))
    before = copy.deepcopy(network.state_dict())
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert sum(parameter.numel() for parameter in trained) == 128 * 5 + 257
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, weight_decay=1)
    network.train()
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.rand(8, 3, 10, 10)).sum().backward()
        optimizer.step()
    same = {key for key, value in network.state_dict().items() if torch.equal(value, before[key])}
    assert same == {"1.weight", "1.bias"}


def test_what_differs_in_a_component_of_little_variance_is_learnt() -> None:
    # Left and right differ by 6 levels where brightness differs by 150; the components are found without the labels.
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (256, 1), generator=generator).float()
    windows = 50 + 150 * torch.rand(256, 1, 1, 1, generator=generator).expand(-1, 3, 10, 10).clone()
    windows[..., 5:] += 12 * labels[..., None, None] - 6
    windows = (windows + torch.rand(256, 3, 10, 10, generator=generator)).to(torch.uint8)
    network = filled(10, 3, 2, windows)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(20):
        loss = F.binary_cross_entropy_with_logits(network(windows.float() / 255), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ((network.eval()(windows.float() / 255) > 0) == labels.bool()).float().mean() > 0.98


def test_a_checkpoint_holds_the_projection() -> None:
    network = filled(10, 1, 5, drawn(200, 10)).eval()
    other = window_classifier("cnn1d", 10, 1, 5).eval()
    assert (is_filled(network), is_filled(other)) == (True, False)
    other.load_state_dict(network.state_dict())
    assert is_filled(other)
    image = torch.rand(4, 3, 10, 10)
    assert torch.equal(other(image), network(image))


def test_bytes_and_pictures_in_0_to_1_fill_it_alike_and_again() -> None:
    windows = drawn(300, 11)
    first, second, third = (filled(11, 3, 6, each) for each in (windows, windows.float() / 255, windows))
    for left, right, again in zip(*(each.state_dict().values() for each in (first, second, third)), strict=True):
        assert torch.equal(left, right)
        assert torch.equal(left, again)
    fill_projection(first, [drawn(300, 11, seed=1)])
    assert not torch.equal(first[1].weight, second[1].weight)


def test_components_that_windows_do_not_have_stay_zero() -> None:
    grey = drawn(500, 10)[:, :1].expand(-1, 3, -1, -1)  # 100 of 300
    found = projected(filled(10, 3, 120, grey), grey)
    assert found.isfinite().all()
    np.testing.assert_allclose(found[:, :100].var(dim=0), 1, atol=1e-3)
    assert not found[:, 100:].any()
    flat = window_classifier("cnn1d", 10, 3, 4)
    assert fill_projection(flat, [torch.full((9, 3, 10, 10), 77, dtype=torch.uint8)]) == 0
    assert not is_filled(flat)


def test_only_projections_are_filled() -> None:
    for call in (lambda network: fill_projection(network, [drawn(9, 10)]), is_filled):
        with pytest.raises(ValueError, match="the network has no projection; make it by window_classifier"):
            call(window_classifier("cnn1d", 10))


@pytest.mark.parametrize("components", [0, 301, -1])
def test_a_window_has_so_many_components(components: int) -> None:
    with pytest.raises(ValueError, match=rf"{components} components of windows of 10 x 10 x 3; wanted are 1 to 300\."):
        projection(3, components, 10)
