import numpy as np
import pytest
import torch

from ops.color import coloring
from ops.color.coloring import colored
from ops.color.hints import CENTERS, LIGHT, NOISE, REACH, Hints, spread, spread_rows
from ops.color.lab import luminance_and_chroma

DARK, BRIGHT = 60, 190


def halves(height: int = 60, width: int = 90) -> np.ndarray:
    """Gray: dark on the left, bright on the right."""
    picture = np.full((height, width, 3), DARK, np.uint8)
    picture[:, width // 2 :] = BRIGHT
    return picture


def chroma_of(picture: np.ndarray) -> np.ndarray:
    rgb = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
    return luminance_and_chroma(rgb)[1][0].movedim(0, 2).numpy()


def painted(picture: np.ndarray, hints: Hints) -> np.ndarray:
    return chroma_of(colored(picture, torch.zeros(2, 16, 24), torch.zeros(1, 16, 24), True, hints))


def test_hinted_pixels_get_their_colors_and_others_of_the_region_follow() -> None:
    given = Hints(np.array([[30, 20], [10, 70]]), np.array([[0.2, 0.1], [-0.1, 0.15]], np.float32))
    found = painted(halves(), given)
    for (row, column), chroma in zip(given.places, given.chroma, strict=True):
        np.testing.assert_allclose(found[row, column], chroma, atol=0.01)  # 8 bits
    assert found[40, 30, 0] > 0.08
    assert found[40, 60, 0] < -0.03


def test_colors_stop_where_luminance_changes() -> None:
    found = painted(halves(), Hints(np.array([[30, 43]]), np.array([[0.2, 0.1]], np.float32)))
    assert found[30, 40, 0] > 0.15
    assert np.abs(found[:, 46:]).max() < 0.012  # 1.5 units of a and b, two pixels beyond the edge


def test_without_hints_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    picture, empty = halves(), Hints(np.zeros((0, 2), np.int64), np.zeros((0, 2), np.float32))
    plain = colored(picture, torch.full((2, 16, 24), 0.1), torch.zeros(1, 16, 24))
    np.testing.assert_array_equal(
        colored(picture, torch.full((2, 16, 24), 0.1), torch.zeros(1, 16, 24), True, empty), plain
    )
    given = Hints(np.array([[59, 89], [0, 0]]), np.array([[0.1, 0.1], [0.1, -0.1]], np.float32))
    whole = painted(picture, given)
    monkeypatch.setattr(coloring, "BAND", 1)  # row by row
    np.testing.assert_allclose(painted(picture, given), whole, atol=0.01)


def test_the_grid_gives_what_the_covariance_says() -> None:
    rng = np.random.default_rng(0)
    places = np.column_stack([rng.integers(0, 100, 5), rng.integers(0, 150, 5)])
    chroma = rng.normal(0, 0.1, (5, 2)).astype(np.float32)
    levels = torch.from_numpy(rng.uniform(-0.8, 0.8, 5)).float()
    added = spread(Hints(places, chroma), torch.zeros(5, 2), levels, 100, 150)
    luminance = torch.from_numpy(rng.uniform(-0.8, 0.8, (1, 1, 100, 150))).float()
    found = spread_rows(added, luminance[:, :, 40:60], 40, 100)[0].numpy()
    points = np.column_stack([places / 150, levels.numpy()])

    def covariance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        distance = np.linalg.norm(one[:, None, :2] - other[:, :2], axis=2)
        light = one[:, None, 2] - other[:, 2]
        return np.exp(-distance / REACH - (light / LIGHT) ** 2 / 2)

    weights = np.linalg.solve(covariance(points, points) + NOISE * np.eye(5), chroma.astype(np.float64))
    asked = rng.integers(0, [20, 150], (50, 2))
    lights = luminance[0, 0, 40:60].numpy()[asked[:, 0], asked[:, 1]]
    at = np.column_stack([(asked[:, 0] + 40) / 150, asked[:, 1] / 150, lights])
    expected = covariance(at, points) @ weights
    np.testing.assert_allclose(found[:, asked[:, 0], asked[:, 1]].T, expected, atol=0.01)


def test_strokes_of_many_pixels_are_merged() -> None:
    rows, columns = np.mgrid[20:80, 20:180]
    places = np.column_stack([rows.ravel(), columns.ravel()])
    assert len(places) > 10 * CENTERS
    chroma = np.full((len(places), 2), 0.1, np.float32)
    added = spread(Hints(places, chroma), torch.zeros(len(places), 2), torch.zeros(len(places)), 100, 200)
    found = spread_rows(added, torch.zeros(1, 1, 100, 200), 0, 100)[0].numpy()
    np.testing.assert_allclose(found[:, 20:80, 20:180], 0.1, atol=0.01)
