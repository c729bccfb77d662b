import time
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ops.errors import WeightsError
from tasks.networks import backbones
from tasks.networks.backbones import encoder_of, load_encoder, segmentation_network, timm_classifier
from tasks.networks.weights import fill_weights
from tests.checks import rejects, rejects_weights
from tests.tasks.networks.helpers import hub, real_weights, same, saved, settle, state, trained, without_gradient

# architectures.md, section 5: counted without the encoder layers that PSPNet never uses
COUNTS = {
    ("unet", "resnet34"): 24_436_804,
    ("unet", "resnet101"): 51_513_668,
    ("unet", "mobilenet_v2"): 6_629_380,
    ("unet", "inceptionresnetv2"): 62_029_732,
    ("fpn", "resnet34"): 23_155_780,
    ("fpn", "resnet101"): 45_108_548,
    ("fpn", "mobilenet_v2"): 4_215_812,
    ("fpn", "inceptionresnetv2"): 56_734_628,
    ("pspnet", "resnet34"): 1_515_044,
    ("pspnet", "resnet101"): 2_251_716,
    ("pspnet", "mobilenet_v2"): 108_796,
    ("pspnet", "inceptionresnetv2"): 2_122_772,
}
ARCHITECTURES = ("unet", "fpn", "pspnet")


def on_meta(architecture: str, encoder: str = "mobilenet_v2", classes: int = 4) -> nn.Module:
    with torch.device("meta"):
        return segmentation_network(architecture, encoder, classes)


@pytest.fixture
def weights(real_data: Path) -> Path:
    return real_weights(real_data, "mobilenet_v2.safetensors")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("tasks.networks.weights._online", lambda: False)


@pytest.mark.parametrize(("architecture", "encoder"), COUNTS)
def test_parameters_are_counted_and_all_get_a_gradient(architecture: str, encoder: str) -> None:
    network = on_meta(architecture, encoder).train()
    assert trained(network) == COUNTS[architecture, encoder]
    network(torch.zeros(2, 3, 64, 64, device="meta")).sum().backward()
    assert without_gradient(network) == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_any_size_keeps_its_size(architecture: str) -> None:
    network = on_meta(architecture, classes=3).eval()
    for height, width in zip(range(33, 98, 8), range(97, 32, -8), strict=True):
        assert network(torch.zeros(1, 3, height, width, device="meta")).shape == (1, 3, height, width)


@pytest.mark.parametrize(("architecture", "size"), [("unet", (32, 64)), ("fpn", (64, 32)), ("pspnet", (48, 40))])
def test_padding_does_not_matter_where_the_size_divides(architecture: str, size: tuple[int, int]) -> None:
    network = segmentation_network(architecture, "mobilenet_v2", 2).eval()
    normalize, any_size = network.children()
    image = torch.rand(1, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(network(image), any_size.network(normalize(image)))  # the order in memory differs


def test_normalization_is_the_encoders_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = []

    def noted(*card: tuple[float, ...]) -> nn.Module:
        cards.append(card)
        return nn.Identity()

    monkeypatch.setattr(backbones, "Normalize", noted)
    for encoder in ("resnet34", "mobilenet_v2", "inceptionresnetv2"):
        on_meta("unet", encoder)
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert cards == [imagenet, imagenet, ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))]


def test_suggests_the_nearest_names() -> None:
    for encoder, nearest in [
        ("resnet43", ".*resnet34"),
        ("mobilenetv2", "mobilenet_v2"),
        ("timm-efficientnet-b0", ""),  # its normalization differs
    ]:
        rejects(f"'{encoder}' is unknown; did you mean {nearest}", segmentation_network, "fpn", encoder, 1)
    rejects("'fnp' is unknown.* unet, pspnet, fpn", segmentation_network, "fnp", "resnet34", 1)


@pytest.mark.real
@pytest.mark.parametrize(("architecture", "tensors"), [("fpn", 312), ("pspnet", 108)])  # 0 to 6 of its 19 blocks
def test_real_weights_load_every_tensor(weights: Path, architecture: str, tensors: int) -> None:
    network = segmentation_network(architecture, "mobilenet_v2", 1)
    decoder = {key: value for key, value in state(network).items() if ".encoder." not in key}
    load_encoder(network, "mobilenet_v2", str(weights))
    file, encoder = load_file(weights), encoder_of(network).state_dict()
    assert len(encoder) == tensors
    assert all(torch.equal(value, file[key]) for key, value in encoder.items())
    assert all(torch.equal(network.state_dict()[key], value) for key, value in decoder.items())
    other = segmentation_network("unet", "resnet18", 1)
    rejects_weights(r"mobilenet_v2\.safetensors does not fit.*resnet18", load_encoder, other, "resnet18", weights)


