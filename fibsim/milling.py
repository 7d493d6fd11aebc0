"""Where each face really lies and what milling does to its brightness."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fibsim.instrument import Instrument
from fibsim.resample import filter_lateral, map_slices, shift_lateral

__all__ = ["Milling", "apply_shading", "displace", "nominal_milling", "sample_milling"]

# Curtains are some pixels wide and persist over neighbouring slices.
_CURTAIN_WIDTH_PX = 1.5
_CURTAIN_MEMORY = 0.8
THINNEST = 0.2
"""No slice is thinner than this fraction of the nominal thickness."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Milling:
    """One realisation of a milling run.

    Attributes:
        thickness_nm: depth milled between face k and face k + 1; ``(slice,)``.
        drift_nm: displacement (y, x) of the scene in image k; ``(slice, 2)``.
        brightness: factor on the signal of a slice; ``(slice,)``.
        curtain: factor on the signal of a column; ``(slice, x)``.
        line: offset of a scan line in grey values; ``(slice, y)``.
    """

    thickness_nm: Float[Array, " slice"]
    drift_nm: Float[Array, "slice 2"]
    brightness: Float[Array, " slice"]
    curtain: Float[Array, "slice x"]
    line: Float[Array, "slice y"]


def nominal_milling(instrument: Instrument, shape: tuple[int, int, int]) -> Milling:
    """A faultless run for a stack of ``shape = (slice, y, x)``."""
    k, y, x = shape
    nominal = instrument.geometry.slice_nm
    return Milling(
        thickness_nm=jnp.broadcast_to(nominal, (k,)),
        drift_nm=jnp.zeros((k, 2), nominal.dtype),
        brightness=jnp.ones(k, nominal.dtype),
        curtain=jnp.ones((k, x), nominal.dtype),
        line=jnp.zeros((k, y), nominal.dtype),
    )


def sample_milling(
    instrument: Instrument, shape: tuple[int, int, int], *, key: jax.Array
) -> Milling:
    """Draw the faults of one run from the sizes in ``instrument.faults``.

    Thickness, displacement, flicker and line offsets are independent normal draws (the
    thickness is kept above a fifth of nominal); curtains are normal draws, smoothed over 1.5
    pixels along x and correlated by 0.8 from slice to slice, with the stated standard deviation.
    """
    k, y, x = shape
    faults, nominal = instrument.faults, instrument.geometry.slice_nm
    keys = jax.random.split(key, 5)
    dtype = nominal.dtype
    stretch = 1.0 + faults.thickness_sd * jax.random.normal(keys[0], (k,), dtype)
    raw = jax.random.normal(keys[3], (k, 1, x), dtype)
    smooth = filter_lateral(raw, lambda q2: jnp.exp(-q2 * _CURTAIN_WIDTH_PX**2 / 2), periodic=True)
    # The smoothing leaves 1 / (2 sqrt(pi) w) of the variance.
    smooth = smooth[:, 0, :] * jnp.sqrt(2 * jnp.sqrt(jnp.pi) * _CURTAIN_WIDTH_PX).astype(dtype)

    def persist(previous, fresh):
        now = _CURTAIN_MEMORY * previous + (1 - _CURTAIN_MEMORY**2) ** 0.5 * fresh
        return now, now

    # The first slice is drawn at full size, so that the memory starts in its steady state.
    _, later = jax.lax.scan(persist, smooth[0], smooth[1:])
    curtains = jnp.concatenate([smooth[:1], later])
    return Milling(
        thickness_nm=nominal * jnp.maximum(stretch, THINNEST),
        drift_nm=faults.drift_nm * jax.random.normal(keys[1], (k, 2), dtype),
        brightness=1.0 + faults.flicker_sd * jax.random.normal(keys[2], (k,), dtype),
        curtain=1.0 + faults.curtain_sd * curtains,
        line=faults.line_grey * jax.random.normal(keys[4], (k, y), dtype),
    )


def displace(
    images: Float[Array, "slice y x"], milling: Milling, pixel_nm: Array, *, periodic: bool
) -> Array:
    """Shift image k by its drift: a scene displaced by +d shows at ``y + d`` what was at y."""

    def one(inputs):
        image, drift = inputs
        image = shift_lateral(image, -drift[0] / pixel_nm, axis=0, periodic=periodic)
        return shift_lateral(image, -drift[1] / pixel_nm, axis=1, periodic=periodic)

    return map_slices(one, (images, milling.drift_nm))


def apply_shading(signal: Float[Array, "slice y x"], milling: Milling) -> Array:
    """Flicker and curtains: factors on the signal."""
    return signal * milling.brightness[:, None, None] * milling.curtain[:, None, :]
