import csv
import json
from pathlib import Path

import numpy as np
import pytest

from datamodules.votes.files import find_labels, read_ids, read_votes
from ops.errors import DataError
from tests.datamodules.helpers import problems_of, table

LINE = "1 953619 0 1 5 17 38 36 15 6 5 1 1 22 1396"  # the first of AVA.txt


def test_votes_of_ava_are_read(tmp_path: Path) -> None:
    second = "2 953958 10 7 15 26 26 21 10 8 1 2 0 0 1396"
    votes = read_votes(table(tmp_path / "AVA.txt", LINE, "", second, ""))
    assert list(votes.names) == ["953619.jpg", "953958.jpg"]
    assert votes.counts.tolist() == [[0, 1, 5, 17, 38, 36, 15, 6, 5, 1], [10, 7, 15, 26, 26, 21, 10, 8, 1, 2]]
    assert votes.tags.tolist() == [[1, 22], [0, 0]]
    assert (len(votes), votes.bins, votes.counts.dtype) == (2, 10, np.uint8)
    large = read_votes(table(tmp_path / "AVA.txt", LINE, "2 1 0 0 0 0 0 0 0 0 0 70000 0 0 1"))
    assert (large.counts.dtype, large.counts[1, 9]) == (np.uint32, 70_000)


@pytest.mark.parametrize(
    ("name", "rows", "messages"),
    [
        ("AVA.txt", [LINE, "2 7 0 1 5 17 38 36 15 6 5 1 1 22"], ["line 2: 14 fields; expected 15"]),
        ("AVA.txt", [LINE, f"{LINE} 3"], ["line 2: 16 fields; expected 15"]),
        ("AVA.txt", [LINE.replace(" 38 ", " \u0663\u0668 ")], ["line 1: '\u0663\u0668' is not an integer"]),
        ("AVA.txt", [LINE.replace(" 38 ", " 3_8 ")], ["line 1: '3_8' is not an integer"]),
        ("AVA.txt", [LINE.replace(" 38 ", f" {10**20} ")], [f"line 1: '{10**20}' is not an integer"]),
        ("AVA.txt", [LINE.replace(" 38 ", f" {2**63 - 1} ")], ["9223372036854775807", "expected 0 to 1,000,000,000"]),
        ("labels.csv", ["image,count_1,count_2", f"a.jpg,1,{2**63 - 1}"], ["row 2: count_2 is '9223372036854775807'"]),
        ("labels.csv", ["image,count_1,count_2", "a.jpg,1,1000000001"], ["row 2: 'a.jpg'", "expected 0 to 1,000"]),
        ("votes.json", [f'[{{"image_id": "1", "label": [1, {10**20}]}}]'], ["entry 0", "up to 1,000,000,000"]),
        ("votes.json", ['[{"image_id": "\\ud800", "label": [1, 2]}]'], ["cannot be read as a list"]),
        ("AVA.txt", [LINE, "2 7 0 1 5 17 38 36 15 6 five 1 1 22 9"], ["line 2: 'five'"]),
        ("AVA.txt", [LINE, "2 7 0 1 5 17 38 36 15 6 5.5 1 1 22 9"], ["line 2: '5.5'"]),
        ("AVA.txt", [LINE, "2 7 0 -1 5 17 38 36 15 6 5 1 1 22 9"], ["line 2: '7.jpg' has the counts [0, -1, 5"]),
        ("AVA.txt", [LINE, "2 7 0 0 0 0 0 0 0 0 0 0 1 22 9"], ["line 2: '7.jpg' has no votes"]),
        ("AVA.txt", [LINE, LINE.replace("1 ", "2 ", 1)], ["line 2: '953619.jpg' already has votes (line 1)"]),
        ("AVA.txt", [LINE, "2 7 0 1 5 17 38 36 15 6 5 1 -1 22 9"], ["line 2: the tag ids are [-1, 22]"]),
        ("AVA.txt", ["x", "", LINE, "1 2", "y " * 15], ["line 1:", "line 4:", "line 5:"]),
        ("AVA.txt", ["", " "], ["is empty"]),
        ("none.csv", None, ["no file"]),
        ("labels.csv", ["name,count_1,count_2", "a,1,2"], ["'image' is missing"]),
        ("labels.csv", ["image,count_1,count_3", "a,1,2"], ["'count_3']; expected image and count_1"]),
        ("labels.csv", ["image,count_0,count_1", "a,1,2"], ["up to the highest vote"]),
        ("labels.csv", ["image,count_1", "a,1"], ["up to the highest vote"]),
        ("labels.csv", ["image,count_1,count_01", "a,1,2"], ["up to the highest vote"]),
        ("labels.csv", ["image,count_1,count_2"], ["no rows"]),
        ("labels.csv", ["image,count_1,count_2", "a,1,"], ["row 2: count_2 is ''"]),
        ("labels.csv", ["image,count_1,count_2", "a,1,2", "b,1.5,2"], ["row 3: count_1 is '1.5'"]),
        ("labels.csv", ["image,count_1,count_2", "a,1,inf"], ["row 2: count_2 is 'inf'"]),
        ("labels.csv", ["image,count_1,count_2", ",1,2"], ["row 2: the column image is empty"]),
        ("labels.csv", ["image,count_1,count_2", "a,1,2", "", "a,1,2"], ["row 4: 'a' already has votes (row 2)"]),
        ("labels.csv", ["image,count_1,count_2", "a,0,0"], ["row 2: 'a' has no votes"]),
        ("labels.csv", ["image,count_1,count_2", "a,-1,2"], ["row 2: 'a' has the counts [-1, 2]"]),
        ("labels.json", ["{"], ["cannot be read as a list"]),
        ("labels.json", ["7"], ["cannot be read as a list"]),
        ("labels.json", ['[{"image_id": "1"}]'], ["'label'"]),
        ("labels.json", ['[{"image_id": "1", "label": [1, 2]}, {"image_id": "2", "label": [1]}]'], ["entry 1: "]),
        ("labels.json", ['[{"image_id": "1", "label": [1, 2.5]}]'], ["entry 0: the label is [1, 2.5]"]),
        ("labels.json", ['[{"image_id": "1", "label": [1]}]'], ["1 entries with 1 counts"]),
        ("labels.json", ["[]"], ["0 entries with 0 counts"]),
    ],
)  # fmt: skip
def test_wrong_votes_are_rejected(name: str, rows: list[str] | None, messages: list[str], tmp_path: Path) -> None:
    path = tmp_path / name
    if rows is not None:
        table(path, *rows)
    found = problems_of(lambda: read_votes(path))
    assert len(found) == (3 if rows and rows[0] == "x" else 1)
    for message in messages:
        assert any(message in problem for problem in found), found


