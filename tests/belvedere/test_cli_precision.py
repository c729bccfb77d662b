from typing import Any

import pytest
import torch

from belvedere.cli import mixed_precision


@pytest.mark.parametrize(
    ("asked", "accelerator", "gpu", "bfloat16", "taken"),
    [
        ("bf16-mixed", "gpu", True, True, "bf16-mixed"),
        ("bf16-mixed", "gpu", True, False, "16-mixed"),
        ("bf16-mixed", "auto", True, False, "16-mixed"),
        ("bf16-mixed", "cpu", True, False, "bf16-mixed"),
        ("bf16-mixed", "auto", False, False, "bf16-mixed"),
        ("32-true", "gpu", True, False, "32-true"),
        (None, "gpu", True, False, None),
    ],
)
def test_bfloat16_is_taken_where_the_gpu_has_it(
    asked: str | None,
    accelerator: str,
    gpu: bool,
    bfloat16: bool,
    taken: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def supported(**options: Any) -> bool:
        assert options == {"including_emulation": False}  # emulated, it is slower than single precision
        return bfloat16

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
    assert mixed_precision(asked, accelerator) == taken
    said = capsys.readouterr().err
    assert (said == "belvedere: Tesla V100 has no bfloat16; 16-mixed is taken instead.\n") is (taken != asked)
