import numpy as np
import pytest

from datamodules.samples.draw import Canvas, noise, shade, step


def test_textures_and_colors() -> None:
    field = noise(np.random.default_rng(0), (60, 90), 10, octaves=3)
    assert (field.shape, field.dtype) == ((60, 90), np.float32)
    assert field.mean() == pytest.approx(0, abs=1e-5)
    assert field.std() == pytest.approx(1, abs=1e-5)
    assert step(np.array([0.0, 1, 2, 3]), 1, 3).tolist() == [0, 0, 0.5, 1]
    assert shade("#000000", "#ff0000", np.array([[-1.0, 0.5]])).tolist() == [[[0, 0, 0], [0.5, 0, 0]]]


def test_a_canvas_is_painted_in_layers() -> None:
    canvas = Canvas(np.random.default_rng(0), (2, 4))
    assert canvas.y.tolist() == [[0] * 4, [0.5] * 4]
    assert canvas.x.tolist() == [[0, 0.5, 1, 1.5]] * 2
    canvas.lay(np.array([[1, 1, 0, 0]] * 2), "#ff0000")
    canvas.lay(np.array([[0, 0.5, 7, -1]] * 2), np.array([0, 0, 1], np.float32))
    assert canvas.pixels[0].tolist() == [[1, 0, 0], [0.5, 0, 0.5], [0, 0, 1], [0, 0, 0]]
    assert canvas.pixels.dtype == np.float32


@pytest.mark.parametrize(("unit", "grain"), [(None, 0.6), (3, 3)])
def test_lumps_have_units(unit: float | None, grain: float) -> None:
    rng = np.random.default_rng
    np.testing.assert_array_equal(Canvas(rng(0), (60, 90), unit).noise(1), noise(rng(0), (60, 90), grain))
    np.testing.assert_array_equal(Canvas(rng(0), (60, 90), unit).edge(5), noise(rng(0), (2, 90), (2, 5 * grain))[:1])
