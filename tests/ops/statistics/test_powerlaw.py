import numpy as np
import pytest
from scipy.optimize import curve_fit

from ops.statistics.powerlaw import fitted_power_law

SIZES = np.array([4.0, 8, 16, 32])


def test_a_law_without_a_floor_is_found() -> None:
    law = fitted_power_law(SIZES, 0.7 * SIZES**-0.4)
    assert (law.scale, law.exponent, law.floor) == pytest.approx((0.7, 0.4, 0))
    assert law.error(64) == pytest.approx(0.7 * 64**-0.4)


def test_a_floor_needs_five_sizes() -> None:
    sizes = np.array([4.0, 8, 16, 32, 64, 128])
    errors = 0.5 * sizes**-0.8 + 0.2
    law = fitted_power_law(sizes, errors)
    assert (law.scale, law.exponent, law.floor) == pytest.approx((0.5, 0.8, 0.2), abs=0.01)
    assert fitted_power_law(sizes[:4], errors[:4]).floor == 0


def test_noisy_errors_are_fitted_as_by_scipy_row_by_row() -> None:
    rng = np.random.default_rng(0)
    errors = 0.6 * SIZES**-0.3 + rng.normal(0, 0.02, (20, 4))
    laws = fitted_power_law(SIZES, errors)
    for row, each in enumerate(errors):
        (scale, exponent), _ = curve_fit(lambda n, a, b: a * n**-b, SIZES, each, (0.6, 0.3))
        assert laws.exponent[row] == pytest.approx(exponent, abs=0.006)  # of the grid
        assert laws.scale[row] == pytest.approx(scale, rel=0.02)


def test_errors_that_rise_are_not_hidden() -> None:
    assert fitted_power_law(SIZES, np.array([0.2, 0.21, 0.22, 0.23])).exponent < 0
