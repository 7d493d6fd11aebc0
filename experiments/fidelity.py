"""What the fidelity experiments share: noise-free yields of the forward model, and their fit.

Voxels of 2 nm are imaged with pixels of 4 nm, slices of 10 nm and a probe of 1.5 nm: the forward
model runs on the voxels, and a pixel is the mean of the four that it covers.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from face_fractions import under_pixels
from scipy.optimize import least_squares

from fibsim.detector import probe_blur
from fibsim.fit.unknowns import Unknown, apply_unknowns, start_point
from fibsim.instrument import Instrument, Interaction
from fibsim.interaction import channel_coefficients
from fibsim.layers import mill_layers
from fibsim.openness import face_views
from fibsim.render import render_channel

VOXEL_NM, PIXEL_NM, SLICE_NM, PROBE_NM = 2.0, 4.0, 10.0, 1.5
# The physical numbers, shared by all voltages and both signals; all are positive.
FREE = {
    f"interaction.{field.name}": Unknown(transform="log", prior_sd=0.5)
    for field in dataclasses.fields(Interaction)
}
_STEP = 0.04  # relative, for slopes by differences
_PRIOR = 1e-3  # weight of the priors beside the mean square of the residuals


@functools.partial(jax.jit, static_argnames=("faces", "below", "sublayers"))
def _render(phases, instrument, faces, below, sublayers):
    geometry, slices = instrument.geometry, max(faces) + 1
    layers = mill_layers(
        phases,
        jnp.full(slices, SLICE_NM),
        geometry,
        voxel_z_nm=VOXEL_NM,
        sublayers=sublayers,
        below=below,
        periodic=True,
    )
    view = face_views(layers, geometry, periodic=True)

    def channel(coefficients):
        emission = render_channel(
            layers, view, coefficients, geometry, num_slices=slices, periodic=True
        )
        both = jnp.stack([emission.secondary, emission.backscatter])[:, jnp.asarray(faces)]
        return probe_blur(both, jnp.asarray(PROBE_NM), geometry.pixel_nm, periodic=True)

    return jax.lax.map(channel, channel_coefficients(instrument))


def render(
    phases: jax.Array,
    instrument: Instrument,
    faces: Sequence[int],
    below: int,
    *,
    sublayers: int = 3,
) -> np.ndarray:
    """Noise-free yields ``(voltage, SE or BSE, face, y, x)`` of the slices named in ``faces``.

    Args:
        phases: volume fractions ``(phase, z, y, x)`` in voxels of 2 nm (or, laterally, of the
            instrument's pixels, if these are 4 nm).
        instrument: its pixels are the voxels.
        faces: slices to image.
        below: slices under the last face.
        sublayers: layers per slice.
    """
    images = np.asarray(_render(phases, instrument, tuple(faces), below, sublayers))
    across = round(PIXEL_NM / float(instrument.geometry.pixel_nm))
    return under_pixels(images, across)


def residuals(model: np.ndarray, seen: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """What a gain and an offset of each signal leave, in standard deviations of its signal.

    Args:
        model, seen: ``(voltage, SE or BSE, face, y, x)``.
        noise: variance of the counting noise, ``(voltage, SE or BSE)``.

    Returns:
        ``(voltage, SE or BSE, ...)``, so divided that the mean square is that of the signals.
    """
    axes = (2, 3, 4)
    m, s = (v - v.mean(axes, keepdims=True) for v in (model, seen))
    gain = (m * s).sum(axes, keepdims=True) / (m * m).sum(axes, keepdims=True)
    signal = np.sqrt(seen.var(axes) - noise)[..., None, None, None]
    return (s - gain * m) / signal / np.sqrt(s[0, 0].size)


def fit(residuals_of: Callable[[Callable], np.ndarray]) -> dict[str, float]:
    """Factors on the physical numbers that make the residuals of all recordings smallest.

    Args:
        residuals_of: takes a function that changes an instrument, returns all residuals.
    """

    def with_priors(factors):
        change = dict(zip(FREE, np.log(factors), strict=True))
        prior = [np.sqrt(_PRIOR) * v / FREE[name].prior_sd for name, v in change.items()]
        return np.concatenate([residuals_of(changed(change)), prior])

    # The step of the slopes is relative, so the factors themselves are the variables.
    found = least_squares(
        with_priors,
        np.ones(len(FREE)),
        bounds=(0.05, 20.0),
        diff_step=_STEP,
        max_nfev=12,
        ftol=1e-4,
    )
    return dict(zip(FREE, found.x.tolist(), strict=True))


def changed(change: dict[str, float]) -> Callable[[Instrument], Instrument]:
    """A function that multiplies an instrument's numbers by the exponentials of ``change``."""
    free = {name: FREE[name] for name in change}

    def apply(instrument: Instrument) -> Instrument:
        start = start_point(instrument, {}, free)
        moved = {name: start[name] + float(v) for name, v in change.items()}
        return apply_unknowns(moved, instrument, {}, free)[0]

    return apply
