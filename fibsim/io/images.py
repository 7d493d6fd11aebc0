"""One image file: what it holds (`probe_image`) and its grey values (`read_pixels`)."""

import contextlib
import dataclasses
import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fibsim.errors import InputError
from fibsim.io.axes import axis_roles, shape_of_roles, to_czyx
from fibsim.io.facts import FileFacts
from fibsim.io.grey import grey_of_palette, grey_of_samples, inverted
from fibsim.io.headers import sidecar_facts, tiff_facts

__all__ = [
    "IMAGE_SUFFIXES",
    "TIFF_SUFFIXES",
    "ImageInfo",
    "is_image_file",
    "main_series",
    "probe_image",
    "quiet_tifffile",
    "read_pixels",
    "readable",
    "stored_axes",
]

TIFF_SUFFIXES = {".tif", ".tiff"}
_PILLOW_SUFFIXES = {".bmp", ".png"}
IMAGE_SUFFIXES = TIFF_SUFFIXES | _PILLOW_SUFFIXES
# TIFF's numbers of photometric interpretations, and of samples stored image after image.
_MINISWHITE, _PALETTE, _IN_PLANES = 0, 3, 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """What one image file holds, without its pixels.

    Attributes:
        path: the file.
        shape: (channel, slice, y, x); y without a data bar.
        dtype: type of the stored values.
        roles: role of each axis as stored (`axis_roles`).
        facts: what the header states.
    """

    path: Path
    shape: tuple[int, int, int, int]
    dtype: np.dtype
    roles: str
    facts: FileFacts


def is_image_file(path: Path) -> bool:
    """Whether a directory entry is an image by its name; hidden files are not."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


@contextlib.contextmanager
def quiet_tifffile() -> Iterator[None]:
    """Keep tifffile's log from the user: what matters of it is checked and said here."""
    logger = logging.getLogger("tifffile")
    silent = logging.NullHandler()
    before = logger.propagate
    logger.addHandler(silent)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = before
        logger.removeHandler(silent)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises over a damaged file into one sentence."""
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes); copy it again from the microscope.")
        yield
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(
            f"{path} cannot be opened ({error.strerror}); change its permissions."
        ) from error
    except MemoryError:
        raise
    # Decoders raise anything from struct.error to IndexError over damaged files.
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise InputError(
            f"{path} is damaged or not an image of the kind its name says ({reason}); open it in "
            "ImageJ, or copy it again from the microscope."
        ) from error


@contextlib.contextmanager
def _open_tiff(path: Path) -> Iterator[Any]:
    import tifffile

    with readable(path), quiet_tifffile(), tifffile.TiffFile(path) as tif:
        yield tif


# --- TIFF ------------------------------------------------------------------------------------


def main_series(tif: Any) -> tuple[list[Any], int]:
    """The series to read, and how many smaller ones (thumbnails, overviews) are left out."""
    # From 2026.5.2 on tifffile drops axes of one image unless it is told not to.
    series = list(tif.series(squeeze=False) if callable(tif.series) else tif.series)
    if not series:
        raise InputError(f"{tif.filename} holds no image; copy it again from the microscope.")
    largest = max(series, key=lambda one: one.size)
    same = [one for one in series if one.shape == largest.shape and one.dtype == largest.dtype]
    return same, len(series) - len(same)


def stored_axes(series: Any) -> tuple[tuple[int, ...], str]:
    """Shape of a series and its axes' letters, those of one image too."""
    if hasattr(series, "get_axes"):  # before tifffile 2026.5.2
        return tuple(series.get_shape(False)), series.get_axes(False)
    return tuple(series.shape), series.axes


