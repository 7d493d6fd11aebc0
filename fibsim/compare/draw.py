"""Simulated stacks of an instrument file, in the units in which the real one was recorded."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fibsim.fit import check_drawable, draw_sample, slices_below
from fibsim.fit.first_guess import WHITE
from fibsim.instrument_file import InstrumentFile
from fibsim.simulate import default_sublayers
from fibsim.specimens import part_on_ground
from fibsim.stack import Stack, channels_of

__all__ = ["draw_stacks", "recorded_as"]

_RUN, _SIDE = 24, 128
_FEWEST, _MOST = 8, 24


def recorded_as(
    grey: Float[np.ndarray, "channel slice y x"], images: np.ndarray
) -> Float[np.ndarray, "channel slice y x"]:
    """Grey values of 0 to 255 in the units and steps of recorded images.

    The inverse of `fibsim.fit.grey_levels`, rounded to the steps in which integers were recorded
    (12 bit stored as 16 bit has steps of 16): finer values would give a simulation away.
    """
    if np.issubdtype(images.dtype, np.unsignedinteger):
        out = grey * (np.iinfo(images.dtype).max / WHITE)
    else:
        # Differences of signed integers may leave their type.
        low, high = (
            f(images, axis=(1, 2, 3), keepdims=True).astype(float) for f in (np.min, np.max)
        )
        out = low + grey * ((high - low) / WHITE)
    if not np.issubdtype(images.dtype, np.integer):
        return out.astype(np.float32)
    first = int(images.min())
    step = max(int(np.gcd.reduce(np.unique(images).astype(np.int64) - first)), 1)
    limits = np.iinfo(images.dtype)
    return np.clip(first + step * np.round((out - first) / step), limits.min, limits.max).astype(
        images.dtype
    )


def draw_stacks(
    content: InstrumentFile, real: Stack, *, key: jax.Array, patch: int = 32, depth: int = 3
) -> list[Stack]:
    """Stacks of random specimens of an instrument file, at least as much as the real stack in all.

    Each shows a specimen of its own, so that a classifier cannot learn one by heart, and where the
    real stack stands on ground, a random part of such a stack.

    Args:
        content: instrument with specimen kind and parameters.
        real: for the size and for the grey values' type.
        patch, depth: what will be compared. Stacks are no larger than the real one, than 24
            slices of 128 x 128 pixels, and, where patches are large, than four depths of two
            patches' side.

    Raises:
        InputError: as `check_drawable`.
    """
    check_drawable(content, "the instrument file")
    instrument = content.instrument
    slice_nm = round(float(instrument.geometry.slice_nm), 6)
    pixel_nm = round(float(instrument.geometry.pixel_nm), 6)
    _, slices, y, x = real.images.shape
    run, side = max(_RUN, 4 * depth), max(_SIDE, 2 * patch)
    shape = (min(slices, run), min(y, side), min(x, side))
    number = min(max(math.ceil(slices * y * x / math.prod(shape)), _FEWEST), _MOST)
    white = np.asarray(instrument.noise.white_level)[:, None, None, None]

    @jax.jit
    def draw(key, instrument, specimen, ground):
        return draw_sample(
            instrument,
            specimen,
            key=key,
            kind=content.kind,
            shape=shape,
            slice_nm=slice_nm,
            pixel_nm=pixel_nm,
            sublayers=default_sublayers(slice_nm, pixel_nm),
            below_slices=slices_below(content.specimen, slice_nm),
            ground_nm=part_on_ground(ground, shape[0] * slice_nm, key=jax.random.fold_in(key, 1)),
        ).images

    specimen = {name: jnp.asarray(value, float) for name, value in content.specimen.items()}
    channels = tuple(
        dataclasses.replace(own, name=channel.name)
        for own, channel in zip(channels_of(instrument), real.channels, strict=True)
    )
    return [
        Stack(
            images=recorded_as(
                np.asarray(draw(one, instrument, specimen, content.ground)) * (WHITE / white),
                real.images,
            ),
            channels=channels,
            pixel_nm=pixel_nm,
            slice_nm=slice_nm,
            name="simulated",
        )
        for one in jax.random.split(key, number)
    ]
