"""What would make a GPU's host wait in a training step, found on the CPU by following the tensors of the device."""

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
# Their results are looked at, or have a size that depends on values.
READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "equal", "repeat_interleave")


class Followed(TorchDispatchMode):
    """Follows tensors that are said to lie on the device, and what is made of them.

    A value of theirs that is read, and a tensor with one axis or more that comes in from the host, are noted by the
    place of it. What `.to(device)` does is not seen on a CPU; that its result meets a tensor of the device is. Numbers
    without an axis are arguments of the device's programs, and not noted.

    Attributes:
        waits: How often, by file or library.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: collections.Counter[str] = collections.Counter()
        self.device = WeakIdKeyDictionary()

    def put(self, values: Any) -> None:
        """Says that all tensors among these lie on the device."""
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
            if any(word in name for word in READS) or by_mask or strangers:
                self.waits[place()] += 1
            self.put((strangers, () if name == "_local_scalar_dense" else out))
        return out


class MadeThere(TorchFunctionMode):
    """Tells another mode of what is made with `device=…`: on the device. `tensor` makes it on the host, and copies."""

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
    """Whose code asked for it: ours, or the library's that ours or Lightning called."""
    frames = [frame for frame in traceback.extract_stack() if frame.filename != __file__]
    file = Path(next(frame for frame in reversed(frames) if "/torch/" not in frame.filename).filename)
    if "site-packages" in file.parts:
        return file.parts[file.parts.index("site-packages") + 1]
    return str(file.relative_to(ROOT))


class StepsFollowed(Callback):
    """Follows every training step of an epoch but the first, which makes what the others use."""

    def __init__(self) -> None:
        self.mode, self.modes = Followed(), ExitStack()
        self.steps = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Has the mode told of what goes to the device, batch by batch and, of `Store`, once."""
        for owner, name in ((pl_module, "transfer_batch_to_device"), (Store, "to")):
            setattr(owner, name, told(getattr(owner, name), self.mode))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Begins after the first step, with all that lies on the device then; ends after the last."""
        if batch_idx == 0:
            metrics = [each.metric_state for each in pl_module.modules() if isinstance(each, Metric)]
            # numbers of steps stay on the host
            moments = [each for each in tree_leaves(list(trainer.optimizers[0].state.values())) if each.ndim]
            self.mode.put((list(pl_module.parameters()), list(pl_module.buffers()), metrics, moments))
            self.modes.enter_context(self.mode)
            self.modes.enter_context(MadeThere(self.mode))
        elif trainer.is_last_batch:
            self.modes.close()
        self.steps = batch_idx


def told(move: Callable[..., Any], mode: Followed) -> Callable[..., Any]:
    """The function, whose result the mode is told of."""

    @functools.wraps(move)
    def moved(*arguments: Any, **options: Any) -> Any:
        result = move(*arguments, **options)
        mode.put(vars(result) if isinstance(result, Store) else result)
        return result

    return moved
