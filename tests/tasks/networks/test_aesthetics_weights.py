import math
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import AlexNet_Weights, VGG16_Weights, alexnet, vgg16
from torchvision.transforms.functional import normalize, to_tensor

from ops.errors import WeightsError
from tasks.networks import aesthetics
from tasks.networks.aesthetics import FILES, LIBRARY, Judge, judge, load_judge

IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SMALL = "mobilenetv3_small_050"


def built(name: str, width: int = 8, outputs: int = 2, seed: int = 0) -> Judge:
    torch.manual_seed(seed)
    network = judge(name, width, outputs)
    for layer in network.dense:
        if isinstance(layer, nn.Linear):  # large enough that differences would be seen
            nn.init.normal_(layer.weight, std=4 / math.sqrt(layer.in_features))
    return network.eval()


def saved(path: Path, weights: Mapping[str, Tensor]) -> Path:
    save_file({key: value.contiguous() for key, value in weights.items()}, path)
    return path


def published(name: str, network: Judge) -> nn.Module:
    """torchvision's own network, with the weights of ours and dense layers as wide."""
    with torch.device("meta"):  # what is replaced nowhere in memory
        model = (vgg16 if name == "vgg16" else alexnet)()
    linear = [place for place, layer in enumerate(model.classifier) if isinstance(layer, nn.Linear)]
    for place, layer in zip(linear, ("fc6", "fc7", "output"), strict=True):
        model.classifier[place] = network.dense.get_submodule(layer)
    model.load_state_dict(network.convolutions[-1].state_dict(), strict=False, assign=True)
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_convolutions_are_filled_from_a_file_and_dense_layers_are_not(tmp_path: Path, dtype: torch.dtype) -> None:
    given, network = built("alexnet_torchvision"), built("alexnet_torchvision", seed=1)
    before = network.dense.fc6.weight.clone()
    weights = {key: value.to(dtype) for key, value in given.convolutions[-1].state_dict().items()}
    load_judge(network, "alexnet_torchvision", saved(tmp_path / "features.safetensors", weights))
    for key, value in network.convolutions[-1].state_dict().items():
        torch.testing.assert_close(value, weights[key].float(), atol=0, rtol=0)
    assert torch.equal(network.dense.fc6.weight, before)
    load_judge(network, "alexnet_torchvision", pretrained=False)
    assert torch.equal(network.convolutions[-1].features[0].weight, weights["features.0.weight"].float())


def test_dense_layers_can_be_kept_where_they_are_as_wide_as_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aesthetics, "PUBLISHED_WIDTH", 8)
    name, image = "alexnet_torchvision", torch.rand(2, 3, 224, 224)
    model = published(name, built(name))
    path = saved(tmp_path / "model.safetensors", model.state_dict())
    network = built(name, seed=1)
    load_judge(network, name, path, keep_dense_weights=True)
    with torch.no_grad():
        fc7 = model.classifier[:-1](model.features(normalize(image, *IMAGENET)).flatten(1))
        torch.testing.assert_close(network.forward_features(image)["fc7"], fc7)
    saved(path, {key: value for key, value in model.state_dict().items() if key.startswith("features.")})
    with pytest.raises(WeightsError, match=r"has nothing under classifier\.1; wanted is .*--model.keep_dense_weights"):
        load_judge(network, name, path, keep_dense_weights=True)
    saved(path, model.state_dict() | {"classifier.4.weight": torch.zeros(8, 9)})
    with pytest.raises(WeightsError, match=r"has \{'weight': \(8, 9\), 'bias': \(8,\)\} under classifier\.4"):
        load_judge(network, name, path, keep_dense_weights=True)


@pytest.mark.parametrize(("name", "width", "pretrained"), [("vgg16", 250, True), (SMALL, 4096, True),
                                                           ("vgg16", 4096, False)])  # fmt: skip
