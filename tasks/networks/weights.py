"""Finds, reads and checks trained weights and fills networks with them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ops.errors import WeightsError
from tasks.networks.bands import for_channels

# Layers of efficientnet_pytorch by timm's names: outside of blocks, and in both kinds of them.
STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2", **SQUEEZE}
INVERTED = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
            "_project_conv": "conv_pwl", "_bn2": "bn3", **SQUEEZE}  # fmt: skip
CLASSIFIER = (
    "fc.",
    "classifier.",
    "last_linear.",
    "head.",
    "classif.",
    "_fc.",
)  # heads that a weights file may contain


def fill_weights(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    name: str,
    source: str,
    keys: str = "torchvision's",
    bands: Sequence[str] = (),
) -> None:
    """Fills a module with trained weights, ignoring tensors that the module does not have.

    Args:
        module: Changed in place, or not at all if weights do not fit.
        weights: Tensors by the module's keys or in a layout that `own_keys` or `in_order` knows, of any precision.
            Batch counts of batch normalization may be missing.
        name: The network's name, for the message.
        source: Where the weights come from, for the message.
        keys: Whose keys the module has, for the message.
        bands: What the first convolution of the weights sees, if not red, green and blue; see `to_red_green_blue`.

    Raises:
        WeightsError: A tensor is missing or has another shape.
    """
    expected = module.state_dict()
    weights = dict(own_keys(in_order(weights, expected), expected))
    first = next((key for key, value in expected.items() if value.ndim == 4), "")
    seen = expected[first].shape[1] if first else 3
    if bands and first in weights and weights[first].shape[1] == len(bands) != seen:
        weights[first] = to_red_green_blue(weights[first].float(), bands)
    if seen != 3 and first in weights and weights[first].shape[1] == 3:
        weights[first] = for_channels(weights[first].float(), seen)
    missing = [key for key in expected if key not in weights and not key.endswith("num_batches_tracked")]
    if missing:
        raise WeightsError(
            f"{source} does not fit the encoder {name}: {len(missing)} of its {len(expected)} tensors are missing, "
            f"first {missing[0]!r}. Give weights of {name} with {keys} keys."
        )
    misshapen = [key for key in expected if key in weights and weights[key].shape != expected[key].shape]
    if misshapen:
        key = misshapen[0]
        named = f"; pretrained_bands names {len(bands)}" if bands else ""
        advice = f"Give weights of {name}."
        if key == first and weights[key].shape[1] != 3:
            advice = (
                f"Its first convolution sees {weights[key].shape[1]} bands{named}: give --model.pretrained_bands the "
                "mean and the standard deviation of each, in their order, such as '{blue: [0.3, 0.2], green: …}'."
            )
        raise WeightsError(
            f"{source} does not fit the encoder {name}: {key!r} has the shape {tuple(weights[key].shape)}, "
            f"expected {tuple(expected[key].shape)}. {advice}"
        )
    fitting = {key: value.float() if value.is_floating_point() else value for key, value in weights.items()
               if key in expected}  # fmt: skip
    nn.Module.load_state_dict(module, {**expected, **fitting})


def in_order(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Renames weights whose layers are numbered, `features.0.0.weight`, to the keys of the same network elsewhere.

    Args:
        weights: Tensors by any keys.
        expected: Tensors by the wanted keys, in the order of the layers.

    Returns:
        The weights by the wanted keys, if layer after layer has the same parameters of the same shapes and only layers
        of the classifier are left; otherwise the weights as they are.
    """
    if expected.keys() <= weights.keys() or not all(key.startswith(("features.", "classifier.")) for key in weights):
        return weights
    given, wanted = _layers(sorted(weights, key=_natural)), _layers(expected)
    pairs = list(zip(given.items(), wanted.items(), strict=False))
    if len(pairs) < len(wanted) or any(not layer.startswith("classifier.") for layer in [*given][len(pairs) :]):
        return weights
    renamed: dict[str, Tensor] = {}
    for (layer, leaves), (own, own_leaves) in pairs:
        if leaves != own_leaves or any(weights[f"{layer}.{leaf}"].shape != expected[f"{own}.{leaf}"].shape
                                       for leaf in leaves):  # fmt: skip
            return weights
        renamed |= {f"{own}.{leaf}": weights[f"{layer}.{leaf}"] for leaf in leaves}
    return renamed


def _layers(keys: Iterable[str]) -> dict[str, set[str]]:
    """Returns the names of each layer's tensors, in order, without batch counts."""
    layers: dict[str, set[str]] = {}
    for key in keys:
        layer, _, leaf = key.rpartition(".")
        if leaf != "num_batches_tracked":
            layers.setdefault(layer, set()).add(leaf)
    return layers


def _natural(key: str) -> list[tuple[int, str]]:
    """Returns a sort key in which 2 comes before 10; `features` before `classifier`."""
    parts = key.split(".")
    return [(parts[0] == "classifier", ""), *((int(part), "") if part.isdigit() else (-1, part) for part in parts[1:])]


