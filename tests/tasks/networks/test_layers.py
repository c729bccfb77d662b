import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import normalize

from tasks.networks.layers import AnySize, Normalize, remove_unused


class Strided(nn.Module):
    """Halves and doubles `halvings` times, as a decoder with skips would; notes the sizes that it is given."""

    def __init__(self, halvings: int) -> None:
        super().__init__()
        self.halvings = halvings
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(image)
        assert image.shape[-2] % 2**self.halvings == image.shape[-1] % 2**self.halvings == 0
        small = F.avg_pool2d(image, 2**self.halvings)
        return F.interpolate(small, scale_factor=2**self.halvings)[:, :1]


class WithSpare(nn.Module):
    """Uses half of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.spare = nn.Conv2d(4, 8, 3)
        self.mixed = nn.ModuleDict({"used": nn.Conv2d(4, 2, 1), "spare": nn.Linear(2, 2)})

    def forward(self, image: Tensor) -> Tensor:
        output: Tensor = self.mixed["used"](self.used(image))
        return output


def test_normalize_is_torchvisions() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    image = torch.rand(2, 3, 5, 7)
    torch.testing.assert_close(Normalize(mean, std)(image), normalize(image, list(mean), list(std)))


def test_normalize_moves_with_the_network_but_has_no_state() -> None:
    layer = Normalize((0.5,), (0.25,)).to(torch.float64)
    assert layer(torch.ones(1, 1, 1, 1, dtype=torch.float64)).item() == 2
    assert layer.mean.dtype == torch.float64
    assert layer.state_dict() == {}  # a checkpoint keeps the encoder's name, and so its card


@pytest.mark.parametrize("size", [(1, 1), (33, 97), (64, 33), (31, 32)])
def test_any_size_comes_back(size: tuple[int, int]) -> None:
    network = Strided(5)
    assert AnySize(network, 32)(torch.rand(2, 3, *size)).shape == (2, 1, *size)
    height, width = network.seen[0].shape[-2:]
    assert (height, width) == (-(-size[0] // 32) * 32, -(-size[1] // 32) * 32)  # and no further


def test_the_image_stays_at_the_top_left_and_its_edge_is_repeated() -> None:
    network = Strided(3)
    image = torch.rand(1, 3, 9, 10)
    output = AnySize(network, 8)(image)
    given = network.seen[0]
    assert torch.equal(given[..., :9, :10], image)
    assert (given[..., 9:, :10] == image[..., -1:, :]).all()
    assert (given[..., :9, 10:] == image[..., :, -1:]).all()
    torch.testing.assert_close(output[0, 0, :8, :8], image[0, 0, :8, :8].mean().expand(8, 8))


def test_a_divisible_size_is_not_padded() -> None:
    network = Strided(3)
    image = torch.rand(1, 3, 16, 24)
    output = AnySize(network, 8)(image)
    assert torch.equal(network.seen[0], image)
    assert network.seen[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(output, network(image))


def test_removes_unused_layers_only() -> None:
    network = WithSpare()
    image = torch.rand(2, 3, 4, 4)
    before, statistics = network.eval()(image), network.used[1].running_mean.clone()
    network.train()
    remove_unused(network, image)
    assert network.training
    assert [type(layer) for layer in (network.spare, network.mixed["spare"])] == [nn.Identity, nn.Identity]
    assert sum(parameter.numel() for parameter in network.parameters()) == (3 * 4 + 4) + 2 * 4 + (4 * 2 + 2)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(network.used[1].running_mean, statistics)
    assert torch.equal(network.eval()(image), before)
