"""The work behind ``fibsim milling``: table, picture, and the stack with its slices put back."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fibsim import io
from fibsim.io.stack_yaml import MATERIAL_KEYS, stack_yaml_text
from fibsim.io.table_file import is_table_name
from fibsim.picture_file import write_picture
from fibsim.realign import MillingEstimate, check_images, estimate_milling, findings, reposition
from fibsim.stack import Stack

__all__ = ["milling_table", "milling_to_folder"]

# A fact that images tell nothing of, and milling needs not.
_UNUSED = "No source states the material"


def milling_table(estimate: MillingEstimate, channels: list[str]) -> str:
    """The text of ``milling.csv``: a row for every slice, displacements in pixels."""
    columns = {
        "slice": np.arange(len(estimate.thickness_nm)),
        "position_nm": estimate.position_nm,
        "thickness_nm": estimate.thickness_nm,
        "thickness_se_nm": estimate.thickness_se_nm,
    }
    drift, error, own, own_error = (
        values / estimate.pixel_nm
        for values in (
            estimate.drift_nm,
            estimate.drift_se_nm,
            estimate.channel_drift_nm,
            estimate.channel_drift_se_nm,
        )
    )
    for axis, name in enumerate("yx"):
        columns[f"drift_{name}_px"] = drift[:, axis]
        columns[f"drift_{name}_se_px"] = error[:, axis]
    for c, channel in enumerate(channels):
        for axis, name in enumerate("yx"):
            columns[f"{channel} drift_{name}_px"] = own[c, :, axis]
            columns[f"{channel} drift_{name}_se_px"] = np.full(own.shape[1], own_error[axis])
        columns[f"{channel} brightness"] = estimate.brightness[c]
    rows = zip(*columns.values(), strict=True)
    shown = ([int(row[0]), *(f"{value:.4f}" for value in row[1:])] for row in rows)
    return io.csv_text([columns, *shown])


def _draw(estimate: MillingEstimate, channels: list[str], path: Path) -> None:
    from fibsim.realign.picture import draw_milling

    draw_milling(estimate, channels, path)


def _write_repositioned(
    folder: Path, stack: Stack, estimate: MillingEstimate, interpolation: str
) -> None:
    """The repositioned images and a ``stack.yaml`` with all that was known of the stack."""
    images = reposition(stack.images, estimate, interpolation=interpolation)
    files = io.write_stack(folder, images, stack.channels, voxel_nm=stack.voxel_nm)
    facts = {"pixel_nm": stack.pixel_nm, "slice_nm": stack.slice_nm}
    for key in ("tilt_deg", *MATERIAL_KEYS, "specimen"):
        value = getattr(stack, key)
        if value is not None:
            is_file = key in MATERIAL_KEYS and is_table_name(value)
            facts[key] = str(Path(value).absolute()) if is_file else value
    channels = [
        {"file": file.name, "beam_kev": channel.beam_kev, "detector": channel.detector}
        for file, channel in zip(files, stack.channels, strict=True)
    ]
    io.atomic_write_text(folder / "stack.yaml", stack_yaml_text(facts, channels))


def milling_to_folder(
    path: Path,
    out: Path,
    *,
    overrides: dict,
    repositioned: bool,
    interpolation: str,
    announce: Callable[[str], None],
    progress: Callable[[int, int, str], None],
) -> None:
    """Do ``fibsim milling``; see its help for the arguments.

    Raises:
        InputError: the folder is not empty, or the stack cannot be read or is too small.
    """
    io.require_new_folder(out)
    stack = io.read_stack(path, overrides=overrides)
    check_images(
        stack.images,
        slice_nm=stack.slice_nm,
        pixel_nm=stack.pixel_nm,
        tilt_deg=stack.tilt_deg,
        channels=[channel.name for channel in stack.channels],
    )
    if repositioned:
        io.require_space(out, stack.images.nbytes)
    for warning in stack.warnings:
        if not warning.startswith(_UNUSED):
            announce(f"warning: {warning}")
    estimate = estimate_milling(
        stack.images,
        slice_nm=stack.slice_nm,
        pixel_nm=stack.pixel_nm,
        tilt_deg=stack.tilt_deg,
        progress=progress,
    )
    if stack.tilt_deg is None:
        announce(f"tilt {estimate.tilt_deg:.0f} degrees, guessed from the images")
    for line in findings(estimate):
        announce(line)
    names = [channel.label for channel in stack.channels]
    io.atomic_write_text(out / "milling.csv", milling_table(estimate, names))
    draw = functools.partial(_draw, estimate, names)
    drawn = write_picture(out / "milling.png", draw, announce=announce)
    written = "milling.csv" + (" and milling.png" if drawn else "")
    announce(f"wrote {written} in {out}")
    if repositioned:
        folder = out / "repositioned"
        _write_repositioned(folder, stack, estimate, interpolation)
        announce(f"wrote the repositioned stack in {folder}")
