"""Networks and options that the runs of `test_export.py` do not have, in ONNX: each equals torch, or is rejected."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from belvedere.export import write_model
from belvedere.portable import Portable, portable
from belvedere.run import Model
from ops.errors import ExportError
from tasks.aesthetics import AestheticsTask
from tasks.base import ImageTask
from tasks.clouds import CloudsTask
from tasks.colorization import ColorizationTask
from tasks.roads import RoadsTask

SIZES = ((64, 96), (70, 90), (45, 61))
"""Of images; the first one is the example of the export."""
WHOLE = {"kind": "resized", "size": [64, 96]}
WINDOWS = {"kind": "resized", "size": [32, 32], "window": [48, 48], "overlap": 0.5}
SQUARE = {"kind": "letterboxed", "side": 64}


def clouds(architecture: Any, encoder: str, **options: Any) -> Callable[[], ImageTask]:
    return lambda: CloudsTask(architecture=architecture, encoder=encoder, pretrained=False, **options)


def roads(network: Any, **options: Any) -> Callable[[], ImageTask]:
    return lambda: RoadsTask(network, **options)


TASKS = {
    "FPN with EfficientNet": (clouds("fpn", "efficientnet-b0", tta="flip"), WHOLE),
    "features of timm": (roads("features", encoder="mobilenetv3_small_050"), WHOLE),
    "VGG10 with batch normalization": (roads("vgg10", norm="batch", init="he", tta="flip"), WINDOWS),
    "VGG10 with a border": (roads("vgg10", norm="batch", init="he", tta="flip", border=8), WHOLE),
    "classes of colors": (lambda: ColorizationTask(extractor=None, objective="classes"), SQUARE),
}


@pytest.fixture
def images() -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


def written(task: ImageTask, preparation: dict[str, Any], path: Path, image: Any) -> Portable:
    """Writes a task with varied normalization as a file; returns what the file shall compute."""
    generator = torch.Generator().manual_seed(0)
    for module in task.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.running_var):
                assert values is not None
                values.add_(0.2 * torch.rand(values.shape, generator=generator))
    module = portable(task, preparation)
    write_model(module, image, path, {"preparation": preparation, "task": type(task).__name__, "version": ""})
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_networks_in_onnx_equal_torch(name: str, tmp_path: Path, images: list[Any]) -> None:
    torch.manual_seed(0)
    make, preparation = TASKS[name]
    task = make()
    module = written(task, preparation, tmp_path / "model.onnx", images[0])
    model = Model(tmp_path / "model.onnx", 1)
    for image in images:
        given = torch.from_numpy(image[None])
        with torch.no_grad():
            expected = module(given)[0][0].numpy().astype(np.float64)
            if preparation is WHOLE and image is images[0]:  # nothing is resized
                expected = task.probability({"image": given.permute(0, 3, 1, 2) / 255})[0].numpy()
        found = model.outputs(image)[module.names[0]].astype(np.float64)
        assert found.shape == expected.shape
        assert expected.std() > 0
        assert np.abs(found - expected).max() <= (1 if preparation is SQUARE else 1e-4), image.shape


@pytest.mark.slow
def test_an_output_may_have_the_name_of_an_operation(tmp_path: Path, images: list[Any]) -> None:
    """torch calls the pooling `mean`, as the mean vote is called."""
    torch.manual_seed(0)
    task = AestheticsTask("alexnet_torchvision", 8, head="distribution", pretrained=False, freeze_convolutions=False,
                          pool_side=1, tta="flip")  # fmt: skip
    preparation = {"kind": "squared", "side": 72, "size": 64, "squeeze": False}
    module = written(task, preparation, tmp_path / "model.onnx", images[0])
    assert "mean" in module.names
    for image in images:
        with torch.no_grad():
            expected = module(torch.from_numpy(image[None]))
        found = Model(tmp_path / "model.onnx", 1).outputs(image)
        for name, values in zip(module.names, expected, strict=True):
            np.testing.assert_allclose(found[name], values[0].numpy(), atol=1e-4)


@pytest.mark.slow
def test_a_border_in_windows_is_rejected(tmp_path: Path, images: list[Any]) -> None:
    """The size of the network's input follows the image, and how far it is reflected would too."""
    task = RoadsTask("vgg10", norm="batch", tta="flip", border=8)
    with pytest.raises(ExportError, match=r"cannot convert .* Nothing was written\. .* --model\.border 0"):
        written(task, WINDOWS, tmp_path / "model.onnx", images[0])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_pspnet_in_windows_is_rejected(trained: Callable[[str], Path], belvedere: Callable[..., Any]) -> None:
    message = belvedere("export", "--ckpt_path", str(trained("roads")), "--output", "file").refusal
    assert "export unet, fpn or vgg instead" in message
    assert "Nothing was written" in message
    assert not list(Path().rglob("*.onnx"))
