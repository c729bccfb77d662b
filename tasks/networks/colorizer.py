"""Estimates the colors of an image from its luminance and a feature vector of its content."""

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from tasks.networks.layers import start_like_keras

Encoder = Literal["pooled", "strided"]

# 128x3 is a 3 x 3 convolution to 128 channels with ReLU, 128x3/2 one of stride 2; P halves the size, U doubles it.
ENCODERS = {
    "pooled": "128x3 P 128x4 128x3 P 256x4 256x3 P 256x4 256x3 256x3",
    "strided": "64x3/2 128x3 128x3/2 256x3 256x3/2 512x3 512x3 256x3",
}
FUSED = 256  # channels at the end of both encoders, and after fusing the vector
DECODER = "128x3 64x3 U 128x3 U 64x4 64x3 32x2"
LAST = 32  # channels at the end of the decoder, at half the size
MULTIPLE = 8  # height and width are padded to a multiple of this: the encoders halve three times


class Colorizer(nn.Module):
    """Encodes luminance, fuses it with a feature vector of the image, and decodes chroma or color classes.

    After the report of group 20, "Image Colorization" (IIT Guwahati, DA526), tables 1 to 3, which
    follows Baldassarre et al., "Deep Koalarization" (arXiv:1712.03400, 2017), section 3. Trainable parameters with a
    vector of 1000 and two outputs:

    - `pooled`: 4,696,098; tables 1 to 3. Poolings halve the size.
    - `strided`: 6,768,546; section 6.6 and the original: convolutions of stride 2 halve the size. The report prints 512
      channels after the last one but fuses 256, which is what the last one has here.

    Convolutions pad like `same` in Keras, the report's library: uneven padding adds one more at the bottom and right.
    Weights are initialized as in Keras too. All convolutions but the last end in ReLU; sizes are doubled by
    nearest-neighbor upsampling.

    Args:
        encoder: `pooled` or `strided`.
        vector: Length V of the fused vector; 0 for none, which is not in the report.
        outputs: Number K of output maps: 2 for chroma, or one per class.
        tanh: Whether outputs are bounded to [-1, 1], as for chroma; not for logits of classes.

    Raises:
        ValueError: The encoder is unknown.
    """

    def __init__(self, encoder: Encoder = "pooled", vector: int = 1000, outputs: int = 2, tanh: bool = True) -> None:
        if encoder not in ENCODERS:
            raise ValueError(f"encoder {encoder!r} is unknown; expected one of {', '.join(ENCODERS)}")
        super().__init__()
        self.vector, self.tanh = vector, tanh
        self.encoder = nn.Sequential(*_layers(ENCODERS[encoder], 1))
        self.fusion = nn.Conv2d(FUSED + vector, FUSED, 1)
        self.decoder = nn.Sequential(*_layers(DECODER, FUSED), nn.Conv2d(LAST, outputs, 3, padding=1))
        start_like_keras(self)

    def zero_last(self) -> None:
        """Makes all outputs 0 until the network is trained."""
        last = self.decoder[-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, luminance: Tensor, vector: Tensor | None = None) -> Tensor:
        """Returns maps of the image's size: those of `half_size`, each value repeated 2 x 2.

        Args:
            luminance: (B, 1, H, W) in [-1, 1], of any height and width.
            vector: (B, V), or None where V is 0.

        Returns:
            (B, K, H, W), chroma in [-1, 1] or logits.

        Raises:
            ValueError: The vector is missing, unexpected, or of another length.
        """
        height, width = luminance.shape[-2:]
        return F.interpolate(self.half_size(luminance, vector), scale_factor=2.0)[..., :height, :width]

    def half_size(self, luminance: Tensor, vector: Tensor | None = None) -> Tensor:
        """Returns maps of half the size, rounded up: all that the network computes, in a quarter of the memory.

        Args:
            luminance: As in `forward`; its edge is repeated on the right and bottom to a multiple of 8.
            vector: As in `forward`.

        Returns:
            (B, K, ceil(H / 2), ceil(W / 2)).

        Raises:
            ValueError: As in `forward`.
        """
        given = 0 if vector is None else vector.shape[-1]
        if given != self.vector:
            raise ValueError(f"expected a fused vector of {self.vector} values, got {given}")
        height, width = luminance.shape[-2:]
        below, right = -height % MULTIPLE, -width % MULTIPLE
        if below or right:
            luminance = F.pad(luminance, (0, right, 0, below), mode="replicate")
        maps: Tensor = self.decoder(self._fused(self.encoder(luminance), vector))
        maps = maps[..., : (height + 1) // 2, : (width + 1) // 2]
        return maps.tanh() if self.tanh else maps

    def _fused(self, maps: Tensor, vector: Tensor | None) -> Tensor:
        """Applies the 1 x 1 convolution to the maps and the vector, repeated everywhere as channels (section 6.8).

        The vector's part of the sum is the same everywhere, so it is computed once, without those channels.
        """
        weight, bias = self.fusion.weight, self.fusion.bias
        fused = F.conv2d(maps, weight[:, :FUSED], bias)
        if vector is not None:
            fused = fused + F.linear(vector, weight[:, FUSED:, 0, 0])[..., None, None]
        return fused.relu()


def _layers(plan: str, channels: int) -> list[nn.Module]:
    """Builds the layers of a plan in the notation of `ENCODERS`, for an input with this many channels."""
    layers: list[nn.Module] = []
    for step in plan.split():
        if step == "P":
            layers.append(nn.MaxPool2d(2))
        elif step == "U":
            layers.append(nn.Upsample(scale_factor=2))
        else:
            shape, _, stride = step.partition("/")
            outputs, kernel = map(int, shape.split("x"))
            layers.append(_convolution(channels, outputs, kernel, int(stride or 1)))
            channels = outputs
    return layers


def _convolution(channels: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    """Builds a convolution with ReLU that pads an even height and width like `same` in Keras."""
    missing = kernel - stride
    before, after = missing // 2, missing - missing // 2
    return nn.Sequential(
        OrderedDict(
            pad=nn.ZeroPad2d((before, after, before, after)),
            convolution=nn.Conv2d(channels, outputs, kernel, stride),
            relu=nn.ReLU(inplace=True),
        )
    )
