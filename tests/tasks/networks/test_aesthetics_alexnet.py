import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import alexnet
from torchvision.transforms.functional import normalize

from tasks.networks.aesthetics import alexnet_features

IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def convolutions(name: str) -> nn.Sequential:
    torch.manual_seed(0)
    network = alexnet_features(name)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    return network.eval()


def test_torchvisions_is_torchvisions() -> None:
    network, image = convolutions("alexnet_torchvision"), torch.rand(2, 3, 224, 224)
    with torch.device("meta"):  # its dense layers nowhere in memory
        model = alexnet()
    missing, unexpected = model.load_state_dict(network.features.state_dict(), strict=False, assign=True)
    assert unexpected == []
    assert all(key.startswith("classifier.") for key in missing)
    with torch.no_grad():
        torch.testing.assert_close(network(image), model.features(normalize(image, *IMAGENET)))


def test_the_single_column_is_what_functional_calls_make_of_its_weights() -> None:
    network, image = convolutions("alexnet"), torch.rand(1, 3, 227, 227)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    sides = []

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


@pytest.mark.parametrize(("name", "count"), [("alexnet", 3_747_200), ("alexnet_torchvision", 2_469_696)])
def test_parameters_are_counted(name: str, count: int) -> None:
    with torch.device("meta"):
        network = alexnet_features(name)
    assert sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad) == count


def test_what_it_starts_with_does_not_fade_with_depth() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        maps = alexnet_features("alexnet")(torch.rand(2, 3, 227, 227))
    assert 0.1 < maps.std().item() < 10
