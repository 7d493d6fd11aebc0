"""What surrounds a beam in the solid: how it changes emission, and lets electrons out sideways.

Serves `fibsim.render`, whose docstring gives the laws: g_b and g_s, and what k has of the
surroundings. All of them follow from means over the depth of a slice below every layer.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fibsim.instrument import Geometry
from fibsim.interaction import Coefficients
from fibsim.layers import Texture, sublayer_borders, voxels_per_slice
from fibsim.resample import filter_lateral, neighbour

__all__ = [
    "Surroundings",
    "gaussian",
    "median_depth_nm",
    "solid_shares",
    "surroundings",
    "upper_layers",
    "weighted",
]

# Calibrated with the numbers of `fibsim.render`.
_SE_FACING = 0.5
_EXIT_DEPTHS = 5.0
_TINY = 1e-12  # keeps 0 / 0 out of empty specimens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the neighbourhood of a pixel adds to the laws of its layer; ``(sublayer, y, x)``.

    Attributes:
        bse_factor, se_factor: g_b and g_s of `fibsim.render`.
        sideways: how much more than the column under the beam its surroundings attenuate, per nm
            and times ``lateral_exit``.
    """

    bse_factor: Float[Array, "sublayer y x"]
    se_factor: Float[Array, "sublayer y x"]
    sideways: Float[Array, "sublayer y x"]


def weighted(weights: Float[Array, "phase ..."], values: Float[Array, "phase ..."]) -> Array:
    """Sum over phases."""
    return sum(weights[p] * values[p] for p in range(values.shape[0]))


def solid_shares(texture: Texture) -> Float[Array, " phase"]:
    """Of each phase in the solid."""
    return texture.shares / jnp.maximum(jnp.sum(texture.shares), _TINY)


def median_depth_nm(texture: Texture, c: Coefficients) -> Array:
    """Median depth of backscattering in the mean mixture."""
    return jnp.log(2.0) / jnp.maximum(jnp.sum(solid_shares(texture) * c.bse_attenuation), _TINY)


def gaussian(image: Array, width_nm: Array, geometry: Geometry, periodic: bool) -> Array:
    """The image through a Gaussian of this standard deviation."""
    variance = (width_nm / geometry.pixel_nm) ** 2
    return filter_lateral(image, lambda q2: jnp.exp(-q2 * variance / 2), periodic=periodic)


def _weights_below(number: int) -> np.ndarray:
    """Weights of the sub-layers of a slice and the next in the mean below each of the first's.

    Sub-layer i ends at depth ``d_i`` under the face (`fibsim.layers.sublayer_borders`), and all
    count alike below a face, so that what is near counts more (by thickness the model explains
    less, experiments/forward_fidelity.py): what lies from a to b under any layer counts with
    ``i(b) - i(a)``, i being the inverse of d, to the depth of one slice. The next slice is taken
    to be as thick.
    """
    top, bottom = (np.concatenate([v, 1.0 + v]) for v in sublayer_borders(number))
    twice = 2 * voxels_per_slice(number)

    def sublayers_to(border):
        depth = np.clip(border - top[:number, None], 0.0, 1.0)
        return (np.sqrt(1.0 + 4.0 * twice * depth) - 1.0) / 2.0

    # Rounded, so that layers beyond the depth of a slice weigh nothing at all.
    return ((sublayers_to(bottom) - sublayers_to(top)) / number)[:, :-1].round(12)


def _means_below(
    rho: Float[Array, "phase sublayer y x"], beneath: Float[Array, "phase upper y x"]
) -> Float[Array, "phase sublayer y x"]:
    """Mean to the depth of a slice below the top of each of its sub-layers."""
    number = rho.shape[1]
    deep = jnp.moveaxis(jnp.concatenate([rho, beneath[:, : number - 1]], axis=1), 1, 0)
    each = [
        sum(float(w) * layer for w, layer in zip(weights, deep, strict=True) if w > 0)
        for weights in _weights_below(number)
    ]
    return jnp.stack(each, axis=1)


def upper_layers(rho: Float[Array, "phase sublayer y x"]) -> Float[Array, "phase upper y x"]:
    """The sub-layers that the slice above needs for its `surroundings`: all but the last."""
    return rho[:, : max(rho.shape[1] - 1, 1)]


def _emission_factors(
    rho: Float[Array, "phase sublayer y x"],
    c: Coefficients,
    geometry: Geometry,
    periodic: bool,
) -> tuple[Array, Array]:
    """g_b and g_s of `fibsim.render`, ``(sublayer, y, x)``."""
    lean = jnp.tan(jnp.deg2rad(geometry.tilt_deg)) * c.edge_nm / geometry.pixel_nm

    def beside_walls(near):
        before, after = (neighbour(near, side, axis=-2, periodic=periodic) for side in (-1, 1))
        return c.bse_facing * lean * (before - after) / 2

    if len(rho) == 1:
        # The same for all channels, so its spectrum is computed once.
        dense = rho[0]
        near = near_filled = gaussian(dense, c.edge_nm, geometry, periodic)
    else:
        dense = weighted(c.bse_attenuation / jnp.max(c.bse_attenuation), rho)
        near = gaussian(dense, c.edge_nm, geometry, periodic)
        # Secondaries leave into open space only, not into what fills a pore.
        near_filled = gaussian(sum(rho), c.edge_nm, geometry, periodic)
    edge = 1.0 + c.edge_gain * jnp.maximum(dense - near, 0.0)
    bse_factor = edge + beside_walls(near)
    se_factor = edge + _SE_FACING * beside_walls(near_filled)
    return jnp.maximum(bse_factor, 0.0), jnp.maximum(se_factor, 0.0)


def surroundings(
    rho: Float[Array, "phase sublayer y x"],
    beneath: Float[Array, "phase upper y x"],
    texture: Texture,
    coefficients: Coefficients,
    geometry: Geometry,
    *,
    periodic: bool,
) -> Surroundings:
    """`Surroundings` of a slice with fractions ``rho``, for one channel.

    Args:
        beneath: `upper_layers` of the slice below, in the frame of this one.
    """
    c, mean = coefficients, _means_below(rho, beneath)
    bse_factor, se_factor = _emission_factors(mean, c, geometry, periodic)
    # Of a single phase the spectrum is that of `_emission_factors`, one for all channels.
    column = weighted(c.bse_attenuation, mean)
    width_nm = _EXIT_DEPTHS * median_depth_nm(texture, c)
    if len(mean) > 1:
        around = gaussian(column, width_nm, geometry, periodic)
    else:
        around = c.bse_attenuation[0] * gaussian(mean[0], width_nm, geometry, periodic)
    sideways = c.lateral_exit * (jnp.maximum(around, 0.0) - column)
    return Surroundings(bse_factor=bse_factor, se_factor=se_factor, sideways=sideways)