@pytest.mark.parametrize("key", ["encoder.{}", "network.1.network.encoder.{}"])
def test_the_encoder_of_a_whole_network_with_other_bands_is_a_start(key: str, tmp_path: Path) -> None:
    bands = {"blue": (0.3, 0.2), "green": (0.25, 0.3), "red": (0.2, 0.1), "nir": (0.4, 0.5)}
    torch.manual_seed(0)
    original = settle(smp.encoders.get_encoder("resnet18", in_channels=4, weights=None))
    weights = {key.format(name): value for name, value in original.state_dict().items()}
    torch.save({"state_dict": weights | {"decoder.weight": torch.zeros(1)}}, tmp_path / "whole.ckpt")
    network = segmentation_network("unet", "resnet18", 1, bands).eval()
    load_encoder(network, "resnet18", tmp_path / "whole.ckpt", bands)
    image = torch.rand(2, 3, 64, 64)
    seen = {name: (image[:, at] - bands[name][0]) / bands[name][1] for at, name in enumerate(("red", "green", "blue"))}
    seen["nir"] = torch.stack(list(seen.values())).mean(dim=0)
    with torch.no_grad():
        expected = original(torch.stack([seen[name] for name in bands], dim=1))
        found = encoder_of(network)(network[0](image))  # type: ignore[index]  # a sequence
    for one, other in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    plain = segmentation_network("unet", "resnet18", 1)
    rejects_weights(
        "sees 4 bands: give --model.pretrained_bands", load_encoder, plain, "resnet18", tmp_path / "whole.ckpt"
    )
    more = (load_encoder, network, "resnet18", tmp_path / "whole.ckpt", {**bands, "swir": (0.1, 0.1)})
    rejects_weights("sees 4 bands; pretrained_bands names 5", *more)
    for wrong in ({"red": (0.1, 0.2)}, {**bands, "nir": (0.1, 0.0)}):
        rejects("a mean and a standard deviation above 0", segmentation_network, "unet", "resnet18", 1, wrong)


@pytest.mark.real
def test_the_satellite_network_sees_the_same(real_data: Path) -> None:
    path = real_weights(real_data, "satellite_unet_efficientnet_b4_4band_fp16.safetensors")
    cards = {"blue": (0.2755, 0.2449), "green": (0.2557, 0.2276), "red": (0.2698, 0.2537), "nir": (0.3343, 0.2321)}
    original = smp.encoders.get_encoder("efficientnet-b4", in_channels=4, weights=None).eval()
    file = {key.removeprefix("encoder."): value.float() for key, value in load_file(path).items()}
    original.load_state_dict({key: file.get(key, value) for key, value in original.state_dict().items()})
    network = segmentation_network("unet", "efficientnet-b4", 1, cards).eval()
    load_encoder(network, "efficientnet-b4", path, cards)
    with Image.open(min((real_data / "roads" / "images").iterdir())) as file_:
        image = torch.from_numpy(np.asarray(file_.convert("RGB"))[:128, :128].copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        colors = network[0](image)  # type: ignore[index]  # a sequence
        expected = original(torch.cat([colors.flip(1), colors.mean(1, keepdim=True)], dim=1))
        for one, other in zip(encoder_of(network)(colors)[1:], expected[1:], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_weights_of_efficientnet_pytorch_fit_timms_networks() -> None:
    torch.manual_seed(0)
    port = settle(smp.encoders.get_encoder("efficientnet-b0", weights=None))
    classifier = timm_classifier("tf_efficientnet_b0", 0).eval().get_submodule("classifier")
    fill_weights(classifier, port.state_dict(), "tf_efficientnet_b0", "a port", "timm's")
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = port(image)[-1]
        _, maps = classifier.forward_intermediates(image)  # type: ignore[operator]  # timm's method
    torch.testing.assert_close(maps[-1], expected, rtol=1e-3, atol=1e-4)


def encoder_weights(network: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    wanted = encoder_of(network).state_dict()
    drawn = {key: torch.rand(value.shape, generator=generator) for key, value in wanted.items()}
    return drawn | {"fc.weight": torch.zeros(1000, 512)}


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "nested.pth", "half.safetensors"])
def test_weights_files_of_every_kind(tmp_path: Path, suffix: str) -> None:
    network = segmentation_network("pspnet", "resnet18", 1)
    drawn = encoder_weights(network)
    path = tmp_path / f"weights.{suffix}"
    if suffix == "half.safetensors":  # without the batches counted by batch normalisation, as converted files are
        drawn = {key: value.half() for key, value in drawn.items() if not key.endswith("num_batches_tracked")}
    if suffix.endswith("safetensors"):
        save_file(drawn, path)
    else:
        torch.save({"state_dict": drawn} if suffix == "nested.pth" else drawn, path)
    load_encoder(network, "resnet18", path)
    loaded = encoder_of(network).state_dict()
    for key, value in drawn.items():
        if not key.startswith("fc.") and loaded[key].is_floating_point():
            assert torch.equal(loaded[key], value.float()), key
    assert loaded["conv1.weight"].dtype == torch.float32


@pytest.mark.usefixtures("no_network")
def test_library_weights_without_network_fail_at_once_in_a_paragraph() -> None:
    network = segmentation_network("pspnet", "resnet18", 1)
    start = time.perf_counter()
    with pytest.raises(WeightsError) as caught:
        load_encoder(network, "resnet18", True)
    assert time.perf_counter() - start < 5
    message = str(caught.value)
    assert "\n" not in message
    for part in ("weights of resnet18", "(no network)", "--model.pretrained path/to", "--model.pretrained false"):
        assert part in message


def test_library_weights_come_from_the_cache_or_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    network = segmentation_network("pspnet", "resnet18", 1)
    drawn = encoder_weights(network)
    saved(tmp_path / "model.safetensors", drawn)
    before, asked = state(network), hub(monkeypatch, tmp_path)
    load_encoder(network, "resnet18", False)
    assert same(network, before)
    load_encoder(network, "resnet18", True)
    assert asked == [("smp-hub/resnet18.imagenet", True)]
    assert torch.equal(encoder_of(network).conv1.weight, drawn["conv1.weight"])

    def download(*_: str, revision: str, local_files_only: bool = False) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no") if local_files_only else TimeoutError

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr("tasks.networks.weights._online", lambda: True)
    rejects_weights(r"cannot be fetched \(TimeoutError", load_encoder, network, "resnet18", True)
    rejects_weights(r"model\.pretrained .* got None", load_encoder, network, "resnet18", None)
