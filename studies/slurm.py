"""Generates SLURM job arrays: of a study, one task per run, and of anything else that numbers its parts."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ops.errors import ArgumentError, StudyError, nearest
from ops.files.names import safe_name
from ops.files.yamls import read_yaml
from studies.plan import SHIPPED, Study

DEFAULT = SHIPPED / "slurm" / "default.yaml"
NAME, COUNT = r"\w[\w.,+-]*", r"[1-9]\d*"
# Keys of the overlay: a pattern for the value, and its description.
KEYS = {
    "partition": (NAME, "a name or null"),
    "account": (NAME, "a name or null"),
    "time": (r"(\d+-)?\d+(:[0-5]\d){0,2}", "hours:minutes:seconds or days-hours"),
    "gpus": (r"(\w+:)?[01]", "0, 1, or a100:1 for a GPU type: a run is one process and uses one GPU"),
    "cpus": (COUNT, "a positive integer"),
    "memory": (r"\d+[KMGT]?", "a number of megabytes, or a size such as 32G"),
    "at_once": (COUNT, "a positive integer or null"),
    "requeues": (r"\d+", "an integer from 0"),
}
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # and what is not UTF-8
NEVER_NULL = ("time", "gpus", "cpus", "requeues")
# a task at its time limit, or one that was killed, up to five times: it may need more memory than it gets
AGAIN = '{ [ -n "$stopped" ] || { [ "$code" -eq 137 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 5 ]; }; }'
WARNING = 120  # seconds before a job's time limit at which SLURM signals it; it may be a minute earlier

SCRIPT = """\
#!/bin/bash
{directives}
{comment}

# SLURM sends USR1 to this shell alone, shortly before the time limit. The shell has SLURM signal the run, which saves
# its state; terminating srun instead would kill the run.
task="{task}"{why}
stopped=
child=
stop() {{
  stopped=1
  [ -z "$child" ] || scancel --signal=TERM "$task"
}}
trap stop USR1

export WANDB_MODE=offline # compute nodes have no network; run `wandb sync` afterwards
{setup}if [ -z "$stopped" ]; then
  # srun does not inherit the number of cores per task
  srun --cpus-per-task="$SLURM_CPUS_PER_TASK" {command} &
  child=$!
  [ -z "$stopped" ] || kill -TERM "$child" # the signal came before the run had anything to save
  warned=$((128 + $(kill -l USR1)))
  code=$warned
  while [ "$code" -eq "$warned" ]; do # the signal interrupted `wait`, not the run
    wait "$child"
    code=$?
  done
fi
if {again} && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {requeues} ]; then
  scontrol requeue "$task"
