import csv
from pathlib import Path

import pytest

from datamodules.votes.checked import refuse_too_many
from ops.errors import DataError


def test_too_many_are_listed_in_a_file_and_the_first_are_named(tmp_path: Path) -> None:
    problems = {f"{place}.jpg": f"There is no file {place}.jpg." for place in range(30)}
    path = tmp_path / "run" / "unusable.csv"
    refuse_too_many(problems, 300, 0.1, Path("stars"), path)  # as many as may be missing
    assert not path.exists()
    with pytest.raises(DataError, match=r"^1 problem in stars:\n  - 30 of 299 images \(10\.0%\) cannot") as caught:
        refuse_too_many(problems, 299, 0.1, Path("stars"), path)
    assert f"{path} lists all of them. The first:" in str(caught.value)
    assert [line for line in problems.values() if line in str(caught.value)] == [*problems.values()][:5]
    with path.open(newline="") as file:
        assert [*csv.reader(file)] == [["name", "problem"], *map(list, problems.items())]


def test_nothing_is_written_where_there_is_no_place_for_it() -> None:
    with pytest.raises(DataError, match=r"--data\.missing_share\. The first:\n      gone"):
        refuse_too_many({"a.jpg": "gone"}, 1, 0.0, Path("stars"), None)
