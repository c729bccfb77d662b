"""The page itself, in Gradio: one layout for masks, one for colors and one for scores."""

import hashlib
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np
from numpy.typing import NDArray

from belvedere.app.archive import archive
from belvedere.app.models import AppResult, Model, complaints, usable
from callbacks.writers.segmentation.polygons import Outlines, draw_corners
from drawing.pictures import Masks, Picture, overlay, save_picture, scaled, scaled_masks
from ops.color.coloring import grey
from ops.files.images import suffixes

VIEW = 1400  # pixels of the longer side of a shown image, at most
LEAST = 900  # and at least, so that outlines on small images are crisp
CANVAS = 900  # pixels of the longer side of the image that people paint on
SKY = "#6fa8dc"
BRUSH = ("#7a4a2b", "#c68642", "#e8c39e", "#b03a2e", "#d98f2b", "#e6c84f", "#4e7a36", "#2f6b5e", SKY, "#27508f",
         "#6a4c93", "#9b9b9b")  # fmt: skip
"""Skin, soil, roofs, leaves, water, sky: what is often known in a gray photograph."""
ADVICE = (
    "Drag the handle to compare. If you know a color, paint it on the gray image at the right, then press **Color with "
    "my hints**; a dot is enough."
)
SHARED = "This page is shared: images that others drop pass through Gradio's server to the computer that runs the page."
LOOK = """
footer {display: none !important}
[id^=view]:not(.fullscreen) .image-frame img {max-height: 64vh; object-fit: contain}
#image input {text-overflow: ellipsis}
"""
BUTTONS: Any = ["download", "fullscreen"]  # without that of sharing, which uploads
Results = list[list[AppResult]]
"""By model, then by image."""


def theme() -> gr.themes.ThemeClass:
    """Returns a theme whose fonts are on the computer already."""
    return gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


def page(models: Sequence[Model], folder: Path, share: bool = False) -> gr.Blocks:
    """Returns the page.

    Args:
        models: One, or two of one kind to see side by side.
        folder: Gets the images that are shown and the files to download.
        share: Whether the page gets a public address, so that images pass through Gradio's server.
    """
    layout = {"masks": _masks_page, "colors": _colors_page, "scores": _scores_page}[models[0].kind]
    title = " beside ".join(model.name for model in models)
    with gr.Blocks(title=f"Belvedere: {title}", analytics_enabled=False, fill_width=True) as made:
        classes = f": {', '.join(models[0].classes)}" if models[0].classes else ""
        where = SHARED if share else "Images stay on this computer."
        gr.Markdown(f"# {models[0].title}{classes}\n{title}. {where}")
        layout(models, folder)
    return made


def _drop(models: Sequence[Model], found: gr.State) -> tuple[gr.File, Any]:
    """Adds the place to drop images, and the event that they are predicted."""
    files = gr.File(file_count="multiple", file_types=list(suffixes()),
                    label="Drop images here", elem_id="drop", height=150)  # fmt: skip

    def predicted(paths: list[str] | None) -> Results:
        results = [model.find([Path(path) for path in paths]) if paths else [] for model in models]
        problems = complaints(models, results)
        if paths and not usable(results):
            raise gr.Error(f"No image can be used. {problems[0]}")
        for each in problems:
            gr.Warning(each)
        return results

    return files, files.change(predicted, files, found, show_progress="full")


def _chooser(after: Any, found: gr.State) -> tuple[gr.Dropdown, Any]:
    """Adds the choice of an image, and the event that the list is new."""
    chosen = gr.Dropdown([], label="Image", elem_id="image", interactive=True)

    def listed(results: Results) -> Any:
        choices = [(results[0][number].name, number) for number in usable(results)]
        return gr.Dropdown(choices=choices, value=choices[0][1] if choices else None)

    return chosen, after.then(listed, found, chosen, show_progress="hidden")


def _download(make: Callable[..., Path], inputs: list[Any]) -> None:
    """Adds the button that makes a zip file and downloads it."""
    button = gr.Button("Download all as zip", elem_id="zip")
    ready = gr.DownloadButton(visible="hidden", elem_id="ready")

    def made(*values: Any) -> Any:
        if not values[0] or not values[0][0]:
            raise gr.Error("There are no results yet. Drop images first.")
        return gr.DownloadButton(value=str(make(*values)))

    event = button.click(made, inputs, ready)
    event.success(None, js="() => setTimeout(() => document.querySelector('#ready').click(), 300)")


def _place(folder: Path) -> Path:
    """Returns the path of a new zip file."""
    return folder / uuid.uuid4().hex / "results.zip"


def _shown(folder: Path, picture: Picture) -> str:
    """Returns the path of an image that the page shows, whose file is written once.

    Gradio names the file of an array by its content and writes it again for the next event: a browser that loads it
    meanwhile gets half an image.
    """
    digest = hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).hexdigest()
    path = folder / "shown" / digest[:32] / "image.png"
    if not path.is_file():
        save_picture(picture, path)
    return str(path)


