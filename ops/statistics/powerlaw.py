"""Power laws of errors: how an error falls with the number of training images."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

EXPONENTS = np.linspace(-0.5, 2, 251)
ENOUGH = 5  # sizes from which a floor can be told from a small exponent


class PowerLaw(NamedTuple):
    """Errors a n^-b + c at n training images, one law or several (R,).

    Attributes:
        scale: a, at least 0.
        exponent: b, in [-0.5, 2]; below 0 the error rises.
        floor: c, at least 0: the error that remains however many images there are.
    """

    scale: NDArray[np.float64]
    exponent: NDArray[np.float64]
    floor: NDArray[np.float64]

    def error(self, size: float) -> NDArray[np.float64]:
        """Returns the error at a number of images, at most 1."""
        return np.minimum(1, self.scale * size**-self.exponent + self.floor)


def fitted_power_law(sizes: NDArray[np.float64], errors: NDArray[np.float64]) -> PowerLaw:
    """Returns the power laws of the least squared error.

    Learning curves follow such laws over orders of magnitude (C. Cortes et al., "Learning curves: asymptotic values and
    rate of convergence", NIPS 1993; J. Hestness et al., "Deep learning scaling is predictable, empirically", 2017). The
    floor is 0 for fewer than `ENOUGH` sizes: so few points cannot tell it from a smaller exponent.

    Args:
        sizes: Numbers of training images, at least two different ones (S,).
        errors: Errors in [0, 1] of each size, (S,) or for several laws (R, S).
    """
    rows = np.atleast_2d(errors)
    powers = sizes ** -EXPONENTS[:, None]  # (G, S)
    scale, floor = rows @ powers.T / (powers**2).sum(axis=1), np.zeros((len(rows), len(EXPONENTS)))
    if len(np.unique(sizes)) >= ENOUGH:
        inner = powers - powers.mean(axis=1, keepdims=True)
        slope = (rows - rows.mean(axis=1, keepdims=True)) @ inner.T / np.maximum((inner**2).sum(axis=1), 1e-300)
        rest = rows.mean(axis=1, keepdims=True) - slope * powers.mean(axis=1)
        possible = (slope >= 0) & (rest >= 0) & (EXPONENTS > 0)
        scale, floor = np.where(possible, slope, scale), np.where(possible, rest, floor)
    left = ((scale[..., None] * powers + floor[..., None] - rows[:, None]) ** 2).sum(axis=2)
    best = left.argmin(axis=1)
    picked = np.arange(len(rows)), best
    found = PowerLaw(scale[picked], EXPONENTS[best], floor[picked])
    return found if errors.ndim > 1 else PowerLaw(*(each[0] for each in found))
