"""A study on a cluster: the script of a SLURM job array, one task a run."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ops.errors import StudyError
from studies.plan import SHIPPED, Study, nearest

DEFAULT = SHIPPED / "slurm" / "default.yaml"
NAME, COUNT = r"\w[\w.,+-]*", r"[1-9]\d*"
# What the overlay may say: a pattern, and what it is in words.
WANTED = {
    "partition": (NAME, "a name or null"),
    "account": (NAME, "a name or null"),
    "time": (r"(\d+-)?\d+(:[0-5]\d){0,2}", "hours:minutes:seconds or days-hours"),
    "gpus": (r"(\w+:)?[01]", "1, a100:1 for a kind, or 0: a run is one process, which uses one"),
    "cpus": (COUNT, "a whole number from 1 on"),
    "memory": (r"\d+[KMGT]?", "a number of megabytes, or such as 32G"),
    "at_once": (COUNT, "a whole number from 1 on or null"),
    "requeues": (r"\d+", "a whole number from 0 on"),
}
NEVER_NULL = ("time", "gpus", "cpus", "requeues")
WARNING = 120  # seconds before the end of a job at which it is told so; SLURM may take a minute more

SCRIPT = """\
#!/bin/bash
{directives}
# {runs} of the study {name}. Submit it again after anything: what is finished is passed over, the rest goes on.
# The table, whenever you like: {report}

# This shell alone is told by USR1 that its time will soon be over. It has SLURM tell the run, which saves its state:
# srun, asked to end, would kill it.
task="${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID" # SLURM_JOB_ID alone may mean the whole array
stopped=
child=
stop() {{
  stopped=1
  [ -z "$child" ] || scancel --signal=TERM "$task"
}}
trap stop USR1

export WANDB_MODE=offline # compute nodes have no network; `wandb sync` afterwards
{setup}if [ -z "$stopped" ]; then
  # srun does not take over by itself how many cores a task has
  srun --cpus-per-task="$SLURM_CPUS_PER_TASK" {command} --run "$SLURM_ARRAY_TASK_ID" &
  child=$!
  [ -z "$stopped" ] || kill -TERM "$child" # the signal came before there was anything to save
  warned=$((128 + $(kill -l USR1)))
  code=$warned
  while [ "$code" -eq "$warned" ]; do # the signal ended the waiting, not the run
    wait "$child"
    code=$?
  done
fi
if [ -n "$stopped" ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {requeues} ]; then
  scontrol requeue "$task"
fi
exit "${{code:-1}}"
"""


def array_script(study: Study, command: Sequence[str], overlay: Path | None) -> str:
    """The script that `sbatch` is given: a job array whose task n is the study's run n.

    Each task is one process on one node. Its log, `slurm/<n>.log` in the study's folder, is made longer, not anew, when
    the task is put into the queue again, as it is at the end of its time. The folder of the logs is made here: SLURM
    opens them before it runs the script, and without a word about a folder that is not there.

    Args:
        study: What is run.
        command: What is typed to run the study here, in the working folder: `belvedere study NAME` and what follows.
        overlay: A YAML file that says what a run asks for, as `configs/studies/slurm/default.yaml` does; what it leaves
            out is as there.

    Raises:
        StudyError: The overlay cannot be used.
    """
    asked = _asked(DEFAULT) | ({} if overlay is None else _asked(overlay))
    logs = _folder(study, command) / "slurm"
    logs.mkdir(parents=True, exist_ok=True)
    last = len(study.runs) - 1
    directives = {
        "job-name": shlex.quote(f"belvedere-{study.name}"),  # Lightning takes "bash" and "interactive" for no job
        "array": f"0-{last}" + (f"%{asked['at_once']}" if asked["at_once"] else ""),
        "partition": asked["partition"],
        "account": asked["account"],
        "time": asked["time"],
        "nodes": "1",
        "ntasks-per-node": "1",  # Lightning refuses --ntasks
        "cpus-per-task": asked["cpus"],
        "gres": None if asked["gpus"].endswith("0") else f"gpu:{asked['gpus']}",
        "mem": asked["memory"],
        "chdir": shlex.quote(str(Path.cwd())),
        "output": shlex.quote(str(logs).replace("%", "%%") + "/%a.log"),
        "open-mode": "append",
        "signal": f"B:USR1@{WARNING}",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in directives.items() if value]
    return SCRIPT.format(
        directives="\n".join([*lines, "#SBATCH --requeue"]),
        runs=f"{len(study.runs)} runs" if last else "The only run",
        name=study.name,
        report=shlex.join([*command, "--report"]),
        setup="".join(f"{line}\n" for line in asked["setup"]),
        command=shlex.join(command),
        requeues=asked["requeues"],
    )


def _folder(study: Study, command: Sequence[str]) -> Path:
    """The study's folder, as the command chooses it."""
    folder = Path("runs", "studies", study.name)
    for index, word in enumerate(command):
        if word == "--output" and index + 1 < len(command):
            folder = Path(command[index + 1])
        elif word.startswith("--output="):
            folder = Path(word.removeprefix("--output="))
    return folder.expanduser().absolute()


def _asked(path: Path) -> dict[str, Any]:
    """What an overlay says, as text, with None where it says null; `setup` is a list."""
    try:
        # every value as it is written: 12:00:00 would be a number otherwise
        said = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StudyError(f"{path} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(said, dict):
        raise StudyError(f"{path} is {said!r}; keys with values were wanted: {', '.join(WANTED)}, setup.")
    asked: dict[str, Any] = {}
    for key, value in said.items():
        if key == "setup":
            lines = [] if value in ("", "null", "~") else [value] if isinstance(value, str) else value
            if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
                raise StudyError(f"{path}: setup is {value!r}; a list of lines of shell was wanted.")
            asked[key] = lines
            continue
        if key not in WANTED:
            known = [*WANTED, "setup"]
            raise StudyError(f"{path}: there is no key {key!r}.{nearest(key, known) or f' Known: {known}.'}")
        pattern, words = WANTED[key]
        asked[key] = None if value in ("", "null", "~") and key not in NEVER_NULL else value
        if asked[key] is not None and not (isinstance(value, str) and re.fullmatch(pattern, value)):
            raise StudyError(f"{path}: {key} is {value!r}; {words} was wanted.")
    return asked
