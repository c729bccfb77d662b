from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet50, vgg16

from tasks.networks.dense import DenseForm

IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]


def trained(network: nn.Module) -> int:
    """The number of parameters that are trained."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def without_gradient(network: nn.Module) -> list[str]:
    return [name for name, parameter in network.named_parameters() if parameter.grad is None]


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(module: nn.Module, expected: Mapping[str, Tensor]) -> bool:
    """Whether a module has exactly these tensors, in its own precision."""
    found = module.state_dict()
    return found.keys() == expected.keys() and all(
        torch.equal(found[key], expected[key].to(found[key])) for key in found
    )


def settle(network: nn.Sequential) -> nn.Sequential:
    """Switches to evaluation mode, with batch normalization far from its initial state."""
    for layer in network.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) and layer.running_mean is not None:
            if layer.affine:
                layer.weight.data.uniform_(0.5, 1)
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    return network.eval()


def by_loop(network: nn.Module, image: Tensor, window: int) -> Tensor:
    """Classifies each window of an image (3, H, W), cut out by slices."""
    rows, columns = (side - window + 1 for side in image.shape[-2:])
    with torch.no_grad():
        windows = [image[..., y : y + window, x : x + window] for y in range(rows) for x in range(columns)]
        return network(torch.stack(windows)).T.reshape(-1, rows, columns)


def compare_dense(network: nn.Sequential, image: Tensor, window: int, single: float = 1e-6) -> Tensor:
    """Compares the dense form of a network in double precision with a loop over the windows of an image (3, H, W)."""
    expected = by_loop(network, image, window)[None]
    with torch.no_grad():
        torch.testing.assert_close(DenseForm(network, window)(image[None]), expected, rtol=0, atol=1e-12)
        found = DenseForm(network.float(), window)(image[None].float())
        torch.testing.assert_close(found, expected.float(), rtol=0, atol=single)
    return expected


def starts_as_in_keras(layer: nn.Conv2d) -> bool:
    """Whether weights are uniform within Glorot's bound, and biases zero."""
    area = int(np.prod(layer.kernel_size))
    bound = (6 / (area * layer.in_channels + area * layer.out_channels)) ** 0.5
    found = bool(layer.weight.abs().max() <= bound) and (layer.bias is None or not layer.bias.any())
    if layer.weight.numel() > 10_000:
        found = found and layer.weight.abs().max().item() > 0.999 * bound
        found = found and layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)
        found = found and abs(layer.weight.mean().item()) < 0.03 * bound
    return found


def saved(path: Path, weights: Mapping[str, Tensor]) -> Path:
    save_file({key: value.contiguous() for key, value in weights.items()}, path)
    return path


def real_weights(real_data: Path, name: str) -> Path:
    path = real_data.parent / "weights" / name
    if not path.is_file():
        pytest.skip(f"there are no real weights at {path}")
    return path


def hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[tuple[str, bool]]:
    """Downloads files from a folder instead; the list receives each repository, and whether only the cache is asked."""
    asked: list[tuple[str, bool]] = []

    def download(repository: str, file: str, local_files_only: bool = False, **_: Any) -> str:
        asked.append((repository, local_files_only))
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def torchvisions_features(name: str, weights: Mapping[str, Tensor]) -> nn.Module:
    """Torchvision's network with these weights up to the last map, or its mean for ResNet-50."""
    if name == "vgg16":
        with torch.device("meta"):  # its dense layers nowhere in memory
            model = vgg16()
        model.load_state_dict(dict(weights), strict=False, assign=True)
        return model.features.eval()
    model = resnet50()
    model.fc = nn.Identity()
    for stage in (model.layer2, model.layer3, model.layer4) if name == "resnet50_v1" else ():
        stage[0].conv1.stride, stage[0].conv2.stride = 2, 1
    missing, unexpected = model.load_state_dict(dict(weights), strict=False)
    assert all(key.endswith("num_batches_tracked") for key in missing)
    assert set(unexpected) <= {"fc.weight", "fc.bias"}
    return model.eval()
