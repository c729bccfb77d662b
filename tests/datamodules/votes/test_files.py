import csv
import json
from pathlib import Path

import numpy as np
import pytest

from datamodules.votes.files import find_labels, read_ids, read_votes
from ops.errors import DataError

LINE = "1 953619 0 1 5 17 38 36 15 6 5 1 1 22 1396"  # the first of AVA.txt


def ava(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "AVA.txt"
    path.write_text("\n".join(lines))
    return path


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    return path


def test_a_line_of_ava_is_read_as_published(tmp_path: Path) -> None:
    votes = read_votes(ava(tmp_path, LINE, "", "2 953958 10 7 15 26 26 21 10 8 1 2 0 0 1396", ""))
    assert list(votes.names) == ["953619.jpg", "953958.jpg"]
    assert votes.counts.tolist() == [[0, 1, 5, 17, 38, 36, 15, 6, 5, 1], [10, 7, 15, 26, 26, 21, 10, 8, 1, 2]]
    assert votes.tags.tolist() == [[1, 22], [0, 0]]
    assert votes.bins == 10
    assert len(votes) == 2
    assert votes.counts.dtype == np.uint8


def test_counts_take_the_room_that_they_need(tmp_path: Path) -> None:
    votes = read_votes(ava(tmp_path, LINE, "2 1 0 0 0 0 0 0 0 0 0 70000 0 0 1"))
    assert votes.counts.dtype == np.uint32
    assert votes.counts[1, 9] == 70_000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 7 0 1 5 17 38 36 15 6 5 1 1 22", r"line 2: 14 fields; expected 15: the index, the image id"),
        (f"{LINE} 3", r"line 2: 16 fields; expected 15"),
        ("2 7 0 1 5 17 38 36 15 6 five 1 1 22 9", r"line 2: 'five' is not an integer"),
        ("2 7 0 1 5 17 38 36 15 6 5.5 1 1 22 9", r"line 2: '5\.5' is not an integer"),
        ("2 7 0 -1 5 17 38 36 15 6 5 1 1 22 9", r"line 2: '7\.jpg' has the counts \[0, -1, 5.*expected 0 or more"),
        ("2 7 0 0 0 0 0 0 0 0 0 0 1 22 9", r"line 2: '7\.jpg' has no votes"),
        (LINE.replace("1 ", "2 ", 1), r"line 2: '953619\.jpg' already has votes \(line 1\)"),
        ("2 7 0 1 5 17 38 36 15 6 5 1 -1 22 9", r"line 2: the tag ids are \[-1, 22\]; expected 0 to 255"),
    ],
)
def test_a_line_that_is_not_as_wanted_is_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_votes(ava(tmp_path, LINE, line))
    assert len(caught.value.problems) == 1


def test_all_lines_that_are_not_as_wanted_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 problems") as caught:
        read_votes(ava(tmp_path, "x", "", LINE, "1 2", "y " * 15))
    assert [problem.split(", ")[1].split(":")[0] for problem in caught.value.problems] == ["line 1", "line 4", "line 5"]


def test_an_empty_or_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty; expected a line per image"):
        read_votes(ava(tmp_path, "", " "))
    with pytest.raises(DataError, match=r"There is no file .*none\.csv"):
        read_votes(tmp_path / "none.csv")
    (tmp_path / "picture.txt").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match=r"picture\.txt cannot be read as text"):
        read_votes(tmp_path / "picture.txt")


def test_a_table_of_counts_is_read_and_its_other_columns_are_passed_over(tmp_path: Path) -> None:
    text = "id,count_2,image,count_1,count_3,ava10_1,count_n\n7,4,a/b.png,0,1.0,x,y\n8,0,c.jpg,300,2,,\n"
    votes = read_votes(table(tmp_path, text))
    assert list(votes.names) == ["a/b.png", "c.jpg"]
    assert votes.counts.tolist() == [[0, 4, 1], [300, 0, 2]]
    assert votes.tags.shape == (2, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,count_1,count_2\na,1,2\n", "'image' is missing"),
        (
            "image,count_1,count_3\na,1,2\n",
            r"has the columns \['image', 'count_1', 'count_3'\]; expected image and count_1",
        ),
        ("image,count_0,count_1\na,1,2\n", "up to the highest vote"),
        ("image,count_1\na,1\n", "up to the highest vote"),
        ("image,count_1,count_01\na,1,2\n", "up to the highest vote"),
        ("image,count_1,count_2\n", "has no rows"),
        ("image,count_1,count_2\na,1,\n", "row 2: count_2 is ''; expected an integer"),
        ("image,count_1,count_2\na,1,2\nb,1.5,2\n", r"row 3: count_1 is '1\.5'; expected an integer"),
        ("image,count_1,count_2\na,1,inf\n", "row 2: count_2 is 'inf'"),
        ("image,count_1,count_2\n,1,2\n", "row 2: the column image is empty"),
        ("image,count_1,count_2\na,1,2\n\na,1,2\n", r"row 4: 'a' already has votes \(row 2\)"),
        ("image,count_1,count_2\na,0,0\n", "row 2: 'a' has no votes"),
        ("image,count_1,count_2\na,-1,2\n", r"row 2: 'a' has the counts \[-1, 2\]; expected 0 or more"),
    ],
)
def test_a_table_that_is_not_as_wanted_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_votes(table(tmp_path, text))


def test_a_list_of_labels_is_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps([{"image_id": "231893", "label": [2, 8, 19]}, {"image_id": 5, "label": [0, 1, 0]}]))
    votes = read_votes(path)
    assert list(votes.names) == ["231893.jpg", "5.jpg"]
    assert votes.counts.tolist() == [[2, 8, 19], [0, 1, 0]]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("{", "cannot be read as a list of"),
        ("7", "cannot be read as a list of"),
        ('[{"image_id": "1"}]', "cannot be read as a list of .*'label'"),
        ('[{"image_id": "1", "label": [1, 2]}, {"image_id": "2", "label": [1]}]', r"entry 1: the label is \[1\]"),
        ('[{"image_id": "1", "label": [1, 2.5]}]', r"entry 0: the label is \[1, 2\.5\]"),
        ('[{"image_id": "1", "label": [1]}]', "has 1 entries with 1 counts"),
        ("[]", "has 0 entries with 0 counts"),
    ],
)  # fmt: skip
def test_a_list_of_labels_that_is_not_as_wanted_is_refused(tmp_path: Path, entries: str, message: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(entries)
    with pytest.raises(DataError, match=message):
        read_votes(path)


def test_labels_are_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has neither AVA\.txt nor labels\.csv"):
        find_labels(tmp_path, None)
    ava(tmp_path, LINE)
    assert find_labels(tmp_path, None) == tmp_path / "AVA.txt"
    table(tmp_path, "")
    with pytest.raises(DataError, match=r"has AVA\.txt and labels\.csv; .*--data\.labels"):
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
