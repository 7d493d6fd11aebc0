"""Area under the ROC curve of two samples whose members depend on each other, with an interval.

The AUC is the probability that a random simulated patch scores higher than a random real one::

    AUC = mean_ij [s_i > r_j] + [s_i = r_j] / 2

Patches are no independent draws: those of one column of tissue show the same pores, and those of
one slice share its focus and brightness. They are worth fewer independent ones (Kish 1965)::

    number = patches / effect,  effect = V / V(patches),
    V = V(columns) + V(slices) - V(patches), at least V(columns) and V(slices)

with the variance ``V(groups)`` of a mean if only members of one group depend on each other, here
over columns and slices at once (Cameron, Gelbach & Miller 2011, doi 10.1198/jbes.2010.07136). The
mean is that of the scores' ranks within their own side, on a normal scale: unlike the variance of
the AUC itself (DeLong 1988, Obuchowski 1997), which is zero where all patches are told apart, it
tells the dependence at any AUC.

The interval holds all values of the AUC under which the one found is not unlikely, for as many
independent patches (Newcombe 2006, doi 10.1002/sim.2324), by the variance of Hanley & McNeil
(1982, doi 10.1148/radiology.143.1.7063747).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm, rankdata

__all__ = [
    "Auc",
    "Scored",
    "independent_number",
    "mean_auc",
    "numbered",
    "placements",
    "score_interval",
]


@dataclasses.dataclass(frozen=True)
class Auc:
    """An AUC and its confidence interval.

    Attributes:
        value: area under the ROC curve, 0.5 = no difference.
        low, high: ends of the interval.
    """

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Scored:
    """Scores of patches of one side, ``(patch,)`` each.

    Attributes:
        score: higher = more like the simulation.
        column: number of the column of tissue that the patch lies in.
        slice: number of its slices.
    """

    score: np.ndarray
    column: np.ndarray
    slice: np.ndarray


def placements(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Share of ``others`` that lies below each score, ties counting half."""
    everything = rankdata(np.concatenate([scores, others]))[: len(scores)]
    return (everything - rankdata(scores)) / len(others)


def numbered(*labels: np.ndarray) -> np.ndarray:
    """One number, from 0, for each combination of labels."""
    return np.unique(np.stack(labels, axis=1), axis=0, return_inverse=True)[1].ravel()


def _variance(values: np.ndarray, labels: np.ndarray, fold: np.ndarray) -> float:
    """Variance of ``sum(values)`` if only values of equal label depend on each other.

    Values have mean 0 in every fold.
    """
    _, index = np.unique(labels, return_inverse=True)
    sums = np.bincount(index, values)
    # The mean takes a degree of freedom, in each fold if labels keep to one.
    nested = numbered(labels, fold).max() + 1 == len(sums)
    lost = len(np.unique(fold)) if nested else 1
    return float(np.sum(sums**2)) * len(sums) / max(len(sums) - lost, 1)


def independent_number(side: Sequence[Scored]) -> float:
    """How many independent patches the folds of one side are worth."""
    fold = np.repeat(np.arange(len(side)), [len(one.score) for one in side])
    ranks = np.concatenate([rankdata(one.score) / (len(one.score) + 1) for one in side])
    normal = norm.ppf(ranks)
    column = numbered(fold, np.concatenate([one.column for one in side]))
    layer = np.concatenate([one.slice for one in side])
    by_column, by_slice, by_patch = (
        _variance(normal, label, fold) for label in (column, layer, numbered(column, layer))
    )
    if by_patch == 0:
        return float(len(normal))
    effect = max(by_column + by_slice - by_patch, by_column, by_slice) / by_patch
    return len(normal) / max(effect, 1.0)


def _hanley_mcneil(auc: float, number: float) -> float:
    """Variance of an AUC of ``number`` independent patches of each side."""
    q = (1 - auc) / (2 - auc) + auc / (1 + auc)
    return auc * (1 - auc) * (1 + (number - 1) * q) / number**2


def score_interval(auc: float, number: float, *, level: float = 0.95) -> tuple[float, float]:
    """All values ``a`` with ``(auc - a)^2 <= z^2 variance(a, number)``."""
    z2 = float(norm.ppf(0.5 + level / 2)) ** 2

    def outside(a: float) -> float:
        return (auc - a) ** 2 - z2 * _hanley_mcneil(a, number)

    tiny = 1e-9
    low = brentq(outside, 0.0, auc - tiny) if auc > 2 * tiny else 0.0
    high = brentq(outside, auc + tiny, 1.0) if auc < 1 - 2 * tiny else 1.0
    return float(low), float(high)


def mean_auc(
    simulated: Sequence[Scored],
    real: Sequence[Scored],
    *,
    retrained: bool = False,
    level: float = 0.95,
) -> Auc:
    """AUC averaged over folds, with its interval.

    Scores are compared within a fold only, since those of different classifiers have no common
    scale.

    Args:
        simulated, real: the folds of both sides.
        retrained: each fold was scored by a classifier of its own, trained on the other folds.
            The folds then depend on each other and vary with what was trained on, for which the
            number is divided by ``1 + K / (K - 1)`` for ``K`` folds (Nadeau & Bengio 2003,
            doi 10.1023/A:1024068626366).
        level: confidence of the interval.
    """
    pairs = list(zip(simulated, real, strict=True))
    weight = [min(len(s.score), len(r.score)) for s, r in pairs]
    each = [placements(s.score, r.score).mean() for s, r in pairs]
    value = float(np.average(each, weights=weight))
    number = 2 / sum(1 / independent_number(side) for side in (simulated, real))
    if retrained and len(pairs) > 1:
        number /= 1 + len(pairs) / (len(pairs) - 1)
    return Auc(value, *score_interval(value, max(number, 1.0), level=level))
