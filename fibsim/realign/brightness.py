"""Flicker: how bright every slice is beside its neighbours."""

import numpy as np
from jaxtyping import Float

__all__ = ["relative_brightness"]

# What is compared is the mean of the brightest part of an image, above the darkest of the stack.
_BRIGHT, _DARK = 0.75, 0.01
_TREND_SLICES = 15


def relative_brightness(
    images: Float[np.ndarray, "channel slice y x"],
) -> Float[np.ndarray, "channel slice"]:
    """Factor on the signal of every slice against the smooth trend of its channel.

    ``(bright_k - dark) / trend_k``: bright is the mean over the brightest quarter of a slice,
    mostly milled face, of which every slice has much; dark the first percentile of the channel,
    smoothed over 3 x 3 pixels; the trend a quadratic through 15 slices (Savitzky & Golay 1964).
    Content that varies from slice to slice enters as error.
    """
    from scipy.ndimage import uniform_filter
    from scipy.signal import savgol_filter

    slices = images.shape[1]
    out = np.empty(images.shape[:2])
    for c, channel in enumerate(images):
        dark, bright = np.empty(slices), np.empty(slices)
        for k, image in enumerate(channel):
            smooth = uniform_filter(image.astype(np.float32), 3)
            dark[k] = np.quantile(smooth, _DARK)
            bright[k] = smooth[smooth >= np.quantile(smooth, _BRIGHT)].mean()
        level = np.log(np.maximum(bright - np.median(dark), 1e-6 * np.abs(bright).max() + 1e-12))
        width = min(_TREND_SLICES, slices - 1 + slices % 2)
        trend = savgol_filter(level, width, min(2, width - 1), mode="interp")
        out[c] = np.exp(level - trend)
    return out
