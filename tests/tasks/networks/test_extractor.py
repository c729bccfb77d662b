import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, resnet50, vgg16
from torchvision.transforms.functional import normalize, resize, to_tensor

from tasks.networks import extractor
from tasks.networks.backbones import EXTRACTORS, load_features, timm_classifier
from tasks.networks.extractor import REPOSITORIES, SIDES, Extractor
from tests.checks import rejects, rejects_weights


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classifiers of one convolution, in the place of those that take seconds to build."""

    def built(name: str) -> nn.Sequential:
        convolution = nn.Conv2d(3, EXTRACTORS[name][0], 5, 8)
        return nn.Sequential(
            OrderedDict(normalize=nn.Identity(), features=nn.ModuleDict({"conv1": convolution})["conv1"])
        )

    monkeypatch.setattr(extractor, "feature_extractor", built)


def drawn(name: str = "resnet50", head: str | None = "fc", classes: int = 1000) -> dict[str, Tensor]:
    """Weights for the classifiers of `small`."""
    generator = torch.Generator().manual_seed(1)
    channels = EXTRACTORS[name][0]
    shapes: dict[str, tuple[int, ...]] = {"weight": (channels, 3, 5, 5), "bias": (channels,)}
    if head is not None:
        shapes |= {f"{head}.weight": (classes, channels), f"{head}.bias": (classes,)}
    return {key: torch.randn(shape, generator=generator).half().float() for key, shape in shapes.items()}


def saved(path: Path, weights: dict[str, Tensor]) -> Path:
    save_file(weights, path)
    return path


@pytest.mark.parametrize("vector", ["logits", "features"])
@pytest.mark.parametrize("name", ["resnet50", "inception_resnet_v2"])
@pytest.mark.usefixtures("small")
def test_a_vector_is_the_mean_of_the_maps_and_what_the_last_layer_says_of_it(
    tmp_path: Path, name: str, vector: str
) -> None:
    weights = drawn(name, "classif")
    seen = Extractor(name, saved(tmp_path / "w.safetensors", weights), vector)
    image = torch.rand(2, 3, SIDES[name], SIDES[name])
    maps = nn.functional.conv2d(image, weights["weight"], weights["bias"], 8).flatten(2).mean(2)
    expected = maps if vector == "features" else maps @ weights["classif.weight"].T + weights["classif.bias"]
    torch.testing.assert_close(seen(image), expected, rtol=1e-4, atol=1e-3)
    assert seen.length == expected.shape[1]


@pytest.mark.usefixtures("small")
def test_gray_is_stacked_and_images_are_resized() -> None:
    seen = Extractor("resnet50", False)
    grey = torch.rand(2, 1, 97, 130)
    torch.testing.assert_close(seen(grey), seen(grey.repeat(1, 3, 1, 1)))
    resized = nn.functional.interpolate(grey, (224, 224), mode="bilinear", antialias=True)
    torch.testing.assert_close(seen(resized), seen(grey))
    flat = torch.full((1, 1, 61, 300), 0.3)
    torch.testing.assert_close(seen(flat), seen(torch.full((1, 3, 224, 224), 0.3)))
    assert (seen(grey) - seen(1 - grey)).abs().max() > 1e-3


@pytest.mark.parametrize("name", EXTRACTORS)
def test_sides_and_repositories_are_timms(name: str) -> None:
    card = timm.get_pretrained_cfg(name.removesuffix("_v1"))
    assert card.input_size[1:] == (SIDES[name], SIDES[name])
    assert REPOSITORIES.get(name, f"timm/{name}").split(".")[0] == f"timm/{name}"


class Task(nn.Module):
    """A module that holds an extractor, as a task does."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(1000, 1)
        self.extractor = Extractor("resnet50", False)


@pytest.mark.usefixtures("small")
def test_a_task_that_holds_one_has_nothing_of_it() -> None:
    task = Task()
    task.extractor.load()
    assert list(task.state_dict()) == ["network.weight", "network.bias"]
    assert sum(parameter.numel() for parameter in task.parameters()) == 1001
    network = task.train().extractor._loaded()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.usefixtures("small")
