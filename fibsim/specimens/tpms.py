"""Triply periodic minimal surfaces: the gyroid, as in 3D-printed lattices and block copolymers.

The level-set approximation (Schoen 1970, NASA TN D-5541; Gandy, Bardhan, Mackay, Klinowski 2001,
doi 10.1016/S0009-2614(01)00418-4)::

    f = sin X cos Y + sin Y cos Z + sin Z cos X,    X = 2 pi x / cell

``network``: solid where f < L (one of two interwoven labyrinths is solid);
``sheet``: solid where |f| < L (a wall of even thickness between two labyrinths of pores).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fibsim.errors import InputError
from fibsim.specimens.grains import side_lengths
from fibsim.specimens.levelling import concrete, cut_fraction, solve_level

__all__ = ["FORMS", "check_gyroid", "gyroid"]

FORMS = ("network", "sheet")
# |f| never exceeds 1.5.
_HIGHEST = 1.6
_FEWEST_VOXELS = 6.0
_MOST_STRAIN = 0.25


def _random_rotation(key: Array, dtype) -> Float[Array, "3 3"]:
    """Uniform random rotation from a unit quaternion (Shoemake 1992, Graphics Gems III)."""
    q = jax.random.normal(key, (4,), dtype)
    w, x, y, z = q / jnp.linalg.norm(q)
    return jnp.stack(
        [
            jnp.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]),
            jnp.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]),
            jnp.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]),
        ]
    )


def _network(level: Array, fields: tuple[Array, Array]) -> Array:
    field, spread = fields
    return cut_fraction(level - field, spread)


def _sheet(level: Array, fields: tuple[Array, Array]) -> Array:
    field, spread = fields
    return cut_fraction(level - field, spread) - cut_fraction(-level - field, spread)


def gyroid(
    *,
    key: Array,
    shape: tuple[int, int, int],
    voxel_nm: tuple[float, float, float],
    solid_fraction: Float[Array, ""],
    cell_nm: Float[Array, ""],
    form: str = "network",
    box: tuple[int, int, int] | None = None,
) -> Float[Array, "z y x"]:
    """Solid fraction of a gyroid with a random origin.

    Differentiable in the solid fraction, and in the cell of a non-periodic specimen. A periodic
    specimen holds a whole number of cells along each axis, the nearest to what ``cell_nm`` asks
    for: the cell is strained to fit, and the structure has no gradient with respect to it.

    Args:
        key: random key: origin, and orientation where the specimen is not periodic.
        shape, voxel_nm: grid (z, y, x), static.
        solid_fraction: volume fraction of the solid, met within 0.005.
        cell_nm: edge of the cubic unit cell.
        form: "network" or "sheet", static.
        box: ``shape``, or not given, for a periodic specimen; anything else gives a turned
            lattice of exactly ``cell_nm`` that does not match at the faces; static.

    Raises:
        InputError: unknown form; cell too small for the voxels or unfit for the periodic box
            (where it is known, not inside a transformation).
    """
    box = shape if box is None else box
    check_gyroid(
        box=box,
        shape=shape,
        voxel_nm=voxel_nm,
        cell_nm=cell_nm,
        form=form,
    )
    dtype = jnp.result_type(float, solid_fraction, cell_nm)
    turn_key, shift_key = jax.random.split(key)
    shift = jax.random.uniform(shift_key, (3,), dtype, maxval=2 * np.pi)
    if box == shape:
        cells = jnp.stack(
            [jnp.maximum(jnp.round(s / cell_nm), 1) for s in side_lengths(shape, voxel_nm)]
        )
        wave = jnp.diag(2 * np.pi * cells / jnp.asarray(shape, dtype)).astype(dtype)
    else:
        steps = jnp.asarray(voxel_nm, dtype)
        wave = 2 * np.pi / cell_nm * _random_rotation(turn_key, dtype) * steps
    # wave[i, j]: advance of phase i in radian from one voxel to the next along axis j.
    index = [
        (jnp.arange(n) + 0.5).astype(dtype).reshape([n if a == axis else 1 for a in range(3)])
        for axis, n in enumerate(shape)
    ]
    phase = [sum(wave[i, j] * index[j] for j in range(3)) + shift[i] for i in range(3)]
    sine, cosine = [jnp.sin(p) for p in phase], [jnp.cos(p) for p in phase]
    after = (1, 2, 0)
    field = sum(sine[i] * cosine[j] for i, j in enumerate(after))
    # d f / d phase_i, then along the voxel axes.
    slope = [cosine[i] * cosine[after[i]] - sine[after[after[i]]] * sine[i] for i in range(3)]
    spread2 = sum(sum(wave[i, j] * slope[i] for i in range(3)) ** 2 for j in range(3)) / 12
    solid_at, low = (_network, -_HIGHEST) if form == "network" else (_sheet, 0.0)
    fields = (field, jnp.sqrt(spread2 + 1e-6))
    return solve_level(solid_at, fields, fraction=solid_fraction, low=low, high=_HIGHEST)


def check_gyroid(
    *,
    box: tuple[int, int, int],
    shape: tuple[int, int, int],
    voxel_nm: tuple[float, float, float],
    cell_nm,
    form: str = "network",
    **_unused,
) -> None:
    """Reject forms that do not exist and cells that the grid cannot carry.

    Raises:
        InputError: as said; silent about a cell that is unknown (traced).
    """
    if form not in FORMS:
        raise InputError(f"form is {form!r}, expected one of {', '.join(FORMS)}.")
    cell = concrete(cell_nm)
    if cell is None:
        return
    if cell < _FEWEST_VOXELS * max(voxel_nm):
        raise InputError(
            f"cell_nm is {cell:g}, less than {_FEWEST_VOXELS:g} voxels of {max(voxel_nm):g} nm; "
            "use smaller voxels or a larger cell."
        )
    for side in side_lengths(shape, voxel_nm):
        fitted = side / max(round(side / cell), 1)
        if box == shape and abs(fitted / cell - 1) > _MOST_STRAIN:
            raise InputError(
                f"cell_nm is {cell:g} but whole cells of a periodic specimen {side:g} nm wide "
                f"would measure {fitted:g} nm; choose a cell that divides every side, or "
                "periodic=False."
            )
