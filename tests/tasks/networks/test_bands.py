from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tasks.networks.backbones import encoder_of, load_encoder, segmentation_network
from tasks.networks.bands import for_channels, widen
from tasks.networks.vgg_autoencoder import vgg_autoencoder
from tasks.roads import RoadsTask


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("name", ["unet", "vgg10"])
def test_networks_take_any_number_of_channels(name: str, channels: int) -> None:
    torch.manual_seed(0)
    network = segmentation_network("unet", "mobilenet_v2", 1) if name == "unet" else vgg_autoencoder("vgg10")
    image = torch.rand(1, 3, 64, 64)
    before = network.eval()(image)
    widen(network, channels)
    more = torch.cat([image, torch.rand(1, 4, 64, 64)], dim=1)[:, :channels]
    after = network.eval()(more)
    assert after.shape == before.shape
    assert channels < 3 or torch.equal(after, before), "further bands start without an influence"


def test_fewer_channels_share_what_the_colors_had() -> None:
    weight = torch.rand(8, 3, 3, 3)
    gray = torch.rand(1, 1, 9, 9)
    expected = nn.functional.conv2d(gray.expand(-1, 3, -1, -1), weight)
    for channels in (1, 2):
        found = nn.functional.conv2d(gray.expand(-1, channels, -1, -1), for_channels(weight, channels))
        assert torch.allclose(found, expected, atol=1e-5)


def test_pretrained_weights_fill_the_colors(tmp_path: Path) -> None:
    trained = encoder_of(segmentation_network("unet", "mobilenet_v2", 1))
    save_file(
        {key: value.contiguous() for key, value in trained.state_dict().items()}, tmp_path / "weights.safetensors"
    )
    network = segmentation_network("unet", "mobilenet_v2", 1)
    widen(network, 5)
    load_encoder(network, "mobilenet_v2", tmp_path / "weights.safetensors")
    first = next(each for each in network.modules() if isinstance(each, nn.Conv2d))
    original = next(each for each in trained.modules() if isinstance(each, nn.Conv2d))
    assert torch.equal(first.weight[:, :3], original.weight)
    assert not first.weight[:, 3:].any()


def test_weights_of_the_same_bands_stay_as_they_are(tmp_path: Path) -> None:
    bands = {"blue": (0.2, 0.1), "green": (0.3, 0.2), "red": (0.4, 0.3), "nir": (0.5, 0.4)}
    trained = segmentation_network("unet", "mobilenet_v2", 1)
    widen(trained, 4)
    encoder = encoder_of(trained)
    nn.init.normal_(next(each for each in encoder.modules() if isinstance(each, nn.Conv2d)).weight)
    save_file(
        {key: value.contiguous() for key, value in encoder.state_dict().items()}, tmp_path / "weights.safetensors"
    )
    task = RoadsTask("unet", pretrained=str(tmp_path / "weights.safetensors"), channels=4, pretrained_bands=bands)
    task.load_pretrained()
    own = encoder_of(task.network).state_dict()
    assert all(torch.equal(own[key], value) for key, value in encoder.state_dict().items())
    assert task.network[0].mean.flatten().tolist() == pytest.approx([0.2, 0.3, 0.4, 0.5])  # type: ignore[index,union-attr]  # a Sequential


def test_a_network_without_normalization_is_rejected() -> None:
    with pytest.raises(ValueError, match="three channels only"):
        widen(segmentation_network("features", "mobilenet_v2", 1), 4)
