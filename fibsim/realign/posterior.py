"""From what the windows of a stack say to one estimate: how large the faults are, then where."""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy.linalg import block_diag
from scipy.optimize import OptimizeResult, minimize

from fibsim.realign.drift import DriftSize
from fibsim.realign.window import Solution, Unknowns

__all__ = ["Posterior", "combine"]

# Relative thickness jitters that are tried.
_JITTERS = np.linspace(0.0, 0.5, 51)
_LEAST_JITTER = 1e-3
# A walk is also what errors look like. It has to make a stack more likely by this much, in natural
# logarithms: on simulated stacks without a walk the gain was 3 at most, with one 20 at least.
_WALK_GAIN = 6.0
_LEAST_DRIFT_PX, _MOST_DRIFT_PX = 1e-3, 1e3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Posterior:
    """Estimate of the unknowns of a whole stack.

    Attributes:
        value, error: mean and standard deviation, in the form of `Unknowns`.
        jitter: mean of the relative thickness jitter, the part that is not error.
        jitter_range: its central 95 %.
        drift: size of the displacements (y, x), likewise.
    """

    value: Float[np.ndarray, " size"]
    error: Float[np.ndarray, " size"]
    jitter: float
    jitter_range: tuple[float, float]
    drift: tuple[DriftSize, DriftSize]


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

    Thickness anomalies are taken for independent draws of zero mean, displacements for such draws
    and, if that makes the stack clearly more likely, a random walk. The sizes of the displacements
    are those of highest marginal likelihood; over that of the thickness the estimate is averaged,
    weighted by the marginal likelihood, so that a stack that says little gets wide errors and not
    none.

    Args:
        solutions: first slice and solution of each window.
        slices: number of slices of the stack.
    """
    unknowns = Unknowns(slices)
    basis = unknowns.free()
    matrix, vector = _precision(solutions, slices)
    matrix, vector = basis.T @ matrix @ basis, basis.T @ vector
    root = np.linalg.cholesky(matrix + 1e-9 * np.trace(matrix) / len(matrix) * np.eye(len(matrix)))

    def solve(jitter: float, drift: tuple[DriftSize, ...]):
        """Log marginal likelihood, mean and covariance with faults of these sizes."""
        anomalies = max(jitter, _LEAST_JITTER) ** 2 * np.eye(slices - 1)
        prior = block_diag(anomalies, *(size.covariance(slices) for size in drift))
        prior = basis.T @ prior @ basis
        # I + root^T prior root has the determinants of (noise + prior) over noise.
        inner = np.eye(len(root)) + root.T @ prior @ root
        covariance = prior - prior @ root @ np.linalg.solve(inner, root.T @ prior)
        mean = covariance @ vector
        return 0.5 * (vector @ mean - np.linalg.slogdet(inner)[1]), mean, covariance

    def sizes(log: np.ndarray) -> tuple[DriftSize, DriftSize]:
        px = np.exp(np.clip(log, np.log(_LEAST_DRIFT_PX), np.log(_MOST_DRIFT_PX)))
        steps = px[2:] if len(px) == 4 else (0.0, 0.0)
        return tuple(DriftSize(sd_px=a, step_px=b) for a, b in zip(px[:2], steps, strict=True))

    def misfit(log: np.ndarray) -> float:
        return -solve(min(np.exp(log[0]), _JITTERS[-1]), sizes(log[1:]))[0]

    def largest(start: np.ndarray) -> OptimizeResult:
        """Nelder & Mead's search; their simplex spans a factor of two in every size."""
        simplex = start + np.vstack([np.zeros(len(start)), 0.7 * np.eye(len(start))])
        how = dict(initial_simplex=simplex, xatol=0.05, fatol=0.02)
        return minimize(misfit, start, method="Nelder-Mead", options=how)

    even = largest(np.log([0.1, 0.5, 0.5]))
    walk = largest(np.append(even.x, np.log([0.2, 0.2])))
    drift = sizes((walk if walk.fun < even.fun - _WALK_GAIN else even).x[1:])
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
        drift=drift,
    )
