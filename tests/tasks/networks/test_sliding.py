import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tasks.networks.dense import DenseForm
from tasks.networks.sliding import classify_picture, classify_windows
from tasks.networks.window_classifier import window_classifier
from tests.checks import rejects
from tests.tasks.networks.helpers import by_loop, settle


class Centre(nn.Module):
    """A classifier without a dense form whose logits are the window's central pixel and its upper left one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, windows: Tensor) -> Tensor:
        side = windows.shape[-1] // 2
        return self.weight * torch.stack([windows[:, 0, side, side], windows[:, 0, 0, 0]], dim=1)


def unpadded(window: int) -> nn.Sequential:
    torch.manual_seed(0)
    return settle(window_classifier("cnn2d", window))


def padded() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 6 * 6, 2)).eval()


def by_border(network: nn.Module, picture: Tensor, window: int, beyond: int = 0) -> Tensor:
    """Classifies the window of every pixel, and of those up to `beyond` past the lower and right border."""
    before, after = window // 2, window - 1 - window // 2 + beyond
    border = np.pad(picture.numpy(), [(0, 0), (before, after), (before, after)], mode="reflect")
    return by_loop(network, torch.from_numpy(border), window)


@pytest.mark.parametrize("window", [15, 16])
@pytest.mark.parametrize("size", [(16, 16), (21, 34)])
def test_every_pixel_has_the_logits_of_the_window_around_it(window: int, size: tuple[int, int]) -> None:
    picture = torch.rand(3, *size)
    before = picture.clone()
    logits = classify_picture(unpadded(window), picture, window)
    assert logits.shape == (1, *size)
    assert not logits.requires_grad
    expected = by_border(unpadded(window), picture, window)
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
    assert torch.equal(picture, before)


def test_padded_networks_classify_window_by_window() -> None:
    picture = torch.rand(3, 19, 14)
    logits = classify_picture(padded(), picture, 12)
    torch.testing.assert_close(logits, by_border(padded(), picture, 12), rtol=0, atol=1e-6)


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("size", [(21, 17), (22, 19), (12, 16)])
def test_between_strides_logits_are_interpolated(stride: int, size: tuple[int, int]) -> None:
    picture = torch.rand(3, *size)
    logits = classify_picture(padded(), picture, 12, stride=stride)
    assert logits.shape == (2, *size)
    samples = by_border(padded(), picture, 12, beyond=stride)[:, ::stride, ::stride]
    torch.testing.assert_close(
        logits[:, ::stride, ::stride], samples[:, : -(-size[0] // stride), : -(-size[1] // stride)]
    )
    for y in range(size[0]):
        for x in range(size[1]):
            (row, down), (column, across) = divmod(y, stride), divmod(x, stride)
            down, across = down / stride, across / stride
            above = (1 - across) * samples[:, row, column] + across * samples[:, row, column + 1]
            below = (1 - across) * samples[:, row + 1, column] + across * samples[:, row + 1, column + 1]
            torch.testing.assert_close(logits[:, y, x], (1 - down) * above + down * below, rtol=0, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("window", [5, 6])
def test_logits_lie_at_the_center_of_the_window_at_every_stride(window: int, stride: int) -> None:
    ramp = torch.arange(29).view(1, -1, 1) / 100 + torch.arange(33).view(1, 1, -1) / 200
    logits = classify_picture(Centre().eval(), ramp, window, stride=stride)
    torch.testing.assert_close(logits[:1], ramp)  # bilinear interpolation keeps a ramp, any shift would not
    torch.testing.assert_close(
        logits[1, 4:, 4:], ramp[0, 4 - window // 2 : -(window // 2), 4 - window // 2 : -(window // 2)]
    )


@pytest.mark.parametrize("tile", [1, 7, 16, 30, 1000])
def test_logits_do_not_depend_on_the_tile(tile: int) -> None:
    picture = torch.rand(3, 37, 31)
    dense = classify_picture(unpadded(12), picture, 12)
    torch.testing.assert_close(classify_picture(unpadded(12), picture, 12, tile=tile), dense, rtol=0, atol=1e-6)
    for stride in (1, 4):
        streamed = classify_picture(padded(), picture, 12, stride=stride)
        again = classify_picture(padded(), picture, 12, stride=stride, tile=tile, batch=5)
        torch.testing.assert_close(again, streamed, rtol=0, atol=1e-6)


def test_classifies_a_tile_or_a_batch_at_a_time() -> None:
    shapes: list[tuple[int, ...]] = []
    network = unpadded(12)
    network[0].register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    picture = torch.rand(3, 50, 30)
    classify_picture(network, picture, 12, tile=16)
    # 50 rows are 13 + 13 + 13 + 11, 30 columns 15 + 15; poolings leave the last row and column of a window out
    assert shapes
    assert {shape[:2] for shape in shapes} == {(1, 3)}
    assert max(max(shape[2:]) for shape in shapes) <= 16 + 12 - 1
    assert len(shapes) == 8
    shapes.clear()
    network = padded()
    network[0].register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    classify_picture(network, picture, 12, stride=2, tile=16, batch=20)
    assert max(shape[0] for shape in shapes) == 20
    assert {shape[1:] for shape in shapes} == {(3, 12, 12)}
    assert sum(shape[0] for shape in shapes) == 26 * 16


def test_uses_the_dense_form_at_any_stride() -> None:
    picture = torch.rand(3, 30, 40)
    for stride in (2, 4):
        assert torch.equal(
            classify_picture(unpadded(15), picture, 15, stride), classify_picture(unpadded(15), picture, 15)
        )


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_classifies_only_where_it_is_wanted(stride: int) -> None:
    picture, where = torch.rand(3, 40, 60), torch.zeros(40, 60, dtype=torch.bool)
    where[7, 9] = where[18:31, 41:43] = where[39, 59] = True
    seen = []
    network = padded()
    network.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    whole = classify_picture(network, picture, 13, stride, tile=16)
    windows_of_all = sum(seen)
    seen.clear()
    found = classify_picture(network, picture, 13, stride, tile=16, where=where)
    torch.testing.assert_close(found[:, where], whole[:, where])
    assert sum(seen) < windows_of_all / 4
    rejects("where is false", classify_picture, network, picture, 13, stride, where=torch.zeros_like(where))


def test_a_head_makes_the_logits_tile_by_tile() -> None:
    network, picture = unpadded(15), torch.rand(3, 40, 60)
    last = network[-1]
    features = network[:-1].eval()
    largest = []

    def head(maps: Tensor) -> Tensor:
        largest.append(maps.numel())
        return torch.einsum("chw,kc->khw", maps, last.weight) + last.bias[:, None, None]

    found = classify_picture(features, picture, 15, tile=16, head=head)
    torch.testing.assert_close(found, classify_picture(network, picture, 15), rtol=0, atol=1e-5)
    assert max(largest) <= 128 * 16 * 16


def test_bytes_are_scaled() -> None:
    picture = torch.randint(0, 256, (3, 20, 20), dtype=torch.uint8)
    logits = classify_picture(unpadded(12), picture, 12)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, classify_picture(unpadded(12), picture / 255, 12))


def test_windows_are_classified_one_by_one_at_a_stride() -> None:
    image = torch.rand(3, 20, 17)
    every = DenseForm(unpadded(12), 12)(image[None])[0].detach()
    torch.testing.assert_close(classify_windows(unpadded(12), image, 12, batch=7), every)
    torch.testing.assert_close(classify_windows(unpadded(12), image, 12, stride=3), every[:, ::3, ::3])


def test_rejects_wrong_arguments() -> None:
    rejects("at least 12 x 12, the window, got 11 x 40", classify_picture, padded(), torch.rand(3, 11, 40), 12)
    rejects(r"training mode", classify_picture, padded().train(), torch.rand(3, 20, 20), 12)
    rejects("stride of 1, 2 or 4, got 3", classify_picture, padded(), torch.rand(3, 20, 20), 12, stride=3)
    rejects("windows of 20 x 20", classify_picture, unpadded(12), torch.rand(3, 20, 20), 20)


@pytest.mark.gpu
def test_classifies_on_the_networks_device() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    picture = torch.rand(3, 40, 40)
    expected = classify_picture(unpadded(12), picture, 12)
    with torch.backends.cudnn.flags(allow_tf32=False):
        logits = classify_picture(unpadded(12).cuda(), picture, 12)
    assert logits.device == picture.device
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
