"""Finds, reads and checks trained weights and fills networks with them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ops.errors import WeightsError

CLASSIFIER = ("fc.", "classifier.", "last_linear.", "head.", "classif.")  # heads that a weights file may contain


def fill_weights(
    module: nn.Module, weights: Mapping[str, Tensor], name: str, source: str, keys: str = "torchvision's"
) -> None:
    """Fills a module with trained weights, ignoring tensors that the module does not have.

    Args:
        module: Changed in place, or not at all if weights do not fit.
        weights: Tensors by the module's keys, of any precision. Batch counts of batch normalization may be missing.
        name: The network's name, for the message.
        source: Where the weights come from, for the message.
        keys: Whose keys the module has, for the message.

    Raises:
        WeightsError: A tensor is missing or has another shape.
    """
    expected = module.state_dict()
    missing = [key for key in expected if key not in weights and not key.endswith("num_batches_tracked")]
    if missing:
        raise WeightsError(
            f"{source} does not fit the encoder {name}: {len(missing)} of its {len(expected)} tensors are missing, "
            f"first {missing[0]!r}. Give weights of {name} with {keys} keys."
        )
    misshapen = [key for key in expected if key in weights and weights[key].shape != expected[key].shape]
    if misshapen:
        key = misshapen[0]
        raise WeightsError(
            f"{source} does not fit the encoder {name}: {key!r} has the shape {tuple(weights[key].shape)}, "
            f"expected {tuple(expected[key].shape)}. Give weights of {name}."
        )
    fitting = {key: value.float() if value.is_floating_point() else value for key, value in weights.items()
               if key in expected}  # fmt: skip
    nn.Module.load_state_dict(module, {**expected, **fitting})


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
            f"There is no weights file {path}. Set model.{option} to the path of a .safetensors or .pth file, "
            "to `true` for the library's ImageNet weights, or to `false` for random ones."
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
        f"--model.{option} path/to/weights.safetensors. To start from random weights: --model.{option} false."
    )


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
