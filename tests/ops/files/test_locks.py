import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ops.errors import FolderError
from ops.files.locks import claimed, is_claimed
from tests.helpers import ROOT

# Claims a folder, and forks a child that outlives it, as a loader worker does.
HOLD = (
    "import os, sys, time\nfrom pathlib import Path\nfrom ops.files.locks import claimed\n"
    "with claimed(Path(sys.argv[1]), 'belvedere fit'):\n"
    "    if os.fork() == 0:\n        os.setsid()\n        os.close(1)\n        time.sleep(20)\n        os._exit(0)\n"
    "    print('claimed', flush=True)\n    sys.stdin.read()"
)


@pytest.fixture
def other() -> Iterator[Callable[[Path], "subprocess.Popen[str]"]]:
    """Lets another process claim a folder."""
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path) -> "subprocess.Popen[str]":
        started.append(subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE))  # fmt: skip
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == "claimed\n"
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.communicate()


def test_a_claimed_folder_is_rejected_with_its_user(
    other: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    first = other(folder)
    assert is_claimed(folder)
    with pytest.raises(FolderError, match=f"run is in use by belvedere fit, process {first.pid} on .*--output"):
        claimed(folder, "belvedere predict").__enter__()
    with pytest.raises(FolderError, match=f"process {first.pid}"):  # the first attempt ended no lock
        claimed(folder, "belvedere predict").__enter__()
    with claimed(tmp_path, "belvedere predict"):
        pass
    first.communicate("")
    with claimed(folder, "belvedere predict"):
        assert (folder / ".in-use").read_text().startswith(f"belvedere predict, process {os.getpid()} on ")


def test_a_killed_process_claims_nothing(other: Callable[..., "subprocess.Popen[str]"], tmp_path: Path) -> None:
    first = other(tmp_path / "run")
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not is_claimed(tmp_path / "run")
    with claimed(tmp_path / "run", "belvedere fit"):
        pass


def test_a_claim_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with claimed(folder, "belvedere fit"):
        assert folder.is_dir()
    assert not (tmp_path / "new").exists()
    with claimed(folder, "belvedere fit"):
        (folder / "kept").touch()
    assert [path.name for path in folder.iterdir()] == ["kept"]
    assert not is_claimed(folder)
