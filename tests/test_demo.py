from pathlib import Path

import pytest

from benchmarks.demo import SEEDS, demo


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_the_demo_learns(seed: int, tmp_path: Path) -> None:
    learned = demo(tmp_path, seed)
    assert learned.pictures == 12
    assert learned.dice > learned.empty + 0.15
