"""Where a fit starts: the textbook instrument, with the stack's own contrast and noise."""

import jax.numpy as jnp
import numpy as np

from fibsim.errors import InputError
from fibsim.fit.crops import crop_grid, split_stack
from fibsim.fit.doubts import FEW_SLICES, check_channels
from fibsim.fit.first_guess import (
    WHITE,
    grey_levels,
    guess_faults,
    guess_tilt_deg,
    noise_by_brightness,
    noise_sd,
)
from fibsim.instrument import Instrument, replace_by_name
from fibsim.materials import DEFAULT_SOLID, VACUUM
from fibsim.noise import channel_noise
from fibsim.presets import make_instrument
from fibsim.specimens import KINDS
from fibsim.stack import Stack

__all__ = ["check_fittable", "first_instrument", "match_contrast", "match_noise", "unshaded"]

# Crops whose profiles show the faults, and corrections of the noise.
_CROPS, _NOISE_TURNS = 8, 4
# Share of pixels that are darker than a dark pore.
_DARK = 0.02


def first_instrument(stack: Stack) -> Instrument:
    """Textbook instrument of the stack's channels and geometry; a guessed tilt if none is given."""
    tilt = stack.tilt_deg
    if tilt is None:
        tilt = guess_tilt_deg(grey_levels(stack), stack.pixel_nm, stack.slice_nm)
    return make_instrument(
        beam_kev=[c.beam_kev for c in stack.channels],
        detectors=[c.detector for c in stack.channels],
        pixel_nm=stack.pixel_nm,
        slice_nm=stack.slice_nm,
        tilt_deg=tilt,
        solid=stack.material or DEFAULT_SOLID,
        other_phases=() if stack.pores in (None, VACUUM) else (stack.pores,),
        white_level=WHITE,
    )


def shallowest(grey: np.ndarray, stack: Stack) -> np.ndarray:
    """The channel of lowest voltage, which shows most of the face and least of what lies behind."""
    return grey[int(np.argmin([c.beam_kev for c in stack.channels]))]


def check_fittable(stack: Stack, kind: str | None = None) -> None:
    """Refuse, before any long work, a stack that a fit could not use.

    Raises:
        InputError: unknown material or specimen kind, a number of channels, voltage or geometry
            out of range, images too small, constant, cut off, or the same in two channels.
    """
    kind = kind or stack.specimen
    if kind is not None and kind not in KINDS:
        raise InputError(f"specimen kind {kind!r} is unknown; expected one of {', '.join(KINDS)}.")
    check_channels(stack)
    first_instrument(stack)
    split_stack(stack.images, crop_px=96, crop_slices=12)


def tilt_is_held(stack: Stack) -> bool:
    """Whether the tilt is no unknown: where it is stated, or where too few slices could show it."""
    return stack.tilt_deg is not None or stack.num_slices < FEW_SLICES


def unshaded(instrument: Instrument) -> Instrument:
    """The instrument without flicker, curtains and lines."""
    none = {f"faults.{name}": jnp.zeros(()) for name in ("flicker_sd", "curtain_sd", "line_grey")}
    return replace_by_name(instrument, none)


def match_noise(instrument: Instrument, grey: np.ndarray, expected: np.ndarray) -> Instrument:
    """Set dose and amplifier noise so that the noise at every brightness is the stack's.

    Noise is measured in both, of the simulation with the noise found so far, since edges add to
    what is measured, and its straight line over the grey value corrected by the difference.

    Args:
        expected: a simulation by ``instrument`` without noise; ``(channel, slice, y, x)``.
    """
    offset, gain = np.asarray(instrument.detector.offset), np.asarray(instrument.detector.gain)
    signal = np.maximum(expected.mean((1, 2, 3)) - offset, 1.0)
    intercept, slope = noise_by_brightness(grey)
    least = np.maximum((intercept + slope * (offset + signal)) / 10, 0.25)
    normal = np.random.default_rng(0).standard_normal(expected.shape)
    amplifier, bright = intercept + slope * offset, slope * signal
    for _ in range(_NOISE_TURNS):
        # Counting noise grows with the signal, the amplifier's does not; each keeps a tenth.
        total = np.maximum(amplifier + bright, least)
        amplifier = np.clip(amplifier, 0.1 * total, 0.9 * total)
        bright = total - amplifier
        noise = {
            "noise.dose_electrons": jnp.asarray(gain * signal / bright, float),
            "noise.read_grey": jnp.asarray(np.sqrt(amplifier), float),
        }
        instrument = replace_by_name(instrument, noise)
        variance, _ = channel_noise(jnp.asarray(expected), instrument)
        found = noise_by_brightness(expected + np.sqrt(np.asarray(variance)) * normal)
        amplifier = amplifier + intercept - found[0] + (slope - found[1]) * offset
        bright = bright + (slope - found[1]) * signal
    return instrument


def _unclipped(factor: np.ndarray, grey: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Factors per channel, less where dark pores would clip: there as dark as the recording's.

    A descent has no gradient to bring clipped pixels back by, and single images of a ceramic and
    an electrode have more lit pores than the first specimen.
    """
    mean, depth = grey.mean((1, 2, 3)), expected.mean((1, 2, 3))
    depth = np.maximum(depth - np.quantile(expected, _DARK, axis=(1, 2, 3)), 1e-3)
    clipped = mean - factor * depth < 0
    if not clipped.any():  # spares quantiles of large stacks
        return factor
    return np.where(clipped, (mean - np.quantile(grey, _DARK, axis=(1, 2, 3))) / depth, factor)


def match_contrast(instrument: Instrument, grey: np.ndarray, expected: np.ndarray) -> Instrument:
    """Set gain, offset, noise and faults so that contrast, noise and profiles are the stack's.

    ``expected`` is a noise-free simulation by ``unshaded(instrument)``, of no larger a shape.
    """
    noise = noise_sd(grey)
    pixels, each = (1, 2, 3), (slice(None), None, None, None)
    contrast = np.sqrt(np.maximum(grey.var(pixels) - noise**2, 0.05 * grey.var(pixels)))
    factor = _unclipped(contrast / np.maximum(expected.std(pixels), 1e-3), grey, expected)
    old = instrument.detector
    gain, old_offset = np.asarray(old.gain), np.asarray(old.offset)
    offset = grey.mean(pixels) - factor * (expected.mean(pixels) - old_offset)
    detector = {
        "detector.gain": jnp.asarray(gain * factor, float),
        "detector.offset": jnp.asarray(offset, float),
    }
    instrument = replace_by_name(instrument, detector)
    simulated = offset[each] + factor[each] * (expected - old_offset[each])
    instrument = match_noise(instrument, grey, simulated.astype(np.float32))
    simulated = simulated + noise[each] * np.random.default_rng(0).standard_normal(expected.shape)
    crops = crop_grid(grey, expected.shape[1:], _CROPS, seed=0)
    faults = guess_faults(crops, simulated)
    return replace_by_name(
        instrument, {f"faults.{name}": jnp.asarray(size, float) for name, size in faults.items()}
    )
