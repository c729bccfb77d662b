import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import alexnet, vgg16
from torchvision.transforms.functional import normalize

from tasks.networks.aesthetics import MAPS, Judge, judge, load_judge, mebibytes, parameter_count

IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SMALL = "mobilenetv3_small_050"
# Dense width: parameters, MiB to three decimals, MB as the paper prints them.
SIZES = {
    "alexnet": {4096: (58_289_538, 222.357, 223), 1000: (13_967_202, 53.281, 54), 500: (8_607_202, 32.834, 33),
                250: (6_114_702, 23.326, 24)},
    "vgg16": {4096: (134_268_738, 512.195, 513), 1000: (40_806_690, 155.665, 156), 500: (27_510_690, 104.945, 106),
              250: (21_050_190, 80.300, 81)},
}  # fmt: skip
WIDTHS = [(name, width) for name, sizes in SIZES.items() for width in sizes]


def built(name: str, width: int = 8, outputs: int = 2, seed: int = 0) -> Judge:
    torch.manual_seed(seed)
    network = judge(name, width, outputs)
    for layer in network.dense:
        if isinstance(layer, nn.Linear):  # large enough that differences would be seen
            nn.init.normal_(layer.weight, std=4 / math.sqrt(layer.in_features))
    return network.eval()


def saved(path: Path, weights: Mapping[str, Tensor]) -> Path:
    save_file({key: value.contiguous() for key, value in weights.items()}, path)
    return path


def published(name: str, network: Judge) -> nn.Module:
    """torchvision's own network, with the weights of ours and dense layers as wide."""
    with torch.device("meta"):  # what is replaced nowhere in memory
        model = (vgg16 if name == "vgg16" else alexnet)()
    linear = [place for place, layer in enumerate(model.classifier) if isinstance(layer, nn.Linear)]
    for place, layer in zip(linear, ("fc6", "fc7", "output"), strict=True):
        model.classifier[place] = network.dense.get_submodule(layer)
    model.load_state_dict(network.convolutions[-1].state_dict(), strict=False, assign=True)
    return model.eval()


@pytest.mark.parametrize(("name", "width"), WIDTHS)
def test_parameters_and_sizes_are_the_papers(name: str, width: int) -> None:
    count, size, printed = SIZES[name][width]
    assert parameter_count(name, width) == count
    assert mebibytes(count) == pytest.approx(size, abs=5e-4)
    # The paper's files were from 0.055 to 0.166 MiB larger than their parameters, and rounded up.
    assert math.ceil(size + 0.06) == printed


@pytest.mark.parametrize(
    ("width", "count"), [(4096, 57_012_034), (1000, 12_689_698), (500, 7_329_698), (250, 4_837_198)]
)
def test_parameters_of_the_published_alexnet_are_counted(width: int, count: int) -> None:
    assert parameter_count("alexnet_torchvision", width) == count


def test_the_size_is_that_of_a_file(tmp_path: Path) -> None:
    network = built("alexnet", width=20, outputs=10)
    path = saved(tmp_path / "judge.safetensors", network.state_dict())
    expected = mebibytes(parameter_count("alexnet", 20, outputs=10))
    assert path.stat().st_size / 2**20 == pytest.approx(expected, abs=0.003)


@pytest.mark.parametrize("name", ["alexnet_torchvision", "vgg16"])
def test_it_is_torchvisions_with_narrower_dense_layers(name: str) -> None:
    network, image = built(name), torch.rand(2, 3, 96, 128)
    with torch.no_grad():
        expected = published(name, network)(normalize(image, *IMAGENET))
        assert expected.std() > 1e-3
        torch.testing.assert_close(network(image), expected)


