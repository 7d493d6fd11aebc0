"""Logistic regression on the named statistics of patches."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from fibsim.compare.statistics import Statistic

__all__ = ["logistic_logits", "table_of"]

# Inverse strength of the penalty on squared weights: a hundred statistics that overlap, of some
# hundred patches that do, too.
_PENALTY = 0.1
_FURTHEST = 4.0


def table_of(statistics: Sequence[Statistic]) -> Float[np.ndarray, "patch statistic"]:
    """One row per patch."""
    return np.stack([one.value for one in statistics], axis=1).astype(np.float64)


def logistic_logits(
    real: Float[np.ndarray, "patch statistic"],
    simulated: Float[np.ndarray, "patch statistic"],
    tests: Sequence[Float[np.ndarray, "patch statistic"]],
) -> list[np.ndarray]:
    """Log odds that patches of ``tests`` are simulated, learnt from ``real`` and ``simulated``.

    Statistics are standardised over the training patches and cut off at four standard
    deviations; one that has no value counts as average.
    """
    from sklearn.linear_model import LogisticRegression

    known = np.concatenate([real, simulated])
    with np.errstate(invalid="ignore"):
        missing = np.isnan(known)
        number = np.maximum((~missing).sum(0), 1)
        mean = np.where(missing, 0, known).sum(0) / number
        sd = np.sqrt(np.where(missing, 0, (known - mean) ** 2).sum(0) / number)

    def standard(rows: np.ndarray) -> np.ndarray:
        return np.nan_to_num((rows - mean) / np.maximum(sd, 1e-9)).clip(-_FURTHEST, _FURTHEST)

    model = LogisticRegression(C=_PENALTY, max_iter=2000)
    model.fit(standard(known), np.repeat([0, 1], [len(real), len(simulated)]))
    return [model.decision_function(standard(rows)) for rows in tests]
