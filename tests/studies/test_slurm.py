import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ops.errors import StudyError
from studies.plan import read_study
from studies.slurm import array_script

Write = Callable[..., Path]

# Stand-ins for the commands of SLURM: srun runs the command here; each logs its arguments.
SRUN = """#!/bin/bash
echo "srun $*" >> {log}
echo $$ > {log}.process
sleep 0.2 # the script has to know its child before a test sends signals
exec "${{@:2}}"
"""
SCANCEL = """#!/bin/bash
echo "scancel $*" >> {log}
kill -TERM "$(cat {log}.process)"
"""
SCONTROL = '#!/bin/bash\necho "scontrol $*" >> {log}\n'
COMMAND = """#!/bin/bash
trap 'echo "stopped" >> {log}; sleep {slow}; exit 9' TERM
echo "begun $*" >> {log}
for _ in $(seq {naps}); do sleep 0.05; done
exit {code}
"""


pytestmark = pytest.mark.usefixtures("working_folder")


@pytest.fixture
def script(study_file: Write, tmp_path: Path) -> Callable[..., str]:
    """Returns the script of a study of six runs, whose command is `COMMAND`, with an overlay of this text."""

    def write(overlay: str = "", command: list[str] | None = None) -> str:
        (tmp_path / "overlay.yaml").write_text(overlay)
        command = command or [str(tmp_path / "command"), "study", "tiny", "--output", str(tmp_path / "my study")]
        return array_script(read_study(study_file()), command, tmp_path / "overlay.yaml" if overlay else None)

    return write


@pytest.fixture
def submit(script: Callable[..., str], tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts the script as SLURM does, as task 3 of job 77."""
    log, binaries = tmp_path / "log", tmp_path / "bin"
    binaries.mkdir()
    started: list[subprocess.Popen[bytes]] = []

    def run(overlay: str = "", naps: int = 400, code: int = 0, slow: float = 0, **more: str) -> Any:
        texts = {binaries / "srun": SRUN, binaries / "scontrol": SCONTROL,
                 binaries / "scancel": SCANCEL, tmp_path / "command": COMMAND}  # fmt: skip
        for path, text in texts.items():
            path.write_text(text.format(log=log, naps=naps, code=code, slow=slow))
            path.chmod(0o755)
        (tmp_path / "job.sh").write_text(script(overlay))
        job = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "8"}
        environment = os.environ | job | {"PATH": f"{binaries}:{os.environ['PATH']}"} | more
        started.append(subprocess.Popen(["bash", "job.sh"], env=environment))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def logged(tmp_path: Path, word: str, seconds: float = 20) -> list[str]:
    """Waits for a line of the log that starts with this word, and returns all lines."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        lines = (tmp_path / "log").read_text().splitlines() if (tmp_path / "log").is_file() else []
        if any(line.startswith(word) for line in lines):
            return lines
        time.sleep(0.02)
    raise AssertionError(f"nothing was logged of {word!r}")


def directives(text: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH ")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_the_array_has_a_task_per_run(script: Callable[..., str], tmp_path: Path) -> None:
    text = script()
    assert directives(text) == {
        "job-name": "belvedere-tiny", "array": "0-5", "time": "08:00:00", "nodes": "1", "ntasks-per-node": "1",
        "cpus-per-task": "8", "gres": "gpu:1", "mem": "32G", "chdir": str(tmp_path),
        "output": f"'{tmp_path}/my study/slurm/%a.log'", "open-mode": "append", "signal": "B:USR1@120", "requeue": "",
    }  # fmt: skip
    assert text.startswith("#!/bin/bash\n#SBATCH ")
    assert (tmp_path / "my study" / "slurm").is_dir()  # SLURM opens the logs before it runs the script
    assert "# 6 runs of the study tiny." in text


def test_an_overlay_wins(script: Callable[..., str]) -> None:
    found = directives(script(
        "partition: gpu,long\naccount: me\ntime: 2-00\ngpus: a100:1\ncpus: 4\nmemory: null\nat_once: 2\nrequeues: 0"
    ))  # fmt: skip
    assert found["partition"] == "gpu,long"
    assert found["account"] == "me"
    assert (found["time"], found["gres"], found["cpus-per-task"]) == ("2-00", "gpu:a100:1", "4")
    assert found["array"] == "0-5%2"
    assert "mem" not in found
    assert "gres" not in directives(script("gpus: 0"))
    assert directives(script("time: 12:00:00"))["time"] == "12:00:00"  # a number in YAML 1.1


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("partion: gpu", "'partion'. Did you mean partition?"),
        ("gpus: 4", "gpus is '4'; expected 0, 1"),
        ("time: null", "time is 'null'; expected hours"),
        ("time: soon", "time is 'soon'"),
        ("time: 1:99:99", "time is '1:99:99'"),
        ("partition: -x", "partition is '-x'; expected a name"),
        ("memory: 32 GB", "memory is '32 GB'; expected a number"),
        ("partition: a b", "partition is 'a b'"),
        ("cpus: [1]", "cpus is ['1']; expected a positive integer"),
        ("setup: {a: b}", "setup is {'a': 'b'}; expected a list"),
        ("setup: [[a]]", "setup is [['a']]"),
        ("- a", "is ['a']; expected keys"),
        ("a: [", "not valid YAML"),
    ],
)
def test_invalid_overlays_are_rejected(script: Callable[..., str], overlay: str, message: str) -> None:
    with pytest.raises(StudyError) as error:
        script(overlay)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        ([], "runs/studies/tiny"),
        (["--output=a%b"], "a%b"),
        (["--output", "it's x", "--data.root", "a b;c"], "it's x"),
    ],
)
def test_logs_are_in_the_folder_of_the_study(
    script: Callable[..., str], tmp_path: Path, arguments: list[str], folder: str
) -> None:
    text = script("setup: ['source venv/bin/activate']", ["belvedere", "study", "tiny", *arguments])
    assert (tmp_path / folder / "slurm").is_dir()
    expected = f"{tmp_path}/{folder}/slurm/%a.log".replace("a%b", "a%%b")
    assert "".join(shlex.split(directives(text)["output"])) == expected
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


