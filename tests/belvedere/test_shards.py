import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyogrio.raw
import pytest
import rasterio
from jsonargparse import Namespace
from PIL import Image

from belvedere.__main__ import main
from belvedere.shards import check_options
from callbacks.writers.segmentation import shards as writers
from callbacks.writers.segmentation.stitched import CanvasShare
from datamodules.decoded.predicted import predicted
from datamodules.decoded.shares import END, plan, shared
from datamodules.loaders import Samples
from ops.errors import ArgumentError
from ops.windows import window_grid
from tests.checks import rejects
from tests.ops.geo.test_rasters import UTM, write


def results(folder: Path) -> dict[str, Any]:
    """All files below a folder, by name: their bytes, and of a GeoPackage, which has the time, its layers."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".gpkg":
            for layer in pyogrio.list_layers(path)[:, 0]:
                meta, _, geometry, values = pyogrio.raw.read(path, layer=layer)
                found[f"{path.name} {layer}"] = meta["crs"], geometry.tolist(), [each.tolist() for each in values]
        elif path.is_file() and "slurm" not in path.parts:
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def draw(folder: Path) -> Path:
    """An image of many rows of windows, one of a single window, a map, and one that is cut off."""
    folder.mkdir()
    noise = np.kron(np.random.default_rng(0).random((60, 30, 3)), np.ones((5, 5, 1)))
    pixels = (255 * noise).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "long.png")
    Image.fromarray(pixels[:40, :50]).save(folder / "small.png")
    write(folder / "map.tif", pixels[:170].transpose(2, 0, 1), crs="EPSG:32632", transform=UTM)
    whole = (folder / "long.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture
def command(trained: Callable[[str], Path], tmp_path: Path) -> list[str]:
    return ["predict", "--ckpt_path", str(trained("roads")), "--data.pictures", str(draw(tmp_path / "images")),
            "--data.overlap", "0.5", "--data.num_workers", "0"]  # fmt: skip


def test_shards_make_what_one_process_makes(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*command, "--uncertainty", "--prelabels", "[labelme]"]
    assert main([*command, "--output", str(tmp_path / "whole")]) == 3, "an image is broken"
    own = [*command, "--output", str(tmp_path / "own"), "--shards", "4"]
    assert main([*own, "--shard", "2"]) == 0
    assert main([*own, "--merge"]) == 2
    assert "3 of 4 shards are not finished" in (error := capsys.readouterr().err)
    assert "0-1,3." in error

    calls = iter(range(1, 100))
    add = CanvasShare.add

    def interrupted(canvas: CanvasShare, *arguments: Any) -> bool:
        if next(calls) == 4:
            raise MemoryError
        return add(canvas, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(writers.CanvasShare, "add", interrupted)
        assert main([*own, "--shard", "1"]) == 2
    assert not list((tmp_path / "own/shards/1").glob(".part-*"))
    for shard in ("3", "1", "0"):
        assert main([*own, "--shard", shard]) == 0
    done = json.loads((tmp_path / "own/shards/2/1.json").read_text())
    before = (tmp_path / "own/shards/2/1.masks").stat()
    assert main([*own, "--shard", "2"]) == 0
    assert (tmp_path / "own/shards/2/1.masks").stat() == before, "a finished shard stays"
    assert done["size"] == [300, 150]
    path = tmp_path / "own/shards/2/1.masks"
    path.write_bytes(path.read_bytes()[:-1])
    assert main([*own, "--merge"]) == 2
    assert "--shard 2" in capsys.readouterr().err
    assert main([*own, "--shard", "2"]) == 0
    assert main([*own, "--merge"]) == 3
    assert main([*own, "--shard", "2"]) == 3, "all is finished"
    assert not (tmp_path / "own/shards").exists()
    assert results(tmp_path / "own") == results(tmp_path / "whole")
    assert {"maps/map_mask.tif", "map.gpkg lines", "skipped.csv", "lines/long.geojson"} <= results(
        tmp_path / "own"
    ).keys()


@pytest.mark.parametrize("task", ["avalanches", "clouds"])
def test_images_that_are_predicted_whole_are_shared(
    trained: Callable[[str], Path], avalanches_root: Path, tmp_path: Path, task: str
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    names = sorted(path.name for path in (avalanches_root / "images").iterdir())[:3]
    for name in names:
        shutil.copy(avalanches_root / "images" / name, images / name)
    (images / "boxes.csv").write_text(f"image,x0,y0,x1,y1\n{names[0]},8,8,80,70\n")
    pixels = np.array(Image.open(images / names[1])).transpose(2, 0, 1)
    pixels[:, :20] = 0
    write(images / "map.tif", pixels, crs="EPSG:32632", transform=UTM, nodata=0)
    (images / "broken.png").write_bytes(b"no image")
    predict = ["predict", "--ckpt_path", str(trained(task)), "--data.pictures", str(images),
               "--data.num_workers", "0", "--uncertainty", "--prelabels", "[coco]"]  # fmt: skip
    predict += ["--data.batch_size", "1"]  # the last bits of probabilities depend on who shares a batch
    assert main([*predict, "--output", str(tmp_path / "whole")]) == 3, "an image is broken"
    own = [*predict, "--output", str(tmp_path / "own"), "--shards", "2"]
    for shard in ("1", "0"):
        assert main([*own, "--shard", shard]) == 0
    assert main([*own, "--merge"]) == 3
    assert results(tmp_path / "own") == results(tmp_path / "whole")
    assert {"maps/map_mask.tif", "map.gpkg polygons", "uncertainty/map.tif", "areas.csv", "coco.json"} <= results(
        tmp_path / "own"
    ).keys()
    if task == "clouds":
        return
    with rasterio.open(tmp_path / "own/maps/map_mask.tif") as raster:
        assert (raster.crs.to_epsg(), raster.transform) == (32632, UTM)
        marks = raster.read(1)
    assert (marks[:20] == 255).all()
    assert ((marks == 1) == (np.asarray(Image.open(tmp_path / "own/masks/map.png")) > 0))[20:].all()


@pytest.mark.parametrize("what", ["--shard=0", "--merge", "--slurm"])
def test_tasks_without_masks_are_rejected_before_anything_is_written(
    trained: Callable[[str], Path], tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(trained("colorization"))
    capsys.readouterr()
    predict = ["predict", "--ckpt_path", checkpoint, "--data.pictures", str(tmp_path)]
    assert main([*predict, "--output", str(tmp_path / "own"), "--shards", "2", what]) == 2
    found = capsys.readouterr()
    assert "not for ColoringWriter" in found.err
    assert not found.out
    assert not (tmp_path / "own").exists()


def test_a_second_writer_and_stages_are_rejected() -> None:
    def given(*writers: dict[str, Any]) -> SimpleNamespace:
        trainer = SimpleNamespace(callbacks=[Namespace(writer) for writer in writers])
        return SimpleNamespace(shards=2, shard=0, merge=False, slurm=None, output="x", resume=None, trainer=trainer)

    room = "callbacks.writers.segmentation"
    outlines = {"class_path": f"{room}.outlines.OutlineWriter", "init_args": {"keep_stages": True}}
    masks = {"class_path": f"{room}.writer.SegmentationWriter"}
    rejects("remove keep_stages", check_options, given(outlines), error=ArgumentError)
    rejects("got OutlineWriter, SegmentationWriter", check_options, given(outlines, masks), error=ArgumentError)
    rejects("got none", check_options, given(), error=ArgumentError)
    check_options(given(masks))


def test_other_options_are_another_prediction(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [*command, "--output", str(tmp_path / "own"), "--shards", "1"]
    assert main([*own, "--shard", "0"]) == 0
    assert main([*own, "--merge", "--model.threshold", "0.123"]) == 2
    assert "1 of 1 shards are not finished" in capsys.readouterr().err


@pytest.mark.parametrize("number", [1, 2, 5, 40])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.7])
def test_shares_have_every_row_once_and_all_windows_that_reach_into_it(
    tmp_path: Path, number: int, overlap: float
) -> None:
    sizes = {"a.png": (300, 70), "b.png": (20, 200), "c.png": (64, 64), "d.png": (130, 130)}
    for name, size in sizes.items():
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / name)
    samples = predicted(tmp_path, list(sizes), (64, 64), window=(64, 64), overlap=overlap)
    shares = plan(samples, number)
    counts = np.zeros(number, int)
    for picture, (name, size) in enumerate(sizes.items()):
        own = [share for share in shares if share.picture == picture]
        assert {share.name for share in own} == {name}
        rows = [(share.rows[0], size[0] if share.rows[1] == END else share.rows[1]) for share in own]
        assert [first for first, _ in rows] == [0, *(last for _, last in rows[:-1])]
        assert rows[-1][1] == size[0]
        for share, (first, last) in zip(own, rows, strict=True):
            origins = [samples.make.places[index][1:] for index in share.samples]  # type: ignore[attr-defined]  # Windows
            grid = window_grid(size, (64, 64), overlap)
            assert origins == [each for each in grid if each[0] < last and each[0] + 64 > first]
            counts[share.shard] += len({top for top, _ in origins if first <= top < last})
    assert counts.max() - counts.min() <= 1, "shards have equally many rows of windows"
    own = [share for share in shares if share.shard == shares[-1].shard]
    part = shared(samples, own)
    assert sum(map(len, part.groups)) == len(part) == sum(len(share.samples) for share in own)
    last = part[len(part) - 1]
    assert (last["name"], last["picture"]) == ("d.png", 3)
    np.testing.assert_array_equal(last["image"], samples[len(samples) - 1]["image"])


def test_samples_without_windows_are_rejected() -> None:
    rejects("Split the folder", plan, Samples(["a"], lambda index: {}), 2, error=ArgumentError)


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("--shard needs --shards", {"shard": 0}),
        ("--merge needs --shards", {"merge": True}),
        ("from 0 to", {"shards": 3, "shard": 3, "output": "x"}),
        ("1 or more", {"shards": 0, "shard": 0, "output": "x"}),
        ("none of these", {"shards": 3, "output": "x"}),
        ("--shard and --merge", {"shards": 3, "shard": 0, "merge": True, "output": "x"}),
        ("--output FOLDER", {"shards": 3, "shard": 0}),
        ("remove --resume", {"shards": 3, "shard": 0, "output": "x", "resume": "auto"}),
    ],
)
def test_options_that_do_not_fit_are_rejected(match: str, options: dict[str, Any]) -> None:
    given = {"shards": None, "shard": None, "merge": False, "slurm": None, "output": None, "resume": None} | options
    rejects(match, check_options, SimpleNamespace(**given), error=ArgumentError)


def test_the_job_script_submits_an_array_and_then_the_merge(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text("gpus: 0\nat_once: 2\nsetup: [echo ready]\n")
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*command, "--output", "out", "--shards", "3", "--slurm", "small.yaml"])
    assert ended.value.code == 0
    Path("job.sh").write_text(capsys.readouterr().out)
    Path("bin").mkdir()
    Path("bin/sbatch").write_text(
        '#!/bin/bash\necho "$@" >> calls\ncp "${@: -1}" "submitted-$(wc -l < calls)"\nwc -l < calls\n'
    )
    Path("bin/sbatch").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "job.sh"], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "shards: job 1; merge: job 2\n"
    array, merge = (Path(f"submitted-{number}").read_text() for number in (1, 2))
    assert "--dependency=afterok:1" in Path("calls").read_text().splitlines()[1]
    assert "#SBATCH --array=0-2%2" in array
    assert '--shards 3 --shard "$SLURM_ARRAY_TASK_ID" &' in array
    assert "--array" not in merge
    assert "--shards 3 --merge &" in merge
    for script in (array, merge):
        assert "slurm small" not in script
        assert "echo ready" in script
        assert Path("out/slurm").is_dir()
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
