"""Keeps colors together from frame to frame of a film: by optical flow, and anew after each cut.

Frames are colored one by one, and a network's answer trembles. Its chroma is averaged along the motion of what is seen,
with weights that fade exponentially (after M. Lang et al., "Practical temporal consistency for image-based graphics
applications", 2012). Flow is that of T. Kroeger et al., "Fast optical flow using dense inverse search", 2016.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Gray: TypeAlias = NDArray[np.uint8]
"""The luminance of a frame, (h, w)."""
Floats: TypeAlias = NDArray[np.float32]
SHARE = 0.2
"""Weight of a frame's own colors; those of the frames before it have the rest."""
ERROR = 1.0
"""Pixels by which flow forth and back may miss its start where it is believed."""
LIGHT = 25.0
"""Levels by which luminance may change there, besides a change of the whole frame."""
CUT = 0.1
"""Share of a frame below which what is seen again is chance. Of 107 pairs of photographs and of 107 pairs of close
views in one photograph, both after an unlike one, 99 % had less than 0.05; of 428 pairs of views that moved by up to
6 % of the width, turned and zoomed, with noise, 99 % had more than 0.3."""
BACK = 1500
"""Frames before a hinted one that its hints reach at most: one minute, whose luminance takes 40 MB."""
POINTS = 200
"""Most hints of a frame that are followed."""
OWN = 0.05
"""Share of the longer side within which a frame's own hints replace those of other frames."""


class Motion(NamedTuple):
    """What moved from one frame to the next.

    Attributes:
        back: Where each pixel of the next frame was in the first, in pixels relative to it, x and y, (h, w, 2).
        forth: Where each pixel of the first is in the next, likewise.
        known: Pixels of the next frame that are seen in the first too, (h, w).
        cut: Whether another scene begins with the next frame.
    """

    back: Floats
    forth: Floats
    known: NDArray[np.bool_]
    cut: bool