def _next_page_offset(tif: Any) -> int:
    """Where the last page that could be read says that another one begins; 0 if it was the last."""
    file, form = tif.filehandle, tif.tiff
    file.seek(tif.pages[-1].offset)
    (tags,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
    file.seek(tif.pages[-1].offset + form.tagnosize + tags * form.tagsize)
    return struct.unpack(form.offsetformat, file.read(form.offsetsize))[0]


def _declared_planes(tif: Any) -> int | None:
    if tif.is_imagej and tif.imagej_metadata:
        planes = tif.imagej_metadata.get("images")
        return planes if isinstance(planes, int) else None
    return None


def _check_complete(tif: Any, series: list[Any], path: Path) -> None:
    """A cut file still opens: tifffile reads the pages it finds and logs the rest away."""
    advice = "the file was cut short; copy it again from the microscope."
    # Reading every page's directory raises where one is cut.
    found = sum(1 for _ in tif.pages)
    planes = 0
    for one in series:
        shape, axes = stored_axes(one)
        sides = dict(zip(axes, shape, strict=True))
        planes += one.size // (sides["Y"] * sides["X"])
    declared = _declared_planes(tif)
    if declared is not None and declared > planes:
        raise InputError(f"{path} states {declared} images but holds {planes}; {advice}")
    size = tif.filehandle.size
    if _next_page_offset(tif) != 0:
        raise InputError(f"{path} holds {found} pages and points to more that it lacks; {advice}")
    for one in series:
        if one.dataoffset is not None:
            if one.dataoffset + one.nbytes > size:
                raise InputError(
                    f"{path} should hold {one.nbytes} bytes of pixels but ends after "
                    f"{max(size - one.dataoffset, 0)}; {advice}"
                )
            continue
        for number, page in enumerate(one.pages, start=1):
            if page is None:
                raise InputError(f"{path} lacks page {number} of {len(one.pages)}; {advice}")
            segments = zip(page.dataoffsets, page.databytecounts, strict=False)
            if any(count == 0 or offset + count > size for offset, count in segments):
                raise InputError(f"{path} lacks pixels of page {number}; {advice}")


def _probe_tiff(path: Path, num_channels: int | None) -> ImageInfo:
    with _open_tiff(path) as tif:
        series, left_out = main_series(tif)
        _check_complete(tif, series, path)
        one = series[0]
        shape, axes = stored_axes(one)
        if len(series) > 1:
            shape, axes = (len(series), *shape), "Q" + axes
        roles, remark = axis_roles(shape, axes, path.name, num_channels)
        facts = tiff_facts(tif, path)
        dtype = np.dtype(one.dtype)
    if remark:
        facts.warnings.append(remark)
    if left_out:
        facts.warnings.append(f"{path.name} also holds {left_out} smaller images, left out.")
    channels, slices, rows, columns = shape_of_roles(shape, roles)
    kept = facts.rows or rows
    return ImageInfo(path=path, shape=(channels, slices, kept, columns), dtype=dtype, roles=roles,
                     facts=facts)  # fmt: skip


def _pillow_pages(path: Path, like: Any) -> np.ndarray:
    """Pages through Pillow, whose libtiff knows LZW and other schemes that tifffile needs
    imagecodecs for."""
    from PIL import Image, ImageSequence

    with Image.open(path) as image:
        pages = np.stack([np.array(page) for page in ImageSequence.Iterator(image)])
    if pages.size != like.size or pages.dtype.newbyteorder("=") != like.dtype.newbyteorder("="):
        raise ValueError(f"Pillow reads {pages.dtype} of shape {pages.shape}")
    return pages.reshape(stored_axes(like)[0])


def _series_pixels(one: Any, path: Path, *, only: bool) -> np.ndarray:
    try:
        return one.asarray().reshape(stored_axes(one)[0])
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        scheme = one.keyframe.compression.name
    if only:
        # Pillow refuses what it cannot decode with one of several exceptions.
        with contextlib.suppress(Exception):
            return _pillow_pages(path, one)
    raise InputError(
        f"{path} is compressed with {scheme}, which needs one more package; run "
        "'pip install imagecodecs' or save the file uncompressed."
    )


def _read_tiff(info: ImageInfo, *, as_stored: bool) -> tuple[np.ndarray, str]:
    path = info.path
    with _open_tiff(path) as tif:
        series, left_out = main_series(tif)
        only = len(series) == 1 and not left_out
        parts = [_series_pixels(one, path, only=only) for one in series]
        pixels = parts[0] if len(parts) == 1 else np.stack(parts)
        page = series[0].keyframe
        photometric, colormap = int(page.photometric), page.colormap
        in_planes = page.planarconfig == _IN_PLANES
        indices_are_data = bool(tif.is_imagej or tif.is_sem)
    pixels = to_czyx(pixels, info.roles)
    if pixels.ndim == 5:
        pixels, warning = grey_of_samples(pixels, path.name, in_planes=in_planes)
    elif as_stored:
        warning = ""
    elif photometric == _PALETTE and colormap is not None and pixels.dtype.kind == "u":
        pixels, warning = grey_of_palette(pixels, (np.asarray(colormap).T // 257).astype(np.uint8),
                                          path.name, indices_are_data=indices_are_data)  # fmt: skip
    else:
        pixels, warning = (inverted(pixels) if photometric == _MINISWHITE else pixels), ""
    return pixels, warning


# --- BMP and PNG -----------------------------------------------------------------------------


def _probe_pillow(path: Path) -> ImageInfo:
    from PIL import Image

    with readable(path), Image.open(path) as image:
        columns, rows = image.size
        if getattr(image, "n_frames", 1) > 1:
            raise InputError(f"{path} is an animation, expected one image; save single images.")
        mode = image.mode
        facts = sidecar_facts(path, (rows, columns))
    dtype = {"1": np.dtype(bool), "F": np.dtype(np.float32), "I": np.dtype(np.int32)}.get(
        mode, np.dtype(np.uint16) if mode.startswith("I;16") else np.dtype(np.uint8)
    )
    return ImageInfo(path=path, shape=(1, 1, facts.rows or rows, columns), dtype=dtype,
                     roles="yx", facts=facts)  # fmt: skip


def _read_pillow(info: ImageInfo, *, as_stored: bool) -> tuple[np.ndarray, str]:
    from PIL import Image

    warning = ""
    with readable(info.path), Image.open(info.path) as image:
        if image.mode not in ("1", "L", "LA", "P", "I", "F", "RGB", "RGBA") and not (
            image.mode.startswith("I;16")
        ):
            raise InputError(
                f"{info.path} is stored as {image.mode}, expected grey values; save it as an 8 or "
                "16 bit greyscale image."
            )
        pixels = np.array(image)
        palette = image.getpalette() if image.mode == "P" else None
    if palette is not None and not as_stored:
        pixels, warning = grey_of_palette(pixels, np.array(palette, np.uint8).reshape(-1, 3),
                                          info.path.name, indices_are_data=False)  # fmt: skip
    if pixels.ndim == 3:
        pixels, warning = grey_of_samples(pixels, info.path.name)
    return pixels[None, None], warning


# --- both ------------------------------------------------------------------------------------


def probe_image(path: Path, num_channels: int | None = None) -> ImageInfo:
    """Shape, type and header of an image file, checked to be complete.

    Args:
        path: TIFF, BMP or PNG file.
        num_channels: number of channels that the file is known to hold, if anything states it.

    Raises:
        InputError: not an image format that can be read, empty, cut short, damaged.
    """
    suffix = path.suffix.lower()
    if suffix in TIFF_SUFFIXES:
        return _probe_tiff(path, num_channels)
    if suffix in _PILLOW_SUFFIXES:
        return _probe_pillow(path)
    raise InputError(
        f"{path} is not an image that can be read, expected one of "
        f"{', '.join(sorted(IMAGE_SUFFIXES))}; export it as TIFF."
    )


def read_pixels(info: ImageInfo, *, as_stored: bool = False) -> tuple[np.ndarray, str]:
    """Grey values (channel, slice, y, x) in native byte order, without data bar; and a warning.

    Args:
        info: from `probe_image`.
        as_stored: keep palette indices and inverted greys as they are, as for labels.

    Raises:
        InputError: damaged, coloured, or compressed in a way that needs another package.
    """
    reader = _read_tiff if info.path.suffix.lower() in TIFF_SUFFIXES else _read_pillow
    pixels, warning = reader(info, as_stored=as_stored)
    pixels = pixels[:, :, : info.shape[2]]
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False), warning
