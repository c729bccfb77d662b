import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.networks.colorizer import Colorizer
from tests.checks import rejects
from tests.tasks.networks.helpers import convolutions, starts_as_in_keras, trained, without_gradient

# architectures.md, section 2: the first three columns of Keras's summary in the report's notebook
POOLED = [1_280, 262_272, 147_584, 524_544, 590_080, 1_048_832, 590_080, 590_080]
STRIDED = [640, 73_856, 147_584, 295_168, 590_080, 1_180_160, 2_359_808, 1_179_904]
DECODER = [295_040, 73_792, 73_856, 131_136, 36_928, 8_224, 578]
FUSION = {1000: 321_792, 1001: 322_048, 0: 65_792}
STRIDES = {"pooled": [1] * 8, "strided": [2, 1, 2, 1, 2, 1, 1, 1]}
POOLS = (0, 2, 4)  # convolutions that a pooling follows
ENCODERS = ("pooled", "strided")


def on_meta(encoder: str, vector: int = 1000, outputs: int = 2) -> Colorizer:
    with torch.device("meta"):
        return Colorizer(encoder, vector, outputs)


@pytest.mark.parametrize(("encoder", "total"), [("pooled", 4_696_098), ("strided", 6_768_546)])
def test_parameters_are_as_many_as_printed(encoder: str, total: int) -> None:
    assert trained(on_meta(encoder)) == total
    for vector, fusion in FUSION.items():
        network = on_meta(encoder, vector)
        layers = {"pooled": POOLED, "strided": STRIDED}[encoder] + [fusion] + DECODER
        assert [trained(layer) for layer in convolutions(network)] == layers
        assert trained(network) == sum(layers)
    assert trained(on_meta(encoder, outputs=313)) == total + 311 * (9 * 32 + 1)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_any_size_keeps_its_size(encoder: str) -> None:
    network = on_meta(encoder, 5, 3)
    for height, width in [(224, 224), (32, 32), (33, 47), (223, 301), (38, 100)]:
        picture, vector = torch.zeros(2, 1, height, width, device="meta"), torch.zeros(2, 5, device="meta")
        assert network(picture, vector).shape == (2, 3, height, width)
        assert network.half_size(picture, vector).shape == (2, 3, -(-height // 2), -(-width // 2))
    assert network.encoder(torch.zeros(2, 1, 224, 160, device="meta")).shape == (2, 256, 28, 20)


def padded(maps: Tensor, layer: nn.Conv2d, stride: int = 1) -> Tensor:
    """A convolution as Keras pads it: in all (ceil(n / s) - 1) s + k - n, half of it before, the rest after."""
    padding: list[int] = []
    for size, kernel in zip(maps.shape[:1:-1], layer.kernel_size[::-1], strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
        padding += [total // 2, total - total // 2]
    return F.conv2d(F.pad(maps, padding), layer.weight, layer.bias, stride)


def by_hand(network: Colorizer, encoder: str, luminance: Tensor, vector: Tensor | None) -> Tensor:
    """What functional calls make of a network's weights, for sizes that 8 divides."""
    *encoding, fusion = convolutions(network)[:9]
    maps = luminance
    for place, (layer, stride) in enumerate(zip(encoding, STRIDES[encoder], strict=True)):
        maps = F.relu(padded(maps, layer, stride))
        if encoder == "pooled" and place in POOLS:
            maps = F.max_pool2d(maps, 2)
    if vector is not None:
        maps = torch.cat([maps, vector[:, :, None, None].repeat(1, 1, *maps.shape[2:])], dim=1)
    maps = F.relu(F.conv2d(maps, fusion.weight, fusion.bias))
    *decoding, last = convolutions(network)[9:]
    for place, layer in enumerate(decoding):
        if place in (2, 3):
            maps = maps.repeat_interleave(2, -1).repeat_interleave(2, -2)
        maps = F.relu(padded(maps, layer))
    maps = padded(maps, last).tanh() if network.tanh else padded(maps, last)
    return maps.repeat_interleave(2, -1).repeat_interleave(2, -2)


def loud(network: Colorizer) -> Colorizer:
    """Larger weights and some biases, so that outputs differ from place to place by more than rounding."""
    for layer in convolutions(network):
        nn.init.kaiming_normal_(layer.weight)
        nn.init.normal_(layer.bias, std=0.1)
    return network


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(("vector", "tanh"), [(10, True), (0, False)])
def test_it_is_what_functional_calls_make_of_its_weights(encoder: str, vector: int, tanh: bool) -> None:
    torch.manual_seed(0)
    network = loud(Colorizer(encoder, vector, 3, tanh))
    luminance = 4 * torch.rand(2, 1, 40, 32) - 2
    seen = torch.randn(2, vector) if vector else None
    with torch.no_grad():
        expected = by_hand(network, encoder, luminance, seen)
        output = network(luminance, seen)
    assert expected.std() > 0.1
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
    assert (expected.abs().max() <= 1) == tanh


def test_odd_sizes_see_their_edge_repeated() -> None:
    torch.manual_seed(0)
    network = loud(Colorizer("pooled", 4))
    luminance, vector = torch.rand(1, 1, 33, 43), torch.randn(1, 4)
    rows, columns = torch.arange(40).clamp(max=32), torch.arange(48).clamp(max=42)
    with torch.no_grad():
        whole = network(luminance[..., rows, :][..., columns], vector)
        assert torch.equal(network(luminance, vector), whole[..., :33, :43])


def test_the_output_repeats_the_half_size() -> None:
    torch.manual_seed(0)
    network = loud(Colorizer("strided", 0))
    luminance = torch.rand(1, 1, 33, 35)
    with torch.no_grad():
        small, whole = network.half_size(luminance), network(luminance)
    for row in range(33):
        assert torch.equal(whole[..., row, :], small[..., row // 2, torch.arange(35) // 2])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_all_parameters_get_a_gradient(encoder: str) -> None:
    network = on_meta(encoder, 7)
    network(torch.zeros(1, 1, 32, 32, device="meta"), torch.zeros(1, 7, device="meta")).sum().backward()
    assert without_gradient(network) == []


@pytest.mark.parametrize("encoder", ENCODERS)
def test_weights_start_as_in_keras(encoder: str) -> None:
    torch.manual_seed(0)
    assert all(map(starts_as_in_keras, convolutions(Colorizer(encoder))))


def test_rejects_unknown_encoders_and_other_vectors() -> None:
    rejects("'deep' is unknown", Colorizer, "deep")
    for length, given in ((5, 0), (0, 1000), (1000, 1536)):
        vector = torch.zeros(1, given, device="meta") if given else None
        image = torch.zeros(1, 1, 32, 32, device="meta")
        rejects(f"vector of {length} values, got {given}", on_meta("pooled", length), image, vector)
