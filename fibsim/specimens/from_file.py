"""A specimen from a file: a segmented or simulated volume that someone else made."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fibsim.errors import InputError
from fibsim.specimens.specimen import Specimen, make_specimen

__all__ = ["phase_fractions_of", "solid_fraction_of", "specimen_from_file"]


def solid_fraction_of(values: np.ndarray, solid_value: float | None = None) -> np.ndarray:
    """Labels or grey fractions as solid fraction.

    Args:
        values: volume as stored.
        solid_value: the label of the solid; every other value is pore. If not given: floating
            values in [0, 1] are fractions; integers must be 0 and one other value, the solid.

    Raises:
        InputError: not finite, label absent, more than two labels, one value only, fractions
            outside [0, 1].
    """
    if values.dtype.kind not in "buif":
        raise InputError(f"volume has dtype {values.dtype}, expected numbers.")
    if values.dtype.kind == "f" and not np.all(np.isfinite(values)):
        raise InputError(
            "volume holds values that are not finite (NaN or infinity); replace them by pore or "
            "solid first."
        )
    if solid_value is not None:
        solid = values == solid_value
        if not solid.any():
            raise InputError(
                f"solid_value is {solid_value:g} but no voxel has it, values range from "
                f"{values.min():g} to {values.max():g}; name the label of the solid."
            )
        return solid.astype(np.float32)
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return values.astype(np.float32)
    middle = values[(values != low) & (values != high)]
    if middle.size:
        raise InputError(
            f"volume holds more than two values ({low:g}, {middle.flat[0]:g}, {high:g}, ...) and "
            "is no fraction between 0 and 1; segment it, scale it to [0, 1] as floating numbers, "
            "or name the label of the solid by solid_value."
        )
    if low == high or low != 0:
        raise InputError(
            f"volume holds the values {low:g} and {high:g}, expected 0 for pore and one other "
            "value for solid; name the label of the solid by solid_value."
        )
    return (values == high).astype(np.float32)


def phase_fractions_of(labels: np.ndarray, phases: int) -> np.ndarray:
    """One volume per phase, ``(phase, z, y, x)``, of labels 1, 2 ... ``phases``; 0 is open pore.

    Raises:
        InputError: a label is no whole number, or larger than the number of phases.
    """
    whole = labels.dtype.kind in "bui" or np.all(labels == np.round(labels))
    if not whole or labels.min() < 0 or labels.max() > phases:
        raise InputError(
            f"volume holds values from {labels.min():g} to {labels.max():g} but {phases} materials "
            f"were named; expected whole numbers: 0 for pores and 1 to {phases} for materials."
        )
    return (labels == np.arange(1, phases + 1)[:, None, None, None]).astype(np.float32)


def specimen_from_file(
    path: str | Path,
    voxel_nm: float | Sequence[float] | None = None,
    solid_value: float | None = None,
    *,
    phases: int | None = None,
    periodic: bool = False,
) -> Specimen:
    """Read a volume as `Specimen`.

    Args:
        path: TIFF file, ``(z, y, x)``.
        voxel_nm: voxel size (z, y, x) in nm, or one number; the file's own if not given.
        solid_value: label of the solid, see `solid_fraction_of`.
        phases: number of materials; the file holds their labels, see `phase_fractions_of`.
        periodic: whether opposite faces fit together.

    Raises:
        InputError: unreadable, not three-dimensional, empty, not finite, neither two labels nor
            fractions, or a voxel size that is neither given nor stated by the file.
    """
    from fibsim.io import read_volume, read_voxel_nm

    values = read_volume(path)
    if phases is None:
        solid = solid_fraction_of(values, solid_value)
    else:
        solid = phase_fractions_of(values, phases)
    if voxel_nm is None:
        voxel_nm = read_voxel_nm(path)
    if voxel_nm is None:
        raise InputError(
            f"{path} does not state its voxel size; give voxel_nm, (z, y, x) or one number, in nm."
        )
    return make_specimen(solid, voxel_nm=voxel_nm, periodic=periodic)
