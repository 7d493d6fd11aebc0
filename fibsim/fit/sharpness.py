"""How wide the probe is along x and y, from how sharp the sharpest edges of the images are.

A milled face ends at a pore in a step, whatever the specimen, and it is the probe that makes it a
slope. So few images that no moments are matched to leave the probe to this.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fibsim.fit.first_guess import noise_by_brightness
from fibsim.fit.problem import Problem
from fibsim.fit.start import match_noise
from fibsim.instrument import DetectorResponse, Instrument, allowed_range, replace_by_name

__all__ = [
    "OF_EDGES",
    "astigmatic_probe",
    "edge_sharpness",
    "edge_widths",
    "match_probe",
    "probe_widths",
]

OF_EDGES = ("detector.probe_nm", "detector.astigmatism", "detector.astigmatism_diagonal")
"""What decides how sharp edges are."""

# An edge is a step between pixels so far apart, among so large a share of the steepest.
_REACH, _STEEPEST = 5, 0.03
# Widths that are tried, in pixels.
_WIDTHS_PX = (0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 1.0, 1.2, 1.5, 2.0, 2.5)
# Simulated crops, and turns, since the noise that a probe leaves is part of what edges show.
_CROPS, _TURNS = 8, 2


def edge_sharpness(images: np.ndarray, axis: int) -> np.ndarray:
    """Which part of an edge's step lies between neighbouring pixels, in squares, per channel.

    ``sum (I(u+1) - I(u))^2 / sum (I(u+3) - I(u-2))^2`` over the pixels u where the latter is
    steepest (3 %), with the noise's part taken from both; of means over three lines beside each
    other, weighted 1, 2, 1. A step that is as likely in one place as in another has 1/5 without a
    probe, 0.12 with partly covered pixels, slanted edges and noise. Of simulated waves, spheres
    and hierarchical structures with probes of 0.1, 0.3, 0.5, 0.8 and 1.2 pixels it is 0.12, 0.11,
    0.10, 0.085 and 0.066, within 0.01 for all of them.

    Args:
        images: ``(channel, slice, y, x)``.
        axis: along which, -1 (x) or -2 (y).
    """
    along = np.moveaxis(images.astype(np.float32), axis, -1)
    lines = (along[..., :-2, :] + 2.0 * along[..., 1:-1, :] + along[..., 2:, :]) / 4.0
    before, size = _REACH // 2, lines.shape[-1]
    left, right = lines[..., before : size - before - 1], lines[..., before + 1 : size - before]
    far = lines[..., _REACH:] - lines[..., :-_REACH]
    sharpness = []
    noises = zip(*noise_by_brightness(along), strict=True)
    for (intercept, slope), a, b, step in zip(noises, left, right, far, strict=True):
        # Of a difference of two such means of lines.
        noise = 2 * 6 / 16 * np.maximum(intercept + slope * (a + b) / 2, 0.0)
        steepest = np.abs(step) >= np.quantile(np.abs(step), 1.0 - _STEEPEST)
        near, whole = ((b - a) ** 2 - noise)[steepest].sum(), (step**2 - noise)[steepest].sum()
        sharpness.append(near / max(whole, 1e-6))
    return np.asarray(sharpness)


def edge_widths(
    grey: np.ndarray, record: Callable[[float], np.ndarray], pixel_nm: float
) -> np.ndarray:
    """Widths of the probe along y and x with which simulated edges are as sharp as the stack's.

    Args:
        grey: the stack, ``(channel, slice, y, x)``.
        record: simulates images, ``(channel, slice, y, x)`` of any size, with a round probe of
            this standard deviation in nm in every channel.
        pixel_nm: side of a pixel.

    Returns:
        ``(2, channel)``, nm; a quarter of a pixel for whatever is as sharp as that or sharper,
        since below it edges hardly tell.
    """
    widths, axes = pixel_nm * np.asarray(_WIDTHS_PX), (-2, -1)
    tried = np.array([[edge_sharpness(images, a) for a in axes] for images in map(record, widths)])
    found = np.array([edge_sharpness(grey, a) for a in axes])

    def width(axis: int, channel: int) -> float:
        # From wide to narrow, where sharpness must rise.
        rising = np.maximum.accumulate(tried[::-1, axis, channel])
        return np.interp(found[axis, channel], rising, widths[::-1])

    return np.array([[width(i, c) for c in range(len(grey))] for i in range(len(axes))])


def astigmatic_probe(widths_nm: np.ndarray) -> dict[str, np.ndarray]:
    """The instrument's numbers for a probe as wide along y and x, ``(2, channel)``.

    Variances are ``p^2 (1 - a)`` and ``p^2 (1 + a)``, see `fibsim.detector.probe_blur`; p and a as
    far as an instrument may have them (`fibsim.instrument.allowed_range`).
    """
    y, x = np.square(widths_nm)
    numbers = {
        "detector.probe_nm": np.sqrt((x + y) / 2),
        "detector.astigmatism": (x - y) / (x + y),
    }
    return {name: np.clip(value, *allowed_range(name)) for name, value in numbers.items()}


def probe_widths(detector: DetectorResponse) -> np.ndarray:
    """Standard deviations along y and x in nm, ``(2, channel)``: those of `astigmatic_probe`."""
    probe, a = np.asarray(detector.probe_nm), np.asarray(detector.astigmatism)
    return probe * np.sqrt([1.0 - a, 1.0 + a])


def match_probe(
    instrument: Instrument,
    problem: Problem,
    specimen: Mapping[str, jax.Array],
    grey: np.ndarray,
    *,
    key: jax.Array,
) -> Instrument:
    """Set the probe so that edges are as sharp as the stack's, and the noise anew with it.

    A descent does not find it: with a probe of a tenth of a pixel, the textbook's in coarse pixels,
    the distance has no slope.

    Args:
        instrument: whose contrast, noise and faults are the stack's.
        problem, specimen: what is simulated.
        grey: the stack, ``(channel, slice, y, x)``.
    """
    keys = [jax.random.fold_in(key, i) for i in range(_CROPS)]
    emitted = [problem.emit(instrument, problem.draw(specimen, one), one) for one in keys]

    def record(instrument: Instrument, width_nm: float) -> np.ndarray:
        every = jnp.ones_like(instrument.detector.probe_nm)
        values = {name: 0.0 * every for name in OF_EDGES} | {"detector.probe_nm": width_nm * every}
        moved = replace_by_name(instrument, values)
        crops = [problem.record(moved, *both) for both in zip(emitted, keys, strict=True)]
        return np.concatenate([np.asarray(crop) for crop in crops], axis=1)

    for _ in range(_TURNS):
        widths = edge_widths(grey, functools.partial(record, instrument), problem.pixel_nm)
        probe = {name: jnp.asarray(v, float) for name, v in astigmatic_probe(widths).items()}
        instrument = replace_by_name(instrument, probe)
        instrument = match_noise(instrument, grey, problem.bare(instrument, specimen, key))
    return instrument
