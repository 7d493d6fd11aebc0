"""How well a label volume agrees with the known truth: overlap, boundary, pores lost, calibration.

All functions take boolean volumes ``(z, y, x)``, 1 = solid, and return plain numbers. Every
degenerate case (no solid, no pore, no boundary) has a stated value, so a table of scores never
holds a surprise.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fibsim.errors import InputError

__all__ = [
    "HIGHER_IS_BETTER",
    "METRIC_LABELS",
    "BoundaryScore",
    "boundary_f_score",
    "dice",
    "expected_calibration_error",
    "iou",
    "misplaced_pore_fraction",
    "misplaced_voxel_fraction",
    "reliability",
    "scores",
]

METRIC_LABELS: dict[str, str] = {
    "dice": "Dice (solid)",
    "iou_solid": "IoU (solid)",
    "iou_pore": "IoU (pore)",
    "boundary_precision": "Boundary precision",
    "boundary_recall": "Boundary recall",
    "boundary_f_score": "Boundary F",
    "misplaced_pore_fraction": "Misplaced pore",
    "misplaced_voxel_fraction": "Misplaced voxels",
    "porosity_error": "Porosity error",
    "expected_calibration_error": "Calibration error",
}
"""The keys of `scores` and what to call them in a table."""

HIGHER_IS_BETTER: frozenset[str] = frozenset(
    {
        "dice",
        "iou_solid",
        "iou_pore",
        "boundary_precision",
        "boundary_recall",
        "boundary_f_score",
    }
)
"""The keys of `scores` whose best value is 1; the others are best at 0."""


class BoundaryScore(NamedTuple):
    """Precision, recall and their harmonic mean, each in [0, 1]."""

    precision: float
    recall: float
    f_score: float


def dice(pred: np.ndarray, truth: np.ndarray) -> float:
    """Dice coefficient of the solid, ``2 |P & T| / (|P| + |T|)``.

    Both volumes without solid agree: 1. Only one of them without solid: 0.

    Args:
        pred: predicted label, boolean ``(z, y, x)``.
        truth: true label, same shape.

    Raises:
        InputError: the volumes differ in shape, are not three-dimensional or not binary.
    """
    pred, truth = _pair(pred, truth)
    total = _count(pred) + _count(truth)
    return 2.0 * _count(pred & truth) / total if total else 1.0


def iou(pred: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of the solid, ``|P & T| / |P | T|``; for the pores hand in ``~``.

    Both volumes without solid agree: 1. Arguments and errors as in `dice`.
    """
    pred, truth = _pair(pred, truth)
    union = _count(pred | truth)
    return _count(pred & truth) / union if union else 1.0


def misplaced_pore_fraction(pred: np.ndarray, truth: np.ndarray) -> float:
    """True pore voxels called solid, over all true pore voxels.

    This is what shine-through costs: the structure behind an open pore taken for solid of the
    face. 0 where the truth has no pore. Arguments and errors as in `dice`.
    """
    pred, truth = _pair(pred, truth)
    pores = _count(~truth)
    return _count(pred & ~truth) / pores if pores else 0.0


def misplaced_voxel_fraction(pred: np.ndarray, truth: np.ndarray) -> float:
    """Voxels with the wrong label, over all voxels. Arguments and errors as in `dice`."""
    pred, truth = _pair(pred, truth)
    return _count(pred != truth) / truth.size


def boundary_f_score(
    pred: np.ndarray,
    truth: np.ndarray,
    voxel_nm: Sequence[float],
    tolerance_nm: float | None = None,
) -> BoundaryScore:
    """Share of the surface voxels that lie within a physical tolerance of the other surface.

    A surface voxel is a solid voxel with a pore voxel across one of its faces; the faces of the
    box do not count. Precision is taken over the surface voxels of ``pred``, recall over those of
    ``truth``, ``F = 2 P R / (P + R)``. Neither volume has a surface: all 1. Only one of them has
    a surface: all 0. Csurka et al. 2013, doi:10.5244/C.27.32, in three dimensions and in nm.

    Args:
        pred: predicted label, boolean ``(z, y, x)``.
        truth: true label, same shape.
        voxel_nm: voxel size ``(z, y, x)`` in nm.
        tolerance_nm: largest distance, centre to centre, that still counts as a hit; default two
            pixels (``2 voxel_nm[2]``), which is less than one slice where slices are thick.

    Raises:
        InputError: as in `dice`, or a voxel size or tolerance that is not positive.
    """
    import edt

    pred, truth = _pair(pred, truth)
    voxel = _positive_voxel(voxel_nm)
    tolerance = 2.0 * voxel[2] if tolerance_nm is None else float(tolerance_nm)
    if not tolerance > 0:
        raise InputError(f"Tolerance {tolerance} nm found; give a positive distance in nm.")
    surfaces = [_surface_voxels(volume) for volume in (pred, truth)]
    if not any(surface.any() for surface in surfaces):
        return BoundaryScore(1.0, 1.0, 1.0)
    if not all(surface.any() for surface in surfaces):
        return BoundaryScore(0.0, 0.0, 0.0)
    # A hair of slack, so that a voxel exactly at the tolerance counts whatever the rounding.
    reach = tolerance * (1.0 + 1e-5)
    to_pred, to_truth = (edt.edt(~surface, anisotropy=voxel) for surface in surfaces)
    precision = float(np.mean(to_truth[surfaces[0]] <= reach))
    recall = float(np.mean(to_pred[surfaces[1]] <= reach))
    total = precision + recall
    return BoundaryScore(precision, recall, 2.0 * precision * recall / total if total else 0.0)


