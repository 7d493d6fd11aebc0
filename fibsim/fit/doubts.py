"""What may be wrong with a stack or with what is stated of it, before a fit spends its time."""

import itertools

import numpy as np

from fibsim.errors import InputError, counted
from fibsim.stack import Stack

__all__ = ["FEW_SLICES", "check_channels", "image_warnings", "likely_swapped", "likely_tilt"]

FEW_SLICES = 4
"""A stack of fewer shows neither tilt nor unevenness."""

# Shares of saturated pixels that deserve a word, and that make a channel useless.
_SATURATED, _LOST = 0.02, 0.5
# How much closer to the stack another statement must bring the textbook instrument. Distances share
# specimens, crops and filters: nine rightly stated stacks gave 0.99 at the least
# (experiments/wrong_statements.py).
_CLOSER = 0.97


def check_channels(stack: Stack) -> None:
    """Refuse channels that hold nothing, or the same as another.

    Raises:
        InputError: a channel is constant or all but saturated, or two are identical.
    """
    names = [c.name or f"channel {i + 1}" for i, c in enumerate(stack.channels)]
    for name, images in zip(names, stack.images, strict=True):
        low, high = images.min(), images.max()
        if low == high:
            raise InputError(
                f"channel {name} holds the grey value {low:g} everywhere; leave it out "
                "(--channels) or give images of a specimen."
            )
        share = max(float(np.mean(images == low)), float(np.mean(images == high)))
        if share > _LOST:
            raise InputError(
                f"{100 * share:.0f} % of channel {name} is black or white without detail; leave "
                "it out (--channels) or give images that are not cut off."
            )
    for (a, one), (b, other) in itertools.combinations(zip(names, stack.images, strict=True), 2):
        if np.array_equal(one, other):
            raise InputError(
                f"channels {a} and {b} hold the same images; leave one out (--channels) or give "
                "what was recorded at the other voltage."
            )


def image_warnings(stack: Stack) -> list[str]:
    """Sentences on what weakens a fit: cut-off grey values, and stacks of few slices."""
    said = []
    for i, (channel, images) in enumerate(zip(stack.channels, stack.images, strict=True)):
        name = channel.name or f"channel {i + 1}"
        for what, value in (("black", images.min()), ("white", images.max())):
            share = float(np.mean(images == value))
            if share > _SATURATED:
                said.append(
                    f"{100 * share:.0f} % of channel {name} is {what} ({value:g}) and tells "
                    "nothing there; record it with another brightness or contrast if you can."
                )
    if stack.num_slices < FEW_SLICES:
        said.append(
            f"the stack has {counted(stack.num_slices, 'slice')}; what a tilt does from slice to "
            f"slice, and how uneven slices are, cannot be seen in fewer than {FEW_SLICES}: a tilt "
            "that is not stated was taken for 0, and the solid fraction is mostly that of the "
            "brightest peak of the histogram."
        )
    return said


def likely_swapped(
    distances: dict[tuple[int, int], float], stated: float, stack: Stack
) -> list[str]:
    """A sentence for each pair of channels whose voltages explain the stack better when swapped.

    Args:
        distances: of the textbook instrument with these two channels' voltages exchanged.
        stated: of the textbook instrument as stated.
    """
    if not distances:
        return []
    (a, b), best = min(distances.items(), key=lambda item: item[1])
    if best > _CLOSER * stated:
        return []
    one, other = stack.channels[a], stack.channels[b]
    return [
        f"the channels {one.name or a + 1} ({one.beam_kev:g} kV) and {other.name or b + 1} "
        f"({other.beam_kev:g} kV) look as if their voltages were swapped (distance {best:.3f} "
        f"swapped, {stated:.3f} as stated); check which is which."
    ]


def likely_tilt(distances: dict[float, float], stated: float, tilt_deg: float) -> list[str]:
    """A sentence if another tilt explains the stack better than the stated one."""
    if not distances:
        return []
    tilt, best = min(distances.items(), key=lambda item: item[1])
    if best > _CLOSER * stated:
        return []
    return [
        f"a tilt of {tilt:.0f} degrees explains the stack better than the stated {tilt_deg:g} "
        f"(distance {best:.3f} against {stated:.3f}); check its size and sign (positive where the "
        "beam leans towards +y as it goes deeper)."
    ]
