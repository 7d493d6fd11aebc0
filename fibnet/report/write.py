"""From content to one HTML file and a folder of figures."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fibnet.metrics import HIGHER_IS_BETTER, METRIC_LABELS
from fibnet.report import curves, volumes
from fibnet.report.content import AdaptationSection, FitSection, ReportContent, checked
from fibnet.report.numbers import aligned, fixed, format_value
from fibnet.report.page import Page
from fibnet.report.structure import correlation_figure
from fibnet.report.style import Picture

__all__ = ["write_report"]


def write_report(path: str | os.PathLike, content: ReportContent) -> Path:
    """Writes the report: one HTML file that needs nothing else, and its figures as PNG beside it.

    Pictures are inside the file, so that it can be sent as it is; ``figures/`` in the same folder
    holds them once more for slides. The same content gives the same bytes. What the content does
    not have is left out.

    Args:
        path: the HTML file; its folder is made if need be.
        content: what to show.

    Returns:
        The path of the HTML file.

    Raises:
        InputError: the volumes do not fit together (see `ReportContent`).
    """
    content = checked(content)
    path = Path(path)
    figures = path.parent / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    page = Page(content.title, content.created)

    def place(picture: Picture) -> None:
        name = page.figure(picture)
        (figures / name).write_bytes(picture.png)

    page.summary(content.summary)
    page.warnings(content.warnings)
    _recording(page, place, content)
    _segmentation(page, place, content)
    _morphology(page, place, content)
    _structure(page, place, content)
    _comparison(page, place, content)
    if content.fit is not None:
        _fit(page, place, content, content.fit)
    if content.training is not None:
        page.section("Training")
        place(curves.training_figure(content.training))
    if content.adaptation is not None:
        _adaptation(page, content.adaptation)
    _reproducibility(page, content)
    path.write_text(page.html(), encoding="utf-8")
    return path


Place = Callable[[Picture], None]


def _recording(page: Page, place: Place, content: ReportContent) -> None:
    images, voxel = content.images, content.voxel_nm
    if not content.stack_rows and images is None:
        return
    page.section("Recording")
    if content.stack_rows:
        page.table(
            "The recording, and where each fact comes from.",
            ("Fact", "Value", "Source"),
            content.stack_rows,
            kinds="tts",
        )
    if images is not None and voxel is not None:
        for picture in volumes.grey_figures(images, content.channel_names, voxel):
            place(picture)


def _segmentation(page: Page, place: Place, content: ReportContent) -> None:
    label, voxel = content.label, content.voxel_nm
    if label is None or voxel is None:
        return
    page.section("Segmentation")
    place(
        volumes.result_figure(
            content.images,
            _first_channel(content),
            label,
            content.probability,
            content.truth,
            voxel,
        )
    )
    if min(label.shape) > 1 and label.any():
        place(volumes.body_figure(label, voxel))


def _morphology(page: Page, place: Place, content: ReportContent) -> None:
    labels = _labels(content)
    if any(label.shape[0] == 1 for label in labels.values()):
        labels = {}
    if not content.measures and content.morphology is None and not labels:
        return
    page.section("Morphology")
    if content.measures:
        _measures_table(page, content.measures, "Measures", content.intervals)
        if content.intervals:
            page.paragraph(
                "The 90 % interval holds the true value in nine of ten simulated stacks of the "
                "fitted instrument and of those around it, segmented by the same network. It knows "
                "nothing of errors that simulated and recorded stacks do not share."
            )
    if content.morphology is not None:
        place(curves.sizes_figure(content.morphology))
    if labels and content.voxel_nm is not None:
        place(curves.porosity_figure(labels, content.truth, content.voxel_nm[0]))


def _first_channel(content: ReportContent) -> str:
    return content.channel_names[0] if content.images is not None else ""


def _labels(content: ReportContent) -> dict[str, np.ndarray]:
    """The result first, then the baselines; nothing without a result."""
    if content.label is None:
        return {}
    return {content.result_name: content.label, **content.baseline_labels}


def _structure(page: Page, place: Place, content: ReportContent) -> None:
    if not content.structure and not content.correlations:
        return
    page.section("Transport and anisotropy")
    if content.correlations:
        place(correlation_figure(content.correlations))
    if content.structure:
        page.paragraph(
            "Tortuosity factor: volume fraction times free over effective diffusivity, infinite "
            "where the phase does not connect both faces. Percolating fraction: share of the phase "
            "that does. Half length: distance at which a curve has fallen to half."
        )
        _measures_table(page, content.structure, "Transport and anisotropy")


def _measures_table(
    page: Page,
    measures: Mapping[str, Sequence[tuple[str, float, str]]],
    title: str,
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    names = list(measures)
    methods = [{name: (value, unit) for name, value, unit in rows} for rows in measures.values()]
    quantities = list(dict.fromkeys(name for method in methods for name in method))
    rows = []
    for quantity in quantities:
        found = [method.get(quantity, (float("nan"), "")) for method in methods]
        unit = next((unit for _, unit in found if unit), "")
        values = [float("nan") if value is None else float(value) for value, _ in found]
        texts = aligned(values, 4)
        if intervals:
            low, high = intervals.get(quantity, (float("nan"),) * 2)
            both = "–" if low != low else f"{format_value(low)} to {format_value(high)}"
            texts.insert(1, both)
        rows.append((quantity, unit, *texts))
    page.table(
        f"{title} of the result ({names[0]})"
        + (" and of the other label volumes." if len(names) > 1 else "."),
        ("Measure", "Unit", names[0], *(["90 % interval"] if intervals else []), *names[1:]),
        rows,
        kinds="ts" + "n" * (len(names) + bool(intervals)),
    )


def _comparison(page: Page, place: Place, content: ReportContent) -> None:
    probability, truth, labels = content.probability, content.truth, _labels(content)
    compared = len(labels) > 1
    if not content.scores and not compared and (probability is None or truth is None):
        return
    page.section("Comparison of methods" if truth is None else "Comparison with the truth")
    if content.scores:
        _scores_table(page, content.scores)
    if compared and content.voxel_nm is not None:
        image = None if content.images is None else content.images[0]
        place(
            volumes.comparison_figure(
                image, _first_channel(content), labels, truth, content.voxel_nm
            )
        )
    if probability is not None and truth is not None:
        place(curves.calibration_figure(probability, truth))


def _scores_table(page: Page, scores: Mapping[str, Mapping[str, float]]) -> None:
    metrics = list(dict.fromkeys(key for method in scores.values() for key in method))
    columns, best = [], set()
    for column, metric in enumerate(metrics):
        values = [float(method.get(metric, float("nan"))) for method in scores.values()]
        columns.append([fixed(v, 3) for v in values])
        best |= {(row, column + 1) for row in _best_rows(metric, values)}
    names = list(scores)
    page.table(
        "Agreement with the truth; the best value of each column is bold. Boundary scores count "
        "surface voxels within two pixels; misplaced pore is the share of true pore called solid; "
        "porosity error is result minus truth.",
        ("Method", *(METRIC_LABELS.get(metric) or metric for metric in metrics)),
        [(name, *(column[row] for column in columns)) for row, name in enumerate(names)],
        kinds="t" + "n" * len(metrics),
        best=frozenset(best),
        main_row=0,
    )


def _best_rows(metric: str, values: Sequence[float]) -> list[int]:
    """Rows that share the best printed value; none where there is nothing to compare."""
    shown = [round(v if metric in HIGHER_IS_BETTER else -abs(v), 3) for v in values]
    known = [v for v in shown if v == v]
    if len(known) < 2:
        return []
    return [row for row, v in enumerate(shown) if v == max(known)]


def _fit(page: Page, place: Place, content: ReportContent, fit: FitSection) -> None:
    page.section("Fit of the simulator")
    page.paragraph(
        "The simulator was fitted to the recording without labels, by matching the statistics of "
        "simulated and recorded patches."
    )
    if len(fit.parameters):
        with_error = any(len(row) > 4 and row[4] is not None for row in fit.parameters)
        rows = [_parameter_row(row, with_error) for row in fit.parameters]
        page.table(
            "Parameters of the instrument and specimen before and after the fit"
            + (", with standard errors." if with_error else "."),
            ("Parameter", "Unit", "Start", "Fitted", *(["Std. error"] if with_error else [])),
            rows,
            kinds="tsnn" + ("n" if with_error else ""),
        )
    if len(fit.distances):
        page.table(
            "Distance between simulation and recording on data held out from the fit (smaller is "
            "closer).",
            ("Statistic", "Default instrument", "Fitted instrument"),
            [(name, *aligned(values, 3, smallest=True)) for name, *values in fit.distances],
            kinds="tnn",
        )
    real, simulated, voxel = fit.real_patch, fit.simulated_patch, content.voxel_nm
    if real is not None and simulated is not None and voxel is not None:
        real, simulated = np.asarray(real), np.asarray(simulated)
        names = list(content.channel_names) or [f"channel {c}" for c in range(len(real))]
        place(curves.patches_figure(real, simulated, names, voxel))
        place(curves.histogram_figure(real, simulated, names))
        place(curves.spectra_figure(real, simulated, names, voxel[2]))
    if fit.loss is not None and len(fit.loss) > 1:
        place(curves.fit_loss_figure(fit.loss))


def _parameter_row(row: Sequence, with_error: bool) -> tuple[str, ...]:
    """Start and fitted value to the digits that the standard error leaves, then the error."""
    name, unit, start, fitted, *rest = row
    error = rest[0] if rest else None
    if error is None or not error > 0:
        return (
            name,
            unit,
            *aligned([start, fitted], 3, smallest=True),
            *(["–"] if with_error else []),
        )
    fitted_text, error_text = format_value((fitted, error)).split(" ± ")
    start_text, _ = format_value((start, error)).split(" ± ")
    return (name, unit, start_text, fitted_text, error_text)


def _adaptation(page: Page, adaptation: AdaptationSection) -> None:
    page.section("Alternation with the segmentation")
    page.paragraph(
        "The segmented volume was imaged by the simulator and compared with the recording pixel by "
        "pixel; the instrument was refitted to it, less what such a refit got wrong of a simulated "
        "stack, and the network trained on, with the volume itself among the specimens."
    )
    page.table(
        "Rounds. Movement is the root mean square over the unknowns, in standard deviations of "
        "their priors. A network is kept unless its volume explains the recording clearly worse.",
        ("Round", "Porosity before", "after", "Changed voxels (%)", "Movement (s.d.)", "Kept"),
        [
            (
                str(number),
                *aligned([before, after], 4),
                f"{100 * changed:.2f}",
                f"{moved:.2f}",
                "yes" if kept else "no",
            )
            for number, before, after, changed, moved, kept in adaptation.rounds
        ],
        kinds="tnnnnt",
    )
    page.table(
        "How well the volume explains the recording: squared residual over noise variance "
        "(1 where nothing but noise is left), and share explained of the variance that is not "
        "noise; before, with the instrument refitted, and with the retrained network's volume.",
        ("Round", "Channel", "Noise share", "χ² before", "refitted", "retrained",
         "Explained before", "refitted", "retrained"),
        [
            (str(number), name, *(f"{v:.2f}" for v in row[:4]), *(f"{v:.3f}" for v in row[4:]))
            for number, name, *row in adaptation.residuals
        ],
        kinds="tt" + "n" * 7,
    )  # fmt: skip
    if adaptation.unknowns:
        page.table(
            "Parameters that the refits moved most, from the first fit to the last round.",
            ("Parameter", "Unit", "Before", "After", "Moved (s.d.)"),
            [
                (name, unit, *aligned([before, after], 3, smallest=True), f"{moved:+.2f}")
                for name, unit, before, after, moved in adaptation.unknowns
            ],
            kinds="tsnnn",
        )
    if adaptation.kinds:
        page.table(
            "Resemblance of the volume to the specimen generators, by correlations and chord "
            "lengths of fitted draws, and how much two draws of a kind differ by chance.",
            ("Generator", "Distance", "By chance"),
            [(kind, f"{d:.3f}", f"{chance:.3f}") for kind, d, chance in adaptation.kinds],
            kinds="tnn",
        )


def _reproducibility(page: Page, content: ReportContent) -> None:
    if not (content.settings or content.versions or content.timings):
        return
    page.section("Reproducibility")
    if content.timings:
        seconds = aligned([float(row[1]) for row in content.timings], 4)
        peaks = [row[2] if len(row) > 2 else None for row in content.timings]
        page.table(
            "Time and peak memory of each stage.",
            ("Stage", "Time (s)", "Peak memory (MB)"),
            [
                (row[0], time, None if peak is None else aligned([round(peak)])[0])
                for row, time, peak in zip(content.timings, seconds, peaks, strict=True)
            ],
            kinds="tnn",
        )
    if content.settings:
        page.table("Settings.", ("Setting", "Value"), list(content.settings.items()), kinds="tt")
    if content.versions:
        page.table("Software.", ("Package", "Version"), list(content.versions.items()), kinds="tt")
