"""The forward model slice by slice: from layers of the specimen to grey values of all channels.

What a face shows depends on its own slice and on what is seen from the face below, so the whole
chain, from the cut through the specimen to the grey value, is one scan from the deepest slice
upwards. Its carry is a `Scene`: memory beyond the specimen and the images is that of one slice,
its arrays stay in the cache, and a volume may come in slabs (`fibsim.slabs`).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fibsim.instrument import Instrument
from fibsim.interaction import Coefficients
from fibsim.layers import Cuts, Texture, lean_layers
from fibsim.milling import Milling
from fibsim.openness import around, deepest_maps, face_view, lay_depth
from fibsim.recording import focus_face, shade_face
from fibsim.render import ground_scene, render_slice, shares_seen
from fibsim.resample import map_slices, shift_lateral, shift_whole
from fibsim.surroundings import surroundings, upper_layers

__all__ = ["Scene", "first_scene", "image_slices", "with_slices_below"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """All that a slice needs to know of what lies below it, in the frame of the face below.

    Attributes:
        back, second: B and S of `fibsim.render`.
        seen: `fibsim.render.shares_seen` of the face below.
        maps: its depth map, the solid around the way out, and its solid share
            (`fibsim.openness.lay_depth`).
        rho: `fibsim.surroundings.upper_layers` of the slice below.
    """

    back: Float[Array, "channel y x"]
    second: Float[Array, "channel y x"]
    seen: Float[Array, "channel 3 y x"]
    maps: Float[Array, "3 y x"]
    rho: Float[Array, "phase upper y x"]


def first_scene(
    mean: Float[Array, "slice phase sublayer y x"],
    offset_px: Float[Array, "slice sublayer 2"],
    coefficients: Coefficients,
    *,
    periodic: bool,
) -> Scene:
    """Under the deepest layer of slices whose mean fractions are given.

    Nothing is known to be hidden there: all is seen, and solid is taken to begin.
    """

    # In a loop of its own, which rounds alike whatever the program that it is part of.
    def ground(inputs):
        leaning = lean_layers(*inputs, periodic=periodic)
        return *jax.vmap(ground_scene, in_axes=(None, 0))(leaning[:, 0], coefficients), leaning

    deepest = mean[-1:, :, -1:], offset_px[-1:, -1:]
    back, second, leaning = (v[0] for v in map_slices(ground, deepest))
    nothing = jnp.zeros_like(back)
    seen = jnp.stack([jnp.ones_like(back), jnp.ones_like(back), nothing], axis=1)
    rho = upper_layers(jnp.broadcast_to(leaning, mean[-1].shape))
    return Scene(back=back, second=second, seen=seen, maps=deepest_maps(back[0]), rho=rho)


def with_slices_below(milling: Milling, below: int) -> Milling:
    """A row for every slice of `plan_cuts`; those below the last face are never imaged."""

    def extend(leaf):
        return jnp.concatenate([leaf, jnp.broadcast_to(leaf[-1:], (below, *leaf.shape[1:]))])

    return jax.tree.map(extend, milling)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _for_each(image: Array, channels: int) -> Float[Array, "channel ..."]:
    """The same for every channel. Its cotangents are added by hand, which fuses with what made
    them; XLA's sum over an outer axis is many times slower on CPUs."""
    return jnp.broadcast_to(image, (channels, *image.shape))


_for_each.defvjp(
    lambda image, channels: (_for_each(image, channels), None),
    lambda channels, _, cotangent: (sum(cotangent[c] for c in range(channels)),),
)


