"""The forward model: volume fractions + coefficients -> electrons leaving every milled face.

What is seen from a plane is its layer laid over what is seen from the plane below, so one pass
from the deepest layer upwards yields every slice of the stack, in O(voxels) whatever the
interaction depth::

    dB/dh = sum over phases of mu_b rho eta g_b - k B
    dS/dh = sum over phases of mu_s rho (delta g_s (1 + b B) - S)

with B backscattered and S secondary electrons per beam electron, h the thickness laid on so far
and rho the volume fraction of a phase: of the solid, or of several materials. Within a layer rho
is constant and both equations are solved exactly, so the image does not depend on how many layers
a homogeneous stretch is cut into. In them

    mu      attenuation in a phase: `Coefficients.bse_attenuation` or se_attenuation
    k       mu_b rho + lateral_exit rho (around - <mu_b rho>): electrons leave sideways as well.
            <> is the mean over a slice's sub-layers from the layer's top down, those of the slice
            below included; around is it seen through a Gaussian of 5 median depths of the mean
            mixture
    edge    1 + edge_gain (dense - near)_+
    facing  -bse_facing tan(tilt) edge_nm d(near)/dy: beside a wall towards which the beam leans
    g_b     edge + facing
    g_s     edge + 0.5 facing, with near of the filled fraction in facing: secondaries leave
            into open space only
    dense   <sum of mu_b rho> over the largest mu_b: a light phase is half way to a pore
    near    G(edge_nm) * dense, what is close by

B and S are what would leave if nothing stood in the way out of the pores. What lies behind a
face's open area leaves through the pore, past its walls, or by way of them::

    B_seen = B (c_b past secant^n_b + walls)
    S_seen = S c past secant^n_s + 1.3 delta b B walls
    past   = open^1.8 + (1 - open^1.8) 0.42 exp(-W / (return_depth f pore))
    walls  = (1 - past) (r past^0.2 + (1 - r) 2^(-W / crossing))
    c_b    = 1 - (1 - c) (1 - 2^(-W / crossing))

with open, secant and W (the solid around the way out) of the first surface
(`fibsim.openness.View`), c the emission of a pore's wall relative to that of a milled face (of
backscatter only as far as electrons do not get through what stands around: a floor a few
nanometres deep is as good as a face), f the solid fraction, chord and pore the mean ways through a
wall and from one to the next (`fibsim.layers.Texture`), r the share that a wall reflects and
``crossing`` the W past which half of the rest gets (`Coefficients`). The second term of past are
ways out that a depth map cannot know, under what overhangs: free paths in a random medium end
after a mean pore. Where a slice's solid is laid over a pore, the scene in it is closed with what
was seen of it: B with (B_seen / B)^(1 + m) and S with (S_seen / S) (B_seen / B)^m, m being the
slice's mean fraction, since electrons that come through a thick layer of solid are spread over all
directions. It is closed for as much of a pixel as the fullest sub-layer covers: a film closes all
that it covers.

From slice to slice the carried scene is shifted by the lean of the beam. Of the electrons that
cross solid of optical thickness x = mu_b t, the share ``1 - exp(-1.1 x)`` has lost its direction
and sees the B below through a Gaussian as wide as the way to where it strikes next: the median
depth of the mean mixture and a third of a pore, in quadrature.

Limits: bulk gives ``B = eta``, ``S = delta (1 + b eta)`` exactly; a film of thickness t over
vacuum ``eta (1 - exp(-mu t))``; an infinite film over a gap over bulk has the eta of bulk.
The numbers in these laws, and the defaults of `fibsim.instrument.Interaction`, are calibrated once
on our own Monte Carlo images of four specimens (experiments/specimen_fidelity.py).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fibsim.instrument import Geometry
from fibsim.interaction import Coefficients
from fibsim.layers import Layers, Texture
from fibsim.openness import View
from fibsim.resample import shift_lateral, shift_whole
from fibsim.surroundings import (
    Surroundings,
    gaussian,
    median_depth_nm,
    solid_shares,
    surroundings,
    upper_layers,
    weighted,
)

__all__ = [
    "Emission",
    "ground_scene",
    "render_channel",
    "render_slice",
    "shares_seen",
]

# The calibrated numbers of the laws above.
_SE_THROUGH = 1.3  # electrons that come by way of walls cross more surfaces
_OPEN_POWER = 1.8
_HIDDEN_WAYS = 0.42
_REFLECTED_POWER = 0.2
_DIRECTION_LOSS = 1.1
_PORE_SPREAD = 0.33
_STEEPEST = 2.5  # secants beyond are rims
_LEAST_OPEN = 1e-4  # keeps the slope of powers of open finite
_LEAST_SEEN = 1e-6  # and of powers of what is seen
_TINY = 1e-12  # keeps 0 / 0 out of empty specimens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Emission:
    """Electrons per beam electron that leave each face; ``(slice, y, x)``."""

    secondary: Float[Array, "slice y x"]
    backscatter: Float[Array, "slice y x"]


@jax.custom_jvp
def _decay_mean(x: Array, pass_x: Array, y: Array, pass_y: Array) -> Array:
    """``(exp(-x) - exp(-y)) / (y - x)``, the mean of ``exp(-x u - y (1 - u))`` over u in 0..1.

    ``pass_x = exp(-x)`` and ``pass_y = exp(-y)`` are known already; the derivative is with respect
    to x and y and counts what these two pass on.
    """
    difference = y - x
    near = jnp.abs(difference) < 0.02
    safe = jnp.where(near, 1.0, difference)
    d = difference
    series = pass_x * (1.0 - d / 2 * (1.0 - d / 3 * (1.0 - d / 4 * (1.0 - d / 5))))
    return jnp.where(near, series, (pass_x - pass_y) / safe)


@_decay_mean.defjvp
def _decay_mean_slope(primals, tangents):
    """``df/dx = (f - exp(-x)) / (y - x)`` and ``df/dy = -f - df/dx``.

    Near y = x by ``sum over n of -exp(-x) (x - y)^n / (n + 2)!``.
    """
    x, pass_x, y, _ = primals
    mean = _decay_mean(*primals)
    d = y - x
    near = jnp.abs(d) < 0.1
    series = 0.5 * (1.0 - d / 3 * (1.0 - d / 4 * (1.0 - d / 5 * (1.0 - d / 6))))
    to_x = jnp.where(near, -pass_x * series, (mean - pass_x) / jnp.where(near, 1.0, d))
    return mean, to_x * tangents[0] - (mean + to_x) * tangents[2]


def _over_image(scalars, like: Array):
    """Every number of a pytree at every pixel of the last axes of ``like``: no arithmetic in a
    forward run, and a gradient adds up all uses of a number in one sum over the image, where each
    use would have a sum of its own."""
    shape = like.shape

    def spread(leaf):
        leaf = jnp.asarray(leaf, like.dtype)
        return jnp.broadcast_to(leaf[(..., *(None,) * len(shape))], (*leaf.shape, *shape))

    return jax.tree.map(spread, scalars)


def _mixed(
    peak: Float[Array, "phase ..."], attenuation: Float[Array, "phase ..."], thickness_nm: Array
) -> tuple[Array, Array]:
    """Attenuation of every layer, and what an endless mixture like it would emit.

    ``k = sum of mu t`` and ``sum of mu t peak / k``, with t a layer's thickness of each phase.
    """
    k = weighted(attenuation, thickness_nm)
    if len(peak) == 1:
        return k, peak[0]
    some = k > 0
    emits = weighted(attenuation * peak, thickness_nm)
    return k, jnp.where(some, emits / jnp.where(some, k, 1.0), 0.0)


def shares_seen(view: View, texture: Texture, c: Coefficients) -> tuple[Array, Array, Array]:
    """Factors on B, on S and of ``delta b B`` in S, of what lies behind each face's open area."""
    chord, period = texture.chord_nm, texture.period_nm
    # At least 1 nm: without any pore nothing is behind a face, and this only keeps 0 / 0 out.
    pore_nm = jnp.maximum(period - chord, 1.0)
    per_nm = period / (c.return_depth * chord * pore_nm)
    crossed = jnp.log(2.0) / c.crossing_nm
    per_nm, crossed, reflected, emission, exponents = _over_image(
        (per_nm, crossed, c.reflected, c.wall_emission, (c.bse_exponent, c.se_exponent)),
        view.open,
    )
    hidden = _HIDDEN_WAYS * jnp.exp(-view.walls_nm * per_nm)
    # exp and log: several times as fast as a power. A secant is never 0.
    straight = jnp.exp(_OPEN_POWER * jnp.log(jnp.maximum(view.open, _LEAST_OPEN)))
    past = straight + (1.0 - straight) * hidden
    crossing = jnp.exp(-view.walls_nm * crossed)
    bounced = reflected * jnp.exp(_REFLECTED_POWER * jnp.log(past))
    walls = (1.0 - past) * (bounced + (1.0 - reflected) * crossing)
    log_secant = jnp.log(jnp.minimum(view.secant, _STEEPEST))
    shallow = 1.0 - (1.0 - emission) * (1.0 - crossing)
    past_b, past_s = (
        emits * past * jnp.exp(exponent * log_secant)
        for emits, exponent in zip((shallow, emission), exponents, strict=True)
    )
    behind = 1.0 - view.face
    return (
        view.face + behind * (past_b + walls),
        view.face + behind * past_s,
        _SE_THROUGH * behind * walls,
    )


