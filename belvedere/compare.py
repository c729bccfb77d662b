"""The command `compare`: a page that asks people which of two results is better, and a summary of their answers."""

import hashlib
import math
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from belvedere.commandline.arguments import reported
from belvedere.commandline.plain import PlainParser
from drawing.page import template
from ops.atomic import replacing
from ops.errors import ArgumentError, DataError, UserError, listed, refuse

HELP = """Which of two results do people prefer?

  belvedere compare FOLDER_A FOLDER_B --output page.html    makes a page that shows pairs of images, blind
  belvedere compare answers.csv ...                         prints the share of answers for each, with a 95 % interval

The folders have images of the same names, suffixes aside: colored/ of two predictions, or of one and the originals;
overlays/ or masks/ of two runs. Give the page to people: any browser opens it, and it sends nothing. Each of them saves
a file answers.csv at the end.
"""
QUESTIONS = {"natural": "Which looks more natural?", "real": "One of the two is real. Which one?",
             "better": "Which is better?"}  # fmt: skip
COLUMNS = ("page", "judge", "image", "left", "right", "answer", "seconds")
ANSWERS = ("left", "right", "neither")
COUNT, SIDE, QUALITY = 50, 900, 90
APART = 0.02  # by which the aspect ratios of a pair may differ
NORMAL = 1.959964  # 97.5th percentile of the normal distribution


class Pair(NamedTuple):
    """Two results for one image, as JPEG files.

    Attributes:
        name: Name of the image, without its suffix.
        a: The first result.
        b: The second.
        reference: What is shown above both; empty for nothing.
    """

    name: str
    a: bytes
    b: bytes
    reference: bytes = b""


class Preference(NamedTuple):
    """How often one result was preferred to another.

    Attributes:
        first: The folder of the one.
        second: The folder of the other.
        share: Mean over the images of the share of answers for the first; "cannot tell" is half an answer for each.
        low: Lower end of its 95 % interval, over the choice of images.
        high: Its upper end.
        images: How many images were judged.
        judges: Share of the answers for the first, and number of answers, of each judge.
        unsure: How many answers were "cannot tell".
    """

    first: str
    second: str
    share: float
    low: float
    high: float
    images: int
    judges: Mapping[str, tuple[float, int]]
    unsure: int


