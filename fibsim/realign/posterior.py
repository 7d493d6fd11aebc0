"""From what the windows of a stack say to one estimate: how large the faults are, then where."""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from fibsim.realign.window import Solution, Unknowns

__all__ = ["Posterior", "combine"]

# Relative thickness jitters that are tried.
_JITTERS = np.linspace(0.0, 0.5, 51)
_LEAST_JITTER = 1e-3
_LEAST_DRIFT_PX, _MOST_DRIFT_PX = 1e-3, 1e3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Posterior:
    """Estimate of the unknowns of a whole stack.

    Attributes:
        value, error: mean and standard deviation, in the form of `Unknowns`.
        jitter: mean of the relative thickness jitter, the part that is not error.
        jitter_range: its central 95 %.
        drift_px: standard deviation of the displacements (y, x), likewise.
    """

    value: Float[np.ndarray, " size"]
    error: Float[np.ndarray, " size"]
    jitter: float
    jitter_range: tuple[float, float]
    drift_px: tuple[float, float]


def _precision(solutions: list[tuple[int, Solution]], slices: int) -> tuple[np.ndarray, np.ndarray]:
    """Inverse covariance of the whole stack's unknowns, and its product with their value."""
    whole = Unknowns(slices)
    matrix, vector = np.zeros((whole.size, whole.size)), np.zeros(whole.size)
    for first, solution in solutions:
        part = Unknowns((len(solution.value) + 1) // 3)
        starts = [first + block.start for block in whole.blocks]
        sizes = [block.stop - block.start for block in part.blocks]
        index = np.concatenate([np.arange(n) + at for n, at in zip(sizes, starts, strict=True)])
        basis = part.free()
        inverse = np.linalg.inv(basis.T @ solution.covariance @ basis)
        weight = basis @ inverse @ basis.T
        matrix[np.ix_(index, index)] += weight
        vector[index] += weight @ solution.value
    return matrix, vector


def combine(solutions: list[tuple[int, Solution]], slices: int) -> Posterior:
    """Put windows together under independent normal faults of unknown size.

    Thickness anomalies and displacements are taken for independent draws of zero mean. The
    standard deviations of the displacements are those of highest marginal likelihood; over that
    of the thickness the estimate is averaged, weighted by the marginal likelihood, so that a
    stack that says little gets wide errors and not none.

    Args:
        solutions: first slice and solution of each window.
        slices: number of slices of the stack.
    """
    unknowns = Unknowns(slices)
    basis = unknowns.free()
    matrix, vector = _precision(solutions, slices)
    matrix, vector = basis.T @ matrix @ basis, basis.T @ vector
    counts = [block.stop - block.start for block in unknowns.blocks]
    root = np.linalg.cholesky(matrix + 1e-9 * np.trace(matrix) / len(matrix) * np.eye(len(matrix)))

    def solve(jitter: float, drift: np.ndarray):
        """Log marginal likelihood, mean and covariance with faults of these sizes."""
        sizes = np.concatenate([[max(jitter, _LEAST_JITTER)], drift])
        prior = basis.T * np.repeat(sizes**2, counts) @ basis
        # I + root^T prior root has the determinants of (noise + prior) over noise.
        inner = np.eye(len(root)) + root.T @ prior @ root
        covariance = prior - prior @ root @ np.linalg.solve(inner, root.T @ prior)
        mean = covariance @ vector
        return 0.5 * (vector @ mean - np.linalg.slogdet(inner)[1]), mean, covariance

    def misfit(log: np.ndarray) -> float:
        sizes = np.exp(np.clip(log, np.log(_LEAST_DRIFT_PX), np.log(_MOST_DRIFT_PX)))
        return -solve(min(sizes[0], _JITTERS[-1]), sizes[1:])[0]

    start = np.log([0.1, 0.5, 0.5])
    best = minimize(misfit, start, method="Nelder-Mead", options=dict(xatol=0.02, fatol=0.01)).x
    drift = np.exp(np.clip(best[1:], np.log(_LEAST_DRIFT_PX), np.log(_MOST_DRIFT_PX)))
    tried = [solve(jitter, drift) for jitter in _JITTERS]
    weight = np.exp(np.array([t[0] for t in tried]) - max(t[0] for t in tried))
    weight /= weight.sum()
    mean = sum(w * t[1] for w, t in zip(weight, tried, strict=True))
    spread = sum(
        w * (t[2] + np.outer(t[1] - mean, t[1] - mean)) for w, t in zip(weight, tried, strict=True)
    )
    low, high = np.interp([0.025, 0.975], np.cumsum(weight), _JITTERS)
    return Posterior(
        value=basis @ mean,
        error=np.sqrt(np.maximum(np.diag(basis @ spread @ basis.T), 0.0)),
        jitter=float(weight @ _JITTERS),
        jitter_range=(float(low), float(high)),
        drift_px=(float(drift[0]), float(drift[1])),
    )
