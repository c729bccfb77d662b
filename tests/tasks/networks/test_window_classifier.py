import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import normalize, to_tensor

from tasks.networks import backbones
from tasks.networks.backbones import feature_extractor, load_features
from tasks.networks.window_classifier import SMALLEST, fill_projection, is_filled, projection, window_classifier
from tests.checks import rejects
from tests.tasks.networks.helpers import (
    IMAGENET,
    compare_dense,
    real_weights,
    settle,
    torchvisions_features,
    trained,
    without_gradient,
)

EXTRACTORS = ("vgg16", "resnet50", "inception_resnet_v2")


@cache
def on_meta(name: str, window: int, channels: int = 3) -> nn.Sequential:
    with torch.device("meta"):
        return window_classifier(name, window, channels)


@pytest.mark.parametrize(
    ("name", "window", "channels", "count"),
    [
        ("cnn1d", 17, 1, 61_441),
        ("cnn1d", 17, 3, 67_969),
        ("cnn1d", 33, 3, 142_721),
        ("cnn2d", 17, 1, 61_345),
        ("cnn2d", 17, 3, 61_921),
        ("cnn2d", 33, 3, 324_065),
        ("vgg16", 33, 3, 14_714_688 + 513),
        ("resnet50", 33, 3, 23_510_081),
        ("inception_resnet_v2", 75, 3, 54_308_001),
    ],
)
def test_parameters_are_counted_and_all_get_a_gradient(name: str, window: int, channels: int, count: int) -> None:
    network = on_meta(name, window, channels)
    assert trained(network) == count
    logits = network(torch.zeros(2, 3, window, window, device="meta"))
    assert logits.shape == (2, 1)
    logits.sum().backward()
    assert without_gradient(network) == []


@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_window_leaves_a_pixel(name: str) -> None:
    window = SMALLEST[name]
    smallest, smaller = (torch.zeros(2, 3, side, side, device="meta") for side in (window, window - 1))
    assert on_meta(name, window)(smallest).shape == (2, 1)
    rejects(f"too small for {name}, which needs {window}", window_classifier, name, window - 1)
    if name in ("vgg16", "inception_resnet_v2"):
        rejects("(?i)size", on_meta(name, window), smaller, error=RuntimeError)


def test_rejects_wrong_arguments() -> None:
    rejects("'cnn3d' is unknown.* cnn1d, cnn2d", window_classifier, "cnn3d", 17)
    rejects("'vgg17' is unknown", feature_extractor, "vgg17")
    rejects("3 channels, .* got 2 for cnn2d", window_classifier, "cnn2d", 17, 2)
    rejects("3 channels, .* got 1 for vgg16", window_classifier, "vgg16", 33, 1)
    for name in SMALLEST.keys() - {"cnn1d"}:
        rejects(f"components need the network cnn1d, got {name}", window_classifier, name, 76, components=9)
    for components in (0, 301, -1):
        rejects(rf"1 to 300 components .*, got {components}", projection, 3, components, 10)
    for call in (lambda network: fill_projection(network, [drawn(9, 10)]), is_filled):
        rejects("no projection", call, window_classifier("cnn1d", 10))


def test_cnn1d_slides_along_the_rows() -> None:
    torch.manual_seed(0)
    network = settle(window_classifier("cnn1d", 17))
    first, second = (layer for layer in network if isinstance(layer, nn.Conv2d))
    before, after = (layer for layer in network if isinstance(layer, nn.BatchNorm2d))
    dense, last = (layer for layer in network if isinstance(layer, nn.Linear))
    window = torch.rand(4, 3, 17, 17)
    rows = (2 * window - 1).transpose(2, 3).flatten(1, 2)  # (B, C · W, H): a sequence of rows
    kernel = first.weight.transpose(2, 3).flatten(1, 2)
    maps = F.max_pool1d(F.relu(before(F.conv1d(rows, kernel, first.bias)[..., None])[..., 0]), 2)
    maps = F.max_pool1d(F.relu(after(F.conv1d(maps, second.weight[..., 0], second.bias)[..., None])[..., 0]), 2)
    torch.testing.assert_close(network(window), last(F.relu(dense(maps.flatten(1)))))


def test_cnn2d_is_what_functional_calls_make_of_its_weights() -> None:
    torch.manual_seed(0)
    network = settle(window_classifier("cnn2d", 33))
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in network if isinstance(layer, nn.BatchNorm2d)]
    dense, last = (layer for layer in network if isinstance(layer, nn.Linear))
    assert [layer.p for layer in network if isinstance(layer, nn.Dropout)] == [0.5]
    window = torch.rand(2, 3, 33, 33)
    maps = 2 * window - 1
    for place, (convolution, norm) in enumerate(zip(convolutions, norms, strict=True)):
        maps = F.relu(norm(F.conv2d(maps, convolution.weight, convolution.bias)))
        maps = maps if place == 0 else F.max_pool2d(maps, 2)
    assert maps.shape == (2, 64, 6, 6)
    torch.testing.assert_close(network(window), last(F.relu(dense(maps.flatten(1)))))