@pytest.mark.parametrize(("name", "side"), [("alexnet", 227), ("alexnet_torchvision", 224)])
def test_features_are_what_is_before_and_between_the_dense_layers(name: str, side: int) -> None:
    network, image = built(name), torch.rand(2, 3, side, side)
    with torch.no_grad():
        features = network.forward_features(image)
        maps = network.convolutions(image)
        fc6, fc7, output = (network.dense.get_submodule(layer) for layer in ("fc6", "fc7", "output"))
        torch.testing.assert_close(features["pooled"], maps.mean(dim=(2, 3)))
        torch.testing.assert_close(features["fc6"], fc6(maps.flatten(1)).relu())
        torch.testing.assert_close(features["fc7"], fc7(features["fc6"]).relu())
        torch.testing.assert_close(network(image), output(features["fc7"]))
        torch.testing.assert_close(network(image), network.dense(network.flat(image)))
    assert {key: tuple(value.shape) for key, value in features.items()} == {
        "pooled": (2, 256), "fc6": (2, 8), "fc7": (2, 8)}  # fmt: skip


def test_half_of_the_dense_nodes_are_dropped_in_training() -> None:
    torch.manual_seed(0)
    dense = judge("alexnet_torchvision", 8).dense
    seen: dict[str, Tensor] = {}
    for layer in ("fc7", "output"):
        dense.get_submodule(layer).register_forward_pre_hook(
            lambda _, given, layer=layer: seen.update({layer: given[0]})
        )
    for layer in ("fc6", "fc7"):
        nn.init.zeros_(dense.get_submodule(layer).weight)
        nn.init.ones_(dense.get_submodule(layer).bias)
    dense.train()(torch.rand(500, 9216))
    for layer in ("fc7", "output"):
        assert (seen[layer] == 0).float().mean().item() == pytest.approx(0.5, abs=0.04)
    dense.eval()(torch.rand(500, 9216))
    assert (seen["output"] != 0).all()


def test_a_network_of_timm_is_timms_pooled_vector_and_dense_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(SMALL).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    path = saved(tmp_path / "model.safetensors", model.state_dict())
    network, image = built(SMALL, outputs=5, seed=1), torch.rand(2, 3, 96, 96)
    load_judge(network, SMALL, path)
    with torch.no_grad():
        maps = model.forward_features(normalize(image, *IMAGENET))
        expected = model.forward_head(maps, pre_logits=True)
        features = network.forward_features(image)
        torch.testing.assert_close(features["pooled"], expected)
        assert expected.std() > 1e-3
        torch.testing.assert_close(network(image), network.dense(expected))
    assert network(image).shape == (2, 5)


@pytest.mark.parametrize("name", MAPS)
def test_the_smallest_picture_leaves_a_pixel(name: str) -> None:
    smallest = MAPS[name][2]
    with torch.device("meta"):
        network = judge(name, 8)
        maps = network.convolutions(torch.zeros(1, 3, smallest, smallest))
        assert maps.shape == (1, MAPS[name][0], 1, 1)
        assert network(torch.zeros(1, 3, smallest, 3 * smallest)).shape == (1, 2)
        with pytest.raises(ValueError, match=rf"pictures of \({smallest - 1}, 300\) pixels for .* takes {smallest} to"):
            network(torch.zeros(1, 3, smallest - 1, 300))
        with pytest.raises(RuntimeError, match=r"(?i)size"):  # no smaller one would do
            network.convolutions(torch.zeros(1, 3, smallest - 1, smallest - 1))


def test_a_network_for_one_size_says_so() -> None:
    with torch.device("meta"):
        network = judge("vit_tiny_patch16_224", 8)
        assert network(torch.zeros(1, 3, 224, 224)).shape == (1, 2)
        with pytest.raises(ValueError, match=r"pictures of \(224, 240\) pixels for a network that takes 224 to 224"):
            network(torch.zeros(1, 3, 224, 240))


def test_unknown_networks_and_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"'rresnet18' is none of alexnet, .*vgg16; of timm's, .*did you mean resnet18"
    ):
        judge("rresnet18")
    for numbers in ({"dense_width": 0}, {"outputs": 1}, {"dropout": 1.0}):
        with pytest.raises(ValueError, match=r"dense_width is .* wanted are at least 1, at least 2, and a number in"):
            judge("alexnet", **numbers)