def test_other_columns_of_a_table_are_ignored(tmp_path: Path) -> None:
    header = "id,count_2,image,count_1,count_3,ava10_1,count_n"
    votes = read_votes(table(tmp_path / "labels.csv", header, "7,4,a/b.png,0,1.0,x,y", "8,0,c.jpg,300,2,,"))
    assert list(votes.names) == ["a/b.png", "c.jpg"]
    assert votes.counts.tolist() == [[0, 4, 1], [300, 0, 2]]
    assert votes.tags.shape == (2, 0)


def test_a_list_of_labels_is_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps([{"image_id": "231893", "label": [2, 8, 19]}, {"image_id": 5, "label": [0, 1, 0]}]))
    votes = read_votes(path)
    assert list(votes.names) == ["231893.jpg", "5.jpg"]
    assert votes.counts.tolist() == [[2, 8, 19], [0, 1, 0]]


def test_labels_are_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither AVA\.txt nor labels\.csv"):
        find_labels(tmp_path, None)
    path = table(tmp_path / "AVA.txt", LINE)
    assert find_labels(tmp_path, None) == path
    table(tmp_path / "labels.csv", "")
    with pytest.raises(DataError, match=r"AVA\.txt and labels\.csv; .*--data\.labels"):
        find_labels(tmp_path, None)
    assert find_labels(tmp_path, "labels.csv") == tmp_path / "labels.csv"
    assert find_labels(tmp_path, "/else/where.csv") == Path("/else/where.csv")


def test_lists_have_names_or_ids(tmp_path: Path) -> None:
    path = tmp_path / "test.jpgl"
    path.write_text("7\n8.jpg rest\n\n a.png,train\n7\nmy dog.png\n9\n")
    known, unknown = read_ids(path, ["7.jpg", "8.jpg", "a.png", "my dog.png"])
    assert known == ["7.jpg", "8.jpg", "a.png", "my dog.png"]
    assert unknown == {"9": f"{path} has the image '9', which has no votes."}
    with pytest.raises(DataError, match=r"lists 5 images, none of which has votes.*'x\.jpg'"):
        read_ids(path, ["x.jpg"])


@pytest.mark.real
def test_real_counts_of_stars_are_read(real_data: Path) -> None:
    path = real_data / "aesthetics" / "labels.csv"
    votes = read_votes(path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(votes.names) == [row["image"] for row in rows]
    assert len(rows) == 717
    assert votes.counts.tolist() == [[int(row[f"count_{vote}"]) for vote in range(1, 6)] for row in rows]


@pytest.mark.real
def test_real_votes_of_ava_are_read(real_data: Path) -> None:
    path = real_data / "ava_labels" / "ava_labels_test.json"
    votes = read_votes(path)
    entries = json.loads(path.read_text())
    assert list(votes.names) == [f"{entry['image_id']}.jpg" for entry in entries]
    assert votes.counts.tolist() == [entry["label"] for entry in entries]
