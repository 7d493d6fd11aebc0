"""How large the drift of a run is: independent displacements and a random walk."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float
from scipy.fft import dct

__all__ = ["DriftSize", "slowness", "without_lean"]


def slowness(count: int) -> Float[np.ndarray, " count"]:
    """Variance of the cosine modes of a random walk with unit steps; the mean gets the last.

    s_m = 1 / (2 - 2 cos(pi m / n))
    """
    mode = np.arange(count)
    mode[0] = count
    return 1 / (2 - 2 * np.cos(math.pi * mode / count))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriftSize:
    """What is taken for likely of the displacements along one axis, before images are compared.

    Attributes:
        sd_px: standard deviation of independent displacements.
        step_px: standard deviation of the steps of a random walk, which comes on top.
    """

    sd_px: float
    step_px: float

    @property
    def local_px(self) -> float:
        """Standard deviation of independent displacements that differ as much from slice to
        slice: ``2 s^2 = 2 sd^2 + step^2``."""
        return math.sqrt(self.sd_px**2 + self.step_px**2 / 2)

    def spectrum(self, count: int) -> Float[np.ndarray, " count"]:
        """Variance of the cosine modes of ``count`` slices."""
        return self.sd_px**2 + self.step_px**2 * slowness(count)

    def covariance(self, count: int) -> Float[np.ndarray, "count count"]:
        """Covariance of the displacements, in square pixels."""
        cosine = np.asarray(dct(np.eye(count), norm="ortho", axis=0))
        return (cosine.T * self.spectrum(count)) @ cosine


def without_lean(shift_px: Float[np.ndarray, "slice 2"]) -> Float[np.ndarray, "slice 2"]:
    """Displacements (y, x) without what images cannot tell: no mean, and no trend along y, where a
    constant drift looks as the lean of the beam does."""
    ramp = np.arange(len(shift_px)) - (len(shift_px) - 1) / 2
    out = shift_px - shift_px.mean(0)
    out[:, 0] -= ramp * (ramp @ out[:, 0]) / (ramp @ ramp)
    return out
