"""The specimen: a volume of solid fraction with its voxel size."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fibsim.errors import InputError

__all__ = ["Specimen", "make_specimen", "porosity", "voxel_size"]

# Rounding in a file or a resampling may leave [0, 1] by this much.
_TOLERANCE = 1e-3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Specimen:
    """A virtual or measured structure; build it with `make_specimen`, which checks it.

    Attributes:
        solid: solid fraction of every voxel in [0, 1], 1 = solid; ``(z, y, x)``.
        voxel_nm: voxel size (z, y, x), static.
        periodic: whether opposite faces fit together, in depth and laterally; static.
    """

    solid: Float[Array, "z y x"]
    voxel_nm: tuple[float, float, float] = dataclasses.field(metadata=dict(static=True))
    periodic: bool = dataclasses.field(default=False, metadata=dict(static=True))


def voxel_size(voxel_nm: float | Sequence[float]) -> tuple[float, float, float]:
    """Voxel size as three floats (z, y, x); one number means a cube.

    Raises:
        InputError: not one or three positive finite numbers.
    """
    try:
        sizes = np.broadcast_to(np.asarray(voxel_nm, dtype=float), (3,))
    except (ValueError, TypeError):
        sizes = np.zeros(3)
    if not (np.all(np.isfinite(sizes)) and np.all(sizes > 0)):
        raise InputError(
            f"voxel_nm is {voxel_nm!r}, expected one positive number or three, (z, y, x), in nm."
        )
    return tuple(float(s) for s in sizes)


def make_specimen(solid, *, voxel_nm: float | Sequence[float], periodic: bool = False) -> Specimen:
    """A checked `Specimen` of concrete values.

    Args:
        solid: solid fraction, ``(z, y, x)``; integers and booleans become float32.
        voxel_nm: voxel size (z, y, x), or one number for cubes.
        periodic: whether opposite faces fit together.

    Raises:
        InputError: not three-dimensional, empty, not finite, outside [0, 1], bad voxel size.
    """
    voxel_nm = voxel_size(voxel_nm)
    values = np.asarray(solid)
    if values.ndim != 3 or values.size == 0:
        raise InputError(
            f"specimen has shape {values.shape}, expected three axes (z, y, x) none of which "
            "is empty."
        )
    if values.dtype.kind not in "buif":
        raise InputError(f"specimen has dtype {values.dtype}, expected real numbers.")
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError("specimen holds values that are not finite; replace them by 0 or 1.")
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise InputError(
            f"specimen holds values from {low:g} to {high:g}, expected solid fractions in "
            "[0, 1]; scale them first."
        )
    if values.dtype.kind != "f":
        values = values.astype(np.float32)
    solid = jnp.clip(jnp.asarray(values), 0, 1)
    return Specimen(solid=solid, voxel_nm=voxel_nm, periodic=bool(periodic))


def porosity(specimen: Specimen) -> Float[Array, ""]:
    """Pore volume over total volume, ``1 - mean(solid)``."""
    return 1 - jnp.mean(specimen.solid)
