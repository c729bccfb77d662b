import pickle
from collections import OrderedDict
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor, nn

from ops.errors import WeightsError
from tasks.networks import extractor
from tasks.networks.backbones import EXTRACTORS, load_features
from tasks.networks.extractor import REPOSITORIES, SIDES, Extractor


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
def test_grey_is_stacked_and_pictures_are_resized() -> None:
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
    with pytest.raises(
        WeightsError, match=rf"other\.safetensors of the extractor resnet50 are not those .* wanted {whole.digest}"
    ):
        other.check(whole.digest)


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
    with pytest.raises(
        WeightsError, match=r"w\.safetensors.* have no classifier, so .*: --model\.extractor_vector fea"
    ):
        Extractor("resnet50", path).load()


@pytest.mark.usefixtures("small")
def test_a_classifier_of_other_classes_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.safetensors", drawn(classes=10))
    with pytest.raises(WeightsError, match=r"a classifier of the shape \(10, 2048\), wanted is \(1000, 2048\)\. Take"):
        Extractor("resnet50", path).load()


@pytest.mark.usefixtures("small")
def test_weights_that_do_not_fit_or_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights file .*absent\.pt\. Give .* to model\.extractor_weights, or"):
        Extractor("resnet50", tmp_path / "absent.pt").load()
    path = saved(tmp_path / "w.safetensors", drawn("inception_resnet_v2"))
    with pytest.raises(WeightsError, match=r"w\.safetensors does not fit the encoder resnet50: 'weight' has the shape"):
        Extractor("resnet50", path).load()


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
    with pytest.raises(
        WeightsError, match=r"weights of inception_resnet_v2 .*\(no network\).*--model\.extractor_weights "
    ):
        Extractor().load()


def test_there_are_no_library_weights_of_the_published_resnet50() -> None:
    with pytest.raises(WeightsError, match=r"no weights of resnet50_v1\. Give a file: --model\.extractor_weights path"):
        Extractor("resnet50_v1", True).load()
    with pytest.raises(WeightsError, match=r"weights are those of resnet50, which halves elsewhere"):
        load_features(nn.Sequential(), "resnet50_v1", True)


@pytest.mark.parametrize(
    ("name", "vector", "message"),
    [
        ("resnet51", "logits", r"extractor 'resnet51' is unknown; did you mean resnet.* or .*\?$"),
        ("vgg16", "logits", r"extractor vgg16 with the vector 'logits'; wanted .*, of vgg16 'features'\."),
        ("resnet50", "softmax", r"extractor resnet50 with the vector 'softmax'; wanted is 'logits' or 'features',"),
    ],
)
def test_what_there_is_not_is_refused(name: str, vector: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Extractor(name, False, vector)
