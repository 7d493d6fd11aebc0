"""Any order of axes in a file, brought to (channel, slice, y, x)."""

from collections.abc import Sequence

import numpy as np

from fibsim.errors import InputError

__all__ = ["MAX_CHANNELS", "axis_roles", "shape_of_roles", "to_czyx"]

MAX_CHANNELS = 8


def axis_roles(
    shape: Sequence[int], axes: str, name: str, num_channels: int | None = None
) -> tuple[str, str]:
    """Role of every axis: ``c z y x``, ``s`` (colour sample) or ``1`` (length one, dropped).

    Args:
        shape: lengths of the axes.
        axes: tifffile's letters; Z, C, Y, X, S mean what they say, T is time, I and Q are
            unnamed sequences of pages.
        name: file name for error messages.
        num_channels: number of channels that the file is known to hold, to tell an axis of
            channels from one of slices; ``None`` if nothing states it.

    Returns:
        The roles as a string, and a remark for the user (empty if nothing was guessed).

    Raises:
        InputError: more long axes than slices and channels can explain.
    """
    roles = []
    for length, axis in zip(shape, axes, strict=True):
        if axis in "YXSCZ" and (axis in "YX" or length > 1):
            roles.append(axis.lower())
        else:
            roles.append("1" if length == 1 else "?")
    remark = ""
    if roles.count("?") == 2 and "c" not in roles and "z" not in roles:
        first, second = (i for i, role in enumerate(roles) if role == "?")
        roles[first], roles[second] = "c", "z"
        remark = (
            f"{name} does not name its axes {tuple(shape)}; the first was taken as channels and "
            "the second as slices."
        )
    elif roles.count("?") == 1:
        i = roles.index("?")
        declared = num_channels is not None and num_channels > 1 and shape[i] == num_channels
        if "c" not in roles and declared:
            roles[i] = "c"
        elif "z" not in roles:
            roles[i] = "z"
        elif "c" not in roles and axes[i] != "T":
            roles[i] = "c"
    if "c" in roles and "z" not in roles:
        i = roles.index("c")
        # Writers that are not told the axes of a volume call its slices channels.
        if num_channels == 1 or (shape[i] > MAX_CHANNELS and shape[i] != num_channels):
            roles[i] = "z"
            remark = f"{name} says that it holds {shape[i]} channels; they were taken as slices."
    if "?" in roles or roles.count("y") != 1 or roles.count("x") != 1:
        raise InputError(
            f"{name} has axes {axes} of lengths {tuple(shape)}, expected slices and channels of "
            "images at one time; save the part to use as a TIFF with axes ZYX or CZYX."
        )
    return "".join(roles), remark


def shape_of_roles(shape: Sequence[int], roles: str) -> tuple[int, int, int, int]:
    """Shape (channel, slice, y, x) that `to_czyx` will give."""
    length = dict(zip(roles, shape, strict=True))
    return length.get("c", 1), length.get("z", 1), length["y"], length["x"]


def to_czyx(array: np.ndarray, roles: str) -> np.ndarray:
    """Transpose to (channel, slice, y, x), or (channel, slice, y, x, sample) if there are any."""
    array = array.reshape([n for n, role in zip(array.shape, roles, strict=True) if role != "1"])
    roles = roles.replace("1", "")
    wanted = [role for role in "czyxs" if role in roles]
    array = array.transpose([roles.index(role) for role in wanted])
    for position, role in enumerate("cz"):
        if role not in roles:
            array = np.expand_dims(array, position)
    return array
