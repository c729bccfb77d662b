from pathlib import Path

import pytest

from datamodules.votes.checked import refuse_too_many
from ops.errors import DataError
from tests.datamodules.helpers import csv_rows


def test_too_many_unusable_images_are_rejected_and_listed(tmp_path: Path) -> None:
    problems = {f"{place}.jpg": f"There is no file {place}.jpg." for place in range(30)}
    path = tmp_path / "run" / "unusable.csv"
    refuse_too_many(problems, 300, 0.1, Path("stars"), path)  # as many as may be missing
    assert not path.exists()
    with pytest.raises(DataError, match=r"30 of 299 images \(10\.0%\)") as caught:
        refuse_too_many(problems, 299, 0.1, Path("stars"), path)
    assert f"{path} lists all of them" in str(caught.value)
    assert [line for line in problems.values() if line in str(caught.value)] == [*problems.values()][:5]
    assert {row["name"]: row["problem"] for row in csv_rows(path)} == problems
    with pytest.raises(DataError, match=r"--data\.missing_share\. The first:\n      gone"):
        refuse_too_many({"a.jpg": "gone"}, 1, 0.0, Path("stars"), None)  # no place for a list
