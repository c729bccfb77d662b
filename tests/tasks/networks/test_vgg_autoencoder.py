from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.transforms.functional import normalize

from tasks.networks import backbones
from tasks.networks.backbones import encoder_of, load_weights
from tasks.networks.vgg_autoencoder import vgg_autoencoder
from tests.checks import rejects
from tests.tasks.networks.helpers import (
    IMAGENET,
    convolutions,
    hub,
    same,
    saved,
    starts_as_in_keras,
    state,
    torchvisions_features,
    trained,
    without_gradient,
)

NAMES = ("vgg10", "vgg12", "vgg16")
COUNTS = {"vgg10": 5_460_097, "vgg12": 9_590_145, "vgg16": 17_847_409}  # architectures.md, section 1
CHANNELS = {
    "vgg10": [64, 128, 256, 512, 512, 256, 128, 64, 1],
    "vgg12": [64, 128, 256, 256, 512, 512, 512, 256, 256, 256, 128, 64, 1],
    "vgg16": [
        *(64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
        *(256, 256, 256, 128, 128, 128, 64, 64, 64, 32, 32, 16, 16, 1),
    ],
}
SIDES = {  # of the image that each convolution gives, in sixteenths or, for VGG16, thirty-seconds
    "vgg10": [16, 8, 4, 2, 1, 2, 4, 8, 16],
    "vgg12": [16, 8, 4, 4, 2, 2, 1, 2, 2, 2, 4, 8, 16],
    "vgg16": [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2, 2, 2, 2, 4, 4, 4, 8, 8, 8, 16, 16, 32, 32, 32],
}


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """The three, for tests that leave them as they are."""
    torch.manual_seed(0)
    return {name: vgg_autoencoder(name).eval() for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_counted_and_all_get_a_gradient(name: str) -> None:
    with torch.device("meta"):
        network = vgg_autoencoder(name)
    assert trained(network) == COUNTS[name]
    network(torch.zeros(1, 3, 32, 32, device="meta")).sum().backward()
    assert without_gradient(network) == []
    rejects(r"'vgg11' is unknown.* vgg10, vgg12", vgg_autoencoder, "vgg11")


NORMALIZED = {"vgg10": 5_462_017, "vgg12": 9_593_345, "vgg16": 17_853_073}  # a bias more per normalized channel


@pytest.mark.parametrize("name", NAMES)
def test_batch_normalization_follows_all_convolutions_but_the_last(name: str) -> None:
    network = vgg_autoencoder(name, norm="batch")
    assert trained(network) == NORMALIZED[name] == COUNTS[name] + sum(CHANNELS[name][:-1])
    layers = [layer for layer in network.modules() if not list(layer.children())]
    kinds = [type(layer) for layer in layers if not isinstance(layer, nn.MaxPool2d | nn.Upsample)]
    assert kinds[1:] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * (len(CHANNELS[name]) - 1) + [nn.Conv2d]
    assert all(map(starts_as_in_keras, convolutions(network)))
    assert [layer.bias is None for layer in convolutions(network)] == [True] * (len(CHANNELS[name]) - 1) + [False]
    network(torch.rand(2, 3, 64, 64)).sum().backward()
    assert without_gradient(network) == []
    rejects("norm is 'layer'.* none or batch", vgg_autoencoder, name, norm="layer")


@pytest.mark.parametrize("name", NAMES)
def test_layers_are_the_lists(name: str) -> None:
    with torch.device("meta"):
        network = vgg_autoencoder(name)
    layers = convolutions(network)
    assert [layer.out_channels for layer in layers] == CHANNELS[name]
    assert all((layer.kernel_size, layer.padding) == ((3, 3), (1, 1)) for layer in layers)
    sides: list[int] = []
    for layer in layers:
        layer.register_forward_hook(lambda _, __, output: sides.append(output.shape[-1]))
    network(torch.zeros(1, 3, 64, 64, device="meta"))
    assert sides == [side * 64 // max(SIDES[name]) for side in SIDES[name]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [1, 3])
def test_any_size_keeps_its_size(name: str, classes: int) -> None:
    with torch.device("meta"):
        network = vgg_autoencoder(name, classes)
        for height, width in [(1, 1), (1, 40), (16, 16), (17, 31), (33, 32), (48, 5), (67, 35)]:
            assert network(torch.zeros(2, 3, height, width)).shape == (2, classes, height, width)


def test_vgg10_is_what_functional_calls_make_of_its_weights(networks: dict[str, nn.Module]) -> None:
    weights = list(networks["vgg10"].state_dict().values())
    image = torch.rand(2, 3, 32, 16)
    maps = 2 * image - 1
    for weight, bias in zip(weights[0:8:2], weights[1:8:2], strict=True):
        maps = F.max_pool2d(F.relu(F.conv2d(maps, weight, bias, padding=1)), 2)
    for weight, bias in zip(weights[8:16:2], weights[9:16:2], strict=True):
        maps = F.relu(F.conv2d(maps, weight, bias, padding=1)).repeat_interleave(2, -1).repeat_interleave(2, -2)
    logits = F.conv2d(maps, *weights[16:], padding=1)
    assert logits.min() < 0 < logits.max()  # nothing follows the last convolution
    with torch.no_grad():
        torch.testing.assert_close(networks["vgg10"](image), logits)


@pytest.mark.parametrize("name", NAMES)
def test_weights_start_as_in_keras(networks: dict[str, nn.Module], name: str) -> None:
    assert all(map(starts_as_in_keras, convolutions(networks[name])))


def test_images_are_normalized_as_the_encoder_wants_them(networks: dict[str, nn.Module]) -> None:
    image = torch.rand(1, 3, 4, 4)
    for name in ("vgg10", "vgg12"):
        torch.testing.assert_close(networks[name][0](image), 2 * image - 1)
    torch.testing.assert_close(networks["vgg16"][0](image), normalize(image, *IMAGENET))


def test_the_encoder_of_vgg16_is_torchvisions(networks: dict[str, nn.Module]) -> None:
    encoder = encoder_of(networks["vgg16"])
    features = torchvisions_features("vgg16", dict(encoder.state_dict()))
    assert list(encoder.state_dict()) == [f"features.{key}" for key in features.state_dict()]
    assert [type(layer) for layer in encoder.features] == [type(layer) for layer in features]
    image = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(encoder(image), features(image))


def test_library_weights_fill_the_encoder_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with torch.device("meta"):  # the hub's file has the keys of this encoder
        encoder = backbones.encoder_of(backbones.segmentation_network("unet", "vgg16", 1))
    stock = {key: torch.rand(value.shape) for key, value in encoder.state_dict().items()}
    saved(tmp_path / "model.safetensors", stock)
    asked = hub(monkeypatch, tmp_path)
    network = vgg_autoencoder("vgg16")
    before = {key: value for key, value in state(network).items() if ".decoder." in key}
    load_weights(encoder_of(network), "vgg16", True)
    assert asked == [("smp-hub/vgg16.imagenet", True)]
    assert same(encoder_of(network), stock)
    assert before
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())


def test_he_keeps_the_variance_that_glorot_loses() -> None:
    spread = {}
    for init in ("glorot", "he"):
        torch.manual_seed(0)
        network = vgg_autoencoder("vgg16", init=init)
        weights = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d)]
        for weight in weights[1:-1]:
            fan_in, fan_out = (channels * 9 for channels in weight.shape[1::-1])
            limit = (6 / fan_in) ** 0.5 if init == "he" else (6 / (fan_in + fan_out)) ** 0.5
            assert weight.abs().max().item() == pytest.approx(limit, rel=0.01)
        with torch.no_grad():
            spread[init] = network(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))).std().item()
    assert spread["glorot"] < 1e-3
    assert spread["he"] > 100 * spread["glorot"]
    rejects("init is 'zeros'; expected glorot or he", vgg_autoencoder, "vgg16", init="zeros")
