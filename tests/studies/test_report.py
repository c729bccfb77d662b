import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from studies.figures import write_figures
from studies.notes import read_states
from studies.plan import Run
from studies.report import repeating, write_report
from studies.results import read_results
from studies.tables import table

Make = Callable[..., Any]
EMPTY = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Parses a page; fails if an element is not closed in order.

    Attributes:
        rows: Texts of the cells of all table rows.
        texts: All texts except the style.
        tags: Names of all elements.
        addresses: Values of attributes that load something or link to it.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "action")]
        if tag not in EMPTY:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data.replace("\u2007", "")


def report(made: Any, figures: bool = False) -> str:
    rows, states = read_results(made.study, made.folder), read_states(made.study, made.folder)
    drawn = write_figures(made.study, rows, made.folder) if figures else []
    path = write_report(made.study, rows, states, drawn, made.folder)
    assert path == made.folder / "report.html"
    text: str = path.read_text(encoding="utf-8")
    return text


@pytest.fixture
def filled(make: Make) -> Any:
    """A study with a finished cell, a cell with a failed seed, a waiting cell and an impossible one."""
    made = make()
    curve = {"train": [0.3, 0.5, 0.7], "val": [0.2, 0.6, 0.4]}
    for seed, dice in enumerate((0.4, 0.5)):
        folder = made.write("u-net--resnet-34", seed, {"test/dice": dice, "test/loss": 1 - dice}, curve=curve)
        (folder / "features" / "vectors").mkdir(parents=True)
        (folder / "features" / "vectors" / "classifiers.csv").write_text(f"vector,accuracy\n<fc6>,{dice}\n")
    made.write("u-net--wide-odd", 0, {"test/dice": 0.3}, {"test/dice": (0.2, 0.45)}, curve, seconds=7384)
    made.fail("u-net--wide-odd", 1)
    return made


def test_the_page_is_complete_and_loads_nothing(filled: Any) -> None:
    text = report(filled, figures=True)
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert {"title", "h1", "table", "figure", "img", "pre", "details"} <= page.tags
    assert not {"script", "link", "iframe", "object", "base"} & page.tags
    assert [address.partition(",")[0] for address in page.addresses] == ["data:image/svg+xml;base64"] * 2
    assert not re.search(r"https?:|//[a-z]|url\(|@import", text)
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_the_page_shows_the_table(filled: Any) -> None:
    rows, states = read_results(filled.study, filled.folder), read_states(filled.study, filled.folder)
    lines = table(filled.study, rows, states)
    text = report(filled)
    shown = Page(text).rows
    assert text.count('<td class="again">U-Net</td>') == 1 + 3  # in the results and in the list of runs
    assert shown[0] == lines[0]
    assert [line for line in lines if "±" in line[3]] == [shown[1]]
    assert shown[1][3] == "0.450 ± 0.071"
    assert shown[2] == lines[2]
    assert shown[2][2:4] + shown[2][-1:] == ["1", "0.300 [0.200, 0.450]", "1 of 2 failed"]
    # in rows without metrics, the remark takes their place
    assert shown[3] == [*lines[3][:3], "waiting"]
    assert shown[4] == ["FPN", "Wide | odd", "-", "impossible: it <does> not fit."]


def test_the_best_value_is_bold(make: Make) -> None:
    made = make(seeds=[0])
    for cell, dice in (("u-net--resnet-34", 0.2), ("u-net--wide-odd", 0.9), ("fpn--resnet-34", 0.3)):
        made.write(cell, 0, {"test/dice": dice}, {"test/dice": (dice - 0.04, dice + 0.04)})
    text = report(made)
    assert '<strong>0.900</strong><span class="spread"> [0.860, 0.940]</span>' in text
    assert "<strong>0.3" not in text
    assert "**" not in text


def test_states_are_counted(filled: Any) -> None:
    text = " ".join(Page(report(filled)).texts)
    assert "3 of 6 runs finished, 1 failed, 2 waiting." in text
    assert "3 cells, 2 seeds each (0, 1); 1 more is impossible." in text


def test_every_run_is_listed(filled: Any) -> None:
    page = Page(report(filled))
    start = next(place for place, row in enumerate(page.rows) if row[-1] == "folder")
    lines = page.rows[start : start + 7]
    assert lines[0] == ["network", "encoder", "seed", "state", "dice", "best epoch", "epochs", "time", "memory",
                        "parameters", "folder"]  # fmt: skip
    assert lines[1][2:] == ["0", "finished", "0.4000", "1", "3", "0:01:15", "1.50 GiB", "24,436,369",
                            "cells/u-net--resnet-34/seed-0"]  # fmt: skip
    assert lines[3][7] == "2:03:04"
    assert lines[4][2:] == ["1", "failed", *["-"] * 6, "cells/u-net--wide-odd/seed-1"]
    assert [line[3] for line in lines[1:]] == ["finished"] * 3 + ["failed"] + ["waiting"] * 2


