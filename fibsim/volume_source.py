"""Volumes that are read by ranges of layers, as fractions of phases."""

import dataclasses
from typing import Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from fibsim.errors import InputError
from fibsim.specimens.specimen import Specimen, phase_fractions

__all__ = ["Source", "VolumeLike"]

_TOLERANCE = 1e-3


class VolumeLike(Protocol):
    """Anything with a shape that gives a range of layers, such as a NumPy memory map.

    ``shape`` is ``(z, y, x)``, or ``(phase, z, y, x)``; ``volume[z0:z1]``, or
    ``volume[:, z0:z1]``, holds solid fractions, floating in [0, 1] or boolean, or integers 0..255
    for 0..1 if it is ``uint8``.
    """

    shape: tuple[int, ...]

    def __getitem__(self, index, /): ...


def _fractions(part: np.ndarray, top: int) -> np.ndarray:
    """What was read, as float32 fractions; ``top`` is its first layer, for messages."""
    part = np.asarray(part)
    if part.dtype == np.uint8:
        return part.astype(np.float32) / np.float32(255)
    if part.dtype.kind not in "bf":
        raise InputError(
            f"the volume holds {part.dtype}, expected fractions in [0, 1] as floating numbers or "
            "booleans, or uint8 with 255 for solid; convert it first."
        )
    values = part.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
        raise InputError(
            f"the volume holds values from {low:g} to {high:g} from layer {top} on, expected "
            "fractions in [0, 1]; scale them first."
        )
    return np.clip(values, 0, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Reads windows of a volume.

    Attributes:
        volume: what is read.
        voxel_nm: size of its voxels (z, y, x).
        periodic: whether opposite borders fit together.
        phases: number of the instrument's phases.
    """

    volume: VolumeLike
    voxel_nm: tuple[float, float, float]
    periodic: bool
    phases: int

    @property
    def depth(self) -> int:
        return self.volume.shape[-3]

    def fractions(self, top: int, count: int) -> np.ndarray:
        """Layers ``top .. top + count - 1`` with the axes of the volume, as float32."""
        rows = slice(top, top + count)
        read = self.volume[rows] if len(self.volume.shape) == 3 else self.volume[:, rows]
        values = _fractions(read, top)
        wanted = (*self.volume.shape[:-3], count, *self.volume.shape[-2:])
        if values.shape != wanted:
            raise InputError(
                f"the volume gave shape {values.shape} for layers {top} to {top + count - 1}, "
                f"expected {wanted}."
            )
        return values

    def window(self, top: int, count: int) -> Array:
        """The same as ``(phase, z, y, x)``, all of the instrument's phases; above the volume it is
        empty, which no average uses."""
        missing = max(-top, 0)
        values = self.fractions(top + missing, count - missing)
        if missing:
            width = [(0, 0)] * values.ndim
            width[-3] = (missing, 0)
            values = np.pad(values, width)
        specimen = Specimen(
            solid=jnp.asarray(values), voxel_nm=self.voxel_nm, periodic=self.periodic
        )
        return phase_fractions(specimen, self.phases)
