"""The network that estimates colours of a picture from its luminance and a vector of what the picture shows."""

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

Encoder = Literal["pooled", "strided"]

# 128x3 is a 3 x 3 convolution to 128 channels with ReLU, 128x3/2 one of stride 2; P halves the size, U doubles it.
ENCODERS = {
    "pooled": "128x3 P 128x4 128x3 P 256x4 256x3 P 256x4 256x3 256x3",
    "strided": "64x3/2 128x3 128x3/2 256x3 256x3/2 512x3 512x3 256x3",
}
FUSED = 256  # channels in which both encoders end, and to which the vector is fused
DECODER = "128x3 64x3 U 128x3 U 64x4 64x3 32x2"
LAST = 32  # channels in which the decoder ends, at half the size
MULTIPLE = 8  # what height and width are padded to: the encoders halve three times


class Colorizer(nn.Module):
    """An encoder of luminance, fused with a vector of what the picture shows, and a decoder to chroma or classes.

    After the report of group 20, "Colorization of classic paintings" (IIT Guwahati, DA526), tables 1 to 3, which
    follows Baldassarre et al., "Deep Koalarization" (arXiv:1712.03400, 2017), section 3. Trainable parameters with a
    vector of 1000 and two outputs:

    - `pooled`: 4,696,098; tables 1 to 3. Poolings halve the size.
    - `strided`: 6,768,546; section 6.6 and the original: convolutions of stride 2 halve the size. The report prints 512
      channels after the last one, and a fusion of 256, which is what the last one has here.

    Convolutions pad as Keras does for `same`, the library of the report: where as much cannot be added on both sides,
    one more below and on the right. Weights start as in Keras too: uniform as Glorot and Bengio (2010), equation 16,
    biases 0. All but the last convolution end in ReLU; sizes are doubled to the nearest pixel.

    Args:
        encoder: `pooled` or `strided`.
        vector: Length V of the fused vector; 0 for none, which is not in the report.
        outputs: Number K of output maps: 2 of chroma, or one a class.
        tanh: Whether outputs are bound to [-1, 1], as chroma is; logits of classes are not.

    Raises:
        ValueError: There is no such encoder.
    """

    def __init__(self, encoder: Encoder = "pooled", vector: int = 1000, outputs: int = 2, tanh: bool = True) -> None:
        if encoder not in ENCODERS:
            raise ValueError(f"encoder {encoder!r} is unknown; it is one of {', '.join(ENCODERS)}.")
        super().__init__()
        self.vector, self.tanh = vector, tanh
        self.encoder = nn.Sequential(*_layers(ENCODERS[encoder], 1))
        self.fusion = nn.Conv2d(FUSED + vector, FUSED, 1)
        self.decoder = nn.Sequential(*_layers(DECODER, FUSED), nn.Conv2d(LAST, outputs, 3, padding=1))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, luminance: Tensor, vector: Tensor | None = None) -> Tensor:
        """Maps of the size of the picture: those of `half_size`, each value repeated 2 x 2.

        Args:
            luminance: (B, 1, H, W) in [-1, 1], of any height and width.
            vector: (B, V), or None where V is 0.

        Returns:
            (B, K, H, W), chroma in [-1, 1] or logits.

        Raises:
            ValueError: The vector is there and not wanted, wanted and not there, or of another length.
        """
        height, width = luminance.shape[-2:]
        return F.interpolate(self.half_size(luminance, vector), scale_factor=2.0)[..., :height, :width]

    def half_size(self, luminance: Tensor, vector: Tensor | None = None) -> Tensor:
        """Maps of half the size, rounded up: all that the network knows, with a quarter of the memory.

        Args:
            luminance: As in `forward`; it is padded on the right and below, repeating its edge, to a multiple of 8.
            vector: As in `forward`.

        Returns:
            (B, K, ceil(H / 2), ceil(W / 2)).

        Raises:
            ValueError: As in `forward`.
        """
        given = 0 if vector is None else vector.shape[-1]
        if given != self.vector:
            raise ValueError(f"the fused vector has {given} values; this network was built for {self.vector}.")
        height, width = luminance.shape[-2:]
        below, right = -height % MULTIPLE, -width % MULTIPLE
        if below or right:
            luminance = F.pad(luminance, (0, right, 0, below), mode="replicate")
        maps: Tensor = self.decoder(self._fused(self.encoder(luminance), vector))
        maps = maps[..., : (height + 1) // 2, : (width + 1) // 2]
        return maps.tanh() if self.tanh else maps

    def _fused(self, maps: Tensor, vector: Tensor | None) -> Tensor:
        """The 1 x 1 convolution of the maps with the vector repeated at each place as further channels (section 6.8).

        Their part of the sum is the same everywhere, so it is computed once and the channels are never laid out.
        """
        weight, bias = self.fusion.weight, self.fusion.bias
        fused = F.conv2d(maps, weight[:, :FUSED], bias)
        if vector is not None:
            fused = fused + F.linear(vector, weight[:, FUSED:, 0, 0])[..., None, None]
        return fused.relu()


def _layers(plan: str, channels: int) -> list[nn.Module]:
    """The layers that a plan in the words of `ENCODERS` names, for an input of so many channels."""
    layers: list[nn.Module] = []
    for word in plan.split():
        if word == "P":
            layers.append(nn.MaxPool2d(2))
        elif word == "U":
            layers.append(nn.Upsample(scale_factor=2))
        else:
            shape, _, stride = word.partition("/")
            outputs, kernel = map(int, shape.split("x"))
            layers.append(_convolution(channels, outputs, kernel, int(stride or 1)))
            channels = outputs
    return layers


def _convolution(channels: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    """A convolution with ReLU that pads an even height and width as Keras does for `same`."""
    missing = kernel - stride
    before, after = missing // 2, missing - missing // 2
    return nn.Sequential(
        OrderedDict(
            pad=nn.ZeroPad2d((before, after, before, after)),
            convolution=nn.Conv2d(channels, outputs, kernel, stride),
            relu=nn.ReLU(inplace=True),
        )
    )
