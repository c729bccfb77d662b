"""How long the command line takes to say something: `python -m benchmarks.startup`.

Each command runs in a process of its own, interleaved with the others; medians and ratios to importing Lightning.
"""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    'python -c "import lightning.pytorch"': ["-c", "import lightning.pytorch"],
    "belvedere --help": ["-m", "belvedere", "--help"],
    "belvedere fit --help": ["-m", "belvedere", "fit", "--help"],
    "belvedere fit --config clouds/fpn --print_config": [
        "-m",
        "tasks",
        "fit",
        "--config",
        "clouds/fpn",
        "--print_config",
    ],
}


def main(rounds: int = 5) -> None:
    """Prints a table in Markdown."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - start)
    base = statistics.median(seconds[next(iter(COMMANDS))])
    print("| command | seconds, median of", rounds, "| ratio |\n|---|---|---|")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"| `{name}` | {median:.2f} | {median / base:.2f} |")


if __name__ == "__main__":
    main()
