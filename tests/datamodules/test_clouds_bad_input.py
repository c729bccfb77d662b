from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from datamodules.clouds import CloudsDataModule
from datamodules.describe.clouds import problems
from ops.errors import DataError
from ops.rle import parse_runs

WANTED = "the classes are Fish, Flower, Gravel, Sugar (--data.classes). Mend it."


class Sample:
    """A drawn data set to spoil: row 2 of its table is the first picture's Fish."""

    def __init__(self, root: Path) -> None:
        self.root, self.table, self.folder = root, root / "train.csv", root / "train_images"
        self.lines = self.table.read_text().splitlines()
        self.name = self.lines[1].split("_")[0]
        self.picture = self.folder / self.name

    def data(self) -> CloudsDataModule:
        return CloudsDataModule(self.root, size=(24, 36))

    def write(self, *lines: str) -> None:
        self.table.write_text("\n".join(lines))

    def runs(self, runs: str) -> None:
        self.write(self.lines[0], f"{self.name}_Fish,{runs}", *self.lines[2:])


@pytest.fixture
def sample(clouds_copy: Path) -> Sample:
    return Sample(clouds_copy)


def assert_told(sample: Sample, expected: list[str]) -> None:
    """Both `fit` and `describe` tell exactly these problems."""
    with pytest.raises(DataError) as caught:
        sample.data().setup("fit")
    assert caught.value.problems == expected
    assert all(problem in str(caught.value) for problem in expected)
    assert problems(sample.data()) == expected


def test_a_whole_sample_has_no_problem(sample: Sample) -> None:
    assert problems(sample.data()) == []


@pytest.mark.parametrize("runs", ["1 2 3", "0 5", "7 3 29400 2", "1 5 3 2", "9 2 1 2", "4 0", "1 2.5"])
def test_wrong_run_lengths(sample: Sample, runs: str) -> None:
    with pytest.raises(ValueError, match=r"expected|image") as wrong:
        parse_runs(runs, (140, 210))
    sample.runs(runs)
    assert_told(sample, [f"{sample.table}, row 2 ({sample.name}_Fish): {wrong.value}"])


def test_an_unknown_class(sample: Sample) -> None:
    label = f"{sample.name}_Fsh"
    sample.write(sample.lines[0], f"{label},1 2", *sample.lines[2:])
    assert_told(sample, [f"{sample.table}, row 2: the class 'Fsh' of {label!r} is unknown; {WANTED}"])


def test_a_row_without_a_class(sample: Sample) -> None:
    sample.write(*sample.lines, "hello")
    told = f"{sample.table}, row {len(sample.lines) + 1}: the class '' of 'hello' is unknown; {WANTED}"
    assert_told(sample, [told])


def test_rows_for_a_missing_picture(sample: Sample) -> None:
    sample.picture.unlink()
    told = f"there is no picture {sample.name!r} in {sample.folder}. Unpack it, or remove its rows."
    assert_told(sample, [f"{sample.table}, row 2: {told}"])


def test_a_picture_without_its_four_rows(sample: Sample) -> None:
    sample.write(sample.lines[0], *sample.lines[3:])
    told = (f"{sample.name!r} has no row for Fish, Flower; 4 rows a picture were wanted. Add them, with an empty "
            "EncodedPixels where a class is absent.")  # fmt: skip
    assert_told(sample, [f"{sample.table}, row 2: {told}"])


def test_a_picture_without_any_row(sample: Sample) -> None:
    sample.write(sample.lines[0], *sample.lines[5:])
    told = f"{sample.picture} has no rows in {sample.table}; 4 were wanted. Add them, or remove the picture."
    assert_told(sample, [told])


def test_a_row_twice(sample: Sample) -> None:
    sample.write(*sample.lines, sample.lines[1])
    told = f"'{sample.name}_Fish' has a row already; one row a picture and class was wanted. Remove one of them."
    assert_told(sample, [f"{sample.table}, row {len(sample.lines) + 1}: {told}"])


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (lambda whole: whole[: len(whole) // 2], "is truncated or not a picture"),
        (lambda _: b"<html>404</html>", "is truncated or not a picture"),
        (lambda _: b"", "is empty (0 bytes); a picture was wanted. Fetch it again or remove it."),
    ],
    ids=["truncated", "no picture", "empty"],
)
def test_an_unreadable_picture(sample: Sample, spoil: Callable[[bytes], bytes], wrong: str) -> None:
    sample.picture.write_bytes(spoil(sample.picture.read_bytes()))
    with pytest.raises(DataError) as caught:
        sample.data().setup("fit")
    (problem,) = caught.value.problems
    assert problem.startswith(f"{sample.picture} {wrong}")
    assert problem.endswith("Fetch it again or remove it.")
    assert problems(sample.data()) == [problem]


def test_a_picture_of_another_size_than_its_run_lengths(sample: Sample) -> None:
    Image.new("RGB", (140, 210)).save(sample.picture)
    told = (f"{sample.picture} is 210 x 140 pixels (height x width); the run lengths of {sample.table} are numbered "
            "over 140 x 210, the size of the other pictures. Fetch it again.")  # fmt: skip
    assert_told(sample, [told])


def test_all_problems_are_told_at_once(sample: Sample) -> None:
    lines = sample.lines.copy()
    names = [lines[row].split("_")[0] for row in range(1, len(lines), 4)]
    lines[1] = f"{names[0]}_Fish,1 2 3"
    lines[5] = f"{names[1]}_Fsh,"
    lines[9] = f"{names[2]}_Fish,5 0"
    (sample.folder / names[2]).unlink()
    (sample.folder / names[3]).write_bytes(b"")
    Image.new("RGB", (20, 30)).save(sample.folder / names[4])
    (sample.folder / "new.jpg").write_text("not a picture")
    sample.write(*lines, lines[20])
    starts = [
        f"{sample.table}, row 6: the class 'Fsh'",
        f"{sample.table}, row 10: there is no picture {names[2]!r}",
        f"{sample.table}, row {len(lines) + 1}: {lines[20].split(',')[0]!r} has a row already",
        f"{sample.folder}/new.jpg has no rows in",
        f"{sample.table}, row 10 ({names[2]}_Fish): run 1 of 1, '5 0', is empty",
        f"{sample.folder / names[3]} is empty (0 bytes)",
        f"{sample.folder / names[4]} is 30 x 20 pixels",
        f"{sample.folder}/new.jpg is truncated or not a picture",
        f"{sample.table}, row 2 ({names[0]}_Fish): expected pairs 'start length', got an odd count",
    ]
    with pytest.raises(DataError, match=f"^9 problems in {sample.root}:") as caught:
        sample.data().setup("fit")
    for found in (caught.value.problems, problems(sample.data())):
        assert len(found) == len(starts)
        assert all(any(problem.startswith(start) for problem in found) for start in starts)


def test_nothing_is_half_written(sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BELVEDERE_CACHE", str(tmp_path / "cache"))
    sample.picture.write_bytes(b"")
    with pytest.raises(DataError):
        sample.data().setup("fit")
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.name.startswith("clouds-masks-24x4x24x5-")
