import cv2
import numpy as np
from numpy.typing import NDArray

from ops.color.film import Coherence, followed, motion, moved

HEIGHT, WIDTH = 90, 160


def scene(seed: int) -> NDArray[np.uint8]:
    """A picture with structure at all scales, larger than a frame."""
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.normal(size=(n, 2 * n)), (480, 240), interpolation=cv2.INTER_CUBIC) / n
              for n in (4, 8, 16, 32, 64)]  # fmt: skip
    total = np.sum(layers, axis=0)
    return np.asarray(255 * (total - total.min()) / np.ptp(total), np.uint8)


def frame(picture: NDArray[np.uint8], x: int, y: int = 50) -> NDArray[np.uint8]:
    return picture[y : y + HEIGHT, x : x + WIDTH]


def test_motion_is_that_of_the_view() -> None:
    picture = scene(0)
    seen = motion(frame(picture, 100), frame(picture, 104, 52))
    assert not seen.cut
    inner = (slice(8, -8), slice(8, -8))
    assert np.abs(seen.back[inner] - [4, 2]).mean() < 0.3
    assert np.abs(seen.forth[inner] + [4, 2]).mean() < 0.3
    assert seen.known[inner].mean() > 0.9
    assert not seen.known[:, -2:].any(), "what enters on the right was not seen"
    before = frame(picture, 100).astype(np.float32)
    assert np.abs(moved(before, seen.back) - frame(picture, 104, 52))[inner].mean() < 3


def test_another_scene_is_a_cut_and_a_flash_is_none() -> None:
    first = frame(scene(0), 100)
    assert motion(first, frame(scene(1), 100)).cut
    assert not motion(first, np.clip(first.astype(int) + 20, 0, 255).astype(np.uint8)).cut


def test_trembling_colors_are_averaged_along_the_motion() -> None:
    picture, rng = scene(0), np.random.default_rng(0)
    colors = np.repeat(picture[..., None].astype(np.float32) / 5, 2, axis=2)
    steady = Coherence(0.2)
    errors = []
    for x in range(100, 140, 2):
        true = colors[50 : 50 + HEIGHT, x : x + WIDTH]
        own = (true + rng.normal(0, 5, 2)).astype(np.float32)
        errors.append(np.abs(steady(frame(picture, x), own) - true)[8:-8, 8:-30].mean())
    assert np.mean(errors[8:]) < 0.5 * 4, "the mean absolute value of a normal error of 5 is 4"
    other = np.full((HEIGHT, WIDTH, 2), 9, np.float32)
    assert np.array_equal(steady(frame(scene(1), 0), other), other), "nothing is carried over a cut"
    assert np.array_equal(Coherence(1.0)(frame(picture, 0), other), other)


def test_hints_are_followed_both_ways_within_their_scene() -> None:
    pictures = [frame(scene(0), x) for x in range(100, 112, 2)] + [frame(scene(1), x) for x in range(100, 104, 2)]
    hints = {3: np.array([[80, 40], [155, 30]], np.float32)}
    found = followed(pictures, hints)
    assert len(found) == len(pictures)
    for number, points in enumerate(found[:6]):
        own = points.places[(points.rows == [3, 0]).all(axis=1)]
        np.testing.assert_allclose(own, [[80 - 2 * (number - 3), 40]], atol=0.6)
    assert [len(points.rows) for points in found] == [1, 2, 2, 2, 2, 2, 0, 0], "one leaves, and a cut ends both"
    same = followed(pictures, {3: hints[3], 4: np.array([[78, 40]], np.float32)})
    assert [tuple(row) for row in same[4].rows] == [(4, 0), (3, 1)], "a frame's own hint replaces the near one"
    assert (same[3].rows[:, 0] == 3).all(), "and is not carried to where the other one was given"


def test_strokes_are_thinned_out() -> None:
    stroke = np.column_stack([np.linspace(10, 100, 5000), np.full(5000, 20)]).astype(np.float32)
    [points] = followed([frame(scene(0), 0)], {0: stroke})
    assert len(points.rows) == 91
    assert np.ptp(points.places[:, 0]) > 88
    many = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), axis=2).reshape(-1, 2).astype(np.float32)
    assert len(followed([frame(scene(0), 0)], {0: many})[0].rows) == 200
