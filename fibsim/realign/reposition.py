"""A stack with its slices put back: displacements undone, faces on an even grid of depths."""

import numpy as np
from jaxtyping import Float

from fibsim.errors import InputError
from fibsim.realign.estimate import MillingEstimate

__all__ = ["INTERPOLATIONS", "reposition"]

INTERPOLATIONS = ("nearest", "linear", "cubic")


def _undisplaced(channel: np.ndarray, shift_px: np.ndarray) -> np.ndarray:
    """Images ``(slice, y, x)`` moved back by cubic splines; edges hold the nearest pixel."""
    from scipy.ndimage import shift

    out = np.empty(channel.shape, np.float32)
    for k, image in enumerate(channel):
        # Whole pixels stay exact.
        order = 0 if np.array_equal(shift_px[k], np.rint(shift_px[k])) else 3
        out[k] = shift(image.astype(np.float32), -shift_px[k], order=order, mode="nearest")
    return out


def _resampled(channel: np.ndarray, z: np.ndarray, grid: np.ndarray, how: str) -> np.ndarray:
    """Images at depths z, interpolated at the depths of a grid between the first and the last."""
    if how == "cubic":
        from scipy.interpolate import PchipInterpolator

        return PchipInterpolator(z, channel, axis=0)(grid).astype(np.float32)
    above = np.clip(np.searchsorted(z, grid, side="right") - 1, 0, len(z) - 2)
    part = (grid - z[above]) / (z[above + 1] - z[above])
    part = np.clip(np.rint(part) if how == "nearest" else part, 0.0, 1.0)
    part = part.astype(np.float32)[:, None, None]
    return (1 - part) * channel[above] + part * channel[above + 1]


def reposition(
    images: Float[np.ndarray, "channel slice y x"],
    estimate: MillingEstimate,
    *,
    interpolation: str = "linear",
) -> Float[np.ndarray, "channel slice y x"]:
    """Undo the displacements and resample the faces to depths ``k x slice_nm``.

    Displacements are undone first, by cubic splines. Then every pixel is interpolated between the
    two faces around a depth, ``"linear"`` or ``"cubic"`` (piecewise, monotone: Fritsch & Butland
    1984, doi 10.1137/0905021), or taken from the nearer one. Nearest keeps the noise as it is;
    the others average it, differently from slice to slice. What shines through from below is
    interpolated with the face before it.

    Args:
        images: the stack that the estimate was made from.
        estimate: result of `estimate_milling`.
        interpolation: one of `INTERPOLATIONS`.

    Returns:
        As many slices, in the images' own type.

    Raises:
        InputError: the estimate is of another stack, or the interpolation is unknown.
    """
    images = np.asarray(images)
    expected = estimate.channel_drift_nm.shape[:2]
    if images.ndim != 4 or images.shape[:2] != expected:
        raise InputError(
            f"images have shape {images.shape}, but the estimate is of {expected[0]} channels and "
            f"{expected[1]} slices; give the stack that it was made from."
        )
    if interpolation not in INTERPOLATIONS:
        raise InputError(
            f"interpolation is {interpolation!r}, expected one of {', '.join(INTERPOLATIONS)}."
        )
    z = estimate.position_nm
    grid = np.clip(estimate.slice_nm * np.arange(len(z)), z[0], z[-1])
    out = np.empty_like(images)
    for c, channel in enumerate(images):
        shift_px = (estimate.drift_nm + estimate.channel_drift_nm[c]) / estimate.pixel_nm
        moved = _resampled(_undisplaced(channel, shift_px), z, grid, interpolation)
        if np.issubdtype(images.dtype, np.integer):
            limits = np.iinfo(images.dtype)
            moved = np.clip(np.rint(moved), limits.min, limits.max)
        out[c] = moved
    return out