def test_every_metric_has_a_definition(filled: Any) -> None:
    rows = Page(report(filled)).rows
    assert ["dice", "test/dice", "Twice the overlap, over < the sum.", "test split, 5 images",
            "larger is better"] in rows  # fmt: skip
    assert ["loss", "test/loss", "The mean loss.", "test split, 5 images", "smaller is better"] in rows
    assert ["best epoch", "best_epoch", "The best one.", "-", "-"] in rows
    assert ["A", "3", "output_size [350, 525]", "-",
            "split_seed 0, val_fraction 0.2, test_fraction 0.1", "5", "c0ffee", "0.1.0"] in rows  # fmt: skip
    assert ["torch", "2.14.1", "all"] in rows
    assert ["device", "NVIDIA H100", "all"] in rows
    assert ["U-Net", "ResNet-34", "<fc6>", "2", "0.450 ± 0.071"] in rows


def test_everything_is_escaped(filled: Any) -> None:
    text = report(filled)
    assert "<h1>Is it A &amp; B, or &lt;C&gt;?</h1>" in text
    assert "impossible: it &lt;does&gt; not fit." in text
    assert "over &lt; the sum." in text
    assert "&lt;fc6&gt;" in text
    assert "    belvedere: &lt;no&gt; images.</pre>" in text
    assert not {"does", "c", "fc6", "no"} & Page(text).tags


def test_differing_conditions_are_marked(filled: Any) -> None:
    assert "Not all of these" not in report(filled)
    assert "different machines" not in report(filled)
    changes = {"data_fingerprint": "decaf", "pictures": {"test": 9}, "versions": {"torch": "2.11"}}
    filled.write("u-net--wide-odd", 0, **changes, device="a laptop")
    page = Page(report(filled))
    assert sum("Not all of these runs are comparable" in text for text in page.texts) == 2
    assert any("c0ffee in A; decaf in B" in text for text in page.texts)
    assert ["loss", "test/loss", "The mean loss.", "test split, 5 images in A, 9 images in B",
            "smaller is better"] in page.rows  # fmt: skip
    assert ["torch", "2.11", "cells/u-net--wide-odd/seed-0"] in page.rows
    assert page.rows[0][2] == "group"
    # at the list of runs; the results have no column of times
    assert sum("different machines" in text for text in page.texts) == 1
    assert ["device", "a laptop", "cells/u-net--wide-odd/seed-0"] in page.rows


def test_a_study_without_runs_has_a_report(make: Make) -> None:
    made = make()
    texts = Page(report(made, figures=True)).texts
    assert any("0 of 6 runs finished, 6 waiting." in text for text in texts)
    assert any(text.startswith("None yet") for text in texts)
    assert "No run has written this table yet." in texts
    assert [path.name for path in made.folder.iterdir()] == ["report.html"]


def test_photographs_are_embedded_as_jpeg(filled: Any) -> None:
    path = filled.folder / filled.run("u-net--wide-odd", 0).folder / "predict-x" / "overlays" / "a.jpg"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (40, 30), (200, 100, 0)).save(path)
    kinds = [address.partition(";")[0] for address in Page(report(filled, figures=True)).addresses]
    assert kinds == ["data:image/svg+xml", "data:image/svg+xml", "data:image/jpeg"]


def test_the_commands_repeat_a_run(filled: Any) -> None:
    run = filled.run("u-net--wide-odd", 1)
    folder = "repeated/u-net--wide-odd/seed-1"
    assert list(repeating(filled.study, run)) == [
        f"belvedere fit --config clouds/unet --model.encoder mobilenet_v2 --seed_everything 1 --output {folder}",
        f"belvedere test --ckpt_path {folder}/checkpoints/best.ckpt",
        f"belvedere features --ckpt_path {folder}/checkpoints/best.ckpt",
    ]
    text = "".join(Page(report(filled)).texts)
    assert all(line in text for line in repeating(filled.study, run))
    odd = Run("a", {"network": "a"}, 0, ("--data.root", "my pictures"), "a")
    assert next(repeating(filled.study, odd)).startswith("belvedere fit --data.root 'my pictures' --seed")


def test_the_page_is_replaced_atomically(filled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = report(filled)
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_report(filled.study, read_results(filled.study, filled.folder),
                     read_states(filled.study, filled.folder), [], filled.folder)  # fmt: skip
    monkeypatch.undo()
    assert (filled.folder / "report.html").read_text(encoding="utf-8") == before
    assert not [path for path in filled.folder.iterdir() if path.name.startswith(".")]