def motion(first: Gray, following: Gray) -> Motion:
    """Computes what moved between two frames of one size."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    first, following = (np.ascontiguousarray(each) for each in (first, following))
    no_flow = np.zeros((*first.shape, 2), np.float32)  # what the search begins with
    forth = np.asarray(flow.calc(first, following, no_flow.copy()), np.float32)
    back = np.asarray(flow.calc(following, first, no_flow), np.float32)
    missed = np.linalg.norm(moved(forth, back) + back, axis=2)
    lighter = following.astype(np.float32) - moved(first.astype(np.float32), back)
    y, x = np.mgrid[: first.shape[0], : first.shape[1]]
    inside = np.ones(first.shape, np.bool_)
    for place, most in ((x + back[..., 0], first.shape[1] - 1), (y + back[..., 1], first.shape[0] - 1)):
        inside &= (place >= -0.5) & (place <= most + 0.5)
    known = inside & (missed < ERROR) & (np.abs(lighter - np.median(lighter)) < LIGHT)
    return Motion(back, forth, known, bool(known.mean() < CUT))


def moved(maps: Floats, back: Floats) -> Floats:
    """Returns maps of the first frame, (h, w) or (h, w, C), where they are in the next one."""
    y, x = np.mgrid[: back.shape[0], : back.shape[1]].astype(np.float32)
    places = x + back[..., 0], y + back[..., 1]
    return np.asarray(cv2.remap(maps, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


class Coherence:
    """Averages the chroma of a film's frames, which come in order, along their motion.

    Args:
        share: Weight of a frame's own chroma, in (0, 1]; 1 leaves it alone.
    """

    def __init__(self, share: float = SHARE) -> None:
        self.share = share
        self._before: tuple[Gray, Floats] | None = None

    def __call__(self, gray: Gray, chroma: Floats) -> Floats:
        """Returns the averaged chroma (h, w, 2) of the next frame, from its luminance (h, w) and its own chroma."""
        result = chroma
        if self._before is not None and self._before[0].shape == gray.shape:
            seen = motion(self._before[0], gray)
            if not seen.cut:
                weight = np.where(seen.known, 1 - self.share, 0)[..., None].astype(np.float32)
                result = weight * moved(self._before[1], seen.back) + (1 - weight) * chroma
        self._before = gray, result
        return result


class Points(NamedTuple):
    """Hints that are followed through a film.

    Attributes:
        places: x and y of each, in pixels of the frame's luminance, float32 (N, 2).
        rows: Which hint each is, (N,): frame and row of its list.
    """

    places: Floats
    rows: NDArray[np.int64]


NO_POINTS = Points(np.zeros((0, 2), np.float32), np.zeros((0, 2), np.int64))


def followed(frames: Iterable[Gray], hints: Mapping[int, Floats]) -> list[Points]:
    """Returns where hints are in every frame of the scenes in which they are given.

    They are followed forward to the end of the scene, and backward for at most `BACK` frames, until they are hidden or
    leave the frame. Near a frame's own hints, those of other frames end.

    Args:
        frames: The luminance of the frames, in order, reduced to one size; each is used once.
        hints: x and y of the hints of some frames, in pixels of the luminance, (N, 2), by the frame's number.

    Returns:
        The points of each frame.
    """
    found: list[Points] = []
    recent: deque[Gray] = deque(maxlen=BACK + 1)
    for number, gray in enumerate(frames):
        points = NO_POINTS
        if recent:
            seen = motion(recent[-1], gray)
            if seen.cut:
                recent.clear()
            elif len(found[-1].rows):
                points = _step(found[-1], recent[-1], gray, seen.forth, seen.back)
        if number in hints:
            own = _chosen(number, hints[number])
            points = _joined(own, points, max(gray.shape))
            _backward(own, gray, list(recent), found)
        found.append(points)
        recent.append(gray)
    return found


def _backward(points: Points, gray: Gray, recent: list[Gray], found: list[Points]) -> None:
    """Adds points of a frame to the frames before it, of which the last is the latest."""
    for back, earlier in enumerate(reversed(recent), start=1):
        seen = motion(earlier, gray)
        points, gray = _step(points, gray, earlier, seen.back, seen.forth), earlier
        there = found[-back]
        own = Points(*(each[there.rows[:, 0] == len(found) - back] for each in there))
        points = _without(points, own, max(gray.shape))
        if not len(points.rows):
            return
        found[-back] = _together(there, points)


def _step(points: Points, here: Gray, there: Gray, flow: Floats, back: Floats) -> Points:
    """Returns points in a neighboring frame, without those that are hidden there or have left it."""
    places = points.places + _at(flow, points.places)
    height, width = here.shape
    inside = (places >= -0.5).all(axis=1) & (places[:, 0] <= width - 0.5) & (places[:, 1] <= height - 0.5)
    missed = np.linalg.norm(places + _at(back, places) - points.places, axis=1)
    lighter = _at(there.astype(np.float32), places) - _at(here.astype(np.float32), points.places)
    kept = inside & (missed < ERROR) & (np.abs(lighter) < LIGHT)
    return Points(places[kept], points.rows[kept])


def _at(maps: Floats, places: Floats) -> Floats:
    """Returns maps (h, w) or (h, w, C) at places (N, 2), between pixels linearly."""
    if not len(places):
        return np.zeros((0, *maps.shape[2:]), np.float32)
    found = cv2.remap(maps, places[:, :1], places[:, 1:], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found, np.float32).reshape(len(places), *maps.shape[2:])


def _chosen(number: int, places: Floats) -> Points:
    """Returns at most `POINTS` of a frame's hints, one for each pixel: strokes have thousands."""
    _, rows = np.unique(places.round(), axis=0, return_index=True)
    rows = np.sort(rows)
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), POINTS)).round().astype(np.int64)]
    return Points(places[rows].astype(np.float32), np.column_stack([np.full(len(rows), number), rows]))


def _joined(own: Points, others: Points, longer: int) -> Points:
    return _together(own, _without(others, own, longer))


def _together(some: Points, others: Points) -> Points:
    return Points(np.concatenate([some.places, others.places]), np.concatenate([some.rows, others.rows]))


def _without(points: Points, own: Points, longer: int) -> Points:
    """Returns points that are not near a frame's own."""
    if not len(own.rows) or not len(points.rows):
        return points
    distance = np.linalg.norm(points.places[:, None] - own.places[None], axis=2).min(axis=1)
    kept = distance > OWN * longer
    return Points(points.places[kept], points.rows[kept])
