"""The page of `belvedere app`: what it computes, and the page itself in a real browser."""

import csv
import io
import json
import shutil
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio
import numpy as np
import pytest
import rasterio
import torch
import yaml
from PIL import Image

import belvedere as api
from belvedere.app import models as app_models
from belvedere.app import serving
from belvedere.app.archive import archive
from belvedere.app.models import TrainedModel, opened_models
from belvedere.app.page import page
from benchmarks.browser import chromium, drop, images, missing, paint, until
from ops import extras
from ops.errors import ArgumentError
from ops.masks.polygons import polygon_mask

Command = Callable[..., Any]
Trained = Callable[[str], Path]
SHAPE = (70, 90)


@pytest.fixture
def album(tmp_path: Path) -> list[Path]:
    """Two images and a file that is none."""
    folder, rng = tmp_path / "album", np.random.default_rng(0)
    folder.mkdir()
    for name in ("a.png", "b.png"):
        coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8))
        coarse.resize(SHAPE[::-1], Image.Resampling.BICUBIC).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no image")
    return sorted(folder.iterdir())


def files(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def pixels(content: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_masks_are_those_of_predict(trained: Trained, belvedere: Command, album: list[Path], tmp_path: Path) -> None:
    checkpoint = str(trained("roads"))
    [model] = opened_models([checkpoint])
    assert (model.kind, model.classes, model.title) == ("masks", ["road"], "Roads in aerial images")
    found = model.find(album)
    assert [bool(each.problem) for each in found] == [False, False, True]
    assert belvedere("predict", "--ckpt_path", checkpoint, "--data.pictures", str(album[0].parent), "--output", "out"
                     ).code == 3  # fmt: skip
    written = files(archive([model], [found], [model.thresholds], tmp_path / "z" / "results.zip"))
    for name in ("a", "b"):
        expected = np.asarray(Image.open(f"out/masks/{name}.png"))
        np.testing.assert_array_equal(pixels(written[f"masks/road/{name}.png"]), expected)
        assert pixels(written[f"overlays/{name}.jpg"]).shape[1] == SHAPE[1]
    assert b"broken.jpg" in written["skipped.csv"]
    assert written["thresholds.csv"].startswith(b"class,threshold\nroad,")
    assert len(written) == 8


def test_thresholds_decide(trained: Trained, album: list[Path], tmp_path: Path) -> None:
    [model] = opened_models([str(trained("roads"))])
    [found] = model.find(album[:1])
    assert found.probability is not None
    assert found.probability.shape == (1, *SHAPE)
    middle = float(np.median(found.probability))
    shares = [model.masks(found, [value]).mean() for value in (0, middle, 1.01)]
    assert shares[0] == 1
    assert shares[2] == 0
    assert 0.3 < shares[1] < 0.7
    content = files(archive([model], [[found, found]], [[middle]], tmp_path / "results.zip"))
    assert content["masks/road/a.png"] == content["masks/road/a_2.png"]
    mask = model.masks(found, [middle])[0]
    np.testing.assert_array_equal(pixels(content["masks/road/a.png"]) > 0, mask)
    [feature] = json.loads(content["polygons/a.geojson"])["features"]
    rings = [np.array(ring[:-1]) for shape in feature["geometry"]["coordinates"] for ring in shape]
    drawn = polygon_mask(rings, SHAPE)
    assert (drawn & mask).sum() / (drawn | mask).sum() == pytest.approx(feature["properties"]["iou"], abs=1e-3)


def test_colors_follow_hints(trained: Trained, belvedere: Command, album: list[Path], tmp_path: Path) -> None:
    checkpoint = str(trained("colorization"))
    [model] = opened_models([checkpoint])
    found = model.find(album)
    assert belvedere("predict", "--ckpt_path", checkpoint, "--data.pictures", str(album[0].parent), "--output", "out"
                     ).code == 3  # fmt: skip
    content = files(archive([model], [found], [[]], tmp_path / "results.zip"))
    expected = np.asarray(Image.open("out/colored/a.png"))
    np.testing.assert_array_equal(pixels(content["colored/a.png"]), expected)
    strokes = np.zeros((*SHAPE, 4), np.uint8)
    strokes[30:40, 40:50] = (220, 30, 30, 255)
    [hinted] = model.find(album[:1], strokes)
    assert hinted.colored is not None
    before, after = (each[35, 45].astype(int) for each in (expected, hinted.colored))
    assert after[0] - after[2] > before[0] - before[2] + 30


def test_scores_are_sorted_and_two_models_have_folders(trained: Trained, album: list[Path], tmp_path: Path) -> None:
    checkpoint = str(trained("aesthetics"))
    models = opened_models([checkpoint, checkpoint])
    assert len({model.name for model in models}) == 2
    found = [model.find(album) for model in models]
    low, high, broken = found[1]
    found[1] = [replace(low, scores={"probability": 0.1}), replace(high, scores={"probability": 0.9}), broken]
    content = files(archive(models, found, [[], []], tmp_path / "results.zip"))
    first, second = (content[f"{model.name}/scores.csv"].decode() for model in models)
    assert next(csv.reader(io.StringIO(first)))[:2] == ["name", "probability"]
    assert [row["name"] for row in csv.DictReader(io.StringIO(second))] == ["b.png", "a.png"]


def test_an_exported_file_shows_the_same(trained: Trained, belvedere: Command, album: list[Path]) -> None:
    checkpoint = str(trained("avalanches"))
    assert belvedere("pack", checkpoint, "--worst", "0", "--onnx", "--output", "packed").code == 0
    assert "belvedere.run model.onnx" in Path("packed/README.md").read_text()
    first, second = opened_models([checkpoint, "packed/model.onnx"])
    assert (second.kind, second.title, second.classes) == (first.kind, first.title, first.classes)
    assert second.thresholds == pytest.approx(first.thresholds)
    expected, *_, broken = first.find(album)
    found, *_, unusable = second.find(album)
    assert found.probability is not None
    assert expected.probability is not None
    np.testing.assert_allclose(found.probability, expected.probability, atol=1e-4)
    np.testing.assert_array_equal(found.picture, expected.picture)
    middle = [float(np.median(expected.probability))]
    assert (first.masks(expected, middle) == second.masks(found, middle)).mean() > 0.99
    assert "broken.jpg" in broken.problem
    assert "broken.jpg" in unusable.problem


def handlers(made: Any) -> dict[str, Callable[..., Any]]:
    """What a page calls at its events, by name."""
    return {
        each.fn.__name__: each.fn for each in made.fns.values() if callable(each.fn) and hasattr(each.fn, "__name__")
    }


def test_images_that_one_of_two_models_cannot_use_are_not_offered(
    trained: Trained, album: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = opened_models([str(trained("aesthetics"))] * 2)
    find = models[1].find

    def strict(paths: Any) -> Any:
        return [replace(each, scores={}, problem="too small") if each.name == "b.png" else each for each in find(paths)]

    monkeypatch.setattr(models[1], "find", strict)
    calls = handlers(page(models, tmp_path))
    with pytest.warns(UserWarning, match="cannot be used") as warned:
        found = calls["predicted"]([str(path) for path in album])
    texts = [str(each.message) for each in warned if "cannot be used" in str(each.message)]
    assert [text.split(":")[0] for text in texts] == [f"b.png cannot be used by {models[1].name}",
                                                      "broken.jpg cannot be used"]  # fmt: skip
    rows, shown = calls["sorted_results"](found)
    assert [row[0] for row in rows] == ["a.png"]
    assert len(shown) == 1
    assert app_models.usable(found) == [0]


def test_the_file_of_a_shown_image_is_written_once(trained: Trained, album: list[Path], tmp_path: Path) -> None:
    [model] = opened_models([str(trained("colorization"))])
    calls = handlers(page([model], tmp_path / "page"))
    found = calls["predicted"]([str(album[0])])
    gray, colored = calls["pairs"](found, 0)
    times = [Path(path).stat().st_mtime_ns for path in (gray, colored)]
    assert calls["blank"](found, 0)["background"] == gray  # the canvas gets it while the browser loads it
    assert calls["pairs"](found, 0) == (gray, colored)
    assert [Path(path).stat().st_mtime_ns for path in (gray, colored)] == times
    shown, expected = np.asarray(Image.open(gray)).astype(int), np.asarray(Image.open(colored)).astype(int)
    assert shown.shape == expected.shape == (*SHAPE, 3)
    assert np.ptp(shown, axis=2).max() <= 1
    np.testing.assert_array_equal(expected, found[0][0].colored)


def test_a_shared_page_does_not_say_that_images_stay_here(trained: Trained, tmp_path: Path) -> None:
    models = opened_models([str(trained("aesthetics"))])
    alone, shared = (
        next(each.value for each in page(models, tmp_path, share).blocks.values() if isinstance(each, gradio.Markdown))
        for share in (False, True)
    )
    assert "stay on this computer" in alone
    assert "stay on this computer" not in shared
    assert "Gradio" in shared


def test_rasters_are_shown_as_the_model_reads_them(trained: Trained, tmp_path: Path) -> None:
    content = torch.load(trained("roads"), weights_only=True)
    config = yaml.safe_load(content["config"])
    config["data"]["init_args"]["scale"] = [[0, 1000]]
    torch.save(content | {"config": yaml.safe_dump(config)}, tmp_path / "wide.ckpt")
    values = np.random.default_rng(0).integers(0, 1000, (3, *SHAPE)).astype(np.uint16)
    with rasterio.open(tmp_path / "wide.tif", "w", driver="GTiff", width=SHAPE[1], height=SHAPE[0], count=3,
                       dtype="uint16", photometric="rgb") as file:  # fmt: skip
        file.write(values)
    [model] = opened_models([str(tmp_path / "wide.ckpt")])
    [found] = model.find([tmp_path / "wide.tif"])
    assert found.problem == ""
    assert np.abs(found.picture - values.transpose(1, 2, 0) * 0.255).max() <= 1
    [plain] = opened_models([str(trained("roads"))])
    assert "8 bits per channel" in plain.find([tmp_path / "wide.tif"])[0].problem


def test_a_task_predicts_for_one_event_at_a_time(
    trained: Trained, album: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    [model] = opened_models([str(trained("roads"))])
    busy, together = threading.Lock(), []

    def slow(*arguments: Any, **options: Any) -> list[Any]:
        free = busy.acquire(blocking=False)
        together.append(not free)
        time.sleep(0.05)
        if free:
            busy.release()
        return []

    monkeypatch.setattr(app_models, "predict", slow)
    threads = [threading.Thread(target=model.find, args=([],)) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert together == [False] * 4


def test_polygons_are_those_of_predict(trained: Trained, belvedere: Command, album: list[Path], tmp_path: Path) -> None:
    checkpoint = str(trained("avalanches"))
    [expected] = api.predict(checkpoint, [album[0]])
    assert expected.polygons is not None
    [model] = opened_models([checkpoint])
    content = files(archive([model], [model.find(album[:1])], [model.thresholds], tmp_path / "results.zip"))
    assert json.loads(content["polygons/a.geojson"]) == expected.polygons
    assert model.outlines.outline == "clean"


def test_results_of_one_name_stay_apart(trained: Trained, album: list[Path], tmp_path: Path) -> None:
    [model] = opened_models([str(trained("aesthetics"))])
    [found] = model.find(album[:1])
    several = [replace(found, name=name) for name in ("a.png", "a.jpg", "a_2.png", "a.tif")]
    content = files(archive([model], [several], [[]], tmp_path / "results.zip"))
    stems = [row["name"].partition(".")[0] for row in csv.DictReader(io.StringIO(content["scores.csv"].decode()))]
    assert len(set(stems)) == 4


def test_what_cannot_be_shown_is_explained(
    trained: Trained, belvedere: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    roads, colors = str(trained("roads")), str(trained("colorization"))
    with pytest.raises(ArgumentError, match="of one kind"):
        opened_models([roads, colors])
    assert "--port is 0" in belvedere("app", roads, "--port", "0").refusal
    assert "no checkpoint file" in belvedere("app", "none.ckpt").refusal
    monkeypatch.setattr(extras, "installed", lambda module: False)
    assert "pip install gradio" in belvedere("app", roads).refusal


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium whose downloads go to `browser.downloads`."""
    pytest.importorskip("selenium.webdriver")
    if missing():
        pytest.skip(f"no {missing()}")
    downloads = tmp_path_factory.mktemp("downloads")
    with chromium(downloads) as made:
        made.downloads = downloads
        yield made


def downloaded(browser: Any) -> dict[str, bytes]:
    browser.find_element("css selector", "#zip").click()
    path = until(lambda: next(iter(browser.downloads.glob("*.zip")), None))
    content = files(path)
    path.unlink()
    return content


def outside(browser: Any, local: str) -> list[str]:
    """Addresses beyond this computer that the browser asked for."""
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    asked = {message["params"]["request"]["url"] for message in messages
             if message["method"] == "Network.requestWillBeSent"}  # fmt: skip
    assert any(each.startswith(local) for each in asked)
    return [each for each in asked if not each.startswith((local, "data:", "blob:"))]


def listening(port: int) -> list[str]:
    """Addresses at which something listens on a port, as Linux writes them."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    places = [row[1].split(":") for row in rows if row[3] == "0A"]
    return [address for address, number in places if int(number, 16) == port]


@pytest.fixture
def picture(tmp_path: Path, roads_root: Path) -> Path:
    return Path(shutil.copy(min((roads_root / "images").iterdir()), tmp_path / "tile.png"))


def test_masks_in_a_browser(
    browser: Any, trained: Trained, picture: Path, album: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: asked.append(host) or look_up(host, *rest, **more)
    )
    models = opened_models([str(trained("roads"))] * 2)
    with serving(models, 7900) as (local, public):
        assert public is None
        assert listening(int(local.rstrip("/").rpartition(":")[2])) == ["0100007F"]  # 127.0.0.1, byte by byte
        browser.get(local)
        drop(browser, [picture, album[2]])

        def areas(number: int = 0) -> str:
            return str(browser.find_element("css selector", f"#areas{number}").text)

        until(lambda: "tile.png, 64 x 64 pixels" in areas() and "tile.png" in areas(1))
        assert "broken.jpg cannot be used" in until(lambda: browser.find_element("css selector", ".toast-body").text)
        fitted = areas()
        assert browser.find_elements("css selector", "#view0 img")
        field = browser.find_element("css selector", "#threshold0_0 input[type=number]")
        field.clear()
        field.send_keys("0\t")
        until(lambda: "road 100.0%" in areas())
        assert areas(1) == fitted  # the other model has a threshold of its own
        browser.find_element("css selector", "#classes input").click()
        until(lambda: "road" not in areas())
        source = browser.find_element("css selector", "#view0 img").get_attribute("src")
        browser.find_element("css selector", "#classes input").click()
        until(lambda: browser.find_element("css selector", "#view0 img").get_attribute("src") != source)
        content = downloaded(browser)
        first, second = (model.name for model in models)
        assert pixels(content[f"{first}/masks/road/tile.png"]).min() == 255
        expected = models[1].masks(models[1].find([picture])[0], [round(models[1].thresholds[0], 3)])[0]
        np.testing.assert_array_equal(pixels(content[f"{second}/masks/road/tile.png"]) > 0, expected)
        assert outside(browser, local) == []
    assert {each for each in asked if each not in ("127.0.0.1", "localhost", None)} <= {socket.gethostname()}


@pytest.mark.slow
def test_the_handle_between_gray_and_colored_is_dragged(browser: Any, trained: Trained, album: list[Path]) -> None:
    from selenium.webdriver import ActionChains

    with serving([TrainedModel(str(trained("colorization")))], 7900) as (local, _):
        browser.get(local)
        drop(browser, album[:1])
        until(lambda: min(each.size["height"] for each in browser.find_elements("css selector", "#view0 img")) > 50)
        gray, colored = browser.find_elements("css selector", "#view0 img")
        handle = browser.find_element("css selector", "#view0 [data-testid=slider]")

        def split() -> float:
            """Share of the width at which the colored image begins, of which the rest is cut away."""
            edge = handle.rect["x"] + handle.rect["width"] / 2 - gray.rect["x"]
            cut = float(str(colored.value_of_css_property("clip-path")).rpartition(" ")[2].rstrip("%)"))
            share = edge / gray.rect["width"]
            assert cut == pytest.approx(100 * share, abs=1.5)
            return float(share)

        def drag(share: float) -> None:
            length = round(share * gray.rect["width"])
            ActionChains(browser).click_and_hold(handle).move_by_offset(length, 0).release().perform()

        middle = until(split)
        drag(0.25)
        until(lambda: split() == pytest.approx(middle + 0.25, abs=0.02))
        drag(-0.5)
        until(lambda: split() == pytest.approx(middle - 0.25, abs=0.02))


@pytest.mark.slow
def test_colors_in_a_browser(browser: Any, trained: Trained, album: list[Path]) -> None:
    with serving([TrainedModel(str(trained("colorization")))], 7900) as (local, _):
        browser.get(local)
        drop(browser, album[:1])

        def sources() -> list[str]:
            return images(browser, "view0")

        automatic = until(lambda: sources() if len(sources()) == 2 else None)
        paint(browser, 20)
        browser.find_element("css selector", "#hint").click()
        until(lambda: len(sources()) == 2 and sources()[1] != automatic[1])
        with_hint = downloaded(browser)["colored/a.png"]
        browser.find_element("css selector", "#again").click()
        until(lambda: sources()[1] != automatic[1] and len(sources()) == 2)
        time.sleep(3)
        assert downloaded(browser)["colored/a.png"] != with_hint
        assert outside(browser, local) == []


@pytest.mark.slow
def test_scores_in_a_browser(browser: Any, trained: Trained, aesthetics_root: Path) -> None:
    pictures = sorted(path for path in (aesthetics_root / "album").rglob("*.*") if path.suffix in (".jpg", ".png"))[:3]
    with serving([TrainedModel(str(trained("aesthetics")))], 7900) as (local, _):
        browser.get(local)
        drop(browser, pictures)
        until(lambda: len(browser.find_elements("css selector", "#gallery img")) == len(pictures))
        captions = [each.text for each in browser.find_elements("css selector", "#gallery .caption-label")]
        scores = [float(caption.split()[0].rstrip(",")) for caption in captions]
        assert scores == sorted(scores, reverse=True)
        rows = list(csv.DictReader(io.StringIO(downloaded(browser)["scores.csv"].decode())))
        assert [f"{float(row['probability']):.2f}" for row in rows] == [f"{score:.2f}" for score in scores]
        assert outside(browser, local) == []
