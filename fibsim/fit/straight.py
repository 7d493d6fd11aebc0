"""Coordinates in which a stack's moments bend least, for the end of a fit.

A grey value is ``offset + gain s``, a variance ``read^2 + gain (grey - offset) / dose``. Brighter
pores, a lower offset, a higher gain and less of an amplifier's noise make nearly the same stack:
a valley, straight in gain and variance, bent in their logarithms, in which a descent is at home.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float

from fibsim.fit.flat import Flat

__all__ = ["Straight"]

_BY_VALUE = "detector.gain"
# Of a gain, relative to where it starts.
_LOWEST_GAIN = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class Straight:
    """A vector of free variables f as u, number by number.

    ``u = exp(f - start)`` for a gain, ``u = (exp(2 f) - 1) / unit`` for a size that adds to other
    scatter, and ``u = f`` for all others.

    Attributes:
        flat: of the free variables.
        start: where the fit starts, free.
        origin: centre of the prior, free.
    """

    flat: Flat
    start: Float[np.ndarray, " unknown"]
    origin: Float[np.ndarray, " unknown"]

    @functools.cached_property
    def _value(self) -> Bool[np.ndarray, " unknown"]:
        return np.array([name.split("[")[0] == _BY_VALUE for name in self.flat.names])

    @functools.cached_property
    def _variance(self) -> Bool[np.ndarray, " unknown"]:
        return np.isfinite(self.flat.lowest)  # those of sizes, at zero

    @functools.cached_property
    def _unit(self) -> Float[np.ndarray, " unknown"]:
        """Of variances: that of the start, or 1."""
        return np.maximum(np.expm1(np.where(self._variance, 2 * self.start, 0.0)), 1.0)

    @functools.cached_property
    def prior_sd(self) -> Float[np.ndarray, " unknown"]:
        """Of the prior, taken for normal in u: half of what u changes over two standard deviations.

        Those of gains and of noise are so wide that they hardly count.
        """
        below = np.maximum(self.origin - self.flat.prior_sd, self.flat.lowest)
        return (self.to(self.origin + self.flat.prior_sd) - self.to(below)) / 2

    @functools.cached_property
    def lowest(self) -> Float[np.ndarray, " unknown"]:
        """Minus infinity where there is no bound."""
        return np.where(self._value, _LOWEST_GAIN, self.flat.lowest)

    def to(self, free: np.ndarray) -> np.ndarray:
        """u of f."""
        gain = np.exp(np.where(self._value, free - self.start, 0.0))
        size = np.expm1(np.where(self._variance, 2 * free, 0.0)) / self._unit
        return np.where(self._value, gain, np.where(self._variance, size, free))

    def back(self, u: np.ndarray) -> np.ndarray:
        """f of u."""
        gain = np.log(np.where(self._value, np.maximum(u, _LOWEST_GAIN), 1.0)) + self.start
        size = 0.5 * np.log1p(np.where(self._variance, np.maximum(u, 0.0) * self._unit, 0.0))
        return np.where(self._value, gain, np.where(self._variance, size, u))

    def slope(self, u: np.ndarray) -> np.ndarray:
        """du / df."""
        size = np.where(self._variance, 2 * (u + 1 / self._unit), 1.0)
        return np.where(self._value, u, size)
