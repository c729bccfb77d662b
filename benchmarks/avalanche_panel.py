"""What a run found, stage by stage: `python -m benchmarks.avalanche_panel best.ckpt DATA panel.png`.

A row a photograph, as in figures 6 to 9 of the paper: photograph, truth, first pass, its edges, the truth's edges,
second pass and polygon, of three test pictures: the one with the best first pass, the middle one and the worst. The
photographs of $BELVEDERE_DATA/avalanches have no licence: a panel of them stays in the folder of the run.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.avalanche_answers import Mask, mask_of, scores
from benchmarks.avalanches import belvedere
from callbacks.writers.segmentation.polygons import drawn_polygon
from datamodules.avalanches import AvalanchesDataModule
from datamodules.read.mask_files import read_mask
from datamodules.read.names import picture_files
from datamodules.read.pictures import read_picture
from drawing.pictures import Picture, overlay, panel, save_picture
from ops.exact.edges import canny

TITLES = ("photograph", "truth", "first pass", "its edges", "edges of the truth", "second pass", "polygon")
STAGES = """trainer:
  callbacks:
  - class_path: callbacks.writers.segmentation.outlines.OutlineWriter
    init_args: {keep_stages: true}
"""


def enlarged(stage: Path, like: NDArray[np.generic]) -> Mask:
    """Returns a mask that was kept on the way, as large as the picture."""
    mask = read_mask(stage).view(np.uint8)
    large: NDArray[np.uint8] = cv2.resize(mask, like.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return large.astype(np.bool_)


def white(mask: Mask) -> Picture:
    """Returns a mask as a picture."""
    return np.repeat(mask[..., None], 3, axis=2) * np.uint8(255)


def row(photograph: Path, truth: Mask, found: Path) -> tuple[float, str, list[Picture]]:
    """Returns dice of the first pass, a caption, and the pictures of a row.

    Args:
        photograph: The photograph.
        truth: Its mask.
        found: The folder of the prediction.
    """
    picture = read_picture(photograph)
    stages = {path.stem.partition("_")[2]: path for path in (found / "stages" / photograph.stem).iterdir()}
    first, edges = (enlarged(stages[name], truth) for name in ("first_mask", "first_edges"))
    second = read_mask(found / "masks" / f"{photograph.stem}.png")
    record = json.loads((found / "polygons.json").read_text())["pictures"][photograph.name]
    rings = [np.array(ring) for ring in record["rings"]]
    true_edges = canny(torch.from_numpy(truth.view(np.uint8) * 255)[None, None], 100, 200)[0, 0].numpy()
    dices = [scores([mask], [truth])["dice"] for mask in (first, second)]
    cells = [picture, overlay(picture, truth[None]), overlay(picture, first[None]), white(edges), white(true_edges),
             overlay(picture, second[None]), drawn_polygon(picture, second, rings)]  # fmt: skip
    caption = f"{photograph.stem}: dice of the first pass {dices[0]:.2f}, of the second {dices[1]:.2f}; "
    return dices[0], f"{caption}{record['vertices']} vertices", cells


def main() -> None:
    """Predicts and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path, help="holds images/ and masks/, as for training")
    parser.add_argument("panel", type=Path, help="the .png or .jpg to write")
    parser.add_argument("--second_input", choices=("edges", "enhanced"), default="enhanced")
    asked = parser.parse_args()
    found = asked.checkpoint.absolute().parents[1] / f"stages-{asked.second_input}"
    found.mkdir(exist_ok=True)
    tests = AvalanchesDataModule(asked.data).split([path.name for path in picture_files(asked.data / "images")])["test"]
    folder = found / "pictures"
    folder.mkdir(exist_ok=True)
    for name in tests:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to((asked.data / "images" / name).absolute())
    config = found / "stages.yaml"
    config.write_text(STAGES)
    belvedere(found / "predict.log", "predict", "--config", str(config), "--ckpt_path", str(asked.checkpoint),
              "--model.second_input", asked.second_input, "--model.final", asked.second_input,
              "--model.xgboost_on", "none", "--data.pictures", str(folder),
              "--output", str(found))  # fmt: skip
    drawn = sorted(
        (row(folder / name, mask_of(asked.data / "masks" / name), found) for name in tests),
        key=lambda each: -each[0],
    )
    chosen = [drawn[0], drawn[len(drawn) // 2], drawn[-1]]
    save_picture(panel([cells for *_, cells in chosen], TITLES, [caption for _, caption, _ in chosen]), asked.panel)
    print(asked.panel)


if __name__ == "__main__":
    main()
