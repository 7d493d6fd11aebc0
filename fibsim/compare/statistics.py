"""Named statistics of patches: what a classifier may have seen, in words.

Each is one number per patch of ``(channel, slice, y, x)`` in grey values of 0 to 255, taken in
every channel or in every pair of consecutive channels. Differences and correlations are those of
neighbouring pixels, in the slice or from slice to slice.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.ndimage import minimum_filter, uniform_filter

from fibsim.fit.first_guess import noise_response, noise_sd

__all__ = ["Statistic", "patch_statistics"]

_LAGS = (1, 2, 4, 8)


@dataclasses.dataclass(frozen=True)
class Statistic:
    """One statistic of every patch.

    Attributes:
        name: with the channels it is of, for example ``"1kV: noise"``.
        channels: their numbers.
        value: ``(patch,)``; nan where it has no meaning, as contrast of the rim without solid.
        ratio: whether a value makes sense relative to another (it is positive and zero means
            none), so that a difference can be told in per cent.
        unit: ``"grey"``, ``"px"``, ``"%"`` or empty.
    """

    name: str
    channels: tuple[int, ...]
    value: Float[np.ndarray, " patch"]
    ratio: bool
    unit: str


Grey = Float[np.ndarray, "patch slice y x"]


def _rms(difference: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(difference**2, axis=(1, 2, 3)))


def _correlation(a: Grey, b: Grey) -> np.ndarray:
    """Correlation coefficient of two series of values per patch."""
    a = a - a.mean((1, 2, 3), keepdims=True)
    b = b - b.mean((1, 2, 3), keepdims=True)
    norm = np.sqrt(np.mean(a**2, (1, 2, 3)) * np.mean(b**2, (1, 2, 3)))
    return np.mean(a * b, (1, 2, 3)) / np.maximum(norm, 1e-6)


def _shape(grey: Grey) -> tuple[np.ndarray, np.ndarray]:
    """Skewness and kurtosis."""
    centred = grey - grey.mean((1, 2, 3), keepdims=True)
    square = centred * centred
    variance = np.maximum(square.mean((1, 2, 3)), 1e-9)
    skewness = (square * centred).mean((1, 2, 3)) / variance**1.5
    return skewness, (square * square).mean((1, 2, 3)) / variance**2


def _noise_where(grey: Grey, inside: np.ndarray) -> np.ndarray:
    """Noise of the pixels whose 3 x 3 neighbours are all inside a mask (Immerkaer 1996, doi
    10.1006/cviu.1996.0060: by the mean); nan if there are none.
    """
    whole = minimum_filter(inside, (1, 1, 3, 3))[:, :, 1:-1, 1:-1]
    number = whole.sum((1, 2, 3))
    total = np.where(whole, np.abs(noise_response(grey)), 0).sum((1, 2, 3))
    return np.where(number > 0, total / np.maximum(number, 1), np.nan) * np.sqrt(np.pi / 2) / 6


def _rim(grey: Grey, bright: np.ndarray) -> np.ndarray:
    """How much brighter within two pixels of a pore than inside the solid."""
    inside = minimum_filter(bright, (1, 1, 5, 5))
    rim = bright & ~inside
    counts = np.stack([rim.sum((1, 2, 3)), inside.sum((1, 2, 3))])
    sums = np.stack([np.where(m, grey, 0).sum((1, 2, 3)) for m in (rim, inside)])
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return means[0] - means[1]


def _stripes(grey: Grey, axis: int) -> np.ndarray:
    """Median difference of neighbouring lines' means, ``axis`` along the lines."""
    return np.median(np.abs(np.diff(grey.mean(axis), axis=-1)), axis=(1, 2))


