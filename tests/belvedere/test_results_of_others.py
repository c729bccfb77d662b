"""Results of other images are never replaced, unless `--overwrite` asks for it."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from belvedere.checkpoints import SOURCE, output_folder, write_source
from ops.errors import ArgumentError

Command = Callable[..., Any]


def settings(pictures: Path | None, root: str = "/data", **given: Any) -> Any:
    data = SimpleNamespace(init_args={"pictures": None if pictures is None else str(pictures), "root": root})
    options = {"output": None, "ckpt_path": "run/checkpoints/best.ckpt", "overwrite": False} | given
    config = SimpleNamespace(data=data, **options)
    vars(config)["get"] = options.get
    return config


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("north/photos", "south/photos", "survey_2020.05"):
        Path(name).mkdir(parents=True)
    Path("town.tif").touch()


def done(command: str, config: Any) -> Path:
    """The folder of a command that wrote its results."""
    folder = output_folder(command, "clouds", config)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    write_source(folder, Path(str(config.data.init_args["pictures"] or "/data")).absolute())
    return folder


@pytest.mark.parametrize("command", ["predict", "features"])
def test_each_source_has_a_folder(command: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    digest = hashlib.sha256(str(tmp_path / "south/photos").encode()).hexdigest()[:8]
    for _ in range(2):  # a second prediction replaces that of the same images
        assert done(command, settings(Path("survey_2020.05"))) == run / f"{command}-survey_2020.05"
        assert done(command, settings(Path("town.tif"))) == run / f"{command}-town"
        assert done(command, settings(Path("north/photos"))) == run / f"{command}-photos"
        assert done(command, settings(tmp_path / "north" / "photos")) == run / f"{command}-photos"
        assert done(command, settings(Path("south/photos"))) == run / f"{command}-photos-{digest}"
        assert done(command, settings(Path("south/photos/"))) == run / f"{command}-photos-{digest}"
        assert done(command, settings(None)) == run / command
    assert output_folder(command, "clouds", settings(None, "/other")).name.startswith(f"{command}-")
    again = settings(Path("south/photos"), overwrite=True)
    assert output_folder(command, "clouds", again) == run / f"{command}-photos"
    assert (run / f"{command}-photos" / SOURCE).read_text() == f"{tmp_path}/north/photos\n"


@pytest.mark.parametrize("help_of_the_user", ["hints", "reference"])
def test_colors_with_help_stand_beside_the_automatic_ones(help_of_the_user: str, tmp_path: Path) -> None:
    config = settings(Path("north/photos"))
    automatic = done("predict", config)
    config.data.init_args[help_of_the_user] = "colors.csv"
    assert done("predict", config) == tmp_path / "run" / f"{automatic.name}-{help_of_the_user}"
    assert automatic.is_dir()


def test_results_of_an_earlier_version_stay(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "predict-photos"
    (folder / "part").mkdir(parents=True)  # of a killed prediction
    assert output_folder("predict", "clouds", settings(Path("north/photos"))) == folder
    (folder / "masks").mkdir()
    assert output_folder("predict", "clouds", settings(Path("north/photos"))).name.startswith("predict-photos-")


def test_output_with_results_of_others_is_rejected(tmp_path: Path) -> None:
    done("predict", settings(Path("north/photos"), output="out"))
    assert done("predict", settings(Path("north/photos"), output="out")) == tmp_path / "out"
    with pytest.raises(
        ArgumentError, match=r"out holds results of .*/north/photos, not of .*/south/photos.*--overwrite"
    ):
        output_folder("predict", "clouds", settings(Path("south/photos"), output="out"))
    assert done("predict", settings(Path("south/photos"), output="out", overwrite=True)) == tmp_path / "out"


def test_the_commands_keep_both(belvedere: Command, fitted: Path, clouds_root: Path, tmp_path: Path) -> None:
    run = shutil.copytree(fitted, tmp_path / "run", ignore=shutil.ignore_patterns("predict*"))
    for number, place in enumerate(("north", "south")):
        shutil.copy(sorted((clouds_root / "train_images").iterdir())[number], tmp_path / place / "photos")
        options = ["--ckpt_path", str(run / "checkpoints" / "best.ckpt"), "--data.pictures", f"{place}/photos"]
        assert belvedere("predict", *options).code == 0
    found = {(path / SOURCE).read_text(): len(list((path / "overlays").iterdir())) for path in run.glob("predict-*")}
    assert found == {f"{tmp_path}/{place}/photos\n": 1 for place in ("north", "south")}
    assert "holds results of" in belvedere("predict", *options, "--output", str(run / "predict-photos")).refusal


def test_folders_of_the_user_are_not_replaced(
    belvedere: Command, trained: Callable[[str], Path], roads_root: Path, tmp_path: Path
) -> None:
    for name in ("masks", "maps", "lines"):
        (tmp_path / "project" / name).mkdir(parents=True)
    (tmp_path / "project" / "maps" / "own.tif").write_text("mine")
    (tmp_path / "project" / "areas.csv").write_text("mine")
    predict = ["predict", "--ckpt_path", str(trained("roads")), "--data.pictures", str(roads_root / "pictures"),
               "--output", "project"]  # fmt: skip
    (tmp_path / "project" / "masks" / "own.png").write_text("mine")
    assert "project/masks" in belvedere(*predict).refusal
    assert (tmp_path / "project" / "masks" / "own.png").exists()
    (tmp_path / "project" / "masks" / "own.png").unlink()
    for _ in range(2):
        assert belvedere(*predict).code == 0
        assert (tmp_path / "project" / "maps" / "own.tif").read_text() == "mine"
        assert (tmp_path / "project" / "areas.csv").read_text() == "mine"
    assert len(list((tmp_path / "project" / "masks").iterdir())) > 0
