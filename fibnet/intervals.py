"""Intervals of the measures: how far a volume's numbers may be from the truth.

Stacks like the recorded one are simulated, with instrument and specimen drawn around the fit as
widely as in training, segmented by the same network and measured, and so is the truth of each. Of
the differences follow, for every measure, the bias to take away and the interval to state.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fibnet.data import Source, draw_training_stack, drawn_stacks, size_like
from fibnet.metrics import expected_calibration_error
from fibnet.morphology import as_rows, measure
from fibnet.segment import predict
from fibnet.segmenter import Segmenter

__all__ = ["Case", "intervals", "simulated_cases"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One simulated stack.

    Attributes:
        found, true: measures of the segmented volume and of the truth by name.
        calibration_error: of its probabilities (`expected_calibration_error`).
    """

    found: dict[str, float]
    true: dict[str, float]
    calibration_error: float


def _by_name(volume: np.ndarray, voxel_nm: Sequence[float]) -> dict[str, float]:
    return {name: float(value) for name, value, _ in as_rows(measure(volume, voxel_nm))}


def simulated_cases(
    segmenter: Segmenter,
    source: Source,
    shape: tuple[int, int, int],
    *,
    seed: int,
    number: int,
    sublayers: int = 3,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Case]:
    """Segment and measure simulated stacks that the network has not learned from.

    Args:
        shape: (slice, y, x) of the recorded stack; of larger ones than 48 x 128 x 128 a part of
            that size, whose errors average out less.
        sublayers: layers per slice.
    """
    data = size_like(shape, sublayers=sublayers)
    drawn = drawn_stacks(source, data, draw=draw_training_stack, seed=seed, number=number)
    voxel = (source.slice_nm, source.pixel_nm, source.pixel_nm)
    cases = []
    for i, (images, solid) in enumerate(drawn):
        probability, truth = predict(segmenter, images), solid > 0.5
        cases.append(
            Case(
                found=_by_name(probability > 0.5, voxel),
                true=_by_name(truth, voxel),
                calibration_error=expected_calibration_error(probability, truth),
            )
        )
        if progress is not None:
            progress(i + 1, number, "cases")
    return cases


def _transform(name: str) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """Where errors of a measure are alike for small and large values, and back."""
    if name == "Porosity":
        return (lambda v: math.log(v / (1 - v))), (lambda u: 1 / (1 + math.exp(-u)))
    if name.startswith("Euler"):
        return float, float
    return math.log, math.exp


def intervals(
    found: Mapping[str, float], cases: Sequence[Case], *, level: float = 0.9
) -> dict[str, tuple[float, float]]:
    """Prediction intervals of the true measures, by name.

    With ``d`` the differences true - found of the n cases, in logit for the porosity and in the
    logarithm for lengths and areas::

        found + mean(d) +- t_{n-1, (1 + level) / 2} sd(d) sqrt(1 + 1 / n)

    covers the true value with probability ``level`` if the differences are normal and the
    recording is one more of the same kind. A measure that is undefined for the volume or for all
    but two cases has none.
    """
    from scipy.stats import t

    result = {}
    for name, value in found.items():
        forward, back = _transform(name)
        try:
            centre = forward(value)
        except (ValueError, ZeroDivisionError):  # a porosity of 0 or 1, a size of 0
            continue
        differences = []
        for case in cases:
            try:
                differences.append(forward(case.true[name]) - forward(case.found[name]))
            except (KeyError, ValueError, ZeroDivisionError):
                continue
        d = np.asarray([v for v in differences if np.isfinite(v)])
        if len(d) < 3 or not math.isfinite(centre):
            continue
        half = t.ppf((1 + level) / 2, len(d) - 1) * d.std(ddof=1) * math.sqrt(1 + 1 / len(d))
        low, high = (back(centre + float(d.mean()) + s * half) for s in (-1, 1))
        result[name] = (low, high)
    return result
