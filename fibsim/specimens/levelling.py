"""From a smooth field to solid: partial volume of cut voxels, and the level of a given fraction."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = [
    "central_differences",
    "concrete",
    "cut_fraction",
    "fft_size",
    "open_box",
    "solve_level",
]

_HALF_WIDTH = math.sqrt(5.0)
# A mean that rises less than this with the level does not tell where the level should be.
_FLAT = 1e-6


def concrete(value) -> float | None:
    """The number, or ``None`` inside a transformation, where it is unknown."""
    return None if isinstance(value, jax.core.Tracer) else float(value)


def cut_fraction(excess: Array, spread: Array) -> Array:
    """Share of a voxel in which a field is positive.

    Args:
        excess: mean of the field in the voxel.
        spread: standard deviation of the field inside the voxel; for a field linear in it
            ``sqrt(sum_i (h_i d_i f)^2 / 12)``.

    The distribution of a linear field over a box (a sum of one to three uniform variables) is
    replaced by the parabolic one of the same variance, whose cumulative is the cubic smoothstep:
    exact to 0.03 for a wall in any direction, with compact support and a continuous slope.
    """
    u = jnp.clip(0.5 + excess / (2 * _HALF_WIDTH * spread), 0, 1)
    return u * u * (3 - 2 * u)


def central_differences(field: Float[Array, "z y x"]) -> list[Array]:
    """``(f[i+1] - f[i-1]) / 2`` along each axis of a periodic field (per voxel, not per nm)."""
    return [(jnp.roll(field, -1, axis) - jnp.roll(field, 1, axis)) / 2 for axis in range(3)]


def solve_level(
    solid_at: Callable[[Array, Any], Array],
    fields: Any,
    *,
    fraction: Float[Array, ""],
    low: Float[Array, ""],
    high: Float[Array, ""],
    weight: Array | None = None,
    num_steps: int = 12,
) -> Float[Array, "z y x"]:
    """Solid at the level where its mean is ``fraction``, differentiable in fraction and fields.

    Bisection and a Newton step without gradient, then a Newton step that carries the implicit
    one: with ``m(level, fields)`` the mean, ``d level = (d fraction - d_fields m) / d_level m``.
    This reads the volume some 16 times; sorting it for a quantile would cost far more.

    Args:
        solid_at: (level, fields) -> solid fraction, nowhere decreasing in level.
        fields: pytree of arrays that ``solid_at`` depends on.
        low, high: bracket of the level.
        weight: mean is ``mean(weight * solid) / mean(weight)`` if given.
    """

    def mean(level: Array, fields: Any, weight: Array | None) -> Array:
        solid = solid_at(level, fields)
        if weight is None:
            return jnp.mean(solid)
        return jnp.mean(weight * solid) / jnp.mean(weight)

    still_fields, still_weight = jax.lax.stop_gradient((fields, weight))
    still_mean = functools.partial(mean, fields=still_fields, weight=still_weight)
    dtype = jax.tree.leaves(fields)[0].dtype
    target, low, high = (
        jax.lax.stop_gradient(jnp.asarray(v, dtype)) for v in (fraction, low, high)
    )

    def halve(_, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        too_little = still_mean(middle) < target
        return jnp.where(too_little, middle, low), jnp.where(too_little, high, middle)

    def newton(level: Array, value: Array, slope: Array, fraction: Array) -> Array:
        # Where no voxel is cut (all solid or all pore) the mean does not answer to the level.
        missing = jnp.where(slope > _FLAT, fraction - value, 0)
        return level + (missing / jnp.maximum(slope, _FLAT)).astype(dtype)

    low, high = jax.lax.fori_loop(0, num_steps, halve, (low, high))
    found, one = (low + high) / 2, jnp.ones((), dtype)
    found = newton(found, *jax.jvp(still_mean, (found,), (one,)), target)
    slope = jax.jvp(still_mean, (found,), (one,))[1]
    level = newton(found, mean(found, fields, weight), slope, fraction)
    return solid_at(level, fields)


def fft_size(size: int) -> int:
    """Smallest even number from ``size`` on whose only prime factors are 2, 3 and 5."""
    size += size % 2
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2


def open_box(
    shape: tuple[int, int, int], voxel_nm: tuple[float, float, float], *feature_nm: float
) -> tuple[int, int, int]:
    """Periodic box from which a specimen of ``shape`` may be cut so that its faces do not match.

    Each axis is longer by at least the largest feature, so that what leaves on one side has died
    out before it comes back on the other. Feature sizes that are unknown (inside a
    transformation) count as a quarter of the widest side.
    """
    known = [concrete(f) for f in feature_nm]
    if not known or None in known:
        margin_nm = max(n * h for n, h in zip(shape, voxel_nm, strict=True)) / 4
    else:
        margin_nm = max(known)
    return tuple(
        fft_size(n + max(math.ceil(margin_nm / h), 8)) for n, h in zip(shape, voxel_nm, strict=True)
    )
