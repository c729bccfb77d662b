"""Small layers that several networks share."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Normalize(nn.Module):
    """Turns pictures in [0, 1] into what an encoder was trained on: (x - mean) / std per channel.

    It is a network's first layer, so that a checkpoint is self-contained and batches stay drawable.

    Args:
        mean: One value a channel, in units of the [0, 1] picture.
        std: One value a channel, in units of the [0, 1] picture.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, C, H, W), normalised."""
        return (image - self.mean) / self.std


class AnySize(nn.Module):
    """Lets a fully convolutional network take any picture size.

    The picture is padded on the right and below to the next multiple of what the network's strides divide,
    repeating its edge pixels, and the output is cropped back.

    Args:
        network: Maps (B, C, H, W) to (B, K, H, W) where `multiple` divides H and W.
        multiple: What height and width must divide by, in pixels.
    """

    def __init__(self, network: nn.Module, multiple: int) -> None:
        super().__init__()
        self.network = network
        self.multiple = multiple

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K, H, W) for any H and W."""
        height, width = image.shape[-2:]
        below, right = -height % self.multiple, -width % self.multiple
        if below or right:
            image = F.pad(image, (0, right, 0, below), mode="replicate")
        output: Tensor = self.network(image)
        return output[..., :height, :width]


def remove_unused(network: nn.Module, image: Tensor) -> None:
    """Replaces the parts of a network whose parameters never get a gradient by the identity.

    Counts, weight decay and distributed training would all be wrong about them.

    Args:
        network: Changed in place.
        image: A batch (B, C, H, W) to run once forward and back; its content does not matter.
    """
    was_training = network.training
    network.eval()(image).sum().backward()

    def prune(parent: nn.Module) -> None:
        for name, child in parent.named_children():
            parameters = list(child.parameters())
            if parameters and all(parameter.grad is None for parameter in parameters):
                setattr(parent, name, nn.Identity())
            else:
                prune(child)

    prune(network)
    network.zero_grad(set_to_none=True)
    network.train(was_training)
