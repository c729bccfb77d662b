import numpy as np
import pytest
import torch

from ops.statistics.components import principal_components
from tests.checks import rejects


def windows_of(count: int, values: int, rank: int | None = None) -> torch.Tensor:
    """Windows that vary differently along every direction, far from 0."""
    generator = torch.Generator().manual_seed(0)
    rank = rank or values
    directions = torch.linalg.qr(torch.randn(values, rank, generator=generator, dtype=torch.float64))[0]
    parts = torch.randn(count, rank, generator=generator, dtype=torch.float64) * torch.logspace(2, -2, rank)
    return parts @ directions.T + 500


def by_svd(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Axes and variances, of the array itself and not of its covariance."""
    _, values, axes = np.linalg.svd(windows - windows.mean(axis=0), full_matrices=False)
    return axes, values**2 / (len(windows) - 1)


@pytest.mark.parametrize("blocks", [[700], [1, 699], [256, 256, 188], [1] * 700])
def test_components_are_those_of_a_singular_value_decomposition(blocks: list[int]) -> None:
    windows = windows_of(700, 40)
    found = principal_components(windows.split(blocks), 7)
    axes, variances = by_svd(windows.numpy())
    assert (found.mean.shape, found.axes.shape, found.variances.shape) == ((40,), (7, 40), (40,))
    np.testing.assert_allclose(found.mean, windows.numpy().mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(found.variances, variances, rtol=1e-6)  # they span eight orders of magnitude
    np.testing.assert_allclose(np.abs((found.axes.numpy() * axes[:7]).sum(axis=1)), 1, atol=1e-10)
    np.testing.assert_allclose(found.axes @ found.axes.T, np.eye(7), atol=1e-12)


def test_without_axes_the_variances_are_the_same() -> None:
    blocks = windows_of(300, 20).split(90)
    found, whole = principal_components(blocks, 0), principal_components(blocks, 20)
    assert found.axes.shape == (0, 20)
    torch.testing.assert_close(found.variances, whole.variances, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(whole.axes.T * whole.variances @ whole.axes, torch.cov(torch.cat(blocks).T))


def test_bytes_are_windows_too() -> None:
    generator = torch.Generator().manual_seed(0)
    windows = torch.randint(0, 256, (500, 3, 2, 2), generator=generator, dtype=torch.uint8)
    found = principal_components(windows.split(123), 12)
    expected = torch.cov(windows.flatten(1).double().T)
    torch.testing.assert_close(found.axes.T * found.variances @ found.axes, expected)
    assert found.mean.tolist() == pytest.approx(windows.flatten(1).numpy().mean(axis=0).tolist())


def test_the_largest_entry_of_an_axis_is_positive() -> None:
    axes = principal_components([windows_of(400, 30)], 30).axes.numpy()
    assert (axes[np.arange(30), np.abs(axes).argmax(axis=1)] > 0).all()


def test_of_equally_large_entries_the_first_is_positive() -> None:
    # Along the first axis the outer values move against each other, equally far: rounding must not choose the sign.
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        steps = torch.randn(50, 1, generator=generator, dtype=torch.float64)
        found = principal_components([steps * torch.tensor([-3.0, 1.0, 0.0, -1.0, 3.0])], 1)
        expected = torch.tensor([[3.0, -1.0, 0.0, 1.0, -3.0]], dtype=torch.float64) / 20**0.5
        torch.testing.assert_close(found.axes, expected, atol=1e-9, rtol=0)


def test_constant_values_have_no_variance() -> None:
    flat = principal_components(torch.full((900, 6), 0.1, dtype=torch.float64).split(100), 2)
    assert not flat.variances.any()
    torch.testing.assert_close(flat.mean, torch.full((6,), 0.1, dtype=torch.float64))
    few = principal_components([windows_of(5, 30)], 30)  # five windows span four directions
    assert (few.variances > 1e-6).sum() == 4
    assert few.variances.min() >= 0
    torch.testing.assert_close(few.axes @ few.axes.T, torch.eye(30, dtype=torch.float64))


def test_keeps_only_the_axes_in_memory() -> None:
    found = principal_components([windows_of(90, 60)], 2)
    assert found.axes.untyped_storage().nbytes() == 2 * 60 * 8


def test_rejects_wrong_arguments() -> None:
    for blocks in ([], [torch.ones(1, 4)]):
        rejects(f"two or more windows, got {len(blocks)}", principal_components, blocks, 1)
    for axes in (5, -1):
        rejects(f"0 to 4 axes .*, got {axes}", principal_components, [torch.ones(3, 4)], axes)
    uneven = [torch.ones(3, 1, 2, 2), torch.ones(3, 1, 3, 3)]
    rejects("4 values, got a block of windows of 9", principal_components, uneven, 1)
