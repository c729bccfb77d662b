from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import mobilenet_v2
from torchvision.transforms.functional import normalize, to_tensor

from tasks.networks.backbones import IMAGENET, Stages
from tasks.networks.frozen_linear import half
from tasks.networks.linear_judge import LinearJudge
from tests.checks import rejects, rejects_weights
from tests.tasks.networks.helpers import real_weights


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def by_hand(maps: list[Tensor]) -> Tensor:
    """Mean and standard deviation of each channel, in double precision."""
    values = []
    for each in maps:
        flat = each.double().flatten(2)
        values += [flat.mean(2), (flat - flat.mean(2, keepdim=True)).square().mean(2).sqrt()]
    return torch.cat(values, dim=1).float()


def test_vectors_are_the_statistics_of_torchvisions_stages(image: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = mobilenet_v2().eval()
    for name, values in model.state_dict().items():
        if name.endswith("running_mean"):
            values.normal_()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    network = LinearJudge(["mobilenet_v2"], 2, tta="none")
    network.load({"mobilenet_v2": tmp_path / "weights.safetensors"})
    for values in model.parameters():  # of half precision where they are in checkpoints
        values.data = half(values.data).float()
    maps, x = [], normalize(image, *IMAGENET)
    with torch.no_grad():
        for number, layer in enumerate(model.features):
            x = layer(x)
            if number in (1, 3, 6, 13, 18):
                maps.append(x)
    assert network.length == 2 * (16 + 24 + 32 + 96 + 1280)
    torch.testing.assert_close(network.flat(image), by_hand(maps), atol=1e-4, rtol=1e-4)


def test_several_networks_are_side_by_side_and_transformers_add_their_last_vector(image: Tensor) -> None:
    network = LinearJudge(["test_resnet", "test_vit"], 2, tta="none")
    with torch.no_grad():
        first, second = (stages(image) for stages in network.backbones)
        vit: Any = network.backbones[1].network
        prepared = normalize(image, list(vit.default_cfg["mean"]), list(vit.default_cfg["std"]))
        token = vit(prepared)  # without a classifier
    assert first[1] == []
    assert len(second[0]) == 6
    torch.testing.assert_close(second[1][0], token)
    wanted = torch.cat([by_hand(first[0]), by_hand(second[0]), token], dim=1)
    torch.testing.assert_close(network.flat(image), wanted, atol=1e-4, rtol=1e-4)
    assert network.length == wanted.shape[1]
    assert torch.equal(network.forward_features(image)["pooled"], network.flat(image))


def test_mirror_images_are_averaged(image: Tensor) -> None:
    network = LinearJudge(["test_resnet"], 2)
    plain = LinearJudge(["test_resnet"], 2, tta="none")
    plain.load_state_dict(network.state_dict())
    wanted = (plain.flat(image) + plain.flat(image.flip(3))) / 2
    torch.testing.assert_close(network.flat(image), wanted)
    torch.testing.assert_close(network.flat(image), network.flat(image.flip(3)))
    assert not torch.allclose(plain.flat(image), plain.flat(image.flip(3)), atol=1e-3)


def test_the_linear_layer_is_as_filled_and_exact_under_mixed_precision(image: Tensor) -> None:
    network = LinearJudge(["test_resnet"], 2)
    before = network.fitted
    assert not before
    assert torch.equal(network(image), torch.zeros(3, 2))
    generator = torch.Generator().manual_seed(0)
    mean, scale, weight, bias = (
        torch.rand(*shape, generator=generator)
        for shape in ((network.length,), (network.length,), (network.length, 2), (2,))
    )
    network.fill(mean, scale, weight, bias)
    assert network.fitted
    vectors = network.flat(image)
    wanted = ((vectors - mean) * scale) @ weight + bias
    torch.testing.assert_close(network(image), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network.flat(image), vectors)
        torch.testing.assert_close(network(image), wanted)


def test_only_the_linear_layer_is_trained(image: Tensor) -> None:
    network = LinearJudge(["test_resnet"], 2).train()
    assert {name for name, each in network.named_parameters() if each.requires_grad} == {"output.weight", "output.bias"}
    assert not any(each.training for each in network.backbones.modules())
    before = network.flat(image)
    assert torch.equal(network.flat(image), before)


def test_synchronized_batch_normalization_changes_nothing(image: Tensor) -> None:
    network = LinearJudge(["mobilenetv2_050"], 2)  # timm's batch normalization contains the activation
    before = network.flat(image)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    torch.testing.assert_close(converted.flat(image), before)
    assert before.std() > 0.01


def test_transformers_take_other_sizes_or_resize(image: Tensor) -> None:
    assert Stages("vit_small_patch14_dinov2").network.patch_embed.img_size == (518, 518)
    assert Stages("test_vit").eval()(image)[0][0].shape == (3, 64, 4, 4)
    fixed = Stages("test_vit")
    fixed.side = 160
    assert fixed.eval()(image)[0][0].shape == (3, 64, 10, 10)


def test_weights_of_timm_networks_have_timms_keys(image: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = timm.create_model("test_vit")  # with a classifier, which is ignored
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    network = LinearJudge(["test_vit"], 2)
    network.load({"test_vit": str(tmp_path / "vit.pth")})
    stages: Any = network.backbones[0]
    found = stages.network.state_dict()
    assert torch.equal(found["blocks.0.attn.qkv.weight"], model.state_dict()["blocks.0.attn.qkv.weight"].half().float())
    assert torch.equal(found["norm.weight"], model.state_dict()["norm.weight"])
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    rejects_weights("does not fit .* test_vit.*timm's keys", network.load, {"test_vit": tmp_path / "other.safetensors"})
    rejects_weights("no weights file .*model.backbones", network.load, {"test_vit": "gone.pth"})
    rejects_weights("belong to resnet50", LinearJudge(["resnet50_v1"], 2).load, {"resnet50_v1": True})


def test_rejects_unknown_networks_and_small_images() -> None:
    rejects("'mobilenet_v3' is unknown; did you mean", LinearJudge, ["mobilenet_v3"], 2)
    rejects("32 pixels a side or more, got", LinearJudge(["test_resnet"], 2).flat, torch.zeros(1, 3, 64, 31))


@pytest.mark.real
def test_keras_resnet50_recognizes_a_photograph_as_it_is_published(real_data: Path) -> None:
    from PIL import Image

    path = real_weights(real_data, "resnet50_fp16.safetensors")
    network = LinearJudge(["resnet50_v1"], 2, tta="none")
    network.load({"resnet50_v1": path})
    weights = load_file(path)
    picture = Image.open(min((real_data / "colorization_photos").rglob("*.jpg"))).convert("RGB").resize((224, 224))
    last = network.flat(to_tensor(picture)[None])[:, -4096:-2048]
    probability = nn.functional.linear(last, weights["fc.weight"].float(), weights["fc.bias"].float()).softmax(1)
    assert probability.max() > 0.3  # of a thousand classes; images that are scaled otherwise have no clear one
