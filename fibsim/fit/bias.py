"""What a regression gets wrong, seen on a twin whose instrument is known, and taken away.

Grey values are regressed on a specimen that is interpolated between imaged faces. What is finer
than slices are thick is then a little wrong, and the instrument bends to make up for it: of a
specimen with ligaments of two slices contrast comes out 7 % too small, pores 8 grey values too
bright, the probe 0.3 nm too wide. Of another specimen of the same kind, recorded by the instrument
that was found, the same comes out as wrong. So with ``T(I)`` what the regression finds of a stack
that instrument I recorded, given its true faces, and ``I1 = T(real)``,

    I2 = T(I1),    I = I1 - (I2 - I1)

in the free space of the unknowns: one step of indirect inference (Gourieroux, Monfort & Renault
1993, doi 10.1002/jae.3950080507).
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fibsim.fit.regress import moved_by
from fibsim.fit.unknowns import Unknown, apply_unknowns, noise_unknowns, start_point
from fibsim.instrument import Instrument, replace_by_name
from fibsim.noise import channel_noise

__all__ = ["keep_noise", "without_bias"]

# No unknown is taken further than this, in standard deviations of its prior.
_MOST_SD = 1.0
_QUANTILES = (0.1, 0.9)
_ENOUGH = 1_000_000  # grey values of a channel for these
# Of the noise of dark parts, the amplifier's share.
_LEAST_READ, _MOST_READ = 0.1, 0.9


def keep_noise(
    instrument: Instrument, like: Instrument, grey: Float[np.ndarray, "channel slice y x"]
) -> Instrument:
    """The instrument with the noise that ``like`` has, at every brightness of a stack.

    Dose and amplifier noise are what they must be at another gain, offset and gamma; of the noise
    of dark parts (the 10 % quantile of ``grey``) the amplifier's share is 0.1 to 0.9.
    """
    values = np.asarray(grey).reshape(len(grey), -1)
    some = values[:, :: max(values.shape[1] // _ENOUGH, 1)].astype(np.float32)
    at = np.quantile(some, _QUANTILES, axis=1)
    ones = {
        "noise.dose_electrons": jnp.ones_like(instrument.noise.dose_electrons),
        "noise.read_grey": jnp.zeros_like(instrument.noise.read_grey),
    }
    mean = jnp.asarray(at.T[:, :, None, None], instrument.detector.gain.dtype)
    wanted = np.asarray(channel_noise(mean, like)[0])[:, :, 0, 0]
    counted = np.asarray(channel_noise(mean, replace_by_name(instrument, ones))[0])[:, :, 0, 0]
    dark, bright = np.maximum(counted, 1e-6).T
    per_dose = (wanted[:, 1] - wanted[:, 0]) / np.maximum(bright - dark, 1e-6)
    share = np.clip(1 - per_dose * dark / wanted[:, 0], _LEAST_READ, _MOST_READ)
    read = share * wanted[:, 0]
    kept = {
        "noise.dose_electrons": bright
        / np.maximum(wanted[:, 1] - read, _LEAST_READ * wanted[:, 1]),
        "noise.read_grey": np.sqrt(read),
    }
    dtype = instrument.noise.read_grey.dtype
    return replace_by_name(instrument, {k: jnp.asarray(v, dtype) for k, v in kept.items()})


def without_bias(
    found: Instrument,
    again: Instrument,
    unknowns: Mapping[str, Unknown],
    *,
    grey: Float[np.ndarray, "channel slice y x"],
) -> tuple[Instrument, dict[str, np.ndarray]]:
    """``found`` less what a regression on its twin was off; see the module.

    Args:
        found: of the recorded stack, and what recorded the twin.
        again: found of the twin.
        unknowns: of the regression. The noise is kept as measured (`keep_noise`).
        grey: of the recorded stack.

    Returns:
        The instrument, and by how much each unknown was off, in standard deviations of its prior;
        more than one does not count.
    """
    kept = noise_unknowns(unknowns)
    taken = {name: u for name, u in unknowns.items() if name not in kept}
    off = {name: np.clip(v, -_MOST_SD, _MOST_SD)
           for name, v in moved_by(found, again, taken).items()}  # fmt: skip
    free = start_point(found, {}, taken)
    moved = {name: v - jnp.asarray(taken[name].prior_sd * off[name], v.dtype)
             for name, v in free.items()}  # fmt: skip
    instrument, _ = apply_unknowns(moved, found, {}, taken)
    return keep_noise(instrument, found, grey), off
