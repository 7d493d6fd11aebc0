"""The picture of a design: single voltages, pairs, and what more channels or exposure bring."""

from pathlib import Path

import numpy as np

from fibsim.design.choice import Design

__all__ = ["draw_picture"]


def _singles(axes, design: Design) -> None:
    """Error of every channel alone against its voltage, one line per exposure and detector."""
    detectors = list(dict.fromkeys(c.detector for c in design.candidates))
    shades = np.linspace(0.35, 1.0, len(design.exposures))
    for number, detector in enumerate(detectors):
        for exposure, shade in zip(design.exposures, shades, strict=True):
            own = [c for c in design.at(exposure, 1) if c.channels[0].detector == detector]
            own.sort(key=lambda c: c.channels[0].beam_kev)
            axes.errorbar(
                [c.channels[0].beam_kev for c in own],
                [100 * c.error for c in own],
                [100 * c.standard_error for c in own],
                marker="os^v"[number % 4],
                color=f"C{number}",
                alpha=shade,
                label=f"{detector}, exposure {exposure:g}",
            )
    ticks = sorted({c.beam_kev for c in design.candidates})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("beam energy, keV")
    axes.set_ylabel("expected error, % of pixels")
    axes.set_title("one channel")
    axes.legend(fontsize=7)


def _pairs(axes, design: Design, exposure: float) -> None:
    """Error of all pairs, single channels on the diagonal, at one exposure."""
    count = len(design.candidates)
    grid = np.full((count, count), np.nan)
    index = {c: i for i, c in enumerate(design.candidates)}
    for choice in [*design.at(exposure, 1), *design.at(exposure, 2)]:
        at = [index[c] for c in choice.channels if c in index]
        if len(at) == len(choice.channels):
            grid[at[-1], at[0]] = grid[at[0], at[-1]] = 100 * choice.error
    axes.imshow(grid, cmap="viridis_r")
    low, high = np.nanmin(grid), np.nanmax(grid)
    for i, j in np.argwhere(np.isfinite(grid)):
        ink = "black" if grid[i, j] < (low + high) / 2 else "white"
        axes.text(j, i, f"{grid[i, j]:.1f}", ha="center", va="center", fontsize=7, color=ink)
    names = [str(c) for c in design.candidates]
    axes.set_xticks(range(count), names, rotation=60, ha="right", fontsize=7)
    axes.set_yticks(range(count), names, fontsize=7)
    axes.set_title(f"pairs, error in %, total exposure {exposure:g}")


def _growth(axes, design: Design) -> None:
    """Error of the best choice of each number of channels against the total exposure."""
    numbers = sorted({len(c.channels) for c in design.choices})
    for number in numbers:
        best = [found[0] for e in design.exposures if (found := design.at(e, number))]
        axes.errorbar(
            [c.exposure for c in best],
            [100 * c.error for c in best],
            [100 * c.standard_error for c in best],
            marker="o",
            label=f"best {number} channel" + "s" * (number > 1),
        )
    own = [c for c in design.choices if set(c.channels) == set(design.recorded)]
    axes.plot(
        [c.exposure for c in own], [100 * c.error for c in own], "k+", ms=10, label="recorded"
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks(design.exposures, [f"{e:g}" for e in design.exposures])
    axes.minorticks_off()
    axes.set_xlabel("total exposure, images of the fitted dose")
    axes.set_ylabel("expected error, % of pixels")
    axes.set_title("more channels or more exposure")
    axes.legend(fontsize=7)


def draw_picture(design: Design, path: Path) -> None:
    """Write the picture as PNG; needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    _singles(axes[0], design)
    _pairs(axes[1], design, design.exposures[0])
    _growth(axes[2], design)
    figure.savefig(path, dpi=110, format="png")