def ground_scene(
    deepest: Float[Array, "phase y x"], coefficients: Coefficients
) -> tuple[Array, Array]:
    """B and S under the deepest layer: of a half-space of each phase, in that layer's mean
    fractions, which is right for dense ground, dark for open space and the mean between them
    otherwise."""
    c, ground = coefficients, jnp.mean(deepest, (-2, -1))
    ones = jnp.ones_like(deepest[0])
    return (
        jnp.sum(c.eta * ground) * ones,
        jnp.sum(c.delta * (1.0 + c.se_by_bse * c.eta) * ground) * ones,
    )


def _mean_rho(rho: Float[Array, "phase sublayer y x"]) -> Float[Array, "phase y x"]:
    """Mean over the sub-layers of a slice, each counted alike."""
    # Not weighted by thickness: what lies near a face counts more in what closes a pore. A Python
    # sum of a few arrays joins what follows in one loop, a reduction would not.
    return sum(jnp.moveaxis(rho, 1, 0)) / rho.shape[1]


def render_slice(
    scene: tuple[Array, Array],
    rho: Float[Array, "phase sublayer y x"],
    near: Surroundings,
    height_nm: Float[Array, " sublayer"],
    seen: Float[Array, "3 y x"],
    seen_below: Float[Array, "3 y x"],
    texture: Texture,
    coefficients: Coefficients,
    geometry: Geometry,
    *,
    periodic: bool,
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Lay one slice over B and S of the slice below, for one channel.

    Args:
        scene: B and S at the top of the slice below.
        rho: the slice's fractions.
        near: their `surroundings`.
        height_nm: of its sub-layers.
        seen: `shares_seen` of its face.
        seen_below: of the face below; (1, 1, 0) where nothing is known to be hidden. It and
            ``scene`` are in the frame of this slice already.
        texture: of the whole specimen.

    Returns:
        B and S at the top of the slice, and what is seen of them.
    """
    c, mean = coefficients, _mean_rho(rho)
    filled = sum(mean)
    # What comes by way of walls has met all phases.
    release = c.se_by_bse * jnp.sum(solid_shares(texture) * c.delta)
    depth_nm = median_depth_nm(texture, c)
    pore_nm = texture.period_nm - texture.chord_nm

    def terms(rho, height_nm, near):
        """Of one layer: what it adds to B and S, and which part of them it lets through."""
        peaks, attenuations, se_by_bse, height = _over_image(
            ((c.eta, c.delta), (c.bse_attenuation, c.se_attenuation), c.se_by_bse, height_nm),
            rho[0],
        )
        thickness_nm = rho * height
        own_k, eta = _mixed(peaks[0], attenuations[0], thickness_nm)
        k_b = jnp.maximum(own_k + sum(thickness_nm) * near.sideways, 0.0)
        some = k_b > _TINY
        eta = eta * jnp.where(some, own_k / jnp.where(some, k_b, 1.0), 1.0)
        k_s, delta = _mixed(peaks[1], attenuations[1], thickness_nm)
        pass_b, pass_s = jnp.exp(-k_b), jnp.exp(-k_s)
        own_b = eta * near.bse_factor * (1.0 - pass_b)
        # Secondaries of the layer: released by the beam, by backscatter of the layer itself, and
        # by what comes from below, each averaged over the layer.
        released = delta * near.se_factor * k_s
        below = _decay_mean(k_b, pass_b, k_s, pass_s)
        alone = _decay_mean(k_s, pass_s, jnp.zeros_like(k_s), jnp.ones_like(k_s))
        itself = eta * near.bse_factor * (alone - below)
        own_s = released * (alone + se_by_bse * itself)
        by_back = released * se_by_bse * below
        return own_b, pass_b, own_s, pass_s, by_back

    def lay(scene, layer):
        back, second = scene
        own_b, pass_b, own_s, pass_s, by_back = layer
        return own_b + pass_b * back, own_s + by_back * back + pass_s * second

    (back, second), share = scene, seen_below
    # Solid laid over a pore closes it.
    release = _over_image(release, back)
    through = release * share[2] * back
    covered = functools.reduce(jnp.maximum, sum(rho))
    spread = jnp.exp(filled * jnp.log(jnp.maximum(share[0], _LEAST_SEEN)))
    second = second + covered * ((share[1] * second + through) * spread - second)
    back = back + covered * (share[0] * spread - 1.0) * back
    # Once per slice, whatever its number of sub-layers.
    attenuation, height = _over_image((c.bse_attenuation, jnp.sum(height_nm)), filled)
    crossed = weighted(attenuation, mean) * height
    width_nm = jnp.sqrt(depth_nm**2 + (_PORE_SPREAD * pore_nm) ** 2)
    back = back + (1.0 - jnp.exp(-_DIRECTION_LOSS * crossed)) * (
        gaussian(back, width_nm, geometry, periodic) - back
    )
    layers = (jnp.moveaxis(rho, 1, 0), height_nm, near)

    # A gradient computes the terms again: storing them takes longer.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def one_layer(scene, layer):
        return lay(scene, terms(*layer)), None

    lower = jax.tree.map(lambda leaf: leaf[1:], layers)
    scene, _ = jax.lax.scan(one_layer, (back, second), lower, reverse=True)
    back, second = scene
    visible = (back * seen[0], second * seen[1] + release * seen[2] * back)
    top = terms(*jax.tree.map(lambda leaf: leaf[0], layers))
    return lay(scene, top), lay(visible, top)


def render_channel(
    layers: Layers,
    view: View,
    coefficients: Coefficients,
    geometry: Geometry,
    *,
    num_slices: int,
    periodic: bool,
) -> Emission:
    """Run the recurrence for one channel (no channel axis) and return the first faces.

    The scan starts under the deepest layer with `ground_scene`.
    """
    c = coefficients
    shares = jnp.mean(layers.rho, (1, 2, 3, 4))
    texture = Texture(chord_nm=layers.chord_nm, period_nm=layers.period_nm, shares=shares)
    seen = jnp.stack(shares_seen(view, texture, c), axis=1)
    # Under the deepest slice nothing is known to be hidden: all is seen.
    open_ground = jnp.zeros_like(seen[:1]).at[:, :2].set(1.0)
    seen_below = jnp.concatenate([seen[1:], open_ground])

    def one_slice(carry, inputs):
        rho, height_nm, step_px, seen, seen_below = inputs
        (scene, beneath), seen_below = jax.tree.map(
            lambda v: shift_whole(v, step_px, axis=-2, periodic=periodic), (carry, seen_below)
        )
        near = surroundings(rho, beneath, texture, c, geometry, periodic=periodic)
        above, visible = render_slice(
            scene, rho, near, height_nm, seen, seen_below, texture, c, geometry, periodic=periodic
        )
        return (above, upper_layers(rho)), visible

    last = layers.rho[:, -1]
    beneath = jnp.broadcast_to(last[:, -1:], last.shape)
    start = ground_scene(last[:, -1], c), upper_layers(beneath)
    by_slice = jnp.moveaxis(layers.rho, 1, 0)
    xs = (by_slice, layers.height_nm, layers.step_px, seen, seen_below)
    _, images = jax.lax.scan(one_slice, start, xs, reverse=True)

    def back_on_grid(inputs):
        pair, part = inputs
        return shift_lateral(pair, -part, axis=-2, periodic=periodic)

    pairs = (jnp.stack(images, axis=1)[:num_slices], layers.part_px[:num_slices])
    on_grid = jnp.maximum(jax.lax.map(back_on_grid, pairs), 0.0)
    return Emission(backscatter=on_grid[:, 0], secondary=on_grid[:, 1])
