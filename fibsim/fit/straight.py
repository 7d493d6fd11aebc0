"""Coordinates in which a stack's moments bend least, for the end of a fit.

A grey value is ``offset + gain s``, a variance ``read^2 + gain (grey - offset) / dose``. Brighter
pores, a lower offset, a higher gain and less of an amplifier's noise make nearly the same stack:
a valley, straight in gain and variance, bent in their logarithms, in which a descent is at home.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from fibsim.fit.flat import Flat

__all__ = ["Straight", "straighten"]

_BY_VALUE = "detector.gain"
# Of a gain, relative to where it starts.
_LOWEST_GAIN = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class Straight:
    """A vector of free variables f as u, number by number.

    ``u = exp(f - start)`` for a gain, ``u = (exp(2 f) - 1) / unit`` for a size that adds to other
    scatter, and ``u = f`` for all others.

    Attributes:
        value, variance: which numbers those are.
        start: where the fit starts.
        unit: of variances, that of the start or 1.
        centre, prior_sd: of the prior, taken for normal in u; half of what u changes over two
            standard deviations. Those of gains and of noise are so wide that they hardly count.
        lowest: minus infinity where there is no bound.
    """

    value: Float[np.ndarray, " unknown"]
    variance: Float[np.ndarray, " unknown"]
    start: Float[np.ndarray, " unknown"]
    unit: Float[np.ndarray, " unknown"]
    centre: Float[np.ndarray, " unknown"]
    prior_sd: Float[np.ndarray, " unknown"]
    lowest: Float[np.ndarray, " unknown"]

    def to(self, free: np.ndarray) -> np.ndarray:
        """u of f."""
        return _to(free, self.value, self.variance, self.start, self.unit)

    def back(self, u: np.ndarray) -> np.ndarray:
        """f of u."""
        gain = np.log(np.where(self.value, np.maximum(u, _LOWEST_GAIN), 1.0)) + self.start
        size = 0.5 * np.log1p(np.where(self.variance, np.maximum(u, 0.0) * self.unit, 0.0))
        return np.where(self.value, gain, np.where(self.variance, size, u))

    def slope(self, u: np.ndarray) -> np.ndarray:
        """du / df."""
        return np.where(self.value, u, np.where(self.variance, 2 * (u + 1 / self.unit), 1.0))


def _to(free, value, variance, start, unit):
    gain = np.exp(np.where(value, free - start, 0.0))
    size = np.expm1(np.where(variance, 2 * free, 0.0)) / unit
    return np.where(value, gain, np.where(variance, size, free))


def straighten(flat: Flat, start: np.ndarray, origin: np.ndarray) -> Straight:
    """The coordinates of a fit from ``start``, with priors centred on ``origin`` (both free)."""
    value = np.array([name.split("[")[0] == _BY_VALUE for name in flat.names])
    variance = np.isfinite(flat.lowest)  # those of sizes, at zero
    unit = np.maximum(np.expm1(np.where(variance, 2 * start, 0.0)), 1.0)
    place = (value, variance, start, unit)
    above = _to(origin + flat.prior_sd, *place)
    below = _to(np.maximum(origin - flat.prior_sd, flat.lowest), *place)
    return Straight(
        value=value,
        variance=variance,
        start=start,
        unit=unit,
        centre=_to(origin, *place),
        prior_sd=(above - below) / 2,
        lowest=np.where(value, _LOWEST_GAIN, flat.lowest),
    )
