"""Layers and helpers that several networks share."""

from typing import Literal

import torch
from torch import Tensor, nn

Init = Literal["glorot", "he"]


class Normalize(nn.Module):
    """Normalizes images in [0, 1] to what an encoder was trained on: (x - mean) / std per channel.

    It is a network's first layer, so that checkpoints are self-contained and batches can be displayed.

    Args:
        mean: One value per channel, in units of the [0, 1] image.
        std: One value per channel, in units of the [0, 1] image.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Normalizes (B, C, H, W) in [0, 1]."""
        return (image - self.mean) / self.std


class AnySize(nn.Module):
    """Lets a fully convolutional network accept any image size.

    Pads the image on the right and bottom to the next multiple of the network's stride, repeating its edge pixels, and
    crops the output back. The image is passed on with its channels last in memory, which convolutions compute faster.

    Args:
        network: Maps (B, C, H, W) to (B, K, H, W) where `multiple` divides H and W. It may also return V values of each
            image, (B, V): they become V more maps that are constant.
        multiple: Number of pixels that height and width must be divisible by.
    """

    def __init__(self, network: nn.Module, multiple: int) -> None:
        super().__init__()
        self.network = network
        self.multiple = multiple

    def forward(self, image: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, K, H, W), or (B, K + V, H, W), for any H and W."""
        height, width = image.shape[-2:]
        output: Tensor | tuple[Tensor, Tensor] = self.network(self.padded(image))
        if isinstance(output, tuple):
            maps, values = output
            output = torch.cat([maps, values[:, :, None, None].expand(-1, -1, *maps.shape[-2:])], dim=1)
        return output[..., :height, :width]

    def padded(self, image: Tensor) -> Tensor:
        """Returns images as the network gets them."""
        # always, because an exported network knows no sizes: it must not depend on whether one is a multiple
        rows, columns = (padded(side, self.multiple, image.device) for side in image.shape[-2:])
        return image[:, :, rows][..., columns].contiguous(memory_format=torch.channels_last)


def padded(side: int, multiple: int, device: torch.device) -> Tensor:
    """Returns the places of a side, and its last one again up to the next multiple."""
    return torch.arange((side + multiple - 1) // multiple * multiple, device=device).clamp(max=side - 1)


def start_like_keras(network: nn.Module, init: Init = "glorot") -> None:
    """Initializes convolutions as Keras does, uniformly and with biases 0.

    Args:
        network: Changed in place.
        init: `glorot`, Keras's default (Glorot and Bengio 2010, equation 16), or `he` (He et al. 2015), which keeps the
            variance of maps through layers with ReLU.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            if init == "he":
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def remove_unused(network: nn.Module, image: Tensor) -> None:
    """Replaces the parts of a network whose parameters never get a gradient by the identity.

    They would distort parameter counts and weight decay, and stop distributed training.

    Args:
        network: Changed in place.
        image: A batch (B, C, H, W) for one forward and backward pass; its content does not matter.
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
