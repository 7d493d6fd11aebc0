"""What was read, as text for people (`inspect_stack`) and as a number for machines."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from fibsim.errors import counted
from fibsim.io.table_file import is_table_name, material_digest
from fibsim.stack import Stack

__all__ = ["fingerprint", "inspect_stack"]

_FACTS = ("pixel_nm", "slice_nm", "tilt_deg", "material", "pores", "specimen")


def _channel_rows(stack: Stack) -> list[list[str]]:
    rows = [["channel", "kV", "detector", "min", "max", "mean", "% at min", "% at max"]]
    for channel, images in zip(stack.channels, stack.images, strict=True):
        low, high = images.min(), images.max()
        rows.append(
            [
                channel.name,
                f"{channel.beam_kev:g}",
                channel.detector,
                f"{low:.6g}",
                f"{high:.6g}",
                f"{images.mean(dtype=np.float64):.4g}",
                f"{100 * np.mean(images == low):.2f}",
                f"{100 * np.mean(images == high):.2f}",
            ]
        )
    return rows


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def inspect_stack(stack: Stack, doubts: Sequence[str] = ()) -> str:
    """Readable account of a stack: shape, channels, voxel, source of each fact, grey values.

    Grey values piled up at the smallest or largest value (``% at min``, ``% at max``) are cut
    off: the detector was set too dark or saturated.

    Args:
        doubts: more sentences for the warnings, such as `fibsim.depth_order_warnings` gives.
    """
    _, slices, height, width = stack.images.shape
    lines = [
        f"{stack.name}: {counted(stack.num_channels, 'channel')}, {counted(slices, 'slice')} of "
        f"{width} x {height} pixels, {stack.images.dtype}",
        f"voxel (z, y, x): {stack.slice_nm:g} x {stack.pixel_nm:g} x {stack.pixel_nm:g} nm, "
        f"volume {slices * stack.slice_nm / 1000:.4g} x {height * stack.pixel_nm / 1000:.4g} x "
        f"{width * stack.pixel_nm / 1000:.4g} um",
        "",
        "Facts and their sources",
    ]
    rows = []
    for key in _FACTS:
        value = getattr(stack, key)
        shown = "unknown" if value is None else f"{value:g}" if isinstance(value, float) else value
        rows.append([key, str(shown), stack.provenance.get(key, "")])
    rows.append(["beam_kev", ", ".join(f"{c.beam_kev:g}" for c in stack.channels),
                 stack.provenance.get("beam_kev", "")])  # fmt: skip
    rows.append(["detector", ", ".join(c.detector for c in stack.channels),
                 stack.provenance.get("detector", "")])  # fmt: skip
    rows += [[key, "", text] for key, text in stack.provenance.items()
             if key not in (*_FACTS, "beam_kev", "detector")]  # fmt: skip
    lines += _table(rows)
    lines += ["", "Grey values"]
    lines += _table(_channel_rows(stack))
    warnings = (*stack.warnings, *doubts)
    if warnings:
        lines += ["", "Warnings"]
        lines += [f"  - {warning}" for warning in warnings]
    return "\n".join(lines) + "\n"


def _material(name: str | None) -> str | None:
    return material_digest(name) if name is not None and is_table_name(name) else name


def fingerprint(stack: Stack) -> str:
    """SHA-256 (hexadecimal) over pixels, shape and metadata; equal stacks give equal strings.

    Where the stack lies, what it is called and where its facts came from do not enter. Of a
    material that an interaction table stands for, the table's content does, not its path.

    Raises:
        InputError: such a table can no longer be read.
    """
    facts = {
        "shape": stack.images.shape,
        "dtype": stack.images.dtype.newbyteorder("=").str.lstrip("<>=|"),
        "channels": [[c.beam_kev, c.detector, c.name] for c in stack.channels],
        "voxel_nm": stack.voxel_nm,
        "tilt_deg": stack.tilt_deg,
        "material": _material(stack.material),
        "pores": _material(stack.pores),
        "specimen": stack.specimen,
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    little = stack.images.dtype.newbyteorder("<")
    for channel in stack.images:
        digest.update(np.ascontiguousarray(channel, dtype=little).data)
    return digest.hexdigest()
