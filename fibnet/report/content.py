"""What a report is made of: plain facts and arrays, so that any pipeline can fill it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fibnet.correlation import Correlations
from fibnet.morphology import Measures
from fibsim.errors import InputError

__all__ = ["AdaptationSection", "FitSection", "ReportContent", "TrainingSection", "checked"]

Value = float | int | str | tuple[float, float] | tuple[float, float, float]
"""A number, ready text, ``(value, uncertainty)`` or ``(value, low, high)``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitSection:
    """How the simulator was brought to look like the recording.

    Attributes:
        parameters: rows ``(parameter, unit, start, fitted)`` or
            ``(parameter, unit, start, fitted, standard error)``; an error of None is left blank.
        loss: objective per step, ``(step,)``; None leaves the curve out.
        distances: rows ``(statistic, with the default instrument, with the fitted one)``, held
            out from the fit; smaller is closer to the recording.
        real_patch: recorded grey values ``(channel, slice, y, x)``.
        simulated_patch: simulated grey values, same number of channels.
    """

    parameters: Sequence[tuple] = ()
    loss: np.ndarray | None = None
    distances: Sequence[tuple[str, float, float]] = ()
    real_patch: np.ndarray | None = None
    simulated_patch: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSection:
    """How the segmenter was trained.

    Attributes:
        steps: step of every recorded loss, ``(n,)``.
        loss: training loss, ``(n,)``.
        val_steps: step of every validation, ``(m,)``.
        val_dice: Dice coefficient on simulated stacks never trained on, ``(m,)``.
    """

    steps: np.ndarray
    loss: np.ndarray
    val_steps: np.ndarray
    val_dice: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptationSection:
    """How the alternation of segmentation and fit went.

    Attributes:
        rounds: rows ``(round, porosity before, porosity after, share of voxels that changed,
            movement of the unknowns in standard deviations of their priors, whether its network
            was kept)``.
        residuals: rows ``(round, channel, noise share, chi^2 before, chi^2 refitted, chi^2
            retrained, explained before, explained refitted, explained retrained)``.
        unknowns: rows ``(parameter, unit, before, after, moved in standard deviations)`` of those
            that moved most.
        kinds: rows ``(specimen generator, distance to the volume, distance of its draws from
            each other)``, the closest first.
    """

    rounds: Sequence[tuple] = ()
    residuals: Sequence[tuple] = ()
    unknowns: Sequence[tuple] = ()
    kinds: Sequence[tuple[str, float, float]] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportContent:
    """Everything `fibnet.report.write_report` shows; what is empty or None is left out.

    Attributes:
        title: heading of the report.
        created: date or time as text, under the title.
        summary: key numbers, rows ``(name, value, unit)``; a value is a number, text,
            ``(value, uncertainty)`` or ``(value, low, high)``.
        warnings: sentences the reader must not miss.
        stack_rows: facts about the recording, rows ``(fact, value, source)``.
        images: recorded grey values ``(channel, slice, y, x)``.
        channel_names: one per channel.
        voxel_nm: voxel size ``(z, y, x)`` in nm; needed with any of the volumes.
        probability: probability of solid ``(z, y, x)`` in [0, 1].
        label: the segmentation ``(z, y, x)``, 1 = solid.
        truth: true label ``(z, y, x)`` where it is known.
        baseline_labels: method -> label ``(z, y, x)``, shown next to the result.
        result_name: what the result is called beside the baselines.
        morphology: measures of the result, for the distributions of sizes.
        measures: method -> rows ``(name, value, unit)``; the first is the result.
        intervals: measure -> bounds of the result's 90 % interval.
        structure: method -> rows ``(name, value, unit)`` of transport and anisotropy; the first
            is the result.
        correlations: method -> curves; the first is the result.
        scores: method -> metric -> value, as from `fibnet.metrics.scores`.
        fit: the fit of the simulator.
        training: the training of the segmenter.
        adaptation: the alternation of segmentation and fit.
        settings: setting -> value.
        versions: package -> version.
        timings: rows ``(stage, seconds, peak MB)``; a peak of None is left blank.
    """

    title: str
    created: str | None = None
    summary: Sequence[tuple[str, Value, str]] = ()
    warnings: Sequence[str] = ()
    stack_rows: Sequence[tuple[str, Any, str]] = ()
    images: np.ndarray | None = None
    channel_names: Sequence[str] = ()
    voxel_nm: tuple[float, float, float] | None = None
    probability: np.ndarray | None = None
    label: np.ndarray | None = None
    truth: np.ndarray | None = None
    baseline_labels: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    result_name: str = "fibnet"
    morphology: Measures | None = None
    measures: Mapping[str, Sequence[tuple[str, float, str]]] | None = None
    intervals: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    structure: Mapping[str, Sequence[tuple[str, float, str]]] | None = None
    correlations: Mapping[str, Correlations] | None = None
    scores: Mapping[str, Mapping[str, float]] | None = None
    fit: FitSection | None = None
    training: TrainingSection | None = None
    adaptation: AdaptationSection | None = None
    settings: Mapping[str, Any] | None = None
    versions: Mapping[str, str] | None = None
    timings: Sequence[tuple[str, float, float | None]] | None = None


def checked(content: ReportContent) -> ReportContent:
    """The content with its volumes as arrays, if they fit together.

    Raises:
        InputError: volumes without a voxel size, of the wrong number of axes, or of different
            shapes; names that do not match the channels.
    """
    images = None if content.images is None else np.asarray(content.images)
    if images is not None and images.ndim != 4:
        raise InputError(f"Images of shape {images.shape} found; expected (channel, slice, y, x).")
    if images is not None and len(content.channel_names) != images.shape[0]:
        raise InputError(
            f"{len(content.channel_names)} channel names found for {images.shape[0]} channels; "
            "give one name per channel."
        )
    baselines = {k: np.asarray(v) > 0 for k, v in content.baseline_labels.items()}
    volumes = {
        "probability": None if content.probability is None else np.asarray(content.probability),
        "label": None if content.label is None else np.asarray(content.label) > 0,
        "truth": None if content.truth is None else np.asarray(content.truth) > 0,
    }
    shapes = {name: volume.shape for name, volume in volumes.items() if volume is not None}
    shapes |= {name: volume.shape for name, volume in baselines.items()}
    if images is not None:
        shapes["images"] = images.shape[1:]
    if any(len(shape) != 3 for shape in shapes.values()) or len(set(shapes.values())) > 1:
        raise InputError(f"Volumes of shapes {shapes} found; all must share one (z, y, x) shape.")
    _check_patches(content)
    patches = content.fit is not None and content.fit.real_patch is not None
    if (shapes or patches) and content.voxel_nm is None:
        raise InputError("Volumes without voxel_nm found; give the voxel size (z, y, x) in nm.")
    return dataclasses.replace(content, images=images, baseline_labels=baselines, **volumes)


def _check_patches(content: ReportContent) -> None:
    fit = content.fit
    if fit is None or fit.real_patch is None or fit.simulated_patch is None:
        return
    shapes = (np.shape(fit.real_patch), np.shape(fit.simulated_patch))
    if any(len(shape) != 4 for shape in shapes) or shapes[0][0] != shapes[1][0]:
        raise InputError(
            f"Real and simulated patches of shapes {shapes} found; expected (channel, slice, y, x) "
            "with the same channels."
        )
    if len(content.channel_names) not in (0, shapes[0][0]):
        raise InputError(
            f"{len(content.channel_names)} channel names found for patches of {shapes[0][0]} "
            "channels; give one name per channel."
        )
