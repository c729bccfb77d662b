from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, resnet50, vgg16
from torchvision.transforms.functional import normalize, to_tensor

from ops.errors import WeightsError
from tasks.networks.extractor import Extractor


def saved(path: Path, weights: dict[str, Tensor]) -> Path:
    save_file(weights, path)
    return path


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
    with pytest.raises(WeightsError, match=r"does not fit the encoder resnet50_v1: 26. of its 3.. tensors"):
        Extractor("resnet50_v1", path).load()


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
def test_inception_resnet_v2_says_what_timms_says_of_normalised_pictures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("inception_resnet_v2").eval()
    nn.init.normal_(model.classif.bias)
    image = torch.rand(1, 3, 299, 299)
    with torch.no_grad():
        expected = model(2 * image - 1)
    path = saved(tmp_path / "model.safetensors", model.state_dict())
    torch.testing.assert_close(Extractor("inception_resnet_v2", path)(image), expected)
    assert sum(p.numel() for p in model.parameters()) == 55_843_464
