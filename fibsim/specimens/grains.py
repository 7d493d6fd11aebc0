"""What Boolean models of any grain share: periodic offsets, the deepest grain, the fraction.

For each voxel only the grain that covers it deepest is kept. The search for it has no gradient
and needs none: the distance to that grain is computed anew, differentiably. Depth is compared by
``(d^2 - r^2) / 2r = (d - r) + (d - r)^2 / 2r``, which is the signed distance to first order near
the surface, where alone it matters, and takes no square root: half of the time.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fibsim.errors import InputError
from fibsim.specimens.levelling import cut_fraction, solve_level

__all__ = [
    "check_grains",
    "cover",
    "deepest_grain",
    "grow",
    "log_normal",
    "offsets_nm",
    "side_lengths",
]

# Grains that one pass over the volume looks at.
_CHUNK = 8
_FEWEST_GRAINS = 3


def side_lengths(
    box: tuple[int, int, int], voxel_nm: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Sides of a box in nm."""
    return tuple(n * h for n, h in zip(box, voxel_nm, strict=True))


def offsets_nm(
    centre: Sequence[Array],
    shape: tuple[int, int, int],
    voxel_nm: tuple[float, float, float],
    sides_nm: tuple[float, float, float],
) -> list[Array]:
    """Components of the vector from a point (or one for each voxel) to every voxel centre.

    The nearest periodic image counts; components broadcast to ``shape``.
    """
    components = []
    for axis in range(3):
        size = [shape[axis] if a == axis else 1 for a in range(3)]
        line = ((jnp.arange(shape[axis]) + 0.5) * voxel_nm[axis]).reshape(size)
        offset = line.astype(centre[axis].dtype) - centre[axis]
        side = sides_nm[axis]
        components.append(offset - side * jnp.round(offset / side))
    return components


def deepest_grain(
    height: Callable[[Array], Array],
    active: Float[Array, ""],
    num: int,
    shape: tuple[int, int, int],
    dtype,
) -> Int[Array, "z y x"]:
    """Index of the grain with the least ``height`` at every voxel.

    Args:
        height: index -> (d^2 - r^2) / 2r on the whole grid, free of gradients.
        active: grains 0 to ``active`` are looked at; the time grows with it, not with ``num``.
        num: number of grains that exist.
    """

    def look(step: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
        least, which = best
        for i in range(_CHUNK):
            index = jnp.minimum(step * _CHUNK + i, num - 1)
            value = height(index)
            which = jnp.where(value < least, index, which)
            least = jnp.minimum(value, least)
        return least, which

    start = (jnp.full(shape, jnp.inf, dtype), jnp.zeros(shape, jnp.int32))
    active = jax.lax.stop_gradient(jnp.clip(active, 1, num))
    steps = jnp.ceil(active / _CHUNK).astype(jnp.int32)
    return jax.lax.fori_loop(0, steps, look, start)[1]


def log_normal(
    key: Array, mean: Float[Array, ""], relative_sd: Float[Array, ""], num: int, dtype
) -> Float[Array, " num"]:
    """Log-normal values of given mean and relative standard deviation (may be 0)."""
    sigma2 = jnp.log1p(jnp.asarray(relative_sd, dtype) ** 2)
    # The root has no slope at 0.
    sigma = jnp.where(sigma2 > 0, jnp.sqrt(jnp.where(sigma2 > 0, sigma2, 1)), 0)
    return mean * jnp.exp(sigma * jax.random.normal(key, (num,), dtype) - sigma2 / 2)


def grow(radii_nm: Float[Array, " num"], active: Float[Array, ""]) -> Float[Array, " num"]:
    """Radii of a number of grains that is no integer.

    The last grain grows from nothing to its radius as the fractional part goes from 0 to 1, so
    that the structure is a continuous function of their number.
    """
    share = jnp.clip(active - jnp.arange(len(radii_nm)), 0, 1).astype(radii_nm.dtype)
    # Grains not in use keep a radius too small to see, because nothing has no inverse.
    return radii_nm * jnp.maximum(share, 1e-6)


def _covered(excess_nm: Array, fields: tuple[Array, Array]) -> Array:
    distance, spread = fields
    return cut_fraction(excess_nm - distance, spread)


def _uncovered(level: Array, fields: tuple[Array, Array]) -> Array:
    return 1 - _covered(-level, fields)


def cover(
    vector_nm: Sequence[Float[Array, "z y x"]],
    radius_nm: Float[Array, "z y x"],
    voxel_nm: tuple[float, float, float],
    solid_fraction: Float[Array, ""],
    *,
    invert: bool,
) -> Float[Array, "z y x"]:
    """Solid fraction, once the length that meets ``solid_fraction`` is added to all radii.

    Args:
        vector_nm: components (z, y, x) of the vector from the deepest grain's centre or axis.
        radius_nm: that grain's radius.
        invert: True where the grains are pores.
    """
    # On a centre any direction will do, but the root needs a slope.
    distance = jnp.sqrt(sum(c * c for c in vector_nm) + 1e-6)
    spread2 = sum((c * h) ** 2 for c, h in zip(vector_nm, voxel_nm, strict=True)) / distance**2
    spread = jnp.sqrt(spread2 / 12 + (1e-3 * min(voxel_nm)) ** 2)
    fields = (distance - radius_nm, spread)
    # All covered when the farthest voxel is reached, none when the largest grain has shrunk away.
    bracket = jnp.max(distance), jnp.max(jnp.abs(radius_nm))
    solid_at, high, low = _covered, bracket[0] + bracket[1], -bracket[1]
    if invert:
        solid_at, high, low = _uncovered, -low, -high
    return solve_level(solid_at, fields, fraction=solid_fraction, low=low, high=high)


def check_grains(
    name: str,
    *,
    needed: float,
    num: int,
    radius_nm: float,
    largest_nm: float,
    sides_nm: tuple[float, float, float],
    voxel_nm: tuple[float, float, float],
) -> None:
    """Reject radii outside [a voxel, ``largest_nm``] and too few or too many grains.

    Raises:
        InputError: as said.
    """
    if radius_nm < max(voxel_nm):
        raise InputError(
            f"radius_nm is {radius_nm:g}, less than a voxel of {max(voxel_nm):g} nm; use smaller "
            "voxels or larger radii."
        )
    sides = " x ".join(f"{s:g}" for s in sides_nm)
    if radius_nm > largest_nm:
        raise InputError(
            f"radius_nm is {radius_nm:g}, expected at most {largest_nm:g} in {sides} nm; use a "
            "larger specimen or smaller radii."
        )
    if needed < _FEWEST_GRAINS:
        raise InputError(
            f"only {needed:.2g} {name} of radius {radius_nm:g} nm make up the fraction asked for "
            f"in {sides} nm, expected at least {_FEWEST_GRAINS}; use a larger specimen or smaller "
            "radii."
        )
    if needed > num:
        raise InputError(
            f"{needed:.0f} {name} are needed but num is {num}; raise num, or use a smaller "
            "specimen or larger radii."
        )