def own_keys(weights: Mapping[str, Tensor], expected: Collection[str]) -> Mapping[str, Tensor]:
    """Returns weights under the keys that a module expects, as far as they are in a known layout.

    - of a whole segmentation network: tensors whose keys contain `encoder.`, as those of segmentation_models_pytorch
      and of belvedere's checkpoints do, without what comes before and `encoder.` itself;
    - of an EfficientNet with the keys of efficientnet_pytorch (`_conv_stem`, `_blocks.0._depthwise_conv`): with timm's.

    Args:
        weights: Tensors by any keys.
        expected: The module's keys.
    """
    if not any(key in weights for key in expected):
        inner = {key.split("encoder.", 1)[1]: value for key, value in weights.items() if "encoder." in key}
        weights = inner or weights
    if "conv_stem.weight" in expected and "_conv_stem.weight" in weights:
        weights = _with_timm_keys(weights, expected)
    return weights


def _with_timm_keys(weights: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """Returns the weights of efficientnet_pytorch under timm's keys, which count the blocks of each stage anew."""
    places = list(dict.fromkeys(key.rsplit(".", 3)[0] if ".se." in key else ".".join(key.split(".")[:3])
                                for key in expected if key.startswith("blocks.")))  # fmt: skip
    found: dict[str, Tensor] = {}
    for key, value in weights.items():
        *block, layer, kind = key.split(".")
        names = STEM
        place = ""
        if block:
            number = int(block[-1])
            names = INVERTED if f"_blocks.{number}._expand_conv.weight" in weights else SEPARABLE
            place = f"{places[number]}." if number < len(places) else ""
        if layer in names:
            found[f"{place}{names[layer]}.{kind}"] = value
    return found


def to_red_green_blue(weight: Tensor, bands: Sequence[str]) -> Tensor:
    """Returns the weights of a first convolution for images in color.

    What it learned of other bands is shared among the three colors equally, as if another band, once normalized, were
    the mean of the normalized red, green and blue.

    Args:
        weight: (K, N, h, w).
        bands: Names of the N bands, `red`, `green` and `blue` among them.

    Returns:
        (K, 3, h, w).
    """
    colors = ("red", "green", "blue")
    other = [index for index, name in enumerate(bands) if name not in colors]
    return weight[:, [bands.index(color) for color in colors]] + weight[:, other].sum(dim=1, keepdim=True) / 3


def given_path(pretrained: object) -> Path:
    """Returns the path of the given weights file.

    Raises:
        WeightsError: The value is not a path, for example None.
    """
    if not isinstance(pretrained, str | Path):
        raise WeightsError(
            f"expected model.pretrained to be true, false or the path of a file, got {pretrained!r}. "
            "--model.pretrained true loads the library's ImageNet weights."
        )
    return Path(pretrained)


def read_weights(path: Path, heads: bool = False, option: str = "pretrained") -> dict[str, Tensor]:
    """Reads the tensors of a weights file.

    Args:
        path: A .safetensors file or a file of torch.save that contains tensors only.
        heads: Whether to include those of a classifier's head.
        option: The option that gave the path, for the message.

    Raises:
        WeightsError: The file does not exist or contains no weights.
    """
    if not path.is_file():
        raise WeightsError(
            f"There is no weights file {path}. Set model.{option} to the path of a .safetensors or .pth file, or to "
            f"`true` for the library's ImageNet weights. {_without(option)}"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights: Mapping[str, object] = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
            weights = weights.get("state_dict", weights)  # type: ignore[assignment]  # whatever was saved
        tensors = {key: value for key, value in weights.items() if isinstance(value, Tensor)}
    except Exception as error:
        raise WeightsError(f"{path} could not be read as a weights file: {error}") from error
    if not tensors:
        raise WeightsError(f"{path} contains no tensors; expected a network's state dict.")
    return {key: value for key, value in tensors.items() if heads or not key.startswith(CLASSIFIER)}


def hub_weights(repository: str, revision: str | None, name: str, option: str = "pretrained") -> Path:
    """Returns the path of a hub repository's weights, from the local cache or else fetched over the network.

    Args:
        repository: Its name on the hub.
        revision: Its revision; None for the newest.
        name: The network's name, for the message.
        option: The option that needs them, for the message.

    Raises:
        WeightsError: They are neither cached nor can be fetched.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, "model.safetensors", revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        reason = "no network" if not _online() else None
    if reason is None:
        try:
            return Path(hf_hub_download(repository, "model.safetensors", revision=revision))
        except Exception as error:  # the hub client's errors have no common base
            reason = f"{type(error).__name__} while fetching them"
    raise WeightsError(
        f"The ImageNet weights of {name} are not in the local cache and cannot be fetched ({reason}). Either run "
        "once with network access, or copy a weights file here and give its path: "
        f"--model.{option} path/to/weights.safetensors. {_without(option)}"
    )


def _without(option: str) -> str:
    """Returns how to do without trained weights; what is never trained must not be random."""
    if option == "pretrained":
        return "To start from random weights: --model.pretrained false."
    return "To do without an extractor: --model.extractor null." if option == "extractor_weights" else ""


def _online() -> bool:
    """Returns whether the hub is reachable; tries once and briefly, because its client would retry for minutes."""
    import os
    import socket
    from urllib.parse import urlparse

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if any(name.lower() in ("https_proxy", "all_proxy") for name in os.environ):
        return True  # the proxy answers for the hub, so a direct connection would prove nothing
    address = urlparse(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=3).close()
    except OSError:
        return False
    return True
