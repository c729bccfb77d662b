"""The job files of docs/jobs and a study's job array on a real SLURM."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT, table
from tests.slurm_cluster import Cluster, cluster, missing, until

JOBS = ROOT / "docs" / "jobs"
CPU = ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--trainer.sync_batchnorm", "false"]
SMALL = ["--config", "clouds/demo", "--model.architecture", "pspnet", "--data.size", "[33,48]", "--data.output_size",
         "[35,53]", "--data.batch_size", "2", "--panels.every_n_epochs", "100", "--config", "steps.yaml"]  # fmt: skip
# Every process logs its steps, slowly enough to be stopped.
STEPS = """\
import time
from pathlib import Path
from lightning.pytorch import Callback

class Steps(Callback):
    def on_train_batch_start(self, trainer, *arguments):
        with Path(trainer.default_root_dir, f"steps-{trainer.global_rank}").open("a") as file:
            print(trainer.current_epoch, trainer.global_step, file=file)
        time.sleep(0.2)
"""
CONFIG = """\
trainer:
  logger: [{class_path: callbacks.loggers.CSVLogger}]
  callbacks+: [{class_path: steps.Steps}]
"""
STUDY = """
question: Does it run on a cluster?
options:
  config: [clouds/demo, steps.yaml]
  data.size: [33, 48]
  data.output_size: [35, 53]
  data.batch_size: 5
  trainer.max_epochs: 6
  panels.pictures: 1
axes:
  architecture:
    PSPNet: {model.architecture: pspnet}
    FPN: {model.architecture: fpn}
