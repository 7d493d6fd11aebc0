"""The picture of a comparison: the most and the least tell-tale patches of both sides."""

import textwrap
from pathlib import Path

import numpy as np

from fibsim.compare.comparison import Comparison

__all__ = ["draw_picture"]

# Inches: one image, and the room around blocks of them.
_TILE, _LEFT, _GAP, _HEAD, _TOP, _EDGE = 0.95, 0.75, 0.25, 0.5, 0.4, 0.06


def _ranges(comparison: Comparison) -> list[tuple[float, float]]:
    """Grey range of each channel, the same in all patches: brightness can be compared."""
    sides = [examples.grey for examples in comparison.patches.values()]
    found = []
    for c in range(len(comparison.channel_names)):
        low, high = np.percentile(np.concatenate([s[:, c].ravel() for s in sides]), (0.5, 99.5))
        found.append((float(low), float(max(high, low + 1))))
    return found


def draw_picture(comparison: Comparison, path: Path) -> None:
    """Write the picture as PNG; needs matplotlib.

    Real patches on the left, simulated ones on the right, the most tell-tale above the least;
    each column of images is the middle slice of one patch, its channels one below the other.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ranges, names = _ranges(comparison), comparison.channel_names
    depth, side = comparison.patch_size
    columns = max(len(examples.grey) for examples in comparison.patches.values())
    block = columns * _TILE, len(names) * _TILE
    width = _LEFT + 2 * block[0] + _GAP + _EDGE
    height = _TOP + 2 * (_HEAD + block[1]) + _EDGE
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)

    def place(x: float, y: float) -> tuple[float, float]:
        """Inches from the left and from the top as shares of the figure."""
        return x / width, 1 - y / height

    for kind, examples in comparison.patches.items():
        left = _LEFT + (block[0] + _GAP) * kind.startswith("simulated")
        top = _TOP + _HEAD + (block[1] + _HEAD) * kind.endswith("least tell-tale")
        figure.text(*place(left, top - 0.28), kind, fontsize=9)
        for i, (patch, sure) in enumerate(zip(examples.grey, examples.outranked, strict=True)):
            x = left + i * _TILE
            figure.text(*place(x, top - 0.06), f"{100 * sure:.0f} %", fontsize=7)
            for c, (low, high) in enumerate(ranges):
                corner = place(x, top + (c + 1) * _TILE)
                inside = (_TILE - 0.04) / width, (_TILE - 0.04) / height
                axes = figure.add_axes((*corner, *inside))
                axes.imshow(patch[c, depth // 2], cmap="gray", vmin=low, vmax=high)
                axes.set_axis_off()
    for row in range(2):
        for c, name in enumerate(names):
            y = _TOP + _HEAD + row * (block[1] + _HEAD) + (c + 0.5) * _TILE
            figure.text(*place(_LEFT - 0.08, y), name, fontsize=8, ha="right", va="center")
    low, high = comparison.interval
    note = (
        f"AUC {comparison.auc:.3f} ({low:.3f} to {high:.3f}). Patches of {side} x {side} pixels, "
        f"middle one of {depth} slices; each channel has one grey range throughout. Per cent: "
        "share of the other side's patches from which the classifier tells this one apart."
    )
    wrapped = textwrap.fill(note, int(width * 15))
    figure.text(*place(0.1, 0.08), wrapped, fontsize=8, va="top")
    figure.savefig(path, format="png", dpi=130, metadata={"Software": None})
