import base64
import io
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from belvedere.compare import read_answers, wilson, write_page
from ops.errors import DataError
from tests.checks import rejects
from tests.datamodules.helpers import noise, table, write

NAMES = ["a", "north/b", "c"]
Command = Callable[..., Any]
HEAD = "page,judge,image,left,right,answer,seconds"
CHROMIUM = shutil.which("chromium")


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two folders with an image more each, the first red, the second blue."""
    for folder, color, suffix, more in (("one", (200, 20, 20), "png", "x"), ("two", (20, 20, 200), "jpg", "y")):
        for name in [*NAMES, more]:
            write(tmp_path / folder / f"{name}.{suffix}", np.full((40, 60, 3), color, np.uint8))
    return [tmp_path / "one", tmp_path / "two"]


def colors(page: str, key: str) -> list[list[int]]:
    found = re.findall(rf'data-{key}="data:image/jpeg;base64,([^"]+)"', page)
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in found]
    assert {image.shape for image in images} == {(40, 60, 3)}
    return [image.mean(axis=(0, 1)).round().tolist() for image in images]


def test_the_page_has_both_images_of_each_name_and_loads_nothing(folders: list[Path], belvedere: Command) -> None:
    output = folders[0].parent / "page.html"
    done = belvedere(
        "compare", *map(str, folders), "--output", str(output), "--question", "real", "--reference", str(folders[1])
    )
    assert (done.code, done.out.strip()) == (0, str(output))
    assert "1 of the images" in done.err
    page = output.read_text()
    assert re.findall(r'data-name="([^"]+)"', page) == ["a", "c", "north/b"]
    assert all(np.abs(np.subtract(each, (200, 20, 20))).max() < 3 for each in colors(page, "a"))
    assert all(np.abs(np.subtract(each, (20, 20, 200))).max() < 3 for each in colors(page, "b"))
    assert len(colors(page, "reference")) == 3
    assert "is real" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    write_page(output, folders, "Who <knows>?", count=2, seed=1)
    assert "Who &lt;knows&gt;?" in output.read_text()
    assert len(re.findall("data-name", output.read_text())) == 2


def test_folders_that_cannot_be_compared_are_rejected(folders: list[Path], belvedere: Command) -> None:
    output = folders[0].parent / "page.html"
    write(folders[0].parent / "other" / "z.png", noise(40, 60))
    rejects(
        "no images of the same names", write_page, output, [folders[0], folders[0].parent / "other"], error=DataError
    )
    write(folders[1] / "a.jpg", noise(40, 40))
    rejects(r"40 x 60 and 40 x 40", write_page, output, folders, error=DataError)
    table(folders[1] / "overview.html", "")
    rejects("one of those in it: north", write_page, output, folders, error=DataError)
    assert not output.exists()
    for words in ([folders[0]], [*folders], [*folders, "--output", output, "--count", "0"], ["--nonsense"],
                  [folders[0].parent / "gone.csv"], ["a.csv", "--output", output]):  # fmt: skip
        done = belvedere("compare", *map(str, words))
        assert (done.code, done.err.strip().startswith("belvedere: ")) == (2, True), words
    one, two = str(folders[0]), str(folders[1])
    for words, wanted in (([one], "two folders"), ([one, two], "--output page.html"),
                          ([one, two, "--output", str(output), "--count", "0"], "--count is 0")):  # fmt: skip
        assert wanted in belvedere("compare", *words).err
    assert belvedere("compare", "--help").code == 0


@pytest.mark.parametrize(("wins", "count"), [(0, 5), (3, 7), (40, 50), (12, 12)])
def test_intervals_are_wilsons(wins: int, count: int) -> None:
    known = binomtest(wins, count).proportion_ci(method="wilson")
    assert wilson(wins / count, count) == pytest.approx((known.low, known.high), abs=1e-6)


def test_answers_become_shares_over_images(tmp_path: Path, belvedere: Command) -> None:
    first = table(tmp_path / "1.csv", HEAD, "p,ann,x,A,B,left,1.0", "p,ann,y,B,A,right,2", "p,ann,z,A,B,neither,1",
                  "p,ann,z,A,B,left,1")  # fmt: skip
    second = table(tmp_path / "2.csv", HEAD, "p,bob,x,B,A,left,1", "p,bob,y,A,B,neither,9")
    [found] = read_answers([first, second])
    assert (found.first, found.second, found.images, found.unsure) == ("A", "B", 3, 1)
    assert found.share == pytest.approx((0.5 + 0.75 + 1) / 3), "x: 1 and 0, y: 1 and 1/2, z: 1, since the last counts"
    assert (found.low, found.high) == wilson(found.share, 3)
    assert found.judges == {"ann": (1.0, 3), "bob": (0.25, 2)}
    done = belvedere("compare", str(first), str(second))
    assert done.code == 0
    assert "A: 75.0% [" in done.out
    assert "do not tell" in done.out
    many = table(tmp_path / "3.csv", HEAD, *(f"p,ann,{number},C,A,left,1" for number in range(30)))
    assert [each.share for each in read_answers([many, first])] == [pytest.approx(5 / 6 + 1 / 6), 0.0]
    assert "C is preferred" in belvedere("compare", str(many)).out
    wrong = table(tmp_path / "4.csv", HEAD, "p,ann,x,A,B,both,1", "p,ann,x,A,A,left,1")
    rejects(
        r"(?s)2 problems.*row 2: the answer is 'both'.*row 3: left and right", read_answers, [wrong], error=DataError
    )
    rejects("no answers", read_answers, [table(tmp_path / "5.csv", HEAD, "")], error=DataError)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_judge_answers_in_the_browser(folders: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "page.html"
    write_page(output, folders)
    judging = """<script>
at("judge").value = '=ann, "A"'; at("start").click()
for (let pair = 0; pair < 3; pair++) {
  const left = at("left").firstChild.src === pairs[state.order[pair]].a
  at(left ? "left" : "right").click()
  if (pair === 1) { at("back").click(); dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown" })) }
}
</script>"""
    output.write_text(output.read_text().replace("</body>", judging + "</body>"))
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
               "--virtual-time-budget=1000", "--dump-dom", output.as_uri()]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout
    answers = re.findall(r'<textarea id="text"[^>]*>(.*?)</textarea>', shown, re.DOTALL)[0]
    (tmp_path / "answers.csv").write_text(answers)
    [found] = read_answers([tmp_path / "answers.csv"])
    assert (found.first, found.second) == (str(folders[0]), str(folders[1]))
    assert found.share == pytest.approx(2.5 / 3), "the first folder's image was chosen twice, and none once"
    assert found.unsure == 1
    assert list(found.judges) == ['\'=ann, "A"']