@pytest.mark.parametrize("name", ["cnn1d", "cnn2d"])
def test_a_network_of_one_channel_averages_the_batchs_three(name: str) -> None:
    torch.manual_seed(0)
    network = window_classifier(name, 17, channels=1).eval()
    window = torch.rand(2, 3, 17, 17)
    grey = ((window[:, :1] + window[:, 1:2] + window[:, 2:]) / 3).expand(-1, 3, -1, -1)
    torch.testing.assert_close(network(grey), network(window))
    torch.testing.assert_close(network[1](network[0](window)), 2 * grey[:, :1] - 1)
    assert not torch.allclose(network(window), network(window.flip(3)), atol=1e-4)


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "resnet50_v1"])
def test_pretrained_networks_are_torchvisions_features_and_a_linear_layer(name: str) -> None:
    torch.manual_seed(0)
    network = settle(window_classifier(name, 33))
    weights = network[0].features.state_dict()
    image = torch.rand(2, 3, 33, 33)
    card = (IMAGENET[0], (1 / 255,) * 3) if name == "resnet50_v1" else IMAGENET
    with torch.no_grad():
        maps = torchvisions_features(name, dict(weights))(normalize(image, *card))
        assert maps.std() > 0
        torch.testing.assert_close(network(image), network[-1](maps.flatten(2).mean(2) if maps.ndim == 4 else maps))
        torch.testing.assert_close(network[:-1](image), maps.flatten(1))


def test_inception_resnet_v2_has_the_layers_of_timm_and_the_encoder() -> None:
    features = on_meta("inception_resnet_v2", 75)[0].features
    with torch.device("meta"):
        encoder = backbones.encoder_of(backbones.segmentation_network("unet", "inceptionresnetv2", 1))
        stock = timm.create_model("inception_resnet_v2")
    shapes = {key: value.shape for key, value in features.state_dict().items()}
    assert shapes == {key: value.shape for key, value in encoder.state_dict().items()}
    assert shapes == {key: value.shape for key, value in stock.state_dict().items() if not key.startswith("classif")}
    image = torch.zeros(1, 3, 299, 299, device="meta")
    assert features(image).shape == stock.forward_features(image).shape == (1, 1536, 8, 8)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_windows_are_normalized_as_the_weights_want_them(name: str) -> None:
    card = timm.get_pretrained_cfg(name)
    image = torch.rand(1, 3, 4, 4)
    normalized = feature_extractor(name).normalize(image)
    wanted = normalize(image, list(card.mean), list(card.std))
    if name == "resnet50_v1":  # keras.applications' mode "caffe", of RGB
        wanted = 255 * image - torch.tensor([123.68, 116.779, 103.939]).view(3, 1, 1)
    torch.testing.assert_close(normalized, wanted, atol=0.01 if name == "resnet50_v1" else 1e-5, rtol=0)


def test_random_vgg16_lets_its_signal_through() -> None:
    torch.manual_seed(0)
    network = window_classifier("vgg16", 33).eval()
    with torch.no_grad():
        assert network[0](torch.rand(4, 3, 33, 33)).std() > 0.05  # PyTorch's own start leaves 1e-3


@pytest.mark.parametrize(("window", "channels", "values"), [(17, 1, 289), (17, 3, 867), (33, 3, 3267)])
def test_cnn1d_takes_as_many_components_as_a_window_has_values(window: int, channels: int, values: int) -> None:
    with torch.device("meta"):
        network = window_classifier("cnn1d", window, channels, components=values)
    assert trained(network) == 128 * values + 257
    assert network(torch.zeros(2, 3, window, window, device="meta")).shape == (2, 1)
    for components in (0, values + 1):
        message = f"1 to {values} components of windows .*, got {components}"
        rejects(message, window_classifier, "cnn1d", window, channels, components=components)


@pytest.mark.parametrize(("name", "encoder"), [("vgg16", "vgg16"), ("inception_resnet_v2", "inceptionresnetv2")])
def test_loads_weights_by_the_encoders_name(monkeypatch: pytest.MonkeyPatch, name: str, encoder: str) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(backbones, "load_weights", lambda *arguments: asked.append(arguments))
    network = on_meta(name, 75)
    load_features(network[0], name, True)
    assert asked == [(network[0].features, encoder, True)]


@pytest.mark.real
@pytest.mark.parametrize(("name", "file"), [("vgg16", "vgg16_features_fp16"), ("resnet50", "resnet50_fp16")])
def test_real_weights_give_torchvisions_features_of_a_window(real_data: Path, name: str, file: str) -> None:
    path = real_weights(real_data, f"{file}.safetensors")
    picture = Image.open(min((real_data / "roads" / "images").iterdir())).convert("RGB")
    image = to_tensor(picture)[None, :, 100:133, 100:133]
    network = window_classifier(name, 33).eval()
    load_features(network[0], name, path)
    reference = torchvisions_features(name, {key: value.float() for key, value in load_file(path).items()})
    with torch.no_grad():
        maps = reference(normalize(image, *IMAGENET))
        torch.testing.assert_close(network[:-1](image), maps.flatten(1))
        assert maps.std() > 0.01


