import warnings
from pathlib import Path

import pytest
from lightning.pytorch.plugins.environments import SLURMEnvironment

from belvedere.cli import quiet


@pytest.mark.parametrize("job", [None, "4711"])
def test_that_srun_was_not_used_is_said_in_a_job_only(
    job: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    if job is not None:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet()
        assert not SLURMEnvironment.detect()
    said = [str(each.message) for each in caught if "`srun`" in str(each.message)]
    assert len(said) == (job is not None)
