"""A specimen from a file: a segmented or simulated volume that someone else made."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from fibsim.errors import InputError
from fibsim.io import VolumeFile, open_volume, read_voxel_nm
from fibsim.specimens.specimen import Specimen, make_specimen, voxel_size

__all__ = [
    "SpecimenFile",
    "open_specimen",
    "phase_fractions_of",
    "solid_fraction_of",
    "specimen_from_file",
]

# What is read of a file at once to learn its values.
_CHUNK_BYTES = 2**25


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Values:
    """What has to be known of all values of a volume.

    Attributes:
        dtype: their type.
        low, high: least and greatest.
        between: one that is neither, if there is any.
        whole: whether all are whole numbers.
        has_solid: whether one is the label of the solid, if that was named.
    """

    dtype: np.dtype
    low: float
    high: float
    between: float | None
    whole: bool
    has_solid: bool


def _values_of(chunks: Iterable[np.ndarray], solid_value: float | None) -> _Values:
    """Raises: InputError: no numbers, or not finite."""
    dtype, seen, whole, has_solid = None, set(), True, False
    for values in chunks:
        dtype = values.dtype
        if dtype.kind not in "buif":
            raise InputError(f"volume has dtype {dtype}, expected numbers.")
        if dtype.kind == "f":
            if not np.all(np.isfinite(values)):
                raise InputError(
                    "volume holds values that are not finite (NaN or infinity); replace them by "
                    "pore or solid first."
                )
            whole = whole and bool(np.all(values == np.round(values)))
        low, high = values.min(), values.max()
        # The least, the greatest and one between of every part hold one between of the whole.
        middle = values[(values != low) & (values != high)]
        seen |= {low.item(), high.item(), *(v.item() for v in middle.flat[:1])}
        has_solid = has_solid or (solid_value is not None and bool(np.any(values == solid_value)))
    between = sorted(seen - {min(seen), max(seen)})
    return _Values(
        dtype=dtype,
        low=min(seen),
        high=max(seen),
        between=between[0] if between else None,
        whole=whole,
        has_solid=has_solid,
    )


def _solid_law(values: _Values, solid_value: float | None) -> Callable[[np.ndarray], np.ndarray]:
    """How stored values become solid fractions; see `solid_fraction_of`."""
    low, high = values.low, values.high
    if solid_value is not None:
        if not values.has_solid:
            raise InputError(
                f"solid_value is {solid_value:g} but no voxel has it, values range from "
                f"{low:g} to {high:g}; name the label of the solid."
            )
        return lambda part: (part == solid_value).astype(np.float32)
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return lambda part: part.astype(np.float32)
    if values.between is not None:
        raise InputError(
            f"volume holds more than two values ({low:g}, {values.between:g}, {high:g}, ...) and "
            "is no fraction between 0 and 1; segment it, scale it to [0, 1] as floating numbers, "
            "or name the label of the solid by solid_value."
        )
    if low == high or low != 0:
        raise InputError(
            f"volume holds the values {low:g} and {high:g}, expected 0 for pore and one other "
            "value for solid; name the label of the solid by solid_value."
        )
    return lambda part: (part == high).astype(np.float32)


def _phase_law(values: _Values, phases: int) -> Callable[[np.ndarray], np.ndarray]:
    """How labels become fractions of phases; see `phase_fractions_of`."""
    if not values.whole or values.low < 0 or values.high > phases:
        raise InputError(
            f"volume holds values from {values.low:g} to {values.high:g} but {phases} materials "
            f"were named; expected whole numbers: 0 for pores and 1 to {phases} for materials."
        )
    numbers = np.arange(1, phases + 1)[:, None, None, None]
    return lambda part: (part == numbers).astype(np.float32)


def solid_fraction_of(values: np.ndarray, solid_value: float | None = None) -> np.ndarray:
    """Labels or grey fractions as solid fraction.

    Args:
        values: volume as stored.
        solid_value: the label of the solid; every other value is pore. If not given: floating
            values in [0, 1] are fractions; integers must be 0 and one other value, the solid.

    Raises:
        InputError: not finite, label absent, more than two labels, one value only, fractions
            outside [0, 1].
    """
    return _solid_law(_values_of([values], solid_value), solid_value)(values)


def phase_fractions_of(labels: np.ndarray, phases: int) -> np.ndarray:
    """One volume per phase, ``(phase, z, y, x)``, of labels 1, 2 ... ``phases``; 0 is open pore.

    Raises:
        InputError: a label is no whole number, or larger than the number of phases.
    """
    return _phase_law(_values_of([labels], None), phases)(labels)


class SpecimenFile:
    """Fractions of a specimen in a file, of which ranges of layers are read when they are asked
    for (`fibsim.slabs.VolumeLike`); use `open_specimen`, in a ``with`` statement.

    Attributes:
        voxel_nm: size of its voxels (z, y, x).
        shape: ``(z, y, x)``, or with phases ``(phase, z, y, x)``.
        held_because: as of `fibsim.io.VolumeFile`.
        held_bytes: what of the file is in memory for that reason.
    """

    def __init__(
        self,
        file: VolumeFile,
        voxel_nm: tuple[float, float, float],
        solid_value: float | None,
        phases: int | None,
    ):
        self._file, self._solid_value, self._phases = file, solid_value, phases
        self._law: Callable[[np.ndarray], np.ndarray] | None = None
        self.voxel_nm, self.held_because = voxel_nm, file.held_because
        self.held_bytes = math.prod(file.shape) * file.dtype.itemsize if self.held_because else 0
        self.shape = file.shape if phases is None else (phases, *file.shape)

    def check_values(self) -> None:
        """Read all values once, to learn what they mean; what is read first does it if need be.

        Raises:
            InputError: as `solid_fraction_of` and `phase_fractions_of`.
        """
        values = _values_of(self._chunks(), self._solid_value)
        if self._phases is None:
            self._law = _solid_law(values, self._solid_value)
        else:
            self._law = _phase_law(values, self._phases)

    def _chunks(self) -> Iterator[np.ndarray]:
        depth, *lateral = self._file.shape
        count = max(_CHUNK_BYTES // (math.prod(lateral) * self._file.dtype.itemsize), 1)
        for top in range(0, depth, count):
            yield self._file[top : top + count]

    def __getitem__(self, index) -> np.ndarray:
        if self._law is None:
            self.check_values()
        return self._law(self._file[index[-1] if isinstance(index, tuple) else index])

    def __enter__(self) -> "SpecimenFile":
        return self

    def __exit__(self, *error) -> None:
        self._file.__exit__(*error)


def open_specimen(
    path: str | Path,
    voxel_nm: float | Sequence[float] | None = None,
    solid_value: float | None = None,
    *,
    phases: int | None = None,
) -> SpecimenFile:
    """Open a specimen whose layers are read when they are asked for; see `specimen_from_file`.

    What the values are is checked when the first are read, or by `SpecimenFile.check_values`.
    """
    if voxel_nm is None:
        voxel_nm = read_voxel_nm(path)
    if voxel_nm is None:
        raise InputError(
            f"{path} does not state its voxel size; give voxel_nm, (z, y, x) or one number, in nm."
        )
    voxel_nm = voxel_size(voxel_nm)
    return SpecimenFile(open_volume(path), voxel_nm, solid_value, phases)


def specimen_from_file(
    path: str | Path,
    voxel_nm: float | Sequence[float] | None = None,
    solid_value: float | None = None,
    *,
    phases: int | None = None,
    periodic: bool = False,
) -> Specimen:
    """Read a volume as `Specimen`.

    Args:
        path: TIFF file, ``.npy``, or ``.npz`` of one array; ``(z, y, x)``.
        voxel_nm: voxel size (z, y, x) in nm, or one number; the file's own if not given.
        solid_value: label of the solid, see `solid_fraction_of`.
        phases: number of materials; the file holds their labels, see `phase_fractions_of`.
        periodic: whether opposite faces fit together.

    Raises:
        InputError: unreadable, not three-dimensional, empty, not finite, neither two labels nor
            fractions, or a voxel size that is neither given nor stated by the file.
    """
    with open_specimen(path, voxel_nm, solid_value, phases=phases) as file:
        return make_specimen(file[:], voxel_nm=file.voxel_nm, periodic=periodic)