seeds: [0]
columns:
- {figure: test/dice, title: dice, better: max, definition: Dice of Kaggle.}
curve: val/dice
"""
OVERLAY = "gpus: 0\ncpus: 1\nmemory: null\ntime: '00:30:00'\n"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of two nodes."""
    with cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def submit(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Submits a job from an empty folder, as a user whose environment is active, and gives its number."""
    monkeypatch.chdir(tmp_path)
    Path("steps.py").write_text(STEPS)
    Path("steps.yaml").write_text(CONFIG)
    variables = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": f"{ROOT}:{tmp_path}",
                 "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}  # fmt: skip  # the nodes' names are made up
    for name in ("BELVEDERE_RUN", "PL_GLOBAL_SEED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    slurm.environment.update(os.environ)
    return lambda *arguments: slurm.run("sbatch", "--parsable", *arguments)


def steps(run: Path, rank: int) -> list[str]:
    """Epoch and number of each step that a process took."""
    path = run / f"steps-{rank}"
    return path.read_text().splitlines() if path.is_file() else []


def test_a_job_stopped_twice_ends_like_one_that_was_not(
    slurm: Cluster,
    submit: Callable[..., str],
    clouds_root: Path,
    same_run: Callable[[Path, Path], None],
) -> None:
    shape = ["--nodes=2", "--ntasks-per-node=1", "--gres=none", "--cpus-per-task=1", "--time=30"]
    options = [*SMALL, *CPU, "--data.root", str(clouds_root), "--data.num_workers", "1", "--trainer.max_epochs", "5"]
    whole, stopped = (submit(*shape, str(JOBS / "train.sh"), *options) for _ in range(2))
    one, other = (Path("runs") / f"belvedere-{job}" for job in (whole, stopped))
    log = Path(f"belvedere-{stopped}.out")

    def taken(count: int) -> None:
        until(lambda: len(steps(other, 0)) >= count, lambda: log.read_text())

    taken(2)
    slurm.run("scancel", "--signal=USR1", stopped)  # as SLURM does before the time is over
    slurm.requeued(stopped, times=1)
    assert f"Job {stopped} was requeued." in log.read_text()
    taken(8)
    slurm.run("scontrol", "requeue", stopped)  # as an administrator does: SIGTERM, and soon SIGKILL
    slurm.requeued(stopped, times=2)
    assert [slurm.ended(job) for job in (whole, stopped)] == ["COMPLETED", "COMPLETED"]

    assert log.read_text().count("Resume with --resume auto.") == 2
    for rank in (0, 1):
        assert steps(other, rank) == steps(one, rank)
        assert [int(line.split()[1]) for line in steps(one, rank)] == list(range(len(steps(one, rank))))
    assert len(steps(one, 0)) == 5 * 3
    same_run(one, other)


def test_a_canceled_job_is_not_requeued(slurm: Cluster, submit: Callable[..., str], clouds_root: Path) -> None:
    shape = ["--nodes=1", "--ntasks-per-node=1", "--gres=none", "--cpus-per-task=1", "--time=30"]
    options = [*SMALL, *CPU, "--data.root", str(clouds_root), "--data.num_workers", "0", "--trainer.max_epochs", "5"]
    job = submit(*shape, str(JOBS / "train.sh"), *options)
    log, run = Path(f"belvedere-{job}.out"), Path("runs") / f"belvedere-{job}"
    until(lambda: len(steps(run, 0)) >= 2, lambda: log.read_text())
    slurm.run("scancel", "--signal=USR1", job)  # noted; the batch goes on for a moment
    slurm.run("scancel", job)
    assert slurm.ended(job) == "CANCELLED"
    until(lambda: "saved the state of" in log.read_text(), lambda: log.read_text(), patience=60)
    assert f"Job {job} was canceled and is not requeued." in log.read_text()
    assert slurm.job(job)["Restarts"] == "0"


def test_torchrun_and_an_array_of_seeds_resume(slurm: Cluster, submit: Callable[..., str], clouds_root: Path) -> None:
    slurm.environment["GPUS"] = "1"  # a process a node
    shape = ["--gres=none", "--cpus-per-task=1", "--time=30"]
    options = [*SMALL, *CPU, "--data.root", str(clouds_root), "--data.num_workers", "1", "--trainer.max_epochs", "5"]
    torchrun = submit(*shape, str(JOBS / "torchrun.sh"), *options)
    array = submit(*shape, "--array=0-1", str(JOBS / "array.sh"), *options)
    two = Path("runs") / f"belvedere-{torchrun}"
    seeds = [Path("runs") / f"belvedere-seeds-{array}" / f"seed-{seed}" for seed in (0, 1)]

    def said() -> str:
        return "\n".join(path.read_text() for path in sorted(Path().glob("*.out")))

    for job, run, name in ((f"{array}_0", seeds[0], "USR1"), (torchrun, two, "TERM")):
        until(lambda run=run: len(steps(run, 0)) >= 2, said)
        slurm.run("scancel", f"--signal={name}", job)
        slurm.requeued(job, times=1)
    jobs = [torchrun, f"{array}_0", f"{array}_1"]
    assert [slurm.ended(job) for job in jobs] == ["COMPLETED"] * 3, said()
    assert said().count("Resume with --resume auto.") == 2
    for run, rank, count in ((two, 0, 15), (two, 1, 15), (seeds[0], 0, 30), (seeds[1], 0, 30)):
        assert [int(line.split()[1]) for line in steps(run, rank)] == list(range(count))


def test_a_job_array_runs_a_study(slurm: Cluster, submit: Callable[..., str], clouds_root: Path) -> None:
    Path("quokka.yaml").write_text(STUDY)
    Path("overlay.yaml").write_text(OVERLAY)
    study = ["belvedere", "study", "quokka", "--data.root", str(clouds_root)]
    Path("job.sh").write_text(slurm.run(*study, "--slurm", "overlay.yaml"))
    job = submit("job.sh")
    run = Path("runs/studies/quokka/cells/pspnet/seed-0")
    logs = Path("runs/studies/quokka/slurm")

    def said() -> str:
        return "\n".join(path.read_text() for path in sorted(logs.iterdir()))

    until(lambda: len(steps(run, 0)) >= 4, said)
    slurm.run("scancel", "--batch", "--signal=USR1", f"{job}_0")  # as SLURM does before the time is over
    slurm.requeued(f"{job}_0", times=1)
    assert [slurm.ended(f"{job}_{task}") for task in range(2)] == ["COMPLETED", "COMPLETED"], said()
    assert "Received SIGTERM: saved the state of epoch" in (run / "log.txt").read_text()
    assert [int(line.split()[1]) for line in steps(run, 0)] == list(range(6 * 3))

    slurm.run(*study, "--report")
    assert len(table("runs/studies/quokka/results.csv")) == 2
    assert Path("runs/studies/quokka/table.md").read_text().count("0.") >= 2
