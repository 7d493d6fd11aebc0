"""The specimen: a volume of solid fraction, or of several phases, with its voxel size."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fibsim.errors import InputError

__all__ = ["Specimen", "make_specimen", "phase_fractions", "porosity", "voxel_size"]

# Rounding in a file or a resampling may leave [0, 1] by this much.
_TOLERANCE = 1e-3
_MOST_PHASES = 8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Specimen:
    """A virtual or measured structure; build it with `make_specimen`, which checks it.

    Attributes:
        solid: solid fraction of every voxel in [0, 1], 1 = solid; ``(z, y, x)``. Of a specimen
            of several materials the volume fraction of each; ``(phase, z, y, x)``, what they
            leave is open pore.
        voxel_nm: voxel size (z, y, x), static.
        periodic: whether opposite faces fit together, in depth and laterally; static.
    """

    solid: Float[Array, "*phase z y x"]
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
        solid: solid fraction, ``(z, y, x)``, or fraction of each phase, ``(phase, z, y, x)``;
            integers and booleans become float32.
        voxel_nm: voxel size (z, y, x), or one number for cubes.
        periodic: whether opposite faces fit together.

    Raises:
        InputError: neither three nor four axes, more than 8 phases, empty, not finite, outside
            [0, 1], phases that add up to more than 1, bad voxel size.
    """
    voxel_nm = voxel_size(voxel_nm)
    values = np.asarray(solid)
    if values.ndim not in (3, 4) or values.size == 0:
        raise InputError(
            f"specimen has shape {values.shape}, expected three axes (z, y, x) none of which "
            "is empty, or four, (phase, z, y, x)."
        )
    if values.ndim == 4 and values.shape[0] > _MOST_PHASES:
        raise InputError(
            f"specimen has {values.shape[0]} phases, at most {_MOST_PHASES} are possible; the "
            "first of four axes is the phase."
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
    if values.ndim == 4 and float(values.sum(0, dtype=float).max()) > 1 + _TOLERANCE:
        raise InputError(
            f"the phases of a voxel add up to {float(values.sum(0, dtype=float).max()):g}, "
            "expected at most 1; give volume fractions."
        )
    if values.dtype.kind != "f":
        values = values.astype(np.float32)
    solid = jnp.clip(jnp.asarray(values), 0, 1)
    return Specimen(solid=solid, voxel_nm=voxel_nm, periodic=bool(periodic))


def porosity(specimen: Specimen) -> Float[Array, ""]:
    """Open pore volume over total volume, ``1 - mean(solid)``, all phases being solid."""
    phases = specimen.solid if specimen.solid.ndim == 4 else specimen.solid[None]
    return 1 - jnp.mean(jnp.sum(phases, 0))


def phase_fractions(specimen: Specimen, count: int) -> Float[Array, "phase z y x"]:
    """Volume fraction of each of ``count`` phases.

    A specimen given as one solid fraction is all there is to one phase; of two phases the second
    fills its pores.

    Raises:
        InputError: the specimen has another number of phases.
    """
    solid = specimen.solid
    found = solid.shape[0] if solid.ndim == 4 else 1
    if solid.ndim == 3 and count == 2:
        return jnp.stack([solid, 1 - solid])
    if found != count:
        raise InputError(
            f"the specimen has {found} phases but the instrument names {count} materials; name "
            "one for each (the pores between them are open), or one that fills the pores of one."
        )
    return solid if solid.ndim == 4 else solid[None]
