from pathlib import Path

import numpy as np
import pytest

from datamodules.votes.tags import packed, read_tags
from datamodules.votes.votes import Names, Votes
from ops.errors import DataError

VOTES = Votes(Path("AVA.txt"), Names(["1.jpg", "2.jpg", "3.jpg"]), np.ones((3, 10), np.uint8),
              np.array([[22, 0], [0, 0], [14, 22]], np.uint8))  # fmt: skip


def write(folder: Path, **files: str) -> Path:
    """Files of one folder, whose names have _ for the dot."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def tags_of(root: Path, votes: Votes = VOTES) -> list[list[str]]:
    tags = read_tags(root, votes)
    return [tags.of(row) for row in range(len(votes))]


def test_numbered_tags_have_their_published_names(tmp_path: Path) -> None:
    assert tags_of(tmp_path) == [["tag 22"], [], ["tag 14", "tag 22"]]
    write(tmp_path, tags_txt="1 Abstract\n22 Macro\n\n14 Black and White\n")
    assert tags_of(tmp_path) == [["Macro"], [], ["Black and White", "Macro"]]
    assert read_tags(tmp_path, VOTES).names == ("Black and White", "Macro")
    untagged = Votes(VOTES.path, VOTES.names, VOTES.counts, np.zeros((3, 0), np.uint8))
    assert tags_of(tmp_path, untagged) == [[], [], []]


def test_tables_add_tags_and_styles(tmp_path: Path) -> None:
    write(
        tmp_path,
        tags_csv="image,tag\n2.jpg,Family\n1.jpg,tag 22\n2.jpg,Family\n",
        styles_csv="image,style\n2.jpg,HDR\n1.jpg,HDR\n",
    )
    assert tags_of(tmp_path) == [["style HDR", "tag 22"], ["Family", "style HDR"], ["tag 14", "tag 22"]]


def test_published_styles_are_read(tmp_path: Path) -> None:
    write(tmp_path / "style_image_lists", styles_txt="1 Long_Exposure\n2 HDR\n3 Macro\n", train_jpgl="3\n99\n",
          train_lab="2\n1\n", test_jpgl="1\n2\n", test_multilab="1 0 1\n0 0 0\n")  # fmt: skip
    assert tags_of(tmp_path) == [
        ["style Long Exposure", "style Macro", "tag 22"],
        [],
        ["style HDR", "tag 14", "tag 22"],
    ]


def test_many_tags_are_found_where_they_belong() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 67, (500, 2)).astype(np.uint8)
    more = {(int(row), f"tag {number}") for row, number in rng.integers(1, 67, (300, 2))}
    tags = packed(more, 500, numbers, {number: f"tag {number}" for number in range(1, 67)})
    for row in range(500):
        wanted = {f"tag {number}" for number in numbers[row] if number} | {tag for owner, tag in more if owner == row}
        assert tags.of(row) == sorted(wanted)


@pytest.mark.parametrize(
    ("folder", "files", "message"),
    [
        (".", {"tags_txt": "one Abstract\n"}, r"tags\.txt, line 1: 'one Abstract'"),
        (".", {"tags_txt": "\n1\n"}, r"tags\.txt, line 2: '1'"),
        (".", {"tags_csv": "image,tag\n4.jpg,Family\n"}, r"tags\.csv, row 2: .* no votes for '4\.jpg'"),
        (".", {"styles_csv": "image,tag\n1.jpg,Family\n"}, "'style' is missing"),
        ("style_image_lists", {"styles_txt": "1 HDR\n"}, r"train\.jpgl cannot be read"),
        ("style_image_lists", {"styles_txt": "1 HDR\n", "train_jpgl": "1\n2\n", "train_lab": "1\n"},
         r"train\.jpgl has 2 lines, .*train\.lab 1; expected as many"),
        ("style_image_lists", {"styles_txt": "1 HDR\n", "train_jpgl": "1\n", "train_lab": "2\n"},
         r"train\.lab has the style 2, which .*styles\.txt lacks"),
        ("style_image_lists", {"styles_txt": "1 HDR\n", "train_jpgl": "x\n", "train_lab": "1\n"},
         r"train\.jpgl, line 1: 'x'; expected integers"),
    ],
)  # fmt: skip
def test_wrong_files_are_rejected(tmp_path: Path, folder: str, files: dict[str, str], message: str) -> None:
    write(tmp_path / folder, **files)
    with pytest.raises(DataError, match=message):
        read_tags(tmp_path, VOTES)
