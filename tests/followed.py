"""Finds, on a CPU, what would make the host wait for a GPU in a training step, by following the device's tensors."""

import collections
import functools
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from torchmetrics import Metric

from datamodules.decoded.windows import Store

ROOT = Path(__file__).parents[1]
# Operations whose results are read, or whose size depends on values.
READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "equal", "repeat_interleave")


class Followed(TorchDispatchMode):
    """Follows tensors that are declared to be on the device, and everything computed from them.

    Counts each read of their values, and each tensor of one axis or more that comes from the host. A CPU does not show
    a copy by `.to(device)`, but its result is noticed when it meets a tensor of the device. Scalars do not count: they
    are passed to the device's kernels as arguments.

    Attributes:
        waits: Counts by file or library.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: collections.Counter[str] = collections.Counter()
        self.device = WeakIdKeyDictionary()

    def put(self, values: Any) -> None:
        """Declares all tensors among these to be on the device."""
        for each in tree_leaves(values):
            if isinstance(each, Tensor):
                self.device[each] = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        out = func(*args, **(kwargs or {}))
        there = [each in self.device for each in given]
        if any(there):
            name = func._schema.name.removeprefix("aten::")
            by_mask = name == "index" and any(each.dtype == torch.bool for each in given[1:])
            strangers = [each for each, known in zip(given, there, strict=True) if not known and each.ndim]
            if any(read in name for read in READS) or by_mask or strangers:
                self.waits[place()] += 1
            self.put((strangers, () if name == "_local_scalar_dense" else out))
        return out


class MadeThere(TorchFunctionMode):
    """Declares what is created with `device=…`, except by `tensor`, which creates on the host and copies."""

    def __init__(self, followed: Followed) -> None:
        super().__init__()
        self.followed = followed

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if (kwargs or {}).get("device") is not None and func not in (torch.tensor, torch.as_tensor, Tensor.to):
            self.followed.put(out)
        return out


def place() -> str:
    """Returns the file of ours, or the library called by it or by Lightning, that caused an operation."""
    frames = [frame for frame in traceback.extract_stack() if frame.filename != __file__]
    file = Path(next(frame for frame in reversed(frames) if "/torch/" not in frame.filename).filename)
    if "site-packages" in file.parts:
        return file.parts[file.parts.index("site-packages") + 1]
    return str(file.relative_to(ROOT))


class StepsFollowed(Callback):
    """Follows all training steps of an epoch but the first, which creates what the others use."""

    def __init__(self) -> None:
        self.mode, self.modes = Followed(), ExitStack()
        self.steps = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follows what is moved to the device: each batch, and a `Store` once."""
        for owner, name in ((pl_module, "transfer_batch_to_device"), (Store, "to")):
            setattr(owner, name, following(getattr(owner, name), self.mode))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Starts after the first step with all that is then on the device; ends after the last."""
        if batch_idx == 0:
            metrics = [each.metric_state for each in pl_module.modules() if isinstance(each, Metric)]
            # step counters stay on the host
            moments = [each for each in tree_leaves(list(trainer.optimizers[0].state.values())) if each.ndim]
            self.mode.put((list(pl_module.parameters()), list(pl_module.buffers()), metrics, moments))
            self.modes.enter_context(self.mode)
            self.modes.enter_context(MadeThere(self.mode))
        elif trainer.is_last_batch:
            self.modes.close()
        self.steps = batch_idx


def following(move: Callable[..., Any], mode: Followed) -> Callable[..., Any]:
    """Wraps a function so that its result is followed."""

    @functools.wraps(move)
    def moved(*arguments: Any, **options: Any) -> Any:
        result = move(*arguments, **options)
        mode.put(vars(result) if isinstance(result, Store) else result)
        return result

    return moved
