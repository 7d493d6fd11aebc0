"""The specimen as the beam meets it: cut along the milled faces and sheared to its direction."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fibsim.instrument import Geometry
from fibsim.resample import average_depth, shift_fractions

__all__ = [
    "Cuts",
    "Layers",
    "Texture",
    "chords_nm",
    "grid_below",
    "lean_layers",
    "mean_chords_nm",
    "mean_shares",
    "mill_layers",
    "phase_shares",
    "plan_cuts",
    "slice_shares",
    "slices_of_steps",
    "sublayer_borders",
    "surface_counts",
    "texture_of",
    "voxels_per_slice",
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Layers:
    """The specimen cut along the milled faces, in the frame of the leaning beam.

    In the frame of face k a beam that enters at row y stays at row y however deep it goes. Frames
    of neighbouring faces differ by whole pixels, so that a scene is carried from one to the next
    without interpolation; the rest of a face's displacement is ``part_px``, which its image is
    moved back by at the end.

    Attributes:
        rho: volume fraction of each phase in sub-layer j of slice k; ``(phase, slice, sublayer,
            y, x)``, what is left is open. Slices past the last face carry what lies below.
        height_nm: thickness of the sub-layers; ``(slice, sublayer)``.
        step_px: whole pixels from the frame of face k to that of face k + 1; ``(slice,)``.
        part_px: displacement of the frame of face k beyond the pixel grid; ``(slice,)``.
        chord_nm, period_nm: mean straight way through one wall, and from wall to wall, of
            `mean_chords_nm`.
    """

    rho: Float[Array, "phase slice sublayer y x"]
    height_nm: Float[Array, "slice sublayer"]
    step_px: Int[Array, " slice"]
    part_px: Float[Array, " slice"]
    chord_nm: Float[Array, ""]
    period_nm: Float[Array, ""]

    @property
    def filled(self) -> Float[Array, "slice sublayer y x"]:
        """Fraction that is not open, all phases together."""
        return jnp.sum(self.rho, 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cuts:
    """Where the sub-layers of every slice lie, and how far the beam's frame has moved there.

    Attributes:
        border_nm: upper borders of all sub-layers, and the lower one of the deepest.
        height_nm, step_px, part_px: see `Layers`.
        offset_px: displacements, in the frame of its own face, of the two depths that stand for
            each sub-layer.
    """

    border_nm: Float[Array, " border"]
    height_nm: Float[Array, "slice sublayer"]
    offset_px: Float[Array, "slice sublayer 2"]
    step_px: Int[Array, " slice"]
    part_px: Float[Array, " slice"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Texture:
    """What all slices must know of the whole specimen.

    Attributes:
        chord_nm, period_nm: see `mean_chords_nm`.
        shares: mean fraction of each phase in what is milled and looked through.
    """

    chord_nm: Float[Array, ""]
    period_nm: Float[Array, ""]
    shares: Float[Array, " phase"]


def surface_counts(
    phases: Float[Array, "phase z y x"], *, periodic: bool
) -> tuple[Float[Array, " z"], Float[Array, " z"]]:
    """``<|rho(x + 1) - rho(x)|>`` and ``<rho>`` of every layer, rho being all phases together."""

    def one(layer):
        layer = jnp.minimum(sum(layer), 1.0)
        step = jnp.sum(jnp.abs(layer[:, 1:] - layer[:, :-1]))
        pairs = layer.shape[1] - 1
        if periodic:
            step, pairs = step + jnp.sum(jnp.abs(layer[:, 0] - layer[:, -1])), pairs + 1
        return step / (layer.shape[0] * max(pairs, 1)), jnp.mean(layer)

    return jax.lax.map(one, jnp.moveaxis(phases, 1, 0))


def chords_nm(
    surfaces: Float[Array, " z"], fraction: Float[Array, " z"], pixel_nm: Float[Array, ""]
) -> tuple[Array, Array]:
    """`mean_chords_nm` from what `surface_counts` found in every layer."""
    counted = surfaces > 0
    many = jnp.sum(counted)
    total = jnp.where(many > 0, jnp.sum(surfaces), 1.0)
    period = jnp.where(many > 0, 2 * pixel_nm * many / total, 1e6 * pixel_nm)
    mean = jnp.sum(fraction * counted) / jnp.maximum(many, 1)
    return jnp.where(many > 0, mean, 1.0) * period, period


def mean_chords_nm(
    solid: Float[Array, "z y x"], pixel_nm: Float[Array, ""], *, periodic: bool
) -> tuple[Array, Array]:
    """Mean chord of the solid along x, and mean way from chord to chord, in nm.

    ``2 <rho> pixel / <|rho(x + 1) - rho(x)|>``, since each chord ends at two surfaces, and
    ``2 pixel / <|rho(x + 1) - rho(x)|>`` (Underwood 1970, Quantitative Stereology), over the
    layers in which there are surfaces at all: dense ground or open space above the specimen does
    not count. Without any surface both are a million pixels.
    """
    return chords_nm(*surface_counts(solid[None], periodic=periodic), pixel_nm)


def slices_of_steps(below: int) -> tuple[int, ...]:
    """Nominal slices in each step under the last face: 1, 1, 1, 1, 2, 2, 3, 3, ...

    What lies deep is seen through what lies above it, blurred and faint, so its layers may be
    thicker: ten steps reach 22 slices deep, where electrons of 5 keV still look into pores.
    """
    return tuple(max(i // 2, 1) for i in range(below))


def voxels_per_slice(sublayers: int) -> int:
    """Layers of a specimen's grid on which every border of sub-layers lies, ``n (n + 1) / 2``."""
    return sublayers * (sublayers + 1) // 2


