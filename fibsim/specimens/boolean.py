"""Boolean models: overlapping spheres or fibres at independent random places.

A Boolean model of grains of mean volume V and number density n covers the fraction
``phi = 1 - exp(-n V)`` (Chiu, Stoyan, Kendall, Mecke 2013, Stochastic Geometry and its
Applications, doi 10.1002/9781118658222). n follows from the fraction and sizes asked for; the
chance of one particular volume is taken out by adding one common length to all radii, such that
its fraction is met. The number of grains is a real number, the last one growing with its
fractional part, so that the structure changes continuously with fraction and size and can be
differentiated.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fibsim.specimens.grains import (
    check_grains,
    cover,
    deepest_grain,
    grow,
    log_normal,
    offsets_nm,
    side_lengths,
)
from fibsim.specimens.levelling import concrete

__all__ = ["boolean_fibres", "boolean_spheres", "check_fibres", "check_spheres"]

# A segment of a fibre spans this share of the shortest side of the box, which leaves the nearest
# periodic image the right one up to radii of _THICKEST sides; a fibre is so many segments long.
_SEGMENT = 0.6
_THICKEST = 0.2
_SEGMENTS_PER_FIBRE = 3


def boolean_spheres(
    *,
    key: Array,
    shape: tuple[int, int, int],
    voxel_nm: tuple[float, float, float],
    solid_fraction: Float[Array, ""],
    radius_nm: Float[Array, ""],
    radius_sd: Float[Array, ""] = 0.0,
    num: int = 4096,
    invert: bool = False,
    box: tuple[int, int, int] | None = None,
) -> Float[Array, "z y x"]:
    """Solid fraction of overlapping spheres, solid (particles) or pores (foam).

    Args:
        key: random key.
        shape, voxel_nm: grid (z, y, x), static.
        solid_fraction: volume fraction of the solid, met within 0.005.
        radius_nm: mean radius.
        radius_sd: standard deviation of the radius relative to its mean (log-normal).
        num: most spheres that may be drawn, static. Time grows with the spheres in use, not with
            this number; should more be needed, the spheres in use are enlarged.
        invert: True makes the spheres the pores, static.
        box: voxels of the periodic box that is filled, ``shape`` if not given; a larger one
            makes the specimen non-periodic (`fibsim.specimens.open_box`); static.

    Raises:
        InputError: spheres too small, too large, too few or too many for the box (where sizes
            are known, not inside a transformation).
    """
    box = shape if box is None else box
    check_spheres(
        box=box,
        voxel_nm=voxel_nm,
        solid_fraction=solid_fraction,
        radius_nm=radius_nm,
        radius_sd=radius_sd,
        num=num,
        invert=invert,
    )
    dtype = jnp.result_type(float, solid_fraction, radius_nm)
    sides_nm = side_lengths(box, voxel_nm)
    place_key, size_key = jax.random.split(key)
    centres = jax.random.uniform(place_key, (num, 3), dtype) * jnp.asarray(sides_nm, dtype)
    needed = _num_spheres(sides_nm, solid_fraction, radius_nm, radius_sd, invert)
    radii = grow(log_normal(size_key, radius_nm, radius_sd, num, dtype), needed)
    still_centres, still_radii = jax.lax.stop_gradient((centres, radii))

    def height(index: Array) -> Array:
        z, y, x = offsets_nm(list(still_centres[index]), shape, voxel_nm, sides_nm)
        radius = still_radii[index]
        lines = [(z * z - radius**2) / (2 * radius), y * y / (2 * radius), x * x / (2 * radius)]
        # Without the barrier these lines would be computed anew for every voxel.
        return sum(jax.lax.optimization_barrier(lines))

    index = deepest_grain(height, needed, num, shape, dtype)
    vector = offsets_nm([centres[index, i] for i in range(3)], shape, voxel_nm, sides_nm)
    return cover(vector, radii[index], voxel_nm, solid_fraction, invert=invert)


def _num_spheres(sides_nm, solid_fraction, radius_nm, radius_sd, invert: bool):
    covered = 1 - solid_fraction if invert else solid_fraction
    # E[r^3] of a log-normal radius is (1 + sd^2)^3 times the cube of its mean.
    volume = 4 / 3 * math.pi * (radius_nm * (1 + radius_sd**2)) ** 3
    return -jnp.log1p(-covered) * math.prod(sides_nm) / volume


def check_spheres(
    *,
    box: tuple[int, int, int],
    voxel_nm: tuple[float, float, float],
    solid_fraction,
    radius_nm,
    radius_sd=0.0,
    num: int = 4096,
    invert: bool = False,
    **_unused,
) -> None:
    """Reject sizes that the box cannot carry; silent where a value is unknown (traced).

    Raises:
        InputError: see `fibsim.specimens.grains.check_grains`.
    """
    fraction, radius, sd = (concrete(v) for v in (solid_fraction, radius_nm, radius_sd))
    if None in (fraction, radius, sd):
        return
    sides_nm = side_lengths(box, voxel_nm)
    with jax.ensure_compile_time_eval():
        needed = float(_num_spheres(sides_nm, fraction, radius, sd, invert))
    check_grains(
        "spheres",
        needed=needed,
        num=num,
        radius_nm=radius,
        largest_nm=min(sides_nm) / 2,
        sides_nm=sides_nm,
        voxel_nm=voxel_nm,
    )


def boolean_fibres(
    *,
    key: Array,
    shape: tuple[int, int, int],
    voxel_nm: tuple[float, float, float],
    solid_fraction: Float[Array, ""],
    radius_nm: Float[Array, ""],
    radius_sd: Float[Array, ""] = 0.0,
    depth_stretch: Float[Array, ""] = 1.0,
    num: int = 2048,
    box: tuple[int, int, int] | None = None,
) -> Float[Array, "z y x"]:
    """Solid fraction of overlapping straight cylinders of random direction.

    In a periodic box a straight fibre re-enters on the opposite side; each is 1.8 times as long
    as the shortest side and has round ends. Directions follow the angular central Gaussian law
    (Tyler 1987, doi 10.1093/biomet/74.3.579): normal vectors, stretched along z, made unit.

    Args:
        key: random key.
        shape, voxel_nm: grid (z, y, x), static.
        solid_fraction: volume fraction of the fibres, met within 0.005.
        radius_nm: mean radius.
        radius_sd: standard deviation of the radius relative to its mean (log-normal).
        depth_stretch: 1 for isotropic directions, 0 for fibres in the plane of the slices, much
            above 1 for fibres along z.
        num: most segments (0.6 times the shortest side long) that may be drawn, static.
        box: as in `boolean_spheres`.

    Raises:
        InputError: fibres too thin, too thick, too few or too many for the box (where sizes are
            known, not inside a transformation).
    """
    box = shape if box is None else box
    check_fibres(
        box=box,
        voxel_nm=voxel_nm,
        solid_fraction=solid_fraction,
        radius_nm=radius_nm,
        radius_sd=radius_sd,
        depth_stretch=depth_stretch,
        num=num,
    )
    dtype = jnp.result_type(float, solid_fraction, radius_nm)
    sides_nm = side_lengths(box, voxel_nm)
    half_nm = _SEGMENT * min(sides_nm) / 2
    fibres = -(-num // _SEGMENTS_PER_FIBRE)
    place_key, turn_key, size_key = jax.random.split(key, 3)
    places = jax.random.uniform(place_key, (fibres, 3), dtype) * jnp.asarray(sides_nm, dtype)
    turns = _directions(turn_key, fibres, depth_stretch, dtype)
    radii = log_normal(size_key, radius_nm, radius_sd, fibres, dtype)

    segments = jnp.arange(num)
    fibre, step = segments // _SEGMENTS_PER_FIBRE, segments % _SEGMENTS_PER_FIBRE
    needed = _num_segments(sides_nm, solid_fraction, radius_nm, radius_sd)
    turns, radii = turns[fibre], grow(radii[fibre], needed)
    centres = places[fibre] + 2 * half_nm * step[:, None].astype(dtype) * turns

    def from_axis(centre: list[Array], turn: list[Array]) -> list[Array]:
        """Vector to every voxel from the nearest point of a segment (or one for each voxel)."""
        vector = jax.lax.optimization_barrier(offsets_nm(centre, shape, voxel_nm, sides_nm))
        along = sum(c * t for c, t in zip(vector, turn, strict=True))
        along = jnp.clip(along, -half_nm, half_nm)
        return [c - along * t for c, t in zip(vector, turn, strict=True)]

    still_centres, still_turns, still_radii = jax.lax.stop_gradient((centres, turns, radii))

    def height(index: Array) -> Array:
        vector = from_axis(list(still_centres[index]), list(still_turns[index]))
        radius = still_radii[index]
        return (sum(c * c for c in vector) - radius**2) / (2 * radius)

    index = deepest_grain(height, needed, num, shape, dtype)
    vector = from_axis([centres[index, i] for i in range(3)], [turns[index, i] for i in range(3)])
    return cover(vector, radii[index], voxel_nm, solid_fraction, invert=False)


def _directions(key: Array, num: int, depth_stretch, dtype) -> Float[Array, "num 3"]:
    normal = jax.random.normal(key, (num, 3), dtype)
    normal = normal.at[:, 0].multiply(jnp.asarray(depth_stretch, dtype))
    return normal / jnp.linalg.norm(normal, axis=1, keepdims=True)


def _num_segments(sides_nm, solid_fraction, radius_nm, radius_sd):
    # E[r^2] of a log-normal radius is (1 + sd^2) times the square of its mean.
    volume = math.pi * radius_nm**2 * (1 + radius_sd**2) * _SEGMENT * min(sides_nm)
    return -jnp.log1p(-solid_fraction) * math.prod(sides_nm) / volume


def check_fibres(
    *,
    box: tuple[int, int, int],
    voxel_nm: tuple[float, float, float],
    solid_fraction,
    radius_nm,
    radius_sd=0.0,
    depth_stretch=1.0,
    num: int = 2048,
    **_unused,
) -> None:
    """Reject sizes that the box cannot carry; silent where a value is unknown (traced).

    Raises:
        InputError: see `fibsim.specimens.grains.check_grains`.
    """
    fraction, radius, sd = (concrete(v) for v in (solid_fraction, radius_nm, radius_sd))
    if None in (fraction, radius, sd, concrete(depth_stretch)):
        return
    sides_nm = side_lengths(box, voxel_nm)
    with jax.ensure_compile_time_eval():
        needed = float(_num_segments(sides_nm, fraction, radius, sd))
    check_grains(
        "fibre segments",
        needed=needed,
        num=num,
        radius_nm=radius,
        largest_nm=_THICKEST * min(sides_nm),
        sides_nm=sides_nm,
        voxel_nm=voxel_nm,
    )
