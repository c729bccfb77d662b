"""The job files of docs/jobs and a study's job array on a real SLURM."""

import os
import random
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.belvedere.test_shards import draw, results
from tests.helpers import ROOT, table
from tests.slurm_cluster import Cluster, cluster, missing, until

JOBS = ROOT / "docs" / "jobs"
CPU = ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--trainer.sync_batchnorm", "false"]
SMALL = ["--config", "clouds/demo", "--model.architecture", "pspnet", "--data.size", "[33,48]", "--data.output_size",
         "[35,53]", "--data.batch_size", "2", "--panels.every_n_epochs", "100", "--config", "steps.yaml"]  # fmt: skip
# Every process logs its steps. Where a file asks for it, it waits in a step until it is signaled or the file is gone:
# what a signal interrupts is then the same on any machine.
STEPS = """\
import os
import time
from pathlib import Path
from callbacks.signals import received
from lightning.pytorch import Callback

class Steps(Callback):
    def on_train_batch_start(self, trainer, *arguments):
        with Path(trainer.default_root_dir, f"steps-{trainer.global_rank}").open("a") as file:
            print(trainer.current_epoch, trainer.global_step, file=file)
        holds = Path(os.environ.get("HOLDS", "unheld"))
        signaled, gone_on = (holds / f"{trainer.global_step}-{until}" for until in ("signaled", "removed"))
        while gone_on.exists() or (signaled.exists() and not received()):
            time.sleep(0.05)
"""
# A process that predicts a shard says which it is, and waits before its second batch while a file is there.
SHARDS = """\
import os
import time
from pathlib import Path
from lightning.pytorch import Callback

class Shards(Callback):
    def on_predict_batch_start(self, trainer, pl_module, batch, batch_index):
        shard, holds = os.environ.get("SLURM_ARRAY_TASK_ID", "none"), Path(os.environ.get("HOLDS", "unheld"))
        if batch_index == 1:
            Path(f"process-{shard}").write_text(str(os.getpid()))
        while batch_index == 1 and (holds / f"shard-{shard}").exists():
            time.sleep(0.05)
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
curves: [val/dice]
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
                 "MASTER_ADDR": "127.0.0.1"}  # fmt: skip  # the nodes' names are made up
    for name in ("BELVEDERE_RUN", "PL_GLOBAL_SEED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    slurm.environment.update(os.environ)
    return lambda *arguments: slurm.run("sbatch", "--parsable", *arguments)


@contextmanager
def holding(slurm: Cluster, *holds: str) -> Iterator[Callable[[str], None]]:
    """Makes the jobs submitted inside wait in these steps; gives a function that ends a wait."""
    folder = Path("holds").absolute()
    folder.mkdir()
    for hold in holds:
        (folder / hold).touch()
    slurm.environment["HOLDS"] = str(folder)
    yield lambda hold: (folder / hold).unlink()
    del slurm.environment["HOLDS"]


def steps(run: Path, rank: int) -> list[str]:
    """Epoch and number of each step that a process took."""
    path = run / f"steps-{rank}"
    return path.read_text().splitlines() if path.is_file() else []


def reached(slurm: Cluster, job: str, run: Path, step: int, ranks: int = 1) -> None:
    """Waits until all processes of a job are in a step, the first of which is 0."""

    def there() -> bool:
        slurm.check_unended(job)
        return all(len(steps(run, rank)) > step for rank in range(ranks))

    until(there, lambda: slurm.report(job))


def test_a_job_stopped_twice_ends_like_one_that_was_not(
    slurm: Cluster,
    submit: Callable[..., str],
    clouds_root: Path,
    same_run: Callable[[Path, Path], None],
) -> None:
    shape = ["--nodes=2", "--ntasks-per-node=1", "--gres=none", "--cpus-per-task=1", "--time=30"]
    options = [*SMALL, *CPU, "--data.root", str(clouds_root), "--data.num_workers", "1", "--trainer.max_epochs", "5"]
    whole = submit(*shape, str(JOBS / "train.sh"), *options)
    with holding(slurm, "2-signaled", "8-signaled"):
        stopped = submit(*shape, str(JOBS / "train.sh"), *options)
    one, other = (Path("runs") / f"belvedere-{job}" for job in (whole, stopped))

    reached(slurm, stopped, other, step=2, ranks=2)
    slurm.run("scancel", "--signal=USR1", stopped)  # as SLURM does before the time is over
    slurm.requeued(stopped, times=1)
    assert f"Job {stopped} was requeued." in slurm.log(stopped)
    reached(slurm, stopped, other, step=8, ranks=2)
    slurm.run("scontrol", "requeue", stopped)  # as an administrator does: SIGTERM, and soon SIGKILL
    slurm.requeued(stopped, times=2)
    for job in (whole, stopped):
        assert slurm.ended(job) == "COMPLETED", slurm.report(job)

    assert slurm.log(stopped).count("Resume with --resume auto.") == 2
    for rank in (0, 1):
        assert steps(other, rank) == steps(one, rank)
        assert [int(line.split()[1]) for line in steps(one, rank)] == list(range(len(steps(one, rank))))
    assert len(steps(one, 0)) == 5 * 3
    same_run(one, other)


def test_a_canceled_job_is_not_requeued(slurm: Cluster, submit: Callable[..., str], clouds_root: Path) -> None:
    shape = ["--nodes=1", "--ntasks-per-node=1", "--gres=none", "--cpus-per-task=1", "--time=30"]
    options = [*SMALL, *CPU, "--data.root", str(clouds_root), "--data.num_workers", "0", "--trainer.max_epochs", "5"]
    with holding(slurm, "2-removed") as release:
        job = submit(*shape, str(JOBS / "train.sh"), *options)
    reached(slurm, job, Path("runs") / f"belvedere-{job}", step=2)
    slurm.run("scancel", "--signal=USR1", job)  # noted; the batch goes on until SLURM knows that the job is canceled
    slurm.run("scancel", job)
    until(lambda: slurm.job(job)["JobState"] != "RUNNING", lambda: slurm.report(job))
    release("2-removed")
    assert slurm.ended(job) == "CANCELLED", slurm.report(job)
    until(lambda: "saved the state of" in slurm.log(job), lambda: slurm.report(job), patience=60)
    assert f"Job {job} was canceled and is not requeued." in slurm.log(job)
    assert slurm.job(job)["Restarts"] == "0"


def test_torchrun_and_an_array_of_seeds_resume(slurm: Cluster, submit: Callable[..., str], clouds_root: Path) -> None:
    slurm.environment["GPUS"] = "1"  # a process a node
    shape = ["--gres=none", "--cpus-per-task=1", "--time=30"]
    options = [*SMALL, *CPU, "--data.root", str(clouds_root), "--data.num_workers", "1", "--trainer.max_epochs", "5"]
    with holding(slurm, "4-signaled") as release:
        torchrun = submit(*shape, str(JOBS / "torchrun.sh"), *options)
        array = submit(*shape, "--array=0-1", str(JOBS / "array.sh"), *options)
    two = Path("runs") / f"belvedere-{torchrun}"
    seeds = [Path("runs") / f"belvedere-seeds-{array}" / f"seed-{seed}" for seed in (0, 1)]

    for job, run, ranks, name in ((f"{array}_0", seeds[0], 1, "USR1"), (torchrun, two, 2, "TERM")):
        reached(slurm, job, run, step=4, ranks=ranks)
        slurm.run("scancel", f"--signal={name}", job)
        slurm.requeued(job, times=1)
    release("4-signaled")
    for job in (torchrun, f"{array}_0", f"{array}_1"):
        assert slurm.ended(job) == "COMPLETED", slurm.report(job)
    for job in (torchrun, f"{array}_0"):
        assert slurm.log(job).count("Resume with --resume auto.") == 1
    for run, rank, count in ((two, 0, 15), (two, 1, 15), (seeds[0], 0, 30), (seeds[1], 0, 30)):
        assert [int(line.split()[1]) for line in steps(run, rank)] == list(range(count))


def test_a_job_array_runs_a_study(slurm: Cluster, submit: Callable[..., str], clouds_root: Path) -> None:
    Path("quokka.yaml").write_text(STUDY)
    Path("overlay.yaml").write_text(OVERLAY)
    study = ["belvedere", "study", "quokka", "--data.root", str(clouds_root)]
    Path("job.sh").write_text(slurm.run(*study, "--slurm", "overlay.yaml"))
    with holding(slurm, "4-signaled") as release:
        job = submit("job.sh")
    run = Path("runs/studies/quokka/cells/pspnet/seed-0")

    reached(slurm, f"{job}_0", run, step=4)
    slurm.run("scancel", "--batch", "--signal=USR1", f"{job}_0")  # as SLURM does before the time is over
    slurm.requeued(f"{job}_0", times=1)
    release("4-signaled")
    for task in range(2):
        assert slurm.ended(f"{job}_{task}") == "COMPLETED", slurm.report(f"{job}_{task}")
    assert "Received SIGTERM: saved the state of epoch" in (run / "log.txt").read_text()
    assert [int(line.split()[1]) for line in steps(run, 0)] == list(range(6 * 3))

    slurm.run(*study, "--report")
    assert len(table("runs/studies/quokka/results.csv")) == 2
    assert Path("runs/studies/quokka/table.md").read_text().count("0.") >= 2


def test_a_killed_shard_is_run_again_and_the_merge_is_what_one_process_makes(
    slurm: Cluster, submit: Callable[..., str], trained: Callable[[str], Path], tmp_path: Path
) -> None:
    checkpoint = trained("roads")
    Path("shards.py").write_text(SHARDS)
    Path("shards.yaml").write_text("trainer: {callbacks+: [{class_path: shards.Shards}]}")
    Path("overlay.yaml").write_text(OVERLAY)
    predict = ["belvedere", "predict", "--ckpt_path", str(checkpoint), "--config", "shards.yaml", "--data.pictures",
               str(draw(tmp_path / "images")), "--data.num_workers", "0", "--data.batch_size", "8"]  # fmt: skip
    slurm.run(*predict, "--output", "whole", check=False)  # code 3: an image is broken
    Path("job.sh").write_text(slurm.run(*predict, "--output", "own", "--shards", "3", "--slurm", "overlay.yaml"))
    killed = random.randrange(3)
    with holding(slurm, f"shard-{killed}") as release:
        said = slurm.run("bash", "job.sh")
    array, merge = re.findall(r"job (\d+)", said)

    process = Path(f"process-{killed}")
    until(process.is_file, lambda: slurm.report(f"{array}_{killed}"))
    os.kill(int(process.read_text()), signal.SIGKILL)
    slurm.requeued(f"{array}_{killed}", times=1)
    release(f"shard-{killed}")
    for shard in range(3):
        assert slurm.ended(f"{array}_{shard}") == "COMPLETED", slurm.report(f"{array}_{shard}")
    assert slurm.ended(merge) == "FAILED", slurm.report(merge)
    assert slurm.job(merge)["ExitCode"] == "3:0", "an image is broken"
    assert results(Path("own")) == results(Path("whole"))