fi
exit "${{code:-1}}"
"""


def array_script(study: Study, command: Sequence[str], overlay: Path | None) -> str:
    """Returns the script for `sbatch`: a job array whose task n is training n of the study.

    Each task is one process on one node. Its log, `slurm/<n>.log` in the study's folder, is appended to when the task
    is requeued, as happens at its time limit.

    Args:
        study: The study to run.
        command: The command that runs the study in the working folder: `belvedere study NAME` and its options.
        overlay: YAML file with the resources of a run, like `configs/studies/slurm/default.yaml`, whose values are the
            defaults.

    Raises:
        StudyError: The overlay is invalid, or a name, path or option has control characters.
    """
    last = len(study.trainings) - 1
    runs = f"{len(study.runs)} runs" if len(study.runs) > 1 else "The only run"
    comment = (
        f"{runs} of the study {study.name}. Submit it again after an interruption: it skips finished runs and resumes "
        f"the others.\nTo see the table at any time: {shlex.join([*command, '--report'])}"
    )
    logs = _folder(study, command) / "slurm"
    return job_array(f"belvedere-{study.name}", comment, command, "--run", last, logs, job_options(overlay))


def job_options(overlay: Path | None) -> dict[str, Any]:
    """Returns what a job asks SLURM for, by the names in `configs/studies/slurm/default.yaml`.

    Args:
        overlay: YAML file with other values than those.

    Raises:
        StudyError: It is invalid.
    """
    return _job(DEFAULT) | ({} if overlay is None else _job(overlay))


def job_array(
    name: str,
    comment: str,
    command: Sequence[str],
    option: str | None,
    last: int | None,
    logs: Path,
    job: Mapping[str, Any],
    requeue_killed: bool = False,
) -> str:
    """Returns the script for `sbatch` of a job array, or of one job.

    This function creates the folder of the logs: SLURM opens them before it runs the script, and reports nothing if the
    folder is missing.

    Args:
        name: Name of the job.
        comment: What it does, lines of a comment.
        command: The command that each task runs in the working folder.
        option: The command's option for the number of the task; None for one job.
        last: The last number; None for one job.
        logs: Folder of the logs, `<number>.log`; of one job `<name>.log`.
        job: See `job_options`.
        requeue_killed: Whether a task whose process is killed (SIGKILL) is requeued, as one at its time limit is.

    Raises:
        StudyError: A name, path or option has control characters.
    """
    for text in (name, str(Path.cwd()), str(logs), *command):
        if CONTROL.search(text):  # a line break would end the comment or directive, and bash would run the rest
            raise StudyError(f"{text!r} has control characters, which a job script cannot hold. Rename it.")
    logs.mkdir(parents=True, exist_ok=True)
    log = "%a" if last is not None else safe_name(name).replace("%", "%%")
    directives = {
        "job-name": shlex.quote(name),  # Lightning does not treat jobs named "bash" as batch jobs
        "array": None if last is None else f"0-{last}" + (f"%{job['at_once']}" if job["at_once"] else ""),
        "partition": job["partition"],
        "account": job["account"],
        "time": job["time"],
        "nodes": "1",
        "ntasks-per-node": "1",  # Lightning rejects --ntasks
        "cpus-per-task": job["cpus"],
        "gres": None if job["gpus"].endswith("0") else f"gpu:{job['gpus']}",
        "mem": job["memory"],
        "chdir": shlex.quote(str(Path.cwd())),
        "output": shlex.quote(f"{str(logs).replace('%', '%%')}/{log}.log"),
        "open-mode": "append",
        "signal": f"B:USR1@{WARNING}",
    }
    lines = [f"#SBATCH --{key}={value}" for key, value in directives.items() if value]
    number = "" if option is None else f' {option} "$SLURM_ARRAY_TASK_ID"'
    return SCRIPT.format(
        directives="\n".join([*lines, "#SBATCH --requeue"]),
        comment="\n".join(f"# {line}" for line in comment.split("\n")),
        task="$SLURM_JOB_ID" if last is None else "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID",
        why="" if last is None else " # SLURM_JOB_ID may refer to the whole array",
        setup="".join(f"{line}\n" for line in job["setup"]),
        command=shlex.join(command) + number,
        again=AGAIN if requeue_killed else '[ -n "$stopped" ]',
        requeues=job["requeues"],
    )


def _folder(study: Study, command: Sequence[str]) -> Path:
    """Returns the study's folder, as the command determines it."""
    folder = Path("runs", "studies", safe_name(study.name))
    for index, word in enumerate(command):
        if word == "--output" and index + 1 < len(command):
            folder = Path(command[index + 1])
        elif word.startswith("--output="):
            folder = Path(word.removeprefix("--output="))
    return folder.expanduser().absolute()


def _job(path: Path) -> dict[str, Any]:
    """Returns the values of an overlay as text, None for null; `setup` is a list."""
    try:
        # every value as text: YAML reads 12:00:00 as an integer
        values = read_yaml(path.read_text(encoding="utf-8"), path, yaml.BaseLoader) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"Cannot read {path}: {' '.join(str(error).split())}.") from error
    except ArgumentError as error:
        raise StudyError(str(error)) from error
    if not isinstance(values, dict):
        raise StudyError(f"{path} is {values!r}; expected keys with values: {', '.join(KEYS)}, setup.")
    job: dict[str, Any] = {}
    for key, value in values.items():
        empty = value in ("", "null", "~")
        if key == "setup":
            job[key] = [] if empty else [value] if isinstance(value, str) else value
            if not isinstance(job[key], list) or not all(isinstance(line, str) for line in job[key]):
                raise StudyError(f"{path}: setup is {value!r}; expected a list of shell commands.")
            continue
        if key not in KEYS:
            known = [*KEYS, "setup"]
            raise StudyError(f"{path}: unknown key {key!r}.{nearest(key, known) or f' Known keys: {known}.'}")
        pattern, description = KEYS[key]
        job[key] = None if empty and key not in NEVER_NULL else value
        if job[key] is not None and not (isinstance(value, str) and re.fullmatch(pattern, value)):
            raise StudyError(f"{path}: {key} is {value!r}; expected {description}.")
    return job
