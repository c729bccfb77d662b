import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import efficientnet_b0, mobilenet_v2, resnet50
from torchvision.transforms.functional import normalize, resize, to_tensor

from tasks.networks import extractor
from tasks.networks.backbones import CARDS, EXTRACTORS, IMAGENET, load_features
from tasks.networks.extractor import REPOSITORIES, SIDES, Extractor
from tests.checks import rejects, rejects_weights
from tests.tasks.networks.helpers import hub, real_weights, saved


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classifiers of one convolution, in the place of those that take seconds to build."""

    def built(name: str) -> nn.Sequential:
        convolution = nn.Conv2d(3, EXTRACTORS[name][0], 5, 8)
        return nn.Sequential(
            OrderedDict(normalize=nn.Identity(), features=nn.ModuleDict({"conv1": convolution})["conv1"])
        )

    monkeypatch.setattr(extractor, "feature_extractor", built)


SMALL = "mobilenetv3_small_050"
NAMES = ["resnet50", SMALL]
SMALL_ONES = (SMALL, "test_resnet", "test_vit.r160_in1k")  # of 224 and 160 pixels, some with layers after the last map


def drawn(name: str = "resnet50", head: str | None = "fc", classes: int = 1000) -> dict[str, Tensor]:
    """Weights for the classifiers of `small`."""
    generator = torch.Generator().manual_seed(1)
    channels = EXTRACTORS[name][0]
    shapes: dict[str, tuple[int, ...]] = {"weight": (channels, 3, 5, 5), "bias": (channels,)}
    if head is not None:
        shapes |= {f"{head}.weight": (classes, channels), f"{head}.bias": (classes,)}
    return {key: torch.randn(shape, generator=generator).half().float() for key, shape in shapes.items()}


def weights_of(name: str, classes: int = 1000) -> dict[str, Tensor]:
    """Weights for a classifier of `small` or of timm; without classes, those before the last layer."""
    if name in EXTRACTORS:
        return drawn(name, "fc" if classes else None, classes)
    torch.manual_seed(1)
    weights = timm.create_model(name).state_dict()
    if classes != 1000:
        weights = {key: value for key, value in weights.items() if not key.startswith("classifier.")}
    if classes == 10:
        weights |= {"classifier.weight": torch.zeros(10, 1024), "classifier.bias": torch.zeros(10)}
    return {key: value.half().float() if value.is_floating_point() else value for key, value in weights.items()}


@pytest.mark.parametrize("vector", ["logits", "features"])
@pytest.mark.parametrize("name", ["resnet50", "inception_resnet_v2"])
@pytest.mark.usefixtures("small")
def test_a_vector_is_the_mean_of_the_maps_or_its_logits(tmp_path: Path, name: str, vector: str) -> None:
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
    with torch.autocast("cpu", torch.bfloat16):
        assert seen(grey).dtype == torch.float32


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
def test_a_task_does_not_own_its_extractors_weights() -> None:
    task = Task()
    task.extractor.load()
    assert list(task.state_dict()) == ["network.weight", "network.bias"]
    assert sum(parameter.numel() for parameter in task.parameters()) == 1001
    network = task.train().extractor._loaded()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.usefixtures("small")
def test_vectors_from_inference_mode_can_be_trained_on() -> None:
    task = Task()
    image = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        seen = task.extractor(image)
    vector = task.extractor(image)
    assert torch.equal(vector, seen)
    task.network(vector).sum().backward()
    torch.testing.assert_close(task.network.weight.grad[0], vector.sum(0))


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
def test_lengths_are_those_of_timms_vectors(name: str, logits: int, features: int) -> None:
    with torch.device("meta"):
        extractors = [Extractor(name, False, "logits"), Extractor(name, False, "features")]
        image = torch.zeros(1, 1, 32, 32)
        assert [seen(image).shape[1] for seen in extractors] == [logits, features]
    assert [seen.length for seen in extractors] == [logits, features]


def test_it_is_built_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built, plain = [], timm.create_model
    path = saved(tmp_path / "w.safetensors", weights_of(SMALL))

    def counted(name: str, **settings: Any) -> nn.Module:
        built.append(name)
        model: nn.Module = plain(name, **settings)
        return model

    monkeypatch.setattr(timm, "create_model", counted)
    seen = Extractor(SMALL, path, "features")
    assert seen(torch.rand(1, 1, 32, 32)).shape == (1, seen.length)
    assert len(seen.digest) == 16
    assert built == [SMALL]
    Extractor(SMALL, path)
    assert built == [SMALL], "the length of logits is on the card"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("small")
def test_random_weights_are_fixed_and_leave_the_generator_alone(name: str) -> None:
    image = torch.rand(1, 1, 32, 32)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = Extractor(name, False)
    digest, seen = first.digest, first(image)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    second = Extractor(name, False)
    assert torch.equal(second(image), seen)
    assert second.digest == digest


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("small")
def test_the_digest_identifies_weights_and_not_files(name: str, tmp_path: Path) -> None:
    weights = weights_of(name)
    halves = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    path = saved(tmp_path / "whole.safetensors", weights)
    torch.save({"state_dict": halves}, tmp_path / "half.pth")
    whole, image = Extractor(name, path), torch.rand(1, 1, 32, 32)
    Extractor(name, tmp_path / "half.pth").check(whole.digest)
    *_, last = weights.values()
    last[7] += 1e-3
    other = Extractor(name, saved(tmp_path / "other.safetensors", weights))
    rejects_weights(rf"other\.safetensors .*{whole.digest}", other.check, whole.digest)
    rejects_weights(rf"False .* not those .*{whole.digest}", Extractor(name, False).check, whole.digest)
    path.unlink()
    again = pickle.loads(pickle.dumps(whole))  # another process needs no file
    assert torch.equal(again(image), whole(image))
    assert again.digest == whole.digest


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("small")
def test_logits_need_a_classifier_and_features_do_not(name: str, tmp_path: Path) -> None:
    image, length = torch.rand(1, 1, 32, 32), Extractor(name, False, "features").length
    expected = Extractor(name, saved(tmp_path / "whole.safetensors", weights_of(name)), "features")(image)
    body = saved(tmp_path / "body.safetensors", weights_of(name, classes=0))
    ten = saved(tmp_path / "ten.safetensors", weights_of(name, classes=10))
    for path in (body, ten):
        assert torch.equal(Extractor(name, path, "features")(image), expected)
    rejects_weights(r"body\.safetensors.* no classifier.*_vector features", Extractor(name, body).load)
    rejects_weights(rf"\(10, {length}\), expected \(1000, {length}\)", Extractor(name, ten).load)
    rejects_weights(r"absent\.pt.* model\.extractor_weights", Extractor(name, tmp_path / "absent.pt").load)


@pytest.mark.usefixtures("small")
def test_the_classifier_may_have_any_name_but_must_fit(tmp_path: Path) -> None:
    for head in ("fc", "classif", "last_linear", "head"):
        path = saved(tmp_path / f"{head}.safetensors", drawn(head=head))
        assert Extractor("resnet50", path)(torch.ones(1, 1, 8, 8)).shape == (1, 1000)
    path = saved(tmp_path / "w.safetensors", drawn("inception_resnet_v2"))
    rejects_weights(r"w\.safetensors does not fit .* 'weight' has", Extractor("resnet50", path).load)
    path = saved(tmp_path / "timm.safetensors", weights_of(SMALL))
    rejects_weights(r"does not fit.*test_resnet.*conv1\.", Extractor("test_resnet", path, "features").load)


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("resnet50", "timm/resnet50.tv_in1k"),
        (SMALL, f"timm/{SMALL}.lamb_in1k"),
        ("test_vit", "timm/test_vit.r160_in1k"),
        ("test_vit.r160_in1k", "timm/test_vit.r160_in1k"),
    ],
)
@pytest.mark.usefixtures("small")
def test_library_weights_come_from_the_right_repository(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, repository: str
) -> None:
    path = saved(tmp_path / "model.safetensors", weights_of(name))
    asked = hub(monkeypatch, tmp_path)
    seen = Extractor(name, True)
    seen.load()
    seen.check(Extractor(name, path).digest)
    assert asked == [(repository, True)]


@pytest.mark.usefixtures("small")
def test_rejects_missing_library_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("tasks.networks.weights._online", lambda: False)
    rejects_weights(r"no network.*--model\.extractor_weights .*--model\.extractor null\.$", Extractor().load)
    for name in ("resnet50_v1", "vovnet39a"):
        rejects_weights(rf"no weights of {name}.*--model\.extractor_weights", Extractor(name, True).load)
    rejects_weights("belong to resnet50", load_features, nn.Sequential(), "resnet50_v1", True)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet51", "resnet.* or .*"),
        ("mobilenet_v3_small", "mobilenetv3_small_100 or mobilenetv3_small_075 or mobilenetv3_small_050"),
        ("ResNet18", "resnet18 or .*"),
        ("resnet50v1", "resnet50_v1 or .*"),
        ("resnet18.a9_in1k", r"resnet18\.a._in1k or resnet18\.a._in1k or .*"),
        ("hf-hub:timm/resnet18", ".*"),  # which timm would fetch
        ("?", "vgg16 or resnet50 or resnet50_v1 or inception_resnet_v2"),
    ],
)
def test_suggests_the_nearest_names(name: str, nearest: str) -> None:
    rejects(rf"'{re.escape(name)}' is unknown; did you mean {nearest}\?$", Extractor, name, False)


def test_rejects_vectors_that_do_not_exist() -> None:
    rejects("for vgg16 'features', got 'logits' for vgg16", Extractor, "vgg16", False, "logits")
    rejects("'logits' or 'features', .* got 'softmax'", Extractor, "resnet50", False, "softmax")
    with torch.device("meta"):
        assert Extractor("vit_small_patch14_dinov2", False, "features").length == 384
    rejects("_dinov2 has no classifier.*features", Extractor, "vit_small_patch14_dinov2", False)


def photograph(real_data: Path, side: int = 224) -> Tensor:
    picture = Image.open(min((real_data / "colorization_photos").rglob("*.jpg"))).convert("L")
    return to_tensor(picture.resize((side, side)))[None].repeat(1, 3, 1, 1)


@pytest.mark.real
def test_real_logits_of_the_published_resnet50_are_those_of_its_own_convention(real_data: Path) -> None:
    path = real_weights(real_data, "resnet50_fp16.safetensors")
    weights = {key: value.float() for key, value in load_file(path).items()}
    model = resnet50()
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    model.load_state_dict(weights, strict=False)
    image = photograph(real_data)
    means = torch.tensor([123.68, 116.779, 103.939]).view(3, 1, 1)
    with torch.no_grad():
        expected = model.eval()(image * 255 - means)
    vector = Extractor("resnet50_v1", path)(image)
    assert vector.argmax() == expected.argmax()
    assert nn.functional.cosine_similarity(vector, expected).item() > 0.999


LADYBUG = 301  # of ImageNet's classes


@pytest.mark.real
@pytest.mark.parametrize(("name", "file"), [("resnet50_v1", "resnet50_fp16"), ("mobilenetv2_100", "mobilenet_v2")])
def test_extractors_recognize_a_real_ladybird(real_data: Path, name: str, file: str) -> None:
    path = real_weights(real_data, f"{file}.safetensors")
    picture = Image.open(real_data / "colorization_photos" / "mate_ladybird.jpg").convert("RGB")
    shares = Extractor(name, path)(to_tensor(picture)[None]).softmax(1)
    assert shares.argmax() == LADYBUG
    assert shares.max() > 0.7


@pytest.mark.parametrize("name", ["mobilenetv2_100", "efficientnet_b0"])
def test_files_of_torchvision_fit_the_same_networks_of_timm(name: str, tmp_path: Path) -> None:
    build = mobilenet_v2 if name == "mobilenetv2_100" else efficientnet_b0
    torch.manual_seed(0)
    model = build().eval()
    path = saved(tmp_path / "w.safetensors", model.state_dict())  # sorted by name: 10 before 2
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = model(normalize(image, *map(list, IMAGENET)))
    torch.testing.assert_close(Extractor(name, path)(image), expected, rtol=1e-3, atol=1e-4)
    assert Extractor(name, path, "features").digest  # of the file without its classifier
    wrong = {key: value for key, value in model.state_dict().items() if not key.startswith("features.3.")}
    rejects_weights("does not fit", Extractor(name, saved(tmp_path / "less.safetensors", wrong), "features").load)


@pytest.mark.parametrize(
    ("encoder", "twin"),
    [
        ("resnet34", "resnet34.tv_in1k"),
        ("resnet101", "resnet101.tv_in1k"),
        ("vgg16", "vgg16.tv_in1k"),
        ("mobilenet_v2", "mobilenetv2_100.ra_in1k"),
        ("inceptionresnetv2", "inception_resnet_v2.tf_in1k"),
        ("inceptionv4", "inception_v4.tf_in1k"),
    ],
)
def test_encoders_normalize_as_their_weights_expect(encoder: str, twin: str) -> None:
    """smp keeps its own cards on the hub, so timm's of the same network are the second source."""
    card = timm.get_pretrained_cfg(twin)
    family = next(family for family in CARDS if encoder.startswith(family))
    assert CARDS[family] == (card.mean, card.std)


@pytest.mark.slow
def test_inception_resnet_v2_equals_timms_on_normalized_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("inception_resnet_v2").eval()
    nn.init.normal_(model.classif.bias)
    image = torch.rand(1, 3, 299, 299)
    with torch.no_grad():
        expected = model(2 * image - 1)
    path = saved(tmp_path / "model.safetensors", model.state_dict())
    torch.testing.assert_close(Extractor("inception_resnet_v2", path)(image), expected)
    assert sum(p.numel() for p in model.parameters()) == 55_843_464
