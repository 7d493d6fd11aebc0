"""The work behind ``fibsim milling``: what the milling did, and the stack with its slices put back."""

import csv
import io as text_io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fibsim import io
from fibsim.errors import InputError
from fibsim.io.stack_yaml import stack_yaml_text
from fibsim.io.table_file import is_table_name
from fibsim.realign import MillingEstimate, estimate_milling, reposition
from fibsim.stack import Stack

__all__ = ["findings", "milling_to_folder", "milling_table"]

# A slice is worth a look if it lies further out than this many standard deviations of the rest.
_STRANGE = 4.0


def milling_table(estimate: MillingEstimate, channels: list[str]) -> str:
    """The text of ``milling.csv``: a row for every slice."""
    columns = {
        "slice": np.arange(len(estimate.thickness_nm)),
        "position_nm": estimate.position_nm,
        "thickness_nm": estimate.thickness_nm,
        "thickness_se_nm": estimate.thickness_se_nm,
    }
    for axis, name in enumerate("yx"):
        columns[f"drift_{name}_nm"] = estimate.drift_nm[:, axis]
        columns[f"drift_{name}_se_nm"] = estimate.drift_se_nm[:, axis]
    for c, channel in enumerate(channels):
        columns[f"brightness {channel}"] = estimate.brightness[c]
        for axis, name in enumerate("yx"):
            columns[f"drift_{name}_nm {channel}"] = estimate.channel_drift_nm[c, :, axis]
    buffer = text_io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow([int(row[0]), *(f"{value:.4f}" for value in row[1:])])
    return buffer.getvalue()


def _outliers(values: np.ndarray) -> np.ndarray:
    """Indices further from the median than ``_STRANGE`` robust standard deviations."""
    deviation = np.abs(values - np.median(values))
    spread = np.median(deviation) / 0.6745
    return np.nonzero(deviation > max(_STRANGE * spread, 1e-9))[0]


def findings(estimate: MillingEstimate) -> list[str]:
    """What was found, in sentences."""
    nominal, pixel = estimate.slice_nm, estimate.pixel_nm
    low, high = (100 * v for v in estimate.jitter_range)
    error = 100 * np.sqrt(np.mean(estimate.thickness_se_nm[:-1] ** 2)) / nominal
    drift = np.sqrt(np.mean(estimate.drift_nm**2, axis=0)) / pixel
    drift_error = np.sqrt(np.mean(estimate.drift_se_nm**2, axis=0)) / pixel
    lines = [
        f"thickness jitter {100 * estimate.jitter:.1f} % of {nominal:g} nm (95 %: {low:.0f} to "
        f"{high:.0f} %), what is error not counted; a slice's thickness is known to {error:.1f} %",
        f"drift {drift[0]:.2f} pixels rms along y and {drift[1]:.2f} along x, known to "
        f"{drift_error[0]:.2f} and {drift_error[1]:.2f}",
    ]
    if len(estimate.channel_drift_nm) > 1:
        between = np.sqrt(np.mean(estimate.channel_drift_nm**2)) / pixel
        lines.append(f"drift between channels {between:.3f} pixels rms")
    flicker = 100 * (estimate.brightness - 1).std(axis=1)
    lines.append(f"brightness flicker {', '.join(f'{v:.1f}' for v in flicker)} % per channel")
    for k in _outliers(estimate.thickness_nm[:-1]):
        lines.append(
            f"look at slices {k} and {k + 1}: {estimate.thickness_nm[k]:.1f} nm lie between them"
        )
    jumps = np.linalg.norm(np.diff(estimate.drift_nm, axis=0), axis=1) / pixel
    for k in _outliers(jumps):
        if jumps[k] > max(1.0, np.median(jumps)):
            lines.append(f"look at slice {k + 1}: displaced by {jumps[k]:.1f} pixels at once")
    return lines