def test_dense_weights_that_nobody_has_are_not_kept(name: str, width: int, pretrained: bool) -> None:
    with torch.device("meta"):
        network = judge(name, width)
    with pytest.raises(WeightsError, match=f"with {name}, dense layers of {width} nodes and pretrained {pretrained};"):
        load_judge(network, name, pretrained, keep_dense_weights=True)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "features.safetensors", built("alexnet").convolutions[-1].state_dict())
    with pytest.raises(WeightsError, match=r"does not fit the encoder alexnet_torchvision: 'features.0.weight' has"):
        load_judge(built("alexnet_torchvision"), "alexnet_torchvision", path)
    with pytest.raises(WeightsError, match=f"does not fit the encoder {SMALL}.*with timm's keys"):
        load_judge(built(SMALL), SMALL, path)


def test_weights_that_nobody_publishes_are_said_to_be_none() -> None:
    with pytest.raises(WeightsError, match=r"Nobody publishes .* alexnet\. Take alexnet_torchvision, .*freeze_conv"):
        load_judge(built("alexnet"), "alexnet", pretrained=True)
    with pytest.raises(WeightsError, match=r"timm has no weights of convnext_atto_rms\. Set model.*freeze_conv"):
        load_judge(built("convnext_atto_rms"), "convnext_atto_rms", pretrained=True)


def test_weights_that_the_hub_does_not_give_are_said_to_be_trained_if_random(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(repository: str, revision: str | None, name: str) -> Path:
        raise WeightsError(f"{name} is not to be had. To start from random ones: --model.pretrained false.")

    monkeypatch.setattr(aesthetics, "hub_weights", refuse)
    with pytest.raises(WeightsError, match=r"pretrained false\. Random .*: --model\.freeze_convolutions false\.$"):
        load_judge(built(SMALL), SMALL, pretrained=True)


def test_what_is_neither_true_nor_false_nor_a_path_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"model\.pretrained is None; true, false or a file's path was wanted\."):
        load_judge(built("alexnet"), "alexnet", pretrained=None)  # type: ignore[arg-type]


def test_the_library_is_torchvisions() -> None:
    cards = {"alexnet_torchvision": AlexNet_Weights.IMAGENET1K_V1, "vgg16": VGG16_Weights.IMAGENET1K_V1}
    assert {name: f"{LIBRARY}/{file}" for name, file in FILES.items()} == {
        name: card.url for name, card in cards.items()}  # fmt: skip


def test_weights_come_from_torchs_cache_or_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(address: str, timeout: float) -> None:
        raise URLError(f"no way to {address} within {timeout:.0f} s")

    monkeypatch.setattr(aesthetics, "urlopen", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    name = "alexnet_torchvision"
    given, network = built(name), built(name, seed=1)
    path = tmp_path / "checkpoints" / FILES[name]
    with pytest.raises(WeightsError, match=rf"not at {path} and cannot be fetched .*no way.*--model.pretrained path"
                       r".*--model\.pretrained false --model\.freeze_convolutions false\.$"):  # fmt: skip
        load_judge(network, name, pretrained=True)
    path.parent.mkdir()
    torch.save(given.convolutions[-1].state_dict(), path)
    load_judge(network, name, pretrained=True)
    assert torch.equal(network.convolutions[-1].features[10].bias, given.convolutions[-1].features[10].bias)
    assert torch.equal(network.convolutions[-1].features[10].weight, given.convolutions[-1].features[10].weight)


@pytest.mark.real
@pytest.mark.parametrize(("name", "file"), [("alexnet_torchvision", "alexnet_features.safetensors"),
                                            ("vgg16", "vgg16_features_fp16.safetensors")])  # fmt: skip
def test_real_weights_see_in_a_photograph_what_torchvisions_network_sees(real_data: Path, name: str, file: str) -> None:
    path = real_data.parent / "weights" / file
    if not path.is_file():
        pytest.skip(f"there are no real weights at {path}")
    with torch.device("meta"):
        model = (vgg16 if name == "vgg16" else alexnet)()
    model.load_state_dict({key: value.float() for key, value in load_file(path).items()}, strict=False, assign=True)
    picture = Image.open(min((real_data / "colorization_photos").rglob("*.jpg"))).convert("RGB").resize((112, 112))
    image = to_tensor(picture)[None]
    network = built(name)
    load_judge(network, name, path)
    with torch.no_grad():
        maps = model.avgpool(model.features(normalize(image, *IMAGENET)))
        torch.testing.assert_close(network.forward_features(image)["pooled"], maps.mean(dim=(2, 3)))
    assert (maps > 1).any()  # photographs excite trained features