def test_what_was_first_used_in_inference_mode_can_be_trained_on() -> None:
    task = Task()
    image = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        seen = task.extractor(image)
    vector = task.extractor(image)
    assert torch.equal(vector, seen)
    task.network(vector).sum().backward()
    torch.testing.assert_close(task.network.weight.grad[0], vector.sum(0))


@pytest.mark.usefixtures("small")
def test_vectors_are_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert Extractor("resnet50", False)(torch.rand(1, 1, 32, 32)).dtype == torch.float32


@pytest.mark.usefixtures("small")
def test_random_weights_are_the_same_every_time_and_draw_nothing_from_the_seed() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = Extractor("resnet50", False)
    digest = first.digest
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    second = Extractor("resnet50", False)
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(first(image), second(image))
    assert second.digest == digest


@pytest.mark.usefixtures("small")
def test_a_digest_tells_weights_apart_and_not_files(tmp_path: Path) -> None:
    weights = drawn()
    whole = Extractor("resnet50", saved(tmp_path / "whole.safetensors", weights))
    half = Extractor("resnet50", saved(tmp_path / "half.safetensors", {k: v.half() for k, v in weights.items()}))
    half.check(whole.digest)
    weights["fc.bias"][7] += 1e-3
    other = Extractor("resnet50", saved(tmp_path / "other.safetensors", weights))
    rejects_weights(rf"other\.safetensors .*{whole.digest}", other.check, whole.digest)


