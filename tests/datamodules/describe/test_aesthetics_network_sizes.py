import math

import pytest
import torch
import torchvision

from datamodules.describe.aesthetics import CONVOLUTIONS, PRINTED, WIDTHS, network_size, network_sizes
from tasks.networks import aesthetics

# architectures.md: counted on other networks, and what the paper's files would weigh.
COUNTED = {
    ("alexnet", 4096): (58_289_538, 222.357),
    ("alexnet", 1000): (13_967_202, 53.281),
    ("alexnet", 500): (8_607_202, 32.834),
    ("alexnet", 250): (6_114_702, 23.326),
    ("alexnet_torchvision", 4096): (57_012_034, 217.5),
    ("alexnet_torchvision", 1000): (12_689_698, 48.4),
    ("alexnet_torchvision", 500): (7_329_698, 28.0),
    ("alexnet_torchvision", 250): (4_837_198, 18.5),
    ("vgg16", 4096): (134_268_738, 512.195),
    ("vgg16", 1000): (40_806_690, 155.665),
    ("vgg16", 500): (27_510_690, 104.945),
    ("vgg16", 250): (21_050_190, 80.300),
}


def test_sizes_are_those_that_were_counted() -> None:
    found = {(size.network, size.dense_width): size for size in network_sizes()}
    assert {key: size.parameters for key, size in found.items()} == {key: count for key, (count, _) in COUNTED.items()}
    for key, (_, mebibytes) in COUNTED.items():
        assert found[key].mebibytes == pytest.approx(mebibytes, abs=0.05)


def test_the_networks_themselves_are_as_large() -> None:
    for size in [*network_sizes(), network_size("vgg16", 77, outputs=10), network_size("alexnet", 3, outputs=5)]:
        outputs = {77: 10, 3: 5}.get(size.dense_width, 2)
        assert aesthetics.parameter_count(size.network, size.dense_width, outputs) == size.parameters
        assert aesthetics.mebibytes(size.parameters) == size.mebibytes


def test_torchvisions_convolutions_are_as_large() -> None:
    for network, name in (("alexnet_torchvision", "alexnet"), ("vgg16", "vgg16")):
        with torch.device("meta"):
            features = torchvision.models.get_model(name, weights=None).features
        assert sum(parameter.numel() for parameter in features.parameters()) == sum(
            channels * inputs * kernel**2 + channels for inputs, channels, kernel in CONVOLUTIONS[network]
        )


def test_what_the_paper_prints_follows_from_them() -> None:
    for network, rows in PRINTED.items():
        for width, (millions, megabytes) in rows.items():
            size = network_size(network, width)
            assert math.ceil(size.mebibytes + 0.1) == megabytes  # a file has some 0.1 MiB around the weights
            # 60 million is what is usually said of AlexNet
            assert size.parameters / 1e6 == pytest.approx(millions, abs=2 if millions == 60 else 0.5)
        assert tuple(rows) == WIDTHS


@pytest.mark.parametrize("wrong", [("vgg19", 250, 2), ("vgg16", 0, 2), ("vgg16", 250, 0)])
def test_other_networks_are_refused(wrong: tuple[str, int, int]) -> None:
    with pytest.raises(ValueError, match=r"one of alexnet, alexnet_torchvision, vgg16 and 1 node or more were wanted"):
        network_size(*wrong)