def sublayer_borders(sublayers: int) -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower borders of a slice's sub-layers, in units of its thickness.

    >>> sublayer_borders(2)[1].round(3).tolist()
    [0.333, 1.0]
    """
    number = np.arange(sublayers + 1)
    border = number * (number + 1) / (2 * voxels_per_slice(sublayers))
    return border[:-1], border[1:]


def grid_below(
    shape: tuple[int, int, int],
    *,
    slice_nm: float,
    pixel_nm: float,
    sublayers: int,
    below_slices: int,
) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Layers and pixels of a specimen that reaches below a stack of ``shape``, and their size."""
    voxels = voxels_per_slice(sublayers)
    layers = (shape[0] + sum(slices_of_steps(below_slices))) * voxels
    return (layers, *shape[1:]), (slice_nm / voxels, pixel_nm, pixel_nm)


def plan_cuts(
    thickness_nm: Float[Array, " slice"],
    geometry: Geometry,
    *,
    sublayers: int,
    below: Sequence[int],
) -> Cuts:
    """Sub-layers of all slices, and of steps of ``below`` nominal slices each under the last.

    Their thickness grows from the face down as 1 : 2 : 3 ...: secondaries escape from a nanometre,
    and the first layer is what a face shows. In a thicker one, walls that slope away from a rim
    would be as bright as the face.
    """
    deeper = geometry.slice_nm * jnp.asarray(below, thickness_nm.dtype)
    thickness = jnp.concatenate([thickness_nm, deeper])
    face = jnp.concatenate([jnp.zeros_like(thickness[:1]), jnp.cumsum(thickness)])
    top, bottom = sublayer_borders(sublayers)
    # Below the own face. A beam that leans passes a layer over a range of places; the mean over it
    # is that of two (Gauss): at the middle alone, walls would be sharper the thicker layers are.
    middle, spread = (top + bottom) / 2, (bottom - top) / 12**0.5
    depth = thickness[:, None, None] * np.stack([middle - spread, middle + spread], axis=-1)
    lower = (thickness[:, None] * bottom + face[:-1, None]).reshape(-1)
    lean = jnp.tan(jnp.deg2rad(geometry.tilt_deg)) / geometry.pixel_nm
    whole = jnp.round(jax.lax.stop_gradient(face * lean))
    part = face * lean - whole
    return Cuts(
        border_nm=jnp.concatenate([jnp.zeros_like(lower[:1]), lower]),
        height_nm=thickness[:, None] * (bottom - top),
        offset_px=depth * lean + part[:-1, None, None],
        step_px=jnp.diff(whole).astype(jnp.int32),
        part_px=part[:-1],
    )


