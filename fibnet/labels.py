"""Label and probability volumes of any origin as solid and pore."""

from pathlib import Path

import numpy as np

from fibsim import io
from fibsim.errors import InputError

__all__ = ["read_label", "solid_of"]


def solid_of(volume: np.ndarray, name: str) -> np.ndarray:
    """Where a label is not zero, or a probability above one half.

    Raises:
        InputError: integers of more than one value besides 0, or floating values that are no
            probabilities.
    """
    low, high = volume.min(), volume.max()
    if np.issubdtype(volume.dtype, np.floating):
        if not (low >= 0 and high <= 1):
            raise InputError(
                f"{name} holds values from {low:g} to {high:g}, expected probabilities from 0 to "
                "1; segment it first (fibnet segment), or save labels as integers."
            )
        return volume > 0.5
    solid = volume > 0
    if low < 0 or not np.all(volume[solid] == high):
        raise InputError(
            f"{name} holds more than two values, from {low} to {high}, expected 0 for pore and one "
            "other value for solid; measure the phases one by one."
        )
    return solid


def read_label(path: str | Path) -> np.ndarray:
    """`solid_of` a file.

    Raises:
        InputError: the file cannot be read, or as `solid_of`.
    """
    return solid_of(io.read_volume(path), str(path))
