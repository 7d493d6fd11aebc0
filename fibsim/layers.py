"""The specimen as the beam meets it: cut along the milled faces and sheared to its direction."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fibsim.instrument import Geometry
from fibsim.resample import average_depth, shift_lateral

__all__ = ["Layers", "mean_chords_nm", "mill_layers"]


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
        height_nm: thickness of the sub-layers of each slice; ``(slice,)``.
        step_px: whole pixels from the frame of face k to that of face k + 1; ``(slice,)``.
        part_px: displacement of the frame of face k beyond the pixel grid; ``(slice,)``.
        chord_nm, period_nm: mean straight way through one wall, and from wall to wall, of
            `mean_chords_nm`.
    """

    rho: Float[Array, "phase slice sublayer y x"]
    height_nm: Float[Array, " slice"]
    step_px: Int[Array, " slice"]
    part_px: Float[Array, " slice"]
    chord_nm: Float[Array, ""]
    period_nm: Float[Array, ""]

    @property
    def filled(self) -> Float[Array, "slice sublayer y x"]:
        """Fraction that is not open, all phases together."""
        return jnp.sum(self.rho, 0)


def mean_chords_nm(
    solid: Float[Array, "z y x"], pixel_nm: Float[Array, ""], *, periodic: bool
) -> tuple[Array, Array]:
    """Mean chord of the solid along x, and mean way from chord to chord, in nm.

    ``2 <rho> pixel / <|rho(x + 1) - rho(x)|>``, since each chord ends at two surfaces, and
    ``2 pixel / <|rho(x + 1) - rho(x)|>`` (Underwood 1970, Quantitative Stereology), over the
    layers in which there are surfaces at all: dense ground or open space above the specimen does
    not count. Without any surface both are a million pixels.
    """
    closed = jnp.concatenate([solid, solid[..., :1]], axis=-1) if periodic else solid
    surfaces = jnp.mean(jnp.abs(jnp.diff(closed, axis=-1)), axis=(-2, -1))
    counted = surfaces > 0
    many = jnp.sum(counted)
    total = jnp.where(many > 0, jnp.sum(surfaces), 1.0)
    period = jnp.where(many > 0, 2 * pixel_nm * many / total, 1e6 * pixel_nm)
    fraction = jnp.sum(jnp.mean(solid, axis=(-2, -1)) * counted) / jnp.maximum(many, 1)
    return jnp.where(many > 0, fraction, 1.0) * period, period


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
    thickness = jnp.concatenate([thickness_nm, jnp.broadcast_to(geometry.slice_nm, (below,))])
    face = jnp.concatenate([jnp.zeros_like(thickness[:1]), jnp.cumsum(thickness)])
    height = thickness / sublayers
    depth = height[:, None] * (jnp.arange(sublayers) + 0.5)  # of centres, below the own face
    lower = (depth + height[:, None] / 2 + face[:-1, None]).reshape(-1)
    border = jnp.concatenate([jnp.zeros_like(lower[:1]), lower])
    rho = jax.vmap(average_depth, in_axes=(0, None))(phases, border / voxel_z_nm)
    lean = jnp.tan(jnp.deg2rad(geometry.tilt_deg)) / geometry.pixel_nm
    whole = jnp.round(jax.lax.stop_gradient(face * lean))
    part = face * lean - whole

    def shear(layer):
        values, offset = layer
        return shift_lateral(values, offset, axis=-2, periodic=periodic)

    count, _, *lateral = rho.shape
    offsets = jnp.tile((depth * lean + part[:-1, None]).reshape(-1), count)
    sheared = jax.lax.map(shear, (rho.reshape(-1, *lateral), offsets))
    # The interpolation overshoots at sharp edges.
    sheared = jnp.maximum(sheared.reshape(count, len(thickness), sublayers, *lateral), 0.0)
    filled = jnp.minimum(jnp.sum(phases, 0), 1.0)
    chord, period = mean_chords_nm(filled, geometry.pixel_nm, periodic=periodic)
    return Layers(
        rho=sheared / jnp.maximum(jnp.sum(sheared, 0), 1.0),
        height_nm=height,
        step_px=jnp.diff(whole).astype(jnp.int32),
        part_px=part[:-1],
        chord_nm=chord,
        period_nm=period,
    )
