"""How long the command line takes to begin: `python -m benchmarks.startup`.

Each command runs in a process of its own, interleaved with the others; medians of the processor's time, and ratios to
importing Lightning. `test` and `predict` run a small network on twelve synthetic images, so that little but the start
is measured.
"""

import resource
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from datamodules.samples.roads import draw_roads

CHECKPOINT = "run/checkpoints/best.ckpt"
COMMANDS = {
    'python -c "import lightning.pytorch"': ["-c", "import lightning.pytorch"],
    "belvedere --help": ["-m", "belvedere", "--help"],
    "belvedere fit --help": ["-m", "belvedere", "fit", "--help"],
    "belvedere fit --config clouds/fpn --print_config": [
        *("-m", "belvedere", "fit", "--config", "clouds/fpn", "--print_config"),
    ],
    "belvedere test": ["-m", "belvedere", "test", "--ckpt_path", CHECKPOINT],
    "belvedere predict": ["-m", "belvedere", "predict", "--ckpt_path", CHECKPOINT, "--data.pictures", "roads/images"],
}
FIT = ["-m", "belvedere", "fit", "--config", "roads/unet", "--config", "debug", "--data.root", "roads", "--output",
       "run", "--model.pretrained", "false", "--data.size", "[32,32]", "--data.samples_per_category", "3"]  # fmt: skip


def seconds(arguments: list[str], folder: Path) -> float:
    """Returns the processor time of a Python process and those that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(rounds: int = 5) -> None:
    """Prints a table in Markdown."""
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with TemporaryDirectory() as name:
        folder = Path(name)
        draw_roads(folder / "roads", tiles=12, size=64)
        seconds(FIT, folder)
        for _ in range(rounds):
            for command, arguments in COMMANDS.items():
                found[command].append(seconds(arguments, folder))
    base = statistics.median(found[next(iter(COMMANDS))])
    print(f"| command | CPU seconds, median of {rounds} | ratio |\n|---|---|---|")
    for command, values in found.items():
        print(f"| `{command}` | {statistics.median(values):.2f} | {statistics.median(values) / base:.2f} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