# Masks


def _masks_page(models: Sequence[Model], folder: Path) -> None:
    found = gr.State([])
    classes = models[0].classes
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            _, predicted = _drop(models, found)
            chosen, listed = _chooser(predicted, found)
            shown = gr.CheckboxGroup(classes, value=classes, label="Classes", elem_id="classes")
            polygons = gr.Checkbox(False, label="Polygons instead of masks", elem_id="polygons")
            opacity = gr.Slider(0, 1, 0.35, step=0.05, label="Opacity", elem_id="opacity")
            zipped = gr.Column()
        views, sliders = [], []
        for number, model in enumerate(models):
            with gr.Column(scale=3 if len(models) == 1 else 2):
                fitted = zip(model.classes, model.thresholds, strict=True)
                with gr.Row():
                    sliders.append(
                        [gr.Slider(0, 1, round(value, 3), step=0.01, label=f"Threshold of {name}, fitted {value:.2f}",
                                   min_width=240, elem_id=f"threshold{number}_{k}")
                         for k, (name, value) in enumerate(fitted)]
                    )  # fmt: skip
                label = model.name if len(models) > 1 else "Overlay"
                view = gr.Image(label=label, elem_id=f"view{number}", interactive=False, format="png", buttons=BUTTONS)
                views.append((view, gr.Markdown(elem_id=f"areas{number}")))
    for number, model in enumerate(models):
        inputs = [found, chosen, shown, polygons, opacity, *sliders[number]]
        draw = partial(_draw_masks, folder, model, number)
        listed.then(draw, inputs, list(views[number]), show_progress="hidden")
        for control in (chosen, shown, polygons, opacity, *sliders[number]):
            control.change(draw, inputs, list(views[number]), show_progress="hidden", trigger_mode="always_last")
    counts = [len(each) for each in sliders]

    def make(results: Results, *values: float) -> Path:
        ends = np.cumsum(counts)
        limits = [list(values[end - count : end]) for end, count in zip(ends, counts, strict=True)]
        return archive(models, results, limits, _place(folder))

    with zipped:
        _download(make, [found, *(slider for each in sliders for slider in each)])


def _draw_masks(
    folder: Path, model: Model, number: int, results: Results, index: int | None, names: list[str], polygons: bool,
    opacity: float, *thresholds: float,
) -> tuple[str | None, str]:  # fmt: skip
    """Returns the path of the overlay of an image, and the share that each class covers."""
    if index is None or not results or index >= len(results[number]):
        return None, ""
    found = results[number][index]
    masks = model.masks(found, thresholds)
    shares = [f"{name} {mask.mean():.1%}" for name, mask in zip(model.classes, masks, strict=True) if name in names]
    masks = masks & np.array([name in names for name in model.classes])[:, None, None]
    side = min(max(*found.picture.shape[:2], LEAST), VIEW)
    view = scaled(found.picture, side, side)
    drawn = _outlined(view, masks, model.outlines) if polygons else overlay(view, _fitted(masks, view), opacity)
    return (
        _shown(folder, drawn),
        f"{found.name}, {found.picture.shape[1]} x {found.picture.shape[0]} pixels; marked: {', '.join(shares)}",
    )


def _fitted(masks: Masks, view: Picture) -> Masks:
    return masks if masks.shape[1:] == view.shape[:2] else scaled_masks(masks, view.shape[1], view.shape[0])


def _outlined(view: Picture, masks: Masks, outlines: Outlines) -> Picture:
    """Returns an image with the polygon of each mask drawn as a line with its corners."""
    drawn = np.ascontiguousarray(view.copy())
    for k, mask in enumerate(masks):
        draw_corners(drawn, outlines.outlined(mask).rings, mask.shape, k)
    return drawn


# Colors