def lean_layers(
    mean: Float[Array, "phase sublayer y x"],
    offset_px: Float[Array, "sublayer 2"],
    *,
    periodic: bool,
) -> Float[Array, "phase sublayer y x"]:
    """The sub-layers of one slice in the frame of the leaning beam of its face."""

    def shear(layer):
        phases, offset = layer
        return sum(shift_fractions(phases, o, axis=-2, periodic=periodic) for o in offset) / 2

    sheared = jax.lax.map(shear, (jnp.moveaxis(mean, 1, 0), offset_px))
    return jnp.moveaxis(sheared, 1, 0)


def phase_shares(
    mean: Float[Array, "slice phase sublayer y x"],
    offset_px: Float[Array, "slice sublayer 2"],
    *,
    periodic: bool,
) -> Float[Array, " phase"]:
    """Mean fraction of each phase in the leaning layers; 1 where there is a single phase, since
    only ratios count."""
    if mean.shape[1] == 1:
        return jnp.ones(1, mean.dtype)
    return mean_shares(slice_shares(mean, offset_px, periodic=periodic))


def mean_shares(each: Float[Array, "slice phase"]) -> Float[Array, " phase"]:
    """Mean over slices, added one after the other, so that it rounds alike wherever it stands."""

    def add(total, share):
        return total + share, None

    return jax.lax.scan(add, jnp.zeros_like(each[0]), each)[0] / len(each)


def slice_shares(
    mean: Float[Array, "slice phase sublayer y x"],
    offset_px: Float[Array, "slice sublayer 2"],
    *,
    periodic: bool,
) -> Float[Array, "slice phase"]:
    """Mean fraction of each phase in every slice."""

    def one(inputs):
        return jnp.mean(lean_layers(*inputs, periodic=periodic), (1, 2, 3))

    return jax.lax.map(jax.checkpoint(one), (mean, offset_px))


def texture_of(
    phases: Float[Array, "phase z y x"],
    shares: Float[Array, " phase"],
    geometry: Geometry,
    *,
    periodic: bool,
) -> Texture:
    """`Texture` of a specimen whose ``shares`` are known."""
    chord, period = chords_nm(*surface_counts(phases, periodic=periodic), geometry.pixel_nm)
    return Texture(chord_nm=chord, period_nm=period, shares=shares)


def mill_layers(
    phases: Float[Array, "phase z y x"],
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
    cuts = plan_cuts(thickness_nm, geometry, sublayers=sublayers, below=(1,) * below)
    mean = jax.vmap(average_depth, in_axes=(0, None))(phases, cuts.border_nm / voxel_z_nm)
    count, _, *lateral = mean.shape
    mean = mean.reshape(count, len(cuts.height_nm), sublayers, *lateral)

    def lean(inputs):
        return lean_layers(*inputs, periodic=periodic)

    rho = jnp.moveaxis(jax.lax.map(lean, (jnp.moveaxis(mean, 1, 0), cuts.offset_px)), 0, 1)
    texture = texture_of(phases, jnp.mean(rho, (1, 2, 3, 4)), geometry, periodic=periodic)
    return Layers(
        rho=rho,
        height_nm=cuts.height_nm,
        step_px=cuts.step_px,
        part_px=cuts.part_px,
        chord_nm=texture.chord_nm,
        period_nm=texture.period_nm,
    )
