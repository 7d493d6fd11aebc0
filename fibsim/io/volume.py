"""Volumes and stacks as TIFF files that ImageJ opens with the right voxel size."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from fibsim.errors import InputError
from fibsim.io._files import atomic_path
from fibsim.io.images import read_pixels
from fibsim.io.volume_file import NUMPY_SUFFIXES, open_volume, probe_volume, require_one_channel
from fibsim.stack import Channel

__all__ = [
    "read_volume",
    "read_voxel_nm",
    "stack_files",
    "volume_writer",
    "write_stack",
    "write_volume",
]

# Offsets of a TIFF have 32 bits; its headers need some of what is left.
_CLASSIC_TIFF_BYTES = 2**32 - 2**25


def read_volume(path: str | Path) -> np.ndarray:
    """Read a volume (truth, specimen, result) as stored.

    Args:
        path: TIFF file of one channel (BMP and PNG are read as one slice), ``.npy``, or ``.npz``
            of one array.

    Returns:
        ``(z, y, x)``, in the file's own type; labels stored with a palette stay labels.

    Raises:
        InputError: absent, unreadable, cut short, or of several channels.
    """
    if Path(path).suffix.lower() in NUMPY_SUFFIXES:
        with open_volume(path) as file:
            return file[:]
    info = probe_volume(path)
    require_one_channel(info)
    return read_pixels(info, as_stored=True)[0][0]


def read_voxel_nm(path: str | Path) -> tuple[float, float, float] | None:
    """Voxel size (z, y, x) in nm that a volume's own header states; ``None`` if it does not, as
    in NumPy's files.

    Raises:
        InputError: absent or unreadable.
    """
    if Path(path).suffix.lower() in NUMPY_SUFFIXES:
        return None
    facts = probe_volume(path).facts
    if not facts.pixel_nm or not facts.slice_nm or facts.pixel_nm[0].problem:
        return None
    pixel, thickness = float(facts.pixel_nm[0].value), float(facts.slice_nm[0].value)
    return (thickness, pixel, pixel)


def _as_imagej(volume: np.ndarray, name: str) -> np.ndarray:
    """The same values in a type that ImageJ knows: uint8, uint16 or float32."""
    dtype = volume.dtype
    if dtype in (np.uint8, np.uint16, np.float32):
        return volume
    if dtype.kind == "b":
        return volume.astype(np.uint8)
    if dtype.kind == "f":
        return volume.astype(np.float32)
    if dtype.kind in "ui":
        low, high = int(volume.min()), int(volume.max())
        for smaller in (np.uint8, np.uint16):
            if low >= 0 and high <= np.iinfo(smaller).max:
                return volume.astype(smaller)
        if low >= -(2**24) and high <= 2**24:  # float32 holds these integers exactly
            return volume.astype(np.float32)
        raise InputError(
            f"{name} holds integers from {low} to {high}, which fit neither uint16 nor float32 "
            "exactly; scale them first."
        )
    raise InputError(f"{name} has dtype {dtype}, expected numbers.")


def _voxel(voxel_nm: float | Sequence[float], name: str) -> tuple[float, float, float]:
    values = [voxel_nm] * 3 if isinstance(voxel_nm, int | float) else list(voxel_nm)
    if len(values) != 3 or not all(math.isfinite(v) and v > 0 for v in values):
        raise InputError(
            f"The voxel size of {name} is {voxel_nm}, expected one or three positive numbers "
            "(z, y, x) in nm."
        )
    return float(values[0]), float(values[1]), float(values[2])


@contextlib.contextmanager
def volume_writer(
    path: str | Path,
    shape: tuple[int, int, int],
    dtype: np.dtype | type,
    *,
    voxel_nm: float | Sequence[float],
) -> Iterator[Callable[[int, np.ndarray], None]]:
    """Write the layers of a volume in any order; the file appears when the block ends well.

    ::

        with volume_writer("truth.tif", (100, 64, 64), np.uint8, voxel_nm=4.0) as write:
            write(50, layers)  # layers 50, 51 ... of the file

    Layers that are never written are zero. Beyond 4 GB the file has the form of ImageJ's own large
    files, with one header for all pages.

    Args:
        path: file to write; its folder is made if need be.
        shape: (z, y, x).
        dtype: uint8, uint16 or float32.
        voxel_nm: voxel size (z, y, x) in nm, or one number.

    Raises:
        InputError: no voxel size, or the file cannot be written.
    """
    import tifffile

    path, dtype = Path(path), np.dtype(dtype)
    z_nm, y_nm, x_nm = _voxel(voxel_nm, path.name)
    layer_bytes = math.prod(shape[1:]) * dtype.itemsize
    with atomic_path(path) as temporary:
        offset, _ = tifffile.imwrite(
            temporary,
            # All six axes, lest a side of one pixel be dropped.
            shape=(1, shape[0], 1, shape[1], shape[2], 1),
            dtype=dtype,
            imagej=True,
            photometric="minisblack",
            resolution=(1 / x_nm, 1 / y_nm),
            metadata={"axes": "TZCYXS", "spacing": z_nm, "unit": "nm"},
            truncate=shape[0] * layer_bytes > _CLASSIC_TIFF_BYTES,
            returnoffset=True,
        )
        with temporary.open("r+b") as file:

            def write(first: int, layers: np.ndarray) -> None:
                file.seek(offset + first * layer_bytes)
                file.write(np.ascontiguousarray(layers, dtype).data)

            yield write


def write_volume(
    path: str | Path, volume: np.ndarray, *, voxel_nm: float | Sequence[float]
) -> None:
    """Write a volume as a TIFF that ImageJ opens as a calibrated stack, whole or not at all.

    Args:
        path: file to write; its folder is made if need be.
        volume: ``(z, y, x)``; uint8, uint16 and float32 are kept, bool becomes uint8, other
            floating types float32, other integers the smallest of the three that holds them.
        voxel_nm: voxel size (z, y, x) in nm, or one number.

    Raises:
        InputError: not three-dimensional, empty, no voxel size, or the file cannot be written.
    """
    path = Path(path)
    volume = np.asarray(volume)
    if volume.ndim != 3 or volume.size == 0:
        raise InputError(
            f"{path.name} would hold shape {volume.shape}, expected a volume (z, y, x)."
        )
    _voxel(voxel_nm, path.name)
    stored = _as_imagej(volume, path.name)
    with volume_writer(path, stored.shape, stored.dtype, voxel_nm=voxel_nm) as write:
        write(0, stored)


def stack_files(folder: str | Path, channels: Sequence[Channel]) -> list[Path]:
    """The file of each channel of a stack, named by voltage and detector (``1kV_SE.tif``).

    Raises:
        InputError: two channels would have the same name.
    """
    files = [Path(folder) / f"{c.beam_kev:.12g}kV_{c.detector}.tif" for c in channels]
    if len(set(files)) < len(files):
        raise InputError(
            f"Two channels have the same voltage and detector ({', '.join(f.stem for f in files)})"
            ", expected each once."
        )
    return files


def write_stack(
    folder: str | Path,
    images: np.ndarray,
    channels: Sequence[Channel],
    voxel_nm: float | Sequence[float],
) -> list[Path]:
    """Write one TIFF per channel; see `stack_files` for their names.

    Args:
        folder: where to; it is made if need be.
        images: ``(channel, slice, y, x)``.
        channels: one per leading index.
        voxel_nm: voxel size (z, y, x) in nm.

    Returns:
        The files written, in order of channels.

    Raises:
        InputError: shapes and channels do not fit together, two channels would have the same
            name, or the files cannot be written.
    """
    images = np.asarray(images)
    if images.ndim != 4 or len(images) != len(channels):
        raise InputError(
            f"Images of shape {images.shape} do not fit {len(channels)} channels, expected "
            "(channel, slice, y, x)."
        )
    files = stack_files(folder, channels)
    for file, image in zip(files, images, strict=True):
        write_volume(file, image, voxel_nm=voxel_nm)
    return files
