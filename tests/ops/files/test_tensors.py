import resource
from pathlib import Path

import torch

from ops.files.tensors import write_tensors
from tests.checks import rejects


def test_a_file_that_does_not_fit_keeps_the_earlier_one_and_has_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write_tensors(path, {"a": torch.arange(3)}, sync=True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # as a full disk
    try:
        rejects("too large", write_tensors, path, {"a": torch.zeros(100_000)}, error=OSError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.load(path, weights_only=True)["a"].tolist() == [0, 1, 2]
    assert [each.name for each in tmp_path.iterdir()] == ["a.pt"]