def _of_channel(grey: Grey) -> list[tuple[str, np.ndarray, bool, str]]:
    """(name, values, ratio, unit) of the statistics of one channel."""
    axes = (1, 2, 3)
    skewness, kurtosis = _shape(grey)
    dark, median, bright = np.quantile(grey, [0.05, 0.5, 0.95], axis=axes)
    # Solid and pore, as far as a threshold on the blurred image knows.
    solid = uniform_filter(grey, (0, 0, 3, 3)) > ((dark + bright) / 2)[:, None, None, None]
    found = [
        ("mean", grey.mean(axes), False, "grey"),
        ("contrast (s.d.)", grey.std(axes), True, "grey"),
        ("skewness", skewness, False, ""),
        ("kurtosis", kurtosis, True, ""),
        ("dark level (5 %)", dark, False, "grey"),
        ("median", median, False, "grey"),
        ("bright level (95 %)", bright, False, "grey"),
        ("share of black", 100 * np.mean(grey <= 0, axes), False, "%"),
        ("share of white", 100 * np.mean(grey >= 255, axes), False, "%"),
        ("noise", noise_sd(grey), True, "grey"),
        ("noise of dark parts", _noise_where(grey, ~solid), True, "grey"),
        ("noise of bright parts", _noise_where(grey, solid), True, "grey"),
        ("step in x", _rms(np.diff(grey, axis=3)), True, "grey"),
        ("step in y", _rms(np.diff(grey, axis=2)), True, "grey"),
        ("brightness of rims", _rim(grey, solid), False, "grey"),
        ("columns (curtains)", _stripes(grey, 2), True, "grey"),
        ("rows (line noise)", _stripes(grey, 3), True, "grey"),
    ]
    for lag in (lag for lag in _LAGS if lag < grey.shape[3] // 2):
        along_x = _correlation(grey[..., lag:], grey[..., :-lag])
        along_y = _correlation(grey[:, :, lag:], grey[:, :, :-lag])
        found += [
            (f"correlation over {lag} px in x", along_x, False, ""),
            (f"correlation over {lag} px in y", along_y, False, ""),
        ]
    if grey.shape[1] > 1:
        means = grey.mean((2, 3))
        found += [
            ("step between slices", _rms(np.diff(grey, axis=1)), True, "grey"),
            ("correlation between slices", _correlation(grey[:, 1:], grey[:, :-1]), False, ""),
            ("flicker between slices", np.abs(np.diff(means)).mean(1), True, "grey"),
            ("climb in y between slices", _climb(grey), False, "px"),
        ]
    return found


def _climb(grey: Grey, reach: int = 4) -> np.ndarray:
    """Shift in y, in pixels, under which the next slice resembles a slice most.

    Deep structure moves so under a tilted beam. The peak is refined by a parabola.
    """
    reach = min(reach, grey.shape[2] // 4)
    shifts = np.arange(-reach, reach + 1)
    length = grey.shape[2] - 2 * reach
    here = grey[:, :-1, reach : reach + length]
    found = np.stack(
        [_correlation(here, grey[:, 1:, reach + s : reach + s + length]) for s in shifts], axis=1
    )
    peak = np.clip(found.argmax(1), 1, len(shifts) - 2)
    left, top, right = (found[np.arange(len(found)), peak + i] for i in (-1, 0, 1))
    bend = np.minimum(left - 2 * top + right, -1e-6)
    return shifts[peak] + np.clip(0.5 * (left - right) / bend, -1, 1)


def _of_pair(a: Grey, b: Grey) -> list[tuple[str, np.ndarray, bool, str]]:
    """The same of two channels."""
    fine = [one - uniform_filter(one, (0, 0, 5, 5)) for one in (a, b)]
    return [
        ("difference of means", (b - a).mean((1, 2, 3)), False, "grey"),
        ("contrast of the difference (s.d.)", (b - a).std((1, 2, 3)), True, "grey"),
        ("correlation", _correlation(a, b), False, ""),
        ("correlation of fine detail", _correlation(*fine), False, ""),
    ]


def patch_statistics(
    grey: Float[np.ndarray, "patch channel slice y x"], names: Sequence[str]
) -> list[Statistic]:
    """All statistics of all channels and of consecutive channels.

    Args:
        names: of the channels.
    """
    grey = np.asarray(grey, np.float32)
    found = []
    for c, name in enumerate(names):
        found += [(f"{name}: {what}", (c,), *rest) for what, *rest in _of_channel(grey[:, c])]
    for c in range(1, len(names)):
        pair = _of_pair(grey[:, c - 1], grey[:, c])
        both = f"{names[c - 1]} and {names[c]}"
        found += [(f"{both}: {what}", (c - 1, c), *rest) for what, *rest in pair]
    return [Statistic(*one) for one in found]
