"""Several channels of one slice: their displacement against each other, and what they share."""

import numpy as np
from jaxtyping import Complex, Float

from fibsim.realign.coarse import correlation_peak
from fibsim.realign.likelihood import displacement_terms
from fibsim.realign.tiles import Tiles, mode_phases, periodic_spectrum

__all__ = ["channel_displacements", "factors"]

_ROUNDS = 4


def factors(
    value: Complex[np.ndarray, "channel slice tile mode"], tiles: Tiles
) -> Complex[np.ndarray, "channel slice tile mode"]:
    """Mixtures of the channels that are independent within a slice and from slice to slice.

    Per bin, the min/max autocorrelation factors (Switzer & Green 1984): with G_0 and G_1 the
    covariances of the channels at lags 0 and 1, the mixtures diagonalise G_0 and the Hermitian
    part of G_1 exp(-i phase) together. They have unit variance. The voltages see the same
    structure; as channels they would count it several times.
    """
    out = np.empty_like(value)
    count, slices = value.shape[:2]
    for b in tiles.bins:
        v = value[..., b].reshape(count, slices, -1)
        zero = np.einsum("cnq,dnq->cd", v, v.conj()) / v[0].size
        one = np.einsum("cnq,dnq->cd", v[:, 1:], v[:, :-1].conj()) / v[0].size
        one = one * np.exp(-1j * np.angle(np.trace(one)))
        ridge = 1e-9 * np.trace(zero).real * np.eye(count)
        whiten = np.linalg.inv(np.linalg.cholesky(zero + ridge))
        _, axes = np.linalg.eigh(whiten @ (one + one.conj().T) @ whiten.conj().T)
        mix = axes.conj().T @ whiten
        out[..., b] = (mix @ v.reshape(count, -1)).reshape(out[..., b].shape)
    return out


def _coarse(images: np.ndarray) -> np.ndarray:
    """Displacement of each channel against the first, beyond what is usual; ``(c, slice, 2)``."""
    count, slices = images.shape[:2]
    seen = np.zeros((count, slices, 2))
    for k in range(slices):
        spectra = periodic_spectrum(images[:, k].astype(float))
        for c in range(1, count):
            correlation = np.fft.ifft2(spectra[c] * spectra[0].conj()).real
            seen[c, k], _ = correlation_peak(correlation)
    seen -= np.median(seen, axis=1, keepdims=True)
    seen[np.abs(seen).max(2) < 1] = 0.0  # small ones are found better by what follows
    return seen - seen.mean(0)


def channel_displacements(
    images: Float[np.ndarray, "channel slice y x"], tiles: Tiles
) -> tuple[Float[np.ndarray, "channel slice 2"], Float[np.ndarray, " 2"]]:
    """Displacement (y, x) of every channel in every slice, in pixels, and its standard error.

    Relative to the mean over the channels and to the mean over the slices: that a channel sees
    deeper, and so displaced by the lean, is the same in all slices. The channels of a slice are
    taken for draws of one distribution, whose covariance is that of all slices; displacements
    follow from its likelihood (`fibsim.realign.likelihood`). Errors come from the scatter between
    tiles; estimates are shrunk by what of their variance is error.
    """
    count, slices, pieces, modes = tiles.value.shape
    shift = _coarse(images)
    error = np.zeros(2)
    for _ in range(_ROUNDS):
        phase = mode_phases(tiles, shift)
        value = tiles.value * phase[:, :, None, :]
        flat = value.reshape(count, slices * pieces, modes)
        covariance = np.stack(
            [np.einsum("csq,dsq->cd", flat[..., b], flat[..., b].conj()) for b in tiles.bins]
        )
        covariance /= (np.diff(tiles.start) * slices * pieces)[:, None, None]
        covariance += 1e-6 * np.eye(count) * np.einsum("bcc->b", covariance).real[:, None, None]
        score, information = displacement_terms(flat, tiles, covariance)
        size = 2 * count
        inverse = np.linalg.pinv(information.reshape(size, size) * pieces / flat.shape[1])
        steps = score.reshape(slices, pieces, size) @ inverse * pieces
        steps = steps.reshape(slices, pieces, 2, count)
        shift = shift + steps.mean(1).transpose(2, 0, 1)
        shift -= shift.mean(1, keepdims=True)
        if pieces > 1:
            error = np.sqrt(steps.var(1, ddof=1).mean((0, 2)) / pieces)
    variance = np.maximum((shift**2).mean((0, 1)), 1e-12)
    return shift * np.maximum(1 - error**2 / variance, 0.0), error
