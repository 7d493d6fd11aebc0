"""Area under the ROC curve of two samples whose members depend on each other, with an interval.

The AUC is the probability that a random simulated patch scores higher than a random real one::

    AUC = mean_ij [s_i > r_j] + [s_i = r_j] / 2

Patches are no independent draws: those of one column of tissue show the same pores, and those of
one slice share its focus and brightness. The variance is DeLong's (DeLong, DeLong & Clarke-Pearson
1988, doi 10.2307/2531595), in which the placement of every patch among those of the other side is
summed over dependent patches before it is squared (Obuchowski 1997, doi 10.2307/2533958), here
over columns and over slices at once (Cameron, Gelbach & Miller 2011, doi
10.1198/jbes.2010.07136)::

    variance = V(columns) + V(slices) - V(patches),  at least V(columns) and V(slices)

A variance estimated so is zero where all patches are told apart, and a symmetric interval would
leave [0, 1]. The variance is therefore only used to find how many independent patches would have
it, by the law of Hanley & McNeil (1982, doi 10.1148/radiology.143.1.7063747), and the interval is
the score interval for this number (Newcombe 2006, doi 10.1002/sim.2324): all values of the AUC
under which the one found is not unlikely.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm, rankdata

__all__ = ["Auc", "Scored", "mean_auc", "numbered", "placements", "score_interval"]


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


def _clustered(parts: np.ndarray, labels: np.ndarray, fold: np.ndarray) -> float:
    """Variance of ``sum(parts)`` if only parts of equal label depend on each other."""
    _, index = np.unique(labels, return_inverse=True)
    sums = np.bincount(index, parts)
    # The mean that was subtracted takes a degree of freedom, in each fold if labels keep to one.
    nested = numbered(labels, fold).max() + 1 == len(sums)
    lost = len(np.unique(fold)) if nested else 1
    return float(np.sum(sums**2)) * len(sums) / max(len(sums) - lost, 1)


def numbered(*labels: np.ndarray) -> np.ndarray:
    """One number, from 0, for each combination of labels."""
    return np.unique(np.stack(labels, axis=1), axis=0, return_inverse=True)[1].ravel()


def _variance(parts: np.ndarray, side: Sequence[Scored]) -> tuple[float, int]:
    """Variance of one side's contribution, and the number of its columns."""
    fold = np.repeat(np.arange(len(side)), [len(one.score) for one in side])
    column = numbered(fold, np.concatenate([one.column for one in side]))
    layer = np.concatenate([one.slice for one in side])
    both = numbered(column, layer)
    by_column, by_slice, by_patch = (_clustered(parts, one, fold) for one in (column, layer, both))
    return max(by_column + by_slice - by_patch, by_column, by_slice), int(column.max()) + 1


def _hanley_mcneil(auc: float, number: float) -> float:
    """Variance of an AUC of ``number`` independent patches of each side."""
    q = (1 - auc) / (2 - auc) + auc / (1 + auc)
    return auc * (1 - auc) * (1 + (number - 1) * q) / number**2


def _equivalent_number(auc: float, variance: float) -> float:
    """Independent patches of each side that give an AUC this variance."""
    product = auc * (1 - auc)
    if variance <= 0 or product <= 0:
        return np.inf
    q = (1 - auc) / (2 - auc) + auc / (1 + auc)
    root = np.sqrt((product * q) ** 2 + 4 * variance * product * (1 - q))
    return float((product * q + root) / (2 * variance))


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
            variance is multiplied by ``1 + K / (K - 1)`` for ``K`` folds (Nadeau & Bengio 2003,
            doi 10.1023/A:1024068626366).
        level: confidence of the interval.
    """
    folds = len(real)
    weight = np.array(
        [min(len(s.score), len(r.score)) for s, r in zip(simulated, real, strict=True)], float
    )
    weight /= weight.sum()
    value, parts = 0.0, ([], [])
    for w, s, r in zip(weight, simulated, real, strict=True):
        above = placements(s.score, r.score)
        below = 1 - placements(r.score, s.score)
        auc = float(above.mean())
        value += w * auc
        parts[0].append(w * (above - auc) / len(above))
        parts[1].append(w * (below - auc) / len(below))
    found = [_variance(np.concatenate(p), s) for p, s in ((parts[0], simulated), (parts[1], real))]
    number = min(_equivalent_number(value, sum(v for v, _ in found)), min(n for _, n in found))
    if retrained and folds > 1:
        number /= 1 + folds / (folds - 1)
    low, high = score_interval(value, max(number, 1.0), level=level)
    return Auc(value, low, high)
