"""The forward model: solid fraction + coefficients -> electrons leaving every milled face.

What is seen from a plane is its layer laid over what is seen from the plane below, so one pass
from the deepest layer upwards yields every slice of the stack, in O(voxels) whatever the
interaction depth::

    B_k = eta (1 - t_b) g_b  +  t_b p_b B_{k+1}
    S_k = delta (1 - t_s) g_s (1 + b B_k)  +  t_s p_s S_{k+1}

with B backscattered and S secondary electrons per beam electron, solid fraction rho, layer
thickness h and, for the solid and the pore part of a layer,

    t = exp(-mu rho h)            solid: attenuation, `Coefficients.bse_attenuation` or se_
    p = exp(-w (1 - rho) h)       pore: what is lost on the way out to walls at that height
    w = loss * wall,  wall = sum_i (1/s_i) G(s_i) * rho / 1.81
    g = 1 + incidence * tan(tilt) * facing slope      (and for S times the edge brightness,
        1 + edge_gain * (1 - G(edge_nm) * rho))

``wall`` is 1/r in the middle of a round pore of radius r, at every scale between the pixel and a
quarter of the image, since ``sum_i exp(-r^2 / 2 s_i^2) / s_i ~ 1.81 / r`` for s_i = 2^i. Limits:
bulk gives ``B = eta``, ``S = delta (1 + b eta)`` exactly; a film of thickness t over vacuum
``eta (1 - exp(-mu t))``; an infinite film over a gap over bulk has the eta of bulk up to the
pore loss. From slice to slice the carried scene is changed twice: the beam leans, so it shifts by
thickness x tan(tilt) (the layers inside a slice are sheared by their own depth below the face);
and the beam spreads in what it crosses, so under solid B is seen through a Gaussian of variance
spread x thickness.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fibsim.instrument import Geometry
from fibsim.interaction import Coefficients
from fibsim.resample import filter_lateral, sample_depth, shift_lateral

__all__ = ["Emission", "Layers", "facing_slope", "mill_layers", "render_channel", "wall_density"]

# sum over s = 2^i of exp(-r^2 / 2 s^2) / s, times r, in the continuum limit: sqrt(pi/2) / ln 2.
_WALL_NORM = 1.8081


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Layers:
    """The specimen cut along the milled faces.

    Attributes:
        rho: solid fraction of sub-layer j of slice k, sheared along the beam to the frame of
            face k; ``(slice, sublayer, y, x)``. Slices past the last face carry what lies below.
        wall: local wall density in 1/nm, same shape and frame.
        height_nm: thickness of the sub-layers of each slice; ``(slice,)``.
        shift_px: lean of the beam over each slice; ``(slice,)``.
    """

    rho: Float[Array, "slice sublayer y x"]
    wall: Float[Array, "slice sublayer y x"]
    height_nm: Float[Array, " slice"]
    shift_px: Float[Array, " slice"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Emission:
    """Electrons per beam electron that leave each face; ``(slice, y, x)``."""

    secondary: Float[Array, "slice y x"]
    backscatter: Float[Array, "slice y x"]


def wall_density(
    rho: Float[Array, "... y x"], pixel_nm: Float[Array, ""], *, periodic: bool
) -> Array:
    """``wall`` of the module docstring in 1/nm: near 1/r in the middle of a pore of radius r."""
    largest = max(min(rho.shape[-2:]) // 4, 1)
    scales = [2.0**i for i in range(largest.bit_length())]

    def transfer(q2):
        return sum(jnp.exp(-q2 * s**2 / 2) / s for s in scales) / _WALL_NORM

    # Fourier ringing may leave a trace of negative density far from any wall.
    return jnp.maximum(filter_lateral(rho, transfer, periodic=periodic), 0.0) / pixel_nm


def mill_layers(
    solid: Float[Array, "z y x"],
    thickness_nm: Float[Array, " slice"],
    geometry: Geometry,
    *,
    voxel_z_nm: float,
    sublayers: int,
    below: int,
    periodic: bool,
) -> Layers:
    """Resample the specimen onto ``sublayers`` layers per slice, sheared along the beam.

    Face 0 is the top of the specimen. ``below`` further slices of nominal thickness follow the
    last face; depths past the specimen's end repeat its last layer.
    """
    thickness = jnp.concatenate([thickness_nm, jnp.broadcast_to(geometry.slice_nm, (below,))])
    face = jnp.cumsum(thickness) - thickness
    step = (jnp.arange(sublayers) + 0.5) / sublayers
    depth = thickness[:, None] * step  # below the slice's own face
    centre = (face[:, None] + depth).reshape(-1)
    rho = sample_depth(solid, centre / voxel_z_nm - 0.5)
    lean = jnp.tan(jnp.deg2rad(geometry.tilt_deg)) / geometry.pixel_nm
    wall = wall_density(rho, geometry.pixel_nm, periodic=periodic)

    def shear(layer):
        both, offset = layer
        return shift_lateral(both, offset, axis=-2, periodic=periodic)

    offsets = (depth * lean).reshape(-1)
    sheared = jax.lax.map(shear, (jnp.stack([rho, wall], axis=1), offsets))
    shape = (len(thickness), sublayers, *rho.shape[1:])
    return Layers(
        rho=jnp.clip(sheared[:, 0], 0.0, 1.0).reshape(shape),
        wall=jnp.maximum(sheared[:, 1], 0.0).reshape(shape),
        height_nm=thickness / sublayers,
        shift_px=thickness * lean,
    )


def facing_slope(rho: Float[Array, "... y x"], *, periodic: bool) -> Array:
    """``-s d/dy (G(s) * rho)`` with s one pixel: about 0.4 n_y at a wall of outward normal n.

    Positive where the surface turns away from a beam that leans towards +y, which then strikes
    it at grazing incidence and releases more electrons (the secant law; Reimer 1998).
    """
    smooth = filter_lateral(rho, lambda q2: jnp.exp(-q2 / 2), periodic=periodic)
    one = jnp.ones((), rho.dtype)
    before = shift_lateral(smooth, -one, axis=-2, periodic=periodic)
    after = shift_lateral(smooth, one, axis=-2, periodic=periodic)
    return (before - after) / 2


def render_channel(
    layers: Layers,
    coefficients: Coefficients,
    geometry: Geometry,
    *,
    num_slices: int,
    periodic: bool,
) -> Emission:
    """Run the recurrence for one channel (scalar coefficients) and return the first faces.

    The scan starts under the deepest layer with the signal of a half-space of the mean
    solid fraction of that layer, which is right for dense ground, dark for open space and the
    mean between them otherwise.
    """
    c = coefficients

    def edge_transfer(q2):
        return jnp.exp(-q2 * (c.edge_nm / geometry.pixel_nm) ** 2 / 2)

    # Lateral openness of the solid's surroundings: 0 inside bulk, 1/2 at a straight wall.
    near = filter_lateral(layers.rho, edge_transfer, periodic=periodic)
    edge = 1.0 + c.edge_gain * jnp.maximum(1.0 - near, 0.0)
    slope = facing_slope(layers.rho, periodic=periodic) * jnp.tan(jnp.deg2rad(geometry.tilt_deg))
    se_factor = edge * jnp.maximum(1.0 + c.se_incidence * slope, 0.0)
    bse_factor = jnp.maximum(1.0 + c.bse_incidence * slope, 0.0)

    # All that does not depend on the carry is computed for the whole volume at once, so that a
    # step of the scan is two multiply-adds: fast forward, and little to store for the gradient.
    height = layers.height_nm[:, None, None, None]
    solid_nm = layers.rho * height
    pore = (height - solid_nm) * layers.wall
    t_b = jnp.exp(-c.bse_attenuation * solid_nm)
    t_s = jnp.exp(-c.se_attenuation * solid_nm)
    own_b = c.eta * (1.0 - t_b) * bse_factor
    own_s = c.delta * (1.0 - t_s) * se_factor
    pass_b = t_b * jnp.exp(-c.bse_wall_loss * pore)
    pass_s = t_s * jnp.exp(-c.se_wall_loss * pore)

    def one_layer(carry, layer):
        back, second = carry
        own_b, pass_b, own_s, pass_s = layer
        back = own_b + pass_b * back
        second = own_s * (1.0 + c.se_by_bse * back) + pass_s * second
        return (back, second), None

    def one_slice(carry, inputs):
        *layers_of_slice, mean_rho, thickness, shift = inputs
        back, second = shift_lateral(jnp.stack(carry), shift, axis=-2, periodic=periodic)
        # The beam spreads in the solid that it crosses, so only under solid is the view blurred.
        # Once per slice: as wide as the slice is thick, whatever its number of sub-layers.
        variance = c.spread * thickness / geometry.pixel_nm**2
        blurred = filter_lateral(back, lambda q2: jnp.exp(-q2 * variance / 2), periodic=periodic)
        back = back + mean_rho * (blurred - back)
        carry, _ = jax.lax.scan(one_layer, (back, second), tuple(layers_of_slice), reverse=True)
        return carry, carry

    ground = jnp.mean(layers.rho[-1, -1]) * jnp.ones_like(layers.rho[-1, -1])
    start = (c.eta * ground, c.delta * (1.0 + c.se_by_bse * c.eta) * ground)
    thickness = layers.height_nm * layers.rho.shape[1]
    xs = (own_b, pass_b, own_s, pass_s, jnp.mean(layers.rho, 1), thickness, layers.shift_px)
    _, (back, second) = jax.lax.scan(one_slice, start, xs, reverse=True)
    return Emission(secondary=second[:num_slices], backscatter=back[:num_slices])
