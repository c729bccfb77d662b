import pickle
import re
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.transforms.functional import normalize, resize

from ops.errors import WeightsError
from tasks.networks.backbones import timm_classifier
from tasks.networks.extractor import Extractor

SMALL = "mobilenetv3_small_050"
SMALL_ONES = (
    SMALL,
    "test_resnet",
    "test_vit.r160_in1k",
)  # of 224 and 160 pixels, with layers after the last map or none


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The weights of a network of SMALL that is no `Extractor`'s random one."""
    torch.manual_seed(1)
    path = tmp_path / "small.safetensors"
    save_file(timm.create_model(SMALL).state_dict(), path)
    return path


@pytest.mark.parametrize("vector", ["logits", "features"])
@pytest.mark.parametrize("name", SMALL_ONES)
def test_a_vector_is_timms_of_the_resized_normalised_picture(tmp_path: Path, name: str, vector: Any) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    card = timm.data.resolve_model_data_config(model)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    image = torch.rand(2, 3, 97, 130)
    prepared = normalize(resize(image, list(card["input_size"][1:])), list(card["mean"]), list(card["std"]))
    with torch.no_grad():
        maps = model.forward_features(prepared)
        expected = model(prepared) if vector == "logits" else model.forward_head(maps, pre_logits=True)
    seen = Extractor(name, tmp_path / "model.safetensors", vector)
    torch.testing.assert_close(seen(image), expected, rtol=1e-4, atol=1e-5)
    assert seen.length == expected.shape[1]
    grey = image[:, :1]
    torch.testing.assert_close(seen(grey), seen(grey.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize(
    ("name", "logits", "features"),
    [
        ("mobilenetv3_small_100", 1000, 1024),
        ("resnet18", 1000, 512),
        ("vgg16.tv_in1k", 1000, 4096),
        ("vit_tiny_patch16_224.augreg_in21k", 21843, 192),
    ],
)
def test_lengths_are_those_of_vectors_and_of_timm(name: str, logits: int, features: int) -> None:
    with torch.device("meta"):
        extractors = [Extractor(name, False, "logits"), Extractor(name, False, "features")]
        image = torch.zeros(1, 1, 32, 32)
        assert [seen(image).shape[1] for seen in extractors] == [logits, features]
    assert [seen.length for seen in extractors] == [logits, features]


def test_a_network_without_a_classifier_has_features_only() -> None:
    with torch.device("meta"):
        assert Extractor("vit_small_patch14_dinov2", False, "features").length == 384
    with pytest.raises(
        ValueError, match=r"_dinov2 has no classifier, so there are no logits\. Take its .*tor features"
    ):
        Extractor("vit_small_patch14_dinov2", False)


def test_it_is_built_once(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    built = []
    plain = timm.create_model

    def counted(name: str, **settings: Any) -> nn.Module:
        built.append(name)
        model: nn.Module = plain(name, **settings)
        return model

    monkeypatch.setattr(timm, "create_model", counted)
    seen = Extractor(SMALL, saved, "features")
    assert seen(torch.rand(1, 1, 32, 32)).shape == (1, seen.length)
    assert len(seen.digest) == 16
    assert built == [SMALL]
    Extractor(SMALL, saved)
    assert built == [SMALL], "the length of logits is on the card"


@pytest.mark.parametrize("vector", ["logits", "features"])
def test_random_weights_are_the_same_every_time_and_draw_nothing_from_the_seed(vector: Any) -> None:
    image = torch.rand(1, 1, 32, 32)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = Extractor(SMALL, False, vector)
    digest, seen = first.digest, first(image)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    second = Extractor(SMALL, False, vector)
    assert torch.equal(second(image), seen)
    assert second.digest == digest


def test_a_file_is_loaded_whole_and_told_by_its_digest(tmp_path: Path, saved: Path) -> None:
    seen = Extractor(SMALL, saved)
    file, loaded = load_file(saved), seen._loaded().get_submodule("classifier").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in file.items())
    assert loaded.keys() == file.keys()
    assert not any(parameter.requires_grad for parameter in seen._loaded().parameters())
    torch.save({"state_dict": file}, tmp_path / "small.pth")
    Extractor(SMALL, tmp_path / "small.pth").check(seen.digest)
    with pytest.raises(
        WeightsError, match=rf"weights False of the extractor {SMALL} are not those .*wanted {seen.digest}"
    ):
        Extractor(SMALL, False).check(seen.digest)
    saved.unlink()
    again = pickle.loads(pickle.dumps(seen))
    assert torch.equal(again(torch.ones(1, 1, 8, 8)), seen(torch.ones(1, 1, 8, 8)))


def test_files_of_other_classifiers_or_none_have_features(tmp_path: Path, saved: Path) -> None:
    weights = load_file(saved)
    body = {key: value for key, value in weights.items() if not key.startswith("classifier.")}
    save_file(body, tmp_path / "body.safetensors")
    save_file(body | {"classifier.weight": torch.zeros(10, 1024)}, tmp_path / "ten.safetensors")
    image = torch.rand(1, 1, 32, 32)
    expected = Extractor(SMALL, saved, "features")(image)
    for file in ("body", "ten"):
        assert torch.equal(Extractor(SMALL, tmp_path / f"{file}.safetensors", "features")(image), expected)
    with pytest.raises(
        WeightsError, match=r"body\.safetensors, weights of .* have no classifier, so .*_vector features"
    ):
        Extractor(SMALL, tmp_path / "body.safetensors").load()
    with pytest.raises(
        WeightsError, match=r"a classifier of the shape \(10, 1024\), wanted is \(1000, 1024\)\. Take its"
    ):
        Extractor(SMALL, tmp_path / "ten.safetensors").load()


def test_files_of_other_networks_are_refused(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(
        WeightsError,
        match=r"does not fit the encoder test_resnet: \d+ .*first is 'conv1\..*of test_resnet with timm's keys",
    ):
        Extractor("test_resnet", saved, "features").load()
    with pytest.raises(WeightsError, match=r"no weights file .*absent\.pt\. Give .* to model\.extractor_weights, or"):
        Extractor(SMALL, tmp_path / "absent.pt").load()


@pytest.mark.parametrize(
    ("name", "repository"),
    [(SMALL, f"timm/{SMALL}.lamb_in1k"), ("test_vit", "timm/test_vit.r160_in1k"),
     ("test_vit.r160_in1k", "timm/test_vit.r160_in1k")],
)  # fmt: skip
def test_library_weights_are_those_on_the_card(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, repository: str
) -> None:
    model = timm_classifier(name, 1000).get_submodule("classifier")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    asked: list[str] = []

    def download(repository: str, file: str, revision: None, local_files_only: bool = False) -> str:
        asked.append(repository)
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    seen = Extractor(name, True)
    seen.check(Extractor(name, tmp_path / "model.safetensors").digest)
    assert asked == [repository]


def test_where_the_library_has_no_weights_a_file_is_asked_for() -> None:
    with pytest.raises(WeightsError, match=r"no weights of vovnet39a\. Give a file: --model\.extractor_weights path"):
        Extractor("vovnet39a", True).load()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("mobilenet_v3_small", "mobilenetv3_small_100 or mobilenetv3_small_075 or mobilenetv3_small_050"),
        ("ResNet18", "resnet18 or .*"),
        ("resnet50v1", "resnet50_v1 or .*"),
        ("resnet18.a9_in1k", r"resnet18\.a._in1k or resnet18\.a._in1k or .*"),
        ("hf-hub:timm/resnet18", ".*"),  # which timm would fetch
        ("?", "vgg16 or resnet50 or resnet50_v1 or inception_resnet_v2"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=rf"^extractor '{re.escape(name)}' is unknown; did you mean {nearest}\?$"):
        Extractor(name, False)