@pytest.mark.parametrize("code", [0, 3])
def test_a_task_ends_as_its_run_does(submit: Callable[..., Any], tmp_path: Path, code: int) -> None:
    assert submit(naps=1, code=code).wait(20) == code
    command = f"{tmp_path}/command study tiny --output {tmp_path}/my study --run 3"
    assert logged(tmp_path, "begun") == [f"srun --cpus-per-task=8 {command}", f"begun {command.split(' ', 1)[1]}"]


def test_setup_and_offline_dashboard_come_before_the_run(submit: Callable[..., Any], tmp_path: Path) -> None:
    overlay = f'setup: ["echo first $WANDB_MODE >> {tmp_path}/log", "export SECOND=2"]'
    assert submit(overlay, naps=1).wait(20) == 0
    assert logged(tmp_path, "begun")[0] == "first offline"


def test_a_signaled_task_stops_its_run_and_is_requeued(submit: Callable[..., Any], tmp_path: Path) -> None:
    job = submit(slow=0.3)
    logged(tmp_path, "begun")
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 9
    # only after the run has ended: it may be writing its last checkpoint
    assert logged(tmp_path, "scontrol")[2:] == ["scancel --signal=TERM 77_3", "stopped", "scontrol requeue 77_3"]


def test_a_task_is_not_requeued_forever(submit: Callable[..., Any], tmp_path: Path) -> None:
    job = submit("requeues: 2", SLURM_RESTART_COUNT="2")
    logged(tmp_path, "begun")
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 9
    assert logged(tmp_path, "stopped")[-1] == "stopped"


def test_a_signal_during_setup_prevents_the_run(submit: Callable[..., Any], tmp_path: Path) -> None:
    job = submit(f'setup: ["echo setup >> {tmp_path}/log", "sleep 1"]')
    logged(tmp_path, "setup")
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 1
    assert logged(tmp_path, "scontrol") == ["setup", "scontrol requeue 77_3"]