def image_slices(
    scene: Scene,
    mean: Float[Array, "slice phase sublayer y x"],
    cuts: Cuts,
    milling: Milling,
    imaged: Array,
    texture: Texture,
    coefficients: Coefficients,
    instrument: Instrument,
    *,
    periodic: bool,
    recorded: bool = True,
) -> tuple[Scene, Float[Array, "slice channel *signal y x"]]:
    """Lay slices over a scene, the last one first, and record their faces.

    Args:
        scene: what lies below them.
        mean: the specimen's fractions, averaged over each sub-layer.
        cuts, milling: their rows belong to these slices; ``cuts.border_nm`` is not used.
        imaged: whether a slice's face is recorded; ``(slice,)``. The others' images are zero.
        texture: of the whole specimen.
        coefficients: `fibsim.interaction.channel_coefficients` of the instrument.
        instrument: the microscope.
        periodic: whether opposite borders of an image fit together.
        recorded: False leaves out all that `fibsim.recording` does.

    Returns:
        The scene above them, and their expected grey values; not recorded, the backscattered
        and secondary electrons that leave the faces, as two signals.
    """
    geometry = instrument.geometry

    # A gradient computes each slice again from the scene below it: what is stored for it is one
    # scene per slice.
    def one_slice(scene: Scene, inputs):
        mean, height_nm, offset_px, step_px, part_px, faults, imaged = inputs
        drift_px = faults.drift_nm[0] / geometry.pixel_nm
        rho = lean_layers(mean, offset_px, periodic=periodic)
        filled = sum(rho)
        near = around(sum(filled) / len(filled), texture, geometry, periodic=periodic)
        maps = lay_depth(scene.maps, filled, near, height_nm, step_px, periodic=periodic)
        view = face_view(maps[:2], filled[0], geometry, periodic=periodic)

        def channel(c, response, back, second, seen_below, rho_here, view):
            seen = jnp.stack(shares_seen(view, texture, c))
            # Filters of the slice that all channels share need its fractions without their axis.
            near = surroundings(rho, beneath, texture, c, geometry, periodic=periodic)
            above, visible = render_slice(
                (back, second),
                rho_here,
                near,
                height_nm,
                seen,
                seen_below,
                texture,
                c,
                geometry,
                periodic=periodic,
            )

            def emit(visible):
                shifted = (shift_lateral(v, -part_px, axis=-2, periodic=periodic) for v in visible)
                return [jnp.maximum(v, 0.0) for v in shifted]

            if not recorded:
                faces = jax.lax.cond(
                    imaged, lambda v: jnp.stack(emit(v)), lambda v: jnp.zeros_like(jnp.stack(v)),
                    visible,
                )  # fmt: skip
                return *above, seen, faces

            def focus(visible):
                return focus_face(*emit(visible), response, drift_px, geometry, periodic=periodic)

            def record(signal):
                return shade_face(signal, response, faults, drift_px, periodic=periodic)

            # Two branches and not one: XLA would compute the first shift anew in each of the
            # second's four terms.
            signal = jax.lax.cond(imaged, focus, lambda v: jnp.zeros_like(v[0]), visible)
            grey = jax.lax.cond(imaged, record, jnp.zeros_like, signal)
            return *above, seen, grey

        # Before the map over channels: rows are then read in place.
        below = jax.tree.map(
            lambda v: shift_whole(v, step_px, axis=-2, periodic=periodic),
            (scene.back, scene.second, scene.seen),
        )
        beneath = shift_whole(scene.rho, step_px, axis=-2, periodic=periodic)
        rho_each, view_each = jax.tree.map(lambda v: _for_each(v, len(scene.back)), (rho, view))
        back, second, seen, grey = jax.vmap(channel)(
            coefficients,
            instrument.detector,
            *below,
            rho_each,
            view_each,
        )
        rho = upper_layers(rho)
        return Scene(back=back, second=second, seen=seen, maps=maps, rho=rho), grey

    faults = jax.tree.map(lambda leaf: leaf[:, None], milling)
    xs = (mean, cuts.height_nm, cuts.offset_px, cuts.step_px, cuts.part_px, faults, imaged)
    body = jax.checkpoint(one_slice, prevent_cse=False)
    return jax.lax.scan(body, scene, xs, reverse=True)
