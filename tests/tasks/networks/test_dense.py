import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ops.errors import NoDenseFormError
from tasks.networks.dense import DenseForm
from tasks.networks.layers import Normalize
from tasks.networks.window_classifier import window_classifier
from tests.checks import rejects
from tests.tasks.networks.helpers import compare_dense, settle

Layers = Callable[[int], list[nn.Module]]

# Convolutions and poolings before the dense layers, given the window, with all that may leave a remainder out.
MAPS: dict[str, Layers] = {
    "two poolings": lambda _: [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3), nn.MaxPool2d(2)],
    "three poolings": lambda _: [nn.Conv2d(3, 4, 2), nn.MaxPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(2)],
    "poolings that overlap": lambda _: [nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 2), nn.Conv2d(4, 4, 2), nn.MaxPool2d(2, 3)],
    "strides": lambda _: [nn.Conv2d(3, 4, 3, stride=2), nn.SiLU(), nn.Conv2d(4, 4, 2, stride=3)],
    "dilation and groups": lambda _: [nn.Conv2d(3, 6, 2, dilation=3), nn.Conv2d(6, 4, 3, 2, dilation=2, groups=2)],
    "means": lambda _: [nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 2), nn.AvgPool2d(3, 2)],
    "mean of the map": lambda _: [nn.Conv2d(3, 4, 3, stride=2), nn.GELU(), nn.AdaptiveAvgPool2d(1)],
    "oblong": lambda w: [nn.Conv2d(3, 4, (3, w)), nn.MaxPool2d((2, 1)), nn.Conv2d(4, 4, (2, 1), stride=(3, 1))],
    "normalisation": lambda _: [nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ELU(),
                                nn.MaxPool2d(2, dilation=2), nn.BatchNorm2d(4, eps=0.1, affine=False)],
    "nested": lambda _: [nn.Sequential(Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)), nn.Sequential(nn.Conv2d(3, 4, 3))),
                         nn.Dropout2d(0.5), nn.MaxPool2d(2), nn.Identity(), nn.PReLU()],
    "none": lambda _: [],
}  # fmt: skip


def classifier(layers: list[nn.Module], window: int) -> nn.Sequential:
    """The layers with dense layers behind, in double precision."""
    torch.manual_seed(0)
    convolutions = nn.Sequential(*layers)
    values = convolutions.eval()(torch.zeros(1, 3, window, window)).flatten(1).shape[1]
    head = [nn.Flatten(), nn.Dropout(0.5), nn.Linear(values, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2)]
    return settle(nn.Sequential(convolutions, *head)).double()


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("window", range(15, 36))
def test_the_dense_form_equals_the_classifier_on_every_window(name: str, window: int) -> None:
    network = classifier(MAPS[name](window), window)
    expected = compare_dense(network, torch.rand(3, window + 5, window + 4, dtype=torch.float64), window)
    assert expected.std(dim=(2, 3)).min() > 1e-4  # windows differ by far more than the tolerances


@pytest.mark.parametrize(
    ("name", "window", "channels"),
    [("cnn1d", 17, 3), ("cnn1d", 33, 3), ("cnn2d", 17, 1), ("cnn2d", 17, 3), ("cnn2d", 24, 3), ("cnn2d", 33, 3)],
)
def test_our_own_networks_have_dense_forms(name: str, window: int, channels: int) -> None:
    torch.manual_seed(0)
    network = settle(window_classifier(name, window, channels)).double()
    image = torch.rand(3, window + 4, window + 6, dtype=torch.float64)
    assert compare_dense(network, image, window).std() > 5e-4
    features = network.double()[:-1]
    compare_dense(features, image, window)


def test_the_dense_form_follows_its_classifier() -> None:
    network = classifier(MAPS["normalisation"](17), 17)
    dense = DenseForm(network, 17)
    assert [id(parameter) for parameter in dense.parameters()] == [id(parameter) for parameter in network.parameters()]
    image = torch.rand(8, 3, 17, 17, dtype=torch.float64)
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = dense(image)
    network(image).square().mean().backward()
    optimizer.step()
    network.eval()
    assert not torch.allclose(dense(image), before, atol=1e-3)
    torch.testing.assert_close(dense(image).flatten(1), network(image))


