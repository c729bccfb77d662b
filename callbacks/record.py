"""Writes `record.json`: what a run cost and what it was made of, for comparing runs."""

import json
import subprocess
import time
from importlib import metadata
from pathlib import Path
from platform import machine, python_version
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from callbacks.best import best_epoch
from callbacks.handover import UsesData
from datamodules.batch import Batch
from ops.atomic import write_text
from ops.processes import SIGNALS, blocked

LIBRARIES = ("torch", "torchvision", "lightning", "torchmetrics", "timm", "segmentation-models-pytorch")
SOURCE = Path(__file__).parents[1]
FINGERPRINT = "data_fingerprint"
SYSTEM_FILES = {"status": Path("/proc/self/status"), "cpuinfo": Path("/proc/cpuinfo")}


class Record(UsesData):
    """Writes `record.json` into the run's folder when `fit` is over, including what is fitted after training.

    - `best_epoch`: the one in `best.ckpt`; null without one
    - `epochs`: trained epochs, over all parts of a resumed run
    - `seconds`: wall clock of training with its validation, without what comes before and after. A part that was killed
      counts up to the checkpoint that the run resumed from.
    - `peak_bytes`: peak memory; on CUDA of tensors, in the process that needed most; on a CPU of the training process,
      without data loader workers; null if the system does not report it
    - `device`: its name; `processes`: how many took part
    - `parameters`: number of parameters of the task's networks, frozen ones included. The extractor of colorization is
      not part of the task and does not count.
    - `versions`: of belvedere, with the commit if its source is a git checkout, and `.changed` if that was modified; of
      Python and of libraries
    - `samples`: number of training images in an epoch, with copies that augmentation adds
    - `classes`: names of the classes of masks, in their order; empty without masks
    - `data_fingerprint`: see `datamodules.read.fingerprint`; `pictures`: number of images of each split

    An earlier record in the folder is removed when training begins.
    """

    def __init__(self) -> None:
        self._seconds, self._peak, self._samples = 0.0, 0, 0  # of earlier parts
        self._counted = 0
        self._fingerprint: str | None = None
        self._began: float | None = None
        self._device = torch.device("cpu")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remembers the device, from which Lightning moves the network when training ends."""
        self._device = trainer.strategy.root_device

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            _path(trainer).unlink(missing_ok=True)
            self._fingerprint = None if self.data is None else self.data.fingerprint()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._began = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.current_epoch == 0:
            self._samples += len(batch["image"])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seconds, self._began = self._time(), None
        peak = trainer.strategy.reduce(torch.tensor(_peak(self._device), device=self._device), reduce_op="max")
        self._peak = max(self._peak, int(peak))
        count = torch.tensor(self._samples, device=self._device)
        self._counted = int(trainer.strategy.reduce(count, reduce_op="sum"))

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._time(), "peak": max(self._peak, _peak(self._device)), "samples": self._samples,
                FINGERPRINT: self._fingerprint}  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seconds, self._peak = state_dict["seconds"], state_dict["peak"]
        self._samples = self._counted = state_dict.get("samples", 0)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the record here because `teardown` comes after every `on_fit_end`."""
        if stage != "fit" or not trainer.is_global_zero:
            return
        data = self.data
        record = {
            "best_epoch": best_epoch(trainer),
            "epochs": trainer.current_epoch,
            "seconds": round(self._seconds, 3),
            "peak_bytes": self._peak or None,
            "device": _device_name(self._device),
            "processes": trainer.world_size,
            "parameters": sum(each.numel() for each in pl_module.parameters()),
            "samples": self._counted,
            "classes": list(getattr(pl_module, "classes", ())),
            "versions": versions(),
            FINGERPRINT: None if data is None else data.fingerprint(),
            "pictures": {} if data is None else {split: len(names) for split, names in data.picture_names().items()},
        }
        write_text(_path(trainer), json.dumps(record, indent=2) + "\n")

    def _time(self) -> float:
        return self._seconds + (0.0 if self._began is None else time.monotonic() - self._began)


def versions() -> dict[str, str]:
    """Returns the versions of belvedere, Python, and the installed libraries, without importing them."""
    found = {"belvedere": _belvedere(), "python": python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _belvedere() -> str:
    try:
        version = metadata.version("belvedere")
    except metadata.PackageNotFoundError:  # run from its source
        version = "unknown"
    commit = git_commit(SOURCE)
    return f"{version}+{commit}" if commit else version


def git_commit(folder: Path) -> str:
    """Returns the commit of a checkout, with `.changed` if files were modified; "" if the folder is not its top.

    A checkout above the folder is another project, whose user has an environment inside of it.
    """
    lines = _git(folder, "rev-parse", "--show-toplevel", "HEAD").splitlines()
    if len(lines) != 2 or Path(lines[0]).resolve() != folder.resolve():
        return ""
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return lines[1][:12] + (".changed" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    try:
        with blocked(*SIGNALS):
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _peak(device: torch.device) -> int:
    """Returns the peak memory in bytes; 0 if the system does not report it."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    # not `ru_maxrss`, which a forked process inherits from its parent
    return 1024 * int(_system_value("status", "VmHWM").split(" ")[0] or 0)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _system_value("cpuinfo", "model name") or machine() if device.type == "cpu" else device.type


def _system_value(name: str, key: str) -> str:
    """Returns the first value of a key in one of Linux's files; "" elsewhere."""
    path = SYSTEM_FILES[name]
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == key), "")


def _path(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "record.json"
