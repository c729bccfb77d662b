import math
from pathlib import Path
from urllib.error import URLError

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import alexnet, vgg16
from torchvision.transforms.functional import normalize

from ops.errors import WeightsError
from tasks.networks import aesthetics
from tasks.networks.aesthetics import MAPS, Judge, judge, load_judge
from tests.checks import rejects, rejects_weights
from tests.tasks.networks.helpers import IMAGENET, convolutions, saved

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


def published(name: str, network: Judge) -> nn.Module:
    """torchvision's own network, with the weights of ours and dense layers as wide."""
    with torch.device("meta"):  # what is replaced nowhere in memory
        model = (vgg16 if name == "vgg16" else alexnet)()
    linear = [place for place, layer in enumerate(model.classifier) if isinstance(layer, nn.Linear)]
    for place, layer in zip(linear, ("fc6", "fc7", "output"), strict=True):
        model.classifier[place] = network.dense.get_submodule(layer)
    model.load_state_dict(network.convolutions[-1].state_dict(), strict=False, assign=True)
    return model.eval()


def parameter_count(network: str, dense_width: int, outputs: int = 2) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in judge(network, dense_width, outputs).parameters())


def mebibytes(parameters: int) -> float:
    return parameters * 4 / 2**20


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
def test_features_are_the_inputs_of_the_dense_layers(name: str, side: int) -> None:
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


def test_maps_pooled_to_one_pixel_are_the_mean_of_each_channel() -> None:
    network = judge("alexnet_torchvision", 8, pool_side=1).eval()
    image = torch.rand(2, 3, 224, 160)
    with torch.no_grad():
        maps = network.convolutions(image)
        torch.testing.assert_close(network.flat(image), maps.mean(dim=(2, 3)))
        torch.testing.assert_close(network(image), network.dense(maps.mean(dim=(2, 3))))
        torch.testing.assert_close(network.forward_features(image)["pooled"], maps.mean(dim=(2, 3)))


@pytest.mark.parametrize(("name", "side", "count"), [("alexnet_torchvision", 1, 2_597_198), ("vgg16", 1, 14_906_190),
                                                     ("vgg16", 7, 21_050_190)])  # fmt: skip
def test_parameters_of_pooled_maps_are_counted(name: str, side: int, count: int) -> None:
    with torch.device("meta"):
        assert sum(each.numel() for each in judge(name, 250, pool_side=side).parameters()) == count


@pytest.mark.parametrize(("name", "side"), [("alexnet", 7), ("vgg16", 0), (SMALL, 2)])
def test_maps_are_not_pooled_to_more_than_there_is(name: str, side: int) -> None:
    rejects(f"pool_side is {side} for {name}", judge, name, pool_side=side)


def test_half_of_the_dense_nodes_are_dropped_in_training() -> None:
    dense = [layer for layer in judge("alexnet_torchvision", 8).dense if not isinstance(layer, nn.Flatten)]
    kinds = [type(layer) for layer in dense if not isinstance(layer, nn.ReLU)]
    assert kinds == [nn.Linear, nn.Dropout, nn.Linear, nn.Dropout, nn.Linear]
    assert [layer.p for layer in dense if isinstance(layer, nn.Dropout)] == [0.5, 0.5]


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
def test_the_smallest_image_leaves_a_pixel(name: str) -> None:
    smallest = MAPS[name][2]
    with torch.device("meta"):
        network = judge(name, 8)
        maps = network.convolutions(torch.zeros(1, 3, smallest, smallest))
        assert maps.shape == (1, MAPS[name][0], 1, 1)
        assert network(torch.zeros(1, 3, smallest, 3 * smallest)).shape == (1, 2)
        rejects(rf"{smallest} to inf .*\({smallest - 1}, 300\)", network, torch.zeros(1, 3, smallest - 1, 300))
        rejects(r"(?i)size", network.convolutions, torch.zeros(1, 3, smallest - 1, smallest - 1), error=RuntimeError)


def test_rejects_wrong_arguments_and_sizes() -> None:
    rejects("'rresnet18'.*did you mean resnet18", judge, "rresnet18")
    for numbers in ({"dense_width": 0}, {"outputs": 1}, {"dropout": 1.0}):
        rejects("expected dense_width of at least 1", judge, "alexnet", **numbers)
    with torch.device("meta"):
        network = judge("vit_tiny_patch16_224", 8)
        assert network(torch.zeros(1, 3, 224, 224)).shape == (1, 2)
        rejects(r"224 to 224 .* got \(224, 240\)", network, torch.zeros(1, 3, 224, 240))


def test_rejects_unavailable_weights(tmp_path: Path) -> None:
    path = saved(tmp_path / "features.safetensors", built("alexnet").convolutions[-1].state_dict())
    for name, pretrained, message in [
        ("alexnet_torchvision", path, r"does not fit.*features\.0\.weight"),
        (SMALL, path, f"does not fit.*{SMALL}.*timm's keys"),
        ("alexnet", True, "Nobody publishes .*alexnet_torchvision"),
        ("convnext_atto_rms", True, "no weights of convnext_atto_rms.*freeze_conv"),
        ("alexnet", None, r"model\.pretrained .* got None"),
    ]:
        rejects_weights(message, load_judge, built(name), name, pretrained)
    for name, width, pretrained in [("vgg16", 250, True), (SMALL, 4096, True), ("vgg16", 4096, False)]:
        with torch.device("meta"):
            network = judge(name, width)
        message = f"{name}, {width} units.*{pretrained}"
        rejects_weights(message, load_judge, network, name, pretrained, keep_dense_weights=True)
    with torch.device("meta"):
        network = judge("vgg16", 4096, pool_side=1)
    rejects_weights("pool_side null.*512 inputs", load_judge, network, "vgg16", True, keep_dense_weights=True)