@pytest.mark.usefixtures("small")
def test_it_goes_to_other_processes_with_its_weights(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.safetensors", drawn())
    seen = Extractor("resnet50", path)
    digest = seen.digest
    path.unlink()
    again = pickle.loads(pickle.dumps(seen))
    assert torch.equal(again(torch.ones(1, 1, 8, 8)), seen(torch.ones(1, 1, 8, 8)))
    assert again.digest == digest


@pytest.mark.parametrize("head", ["fc", "classif", "last_linear", "head", None])
@pytest.mark.usefixtures("small")
def test_features_need_no_classifier_and_logits_one_of_any_name(tmp_path: Path, head: str | None) -> None:
    path = saved(tmp_path / "w.safetensors", drawn(head=head))
    assert Extractor("resnet50", path, "features")(torch.ones(1, 1, 8, 8)).shape == (1, 2048)
    if head is not None:
        assert Extractor("resnet50", path)(torch.ones(1, 1, 8, 8)).shape == (1, 1000)
        return
    rejects_weights(r"no classifier.* --model\.extractor_vector", Extractor("resnet50", path).load)


@pytest.mark.usefixtures("small")
def test_a_classifier_of_other_classes_is_rejected(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.safetensors", drawn(classes=10))
    rejects_weights(r"\(10, 2048\), expected \(1000, 2048\)", Extractor("resnet50", path).load)


@pytest.mark.usefixtures("small")
def test_weights_that_do_not_fit_or_are_not_there_are_rejected(tmp_path: Path) -> None:
    rejects_weights(r"absent\.pt.* model\.extractor_weights", Extractor("resnet50", tmp_path / "absent.pt").load)
    path = saved(tmp_path / "w.safetensors", drawn("inception_resnet_v2"))
    rejects_weights(r"w\.safetensors does not fit .* 'weight' has", Extractor("resnet50", path).load)


@pytest.mark.usefixtures("small")
def test_library_weights_are_those_with_a_classifier(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    saved(tmp_path / "model.safetensors", drawn())
    asked: list[tuple[str, object]] = []

    def download(repository: str, file: str, revision: None, local_files_only: bool = False) -> str:
        asked.append((repository, local_files_only))
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    seen = Extractor("resnet50", True)
    seen.load()
    seen.load()
    assert asked == [("timm/resnet50.tv_in1k", True)]
    seen.check(Extractor("resnet50", tmp_path / "model.safetensors").digest)


@pytest.mark.usefixtures("small")
def test_library_weights_without_network_are_told_with_their_option(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("tasks.networks.weights._online", lambda: False)
    rejects_weights(r"no network.*--model\.extractor_weights ", Extractor().load)


def test_there_are_no_library_weights_of_the_published_resnet50() -> None:
    rejects_weights(r"no weights of resnet50_v1", Extractor("resnet50_v1", True).load)
    rejects_weights(r"belong to resnet50", load_features, nn.Sequential(), "resnet50_v1", True)


@pytest.mark.parametrize(
    ("name", "vector", "message"),
    [
        ("resnet51", "logits", r"extractor 'resnet51' is unknown; did you mean resnet.* or .*\?$"),
        ("vgg16", "logits", "for vgg16 'features', got 'logits' for vgg16"),
        ("resnet50", "softmax", "expected the vector 'logits' or 'features', .* got 'softmax'"),
    ],
)
def test_what_there_is_not_is_rejected(name: str, vector: str, message: str) -> None:
    rejects(message, Extractor, name, False, vector)


SMALL = "mobilenetv3_small_050"
SMALL_ONES = (
    SMALL,
    "test_resnet",
    "test_vit.r160_in1k",
)  # of 224 and 160 pixels, with layers after the last map or none


@pytest.fixture
def timm_weights(tmp_path: Path) -> Path:
    """The weights of a network of SMALL that is no `Extractor`'s random one."""
    torch.manual_seed(1)
    path = tmp_path / "small.safetensors"
    save_file(timm.create_model(SMALL).state_dict(), path)
    return path


@pytest.mark.parametrize("vector", ["logits", "features"])
@pytest.mark.parametrize("name", SMALL_ONES)
def test_a_vector_is_timms_of_the_resized_normalized_image(tmp_path: Path, name: str, vector: Any) -> None:
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
    rejects(r"_dinov2 has no classifier.*features", Extractor, "vit_small_patch14_dinov2", False)


def test_it_is_built_once(monkeypatch: pytest.MonkeyPatch, timm_weights: Path) -> None:
    built = []
    plain = timm.create_model

    def counted(name: str, **settings: Any) -> nn.Module:
        built.append(name)
        model: nn.Module = plain(name, **settings)
        return model

    monkeypatch.setattr(timm, "create_model", counted)
    seen = Extractor(SMALL, timm_weights, "features")
    assert seen(torch.rand(1, 1, 32, 32)).shape == (1, seen.length)
    assert len(seen.digest) == 16
    assert built == [SMALL]
    Extractor(SMALL, timm_weights)
    assert built == [SMALL], "the length of logits is on the card"


@pytest.mark.parametrize("vector", ["logits", "features"])
def test_random_weights_of_timm_are_the_same_every_time_and_draw_nothing_from_the_seed(vector: Any) -> None:
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


def test_a_file_is_loaded_whole_and_told_by_its_digest(tmp_path: Path, timm_weights: Path) -> None:
    seen = Extractor(SMALL, timm_weights)
    file, loaded = load_file(timm_weights), seen._loaded().get_submodule("classifier").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in file.items())
    assert loaded.keys() == file.keys()
    assert not any(parameter.requires_grad for parameter in seen._loaded().parameters())
    torch.save({"state_dict": file}, tmp_path / "small.pth")
    Extractor(SMALL, tmp_path / "small.pth").check(seen.digest)
    rejects_weights(rf"False .* not those .*{seen.digest}", Extractor(SMALL, False).check, seen.digest)
    timm_weights.unlink()
    again = pickle.loads(pickle.dumps(seen))
    assert torch.equal(again(torch.ones(1, 1, 8, 8)), seen(torch.ones(1, 1, 8, 8)))


def test_files_of_other_classifiers_or_none_have_features(tmp_path: Path, timm_weights: Path) -> None:
    weights = load_file(timm_weights)
    body = {key: value for key, value in weights.items() if not key.startswith("classifier.")}
    save_file(body, tmp_path / "body.safetensors")
    save_file(body | {"classifier.weight": torch.zeros(10, 1024)}, tmp_path / "ten.safetensors")
    image = torch.rand(1, 1, 32, 32)
    expected = Extractor(SMALL, timm_weights, "features")(image)
    for file in ("body", "ten"):
        assert torch.equal(Extractor(SMALL, tmp_path / f"{file}.safetensors", "features")(image), expected)
    rejects_weights(r"body\.safetensors.* no classifier", Extractor(SMALL, tmp_path / "body.safetensors").load)
    rejects_weights(r"\(10, 1024\), expected \(1000, 1024\)", Extractor(SMALL, tmp_path / "ten.safetensors").load)


def test_files_of_other_networks_are_rejected(tmp_path: Path, timm_weights: Path) -> None:
    rejects_weights(r"does not fit.*test_resnet.*conv1\.", Extractor("test_resnet", timm_weights, "features").load)
    rejects_weights(r"absent\.pt.* model\.extractor_weights", Extractor(SMALL, tmp_path / "absent.pt").load)


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
    rejects_weights(r"no weights of vovnet39a", Extractor("vovnet39a", True).load)


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
def test_unknown_names_are_rejected_with_the_nearest(name: str, nearest: str) -> None:
    rejects(rf"'{re.escape(name)}' is unknown; did you mean {nearest}\?$", Extractor, name, False)


def real_weights(real_data: Path, name: str) -> Path:
    path = real_data.parent / "weights" / name
    if not path.is_file():
        pytest.skip(f"there are no real weights at {path}")
    return path


def photograph(real_data: Path, side: int = 224) -> Tensor:
    picture = Image.open(min((real_data / "colorization_photos").rglob("*.jpg"))).convert("L")
    return to_tensor(picture.resize((side, side)))[None].repeat(1, 3, 1, 1)


@pytest.mark.real
def test_real_logits_of_the_published_resnet50_are_those_of_its_own_convention(real_data: Path, tmp_path: Path) -> None:
    weights = {
        key: value.float() for key, value in load_file(real_weights(real_data, "resnet50_fp16.safetensors")).items()
    }
    model = resnet50()
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    model.load_state_dict(weights, strict=False)
    image = photograph(real_data)
    means = torch.tensor([123.68, 116.779, 103.939]).view(3, 1, 1)
    deviations = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = model.eval()(image * 255 - means)
    folded = weights | {"conv1.weight": weights["conv1.weight"] * 255 * deviations}
    vector = Extractor("resnet50_v1", saved(tmp_path / "folded.safetensors", folded))(image)
    assert vector.argmax() == expected.argmax()
    assert nn.functional.cosine_similarity(vector, expected).item() > 0.999


@pytest.mark.real
def test_real_features_of_vgg16_are_torchvisions(real_data: Path) -> None:
    path = real_weights(real_data, "vgg16_features_fp16.safetensors")
    with torch.device("meta"):  # its dense layers nowhere in memory
        model = vgg16()
    model.load_state_dict({key: value.float() for key, value in load_file(path).items()}, strict=False, assign=True)
    image = photograph(real_data)
    with torch.no_grad():
        maps = model.features(normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    torch.testing.assert_close(Extractor("vgg16", path, "features")(image), maps.mean((2, 3)))
    rejects_weights(r"resnet50_v1: 26. of its 3.. tensors", Extractor("resnet50_v1", path).load)


@pytest.mark.real
def test_real_logits_of_mobilenet_v2_are_torchvisions(real_data: Path, tmp_path: Path) -> None:
    weights = load_file(real_weights(real_data, "mobilenet_v2.safetensors"))
    model = mobilenet_v2().eval()
    model.load_state_dict(weights)
    image = photograph(real_data)
    with torch.no_grad():
        expected = model(normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    names = timm.create_model("mobilenetv2_100").state_dict()  # the same layers in the same order
    renamed = {name: weights[key] for name, key in zip(names, model.state_dict(), strict=True)}
    vector = Extractor("mobilenetv2_100", saved(tmp_path / "renamed.safetensors", renamed))(image)
    torch.testing.assert_close(vector, expected, rtol=1e-4, atol=1e-4)
    assert vector.std() > 1


@pytest.mark.real
def test_real_weights_say_the_same_by_either_name(real_data: Path) -> None:
    path = real_weights(real_data, "resnet50_fp16.safetensors")
    image = photograph(real_data)
    found = Extractor("resnet50.tv_in1k", path)(image)
    torch.testing.assert_close(found, Extractor("resnet50", path)(image), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_inception_resnet_v2_says_what_timms_says_of_normalized_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("inception_resnet_v2").eval()
    nn.init.normal_(model.classif.bias)
    image = torch.rand(1, 3, 299, 299)
    with torch.no_grad():
        expected = model(2 * image - 1)
    path = saved(tmp_path / "model.safetensors", model.state_dict())
    torch.testing.assert_close(Extractor("inception_resnet_v2", path)(image), expected)
    assert sum(p.numel() for p in model.parameters()) == 55_843_464
