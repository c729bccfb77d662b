import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ops.atomic import check_writable, harmless, remove_leftovers, replacing, replacing_folder, write_table, write_text
from ops.errors import ArgumentError
from tests.helpers import ROOT


def test_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.csv"
    with replacing(path) as temporary:
        temporary.write_text("one")
        assert temporary.parent == path.parent
        assert temporary.suffix == ".csv"
        assert not path.exists()
    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("sync", [False, True])
def test_error_keeps_the_previous_file(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "table.csv"
    path.write_text("one")

    def fail() -> None:
        with replacing(path, sync=sync) as temporary:
            temporary.write_text("tw")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_sync_flushes_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "table.csv", []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(path.exists()))
    for sync in (False, True):
        path.unlink(missing_ok=True)
        with replacing(path, sync=sync) as temporary:
            temporary.write_text("one")
    assert synced == [False]


def test_keep_leaves_a_file_that_another_process_wrote(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    for keep, expected in ((True, "other"), (False, "mine")):
        with replacing(path, keep=keep) as temporary:
            temporary.write_text("mine")
            path.write_text("other")
        assert path.read_text() == expected
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with replacing(path) as one, replacing(path) as two:
        one.write_text("one")
        two.write_text("two")
    assert path.read_text() == "one"  # the outer block ends last


def test_text_is_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "note.txt", "Dürer\n")
    assert (tmp_path / "note.txt").read_bytes() == "Dürer\n".encode()


def test_a_table_keeps_odd_names(tmp_path: Path) -> None:
    names = [os.fsdecode(name) for name in (b"a\rb", b"a\nb", b"a\r\nb", b"a\xffb", b'a"b', b"a,b", b"", b"a\r\n")]
    write_table(tmp_path / "t.csv", ["name", "number"], [[name, 1.5] for name in names])
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert list(csv.reader(file)) == [["name", "number"], *([name, "1.5"] for name in names)]
    assert (tmp_path / "t.csv").read_bytes().startswith(b'name,number\n"a\rb",1.5\n')


def test_leftovers_of_running_processes_stay(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with replacing(path) as temporary:
        remove_leftovers(tmp_path)
        assert temporary.exists()
        temporary.write_text("one")
        remove_leftovers(tmp_path)
    assert path.read_text() == "one"


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "new" / "data") as temporary:
        (temporary / "a").write_text("one")
        remove_leftovers(tmp_path / "new")
        assert (temporary / "a").exists()
        assert not (tmp_path / "new" / "data").exists()
    assert (tmp_path / "new" / "data" / "a").read_text() == "one"
    with pytest.raises(OSError, match="not empty"), replacing_folder(tmp_path / "new" / "data"):
        pass
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["data"]


def test_the_first_of_two_processes_keeps_its_folder(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "data", keep=True) as slow:
        (slow / "a").write_text("two")
        with replacing_folder(tmp_path / "data", keep=True) as fast:
            (fast / "a").write_text("one")
    assert (tmp_path / "data" / "a").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom ops.atomic import replacing, replacing_folder\n"
        "with replacing(Path('run/panels/a.png')) as temporary, replacing_folder(Path('run/panels/b')) as folder:\n"
        "    temporary.write_text('half')\n    (folder / 'c').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    kept = [tmp_path / "run" / name for name in (".hidden", "part-a", "panels/b.png")]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    killed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert killed.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "run" / "panels").iterdir())) == 3
    remove_leftovers(tmp_path / "run", tmp_path / "run" / "panels", tmp_path / "missing")
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(kept)


@pytest.mark.parametrize("cell", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1"])
def test_texts_that_a_spreadsheet_would_compute_are_neutralized(cell: str, tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", [cell], [[cell, -1.5, "-1.5", "+2e3", "a=b", "", None, 3]])
    with (tmp_path / "a.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["'" + cell], ["'" + cell, "-1.5", "-1.5", "+2e3", "a=b", "", "", "3"]]


def test_numbers_and_other_values_stay_as_they_are() -> None:
    for value in (-1, -0.5, None, True, "-0.5", "a", ""):
        assert harmless(value) is value


def test_tables_and_texts_keep_the_bytes_of_names(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_table(tmp_path / "a.csv", ["name"], [[name]])
    write_text(tmp_path / "a.txt", name)
    assert (tmp_path / "a.csv").read_bytes() == b"name\ncaf\xe9\n"
    assert (tmp_path / "a.txt").read_bytes() == b"caf\xe9"


def test_folders_are_checked_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_writable(tmp_path / "a" / "b")
    check_writable(tmp_path)
    for folder in (tmp_path / "file", tmp_path / "file" / "a", tmp_path / ("x" * 300), Path("/proc/nothing")):
        with pytest.raises(ArgumentError, match=r"Nothing can be written to .*--output"):
            check_writable(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
