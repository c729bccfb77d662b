from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tasks.networks.backbones import Stages, encoder_of, load_encoder, segmentation_network
from tasks.networks.features_head import chosen
from tests.checks import rejects
from tests.tasks.networks.helpers import real_weights, state, trained

SIZES = [(32, 48), (45, 61)]


@pytest.mark.parametrize(("name", "multiple"), [("test_resnet", 32), ("test_vit", 16), ("mobilenet_v2", 32)])
def test_only_the_head_is_trained(name: str, multiple: int) -> None:
    network = segmentation_network("features", name, 2).train()
    frozen = encoder_of(network)
    assert isinstance(frozen, Stages)
    assert frozen.multiple == multiple
    before = state(frozen)
    for size in SIZES:
        logits = network(torch.rand(2, 3, *size))
        assert logits.shape == (2, 2, *size)
        logits.sum().backward()
    assert not any(module.training for module in frozen.modules())
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())
    head = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in head)
    assert trained(network) == trained(network.get_submodule("1.network.reduce")) + trained(
        network.get_submodule("1.network.output")
    )


def maps(sizes: Sequence[int]) -> list[Tensor]:
    return [torch.zeros(1, number, size, size) for number, size in enumerate(sizes, 1)]


def test_stages_and_blocks_are_chosen() -> None:
    assert [each.shape[1] for each in chosen(maps([32, 16, 8, 4, 2]))] == [2, 3, 4, 5]
    assert [each.shape[1] for each in chosen(maps([8] * 12))] == [3, 6, 9, 12]
    assert [each.shape[1] for each in chosen(maps([8] * 3))] == [1, 2, 3]


def test_the_head_sees_the_normalized_maps_of_the_network() -> None:
    """Without batch statistics and beyond the largest map nothing is normalized or resized: a sum by hand."""
    network = segmentation_network("features", "test_vit", 2).eval()
    inner = network.get_submodule("1.network")
    image = torch.rand(1, 3, 32, 32)
    total = torch.zeros(1, 64, 2, 2)
    with torch.no_grad():
        for layer, each in zip(inner.reduce, chosen(encoder_of(network)(image)[0]), strict=True):  # type: ignore[arg-type]
            total += nn.functional.conv2d(each / (1 + 1e-5) ** 0.5, layer[1].weight, layer[1].bias)
        expected = inner.output(total)  # type: ignore[operator]  # a module
        found = network(image)
    torch.testing.assert_close(found, nn.functional.interpolate(expected, (32, 32), mode="bilinear"))


def test_unknown_networks_and_bands_are_rejected() -> None:
    rejects("did you mean.*test_vit", segmentation_network, "features", "test_vitt", 1)
    rejects("pretrained_bands null", segmentation_network, "features", "test_vit", 1, {"red": (0.1, 0.1)})


@pytest.mark.real
def test_real_weights_fill_the_frozen_network(real_data: Path) -> None:
    network = segmentation_network("features", "resnet50_v1", 1)
    load_encoder(network, "resnet50_v1", real_weights(real_data, "resnet50_fp16.safetensors"))
    maps, _ = encoder_of(network)(torch.rand(1, 3, 64, 64))
    assert [each.shape[1] for each in maps] == [64, 256, 512, 1024, 2048]
    assert not any(parameter.requires_grad for parameter in encoder_of(network).parameters())
