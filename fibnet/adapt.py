"""Training on what was segmented: the volume itself as the specimen that is simulated.

A network trained on specimens of a generator is as good as the generator resembles the user's.
Its first segmentation, wrong here and there, is more like the user's specimen than any generator's
draws. Imaged by the refitted instrument it gives training stacks whose labels are exact whatever
the segmentation's errors: they are of the volume that was imaged, not of the user's. Half of the
stacks still come from a generator, so that what the network missed altogether is not lost.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fibnet.data import SimulatedData, Source, randomise
from fibsim.fit.faces import bulge_at, bulge_midway, central_part, level_field
from fibsim.fit.simulated import draw_specimen
from fibsim.instrument import Instrument
from fibsim.layers import grid_below
from fibsim.simulate import sample_stack
from fibsim.specimens import Specimen, on_ground, part_on_ground

__all__ = [
    "AdaptedSource",
    "Volume",
    "cut_volume",
    "draw_adapted_stack",
    "has_both_phases",
    "volume_to_draw",
]

_LARGEST_SCALE = 1.15
_FRACTION_CHANGE = 0.05
_SMOOTH_PX = 0.7
_LEVELS = 21
# Slices and pixels of a volume that are kept to draw from.
_KEPT = (192, 384, 384)
# Share of a phase below which nothing can be learned of a volume, or refitted to it.
_FEWEST = 0.002


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Volume:
    """A segmented volume, ready to be cut and varied; made by `volume_to_draw`.

    Attributes:
        field: smoothed signed distance to the interface in pixels, positive in the solid, at every
            face; ``(slice, y, x)``.
        levels: what to add to the field so that the solid fraction changes by -0.05 to 0.05, in
            equal steps.
        bulge: of the field midway between faces (`fibsim.fit.faces.bulge_midway`).
        slice_nm, pixel_nm: grid, static.
    """

    field: Float[Array, "slice y x"]
    levels: Float[Array, " level"]
    bulge: Float[Array, ""]
    slice_nm: float = dataclasses.field(metadata=dict(static=True))
    pixel_nm: float = dataclasses.field(metadata=dict(static=True))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptedSource:
    """What training stacks are drawn from once a volume is known.

    Attributes:
        source: refitted instrument, and the generator of the other specimens.
        volume: the segmented volume.
        share: share of stacks whose specimen is cut from the volume.
    """

    source: Source
    volume: Volume
    share: Float[Array, ""]

    @property
    def instrument(self) -> Instrument:
        return self.source.instrument

    @property
    def specimen(self) -> dict[str, Array]:
        return self.source.specimen

    @property
    def slice_nm(self) -> float:
        return self.source.slice_nm


def has_both_phases(probability: Float[np.ndarray, "slice y x"]) -> bool:
    """Whether a segmented volume is neither all solid nor all pore, but for 0.2 % of its voxels."""
    return bool(_FEWEST < np.mean(probability > 0.5) < 1 - _FEWEST)


def volume_to_draw(
    probability: Float[np.ndarray, "slice y x"], *, slice_nm: float, pixel_nm: float
) -> Volume:
    """The middle of a segmented volume (at most 192 x 384 x 384) as a field that can be cut.

    The signed distance of each slice (`fibsim.fit.faces.level_field`) is smoothed by a Gaussian of
    0.7 pixels in the plane, which takes away single wrong pixels.
    """
    from scipy.ndimage import gaussian_filter

    field = level_field(central_part(probability, _KEPT), reach_px=slice_nm / pixel_nm)
    field = gaussian_filter(field, (0, _SMOOTH_PX, _SMOOTH_PX))
    solid = float(np.mean(field > 0))
    changes = np.linspace(-_FRACTION_CHANGE, _FRACTION_CHANGE, _LEVELS)
    wanted = np.clip(solid + changes, 0.01, 0.99)
    return Volume(
        field=jnp.asarray(field),
        levels=jnp.asarray(-np.quantile(field, 1 - wanted), field.dtype),
        bulge=jnp.asarray(bulge_midway(field), field.dtype),
        slice_nm=slice_nm,
        pixel_nm=pixel_nm,
    )


def _positions(key: Array, size: int, new: int, step: Array, imaged: float) -> Array:
    """``new`` positions ``step`` apart from a random one on, such that the first ``imaged`` steps
    lie inside an axis of ``size`` points where they can."""
    room = jnp.maximum(size - 1 - imaged * step, 0.0)
    return jax.random.uniform(key) * room + (jnp.arange(new) + 0.5) * step


def _axis_weights(positions: Array, start: Array, count: int) -> Float[Array, "new old"]:
    """Linear interpolation at positions of an axis from a window of it, mirrored at its ends."""
    last = max(count - 1, 1)
    inside = jnp.abs(positions - start) % (2 * last)
    inside = jnp.minimum(inside, 2 * last - inside)
    return jnp.maximum(1 - jnp.abs(inside[:, None] - jnp.arange(count)), 0.0)


def cut_volume(
    volume: Volume,
    *,
    key: Array,
    shape: tuple[int, int, int],
    layer_nm: float,
    imaged_nm: float,
) -> Float[Array, "z y x"]:
    """Solid fraction of a random, varied part of the volume. Traceable.

    Enlarged or reduced alike in all directions by up to 15 %, and its level shifted so that the
    volume's solid fraction changes by up to 0.05 either way. Below what is imaged the volume goes
    on, mirrored where it ends; so it is at the sides of a volume smaller than ``shape``. Between
    faces the field is interpolated as in `fibsim.fit.faces.fill_slices`.

    Args:
        shape: layers and pixels of the part, static.
        layer_nm: thickness of a layer, static.
        imaged_nm: depth that should lie inside the volume, static.
    """
    keys = jax.random.split(key, 5)
    bound = math.log(_LARGEST_SCALE)
    scale = jnp.exp(jax.random.uniform(keys[0], minval=-bound, maxval=bound))
    steps = (layer_nm / volume.slice_nm, 1.0, 1.0)
    imaged = (imaged_nm / layer_nm, *shape[1:])
    field = volume.field
    starts, counts, positions = [], [], []
    for axis in range(3):
        size, new, step = field.shape[axis], shape[axis], steps[axis] / scale
        at = _positions(keys[axis + 1], size, new, step, imaged[axis])
        # A window of the volume, so that the cost does not grow with it.
        count = min(size, math.ceil(new * steps[axis] * _LARGEST_SCALE) + 2)
        starts.append(jnp.clip(jnp.floor(at[0]).astype(jnp.int32), 0, size - count))
        counts.append(count)
        positions.append(at)
    part = jax.lax.dynamic_slice(field, starts, counts)
    for axis in range(3):
        weights = _axis_weights(positions[axis], starts[axis], counts[axis])
        part = jnp.moveaxis(jnp.tensordot(weights, part, axes=(1, axis)), 0, axis)
    part = part + bulge_at(positions[0] % 1.0)[:, None, None] * volume.bulge
    at = jax.random.uniform(keys[4]) * (len(volume.levels) - 1)
    level = jnp.interp(at, jnp.arange(len(volume.levels)), volume.levels)
    return jnp.clip(0.5 + scale * (part + level), 0.0, 1.0)


def draw_adapted_stack(
    source: AdaptedSource, data: SimulatedData, *, key: Array
) -> tuple[Float[Array, "channel slice y x"], Float[Array, "slice y x"]]:
    """As `fibnet.data.draw_training_stack`, the specimen cut from the volume or drawn. Traceable.

    Parts of the volume are imaged as if opposite sides fitted together, as the generator's do:
    where they do not, the label shows the seam like the image.
    """
    key_random, key_which, key_specimen, key_sample = jax.random.split(key, 4)
    around = source.source
    instrument, parameters = randomise(
        around.instrument, around.specimen, key=key_random, sd=around.sd, spread=around.spread
    )
    shape, voxel_nm = grid_below(
        (data.slices, data.side_px, data.side_px),
        slice_nm=around.slice_nm,
        pixel_nm=around.pixel_nm,
        sublayers=data.sublayers,
        below_slices=data.below_slices,
    )

    def cut(key):
        return cut_volume(
            source.volume,
            key=key,
            shape=shape,
            layer_nm=voxel_nm[0],
            imaged_nm=data.slices * around.slice_nm,
        )

    def generate(key):
        drawn = draw_specimen(around.kind, parameters, key=key, shape=shape, voxel_nm=voxel_nm)
        return drawn.astype(source.volume.field.dtype)

    from_volume = jax.random.bernoulli(key_which, source.share)
    solid = jax.lax.cond(from_volume, cut, generate, key_specimen)
    imaged_nm, key_ground = data.slices * around.slice_nm, jax.random.fold_in(key, 1)
    ground_nm = part_on_ground(around.ground, imaged_nm, key=key_ground)
    solid = on_ground(solid, ground_nm, layer_nm=voxel_nm[0])
    sample = sample_stack(
        Specimen(solid=solid, voxel_nm=voxel_nm, periodic=True),
        instrument,
        key=key_sample,
        num_slices=data.slices,
        sublayers=data.sublayers,
        below_slices=data.below_slices,
    )
    return jnp.round(sample.images), sample.solid
