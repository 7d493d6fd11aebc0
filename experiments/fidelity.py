"""What the fidelity experiments share: noise-free yields of the forward model, and their fit.

Both image voxels of 2 nm with pixels of 4 nm, slices of 10 nm and a probe of 1.5 nm.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from fibsim.detector import probe_blur
from fibsim.fit.unknowns import Unknown
from fibsim.instrument import Instrument, Interaction
from fibsim.interaction import channel_coefficients
from fibsim.layers import mill_layers
from fibsim.openness import face_views
from fibsim.render import render_channel

VOXEL_NM, PIXEL_NM, SLICE_NM, PROBE_NM = 2.0, 4.0, 10.0, 1.5
# The physical numbers, shared by all voltages and both signals; all are positive.
FREE = {
    f"interaction.{field.name}": Unknown(transform="log", prior_sd=1.0)
    for field in dataclasses.fields(Interaction)
}


@functools.partial(jax.jit, static_argnames=("faces", "below"))
def render(
    phases: jax.Array, instrument: Instrument, faces: Sequence[int], below: int
) -> jax.Array:
    """Noise-free yields ``(voltage, SE or BSE, face, y, x)`` of the slices named in ``faces``.

    ``phases`` are volume fractions ``(phase, z, y, x)``, ``below`` the slices under the last face.
    """
    geometry, slices = instrument.geometry, max(faces) + 1
    layers = mill_layers(
        phases,
        jnp.full(slices, SLICE_NM),
        geometry,
        voxel_z_nm=VOXEL_NM,
        sublayers=3,
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


def unexplained(model: jax.Array, seen: jax.Array) -> jax.Array:
    """Share of the variance that a gain and an offset leave, ``(voltage, SE or BSE)``."""
    axes = (2, 3, 4)
    m, s = (v - v.mean(axes, keepdims=True) for v in (model, seen))
    gain = (m * s).sum(axes, keepdims=True) / (m * m).sum(axes, keepdims=True)
    return ((s - gain * m) ** 2).mean(axes) / seen.var(axes)


def minimise(gradient: Callable[[dict], dict], free: dict, *, steps: int, rate: float) -> dict:
    """``free`` after some steps of Adam along ``gradient(free)``."""
    optimiser = optax.adam(rate)
    state = optimiser.init(free)
    for _ in range(steps):
        update, state = optimiser.update(gradient(free), state)
        free = optax.apply_updates(free, update)
    return free
