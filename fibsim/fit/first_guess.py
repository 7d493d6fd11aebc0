"""First guesses taken from the images alone: noise, feature size, solid fraction, tilt."""

import numpy as np

from fibsim.stack import Stack

__all__ = [
    "bright_faces",
    "grey_levels",
    "grey_scale",
    "guess_faults",
    "guess_feature_nm",
    "guess_solid_fraction",
    "guess_tilt_deg",
    "half_width",
    "noise_by_brightness",
    "noise_response",
    "noise_sd",
    "on_grey_scale",
]

WHITE = 255.0
# Scatter of profiles that structure may show, as a multiple of a rough simulation's. On four
# stacks with curtains too weak to be seen in a profile it showed 1.1 to 1.5 times as much.
_OWN = 1.3


def grey_scale(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What recorded value is black, and how many of 255 grey values one step is, per channel.

    Unsigned integers are scaled by their type's range; anything else (floats, signed) by the
    stack's own smallest and largest value per channel. The scale of ``images`` is then
    ``(images - black) * step``.

    Args:
        images: the whole recorded stack, ``(channel, slice, y, x)``.
    """
    if np.issubdtype(images.dtype, np.unsignedinteger):
        step = np.full(len(images), WHITE / np.iinfo(images.dtype).max, np.float32)
        return np.zeros(len(images), np.float32), step
    black = images.min(axis=(1, 2, 3)).astype(np.float32)
    white = images.max(axis=(1, 2, 3)).astype(np.float32)
    return black, (WHITE / np.maximum(white - black, 1e-12)).astype(np.float32)


def on_grey_scale(images: np.ndarray, scale: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Images, or a part of them, as float32 on the scale that `grey_scale` found."""
    black, step = (values[:, None, None, None] for values in scale)
    return (images.astype(np.float32) - black) * step


def grey_levels(stack: Stack) -> np.ndarray:
    """Images as float32 with black 0 and white 255, whatever they were recorded in; see
    `grey_scale`."""
    return on_grey_scale(stack.images, grey_scale(stack.images))


def noise_response(images: np.ndarray) -> np.ndarray:
    """The mask ``[1 -2 1]^T [1 -2 1]``, 0 where grey values are locally linear; of white noise it
    makes 6 times its standard deviation (Immerkaer 1996, doi 10.1006/cviu.1996.0060)."""
    return np.diff(np.diff(images, n=2, axis=-1), n=2, axis=-2)


def noise_sd(images: np.ndarray) -> np.ndarray:
    """Standard deviation of white noise per channel of ``(channel, slice, y, x)``.

    Median absolute `noise_response` over ``6 x 0.6745``: Immerkaer's estimate with the median
    for robustness against edges. Of ``(patch, slice, y, x)`` it is the noise of every patch.
    """
    flat = np.abs(noise_response(images).reshape(images.shape[0], -1))
    return np.median(flat, axis=1) / (6 * 0.6745)


def _second_difference_sd(profile: np.ndarray) -> float:
    """Robust standard deviation of the second differences along the last axis."""
    second = np.diff(profile, n=2, axis=-1)
    return float(np.median(np.abs(second)) / 0.6745) if second.size else 0.0


def _fault_sds(images: np.ndarray) -> np.ndarray:
    """Sizes of flicker, curtains and lines per channel if they were all that profiles show.

    Second differences of the slice, column and row medians over what independent draws would
    give; curtains are smooth over 1.5 pixels (`fibsim.milling`): 6 - 8 exp(-1/9) + 2 exp(-4/9).
    """
    smooth = np.sqrt(6 - 8 * np.exp(-1 / 9) + 2 * np.exp(-4 / 9))
    found = []
    for channel in images:
        bright = max(float(channel.mean() - np.quantile(channel, 0.02)), 1.0)
        found.append(
            (
                _second_difference_sd(np.median(channel, axis=(1, 2))) / np.sqrt(6) / bright,
                _second_difference_sd(np.median(channel, axis=1)) / smooth / bright,
                _second_difference_sd(np.median(channel, axis=2)) / np.sqrt(6),
            )
        )
    return np.asarray(found)


def guess_faults(crops: np.ndarray, faultless: np.ndarray) -> dict[str, float]:
    """Sizes of flicker, curtains and line noise, to start a fit from.

    The specimen's own structure and noise scatter a profile, too: what a simulation without faults
    shows, and 30 % more for a specimen that is not yet right, is taken off. Channels share faults,
    so the median over channels counts. Faults that are too small for this start small.

    Args:
        crops: recorded, ``(crop, channel, slice, y, x)``.
        faultless: a simulated crop of about the same contrast and noise.
    """
    recorded = np.mean([_fault_sds(crop) ** 2 for crop in crops], axis=0)
    left = np.maximum(recorded - (_OWN * _fault_sds(faultless)) ** 2, 0)
    flicker, curtain, line = np.median(np.sqrt(left), axis=0)
    return {
        "flicker_sd": float(np.clip(flicker, 0.003, 0.03)),
        "curtain_sd": float(np.clip(curtain, 0.003, 0.03)),
        "line_grey": float(np.clip(line, 0.3, 10.0)),
    }


def noise_by_brightness(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Noise variance as a straight line of the grey value, per channel: intercept and slope.

    The mask of `noise_sd` in five classes of equal size of the local mean (3 x 3); the line is
    fitted to the classes' robust variances. The photon transfer of Janesick 2007 (doi
    10.1117/3.725073), from structured images.
    """
    intercepts, slopes = [], []
    for channel in images:
        bumps = noise_response(channel)
        size = channel.shape
        local = sum(
            channel[..., i : size[-2] - 2 + i, j : size[-1] - 2 + j]
            for i in range(3)
            for j in range(3)
        ) / 9.0  # fmt: skip
        borders = np.quantile(local, np.linspace(0, 1, 6))
        number = np.clip(np.searchsorted(borders, local) - 1, 0, 4)
        # Where many pixels are of one value, as without noise, some classes hold none.
        inside = [number == k for k in range(5) if np.any(number == k)]
        mean = np.array([local[each].mean() for each in inside])
        spread = np.array([np.median(np.abs(bumps[each])) for each in inside])
        variance = (spread / (6 * 0.6745)) ** 2
        slope, intercept = 0.0, float(variance.mean())
        if np.ptp(mean) > 0:
            slope, intercept = np.polyfit(mean, variance, 1)
        intercepts.append(intercept)
        slopes.append(slope)
    return np.asarray(intercepts), np.asarray(slopes)


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Circular cross-correlation of two mean-free image series, averaged over the series."""
    product = np.conj(np.fft.rfft2(a)) * np.fft.rfft2(b)
    return np.fft.irfft2(product.mean(0), s=a.shape[-2:])


def _whitened(images: np.ndarray) -> np.ndarray:
    out = images - images.mean((-2, -1), keepdims=True)
    return out / (out.std((-2, -1), keepdims=True) + 1e-6)


def half_width(correlation: np.ndarray) -> float:
    """Lag at which a correlation first falls below half of its first value, between lags by a
    straight line; the number of lags if it never does."""
    half = 0.5 * correlation[0]
    below = np.nonzero(correlation < half)[0]
    if len(below) == 0:
        return float(len(correlation))
    i = int(below[0])
    left, right = correlation[i - 1], correlation[i]
    return float(i - 1 + (left - half) / (left - right))


def guess_feature_nm(images: np.ndarray, pixel_nm: float) -> float:
    """Width at which the in-plane autocorrelation along x falls to half, in nm.

    Along x, where the beam's lean does not stretch features; the noise's share of the zero-lag
    value is left out by extrapolating from lags 1 and 2.
    """
    first = _whitened(images[0])
    corr = _correlation(first, first)[0]
    corr = corr[: len(corr) // 2]
    corr[0] = max(2 * corr[1] - corr[2], corr[1])
    return half_width(corr) * float(pixel_nm)


def bright_faces(images: np.ndarray) -> np.ndarray:
    """Where images ``(slice, y, x)`` are as bright as milled faces: True in the solid, roughly.

    A milled face has one grey value, the brightest peak of the histogram, and what lies deeper is
    darker: face is all that is brighter than the peak minus 2.5 standard deviations of its width.
    The width is where the bright side has fallen to half the peak; farther up bright edges may
    make a tail. Images are smoothed by a Gaussian of a pixel first. A peak is the highest value in
    a tenth of the range and at least 0.3 times as high as the highest.
    """
    from scipy.ndimage import gaussian_filter, maximum_filter1d, uniform_filter1d

    smooth = gaussian_filter(images.astype(np.float32), (0, 1, 1))
    low, high = np.quantile(smooth, (0.005, 0.995))
    counts, edges = np.histogram(smooth, bins=96, range=(low, max(high, low + 1e-6)))
    counts = uniform_filter1d(counts.astype(float), 5, mode="constant")
    peaks = (counts == maximum_filter1d(counts, 13)) & (counts > 0.3 * counts.max())
    last = int(np.nonzero(peaks)[0][-1])
    peak = edges[last : last + 2].mean()
    width = half_width(counts[last:]) * (edges[1] - edges[0]) / np.sqrt(2 * np.log(2))
    return smooth > peak - 2.5 * width


def guess_solid_fraction(images: np.ndarray) -> float:
    """Share of `bright_faces` in images ``(slice, y, x)``, within [0.1, 0.9].

    On 20 simulated stacks of textbook instruments (fractions 0.2 to 0.7, 1 and 2 kV) the guess was
    0.01 too high on average and wrong by 0.07 at worst; on 20 of instruments moved at random
    (experiments/fit_recovery.py) 0.035 and 0.19, where edges are far brighter than faces.
    """
    return float(np.clip(np.mean(bright_faces(images)), 0.1, 0.9))


def guess_tilt_deg(images: np.ndarray, pixel_nm: float, slice_nm: float) -> float:
    """Tilt of the beam from how dark pores move from slice to slice.

    What lies deep in a pore reappears in the next slice displaced by ``slice tan(tilt)`` along
    y. The cross-correlation of neighbouring slices, restricted to grey values below the median
    (pores), peaks there. Only a starting value for the fit: structure that continues straight
    down pulls the peak towards zero.
    """
    if images.shape[1] < 4:
        return 0.0
    low = images[0]
    dark = np.minimum(low, np.median(low))
    dark = _whitened(dark)
    reach = 2
    corr = _correlation(dark[:-reach], dark[reach:])[:, 0]
    y = len(corr)
    lags = np.fft.fftfreq(y, 1 / y)
    window = np.abs(lags) <= min(y // 3, 3 * reach * slice_nm / pixel_nm)
    order = np.argsort(lags[window])
    smooth = np.convolve(corr[window][order], np.ones(3) / 3, mode="same")
    lag = lags[window][order][int(np.argmax(smooth))]
    return float(np.rad2deg(np.arctan2(lag * pixel_nm, reach * slice_nm)))
