"""Levelled waves: the random bicontinuous structure of nanoporous metals and of spinodals.

A Gaussian random field made of many plane waves of nearly one wavelength is cut at a level
(Cahn 1965, doi 10.1063/1.1695731; Soyarslan, Bargmann, Pradas, Weissmueller 2018,
doi 10.1016/j.actamat.2018.01.005)::

    f(r) = sum_q w(|q|) a_q exp(i q r),    w(q) = exp(-(q - q0)^2 / (2 (b q0)^2)),    solid: f < L

with a_q white noise and f of unit variance. Both phases percolate for fractions between about
0.16 and 0.84; outside, the minority phase is made of separate blobs.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from fibsim.errors import InputError
from fibsim.specimens.levelling import central_differences, concrete, cut_fraction, solve_level

__all__ = [
    "check_waves",
    "cut_waves",
    "field_spread",
    "gaussian_waves",
    "levelled_waves",
    "wave_number",
    "wave_shell",
]

# Field values of the level, in standard deviations; nothing in [0.0002, 0.9998] lies beyond.
_BRACKET = 3.5
_FEWEST_WAVES = 10
# Waves, opposite ones apart, that a shell is widened to hold.
_ENOUGH_WAVES = 100
_FEWEST_VOXELS = 2.0


def wave_number(
    solid_fraction: Float[Array, ""], ligament_nm: Float[Array, ""], bandwidth: Float[Array, ""]
) -> Float[Array, ""]:
    """Centre q0 of the spectral shell, in radian/nm, that gives ligaments of a diameter.

    The mean local thickness d of the solid (diameter of the largest inscribed sphere that covers
    a point, averaged over the solid; Hildebrand and Rueegsegger 1997,
    doi 10.1046/j.1365-2818.1997.1340694.x) was measured by Euclidean distance transforms on
    periodic fields of bandwidth 0.1 in boxes 6 to 12 ligaments wide, for nine fractions from 0.1
    to 0.8, two fields each. Voxels of 1/7 to 1/28 ligament read 1 to 10 % low; a linear
    extrapolation to vanishing voxels gave q_rms d = 2.64, 2.86, 3.06, 3.39, 3.71, 4.07, 4.48,
    4.94, 5.59 at 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8 (the two fields differ by 1 %). The
    cubic below meets them within 1 %. The bandwidth enters by the second moment of the spectrum,
    which sets the curvature of the field: ``q_rms^2 = q0^2 (1 + 6 s^2 + 3 s^4) / (1 + s^2)``
    with ``s^2 = b^2 / 2`` (measured at b = 0.05, 0.2 and 0.3: within 3 %).
    """
    phi = solid_fraction
    product = 2.144 + phi * (5.622 + phi * (-6.754 + phi * 6.375))
    s2 = bandwidth**2 / 2
    rms = ((1 + 6 * s2 + 3 * s2**2) / (1 + s2)) ** 0.5
    return product / (rms * ligament_nm)


def wave_shell(
    solid_fraction: Float[Array, ""],
    ligament_nm: Float[Array, ""],
    bandwidth: Float[Array, ""],
    *,
    box: tuple[int, int, int],
    voxel_nm: tuple[float, float, float],
) -> tuple[Array, Array]:
    """Centre q0 (radian/nm) and relative width of the spectral shell in a periodic box.

    The box of volume V has one wave in each cell ``(2 pi)^3 / V`` of wave vectors, and a shell
    around ``n = q0 V^(1/3) / (2 pi)`` holds about ``8 pi b n^3`` of them. Where those are few,
    which ones lie inside decides the structure, and its correlations do not follow its size: at
    n = 1.4 to 2.8 and b = 0.1, some fall where ligaments grow. Such a shell is widened to hold a
    hundred, but by no more than what averages its power over a cell::

        b' = sqrt(b^2 + min(100 / (8 pi n^3), 1 / (sqrt(6) n))^2)

    0.101 for 0.1 at n = 5, about ten ligaments; q0 is that of the widened shell.
    """
    n = wave_number(solid_fraction, ligament_nm, bandwidth) / (2 * np.pi)
    n *= math.prod(count * size for count, size in zip(box, voxel_nm, strict=True)) ** (1 / 3)
    wider = jnp.minimum(_ENOUGH_WAVES / (8 * np.pi * n**3), 1 / (6**0.5 * n))
    width = jnp.sqrt(bandwidth**2 + wider**2)
    return wave_number(solid_fraction, ligament_nm, width), width


def _frequencies(
    box: tuple[int, int, int], voxel_nm: tuple[float, float, float], dtype
) -> list[Array]:
    """Wave vector components of ``rfftn`` in radian/nm, each shaped to broadcast."""
    z, y, x = (2 * np.pi / h for h in voxel_nm)
    components = (
        np.fft.fftfreq(box[0]) * z,
        np.fft.fftfreq(box[1]) * y,
        np.fft.rfftfreq(box[2]) * x,
    )
    shapes = ((-1, 1, 1), (1, -1, 1), (1, 1, -1))
    return [jnp.asarray(q.reshape(s), dtype) for q, s in zip(components, shapes, strict=True)]


def gaussian_waves(
    *,
    key: Array,
    box: tuple[int, int, int],
    voxel_nm: tuple[float, float, float],
    q0: Float[Array, ""],
    bandwidth: Float[Array, ""],
) -> tuple[Array, Array]:
    """Periodic Gaussian field of unit variance and its standard deviation inside each voxel.

    Args:
        q0: centre of the shell in radian/nm.
        bandwidth: width of the shell relative to q0.

    Returns:
        Mean of the field in each voxel and spread in each voxel, both ``box``. The variance of
        the points (not of the voxel means) is 1, so that a level means the same on any grid.
    """
    dtype = jnp.result_type(float, q0, bandwidth)
    q = _frequencies(box, voxel_nm, dtype)
    radius = jnp.sqrt(sum(c**2 for c in q))
    exponent = ((radius - q0) / (bandwidth * q0)) ** 2 / 2
    # The mean is no wave. The largest weight is made 1, or a box smaller than a wavelength would
    # leave nothing but underflow.
    exponent = exponent.at[0, 0, 0].set(jnp.inf)
    weight = jnp.exp(jax.lax.stop_gradient(jnp.min(exponent)) - exponent)
    amplitude = weight * jnp.fft.rfftn(jax.random.normal(key, box, dtype))
    # Parseval; rfftn keeps one of each pair of opposite waves except in its end planes.
    pairs = np.full(box[2] // 2 + 1, 2.0)
    pairs[0] = 1.0
    if box[2] % 2 == 0:
        pairs[-1] = 1.0
    power = jnp.real(amplitude) ** 2 + jnp.imag(amplitude) ** 2
    deviation = jnp.sqrt(jnp.sum(jnp.asarray(pairs, dtype) * power)) / math.prod(box)
    for c, h in zip(q, voxel_nm, strict=True):
        amplitude = amplitude * jnp.sinc(c * h / (2 * np.pi))
    field = jnp.fft.irfftn(amplitude / deviation, s=box)
    return field, field_spread(field, voxel_nm, q0)


def field_spread(
    field: Float[Array, "z y x"], voxel_nm: tuple[float, float, float], q0: Float[Array, ""]
) -> Float[Array, "z y x"]:
    """Standard deviation of a periodic field of waves inside each voxel, from its slope there.

    ``s^2 = sum_i c_i (f[i+1] - f[i-1])^2 / 48``, c_i making up for what central differences of
    waves of few voxels fall short: ``<(q_i h_i)^2> / <sin^2(q_i h_i)>`` over all directions.
    """
    spread2 = 1e-6  # at a summit the root would have no slope
    for step, h in zip(central_differences(field), voxel_nm, strict=True):
        x = jnp.clip(q0 * h, 1e-2, np.pi / 2)
        spread2 += step**2 / 12 * (x**2 / 3) / ((1 - jnp.sin(2 * x) / (2 * x)) / 2)
    return jnp.sqrt(spread2)


def _below(level: Array, fields: tuple[Array, Array]) -> Array:
    field, spread = fields
    return cut_fraction(level - field, spread)


def cut_waves(
    fields: tuple[Array, Array], solid_fraction: Float[Array, ""], weight: Array | None, exact: bool
) -> Array:
    """Solid below the level of a fraction, found in this volume or that of an endless one."""
    if not exact:
        return _below(ndtri(jnp.asarray(solid_fraction, fields[0].dtype)), fields)
    return solve_level(
        _below,
        fields,
        fraction=solid_fraction,
        low=-_BRACKET,
        high=_BRACKET,
        weight=weight,
    )


def levelled_waves(
    *,
    key: Array,
    shape: tuple[int, int, int],
    voxel_nm: tuple[float, float, float],
    solid_fraction: Float[Array, ""],
    ligament_nm: Float[Array, ""],
    bandwidth: Float[Array, ""] = 0.1,
    exact: bool = True,
    box: tuple[int, int, int] | None = None,
) -> Float[Array, "z y x"]:
    """Solid fraction of a levelled-wave structure.

    Differentiable in ``solid_fraction``, ``ligament_nm`` and ``bandwidth``: with the same key
    the same waves are drawn, and the structure deforms with the parameters.

    Args:
        key: random key.
        shape, voxel_nm: grid (z, y, x), static; voxels need not be cubes.
        solid_fraction: volume fraction of the solid.
        ligament_nm: mean local thickness (diameter) of the solid, see `wave_number`.
        bandwidth: relative width of the shell of wave numbers; 0.05 (regular) to 0.3 (broad);
            wider in a box of few waves, see `wave_shell`.
        exact: True levels this very volume, False the endless structure that it was cut from,
            so that its fraction fluctuates as in a small window; static.
        box: voxels of the periodic box that is filled, ``shape`` if not given; a larger one
            makes the specimen non-periodic (`fibsim.specimens.open_box`); static.

    Raises:
        InputError: ligaments too large for the box or too small for the voxels (where the
            values are known, not inside a transformation).
    """
    box = shape if box is None else box
    check_waves(
        box=box,
        voxel_nm=voxel_nm,
        solid_fraction=solid_fraction,
        ligament_nm=ligament_nm,
        bandwidth=bandwidth,
    )
    grid = {"box": box, "voxel_nm": voxel_nm}
    q0, width = wave_shell(solid_fraction, ligament_nm, bandwidth, **grid)
    fields = gaussian_waves(key=key, q0=q0, bandwidth=width, **grid)
    z, y, x = shape
    fields = tuple(f[:z, :y, :x] for f in fields)
    return cut_waves(fields, solid_fraction, None, exact)


def _waves_in_shell(
    box: tuple[int, int, int], voxel_nm: tuple[float, float, float], q0: float, bandwidth: float
) -> float:
    """Wave vectors of the periodic box with ``|q| = q0 (1 +- bandwidth)``, opposite ones apart."""
    unit = [2 * np.pi / (n * h) for n, h in zip(box, voxel_nm, strict=True)]
    inner, outer = q0 * (1 - bandwidth), q0 * (1 + bandwidth)
    many = 4 / 3 * np.pi * (outer**3 - inner**3) / math.prod(unit)
    most = [min(int(outer / u), n // 2) for n, u in zip(box, unit, strict=True)]
    if many > 1000 and min(most) > 2:
        return many  # counting takes time and tells nothing new
    components = np.meshgrid(
        *[np.arange(-m, m + 1) * u for m, u in zip(most, unit, strict=True)],
        indexing="ij",
        sparse=True,
    )
    radius = np.sqrt(sum(c**2 for c in components))
    return float(np.sum((radius >= inner) & (radius <= outer)))


def check_waves(
    *,
    box: tuple[int, int, int],
    voxel_nm: tuple[float, float, float],
    solid_fraction,
    ligament_nm,
    bandwidth=0.1,
    name: str = "ligament_nm",
    **_unused,
) -> None:
    """Reject ligaments that the grid cannot carry; silent where a value is unknown (traced).

    Raises:
        InputError: fewer than 2 voxels a ligament, or fewer than 10 waves in the shell.
    """
    values = [concrete(v) for v in (solid_fraction, ligament_nm, bandwidth)]
    if None in values:
        return
    _, ligament, width = values
    if ligament < _FEWEST_VOXELS * max(voxel_nm):
        raise InputError(
            f"{name} is {ligament:g}, less than two voxels of {max(voxel_nm):g} nm; use smaller "
            "voxels or larger ligaments."
        )
    count = _waves_in_shell(box, voxel_nm, float(wave_number(*values)), width)
    if count < _FEWEST_WAVES:
        sides = " x ".join(f"{n * h:g}" for n, h in zip(box, voxel_nm, strict=True))
        raise InputError(
            f"{name} is {ligament:g} but only {count:g} waves of that size fit into {sides} nm, "
            f"expected at least {_FEWEST_WAVES}; use a larger specimen or smaller ligaments."
        )