def _plot(path: Path, estimate: MillingEstimate, channels: list[str]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    slices = np.arange(len(estimate.thickness_nm))
    figure, axes = plt.subplots(3, 1, figsize=(8, 7), sharex=True, layout="constrained")
    axes[0].axhline(estimate.slice_nm, color="0.7", lw=1)
    axes[0].errorbar(
        slices[:-1] + 0.5, estimate.thickness_nm[:-1], 2 * estimate.thickness_se_nm[:-1],
        fmt="o", ms=3, lw=1, color="k",
    )  # fmt: skip
    axes[0].set_ylabel("thickness, nm")
    for axis, (name, colour) in enumerate((("y", "C0"), ("x", "C1"))):
        middle, error = estimate.drift_nm[:, axis], 2 * estimate.drift_se_nm[:, axis]
        axes[1].plot(slices, middle, "o-", ms=3, lw=1, color=colour, label=f"all channels, {name}")
        axes[1].fill_between(slices, middle - error, middle + error, color=colour, alpha=0.2, lw=0)
        for c, channel in enumerate(channels if len(channels) > 1 else ()):
            axes[1].plot(
                slices, estimate.channel_drift_nm[c, :, axis], "-:"[axis], lw=0.8, color=f"C{c + 2}",
                label=f"{channel} beside that" if axis == 0 else None,
            )  # fmt: skip
    axes[1].set_ylabel("drift, nm")
    axes[1].legend(fontsize=8, ncols=2)
    for c, channel in enumerate(channels):
        axes[2].plot(slices, estimate.brightness[c], "o-", ms=3, lw=1, color=f"C{c + 2}",
                     label=channel)  # fmt: skip
    axes[2].set_ylabel("brightness")
    axes[2].legend(fontsize=8, ncols=4)
    axes[2].set_xlabel("slice (bars and bands: two standard errors)")
    with io.atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def _write_repositioned(
    folder: Path, stack: Stack, estimate: MillingEstimate, interpolation: str
) -> None:
    """The repositioned images and a ``stack.yaml`` with all that was known of the stack."""
    images = reposition(stack.images, estimate, interpolation=interpolation)
    files = io.write_stack(folder, images, stack.channels, voxel_nm=stack.voxel_nm)
    facts = {"pixel_nm": stack.pixel_nm, "slice_nm": stack.slice_nm}
    for key in ("tilt_deg", "material", "pores", "specimen"):
        value = getattr(stack, key)
        if value is not None:
            is_file = key in ("material", "pores") and is_table_name(value)
            facts[key] = str(Path(value).absolute()) if is_file else value
    channels = [
        {"file": file.name, "beam_kev": channel.beam_kev, "detector": channel.detector}
        for file, channel in zip(files, stack.channels, strict=True)
    ]
    io.atomic_write_text(folder / "stack.yaml", stack_yaml_text(facts, channels))


def milling_to_folder(
    stack: Stack,
    out: Path,
    *,
    repositioned: bool,
    interpolation: str,
    announce: Callable[[str], None],
    progress: Callable[[int, int, str], None] | None = None,
) -> MillingEstimate:
    """Do ``fibsim milling``; see its help for the arguments.

    Raises:
        InputError: the folder is not empty, the stack is too small, or two channels of one
            voltage and detector could not be written apart.
    """
    io.require_new_folder(out)
    kinds = [(channel.beam_kev, channel.detector) for channel in stack.channels]
    if repositioned and len(set(kinds)) < len(kinds):
        raise InputError(
            "two channels have the same voltage and detector, so their repositioned images would "
            "have the same name; choose one with --channels."
        )
    names = [c.name or f"{c.beam_kev:g}kV {c.detector}" for c in stack.channels]
    estimate = estimate_milling(
        stack.images,
        slice_nm=stack.slice_nm,
        pixel_nm=stack.pixel_nm,
        tilt_deg=stack.tilt_deg,
        progress=progress,
    )
    for line in findings(estimate):
        announce(line)
    _plot(out / "milling.png", estimate, names)
    if repositioned:
        _write_repositioned(out, stack, estimate, interpolation)
    io.atomic_write_text(out / "milling.csv", milling_table(estimate, names))
    also = ", the repositioned images and stack.yaml" if repositioned else ""
    announce(f"wrote milling.csv, milling.png{also} in {out}")
    return estimate
