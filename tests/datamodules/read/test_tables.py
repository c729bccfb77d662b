from pathlib import Path

import numpy as np
import pytest

from datamodules.read.tables import Table, read_lines, read_table
from ops.errors import DataError
from tests.datamodules.helpers import assert_problems, problems_of, table


@pytest.mark.parametrize(
    "content",
    [
        b"name,split\na.jpg,train\n\nb.jpg,\n",
        b"\xef\xbb\xbfname,split\r\na.jpg,train\r\n\r\nb.jpg,\r\n\r\n",
        b"name,split\ra.jpg,train\r\rb.jpg\r",
        b'name,split,why\n"a.jpg",train,x\n,,\nb.jpg,,',
    ],
    ids=["unix", "windows", "mac", "quoted"],
)
def test_tables_are_text_with_line_numbers(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    path.write_bytes(content)
    table = read_table(path, ["name", "split"])
    assert table[["name", "split"]].to_dict("index") == {
        2: {"name": "a.jpg", "split": "train"},
        4: {"name": "b.jpg", "split": ""},
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no file .*/t\.csv"),
        (b"", r"t\.csv cannot be read .*'name', 'split'"),
        (b"\xff\xd8\xff\xe0", r"t\.csv cannot be read"),
        (b"name,split\na,train,b\nc,d,e,f\n", r"t\.csv cannot be read"),
        (b"name,split\na,train,b\n", r"t\.csv has rows with more cells"),
        (b"name;split\na;train\n", r"'name;split'.* 'name' is missing"),
    ],
)
def test_files_that_are_no_such_tables_are_rejected(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_table(path, ["name", "split"])


def test_all_problems_are_listed_in_the_order_of_the_rows(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "name,kind,count", "a,x,1", "b,y,2", "", "a,,x", "c,x,")
    checked = Table(path, ["name", "kind", "count"])
    checked.unique("name")
    checked.known("name", ["a", "b"], lambda name: f"unknown {name}")
    checked.filled("kind")
    values = checked.numbers(["count"])
    np.testing.assert_array_equal(values, [[1], [2], [np.nan], [np.nan]])
    assert_problems(
        problems_of(lambda: checked.check(["the table is odd."])),
        (f"{path}, row 5: ", "'a' already has a row"),
        (f"{path}, row 5: ", "kind is empty"),
        (f"{path}, row 5: ", "count is 'x'", "a number"),
        (f"{path}, row 6: ", "unknown c"),
        (f"{path}, row 6: ", "count is ''"),
        ("the table is odd.",),
    )


def test_rows_are_unique_in_all_columns_together(tmp_path: Path) -> None:
    checked = Table(table(tmp_path / "t.csv", "a,b", "1,1", "1,2"), ["a", "b"])
    checked.unique("a", "b")
    np.testing.assert_array_equal(checked.numbers(["a"], whole=True), [[1], [1]])
    checked.check()
    checked = Table(table(tmp_path / "t.csv", "a,b", "1,1", "1,2", "1,1"), ["a", "b"])
    checked.unique("a", "b")
    assert_problems(checked.problems(), ("row 4: ", "'1 1'"))


@pytest.mark.parametrize("cell", ["1.5", "inf", "nan", "9007199254740993", "one", ""])
def test_whole_numbers_are_finite_integers_that_floats_hold(cell: str, tmp_path: Path) -> None:
    checked = Table(table(tmp_path / "t.csv", "name,count", f"a,{cell}"), ["name"])
    assert np.isnan(checked.numbers(["count"], whole=True)).all()
    assert_problems(checked.problems(), ("row 2: ", f"count is {cell!r}", "an integer"))


def test_lines_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\r\n  \r\ntwo ")
    assert read_lines(path) == [(1, "one"), (4, "two ")]
    path.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match=r"t\.txt cannot be read as UTF-8 text"):
        read_lines(path)


@pytest.mark.parametrize("cell", ["\u0661\u0662", "1_0", "0x10", "\u00b2", "1e99999", "--1", "1 2", "nan", "inf"])
@pytest.mark.parametrize("whole", [False, True])
def test_only_plain_decimal_numbers_are_numbers(cell: str, whole: bool, tmp_path: Path) -> None:
    checked = Table(table(tmp_path / "t.csv", "name,count", f"a,{cell}"), ["name"])
    assert np.isnan(checked.numbers(["count"], whole)).all()
    assert_problems(checked.problems(), ("row 2: ", f"count is {cell!r}"))


@pytest.mark.parametrize(
    ("cell", "value"), [(" 12 ", 12), ("-1.50", -1.5), ("+3", 3), (".5", 0.5), ("2.", 2), ("1e3", 1000)]
)
def test_usual_numbers_are_read(cell: str, value: float, tmp_path: Path) -> None:
    checked = Table(table(tmp_path / "t.csv", "name,count", f"a,{cell}"), ["name"])
    assert checked.numbers(["count"]).tolist() == [[value]]
    assert checked.problems() == []


def test_nul_bytes_and_unreadable_files_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path / "t.csv", "name", "a")
    path.write_bytes(path.read_bytes() + bytes(3))
    for read in (lambda: read_table(path, ["name"]), lambda: read_lines(path)):
        with pytest.raises(DataError, match=r"t\.csv is not a text: it contains NUL bytes"):
            read()

    def closed(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", closed)
    with pytest.raises(DataError, match=r"t\.csv cannot be read: Permission denied"):
        read_lines(path)
