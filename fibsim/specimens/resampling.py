"""A specimen on another voxel grid, with the same mean."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from fibsim.errors import InputError
from fibsim.specimens.specimen import Specimen, voxel_size

__all__ = ["resample"]

# A remainder below this share of a voxel is rounding, not a misfit.
_TOLERANCE = 1e-3


def _box_integral(edges: np.ndarray, size: int) -> np.ndarray:
    """Integral from 0 to each edge of the hat of each voxel: piecewise constant values."""
    return np.clip(edges[:, None] - np.arange(size), 0, 1)


def _linear_integral(edges: np.ndarray, size: int, periodic: bool) -> np.ndarray:
    """The same for linear interpolation between voxel centres, wrapped or held at the ends."""

    def integral(t: np.ndarray) -> np.ndarray:
        # of the hat function max(1 - |t|, 0) from -1 to t
        t = np.clip(t, -1, 1)
        return np.where(t < 0, (1 + t) ** 2 / 2, 1 - (1 - t) ** 2 / 2)

    centres = np.arange(-1, size + 1) + 0.5
    padded = integral(edges[:, None] - centres) - integral(0.0 - centres)
    inside = padded[:, 1:-1].copy()
    ends = (size - 1, 0) if periodic else (0, size - 1)
    inside[:, ends[0]] += padded[:, 0]
    inside[:, ends[1]] += padded[:, -1]
    return inside


def _weights(size: int, new: int, ratio: float, periodic: bool) -> np.ndarray:
    """Matrix (new, size) that averages the old values over the new voxels."""
    edges = np.arange(new + 1) * ratio
    coarser = ratio >= 1 - _TOLERANCE
    integral = _box_integral(edges, size) if coarser else _linear_integral(edges, size, periodic)
    return np.diff(integral, axis=0) / ratio


def resample(specimen: Specimen, voxel_nm: float | Sequence[float]) -> Specimen:
    """The specimen on voxels of another size; differentiable in the solid fraction.

    Each axis by itself. Towards larger voxels: overlap-weighted box average, for integer factors
    the plain mean of blocks. Towards smaller voxels: the mean of the linear interpolant over each
    new voxel. Both keep the mean exactly. Where the extent is no multiple of the new voxel the
    remainder at the far end is cut off, and the result is no longer periodic.

    Raises:
        InputError: bad voxel size, or voxels larger than the specimen.
    """
    voxel_nm = voxel_size(voxel_nm)
    solid, periodic = specimen.solid, specimen.periodic
    first = solid.ndim - 3  # after the phases, if there are several
    for number, (old_nm, new_nm) in enumerate(zip(specimen.voxel_nm, voxel_nm, strict=True)):
        axis = first + number
        size, ratio = solid.shape[axis], new_nm / old_nm
        new = int(np.floor(size / ratio + _TOLERANCE))
        if new < 1:
            raise InputError(
                f"voxel_nm is {new_nm:g} along axis {number} but the specimen measures only "
                f"{size * old_nm:g} nm there; ask for smaller voxels."
            )
        if abs(new * ratio - size) > _TOLERANCE * ratio:
            periodic = False
        else:
            ratio = size / new
        if new == size:
            continue
        weights = jnp.asarray(_weights(size, new, ratio, specimen.periodic), solid.dtype)
        solid = jnp.moveaxis(jnp.tensordot(weights, solid, axes=(1, axis)), 0, axis)
    # Rounding of the weights may step over 1 by one part in ten million.
    return Specimen(solid=jnp.clip(solid, 0, 1), voxel_nm=voxel_nm, periodic=periodic)
