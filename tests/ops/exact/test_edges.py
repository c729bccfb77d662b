import itertools

import cv2
import numpy as np
import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ops.exact import edges
from ops.exact.edges import canny, canny_on_device, grey
from tests.checks import rejects

THRESHOLDS = [(100, 200), (50, 150), (0, 0), (1, 255), (99.5, 200.7), (200, 100), (600, 1e9), (40000, 50000)]
SIZES = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (1, 7), (7, 1), (5, 300), (97, 131)]


def noise(size: tuple[int, int], kind: str) -> Tensor:
    """Three gray images: of all levels, of two, or smooth."""
    levels = np.random.default_rng(0).integers(0, 256, (3, *size)).astype(np.uint8)
    if kind == "binary":
        levels = (levels // 128) * 255
    if kind == "smooth":
        levels = np.stack([cv2.GaussianBlur(each, (0, 0), 1.5) for each in levels])
    return torch.from_numpy(levels.astype(np.uint8)).reshape(3, 1, *size)


def spiral(side: int, light: int = 255) -> Tensor:
    """One long line from the middle outwards, and nothing else."""
    levels = np.zeros((side, side), np.uint8)
    row, column, length = side // 2, side // 2, 4
    for turn in itertools.cycle([(0, 1), (1, 0), (0, -1), (-1, 0)]):
        end_row, end_column = row + turn[0] * length, column + turn[1] * length
        if not (0 <= end_row < side and 0 <= end_column < side):
            return torch.from_numpy(levels)[None, None]
        cv2.line(levels, (column, row), (end_column, end_row), light)
        row, column, length = end_row, end_column, length + 2
    raise AssertionError


def opencv(image: Tensor, low: float, high: float, l2: bool) -> Tensor:
    found = [cv2.Canny(each, low, high, L2gradient=l2) for each in image[:, 0].numpy()]
    return torch.from_numpy(np.stack(found).reshape(image.shape)) > 0


@pytest.mark.parametrize("l2", [False, True])
@pytest.mark.parametrize("kind", ["noise", "binary", "smooth"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_edges_of_noise_equal_opencvs(size: tuple[int, int], kind: str, l2: bool) -> None:
    image = noise(size, kind)
    for low, high in THRESHOLDS:
        expected = opencv(image, low, high, l2)
        for found in (canny(image, low, high, l2), canny_on_device(image, *sorted((low, high)), l2)):
            assert found.dtype == torch.bool
            assert torch.equal(found, expected), (low, high)


def test_directions_next_to_the_tangent_are_opencvs() -> None:
    # Of a million gradients a few lie so close to 22.5 degrees that the last bit of the tangent decides.
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 1, 1000, 1000)).astype(np.uint8))
    assert torch.equal(canny_on_device(image, 0, 0, False), opencv(image, 0, 0, l2=False))


@pytest.mark.parametrize("l2", [False, True])
def test_a_spiral_is_followed_to_its_end(l2: bool) -> None:
    image = spiral(201, light=40)
    image[..., 100, 100:104] = 255  # its inner end, all that exceeds the higher threshold
    found = canny_on_device(image, 50, 500, l2)
    assert torch.equal(found, opencv(image, 50, 500, l2))
    assert found[..., :6, :].any()
    assert not canny_on_device(spiral(201, light=40), 50, 500, l2).any()


