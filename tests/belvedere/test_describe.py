from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from belvedere.describe import write_study
from datamodules.describe.study import Panel, Study


def test_a_study_is_written_and_its_summary_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = {
        "summary": pd.DataFrame({"class": ["Fish", "all"], "pictures": [3, 4], "mean_area": [0.25, np.nan]}),
        "pictures": pd.DataFrame({"name": ["a.jpg", "b,c.jpg"], "black": [0.5, 0.0]}),
    }
    charts = {"Pictures": pd.Series([3], pd.Index(["Fish"], name="class"), name="pictures")}
    examples = [("a.jpg", np.full((40, 60, 3), 90, np.uint8), np.ones((1, 40, 60), bool))]
    folder = tmp_path / "runs" / "study"
    panels = {"copies": Panel(["tile", "90°"], [[np.full((30, 40, 3), level, np.uint8) for level in (10, 250)]])}
    paths = write_study(Study(tables, charts, examples, ["Fish"], panels), folder)

    assert [path.name for path in paths] == ["summary.csv", "pictures.csv", "study.png", "copies.png"]
    assert sorted(folder.iterdir()) == sorted(paths)
    for path, table in zip(paths, tables.values(), strict=False):
        pd.testing.assert_frame_equal(pd.read_csv(path), table, check_dtype=False)
    assert (folder / "pictures.csv").read_text() == 'name,black\na.jpg,0.5\n"b,c.jpg",0.0\n'
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["class", "pictures", "mean_area"],
        ["Fish", "3", "0.25"],
        ["all", "4", "-"],
    ]
    with Image.open(folder / "study.png") as drawn:
        assert drawn.width > 1000
        assert len(drawn.convert("RGB").getcolors(1 << 24)) > 100
    with Image.open(folder / "copies.png") as drawn:
        colors = dict(map(reversed, drawn.convert("RGB").getcolors(1 << 24)))
    assert colors[10, 10, 10] == colors[250, 250, 250] == 30 * 40
    write_study(Study({"summary": pd.DataFrame({"pictures": [7]})}, charts), folder)
    assert (folder / "summary.csv").read_text() == "pictures\n7\n"


def test_labels_are_not_looked_for_with_a_network_that_has_none(
    belvedere: Callable[..., Any], trained: Callable[[str], Path], tmp_path: Path
) -> None:
    found = belvedere("describe", "--ckpt_path", str(trained("colorization")), "--output", str(tmp_path / "out"))
    assert found.code == 2
    assert "mark regions or judge images" in found.err
    assert list((tmp_path / "out").glob("*.csv")) == []
