import torch
from torch import Tensor

from tasks.remembered import Remembered
from tests.checks import rejects


class Doubled:
    """Doubles pictures, and counts them."""

    def __init__(self) -> None:
        self.pictures = 0

    def __call__(self, image: Tensor) -> Tensor:
        self.pictures += len(image)
        return 2 * image


def test_each_image_is_computed_once() -> None:
    remembered, compute = Remembered(1.0), Doubled()
    image = torch.arange(12.0).view(4, 3).requires_grad_()
    for names, rows in (("ab", [0, 1]), ("bcd", [1, 2, 3]), ("dacb", [3, 0, 2, 1])):
        found = remembered(list(names), image[rows], compute)
        torch.testing.assert_close(found, 2 * image[rows].detach())
        assert not found.requires_grad
    assert compute.pictures == len(remembered) == 4
    remembered.clear()
    remembered(["a"], image[:1], compute)
    assert (compute.pictures, len(remembered)) == (5, 1)


def test_callers_cannot_change_remembered_values() -> None:
    remembered, compute = Remembered(1.0), Doubled()
    remembered(["a"], torch.ones(1, 3), compute).zero_()
    assert torch.equal(remembered(["a"], torch.ones(1, 3), compute), torch.full((1, 3), 2.0))


def test_memory_is_limited() -> None:
    remembered, compute = Remembered(2.5 * 12 / 2**30), Doubled()  # two pictures of three float32 and a half
    image = torch.rand(4, 3)
    for _ in range(2):
        torch.testing.assert_close(remembered(list("abcd"), image, compute), 2 * image)
    assert (len(remembered), compute.pictures) == (2, 6)
    none, compute = Remembered(0), Doubled()
    for _ in range(2):
        none(list("abcd"), image, compute)
    assert (len(none), compute.pictures) == (0, 8)


def test_rejects_negative_memory() -> None:
    rejects(r"-1 GiB of cache", Remembered, -1)
