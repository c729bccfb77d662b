"""The command `import`: makes a dataset of the labels that annotation tools wrote."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from belvedere.commandline.arguments import reported
from belvedere.commandline.plain import PlainParser
from belvedere.files import at_home, images_of
from datamodules.annotations.coco import read_coco
from datamodules.annotations.cvat import read_cvat
from datamodules.annotations.dataset import IGNORED, REJECTED, Choice, Imported, write_dataset
from datamodules.annotations.geojson import read_geojson
from datamodules.annotations.labelme import read_labelme
from datamodules.annotations.labels import Labels
from datamodules.annotations.mask_images import read_masks
from datamodules.annotations.yolo import read_yolo
from ops.atomic import check_writable
from ops.errors import SKIPPED, ArgumentError, UserError, listed

READERS: dict[str, Callable[[Path], Labels]] = {
    "coco": read_coco,
    "labelme": read_labelme,
    "cvat": read_cvat,
    "yolo": read_yolo,
    "geojson": read_geojson,
    "masks": read_masks,
}
ONE_MASK = ("roads", "avalanches")  # tasks with one mask per image
SHOWN = 10  # rejected annotations in the message

HELP = """makes a dataset of the labels that an annotation tool wrote

  belvedere import --from labelme photographs --output snow --task avalanches --classes slab=avalanche,loose=avalanche
  belvedere import --from coco instances.json --images photographs --output sky --classes cloud
  belvedere import --from cvat annotations.xml --images photographs --output sky
  belvedere import --from yolo dataset --output sky --boxes masks
  belvedere import --from masks VOC/SegmentationClass --images VOC/JPEGImages --output things"""


def import_labels(words: Sequence[str]) -> int:
    """Runs the command; returns exit code 0, 3 if annotations were rejected, or 2 for an error to fix."""
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, OSError) as error:
        return reported(error)


def _run(words: Sequence[str]) -> int:
    given = _parser().parse_args([at_home(word) for word in words])
    source, folder = Path(given.source), Path(given.output).expanduser().absolute()
    if folder.is_dir() and any(folder.iterdir()):
        raise ArgumentError(f"{folder} is not empty. Choose another --output.")
    if not source.exists():
        raise ArgumentError(f"There is no file or folder {source}.")
    if given.format == "masks" and given.images is None:
        raise ArgumentError("--from masks needs the folder of the images: --images FOLDER.")
    check_writable(folder)
    choice = Choice(
        classes=None if given.classes is None else _renamed(given.classes),
        ignored=tuple(label.strip() for label in given.ignore.split(",")),
        boxes=given.boxes,
        exclusive=given.exclusive,
        one_mask=given.task in ONE_MASK,
        link=given.link,
    )
    images = _predicted_of(source) if given.images is None else Path(given.images)
    done = write_dataset(READERS[given.format](source), source, folder, choice, images)
    print("\n".join(_lines(done, folder, given.task)))
    if done.rejected:
        problems = [f"{each.file}, {each.place}: {each.reason}" for each in done.rejected]
        print(f"\nRejected: {len(problems)}.\n{listed(problems, SHOWN, f', see {folder / REJECTED}')}", file=sys.stderr)
    return SKIPPED if done.rejected else 0


def _parser() -> PlainParser:
    parser = PlainParser("import", HELP)
    parser.add_argument("source", metavar="SOURCE", help="a file or folder of the tool")
    parser.add_argument("--from", dest="format", choices=READERS, required=True, help="the format of the labels")
    parser.add_argument("--output", required=True, help="the folder of the dataset, new or empty")
    parser.add_argument("--images", help="the folder of the images; default: where the labels say, or the source")
    parser.add_argument(
        "--task",
        choices=("clouds", *ONE_MASK),
        default="clouds",
        help="whose layout to write: clouds, a folder of masks per class (default); roads or avalanches, one mask per "
        "image",
    )
    parser.add_argument("--classes", help="classes to keep, in this order: cloud,haze; old=new renames and merges")
    parser.add_argument(
        "--ignore", default="__ignore__", help="classes whose pixels count nowhere (default: __ignore__, as in labelme)"
    )
    parser.add_argument(
        "--boxes",
        choices=("reject", "masks", "csv"),
        default="reject",
        help="what to do with boxes without an outline: reject and list them, fill them as masks, or write boxes.csv",
    )
    parser.add_argument("--exclusive", action="store_true", help="where shapes overlap, the last one wins")
    parser.add_argument("--link", action="store_true", help="link images instead of copying them")
    return parser


def _predicted_of(source: Path) -> Path | None:
    """Returns the images that `predict` wrote these pre-labels for; its results beside them are no photographs."""
    for folder in (source.absolute(), *source.absolute().parents[:2]):
        found = images_of(folder)
        if found is not None and found.exists():
            return found if found.is_dir() else found.parent
    return None


def _renamed(text: str) -> dict[str, str]:
    """Returns the new name of each class by its old one.

    Raises:
        ArgumentError: A name is empty or repeats.
    """
    renamed: dict[str, str] = {}
    for part in text.split(","):
        old, equals, new = (each.strip() for each in part.partition("="))
        if not old or (equals and not new) or old in renamed:
            raise ArgumentError(f"--classes is {text!r}; expected classes such as cloud,haze or old=new, each once.")
        renamed[old] = new or old
    return renamed


def _lines(done: Imported, folder: Path, task: str) -> list[str]:
    """Returns what was written, and the command that checks it."""
    lines = [f"{folder}: {len(done.images)} images"]
    width = max(map(len, done.showing), default=0)
    lines += [
        f"  {label:{width}}  {count} images, {done.objects[label]} shapes" for label, count in done.showing.items()
    ]
    if done.splits:
        lines.append("  splits.csv: " + ", ".join(f"{count} {split}" for split, count in done.splits.items()))
    if done.boxes:
        lines.append(f"  boxes.csv: {done.boxes} boxes")
    lines += done.notes[:SHOWN] + [f"… and {len(done.notes) - SHOWN} more notes"] * (len(done.notes) > SHOWN)
    ignore = f" --data.ignore_value {IGNORED}" if done.ignoring else ""
    if ignore:
        lines.append(f"{done.ignoring} images have pixels that count nowhere, {IGNORED} in the masks: add{ignore}.")
    classes = f" --config clouds/folders --data.classes '[{','.join(done.showing)}]'" if task == "clouds" else ""
    config = {"clouds": "clouds/fpn", "roads": "roads/best", "avalanches": "avalanches/best"}[task]
    return [*lines, "Check it:", f"  belvedere describe --config {config}{classes} --data.root {folder}{ignore}"]
