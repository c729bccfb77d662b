"""Packages go to and come from a Hub, here one on 127.0.0.1; huggingface_hub reads its address once per process."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from belvedere.sharing.hub import downloaded, repository
from ops.errors import PackageError
from tests.belvedere.sharing.hub_server import TOKEN, HubServer, hub_server
from tests.helpers import ROOT, free_ports

CODE = """
import sys
from pathlib import Path
from belvedere.sharing import hub
from ops.errors import PackageError
try:
    if sys.argv[1] == "up":
        print(hub.uploaded(Path(sys.argv[2]), sys.argv[3], sys.argv[4] == "public"))
    else:
        print(hub.downloaded(sys.argv[2], sys.argv[3:]))
except PackageError as error:
    print(f"refused: {error}")
print("torch" in sys.modules)
"""


@pytest.fixture
def server() -> Iterator[HubServer]:
    with hub_server() as made:
        yield made


def asked(address: str, home: Path, *arguments: str, token: str = TOKEN) -> str:
    """What `belvedere.sharing.hub` prints in a process of its own, whose Hub is at `address`."""
    done = process(address, home, "-c", CODE, *arguments, token=token)
    assert done.returncode == 0, done.stderr
    *lines, torch = done.stdout.splitlines()
    assert torch == "False"
    return "\n".join(lines)


def process(address: str, home: Path, *arguments: str, token: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in a process of its own, whose Hub is at `address`; an empty token is none."""
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(home), "HF_TOKEN": token,
                   "BELVEDERE_CACHE": str(home / "belvedere"), "HF_HUB_DISABLE_XET": "1",
                   "PYTHONPATH": str(ROOT)}  # fmt: skip
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_a_package_is_uploaded_and_downloaded(server: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    (folder / "images").mkdir(parents=True)
    files = {"README.md": b"# A model\n", "model.safetensors": bytes(3000), "images/worst.jpg": b"jpg"}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    page = asked(server.address, tmp_path / "home", "up", str(folder), "hf://me/roads", "private")
    assert page == f"{server.address}/me/roads"
    assert server.files["me/roads"] == files
    assert server.private == {"me/roads": True}
    server.files["me/roads"]["evil.pkl"] = b"cos\nsystem\n"
    found = Path(asked(server.address, tmp_path / "other", "down", "hf://me/roads", "README.md", "model.safetensors"))
    got = {path.name: path.read_bytes() for path in found.rglob("*") if path.is_file()}
    assert got == {name: files[name] for name in ("README.md", "model.safetensors")}
    assert not any("evil" in line for line in server.asked)
    asked(server.address, tmp_path / "home", "up", str(folder), "hf://you/open", "public")
    assert not server.private["you/open"]


@pytest.mark.slow
def test_the_commands_share_a_model(
    server: HubServer, trained: Callable[[str], Path], belvedere: Callable[..., Any], tmp_path: Path
) -> None:
    """One person packs and uploads, another predicts by the address, as both type it."""
    album, checkpoint = tmp_path / "album", str(trained("roads"))
    album.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)).save(album / "a.png")

    def command(person: str, token: str, *arguments: str) -> str:
        done = process(server.address, tmp_path / person, "-m", "belvedere", *arguments, token=token)
        assert done.returncode == 0, done.stderr
        return done.stdout

    packed = command("one", TOKEN, "pack", checkpoint, "--worst", "0", "--output", "model.zip")
    assert "model.zip" in packed
    assert server.asked == []  # nobody has asked to upload
    assert f"{server.address}/me/roads" in command("one", TOKEN, "pack", checkpoint, "--worst", "0", "--upload",
                                                   "hf://me/roads")  # fmt: skip
    assert server.private == {"me/roads": True}
    assert {"README.md", "belvedere.json", "config.yaml", "model.safetensors"} <= server.files["me/roads"].keys()
    server.asked.clear()
    command("other", "", "predict", "--model", "hf://me/roads", "--data.pictures", str(album), "--output", "hub")
    got = {path.rpartition("/")[2] for path in server.asked if "/resolve/" in path}
    assert got == {"belvedere.json", "config.yaml", "model.safetensors"}
    assert belvedere("predict", "--ckpt_path", checkpoint, "--data.pictures", str(album), "--output", "run").code == 0
    masks = [path for path in Path("run").rglob("*.png") if "masks" in path.parts]
    assert masks
    for path in masks:
        assert (Path("hub") / path.relative_to("run")).read_bytes() == path.read_bytes()


def test_what_the_hub_rejects_is_explained(server: HubServer, tmp_path: Path) -> None:
    message = asked(server.address, tmp_path, "down", "hf://me/none", "README.md")
    assert "refused: hf://me/none cannot be downloaded: there is no such repository" in message
    assert "log in first" in asked(server.address, tmp_path, "up", str(tmp_path), "hf://me/new", "private", token="x")
    assert server.files == {}
    server.files["me/roads"], server.private["me/roads"] = {"README.md": b"# A model\n"}, False
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "README.md").write_text("# Another\n")
    for arguments in (("down", "hf://me/roads@v9", "README.md"),
                      ("up", str(tmp_path / "package"), "hf://me/roads@v9", "private")):  # fmt: skip
        message = asked(server.address, tmp_path, *arguments)
        assert "refused: " in message
        assert "no such version" in message
        assert "network" not in message
    silent = f"http://127.0.0.1:{free_ports()[0]}"
    message = asked(silent, tmp_path, "down", "hf://me/none", "README.md")
    assert "refused: " in message
    assert "Check the network" in message
    assert "refused: " in asked(silent, tmp_path, "up", str(tmp_path), "hf://me/new", "private")


@pytest.mark.parametrize(
    ("error", "text"),
    [(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "free some space"), (ValueError("Repo id is odd."), "is odd.")],
)
def test_other_errors_are_not_blamed_on_the_network(
    error: Exception, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
    with pytest.raises(PackageError, match=text) as found:
        downloaded("hf://me/roads", ["README.md"])
    assert "network" not in str(found.value)


def test_addresses_are_checked() -> None:
    assert repository("hf://me/roads") == ("me/roads", None)
    assert repository("hf://me/roads@v1.0") == ("me/roads", "v1.0")
    for address in ("hf://roads", "hf://me/roads/more", "hf://me/../x", "hf:///x", "me/roads", "hf://me/ro ads"):
        with pytest.raises(PackageError, match="no address"):
            repository(address)