def drawn(count: int, window: int, seed: int = 0) -> Tensor:
    """Windows uint8 (count, 3, window, window) that are smooth, so that few components hold most of them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    noise = torch.randint(-20, 21, (count, 3, window, window), generator=generator)
    return (200 * F.interpolate(coarse, (window, window), mode="bilinear") + 25 + noise).to(torch.uint8)


def filled(window: int, channels: int, components: int, windows: Tensor) -> nn.Sequential:
    torch.manual_seed(0)
    network = window_classifier("cnn1d", window, channels, components)
    fill_projection(network, windows.split(100))
    return network


def projected(network: nn.Sequential, windows: Tensor) -> Tensor:
    place = next(place for place, layer in enumerate(network) if isinstance(layer, nn.Conv2d))
    return network[: place + 1](windows.float() / 255).flatten(1)


@pytest.mark.parametrize(("window", "channels", "components"), [(17, 3, 9), (17, 1, 20), (12, 3, 432), (33, 1, 9)])
def test_windows_are_projected_on_unit_components(window: int, channels: int, components: int) -> None:
    windows = drawn(600, window)
    with torch.no_grad():
        found = projected(filled(window, channels, components, windows), windows).double()
    assert found.shape == (600, components)
    values = windows.double() if channels == 3 else windows.double().mean(dim=1)
    left, _, _ = np.linalg.svd((values - values.mean(dim=0)).flatten(1).numpy(), full_matrices=False)
    expected = left[:, :components] * 599**0.5  # of variance 1
    signs = np.sign((found.numpy() * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected * signs, atol=2e-3)
    np.testing.assert_allclose(found.mean(dim=0), 0, atol=1e-3)
    np.testing.assert_allclose(torch.cov(found.T), np.eye(components), atol=1e-3)


def test_filling_returns_the_share_of_the_variance() -> None:
    windows = drawn(300, 10)
    variances = np.linalg.eigvalsh(np.cov(windows.flatten(1).numpy().T))[::-1]
    for components in (1, 12, 300):
        network = window_classifier("cnn1d", 10, 3, components)
        share = fill_projection(network, [windows])
        assert share == pytest.approx(variances[:components].sum() / variances.sum(), abs=1e-6)
    assert share == pytest.approx(1)


@pytest.mark.parametrize(
    ("window", "channels"), [(17, 3), (17, 1), (33, 1), pytest.param(33, 3, marks=pytest.mark.slow)]
)
def test_the_dense_form_equals_the_network_on_every_window(window: int, channels: int) -> None:
    network = filled(window, channels, 6, drawn(300, window)).double().eval()
    image = torch.rand(3, window + 3, window + 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert compare_dense(network, image, window, single=1e-5).std() > 1e-2


def test_the_projection_is_not_trained_and_the_rest_is() -> None:
    network = filled(10, 3, 5, drawn(200, 10))
    before = copy.deepcopy(network.state_dict())
    assert trained(network) == 128 * 5 + 257
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, weight_decay=1)
    network.train()
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.rand(8, 3, 10, 10)).sum().backward()
        optimizer.step()
    same = {key for key, value in network.state_dict().items() if torch.equal(value, before[key])}
    assert same == {"1.weight", "1.bias"}


def test_checkpoints_contain_the_projection() -> None:
    network = filled(10, 1, 5, drawn(200, 10)).eval()
    other = window_classifier("cnn1d", 10, 1, 5).eval()
    assert (is_filled(network), is_filled(other)) == (True, False)
    other.load_state_dict(network.state_dict())
    assert is_filled(other)
    image = torch.rand(4, 3, 10, 10)
    assert torch.equal(other(image), network(image))


def test_filling_with_bytes_equals_filling_with_floats() -> None:
    windows = drawn(300, 11)
    first, second, third = (filled(11, 3, 6, each) for each in (windows, windows.float() / 255, windows))
    for left, right, again in zip(*(each.state_dict().values() for each in (first, second, third)), strict=True):
        assert torch.equal(left, right)
        assert torch.equal(left, again)
    fill_projection(first, [drawn(300, 11, seed=1)])
    assert not torch.equal(first[1].weight, second[1].weight)


def test_components_without_variance_stay_zero() -> None:
    grey = drawn(500, 10)[:, :1].expand(-1, 3, -1, -1)  # 100 of 300
    found = projected(filled(10, 3, 120, grey), grey)
    assert found.isfinite().all()
    np.testing.assert_allclose(found[:, :100].var(dim=0), 1, atol=1e-3)
    assert not found[:, 100:].any()
    flat = window_classifier("cnn1d", 10, 3, 4)
    assert fill_projection(flat, [torch.full((9, 3, 10, 10), 77, dtype=torch.uint8)]) == 0
    assert not is_filled(flat)
