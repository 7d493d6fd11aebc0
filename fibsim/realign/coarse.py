"""Displacements of the slices to about half a pixel, whatever their size: a start for the rest."""

import itertools

import numpy as np
from jaxtyping import Complex, Float

from fibsim.realign.drift import DriftSize, slowness, without_lean
from fibsim.realign.tiles import periodic_spectrum

__all__ = ["coarse_displacements", "correlation_peak", "displacement_sizes", "likeness"]

_LAGS = (1, 2, 3)
_BLUR_PX = 1.5
_ROUNDS = 10
# Error of a step from slice to slice along y (of which the lean makes more) and x, in pixels.
_STEP_PX = (0.4, 0.2)
_SIZES_PX = np.geomspace(0.05, 100.0, 45)


def correlation_peak(
    correlation: Float[np.ndarray, "y x"],
) -> tuple[Float[np.ndarray, " 2"], float]:
    """Place (y, x) and height of the top, between pixels by parabolas; negative in the far half."""
    size = np.array(correlation.shape)
    top = np.array(np.unravel_index(np.argmax(correlation), correlation.shape))
    place = top.astype(float)
    for axis in (0, 1):
        step = np.eye(2, dtype=int)[axis]
        low, mid, high = (correlation[tuple((top + s * step) % size)] for s in (-1, 0, 1))
        place[axis] += 0.5 * (high - low) / max(2 * mid - low - high, 1e-12)
    return np.where(place > size / 2, place - size, place), float(correlation[tuple(top)])


def _spectra(images: Float[np.ndarray, "channel slice y x"]) -> list[Complex[np.ndarray, "c y x"]]:
    """Of every slice, of unit power, after a Gaussian and without row and column means."""
    slices, y, x = images.shape[1:]
    fy, fx = 2 * np.pi * np.fft.fftfreq(y)[:, None], 2 * np.pi * np.fft.fftfreq(x)
    keep = np.exp(-(fy**2 + fx**2) * _BLUR_PX**2 / 2) * (fy != 0) * (fx != 0)
    spectra = [periodic_spectrum(images[:, k].astype(float)) * keep for k in range(slices)]
    return [s / np.sqrt(np.mean(np.abs(s) ** 2, axis=(1, 2), keepdims=True)) for s in spectra]


def likeness(images: Float[np.ndarray, "channel slice y x"]) -> float:
    """How much higher slices correlate with the next than unrelated images of their spectrum would.

    The unrelated image is the next slice turned by 180 degrees. Median over the slices of the
    peaks' heights, one divided by the other; about 1 if slices have nothing in common.
    """

    def height(first: np.ndarray, second: np.ndarray) -> float:
        return correlation_peak(np.fft.ifft2((second * first).mean(0)).real)[1]

    pairs = list(itertools.pairwise(_spectra(images)))
    seen = np.median([height(a.conj(), b) for a, b in pairs])
    return float(seen / np.median([height(a, b) for a, b in pairs]))


def coarse_displacements(
    images: Float[np.ndarray, "channel slice y x"],
) -> Float[np.ndarray, "slice 2"]:
    """Displacement (y, x) of every slice in pixels; mean zero, no trend along y.

    Slices up to three apart are registered by the peak of their cross-correlation, after a
    Gaussian of 1.5 pixels and without row and column means; one least-squares problem with
    absolute instead of squared residuals (iterated weights) puts the pairs together. A pair counts
    by h^2 / (1 - h^2), h its correlation: slices half a period of the structure apart are hardly
    alike and peak in the wrong place. A constant displacement per slice along y cannot be told
    from the beam's lean and is taken off.
    """
    slices, spectra = images.shape[1], _spectra(images)
    pairs = [(i, i + n) for n in _LAGS for i in range(slices - n)]
    seen, trust = np.empty((len(pairs), 2)), np.empty(len(pairs))
    for row, (i, j) in enumerate(pairs):
        product = (spectra[j] * spectra[i].conj()).mean(0)
        seen[row], height = correlation_peak(np.fft.ifft2(product).real)
        alike = min(max(height, 1e-3), 0.999) ** 2
        trust[row] = alike / (1 - alike)
    for n in _LAGS:  # what all pairs of a lag share is the lean
        of_lag = [row for row, (i, j) in enumerate(pairs) if j - i == n]
        seen[of_lag, 0] -= np.median(seen[of_lag, 0])
    design = np.zeros((len(pairs), slices))
    for row, (i, j) in enumerate(pairs):
        design[row, [i, j]] = -1.0, 1.0
    shift = np.zeros((slices, 2))
    for axis in (0, 1):
        weight = trust
        for _ in range(_ROUNDS):
            root = np.sqrt(weight)[:, None]
            shift[:, axis] = np.linalg.lstsq(design * root, seen[:, axis] * root[:, 0])[0]
            weight = trust / np.maximum(np.abs(seen[:, axis] - design @ shift[:, axis]), 0.2)
    return without_lean(shift)


def displacement_sizes(
    coarse_px: Float[np.ndarray, "slice 2"],
) -> tuple[Float[np.ndarray, "slice 2"], tuple[DriftSize, DriftSize]]:
    """Coarse displacements without what their errors make of them, and how large they are.

    Registration from slice to slice wanders as a random walk, since structure that leans looks
    like drift. What is true is independent draws, and a walk as far as it is larger than that of
    the errors; their sizes are those of highest likelihood, and cosine modes are shrunk by their
    share of error.

    Returns:
        Displacements, and their size along y and x.
    """
    from scipy.fft import dct, idct

    count = len(coarse_px)
    walk = slowness(count)[1:]
    out, sizes = np.zeros_like(coarse_px), []
    for axis, error in enumerate(_STEP_PX):
        seen = np.asarray(dct(coarse_px[:, axis], norm="ortho"))
        steps = np.append(error, _SIZES_PX[_SIZES_PX > error])
        variance = _SIZES_PX[:, None, None] ** 2 + steps[:, None] ** 2 * walk
        likely = -0.5 * (np.log(variance) + seen[1:] ** 2 / variance).sum(2)
        sd, step = np.unravel_index(np.argmax(likely), likely.shape)
        size = DriftSize(
            sd_px=float(_SIZES_PX[sd]), step_px=float(np.sqrt(steps[step] ** 2 - error**2))
        )
        seen[0] = 0.0
        seen[1:] *= 1 - error**2 * walk / variance[sd, step]
        out[:, axis] = idct(seen, norm="ortho")
        sizes.append(size)
    return out, tuple(sizes)
