"""A volume in a file, of which ranges of layers are read when they are asked for."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fibsim.errors import InputError
from fibsim.io._files import require_exists
from fibsim.io.images import (
    TIFF_SUFFIXES,
    ImageInfo,
    main_series,
    probe_image,
    quiet_tifffile,
    read_pixels,
    readable,
    stored_axes,
)

__all__ = ["NUMPY_SUFFIXES", "VolumeFile", "open_volume", "probe_volume", "require_one_channel"]

NUMPY_SUFFIXES = {".npy", ".npz"}


class VolumeFile:
    """Layers of a volume in a file; use `open_volume`, in a ``with`` statement.

    ``file[z0:z1]`` reads layers as `fibsim.io.read_volume` does and keeps nothing.

    Attributes:
        path: the file.
        shape: (z, y, x).
        dtype: type of the values, in native byte order.
        held_because: why the whole volume is in memory nonetheless; empty if it is not.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        dtype: np.dtype,
        read: Callable[[int, int], np.ndarray],
        *,
        held_because: str = "",
        close: Callable[[], None] = lambda: None,
    ):
        self.path, self.shape, self.held_because = path, shape, held_because
        self.dtype = dtype.newbyteorder("=")
        self._read, self._close = read, close

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(self.shape[0])
        layers = self._read(start, max(stop, start))[::step]
        return layers.astype(self.dtype, copy=False)

    def __enter__(self) -> "VolumeFile":
        return self

    def __exit__(self, *_) -> None:
        self._close()


def probe_volume(path: str | Path) -> ImageInfo:
    """`probe_image` of a file that should hold one volume.

    Raises:
        InputError: absent, a folder, unreadable, or cut short.
    """
    path = Path(path)
    require_exists(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected one file that holds the volume.")
    return probe_image(path, 1)


def require_one_channel(info: ImageInfo) -> None:
    """Raise an `InputError` if an image file holds several channels."""
    if info.shape[0] > 1:
        raise InputError(
            f"{info.path} holds {info.shape[0]} channels, expected one volume with axes ZYX; save "
            "the channel to use on its own."
        )


def open_volume(path: str | Path) -> VolumeFile:
    """Open a volume whose layers are read when they are asked for.

    Uncompressed TIFFs, TIFFs whose pages are compressed one by one, and ``.npy`` files are read
    layer by layer. Others are read at once and held, and ``held_because`` says why.

    Args:
        path: TIFF of one channel, BMP or PNG of one slice, ``.npy`` of axes (z, y, x), or
            ``.npz`` that holds one such array.

    Raises:
        InputError: absent, unreadable, cut short, of several channels, not three-dimensional.
    """
    path = Path(path)
    if path.suffix.lower() in NUMPY_SUFFIXES:
        require_exists(path)
        return _open_npy(path) if path.suffix.lower() == ".npy" else _open_npz(path)
    info = probe_volume(path)
    require_one_channel(info)
    if path.suffix.lower() in TIFF_SUFFIXES:
        return _open_tiff(info)
    return _hold(info, "a single image is read at once")


def _hold(info: ImageInfo, reason: str) -> VolumeFile:
    values = read_pixels(info, as_stored=True)[0][0]
    return _held(info.path, values, reason)


def _held(path: Path, values: np.ndarray, reason: str) -> VolumeFile:
    def read(start, stop):
        return values[start:stop]

    return VolumeFile(path, values.shape, values.dtype, read, held_because=reason)


# --- TIFF ------------------------------------------------------------------------------------


def _open_tiff(info: ImageInfo) -> VolumeFile:
    import tifffile

    path = info.path
    if info.roles.replace("1", "") not in ("zyx", "yx"):
        return _hold(info, f"its axes are stored as {info.roles.replace('1', '').upper()}")
    with contextlib.ExitStack() as on_failure:
        with readable(path), quiet_tifffile():
            tif = on_failure.enter_context(tifffile.TiffFile(path))
            series = main_series(tif)[0]
            read = _layers_of(tif, series[0], info) if len(series) == 1 else None
        if read is not None:
            on_failure.pop_all()
            return VolumeFile(path, info.shape[1:], info.dtype, read, close=tif.close)
    return _hold(info, "its layers are not stored one by one in a form that can be read alone")


def _layers_of(tif: Any, series: Any, info: ImageInfo) -> Callable[[int, int], np.ndarray] | None:
    """What reads layers ``start .. stop - 1``, or nothing if they cannot be read alone."""
    slices, rows, columns = info.shape[1:]
    stored = dict(zip(info.roles, stored_axes(series)[0], strict=True))
    page_shape = (stored["y"], columns)
    if series.dataoffset is not None:
        dtype = np.dtype(tif.byteorder + series.dtype.char)
        size = page_shape[0] * page_shape[1]

        def contiguous(start: int, stop: int) -> np.ndarray:
            # Read and not mapped, so that what was read does not stay in the process.
            with readable(info.path):
                values = np.fromfile(
                    info.path,
                    dtype,
                    count=(stop - start) * size,
                    offset=series.dataoffset + start * size * dtype.itemsize,
                )
                return values.reshape(stop - start, *page_shape)[:, :rows]

        return contiguous

    def by_page(start: int, stop: int) -> np.ndarray:
        with readable(info.path), quiet_tifffile():
            values = np.empty((stop - start, rows, columns), info.dtype)
            for number in range(start, stop):
                values[number - start] = series.pages[number].asarray().reshape(page_shape)[:rows]
            return values

    if len(series.pages) != slices or series.keyframe.size != page_shape[0] * page_shape[1]:
        return None
    try:
        series.pages[0].asarray()
    except ValueError:  # a compression that needs imagecodecs
        return None
    return by_page


# --- NumPy -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _numpy_file(path: Path):
    try:
        yield
    except InputError:
        raise
    # A damaged header raises anything from SyntaxError to OverflowError.
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise InputError(
            f"{path} is damaged or no array of NumPy ({reason}); save it again with numpy.save."
        ) from error


def _require_volume(path: Path, values: np.ndarray) -> None:
    if values.ndim != 3 or values.size == 0:
        raise InputError(
            f"{path} holds an array of shape {values.shape}, expected a volume (z, y, x)."
        )


def _open_npy(path: Path) -> VolumeFile:
    def layers(start: int, stop: int | None) -> np.ndarray:
        # Mapped anew each time: layers that were read do not stay in the process.
        with _numpy_file(path):
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            return np.array(mapped[start:stop])

    with _numpy_file(path):
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        _require_volume(path, mapped)
    return VolumeFile(path, mapped.shape, mapped.dtype, layers)


def _open_npz(path: Path) -> VolumeFile:
    with _numpy_file(path), np.load(path, allow_pickle=False) as content:
        names = list(content)
        if len(names) != 1:
            raise InputError(
                f"{path} holds {len(names)} arrays ({', '.join(names[:5])}), expected one volume "
                "(z, y, x); save it alone, as .npy."
            )
        values = content[names[0]]
    _require_volume(path, values)
    return _held(path, values, "an .npz cannot be read in part; an .npy can")
