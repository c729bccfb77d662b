"""Stands in for `python -m belvedere` in tests of studies: leaves the files of a run at once.

`--model.act` selects what it does: `fails` and `fails_test` exit with an error; `slow` trains until it is killed, after
its first checkpoint if $CHECKPOINT is set; `gives_way` exits like a preempted training. Once the file $MENDED exists,
all of them succeed. Each call adds a line to the file $CALLS.
"""

import os
import shlex
import sys
import time
import zipfile
from pathlib import Path

command, *words = [word for word in sys.argv[1:] if word != "--trust"]
options = dict(zip(words[::2], words[1::2], strict=True))
run = Path(options["--output"]) if command == "fit" else Path(options["--ckpt_path"]).parents[1]
names = ("WANDB_RUN_GROUP", "WANDB_NAME", "BELVEDERE_RUN", "WANDB_SERVICE")
with Path(os.environ["CALLS"]).open("a") as calls:
    calls.write(shlex.join([*sys.argv[1:], *(f"{name}={os.environ.get(name)}" for name in names)]) + "\n")

if command == "fit":
    (run / "act").write_text(options["--model.act"])
act = (run / "act").read_text()
mended = "MENDED" in os.environ and Path(os.environ["MENDED"]).exists()
if act == {"fit": "fails", "test": "fails_test"}.get(command) and not mended:
    print("reading images:  10%|#   |\rreading images: 100%|####|")
    print("\nbelvedere: found no images.", file=sys.stderr)
    sys.exit(2)

if command == "fit":
    with (run / "metrics.csv").open("a") as file:
        file.write("epoch,val/dice\n0,0.5\n")
    (run / "checkpoints").mkdir(exist_ok=True)
    if act == "slow" and not mended:
        if "CHECKPOINT" in os.environ:
            zipfile.ZipFile(run / "checkpoints" / "last.ckpt", "w").close()
        (run / "begun").write_text(str(os.getpid()))
        time.sleep(60)
    if act == "gives_way" and not mended:
        zipfile.ZipFile(run / "checkpoints" / "preempted.ckpt", "w").close()
        sys.exit(75)
    for name in ("last.ckpt", "best.ckpt"):
        zipfile.ZipFile(run / "checkpoints" / name, "w").close()
if command == "test":
    (run / "test").mkdir(exist_ok=True)
    (run / "test" / "metrics.csv").write_text(f"epoch,test/dice\n1,0.{len(act)}\n")