def test_the_single_column_is_what_functional_calls_make_of_its_weights() -> None:
    torch.manual_seed(0)
    network, image = judge("alexnet", 8).convolutions.eval(), torch.rand(1, 3, 227, 227)
    layers, sides = convolutions(network), []
    for layer in layers:
        nn.init.uniform_(layer.bias, -0.5, 0.5)

    def convolved(index: int, maps: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
        maps = F.relu(F.conv2d(maps, layers[index].weight, layers[index].bias, stride, padding))
        sides.append(maps.shape[-1])
        return maps

    with torch.no_grad():
        maps = F.max_pool2d(convolved(0, normalize(image, *IMAGENET), stride=4, padding=0), 3, 2)
        maps = F.max_pool2d(convolved(1, maps, padding=2), 3, 2)
        maps = F.max_pool2d(convolved(4, convolved(3, convolved(2, maps))), 3, 2)
        torch.testing.assert_close(network(image), maps)
    assert sides == [55, 27, 13, 13, 13]
    assert maps.shape == (1, 256, 6, 6)


def test_each_build_draws_new_weights_on_the_cpu() -> None:
    one, other = (judge("alexnet_torchvision", 8).convolutions.state_dict() for _ in range(2))
    assert all(value.isfinite().all() and value.device.type == "cpu" for value in one.values())
    assert not torch.equal(one["features.features.0.weight"], other["features.features.0.weight"])


def test_initial_weights_keep_the_signal() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        maps = judge("alexnet", 8).convolutions(torch.rand(2, 3, 227, 227))
    assert 0.1 < maps.std().item() < 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_convolutions_are_filled_from_a_file_and_dense_layers_are_not(tmp_path: Path, dtype: torch.dtype) -> None:
    given, network = built("alexnet_torchvision"), built("alexnet_torchvision", seed=1)
    before = network.dense.fc6.weight.clone()
    weights = {key: value.to(dtype) for key, value in given.convolutions[-1].state_dict().items()}
    load_judge(network, "alexnet_torchvision", saved(tmp_path / "features.safetensors", weights))
    for key, value in network.convolutions[-1].state_dict().items():
        torch.testing.assert_close(value, weights[key].float(), atol=0, rtol=0)
    assert torch.equal(network.dense.fc6.weight, before)
    load_judge(network, "alexnet_torchvision", pretrained=False)
    assert torch.equal(network.convolutions[-1].features[0].weight, weights["features.0.weight"].float())


def test_dense_layers_can_be_kept_where_they_are_as_wide_as_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aesthetics, "PUBLISHED_WIDTH", 8)
    name, image = "alexnet_torchvision", torch.rand(2, 3, 224, 224)
    model = published(name, built(name))
    path = saved(tmp_path / "model.safetensors", model.state_dict())
    network = built(name, seed=1)
    load_judge(network, name, path, keep_dense_weights=True)
    with torch.no_grad():
        fc7 = model.classifier[:-1](model.features(normalize(image, *IMAGENET)).flatten(1))
        torch.testing.assert_close(network.forward_features(image)["fc7"], fc7)
    saved(path, {key: value for key, value in model.state_dict().items() if key.startswith("features.")})
    rejects_weights(r"nothing under classifier\.1", load_judge, network, name, path, keep_dense_weights=True)
    saved(path, model.state_dict() | {"classifier.4.weight": torch.zeros(8, 9)})
    rejects_weights(r"\(8, 9\).*under classifier\.4", load_judge, network, name, path, keep_dense_weights=True)


def test_missing_hub_weights_suggest_training_the_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(repository: str, revision: str | None, name: str) -> Path:
        raise WeightsError(f"{name} is not available. To start from random weights: --model.pretrained false.")

    monkeypatch.setattr(aesthetics, "hub_weights", refuse)
    rejects_weights(r"--model\.freeze_convolutions false\.$", load_judge, built(SMALL), SMALL, pretrained=True)


def test_weights_come_from_torchs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(address: str, timeout: float) -> None:
        raise URLError(f"no way to {address} within {timeout:.0f} s")

    monkeypatch.setattr(aesthetics, "urlopen", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    name = "alexnet_torchvision"
    given, network = built(name), built(name, seed=1)
    path = tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth"
    rejects_weights(
        rf"not at {path} and cannot be fetched .*no way.*--model.pretrained path"
        r".*--model\.pretrained false --model\.freeze_convolutions false\.$",
        load_judge,
        network,
        name,
        pretrained=True,
    )
    path.parent.mkdir()
    torch.save(given.convolutions[-1].state_dict(), path)
    load_judge(network, name, pretrained=True)
    assert torch.equal(network.convolutions[-1].features[10].bias, given.convolutions[-1].features[10].bias)
    assert torch.equal(network.convolutions[-1].features[10].weight, given.convolutions[-1].features[10].weight)


def test_kerass_resnet_is_a_network_of_timm_with_its_own_normalization() -> None:
    with torch.device("meta"):
        network = judge("resnet50_v1", 8)
    normalize, classifier = network.convolutions
    assert normalize.std.shape == (1, 3, 1, 1)
    assert classifier.layer2[0].conv1.stride == (2, 2)
    assert classifier.layer2[0].conv2.stride == (1, 1)
    rejects_weights("no weights of resnet50_v1", load_judge, network, "resnet50_v1", True)