def reliability(
    probability: np.ndarray, truth: np.ndarray, bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reliability diagram of a solid probability.

    Args:
        probability: probability of solid in [0, 1], ``(z, y, x)``.
        truth: true label, same shape.
        bins: number of equally wide bins of probability.

    Returns:
        Mean probability, observed share of solid (both nan in an empty bin) and number of voxels,
        each of shape ``(bins,)``.

    Raises:
        InputError: shapes differ, probabilities outside [0, 1], or fewer than one bin.
    """
    truth = _binary(truth, "truth")
    probability = np.asarray(probability, dtype=np.float64)
    if probability.shape != truth.shape:
        raise InputError(
            f"Probability of shape {probability.shape} found for a truth of shape {truth.shape}; "
            "hand in volumes of the same shape."
        )
    if bins < 1:
        raise InputError(f"{bins} bins found; give at least one.")
    if not (np.all(probability >= 0.0) and np.all(probability <= 1.0)):
        raise InputError(
            "Probabilities outside [0, 1] (or nan) found; hand in probabilities, not logits."
        )
    index = np.minimum((probability * bins).astype(np.int64), bins - 1).ravel()
    count = np.bincount(index, minlength=bins)
    occupied = np.where(count > 0, count, 1)
    empty = np.where(count > 0, 0.0, np.nan)
    mean = np.bincount(index, weights=probability.ravel(), minlength=bins) / occupied + empty
    observed = np.bincount(index, weights=truth.ravel(), minlength=bins) / occupied + empty
    return mean, observed, count


def expected_calibration_error(probability: np.ndarray, truth: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of the solid probability, in [0, 1].

    ``ECE = sum_b n_b / n |mean probability_b - share of solid_b|`` over equally wide bins of the
    probability of solid (Naeini et al. 2015, doi:10.1609/aaai.v29i1.9602). 0 means that of the
    voxels called 70 % solid, 70 % are. Well defined for a truth of one phase only.

    Arguments and errors as in `reliability`.
    """
    mean, observed, count = reliability(probability, truth, bins)
    return float(np.nansum(count * np.abs(mean - observed)) / count.sum())


def scores(
    pred: np.ndarray,
    truth: np.ndarray,
    voxel_nm: Sequence[float],
    probability: np.ndarray | None = None,
) -> dict[str, float]:
    """Every metric of this module in one dictionary.

    Keys (labels in `METRIC_LABELS`): ``dice``, ``iou_solid``, ``iou_pore``,
    ``boundary_precision``, ``boundary_recall``, ``boundary_f_score`` (tolerance two pixels),
    ``misplaced_pore_fraction``, ``misplaced_voxel_fraction``, ``porosity_error`` (porosity of
    the prediction minus that of the truth) and, where ``probability`` is given,
    ``expected_calibration_error``.

    Args:
        pred: predicted label, boolean ``(z, y, x)``.
        truth: true label, same shape.
        voxel_nm: voxel size ``(z, y, x)`` in nm.
        probability: probability of solid, same shape, or None.

    Raises:
        InputError: as in the single metrics.
    """
    pred, truth = _pair(pred, truth)
    boundary = boundary_f_score(pred, truth, voxel_nm)
    result = {
        "dice": dice(pred, truth),
        "iou_solid": iou(pred, truth),
        "iou_pore": iou(~pred, ~truth),
        "boundary_precision": boundary.precision,
        "boundary_recall": boundary.recall,
        "boundary_f_score": boundary.f_score,
        "misplaced_pore_fraction": misplaced_pore_fraction(pred, truth),
        "misplaced_voxel_fraction": misplaced_voxel_fraction(pred, truth),
        "porosity_error": float(truth.mean() - pred.mean()),
    }
    if probability is not None:
        result["expected_calibration_error"] = expected_calibration_error(probability, truth)
    return result


def _count(volume: np.ndarray) -> int:
    return int(np.count_nonzero(volume))


def _surface_voxels(solid: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_erosion

    return solid & ~binary_erosion(solid, border_value=1)


def _binary(volume: np.ndarray, what: str) -> np.ndarray:
    volume = np.asarray(volume)
    if volume.ndim != 3 or volume.size == 0:
        raise InputError(
            f"The {what} label has shape {volume.shape}; expected a non-empty (z, y, x) volume."
        )
    if volume.dtype != bool:
        if not np.all((volume == 0) | (volume == 1)):
            raise InputError(
                f"The {what} label holds values other than 0 and 1; threshold it first."
            )
        volume = volume.astype(bool)
    return volume


def _pair(pred: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pred, truth = _binary(pred, "predicted"), _binary(truth, "true")
    if pred.shape != truth.shape:
        raise InputError(
            f"Predicted label of shape {pred.shape} found for a truth of shape {truth.shape}; "
            "crop or resample one to the other."
        )
    return pred, truth


def _positive_voxel(voxel_nm: Sequence[float]) -> tuple[float, float, float]:
    voxel = tuple(float(side) for side in voxel_nm)
    if len(voxel) != 3 or not all(np.isfinite(side) and side > 0 for side in voxel):
        raise InputError(f"Voxel size {voxel} found; give three positive sides (z, y, x) in nm.")
    return voxel
