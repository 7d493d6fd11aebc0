"""Hierarchical nanoporous structure: ligaments that are themselves porous.

Two levelled-wave structures of independent fraction and size, one inside the solid of the
other, as in dealloyed, coarsened and again dealloyed gold (Shi, Li, Ngo-Dinh, Markmann,
Weissmueller 2021, doi 10.1126/science.abd9391).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fibsim.specimens.waves import check_waves, cut_waves, gaussian_waves, wave_shell

__all__ = ["check_hierarchical", "hierarchical_waves"]


def hierarchical_waves(
    *,
    key: Array,
    shape: tuple[int, int, int],
    voxel_nm: tuple[float, float, float],
    upper_fraction: Float[Array, ""],
    upper_ligament_nm: Float[Array, ""],
    lower_fraction: Float[Array, ""],
    lower_ligament_nm: Float[Array, ""],
    bandwidth: Float[Array, ""] = 0.1,
    exact: bool = True,
    box: tuple[int, int, int] | None = None,
) -> Float[Array, "z y x"]:
    """Solid fraction of a two-level structure, the product of its levels.

    Differentiable in all fractions and sizes.

    Args:
        key: random key.
        shape, voxel_nm: grid (z, y, x), static.
        upper_fraction: volume fraction of the upper ligaments, their pores counted as solid.
        upper_ligament_nm: their mean local thickness (gold: 50 to 300).
        lower_fraction: solid fraction inside the upper ligaments; the total is
            ``upper_fraction * lower_fraction``.
        lower_ligament_nm: mean local thickness of the lower ligaments (gold: 10 to 30).
        bandwidth, exact, box: as in `fibsim.specimens.levelled_waves`; ``exact`` levels the
            lower field inside the upper ligaments of this very volume.

    Raises:
        InputError: ligaments too large for the box or too small for the voxels.
    """
    box = shape if box is None else box
    check_hierarchical(
        box=box,
        voxel_nm=voxel_nm,
        upper_fraction=upper_fraction,
        upper_ligament_nm=upper_ligament_nm,
        lower_fraction=lower_fraction,
        lower_ligament_nm=lower_ligament_nm,
        bandwidth=bandwidth,
    )
    grid = {"box": box, "voxel_nm": voxel_nm}
    shells = (
        wave_shell(upper_fraction, upper_ligament_nm, bandwidth, **grid),
        wave_shell(lower_fraction, lower_ligament_nm, bandwidth, **grid),
    )
    q0, width = (jnp.stack(values) for values in zip(*shells, strict=True))
    # Both levels in one batch, which compiles in half the time.
    fields = jax.vmap(
        lambda key, q0, width: gaussian_waves(key=key, q0=q0, bandwidth=width, **grid)
    )(jax.random.split(key), q0, width)
    z, y, x = shape
    field, spread = (f[:, :z, :y, :x] for f in fields)
    upper = cut_waves((field[0], spread[0]), upper_fraction, None, exact)
    return upper * cut_waves((field[1], spread[1]), lower_fraction, upper, exact)


def check_hierarchical(
    *,
    box: tuple[int, int, int],
    voxel_nm: tuple[float, float, float],
    upper_fraction,
    upper_ligament_nm,
    lower_fraction,
    lower_ligament_nm,
    bandwidth=0.1,
    **_unused,
) -> None:
    """`fibsim.specimens.waves.check_waves` of both levels."""
    levels = {"upper": (upper_fraction, upper_ligament_nm)}
    levels["lower"] = (lower_fraction, lower_ligament_nm)
    for level, (fraction, ligament_nm) in levels.items():
        check_waves(
            box=box,
            voxel_nm=voxel_nm,
            solid_fraction=fraction,
            ligament_nm=ligament_nm,
            bandwidth=bandwidth,
            name=f"{level}_ligament_nm",
        )
