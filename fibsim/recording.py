"""From the electrons that leave a face to its expected grey values: detector, probe and drift."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fibsim.detector import grey_value, mix_signal, probe_blur
from fibsim.instrument import DetectorResponse, Geometry, Instrument
from fibsim.milling import Milling, apply_shading
from fibsim.resample import map_slices, shift_lateral

__all__ = ["focus_face", "record_emission", "shade_face"]


def focus_face(
    backscatter: Float[Array, "y x"],
    secondary: Float[Array, "y x"],
    response: DetectorResponse,
    drift_px: Float[Array, "2"],
    geometry: Geometry,
    *,
    periodic: bool,
) -> Float[Array, "y x"]:
    """What one channel's detector collects of a face, seen with its probe and drifted along y."""
    signal = mix_signal(secondary, backscatter, response.se_fraction)
    signal = probe_blur(
        signal,
        response.probe_nm,
        geometry.pixel_nm,
        astigmatism=response.astigmatism,
        astigmatism_diagonal=response.astigmatism_diagonal,
        periodic=periodic,
    )
    return shift_lateral(signal, -drift_px[0], axis=-2, periodic=periodic)


def shade_face(
    signal: Float[Array, "y x"],
    response: DetectorResponse,
    faults: Milling,
    drift_px: Float[Array, "2"],
    *,
    periodic: bool,
) -> Float[Array, "y x"]:
    """The grey values of what `focus_face` gives: drifted along x, shaded, amplified, with lines.

    Args:
        faults: one slice's row, of length 1.
    """
    signal = shift_lateral(signal, -drift_px[1], axis=-1, periodic=periodic)
    shaded = apply_shading(signal[None], faults)
    grey = grey_value(shaded, response.gain, response.offset, response.gamma)
    return (grey + faults.line[:, :, None])[0]


def record_emission(
    emission: Float[Array, "slice channel 2 y x"],
    instrument: Instrument,
    milling: Milling,
    *,
    periodic: bool,
) -> Float[Array, "channel slice y x"]:
    """Expected grey values of faces whose electrons are known.

    `fibsim.expected_stack` in a second part, for instruments that differ in nothing else.

    Args:
        emission: backscattered and secondary electrons per beam electron of every face and
            channel, from `fibsim.simulate.emitted_stack`.
    """

    def one_slice(inputs):
        faces, faults = inputs
        drift_px = faults.drift_nm[0] / instrument.geometry.pixel_nm

        def channel(face, response):
            signal = focus_face(
                face[0], face[1], response, drift_px, instrument.geometry, periodic=periodic
            )
            return shade_face(signal, response, faults, drift_px, periodic=periodic)

        return jax.vmap(channel)(faces, instrument.detector)

    rows = jax.tree.map(lambda leaf: leaf[:, None], milling)
    return jnp.moveaxis(map_slices(one_slice, (emission, rows)), 1, 0)
