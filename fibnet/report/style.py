"""One look for all figures: colours, fonts, scale bars, and a figure as PNG."""

import dataclasses
import functools
import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

__all__ = [
    "ACCENT",
    "BASELINES",
    "INK",
    "MUTED",
    "PORE",
    "REAL",
    "SIMULATED",
    "SOLID",
    "WRONG_PORE",
    "WRONG_SOLID",
    "Picture",
    "drawn",
    "new_figure",
    "nice_length",
    "scale_bar",
    "to_png",
]

P = ParamSpec("P")
R = TypeVar("R")

INK, MUTED, GRID = "#1f2933", "#66727f", "#dfe4ea"
ACCENT = "#1d5b8f"
REAL, SIMULATED = "#1f2933", "#d9772b"
SOLID, PORE = "#e2c98d", "#2c3440"
WRONG_SOLID, WRONG_PORE = "#d1495b", "#3d8bd4"
BASELINES = ("#5b9279", "#b07aa1", "#8f8f3b", "#4e9db5", "#c08552", "#7d7aa8", "#9a9a9a")
PAGE_INCHES = 9.6
DPI = 150

_RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "normal",
    "axes.labelsize": 8.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "text.color": INK,
    "figure.facecolor": "white",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A finished figure.

    Attributes:
        name: file name without ending.
        caption: plain text, a full sentence or more.
        png: the file.
    """

    name: str
    caption: str
    png: bytes

    @property
    def width_percent(self) -> int:
        """Width on the page, so that the lettering of all figures has one size there."""
        # A PNG states its width in bytes 16 to 19.
        columns = int.from_bytes(self.png[16:20], "big")
        return min(100, round(100 * columns / (DPI * PAGE_INCHES)))


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(_RC):
        yield


def drawn(function: Callable[P, R]) -> Callable[P, R]:
    """Runs a drawing function under the report's style and leaves the user's own untouched."""

    @functools.wraps(function)
    def styled(*args: P.args, **kwargs: P.kwargs) -> R:
        with _style():
            return function(*args, **kwargs)

    return styled


def new_figure(width: float, height: float):
    """An empty figure in inches with an Agg canvas, outside pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def to_png(figure) -> bytes:
    """The figure as PNG, trimmed, without a date or program name: same content, same bytes."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer,
        format="png",
        dpi=DPI,
        bbox_inches="tight",
        pad_inches=0.04,
        metadata={"Software": None},
    )
    return buffer.getvalue()


def nice_length(longest: float) -> float:
    """The largest of 1, 2, 5 x 10^k that is not longer than ``longest`` (> 0)."""
    power = 10.0 ** math.floor(math.log10(longest))
    return max(step * power for step in (1, 2, 5) if step * power <= longest * (1 + 1e-9))


def scale_bar(axes, width_nm: float) -> None:
    """A white bar with its length, outlined to be read on any grey, in the lower left corner."""
    from matplotlib import patheffects

    length = nice_length(width_nm / 3.5)
    outline = [patheffects.withStroke(linewidth=2.2, foreground="#000000b0")]
    text = f"{length / 1000:g} µm" if length >= 1000 else f"{length:g} nm"
    left = 0.05
    axes.plot(
        [left, left + length / width_nm],
        [0.06, 0.06],
        transform=axes.transAxes,
        color="white",
        linewidth=2.6,
        solid_capstyle="butt",
        path_effects=[patheffects.withStroke(linewidth=4.2, foreground="#000000b0")],
        scalex=False,
        scaley=False,
    )
    axes.annotate(
        text, (left, 0.06), (0, 3), xycoords="axes fraction", textcoords="offset points",
        color="white", fontsize=8, ha="left", va="bottom", path_effects=outline,
    )  # fmt: skip
