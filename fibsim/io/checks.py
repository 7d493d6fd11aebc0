"""Checks on shapes and grey values before anything is computed from them."""

from collections.abc import Sequence

import numpy as np

from fibsim.errors import InputError, counted
from fibsim.io.layout import ChannelFiles

__all__ = ["burnt_in_rows", "check_channel", "check_distinct", "check_same_shape"]


def check_same_shape(channels: Sequence[ChannelFiles]) -> None:
    """Every channel must show the same slices with the same pixels.

    Raises:
        InputError: shapes differ.
    """
    first = channels[0]
    for other in channels[1:]:
        if other.shape != first.shape:
            raise InputError(
                f"{other.title} holds {_text(other.shape)}, but {first.title} holds "
                f"{_text(first.shape)}, expected the same for every channel; align and crop the "
                "channels to one size, or list those to use under channels in stack.yaml."
            )


def _text(shape: tuple[int, int, int]) -> str:
    return f"{counted(shape[0], 'slice')} of {shape[2]} x {shape[1]} pixels"


def check_channel(images: np.ndarray, title: str) -> list[str]:
    """Check the grey values of one channel.

    Args:
        images: (slice, y, x).
        title: name for messages.

    Returns:
        Warnings.

    Raises:
        InputError: not numbers, not finite, or the same everywhere.
    """
    if images.dtype.kind not in "uif":
        kind = "black and white (bool)" if images.dtype.kind == "b" else str(images.dtype)
        raise InputError(
            f"{title} is stored as {kind}, expected grey values as integers or floating numbers; "
            "give the images as recorded."
        )
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        bad = int(np.count_nonzero(~np.isfinite(images)))
        where = int(np.argmax(~np.isfinite(images).all(axis=(1, 2))))
        raise InputError(
            f"{title} holds {counted(bad, 'value')} not finite (the first in slice {where}), "
            "expected numbers everywhere; crop or fill the part without data."
        )
    low, high = images.min(axis=(1, 2)), images.max(axis=(1, 2))
    if low.min() == high.max():
        raise InputError(
            f"{title} has the grey value {low[0]} everywhere, expected an image; check that the "
            "detector was on and the right file was given."
        )
    warnings = []
    constant = np.flatnonzero(low == high)
    if constant.size:
        shown = ", ".join(str(i) for i in constant[:8]) + (" ..." if constant.size > 8 else "")
        warnings.append(
            f"{title} has one grey value all over in {constant.size} of {len(images)} slices "
            f"({shown}); remove them if they are empty."
        )
    extremes = (low.min(), high.max())
    if all(np.isin(image, extremes).all() for image in images):
        warnings.append(
            f"{title} holds the two values {extremes[0]} and {extremes[1]} only, like labels "
            "rather than an image; check that the right file was given."
        )
    return warnings


def check_distinct(images: np.ndarray, channels: Sequence[ChannelFiles]) -> None:
    """No two channels may be the same picture.

    Raises:
        InputError: two are equal in every pixel.
    """
    for i in range(len(images)):
        for j in range(i):
            if np.array_equal(images[i], images[j]):
                raise InputError(
                    f"{channels[j].title} and {channels[i].title} are equal in every pixel, "
                    "expected images at different voltages or detectors; one is a copy, put the "
                    "right file in its place or remove it."
                )


def burnt_in_rows(images: np.ndarray) -> int:
    """Rows at the bottom that look like a data bar written over the images; 0 if none do.

    A bar begins with a frame line, one value across the whole width, and nearly every row below
    is mostly of one background value with text on it; it covers 2 to 25 % of the height, in the
    first slice as in the last.

    Args:
        images: (slice, y, x).
    """
    return min(_bar_rows(images[0]), _bar_rows(images[-1]))


def _bar_rows(image: np.ndarray) -> int:
    height = len(image)
    first = height - height // 4
    share, value = [], []
    for row in image[first:]:
        values, counts = np.unique(row, return_counts=True)
        share.append(counts.max() / row.size)
        value.append(values[counts.argmax()])
    fill = np.array(share)
    frames = np.flatnonzero(fill >= 0.98)
    if not frames.size:
        return 0
    top = int(frames[0])
    bar = fill[top:]
    background = np.unique(np.array(value[top:])[bar >= 0.5], return_counts=True)[1].max()
    looks_so = (
        len(bar) >= 0.02 * height
        and top > 0
        and fill[top - 1] < 0.5
        and np.mean(bar >= 0.5) >= 0.9
        and background >= 0.8 * len(bar)
        and np.any(bar < 0.97)
    )
    return len(bar) if looks_so else 0
