import pytest
import torch

from ops.exact.backends import check_backend, full_precision
from tests.checks import rejects

HOST = torch.device("cpu")


def test_products_are_not_rounded_and_settings_come_back() -> None:
    one, other = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(0)).unbind()
    expected = one @ other
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            with full_precision(HOST):
                assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
                assert torch.backends.cudnn.conv.fp32_precision == "ieee"
                assert torch.equal(one @ other, expected)
            assert (one @ other).dtype == torch.bfloat16
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_settings_come_back_after_an_error() -> None:
    before = torch.backends.cudnn.conv.fp32_precision
    with pytest.raises(RuntimeError, match="inside"), full_precision(HOST):
        raise RuntimeError("inside")
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_an_unknown_backend_is_rejected() -> None:
    rejects("'pillow' is unknown", check_backend, "pillow")