# Edges between nodes i and j, and how many components they make.
GRAPHS = {
    "path": ([(i - 1, i) for i in range(1, 4096)], 1),
    "tree": ([(i // 2, i) for i in range(2, 4096)], 2),
    "star": ([(4095, i) for i in range(4095)], 1),
    "rows joined to the next but one": (
        [(i - 1, i) for i in range(4096) if i % 64] + [(i - 128, i) for i in range(128, 4096)],
        2,
    ),
    "nothing": ([], 4096),
}


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("graph", GRAPHS)
def test_components_take_few_rounds(graph: str, shuffled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, components = GRAPHS[graph]
    nodes = torch.randperm(4096, generator=torch.Generator().manual_seed(0)) if shuffled else torch.arange(4096)
    ends = nodes[torch.tensor(pairs, dtype=torch.int64).view(-1, 2)]
    maximum, rounds = torch.maximum, []

    def counted(one: Tensor, other: Tensor) -> Tensor:
        rounds.append(len(one))
        return maximum(one, other)

    monkeypatch.setattr(torch, "maximum", counted)
    labels = edges._components(4096, ends[:, 0], ends[:, 1])
    assert len(rounds) <= 2 * 12  # twice the logarithm of the number of nodes
    count, expected = connected_components(coo_array((np.ones(len(ends)), ends.T.numpy()), shape=(4096, 4096)), False)
    assert count == components
    smallest = [int(np.flatnonzero(expected == component)[0]) for component in range(count)]
    assert labels.tolist() == [smallest[component] for component in expected]


def test_images_of_a_batch_are_independent() -> None:
    image = noise((40, 50), "smooth")
    alone = torch.cat([canny_on_device(each[None], 20, 200, False) for each in image])
    assert torch.equal(canny_on_device(image, 20, 200, False), alone)
    assert canny(image[:0], 20, 200).shape == canny_on_device(image[:0], 20, 200, False).shape == (0, 1, 40, 50)


def test_layout_does_not_matter() -> None:
    image = noise((50, 40), "smooth")
    expected = canny(image.mT.contiguous(), 50, 150)
    assert torch.equal(canny(image.mT, 50, 150), expected)
    assert torch.equal(canny_on_device(image.mT, 50, 150, False), expected)


def test_gray_equals_opencvs_for_every_color_of_a_fine_grid() -> None:
    levels = np.unique([*range(0, 256, 3), 1, 127, 128, 254, 255]).astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(1, len(levels), -1, 3)
    expected = cv2.cvtColor(colours[0], cv2.COLOR_RGB2GRAY)
    found = grey(torch.from_numpy(colours).permute(0, 3, 1, 2))
    assert found.shape == (1, 1, *expected.shape)
    np.testing.assert_array_equal(found[0, 0], expected)


def test_kornia_finds_the_same_pixels_with_the_euclidean_gradient() -> None:
    image = noise((64, 64), "smooth")
    expected = opencv(image, 50, 150, l2=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = canny(image, 150, 50, l2=True, backend="kornia")
    both = (found & expected).sum()
    assert found.dtype == torch.bool
    assert 2 * both / (found.sum() + expected.sum()) > 0.999


def test_rejects_wrong_images_and_thresholds() -> None:
    image = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    rejects(r"expected uint8 .* got torch.float32", canny, image.float(), 1, 2)
    rejects(r"uint8 of shape \(4, 4\)", canny, image[0, 0], 1, 2)
    rejects(r"expected uint8 images \(B, 3, H, W\)", grey, image)
    for low, high in [(-1, 2), (1, -2), (float("nan"), 2), (1, float("inf"))]:
        rejects(f"thresholds of 0 or more, got {low} and {high}", canny, image, low, high)
    rejects("'skimage' is unknown", canny, image, 1, 2, backend="skimage")
    rejects(r"only the Euclidean gradient .*l2=False and 1", canny, image, 1, 2, backend="kornia")
    rejects(r"thresholds above 0, got l2=True and 0", canny, image, 0, 2, l2=True, backend="kornia")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("l2", [False, True])
def test_a_gpu_finds_the_same_pixels(l2: bool) -> None:
    for image in [noise((97, 131), "noise"), noise((97, 131), "smooth"), spiral(201)]:
        for low, high in THRESHOLDS:
            assert torch.equal(canny(image.cuda(), low, high, l2).cpu(), canny(image, low, high, l2))
    colours = torch.randint(0, 256, (2, 3, 64, 65), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(grey(colours.cuda()).cpu(), grey(colours))