def _colors_page(models: Sequence[Model], folder: Path) -> None:
    found = gr.State([])
    hints = all(model.takes_hints for model in models)
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            files, predicted = _drop(models, found)
            chosen, listed = _chooser(predicted, found)
            with gr.Column(visible=hints):
                gr.Markdown(ADVICE)
                hint = gr.Button("Color with my hints", variant="primary", elem_id="hint")
                again = gr.Button("Remove my hints", elem_id="again")
            zipped = gr.Column()
        with gr.Column(scale=4), gr.Row():
            views = [gr.ImageSlider(label=f"{model.name}: gray and colored", elem_id=f"view{number}", format="png",
                                    interactive=False, max_height=640, buttons=BUTTONS)
                     for number, model in enumerate(models)]  # fmt: skip
            brush = gr.Brush(default_size=12, colors=list(BRUSH), default_color=SKY)
            canvas = gr.ImageEditor(label="Known colors", elem_id="canvas", sources=[], transforms=[], layers=False,
                                    brush=brush, format="png", image_mode="RGBA", buttons=[], height=480,
                                    visible=hints)  # fmt: skip

    def pairs(results: Results, index: int | None) -> Any:
        shown: list[Any] = [None] * len(models)
        if index is not None and results and index < len(results[0]):
            shown = [tuple(_shown(folder, image) for image in _pair(each[index])) for each in results]
        return shown if len(models) > 1 else shown[0]

    def blank(results: Results, index: int | None) -> Any:
        if index is None or not results or index >= len(results[0]):
            return None
        image = _shown(folder, _small(grey(results[0][index].picture), CANVAS))
        return {"background": image, "layers": [], "composite": image}

    def hinted(results: Results, index: int | None, drawn: Any, paths: list[str]) -> Results:
        strokes = None if index is None or not drawn else _strokes(drawn["layers"], results[0][index].picture)
        if strokes is None or index is None:
            raise gr.Error("Nothing is painted yet. Choose a color and paint a dot on the gray image.")
        return _replaced(results, index, [model.find([Path(paths[index])], strokes)[0] for model in models])

    def plain(results: Results, index: int | None, paths: list[str]) -> Results:
        if index is None or not results:
            return results
        return _replaced(results, index, [model.find([Path(paths[index])])[0] for model in models])

    listed.then(pairs, [found, chosen], views, show_progress="hidden").then(blank, [found, chosen], canvas)
    chosen.input(pairs, [found, chosen], views, show_progress="hidden").then(blank, [found, chosen], canvas)
    hint.click(hinted, [found, chosen, canvas, files], found).success(pairs, [found, chosen], views)
    event = again.click(plain, [found, chosen, files], found).success(pairs, [found, chosen], views)
    event.then(blank, [found, chosen], canvas)
    with zipped:
        _download(lambda results: archive(models, results, [[]] * len(models), _place(folder)), [found])


def _pair(found: AppResult) -> tuple[Picture, Picture]:
    """Returns an image without its colors, and in those that were found."""
    return _small(grey(found.picture), VIEW), _small(found.colored, VIEW)


def _replaced(results: Results, index: int, new: Sequence[AppResult]) -> Results:
    problem = next((each.problem for each in new if each.problem), "")
    if problem:
        raise gr.Error(problem)
    return [[*each[:index], one, *each[index + 1 :]] for each, one in zip(results, new, strict=True)]


def _small(image: Picture | None, side: int) -> Picture:
    assert image is not None
    return scaled(image, side, side) if max(image.shape[:2]) > side else image


def _strokes(layers: Sequence[NDArray[np.uint8]], picture: Picture) -> NDArray[np.uint8] | None:
    """Returns what was painted, RGBA as large as the image; None if nothing was."""
    painted = [layer for layer in layers if layer.shape[2] == 4 and (layer[..., 3] >= 128).any()]
    if not painted:
        return None
    whole = painted[0].copy()
    for layer in painted[1:]:
        whole[layer[..., 3] >= 128] = layer[layer[..., 3] >= 128]
    size = picture.shape[1], picture.shape[0]
    return np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


# Scores


def _scores_page(models: Sequence[Model], folder: Path) -> None:
    found = gr.State([])
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            _, predicted = _drop(models, found)
            heads = ["image", *(model.name if len(models) > 1 else "probability" for model in models)]
            table = gr.Dataframe(headers=heads, elem_id="scores", interactive=False, label="Best first", wrap=True)
            zipped = gr.Column()
        with gr.Column(scale=3):
            gallery = gr.Gallery(label="Best first", elem_id="gallery", columns=4, height=900, format="png",
                                 object_fit="contain", buttons=["fullscreen"])  # fmt: skip

    def sorted_results(results: Results) -> tuple[Any, Any]:
        order = sorted(usable(results), key=lambda number: -results[0][number].scores["probability"])
        rows = [[results[0][number].name, *(round(each[number].scores["probability"], 4) for each in results)]
                for number in order]  # fmt: skip
        shown = []
        for number in order:
            image = _shown(folder, _small(results[0][number].picture, VIEW // 2))
            shown.append((image, _caption([each[number] for each in results])))
        return rows, shown

    predicted.then(sorted_results, found, [table, gallery], show_progress="hidden")
    with zipped:
        _download(lambda results: archive(models, results, [[]] * len(models), _place(folder)), [found])


def _caption(found: Sequence[AppResult]) -> str:
    values = " | ".join(f"{each.scores['probability']:.2f}" for each in found)
    mean = found[0].scores.get("mean", float("nan"))
    return f"{values}{'' if np.isnan(mean) else f', mean vote {mean:.1f}'}  {found[0].name}"
