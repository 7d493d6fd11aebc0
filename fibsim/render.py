"""The forward model: solid fraction + coefficients -> electrons leaving every milled face.

What is seen from a plane is its layer laid over what is seen from the plane below, so one pass
from the deepest layer upwards yields every slice of the stack, in O(voxels) whatever the
interaction depth::

    dB/dh = mu_b rho eta g_b - (mu_b rho + w_b (1 - rho)) B
    dS/dh = mu_s rho delta g_s (1 + b B) - (mu_s rho + w_s (1 - rho)) S

with B backscattered and S secondary electrons per beam electron, h the thickness laid on so far
and rho the solid fraction. Within a layer rho is constant and both equations are solved exactly,
so the image does not depend on how many layers a homogeneous stretch is cut into. In them

    mu                            solid: attenuation, `Coefficients.bse_attenuation` or se_
    w = loss * wall               pore: what is lost on the way out to walls at that height
    wall = (sum_i (1/s_i) G(s_i) * rho + <rho>/s_max) / 1.81
    g = 1 + incidence * tan(tilt) * facing slope      (and for S times the edge brightness,
        1 + edge_gain * (1 - G(edge_nm) * rho))

``wall`` is 1/r in the middle of a round pore of radius r, since
``sum_i exp(-r^2 / 2 s_i^2) / s_i ~ 1.81 / r`` for s_i = 2^i from the pixel to s_max, a quarter of
the image; the scales above it, which see the mean solid fraction of the layer, add up to
``<rho>/s_max``, so that a crop has the wall density of the whole. Limits:
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
from fibsim.resample import average_depth, filter_lateral, shift_lateral

__all__ = ["Emission", "Layers", "facing_slope", "mill_layers", "render_channel", "wall_density"]

# sum over s = 2^i of exp(-r^2 / 2 s^2) / s, times r, in the continuum limit: sqrt(pi/2) / ln 2.
_WALL_NORM = 1.8081
_TINY = 1e-12  # keeps 0 / 0 out of empty layers


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
        return sum(jnp.exp(-q2 * s**2 / 2) / s for s in scales)

    # sum of 1/s over all larger scales 2^i is 1/s_max.
    far = jnp.mean(rho, axis=(-2, -1), keepdims=True) / scales[-1]
    # Fourier ringing may leave a trace of negative density far from any wall.
    wall = jnp.maximum(filter_lateral(rho, transfer, periodic=periodic) + far, 0.0)
    return wall / (_WALL_NORM * pixel_nm)


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
    """Average the specimen over ``sublayers`` layers per slice, sheared along the beam.

    Face 0 is the top of the specimen. ``below`` further slices of nominal thickness follow the
    last face; depths past the specimen's end repeat its last layer. Averages, not values at the
    layers' centres: what the beam crosses does not depend on how finely it is cut.
    """
    thickness = jnp.concatenate([thickness_nm, jnp.broadcast_to(geometry.slice_nm, (below,))])
    face = jnp.cumsum(thickness) - thickness
    height = thickness / sublayers
    depth = height[:, None] * (jnp.arange(sublayers) + 0.5)  # of centres, below the own face
    lower = (depth + height[:, None] / 2 + face[:, None]).reshape(-1)
    border = jnp.concatenate([jnp.zeros_like(lower[:1]), lower])
    rho = average_depth(solid, border / voxel_z_nm)
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
        height_nm=height,
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


def _decay_mean(x: Array, y: Array | float) -> Array:
    """``(exp(-x) - exp(-y)) / (y - x)``, the mean of ``exp(-x u - y (1 - u))`` over u in 0..1."""
    difference = y - x
    near = jnp.abs(difference) < 0.02
    safe = jnp.where(near, 1.0, difference)
    series = jnp.exp(-(x + y) / 2) * (1.0 + difference**2 / 24)
    return jnp.where(near, series, (jnp.exp(-x) - jnp.exp(-y)) / safe)


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
    # step of the scan is a few multiply-adds: fast forward, and little to store for the gradient.
    height = layers.height_nm[:, None, None, None]
    solid_nm = layers.rho * height
    pore = (height - solid_nm) * layers.wall
    a_b, a_s = c.bse_attenuation * solid_nm, c.se_attenuation * solid_nm
    k_b, k_s = a_b + c.bse_wall_loss * pore, a_s + c.se_wall_loss * pore
    pass_b, pass_s = jnp.exp(-k_b), jnp.exp(-k_s)
    own_b = c.eta * bse_factor * a_b * _decay_mean(k_b, 0.0)
    # Secondaries of the layer: released by the beam, by backscatter of the layer itself, and by
    # what comes from below, each averaged over the layer.
    released = c.delta * se_factor * a_s
    below = _decay_mean(k_b, k_s)
    itself = c.eta * bse_factor * a_b / (k_b + _TINY) * (_decay_mean(k_s, 0.0) - below)
    own_s = released * (_decay_mean(k_s, 0.0) + c.se_by_bse * itself)
    by_back = released * c.se_by_bse * below

    def one_layer(carry, layer):
        back, second = carry
        own_b, pass_b, own_s, pass_s, by_back = layer
        second = own_s + by_back * back + pass_s * second
        return (own_b + pass_b * back, second), None

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
    terms = (own_b, pass_b, own_s, pass_s, by_back)
    xs = (*terms, jnp.mean(layers.rho, 1), thickness, layers.shift_px)
    _, (back, second) = jax.lax.scan(one_slice, start, xs, reverse=True)
    return Emission(secondary=second[:num_slices], backscatter=back[:num_slices])