def compare(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code, 0, or 2 for an error that the user can fix."""
    parser = PlainParser("compare", HELP)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="two folders, or files of answers")
    parser.add_argument("--output", type=Path, help="the page to write")
    parser.add_argument("--question", default="natural", help=f"{', '.join(QUESTIONS)}, or any text (default: natural)")
    parser.add_argument(
        "--reference", type=Path, help="folder of images to show above each pair, such as the originals"
    )
    parser.add_argument("--count", type=int, default=COUNT, help=f"most images, drawn at random (default: {COUNT})")
    parser.add_argument("--seed", type=int, default=0, help="seed of this draw (default: 0)")
    try:
        asked = parser.parse_args(list(words))
        paths = [Path(path).expanduser() for path in asked.paths]
        if all(path.suffix.lower() == ".csv" for path in paths):
            if asked.output is not None:
                raise ArgumentError("compare: answers are printed, so --output has nothing to write. Remove it.")
            print("\n\n".join(map(summary, read_answers(paths))))
        else:
            if len(paths) != 2:
                raise ArgumentError(
                    f"compare: got {len(paths)} path{'s' * (len(paths) != 1)}; expected two folders of images, or only "
                    "files of answers (.csv)."
                )
            if asked.output is None:
                raise ArgumentError("compare: two folders become a page; name it: --output page.html.")
            if asked.count < 1:
                raise ArgumentError(f"compare: --count is {asked.count}; expected 1 or more.")
            reference = None if asked.reference is None else asked.reference.expanduser()
            output = asked.output.expanduser()
            write_page(output, paths, asked.question, reference, asked.count, asked.seed)
            print(output)
    except (UserError, OSError) as error:
        return reported(error)
    return 0


def write_page(
    output: Path,
    folders: Sequence[Path],
    question: str = "natural",
    reference: Path | None = None,
    count: int = COUNT,
    seed: int = 0,
) -> None:
    """Writes a page that shows the images of two folders side by side, in random order and on random sides.

    It loads no other file, and shows no names. Images are reduced to at most 900 pixels and become JPEG alike, so that
    the format tells nothing.

    Args:
        output: The HTML file.
        folders: The two folders.
        question: One of `QUESTIONS`, or a text.
        reference: Folder of images to show above each pair.
        count: Most images, drawn at random from those that both folders have.
        seed: Seed of this draw.

    Raises:
        DataError: The folders have no images in common, or two of a pair differ in shape.
    """
    found = [_images(folder) for folder in (*folders, *([] if reference is None else [reference]))]
    common = sorted(set.intersection(*map(set, found)))
    if not common:
        shown = "; ".join(f"{folder} has {min(names)}" for folder, names in zip(folders, found, strict=False))
        raise DataError(f"The folders have no images of the same names in common: {shown}. Suffixes may differ.")
    left = {folder: len(names) - len(common) for folder, names in zip(folders, found, strict=False)}
    for folder, number in left.items():
        if number:
            print(f"belvedere: {number} of the images of {folder} have no partner and are skipped.", file=sys.stderr)
    chosen = sorted(random.Random(seed).sample(common, min(count, len(common))))
    asked = QUESTIONS.get(question, question)
    labels = [str(folder) for folder in folders]
    page = hashlib.sha256(repr([labels, asked, chosen]).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    parts = template("compare.html").stream(
        question=asked,
        reference="" if reference is None else f"a reference ({reference.name})",
        count=len(chosen),
        pairs=_pairs(chosen, found),
        page=page,
        labels=labels,
    )
    with replacing(output) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(parts)


def _images(folder: Path) -> dict[str, Path]:
    """Returns the images below a folder by name without suffix."""
    from datamodules.read.names import located, same_stems, stem, tree_names

    if (folder / "overview.html").is_file():
        inside = ", ".join(sorted(each.name for each in folder.iterdir() if each.is_dir()))
        raise DataError(f"{folder} is a folder of results; give one of those in it: {inside}.")
    names = tree_names(folder)
    refuse(same_stems(names), str(folder))
    return {stem(name): located(folder, name) for name in names}


def _pairs(names: Sequence[str], found: Sequence[Mapping[str, Path]]) -> Iterator[Pair]:
    """Yields the pairs, all images of one as large."""
    from datamodules.read.pictures import fitted, read_picture, resized
    from drawing.overview import encoded

    for name in names:
        pictures = [read_picture(images[name]) for images in found]
        ratios = [picture.shape[1] / picture.shape[0] for picture in pictures[:2]]
        if abs(math.log(ratios[0] / ratios[1])) > APART:
            sizes = " and ".join(f"{each.shape[0]} x {each.shape[1]}" for each in pictures[:2])
            raise DataError(
                f"{found[0][name]} and {found[1][name]} are {sizes} pixels (height x width); expected the same shape, "
                "so that it does not tell which is which."
            )
        height, width, _ = pictures[0].shape
        size = fitted((height, width), SIDE)
        alike = [resized(picture, size) for picture in pictures[:2]]
        alike += [resized(each, fitted((each.shape[0], each.shape[1]), SIDE)) for each in pictures[2:]]
        yield Pair(name, *(encoded(each, QUALITY) for each in alike))


def read_answers(files: Sequence[Path]) -> list[Preference]:
    """Reads the answers that people saved, one result for each two folders.

    Of a judge's several answers about one pair of a page, the last counts.

    Raises:
        DataError: A file is not one that the page saves; all problems are listed.
    """
    from datamodules.read.tables import Table

    answers: dict[tuple[str, ...], tuple[float, str]] = {}
    problems: list[str] = []
    for path in files:
        table = Table(path, list(COLUMNS))
        table.known("answer", ANSWERS, lambda answer: f"the answer is {answer!r}; expected {', '.join(ANSWERS)}.")
        for row in table.rows.index[table.rows["left"] == table.rows["right"]]:
            table.add(row, "left and right are the same; expected two folders.")
        problems += table.problems()
        for page, judge, image, *sides, answer, _ in table.rows[list(COLUMNS)].itertuples(index=False):
            first, second = sorted(sides)
            score = {"left": float(sides[0] == first), "right": float(sides[1] == first)}.get(answer, 0.5)
            answers[first, second, page, judge, image] = score, answer
    refuse(problems, "the answers")
    if not answers:
        raise DataError(f"{listed([str(path) for path in files])} have no answers.")
    pairs = sorted({key[:2] for key in answers})
    return [_preference(pair, {key[2:]: each for key, each in answers.items() if key[:2] == pair}) for pair in pairs]


def _preference(pair: Sequence[str], answers: Mapping[tuple[str, ...], tuple[float, str]]) -> Preference:
    by_image: dict[str, list[float]] = defaultdict(list)
    by_judge: dict[str, list[float]] = defaultdict(list)
    for (_, judge, image), (score, _) in answers.items():
        by_image[image].append(score)
        by_judge[judge].append(score)
    share = statistics.fmean(map(statistics.fmean, by_image.values()))
    judges = {judge: (statistics.fmean(scores), len(scores)) for judge, scores in sorted(by_judge.items())}
    unsure = sum(answer == "neither" for _, answer in answers.values())
    first, second = pair
    return Preference(first, second, share, *wilson(share, len(by_image)), len(by_image), judges, unsure)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share of `count` independent answers.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927. Of means of answers in
    [0, 1], it is at least as wide as it should be: no such variable varies more than one that is 0 or 1.
    """
    square = NORMAL**2 / count
    middle = (share + square / 2) / (1 + square)
    half = NORMAL / (1 + square) * math.sqrt(share * (1 - share) / count + square / count / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def summary(found: Preference) -> str:
    """Returns a preference as text."""
    answers = sum(count for _, count in found.judges.values())
    judges = f"{len(found.judges)} {'judge' if len(found.judges) == 1 else 'judges'}"
    lines = [
        f"{found.first}  against  {found.second}",
        f"  {answers} answers by {judges} on {found.images} images; {found.unsure} times 'cannot tell', half for each",
        f"  {found.first}: {found.share:.1%} [{found.low:.1%}, {found.high:.1%}]",
        f"  {found.second}: {1 - found.share:.1%} [{1 - found.high:.1%}, {1 - found.low:.1%}]",
        "  (95 % intervals, for other images and these judges)",
    ]
    if found.low <= 0.5 <= found.high:
        lines.append("  The answers do not tell which is preferred.")
    else:
        lines.append(f"  {found.first if found.low > 0.5 else found.second} is preferred.")
    if len(found.judges) > 1:
        lines += [
            f"  {judge}: {share:.1%} of {count} for {found.first}" for judge, (share, count) in found.judges.items()
        ]
    return "\n".join(lines)
