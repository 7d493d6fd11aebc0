"""Covariance of slices at any distance, per spatial frequency, from the stack itself."""

import dataclasses
import math

import numpy as np
from jaxtyping import Complex, Float

from fibsim.realign.tiles import Tiles

__all__ = ["SliceCovariance", "first_covariance", "update_covariance"]

# Lags that the first estimate uses, if the stack has them.
_LAGS = 16
# The floor of the spectrum along z counts as noise, and at least this part of the variance does.
_FLOOR_QUANTILE, _LEAST_NOISE = 0.1, 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class SliceCovariance:
    """Covariance of the Fourier coefficients of faces at depths z, of one channel.

    In every bin, ``K(z, z') = sum_w power_w exp(i omega_w (z - z')) + noise [z = z']``: any
    stationary structure has such a form (Bochner). The frequencies lie around the one that the
    leaning beam gives to what is deep.

    Attributes:
        omega: frequencies along z in 1 / nominal slice; ``(bin, line)``.
        power: their variance; ``(bin, line)``.
        noise: variance of what no other slice shows; ``(bin,)``.
    """

    omega: Float[np.ndarray, "bin line"]
    power: Float[np.ndarray, "bin line"]
    noise: Float[np.ndarray, " bin"]

    def waves(self, z: Float[np.ndarray, " slice"]) -> Complex[np.ndarray, "bin slice line"]:
        """``exp(i omega z)``."""
        return np.exp(1j * self.omega[:, None, :] * z[:, None])

    def matrix(self, z: Float[np.ndarray, " slice"]) -> Complex[np.ndarray, "bin slice slice"]:
        """K of slices at depths ``z`` in nominal slices."""
        waves = self.waves(z)
        shared = (waves * self.power[:, None, :]) @ waves.conj().swapaxes(1, 2)
        return shared + self.noise[:, None, None] * np.eye(len(z))

    def slope(self, z: Float[np.ndarray, " slice"]) -> Complex[np.ndarray, "bin slice slice"]:
        """Derivative of K with respect to the first of its two depths."""
        waves = self.waves(z)
        return (waves * (1j * self.omega * self.power)[:, None, :]) @ waves.conj().swapaxes(1, 2)


def first_covariance(
    value: Complex[np.ndarray, "slice tile mode"], tiles: Tiles, lean_px: float
) -> SliceCovariance:
    """The lag-window estimate for slices of even thickness.

    Products of slices at lags up to 16, averaged over slices, tiles and the modes of a bin, under
    a Parzen window (which keeps every power positive; Priestley 1981, section 6.2.3).

    Args:
        value: coefficients of one channel.
        tiles: their modes.
        lean_px: displacement along y per slice of what is seen deep in pores.
    """
    slices = len(value)
    lag = np.arange(min(_LAGS, slices - 2) + 1)
    part = lag / len(lag)
    window = np.where(part < 0.5, 1 - 6 * part**2 + 6 * part**3, 2 * (1 - part) ** 3)
    products = np.empty((len(tiles.bins), len(lag)), complex)
    for n in lag:
        product = (value[n:] * value[: slices - n].conj()).sum((0, 1), dtype=complex)
        products[:, n] = np.add.reduceat(product, tiles.start[:-1])
    products /= (np.diff(tiles.start) * value.shape[1] * slices)[:, None]
    # Content stays in place at the face and moves by the lean deep below: the middle of the two.
    centre = -0.5 * lean_px * tiles.bin_qy
    omega = centre[:, None] + 2 * math.pi * np.arange(-slices // 2, slices - slices // 2) / slices
    shifted = (window * products)[:, None, :] * np.exp(-1j * omega[:, :, None] * lag)
    power = (2 * shifted.sum(2).real - products[:, :1].real) / omega.shape[1]
    variance = products[:, 0].real
    least = 1e-3 * variance / omega.shape[1]
    floor = np.maximum(np.quantile(power, _FLOOR_QUANTILE, axis=1), least)
    floor += _LEAST_NOISE * variance / omega.shape[1]
    return SliceCovariance(
        omega=omega,
        power=np.maximum(power - floor[:, None], 1e-3 * least[:, None]),
        noise=floor * omega.shape[1],
    )


def update_covariance(
    covariance: SliceCovariance,
    value: Complex[np.ndarray, "slice tile mode"],
    tiles: Tiles,
    z: Float[np.ndarray, " slice"],
    *,
    steps: int,
) -> SliceCovariance:
    """Raise the likelihood of uneven slices: multiply every power by its share in the data.

        power_w <- power_w  |e_w^H W v|^2 / (e_w^H W e_w),    W = K^-1, e_w = exp(i omega_w z)

    averaged over tiles and modes, the noise likewise with unit vectors. Powers stay positive;
    the fixed point is that of maximum likelihood (Stoica, Babu & Li 2011, doi
    10.1109/TSP.2010.2090525).
    """
    waves = covariance.waves(z)
    bins = [np.ascontiguousarray(value[:, :, b]).reshape(len(z), -1) for b in tiles.bins]
    for _ in range(steps):
        inverse = np.linalg.inv(covariance.matrix(z))
        towards = waves.conj().swapaxes(1, 2) @ inverse
        expected = np.einsum("bwn,bnw->bw", towards, waves).real
        expected_noise = np.einsum("bnn->b", inverse).real
        found, found_noise = np.empty_like(expected), np.empty_like(expected_noise)
        for b, v in enumerate(bins):
            found[b] = np.mean(np.abs(towards[b] @ v) ** 2, axis=1)
            found_noise[b] = np.mean(np.abs(inverse[b] @ v) ** 2) * len(z)
        covariance = dataclasses.replace(
            covariance,
            power=covariance.power * found / expected,
            noise=covariance.noise * found_noise / expected_noise,
        )
    return covariance
