from pathlib import Path

import huggingface_hub
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import vgg16
from torchvision.transforms.functional import normalize, to_tensor

from tasks.networks import backbones
from tasks.networks.backbones import encoder_of, load_weights
from tasks.networks.vgg_autoencoder import vgg_autoencoder
from tests.checks import rejects, rejects_weights

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


@pytest.fixture
def real_weights(real_data: Path) -> Path:
    path = real_data.parent / "weights" / "vgg16_features_fp16.safetensors"
    if not path.is_file():
        pytest.skip(f"there are no real weights at {path}")
    return path


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]


def torchvisions_features(weights: dict[str, Tensor]) -> nn.Module:
    """VGG16's convolutions with these weights, its dense layers nowhere in memory."""
    with torch.device("meta"):
        model = vgg16()
    model.load_state_dict(weights, strict=False, assign=True)
    return model.features.eval()


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_counted_and_all_get_a_gradient(name: str) -> None:
    with torch.device("meta"):
        network = vgg_autoencoder(name)
    assert sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad) == COUNTS[name]
    network(torch.zeros(1, 3, 32, 32, device="meta")).sum().backward()
    assert [key for key, parameter in network.named_parameters() if parameter.grad is None] == []


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
    for layer in convolutions(networks[name]):
        bound = (6 / (9 * layer.in_channels + 9 * layer.out_channels)) ** 0.5
        assert layer.weight.abs().max() <= bound
        if layer.weight.numel() > 10_000:
            assert layer.weight.abs().max() > 0.999 * bound
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)
            assert abs(layer.weight.mean().item()) < 0.03 * bound
        assert not layer.bias.any()


def test_weights_follow_the_seed(networks: dict[str, nn.Module]) -> None:
    torch.manual_seed(0)
    again, other = vgg_autoencoder("vgg10").state_dict(), vgg_autoencoder("vgg10").state_dict()
    for key, value in networks["vgg10"].state_dict().items():
        assert torch.equal(again[key], value)
        assert key.endswith("bias") or not torch.equal(other[key], value)


@pytest.mark.parametrize(("name", "reach"), [("vgg10", 64), ("vgg12", 96)])
def test_what_moves_by_sixteen_pixels_moves_in_the_map(networks: dict[str, nn.Module], name: str, reach: int) -> None:
    scene = torch.rand(1, 3, 16, 3 * reach + 16)

    def interior(shift: int) -> Tensor:
        output: Tensor = networks[name](scene[..., shift : shift + 3 * reach])
        return output[..., reach - shift + 16 : 2 * reach - shift]

    with torch.no_grad():
        still = interior(0)
        torch.testing.assert_close(interior(16), still, rtol=1e-4, atol=1e-3 * still.std().item())
        assert (interior(8) - still).abs().max() > 0.1 * still.std()  # the poolings' grid does not move by eight


def test_unknown_names_are_rejected() -> None:
    rejects(r"'vgg11' is unknown.* vgg10, vgg12", vgg_autoencoder, "vgg11")


def test_images_are_normalized_as_the_encoder_wants_them(networks: dict[str, nn.Module]) -> None:
    image = torch.rand(1, 3, 4, 4)
    for name in ("vgg10", "vgg12"):
        torch.testing.assert_close(networks[name][0](image), 2 * image - 1)
    imagenet = normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(networks["vgg16"][0](image), imagenet)


def test_the_encoder_of_vgg16_is_torchvisions(networks: dict[str, nn.Module]) -> None:
    encoder = encoder_of(networks["vgg16"])
    features = torchvisions_features(dict(encoder.state_dict()))
    assert list(encoder.state_dict()) == [f"features.{key}" for key in features.state_dict()]
    assert [type(layer) for layer in encoder.features] == [type(layer) for layer in features]
    image = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(encoder(image), features(image))


def test_library_weights_fill_the_encoder_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with torch.device("meta"):  # the hub's file has the keys of this encoder
        encoder = backbones.encoder_of(backbones.segmentation_network("unet", "vgg16", 1))
    stock = {key: torch.rand(value.shape) for key, value in encoder.state_dict().items()}
    save_file(stock, tmp_path / "model.safetensors")
    asked: list[str] = []

    def download(repository: str, file: str, **_: object) -> str:
        asked.append(repository)
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    network = vgg_autoencoder("vgg16")
    before = {key: value.clone() for key, value in network.state_dict().items() if ".decoder." in key}
    load_weights(encoder_of(network), "vgg16", True)
    assert asked == ["smp-hub/vgg16.imagenet"]
    loaded = encoder_of(network).state_dict()
    assert loaded.keys() == stock.keys()
    assert all(torch.equal(value, stock[key]) for key, value in loaded.items())
    assert before
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())


@pytest.mark.real
def test_real_weights_give_torchvisions_features_of_an_image(real_data: Path, real_weights: Path) -> None:
    picture = Image.open(min((real_data / "roads" / "images").iterdir())).convert("RGB")
    image = to_tensor(picture)[None, :, :64, :64]
    network = vgg_autoencoder("vgg16").eval()
    load_weights(encoder_of(network), "vgg16", real_weights)
    features = torchvisions_features({key: value.float() for key, value in load_file(real_weights).items()})
    with torch.no_grad():
        expected = features(normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        torch.testing.assert_close(encoder_of(network)(network[0](image)), expected)
    assert (expected > 0).float().mean() > 0.01  # an image's features, not a network that has died


@pytest.mark.real
def test_real_weights_do_not_fit_a_compressed_encoder(real_weights: Path) -> None:
    rejects_weights(
        r"vgg10: .* of its 8 tensors", load_weights, encoder_of(vgg_autoencoder("vgg10")), "vgg10", real_weights
    )
