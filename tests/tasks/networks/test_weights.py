from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from torch import nn

from tasks.networks import weights
from tasks.networks.weights import fill_weights, read_weights
from tests.checks import rejects_weights


def test_a_module_is_filled_from_half_precision_with_its_own_tensors_only() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    drawn = {key: torch.rand(value.shape).half() for key, value in module.state_dict().items() if "num_" not in key}
    fill_weights(module, drawn | {"other": torch.zeros(1)}, "tiny", "a file")
    found = module.state_dict()
    assert all(
        torch.equal(found[key], value.float()) and found[key].dtype == torch.float32 for key, value in drawn.items()
    )
    assert found["1.num_batches_tracked"] == 0


def test_rejects_other_weights_and_fills_nothing() -> None:
    module = nn.Linear(3, 4)
    before, bias = module.bias.clone(), torch.full((4,), 9.0)
    for given, message in [
        ({"bias": bias}, "the encoder tiny: 1 of its 2 tensors are missing, first 'weight'.* timm's keys"),
        ({"bias": bias, "weight": torch.zeros(4, 2)}, r"the encoder tiny: 'weight' has the shape \(4, 2\)"),
    ]:
        rejects_weights(message, fill_weights, module, given, "tiny", "a file", keys="timm's")
    assert torch.equal(module.bias, before)


@pytest.mark.parametrize("heads", [True, False])
def test_heads_are_read_on_request(tmp_path: Path, heads: bool) -> None:
    saved = {"conv.weight": torch.rand(2), "head.fc.weight": torch.rand(3), "classifier.bias": torch.rand(4)}
    torch.save(saved, tmp_path / "whole.pt")
    found = read_weights(tmp_path / "whole.pt", heads)
    assert list(found) == (list(saved) if heads else ["conv.weight"])
    assert all(torch.equal(value, saved[key]) for key, value in found.items())


def test_rejects_files_without_weights(tmp_path: Path) -> None:
    for name in ("text.safetensors", "text.pt"):
        (tmp_path / name).write_text("no weights")
        rejects_weights(rf"{name} could not be read as a weights file", read_weights, tmp_path / name)
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    rejects_weights(r"epoch\.pt contains no tensors", read_weights, tmp_path / "epoch.pt")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    rejects_weights(r"list\.pt", read_weights, tmp_path / "list.pt")
    rejects_weights(r"no weights file .*absent\.pt", read_weights, tmp_path / "absent.pt")


def test_online_is_decided_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert not weights._online()
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    assert weights._online()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not weights._online()
