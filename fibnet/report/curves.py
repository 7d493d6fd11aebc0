"""Figures of numbers: sizes, porosity with depth, real against simulated, training, calibration."""

from collections.abc import Mapping, Sequence

import numpy as np

from fibnet.metrics import reliability
from fibnet.morphology import Measures
from fibnet.report import style
from fibnet.report.content import TrainingSection
from fibnet.report.style import Picture
from fibnet.report.volumes import grey_range

__all__ = [
    "calibration_figure",
    "fit_loss_figure",
    "histogram_figure",
    "patches_figure",
    "porosity_figure",
    "power_spectrum",
    "sizes_figure",
    "spectra_figure",
    "training_figure",
]

SLICES_SHOWN = 3
COLUMNS = 4


@style.drawn
def sizes_figure(measures: Measures) -> Picture:
    """Distributions of ligament and pore diameter by volume."""
    figure = style.new_figure(8.0, 2.7)
    rows = [
        ("Ligaments (solid)", measures.ligament_edges_nm, measures.ligament_fraction,
         measures.ligament_diameter_nm, measures.ligament_diameter_sd_nm, style.SOLID),
        ("Pores", measures.pore_edges_nm, measures.pore_fraction,
         measures.pore_diameter_nm, measures.pore_diameter_sd_nm, "#8fa3b5"),
    ]  # fmt: skip
    panels = figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.08})
    whole = "volume" if measures.dimensions == 3 else "area"
    for axes, (title, edges, fraction, mean, sd, colour) in zip(panels, rows, strict=True):
        axes.stairs(100 * fraction, edges, fill=True, color=colour, alpha=0.9)
        axes.stairs(100 * fraction, edges, color=style.INK, lw=0.8)
        axes.set(title=title, xlabel="Local thickness (nm)", xlim=(0, edges[-1]), ylim=(0, None))
        if np.isfinite(mean):
            axes.axvline(mean, color=style.ACCENT, lw=1.4)
            axes.set_title(f"{title}: mean {mean:.1f} nm, s.d. {sd:.1f} nm")
    panels[0].set_ylabel(f"Share of phase {whole} (%)")
    return Picture(
        name="sizes",
        caption="Sizes by local thickness: the diameter of the largest "
        + ("ball" if measures.dimensions == 3 else "disc")
        + f" inside the phase that holds a point, weighted by {whole}. The standard deviation is "
        "the spread of sizes in the specimen, not an error of the mean.",
        png=style.to_png(figure),
    )


@style.drawn
def porosity_figure(
    labels: Mapping[str, np.ndarray], truth: np.ndarray | None, slice_nm: float
) -> Picture:
    """Porosity of every slice against depth; the first label is the result."""
    figure = style.new_figure(8.0, 2.8)
    axes = figure.subplots()
    result, *others = labels
    depth = slice_nm * np.arange(labels[result].shape[0])
    for index, name in enumerate(others):
        colour = style.BASELINES[index % len(style.BASELINES)]
        axes.plot(depth, _porosity(labels[name]), color=colour, lw=1.0, label=name)
    if truth is not None:
        axes.plot(depth, _porosity(truth), color=style.INK, lw=1.4, ls="--", label="truth")
    axes.plot(depth, _porosity(labels[result]), color=style.ACCENT, lw=2.2, label=result)
    axes.set(xlabel="Depth of the slice (nm)", ylabel="Porosity (%)", xlim=(0, depth[-1]))
    if len(labels) > 1 or truth is not None:
        handles, names = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], names[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5))
    return Picture(
        name="porosity_per_slice",
        caption="Area porosity of every slice. A trend with depth that the specimen should not "
        "have points to milling or to shading.",
        png=style.to_png(figure),
    )


@style.drawn
def patches_figure(
    real: np.ndarray, simulated: np.ndarray, names: Sequence[str], voxel_nm: Sequence[float]
) -> Picture:
    """Recorded and simulated patches beside each other, each channel on one grey scale."""
    shown = min(SLICES_SHOWN, real.shape[1], simulated.shape[1])
    cell = min(style.PAGE_INCHES / (2 * shown + 0.4), 2.4)
    ratio = max(stack.shape[2] / stack.shape[3] for stack in (real, simulated))
    width = cell * (2 * shown + 0.2) + 0.5
    height = len(names) * (cell * ratio + 0.06) + 0.3
    figure = style.new_figure(width, height)
    for row, name in enumerate(names):
        low, high = grey_range(real[row])
        for side, stack in enumerate((real, simulated)):
            chosen = np.linspace(0, stack.shape[1] - 1, shown + 2).round().astype(int)[1:-1]
            for column, z in enumerate(chosen):
                x = 0.5 + cell * (side * (shown + 0.2) + column)
                y = height - 0.3 - (row + 1) * (cell * ratio + 0.06)
                axes = figure.add_axes(
                    (x / width, y / height, (cell - 0.05) / width, (cell - 0.05) * ratio / height)
                )
                axes.imshow(stack[row, z], cmap="gray", vmin=low, vmax=high)
                axes.axis("off")
                if row == 0 and side == 0 and column == 0:
                    style.scale_bar(axes, stack.shape[3] * voxel_nm[2])
                if column == 0 and side == 0:
                    axes.text(-0.06, 0.5, name, transform=axes.transAxes, ha="right", va="center")
        if row == 0:
            for side, text in enumerate(("Recorded", "Simulated")):
                middle = 0.5 + cell * (side * (shown + 0.2) + shown / 2)
                figure.text(middle / width, 1 - 0.22 / height, text, ha="center", fontsize=10)
    return Picture(
        name="real_and_simulated",
        caption="Recorded (left) and simulated (right) patches. The specimens differ: what should "
        "agree is the look. Each channel has one grey scale on both sides.",
        png=style.to_png(figure),
    )


