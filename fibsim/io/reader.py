"""Read a recorded stack, whatever form it was saved in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fibsim.errors import InputError
from fibsim.io.checks import burnt_in_rows, check_channel, check_distinct, check_same_shape
from fibsim.io.facts import Fact
from fibsim.io.images import read_pixels
from fibsim.io.layout import ChannelFiles, Layout, find_layout
from fibsim.io.resolve import resolve_metadata
from fibsim.io.stack_yaml import Stated, find_stack_yaml, load_stack_yaml, stated_on_command_line
from fibsim.io.vendor_headers import atlas_slice_fact
from fibsim.stack import Stack

__all__ = ["read_stack"]


def _layout(path: Path, command_line: Stated, written: Stated | None) -> Layout:
    """Find the channels, with the files that the user lists, if any."""
    if command_line.files is not None and path.is_file():
        raise InputError(
            f"The command line lists channels of {path}, which is one file; give its folder."
        )
    listing = next(
        (one for one in (command_line, written) if one is not None and one.files is not None), None
    )
    files = None if listing is None else listing.files
    sources = [one for one in (command_line, written) if one is not None]
    if path.is_file() and files is not None:
        # A stack.yaml of the whole folder: only what it says of this file counts.
        files = [file for file in files if file == path.name] or None
        counts = [len(files)] if files else []
    else:
        counts = [one.num_channels for one in sources]
    num_channels = next((count for count in counts if count is not None), None)
    stated_in = listing.subject if listing is not None else ""
    return find_layout(path, files=files, stated_in=stated_in, num_channels=num_channels)


def _pixels(channel: ChannelFiles, warnings: list[str]) -> np.ndarray:
    """(slice, y, x) of one channel."""
    parts = []
    for image in channel.images:
        pixels, warning = read_pixels(image)
        if warning and warning not in warnings:
            warnings.append(warning)
        parts.append(pixels[channel.index])
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _folder_slice(layout: Layout) -> Fact | None:
    folders = {image.path.parent for channel in layout.channels for image in channel.images}
    found = (atlas_slice_fact(folder) for folder in sorted(folders))
    return next((fact for fact in found if fact is not None), None)


def _images(layout: Layout, warnings: list[str]) -> np.ndarray:
    """(channel, slice, y, x), checked."""
    images = np.empty((0,))
    kinds = []
    for i, channel in enumerate(layout.channels):
        pixels = _pixels(channel, warnings)
        warnings += check_channel(pixels, channel.title)
        kinds.append(pixels.dtype)
        if i == 0:
            images = np.empty((len(layout.channels), *pixels.shape), pixels.dtype)
        # Filled in place, as all channels twice may not fit into memory.
        images = images.astype(np.result_type(images, pixels), copy=False)
        images[i] = pixels
    if len(set(kinds)) > 1:
        names = ", ".join(sorted({str(kind) for kind in kinds}))
        warnings.append(f"Channels are stored as {names}; all are kept as {images.dtype}.")
    check_distinct(images, layout.channels)
    return images


def _without_bar(
    images: np.ndarray, layout: Layout, warnings: list[str], provenance: dict[str, str]
) -> np.ndarray:
    """Crop a data bar written over the images by software known to do so; else warn of it."""
    bar = max(burnt_in_rows(channel) for channel in images)
    if not bar:
        return images
    files = [image for channel in layout.channels for image in channel.images]
    if all(file.facts.writes_bar for file in files):
        provenance["data bar"] = f"lowest {bar} rows cropped: Zeiss data bar written over the image"
        return np.ascontiguousarray(images[:, :, :-bar])
    warnings.append(
        f"The lowest {bar} rows look like a data bar written over the image; crop them off."
    )
    return images


def read_stack(path: str | Path, *, overrides: Mapping[str, Any] | None = None) -> Stack:
    """Read a stack with all that is known of it.

    Accepted are a folder with one multi-page TIFF per channel, an nnU-Net case, an ImageJ or OME
    hyperstack, a folder of sub-folders of slices, a folder of slices, and one image; TIFF, BMP
    and PNG (``docs/file_formats.md``).

    Args:
        path: folder, file, or ``folder/NAME`` for an nnU-Net case.
        overrides: what was given on the command line; keys ``pixel_nm``, ``slice_nm``,
            ``tilt_deg``, ``material``, ``pores``, ``specimen``, ``beam_kev``, ``detector`` (lists,
            one entry per channel), ``channels`` (file names to use). They win over ``stack.yaml``,
            which wins over headers, which win over names.

    Returns:
        The stack; ``provenance`` names the source of every fact, ``warnings`` what was assumed
        or contradictory.

    Raises:
        InputError: unreadable or impossible input, or facts that nothing states (one error that
            lists them all and shows the ``stack.yaml`` to write).
    """
    path = Path(path)
    command_line = stated_on_command_line(overrides)
    yaml_path = find_stack_yaml(path)
    written = None if yaml_path is None else load_stack_yaml(yaml_path)
    layout = _layout(path, command_line, written)
    check_same_shape(layout.channels)
    sources = [one for one in (command_line, written) if one is not None]
    metadata = resolve_metadata(layout, sources, _folder_slice(layout), str(path))
    warnings = list(metadata.warnings)
    images = _images(layout, warnings)
    provenance = dict(metadata.provenance)
    images = _without_bar(images, layout, warnings, provenance)
    return Stack(
        images=images,
        channels=metadata.channels,
        pixel_nm=metadata.pixel_nm,
        slice_nm=metadata.slice_nm,
        tilt_deg=metadata.tilt_deg,
        material=metadata.material,
        pores=metadata.pores,
        specimen=metadata.specimen,
        name=layout.name,
        provenance=provenance,
        warnings=tuple(warnings),
    )
