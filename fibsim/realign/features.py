"""What is compared of an image: local contrast of its brighter half, at its features' size."""

import numpy as np
from jaxtyping import Float

__all__ = ["bin_pixels", "binning_for", "bright_contrast", "local_contrast"]

_BLUR_PX = 0.8
# Contrast is relative to a neighbourhood of this size, and to this part of the image's s.d.
_NEAR_PX, _LEAST_SD = 3.0, 0.2
# Features are shown by this many pixels (half width at half maximum of the autocorrelation).
_FEATURE_PX = 3.0


def binning_for(feature_px: float) -> int:
    """How many pixels to average, along y and x, for features of a half width."""
    return max(int(feature_px / _FEATURE_PX), 1)


def bin_pixels(images: Float[np.ndarray, "... y x"], factor: int) -> Float[np.ndarray, "... v u"]:
    """Means over ``factor x factor`` pixels; rows and columns that are left over are cut off."""
    if factor == 1:
        return images
    *front, y, x = images.shape
    v, u = y // factor, x // factor
    cut = images[..., : v * factor, : u * factor]
    return cut.reshape(*front, v, factor, u, factor).mean((-3, -1))


def local_contrast(images: Float[np.ndarray, "slice y x"]) -> Float[np.ndarray, "slice y x"]:
    """``(I - mean) / sqrt(variance + c^2)``, mean and variance over a Gaussian of 3 pixels.

    Slow shades, curtains and the coarse structure, of which an image holds few samples, lose
    their weight. c is a fifth of the image's standard deviation; I is smoothed over 0.8 pixels.
    """
    from scipy.ndimage import gaussian_filter

    def near(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, (0, _NEAR_PX, _NEAR_PX), mode="nearest")

    smooth = gaussian_filter(images.astype(np.float32), (0, _BLUR_PX, _BLUR_PX), mode="nearest")
    deviation = smooth - near(smooth)
    least = _LEAST_SD * smooth.std((1, 2), keepdims=True)
    return deviation / np.sqrt(near(deviation**2) + least**2)


def bright_contrast(images: Float[np.ndarray, "slice y x"]) -> Float[np.ndarray, "slice y x"]:
    """Local contrast with all that is darker than the median set to it.

    Dark is what lies deep in pores. It moves with the lean of the beam and stays in view over
    many slices; the face, which each slice renews, is bright.
    """
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(images.astype(np.float32), (0, _BLUR_PX, _BLUR_PX), mode="nearest")
    return local_contrast(np.maximum(smooth, np.median(smooth, axis=(1, 2), keepdims=True)))
