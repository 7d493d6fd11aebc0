"""Figures of volumes: orthogonal cuts, the result over the image, errors, the body in 3-D."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fibnet.report import style
from fibnet.report.rendering import render_solid
from fibnet.report.style import Picture

__all__ = ["body_figure", "comparison_figure", "grey_figures", "result_figure"]

COLUMNS = 4
CUT_COLOURS = {"xz": "#d1495b", "yz": "#3d8bd4"}


@dataclasses.dataclass(frozen=True)
class _Cut:
    """One plane through the middle of a volume and how long its sides are in nm."""

    name: str
    index: int
    width_nm: float
    height_nm: float
    take: Callable[[np.ndarray], np.ndarray]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        return (0.0, self.width_nm, self.height_nm, 0.0)


def _cuts(shape: Sequence[int], voxel_nm: Sequence[float]) -> list[_Cut]:
    """xy, xz and yz through the middle; xy alone for a single slice."""
    z, y, x = (n // 2 for n in shape)
    depth, height, width = (n * side for n, side in zip(shape, voxel_nm, strict=True))
    plane = [_Cut("xy", z, width, height, lambda volume: volume[z])]
    if shape[0] == 1:
        return plane
    return [
        *plane,
        _Cut("xz", y, width, depth, lambda volume: volume[:, y]),
        _Cut("yz", x, height, depth, lambda volume: volume[:, :, x]),
    ]


class _Sheet:
    """A grid of cuts, one row per plane, all panels at the same scale."""

    gap, left, top = 0.07, 0.3, 0.24

    def __init__(self, cuts: Sequence[_Cut], columns: int):
        self.cuts = cuts
        widest = max(cut.width_nm for cut in cuts)
        tallest = max(cut.height_nm for cut in cuts)
        cell = (style.PAGE_INCHES - self.left) / max(columns, 2) - self.gap
        # Tall images would leave the page: no panel is higher than seven inches.
        self.scale = min(cell / widest, 7.0 / tallest)
        self.cell = widest * self.scale
        heights = [max(cut.height_nm * self.scale, 0.06) for cut in cuts]
        self.width = self.left + columns * (self.cell + self.gap)
        self.height = self.top + sum(heights) + self.gap * len(cuts)
        self.heights = heights
        self.figure = style.new_figure(self.width, self.height)

    def panel(self, row: int, column: int):
        cut = self.cuts[row]
        x = self.left + column * (self.cell + self.gap)
        y = self.height - self.top - sum(self.heights[: row + 1]) - self.gap * row
        wide = cut.width_nm * self.scale
        axes = self.figure.add_axes(
            (x / self.width, y / self.height, wide / self.width, self.heights[row] / self.height)
        )
        axes.set(xticks=[], yticks=[], xlim=cut.extent[:2], ylim=cut.extent[2:])
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set_visible(True)
            spine.set_color(CUT_COLOURS.get(cut.name, style.MUTED))
            spine.set_linewidth(0.9 if cut.name in CUT_COLOURS else 0.6)
        if column == 0:
            axes.set_ylabel(cut.name, rotation=0, ha="right", va="center", fontsize=9)
            axes.yaxis.label.set_color(CUT_COLOURS.get(cut.name, style.INK))
        return axes

    def title(self, axes, row: int, text: str) -> None:
        if row == 0:
            axes.set_title(text, pad=4)

    def bar(self, axes, row: int) -> None:
        if self.heights[row] > 0.6:
            style.scale_bar(axes, self.cuts[row].width_nm)

    def mark_cuts(self, axes, voxel_nm: Sequence[float]) -> None:
        """Short ticks at the rim of the xy panel where the other two planes pass."""
        for cut in self.cuts[1:]:
            across = cut.name == "xz"
            place = (cut.index + 0.5) * (voxel_nm[1] if across else voxel_nm[2])
            line = axes.axhline if across else axes.axvline
            for start, stop in ((0.0, 0.045), (0.955, 1.0)):
                line(place, start, stop, color=CUT_COLOURS[cut.name], lw=1.8)


@style.drawn
def grey_figures(
    images: np.ndarray, names: Sequence[str], voxel_nm: Sequence[float]
) -> list[Picture]:
    """Grey values of every channel, four channels to a figure."""
    cuts = _cuts(images.shape[1:], voxel_nm)
    starts = range(0, len(names), COLUMNS)
    pictures = []
    for start in starts:
        chosen = range(start, min(start + COLUMNS, len(names)))
        sheet = _Sheet(cuts, len(chosen))
        for row, cut in enumerate(cuts):
            for column, channel in enumerate(chosen):
                axes = sheet.panel(row, column)
                low, high = grey_range(images[channel])
                _show(axes, cut, images[channel], cmap="gray", vmin=low, vmax=high)
                sheet.title(axes, row, names[channel])
                if row == 0:
                    sheet.mark_cuts(axes, voxel_nm)
                if column == 0:
                    sheet.bar(axes, row)
        shown = ", ".join(names[channel] for channel in chosen)
        pictures.append(
            Picture(
                name="grey_values" if len(starts) == 1 else f"grey_values_{start // COLUMNS + 1}",
                caption=f"Recorded grey values ({shown}): {_where(cuts, voxel_nm)}. "
                "Each channel is stretched between its 0.5 and 99.5 % grey values.",
                png=style.to_png(sheet.figure),
            )
        )
    return pictures


@style.drawn
def result_figure(
    images: np.ndarray | None,
    channel_name: str,
    label: np.ndarray,
    probability: np.ndarray | None,
    truth: np.ndarray | None,
    voxel_nm: Sequence[float],
) -> Picture:
    """Contour over the first channel, label, probability, entropy and, with a truth, errors."""
    cuts = _cuts(label.shape, voxel_nm)
    painters: list[tuple[str, Callable]] = []
    captions = []
    if images is not None:
        low, high = grey_range(images[0])

        def contour(axes, cut):
            _show(axes, cut, images[0], cmap="gray", vmin=low, vmax=high)
            _contour(axes, cut, label)

        painters.append((f"{channel_name} and interface", contour))
        captions.append(f"interface of the label over {channel_name}")
    painters.append(("Label", lambda axes, cut: _paint_label(axes, cut, label)))
    captions.append("label (solid light, pore dark)")
    if probability is not None:
        painters.append(
            (
                "Probability of solid",
                lambda axes, cut: _show(axes, cut, probability, cmap="cividis", vmin=0, vmax=1),
            )
        )
        entropy = binary_entropy(probability)
        painters.append(
            (
                "Uncertainty (entropy)",
                lambda axes, cut: _show(axes, cut, entropy, cmap="magma", vmin=0, vmax=1),
            )
        )
        captions += ["probability of solid", "its entropy in bits (1 = undecided)"]
    if truth is not None:
        painters.append(("Errors", lambda axes, cut: _paint_errors(axes, cut, label, truth)))
        captions.append("errors (red: pore called solid, blue: solid called pore)")
    sheet = _Sheet(cuts, len(painters))
    for row, cut in enumerate(cuts):
        for column, (title, paint) in enumerate(painters):
            axes = sheet.panel(row, column)
            paint(axes, cut)
            sheet.title(axes, row, title)
            if column == 0:
                sheet.bar(axes, row)
            if row == len(cuts) - 1 and title.startswith(("Probability", "Uncertainty")):
                _colour_bar(sheet, axes)
    return Picture(
        name="segmentation",
        caption=f"Segmentation: {_where(cuts, voxel_nm)}. From left to right: "
        + "; ".join(captions)
        + ".",
        png=style.to_png(sheet.figure),
    )


@style.drawn
def comparison_figure(
    image: np.ndarray | None,
    channel_name: str,
    labels: Mapping[str, np.ndarray],
    truth: np.ndarray | None,
    voxel_nm: Sequence[float],
) -> Picture:
    """The middle slice as every method sees it, with errors in colour where a truth is known."""
    shape = next(iter(labels.values())).shape
    cut = _cuts(shape, voxel_nm)[0]
    panels: list[tuple[str, Callable]] = []
    if image is not None:
        low, high = grey_range(image)
        panels.append(
            (channel_name, lambda a: _show(a, cut, image, cmap="gray", vmin=low, vmax=high))
        )
    if truth is not None:
        panels.append(("truth", lambda a: _paint_label(a, cut, truth)))
    for name, label in labels.items():
        if truth is None:
            panels.append((name, lambda a, v=label: _paint_label(a, cut, v)))
        else:
            panels.append((name, lambda a, v=label: _paint_errors(a, cut, v, truth)))
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    cell = style.PAGE_INCHES / columns
    height = cell * cut.height_nm / cut.width_nm + 0.25
    figure = style.new_figure(style.PAGE_INCHES, rows * height)
    for index, (name, paint) in enumerate(panels):
        row, column = divmod(index, columns)
        axes = figure.add_axes(
            (
                column / columns + 0.004,
                1.0 - (row + 1) / rows + 0.03 / (rows * height),
                1.0 / columns - 0.008,
                (height - 0.28) / (rows * height),
            )
        )
        paint(axes)
        axes.set(xticks=[], yticks=[], title=name)
        axes.title.set_position((0.5, 1.0))
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set_visible(True)
            spine.set_linewidth(0.6)
        if index == 0:
            style.scale_bar(axes, cut.width_nm)
    errors = (
        ""
        if truth is None
        else " Red: pore called solid (the structure behind the face taken for the face); blue: "
        "solid called pore."
    )
    return Picture(
        name="methods",
        caption=f"Slice {cut.index} as segmented by every method.{errors}",
        png=style.to_png(figure),
    )


@style.drawn
def body_figure(label: np.ndarray, voxel_nm: Sequence[float]) -> Picture:
    """The solid in three dimensions in its box."""
    rendering = render_solid(label, voxel_nm)
    left, right, bottom, top = rendering.extent_nm
    width = 6.0
    figure = style.new_figure(width, width * (top - bottom) / (right - left))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.axis("off")
    size = rendering.size_nm
    corner = {(i, j, k): np.array((i, j, k)) * size for i in (0, 1) for j in (0, 1) for k in (0, 1)}
    # The corner (0, 0, 1) lies behind: its three edges first, the body over them, the rest on top.
    for a, b in _edges():
        hidden = (0, 0, 1) in (a, b)
        points = rendering.project(np.array([corner[a], corner[b]]))
        axes.plot(
            *points.T, color=style.MUTED, lw=0.6 if hidden else 0.9, zorder=1 if hidden else 3,
            ls=(0, (4, 3)) if hidden else "-", solid_capstyle="round",
        )  # fmt: skip
    axes.imshow(rendering.image, extent=rendering.extent_nm, zorder=2)
    # Lengths along the three edges nearest the reader, outside the body.
    edges = {
        "x": ((0, 1, 1), (1, 1, 1), (0, -1), "right"),
        "y": ((1, 0, 1), (1, 1, 1), (1, -1), "left"),
        "z": ((0, 1, 0), (0, 1, 1), (-1, 0), "right"),
    }
    for axis, (name, (a, b, (dx, dy), align)) in enumerate(edges.items()):
        middle = rendering.project(np.array([(corner[a] + corner[b]) / 2]))[0]
        length = label.shape[2 - axis] * voxel_nm[2 - axis]
        axes.annotate(
            f"{name}  {length:.0f} nm", middle, xytext=(6 * dx, 8 * dy),
            textcoords="offset points", ha=align, va="center" if dy == 0 else "top", fontsize=8.5,
        )  # fmt: skip
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    return Picture(
        name="solid_3d",
        caption="The segmented solid. Slice 0, milled first, lies on top; y runs towards the "
        "reader and z down, away from the electron gun. Paler: where the box cuts the solid.",
        png=style.to_png(figure),
    )


def binary_entropy(probability: np.ndarray) -> np.ndarray:
    """Entropy in bits, ``-p log2 p - (1 - p) log2 (1 - p)``; 0 where p is 0 or 1."""
    from scipy.special import entr

    p = np.asarray(probability, dtype=np.float32)
    return (entr(p) + entr(1 - p)) / np.log(np.float32(2))


def grey_range(image: np.ndarray) -> tuple[float, float]:
    """The 0.5 and 99.5 % grey values, never equal."""
    low, high = (float(v) for v in np.percentile(image, (0.5, 99.5)))
    return low, high if high > low else low + 1.0


def _edges() -> list[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    corners = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    return [
        (a, b)
        for a in corners
        for b in corners
        if a < b and sum(abs(m - n) for m, n in zip(a, b, strict=True)) == 1
    ]


def _show(axes, cut: _Cut, volume: np.ndarray, **kwargs) -> None:
    axes.imshow(cut.take(volume), extent=cut.extent, aspect="auto", **kwargs)


def _paint_label(axes, cut: _Cut, label: np.ndarray) -> None:
    from matplotlib.colors import ListedColormap

    _show(
        axes,
        cut,
        label,
        cmap=ListedColormap([style.PORE, style.SOLID]),
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )


def _paint_errors(axes, cut: _Cut, label: np.ndarray, truth: np.ndarray) -> None:
    from matplotlib.colors import ListedColormap

    colours = ListedColormap([style.PORE, style.SOLID, style.WRONG_SOLID, style.WRONG_PORE])
    code = np.where(label == truth, label, np.where(label, 2, 3))
    _show(axes, cut, code, cmap=colours, vmin=-0.5, vmax=3.5, interpolation="nearest")


def _contour(axes, cut: _Cut, label: np.ndarray) -> None:
    plane = cut.take(label).astype(np.float32)
    if min(plane.shape) < 2 or plane.min() == plane.max():
        return
    rows, columns = plane.shape
    x = (np.arange(columns) + 0.5) * cut.width_nm / columns
    y = (np.arange(rows) + 0.5) * cut.height_nm / rows
    axes.contour(x, y, plane, levels=[0.5], colors="#ff6b3d", linewidths=0.8)


def _colour_bar(sheet: _Sheet, axes) -> None:
    box = axes.get_position()
    high = 0.09 / sheet.height
    bar_axes = sheet.figure.add_axes((box.x0, box.y0 - 2.2 * high, box.width, high))
    bar = sheet.figure.colorbar(axes.images[0], cax=bar_axes, orientation="horizontal")
    bar.set_ticks([0, 0.5, 1], labels=["0", "0.5", "1"])
    for text, side in zip(bar.ax.get_xticklabels(), ("left", "center", "right"), strict=True):
        text.set_horizontalalignment(side)
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(length=2, pad=1.5, labelsize=7.5)


def _where(cuts: Sequence[_Cut], voxel_nm: Sequence[float]) -> str:
    if len(cuts) == 1:
        return "the only slice"
    z, y, x = (cut.index for cut in cuts)
    return (
        f"slice {z} (xy), row y = {y} (xz) and column x = {x} (yz), all at one scale; voxels of "
        f"{voxel_nm[2]:g} × {voxel_nm[1]:g} × {voxel_nm[0]:g} nm (x, y, z)"
    )