def test_copies_have_their_own_parameters() -> None:
    dense = DenseForm(classifier(MAPS["nested"](17), 17), 17)
    image = torch.rand(1, 3, 18, 19, dtype=torch.float64)
    twin, before = copy.deepcopy(dense), dense(image)
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.zero_()
    assert torch.equal(twin(image), before)
    assert not dense(image).any()


def test_training_mode_changes_nothing() -> None:
    network = classifier(MAPS["normalisation"](17), 17)
    dense, image = DenseForm(network, 17), torch.rand(2, 3, 18, 18, dtype=torch.float64)
    before, buffers = dense(image), copy.deepcopy(dict(network.named_buffers()))
    assert torch.equal(dense.train()(image), before)
    assert all(torch.equal(value, buffers[name]) for name, value in network.named_buffers())


class Backwards(nn.Sequential):
    def forward(self, image: Tensor) -> Tensor:
        for layer in reversed(self):
            image = layer(image)
        return image


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(3, 4, 3, padding=1), "layer 0, Conv2d.*, pads: .* at a stride of 2 or 4"),
        (nn.Conv2d(3, 4, 3, padding="same"), "layer 0, Conv2d.*, pads"),
        (nn.Conv2d(3, 4, 3, padding=(0, 1)), "layer 0, Conv2d.*, pads"),
        (nn.MaxPool2d(2, padding=1), "layer 0, MaxPool2d.*, pads"),
        (nn.AvgPool2d(2, padding=1), "layer 0, AvgPool2d.*, pads"),
        (nn.MaxPool2d(2, ceil_mode=True), "layer 0, MaxPool2d.*, pads"),
        (nn.ZeroPad2d(1), "layer 0, ZeroPad2d.*, pads"),
        (nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1)), "layer 0.1, Conv2d.*, pads"),
        (nn.ModuleDict({"stem": nn.Conv2d(3, 4, 3, padding=1)}), "layer 0.stem, Conv2d.*, pads"),
        (nn.GroupNorm(1, 3), "layer 0, GroupNorm, has no known dense form"),
        (nn.BatchNorm2d(3, track_running_stats=False), "layer 0, BatchNorm2d, has no known dense form"),
        (nn.AdaptiveAvgPool2d(2), "layer 0, AdaptiveAvgPool2d, has no known dense form"),
        (nn.AvgPool2d(2, divisor_override=3), "layer 0, AvgPool2d, has no known dense form"),
        (nn.Flatten(2), "layer 0, Flatten, has no known dense form"),
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(867)), "layer 0.1, BatchNorm1d, has no known dense form"),
        (Backwards(nn.ReLU(), nn.Conv2d(3, 4, 3)), "layer 0, Backwards, has no known dense form"),
        (nn.Conv2d(3, 4, 3), "ends in maps of 15 x 15"),
    ],
)
def test_rejects_layers_without_a_dense_form(layer: nn.Module, message: str) -> None:
    rejects(message, DenseForm, nn.Sequential(layer), 17, error=NoDenseFormError)


def test_rejects_padded_classifiers_and_other_sizes() -> None:
    for name, layer in [("vgg16", "features.0"), ("resnet50", "conv1"), ("inception_resnet_v2", "conv2d_2b.conv")]:
        with torch.device("meta"):
            network = window_classifier(name, 76)
        rejects(rf"layer 0.features.{layer}, Conv2d.*, pads", DenseForm, network, 76, error=NoDenseFormError)
    for window in (5, 13, 20):
        network = classifier(MAPS["two poolings"](17), 17)
        rejects(rf"windows of {window} x {window}", DenseForm, network, window)
    dense = DenseForm(classifier(MAPS["strides"](17), 17), 17)
    rejects("at least 17 x 17, the window, got 16 x 40", dense, torch.rand(1, 3, 16, 40, dtype=torch.float64))