@style.drawn
def histogram_figure(real: np.ndarray, simulated: np.ndarray, names: Sequence[str]) -> Picture:
    """Histograms of grey value, recorded and simulated over each other."""
    figure, panels = _panels(len(names), 2.1)
    for channel, axes in enumerate(panels):
        pair = (real[channel].ravel(), simulated[channel].ravel())
        edges = _grey_edges(*pair)
        # Weights instead of density: a patch wholly outside the range must not divide by zero.
        for values, colour, name, fill in zip(
            pair, (style.REAL, style.SIMULATED), ("recorded", "simulated"), (True, False),
            strict=True,
        ):  # fmt: skip
            share = np.histogram(values, edges)[0] / values.size / np.diff(edges)
            axes.stairs(share, edges, fill=fill, color=colour, alpha=0.22 if fill else 1,
                        lw=1.5, label=name)  # fmt: skip
            if fill:
                axes.stairs(share, edges, color=colour, lw=0.9)
        axes.set(title=names[channel], xlabel="Grey value", yticks=[], xlim=(edges[0], edges[-1]))
        axes.set_ylim(0, None)
        axes.spines["left"].set_visible(False)
    panels[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return Picture(
        name="histograms",
        caption="Histograms of grey value, recorded and simulated, of equal area.",
        png=style.to_png(figure),
    )


@style.drawn
def spectra_figure(
    real: np.ndarray, simulated: np.ndarray, names: Sequence[str], pixel_nm: float
) -> Picture:
    """Radial power spectra, recorded and simulated over each other, and their ratio below."""
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = style.new_figure(_panel_inches(columns), 2.9 * rows)
    grid = figure.add_gridspec(rows, columns, hspace=0.4, wspace=0.3)
    for channel, name in enumerate(names):
        spot = grid[channel // columns, channel % columns]
        parts = spot.subgridspec(2, 1, height_ratios=(2.6, 1), hspace=0.1)
        above = figure.add_subplot(parts[0])
        below = figure.add_subplot(parts[1], sharex=above)
        size = min(*real.shape[2:], *simulated.shape[2:])
        frequency, spectrum = power_spectrum(real[channel], pixel_nm, size)
        _, other = power_spectrum(simulated[channel], pixel_nm, size)
        above.loglog(frequency, spectrum, color=style.REAL, label="recorded")
        above.loglog(frequency, other, color=style.SIMULATED, label="simulated")
        above.set(title=name)
        above.tick_params(labelbottom=False)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = spectrum / other
        below.semilogx(frequency, ratio, color=style.INK, lw=1.2)
        below.axhline(1, color=style.MUTED, lw=0.8, ls=":")
        finite = ratio[np.isfinite(ratio)]
        below.set_ylim(0, max(2.0, 1.1 * float(finite.max(initial=0.0))))
        below.set_xlabel("Spatial frequency (1/nm)")
        if channel % columns == 0:
            above.set_ylabel("Power (grey² nm²)")
            below.set_ylabel("Ratio")
        if channel == len(names) - 1:
            above.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return Picture(
        name="spectra",
        caption="Radial power spectra of the slices, recorded and simulated; below, recorded over "
        "simulated. Low frequencies: size of the structure; high frequencies: sharpness and noise.",
        png=style.to_png(figure),
    )


@style.drawn
def fit_loss_figure(loss: np.ndarray) -> Picture:
    """Objective of the fit against its step."""
    from matplotlib.ticker import LogLocator

    figure = style.new_figure(5.4, 2.4)
    axes = figure.subplots()
    loss = np.asarray(loss, float)
    _curve(axes, np.arange(1, loss.size + 1), loss, style.ACCENT)
    axes.set(xlabel="Step", ylabel="Distance to the recording", xlim=(1, max(loss.size, 2)))
    if np.all(loss > 0) and loss.max() > 10 * loss.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    return Picture(
        name="fit_loss",
        caption="Distance between the statistics of simulated and recorded patches during the fit "
        "(pale: every step; dark: running median).",
        png=style.to_png(figure),
    )


@style.drawn
def training_figure(training: TrainingSection) -> Picture:
    """Training loss and validation Dice against the step."""
    figure = style.new_figure(8.0, 2.6)
    left, right = figure.subplots(1, 2, gridspec_kw={"wspace": 0.22})
    _curve(left, np.asarray(training.steps), np.asarray(training.loss, float), style.ACCENT)
    left.set(xlabel="Step", ylabel="Loss", title="Training loss")
    dice = np.asarray(training.val_dice, float)
    right.plot(training.val_steps, dice, color=style.ACCENT, marker="o", ms=3, lw=1.4)
    best = f", best {np.nanmax(dice):.4f}" if np.isfinite(dice).any() else ""
    right.set(xlabel="Step", ylabel="Dice", title=f"Dice on unseen simulated stacks{best}")
    return Picture(
        name="training",
        caption="Training: loss (pale: as recorded; dark: running median) and Dice coefficient on "
        "simulated stacks that were never trained on.",
        png=style.to_png(figure),
    )


@style.drawn
def calibration_figure(probability: np.ndarray, truth: np.ndarray) -> Picture:
    """Reliability diagram: observed share of solid against the probability given."""
    figure = style.new_figure(3.2, 3.2)
    axes = figure.subplots()
    mean, observed, count = reliability(probability, truth)
    some = count > 0
    axes.plot([0, 1], [0, 1], color=style.MUTED, lw=0.9, ls=":")
    axes.plot(mean[some], observed[some], color=style.ACCENT, lw=1.3)
    share = count[some] / count.sum()
    axes.scatter(mean[some], observed[some], s=8 + 160 * np.sqrt(share), color=style.ACCENT,
                 alpha=0.75, lw=0, zorder=3)  # fmt: skip
    axes.set(xlabel="Probability of solid given", ylabel="Share truly solid", aspect="equal")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    return Picture(
        name="calibration",
        caption="Reliability of the probabilities against the truth: on the dotted line, of the "
        "voxels called 70 % solid 70 % are. Larger dots hold more voxels.",
        png=style.to_png(figure),
    )


def power_spectrum(
    stack: np.ndarray, pixel_nm: float, size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Radially averaged power spectrum of the slices of one channel.

    ``P(k) = <|FFT(w (I - mean))|^2> pixel^2 / sum(w^2)`` with a Hann window ``w``, averaged over
    the slices and over rings of spatial frequency one ``1 / (size pixel)`` wide, up to Nyquist.

    Args:
        stack: grey values ``(slice, y, x)``.
        pixel_nm: pixel side in nm.
        size: side in pixels of the square cut from the middle of every slice (default: the
            shorter side), so that two stacks share their frequencies.

    Returns:
        Frequency in 1/nm and power in grey^2 nm^2, each ``(size // 2 - 1,)``.
    """
    stack = np.asarray(stack, dtype=np.float64)
    side = min(stack.shape[1:]) if size is None else size
    top, left = ((n - side) // 2 for n in stack.shape[1:])
    square = stack[:, top : top + side, left : left + side]
    window = np.outer(np.hanning(side + 2)[1:-1], np.hanning(side + 2)[1:-1])
    square = (square - square.mean(axis=(1, 2), keepdims=True)) * window
    power = (np.abs(np.fft.fft2(square)) ** 2).mean(axis=0) * pixel_nm**2 / (window**2).sum()
    frequency = np.fft.fftfreq(side) * side
    ring = np.hypot(frequency[:, None], frequency[None]).round().astype(int).ravel()
    total = np.bincount(ring, weights=power.ravel())
    rings = np.arange(1, side // 2)
    return rings / (side * pixel_nm), (total / np.bincount(ring))[rings]


def _grey_edges(real: np.ndarray, simulated: np.ndarray) -> np.ndarray:
    """About 64 bins over both; on whole grey levels if the recording is, or they would comb."""
    low, high = np.percentile(np.concatenate([real, simulated]), (0.1, 99.9))
    width = max((high - low) / 64, 1e-6)
    if np.all(real == np.round(real)):
        low, width = np.floor(low) - 0.5, np.ceil(width)
    return low + width * np.arange(np.ceil((high - low) / width) + 2)


def _porosity(label: np.ndarray) -> np.ndarray:
    return 100.0 * (1.0 - label.mean(axis=(1, 2)))


def _curve(axes, steps: np.ndarray, values: np.ndarray, colour: str) -> None:
    """A noisy curve, pale, and its running median over a twentieth of its length."""
    from scipy.ndimage import median_filter

    span = max(values.size // 20, 1)
    axes.plot(steps, values, color=colour, alpha=0.3 if span > 1 else 1, lw=0.9)
    if span > 1:
        axes.plot(steps, median_filter(values, span, mode="reflect"), color=colour, lw=1.7)


def _panel_inches(columns: int) -> float:
    return style.PAGE_INCHES * (columns + 0.2) / (COLUMNS + 0.2) if columns > 1 else 3.4


def _panels(count: int, high: float):
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    figure = style.new_figure(_panel_inches(columns), high * rows)
    grid = figure.add_gridspec(rows, columns, hspace=0.6, wspace=0.12)
    return figure, [figure.add_subplot(grid[i // columns, i % columns]) for i in range(count)]
