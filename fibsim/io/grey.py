"""Palettes, inverted greys and colour images turned into plain grey values, or refused."""

import numpy as np

from fibsim.errors import InputError

__all__ = ["grey_of_palette", "grey_of_samples", "inverted"]

# Markers and measurement lines drawn into an image cover far less than this.
_MAX_COLOURED = 0.02


def inverted(pixels: np.ndarray) -> np.ndarray:
    """Grey values of an image stored with white as zero."""
    if pixels.dtype.kind == "u":
        return np.iinfo(pixels.dtype).max - pixels
    return pixels


def grey_of_palette(
    pixels: np.ndarray, palette: np.ndarray, name: str, *, indices_are_data: bool
) -> tuple[np.ndarray, str]:
    """Grey values of an image stored as indices into a palette.

    Args:
        pixels: unsigned integer indices.
        palette: ``(entry, 3)``, 8 bit.
        name: file name for messages.
        indices_are_data: the program that wrote the file keeps grey values as indices and uses
            the palette for display and markers only (ImageJ, Zeiss SmartSEM).

    Returns:
        Grey values (uint8) and a warning (empty if there is nothing to say).

    Raises:
        InputError: the picture is coloured.
    """
    used = np.unique(pixels)
    if used[-1] >= len(palette):
        raise InputError(
            f"{name} uses palette entry {used[-1]} of a palette of {len(palette)}; "
            "save it again as an 8 bit greyscale image."
        )
    is_grey = np.all(palette == palette[:, :1], axis=1)
    if is_grey[used].all():
        return (pixels if indices_are_data else palette[:, 0][pixels]).astype(np.uint8), ""
    coloured = float(np.mean(~is_grey[pixels]))
    if not indices_are_data and coloured > _MAX_COLOURED:
        raise InputError(
            f"{name} is a colour picture ({100 * coloured:.0f} % of its pixels are coloured by "
            "its palette), expected grey values; save it as a greyscale image."
        )
    warning = (
        f"{name} has a colour palette that touches {100 * coloured:.2g} % of its pixels (drawn "
        "markers or a display table); its indices were read as grey values."
    )
    return pixels.astype(np.uint8), warning


def grey_of_samples(
    pixels: np.ndarray, name: str, *, in_planes: bool = False
) -> tuple[np.ndarray, str]:
    """One grey image from colour samples on the last axis, if they all agree.

    Args:
        in_planes: the file holds the samples one whole image after the other, as programs write
            three slices that they take for the colours of one image.

    Raises:
        InputError: red, green and blue differ.
    """
    samples = pixels.shape[-1]
    if samples in (1, 2):  # grey, or grey and opacity
        return pixels[..., 0], ""
    colours = pixels[..., :3]
    if not (np.array_equal(colours[..., 0], colours[..., 1])
            and np.array_equal(colours[..., 0], colours[..., 2])):  # fmt: skip
        slices = (
            " If the three planes are slices, save them again as pages of grey values (in "
            "tifffile: photometric='minisblack')."
        )
        raise InputError(
            f"{name} is a colour image whose red, green and blue differ, expected grey values; "
            "remove coloured markers or save the original greyscale image."
            + (slices if in_planes else "")
        )
    return colours[..., 0], f"{name} is stored in colour; its three equal planes were read as one."
