"""The picture of a milling estimate: thickness, drift and brightness of every slice."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fibsim.realign.estimate import MillingEstimate

__all__ = ["draw_milling"]


def draw_milling(estimate: MillingEstimate, channels: Sequence[str], path: Path) -> None:
    """Write the picture as PNG; needs matplotlib. Bars and bands are two standard errors.

    Args:
        estimate: what to draw.
        channels: their names.
        path: file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    several = len(channels) > 1
    figure = Figure(figsize=(8, 9 if several else 7), layout="constrained")
    thickness, drift, *between, brightness = figure.subplots(3 + several, 1, sharex=True)
    slices = np.arange(len(estimate.thickness_nm))

    thickness.axhline(estimate.slice_nm, color="0.7", lw=1)
    thickness.errorbar(
        slices[:-1] + 0.5,
        estimate.thickness_nm[:-1],
        2 * estimate.thickness_se_nm[:-1],
        fmt="o",
        ms=3,
        lw=1,
        color="k",
    )
    thickness.set_ylabel("thickness to the next, nm")

    shift = estimate.drift_nm / estimate.pixel_nm
    error = 2 * estimate.drift_se_nm / estimate.pixel_nm
    for axis, (name, colour) in enumerate((("y", "C0"), ("x", "C1"))):
        middle = shift[:, axis]
        drift.plot(slices, middle, "o-", ms=3, lw=1, color=colour, label=name)
        low, high = middle - error[:, axis], middle + error[:, axis]
        drift.fill_between(slices, low, high, color=colour, alpha=0.2, lw=0)
    drift.set_ylabel("drift, pixels")
    drift.legend(fontsize=8, ncols=2)

    own_error = 2 * float(estimate.channel_drift_se_nm.max()) / estimate.pixel_nm
    for axes in between:
        axes.axhspan(-own_error, own_error, color="0.7", alpha=0.2, lw=0)
    for c, name in enumerate(channels):
        for axes in between:
            own = estimate.channel_drift_nm[c] / estimate.pixel_nm
            axes.plot(slices, own[:, 0], "-", lw=1, color=f"C{c + 2}", label=f"{name}, y")
            axes.plot(slices, own[:, 1], ":", lw=1, color=f"C{c + 2}", label=f"{name}, x")
            axes.set_ylabel("beside that, pixels")
            axes.legend(fontsize=8, ncols=4)
        brightness.plot(
            slices, estimate.brightness[c], "o-", ms=3, lw=1, color=f"C{c + 2}", label=name
        )
    brightness.set_ylabel("brightness")
    brightness.legend(fontsize=8, ncols=4)
    brightness.set_xlabel("slice")
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110)
