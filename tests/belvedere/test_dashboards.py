from pathlib import Path

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from belvedere.dashboards import log_study


def test_figures_and_tables_of_a_study_are_on_the_board_of_its_runs(tmp_path: Path) -> None:
    (tmp_path / "cells" / "a" / "seed-0").mkdir(parents=True)
    image, table = tmp_path / "bars.png", tmp_path / "results.csv"
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(image)
    table.write_text("network,dice\nA,0.5\n")
    log_study(tmp_path, "tiny", [image, table])
    assert not (tmp_path / "tensorboard").exists(), "no run has a dashboard"
    (tmp_path / "cells" / "a" / "seed-0" / "tensorboard").mkdir()
    log_study(tmp_path, "tiny", [image, table])
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert [(event.width, event.height) for event in events.Images("study/bars")] == [(30, 20)]
    [text] = events.Tensors("study/results/text_summary")
    assert text.tensor_proto.string_val == [table.read_bytes()]
