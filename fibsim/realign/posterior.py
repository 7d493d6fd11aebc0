"""From what the windows of a stack say to one estimate: how large the faults are, then where."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy.linalg import block_diag, cho_factor, cho_solve
from scipy.optimize import OptimizeResult, minimize

from fibsim.realign.drift import DriftSize
from fibsim.realign.window import Solution, Unknowns

__all__ = ["Posterior", "combine"]

# Relative thickness jitters that are tried.
_JITTERS = np.linspace(0.0, 0.5, 51)
_LEAST_JITTER = 1e-3
# Jitters less likely than this part of the likeliest are left out of the average.
_LEAST_WEIGHT = 1e-3
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


class _System:
    """Normal equations of some slices in what images can determine: precision, and its product
    with the estimate."""

    def __init__(self, matrix: np.ndarray, vector: np.ndarray, slices: int):
        self.slices = slices
        self.basis = Unknowns(slices).free()
        matrix, self.vector = self.basis.T @ matrix @ self.basis, self.basis.T @ vector
        ridge = 1e-9 * np.trace(matrix) / len(matrix)
        self.root = np.linalg.cholesky(matrix + ridge * np.eye(len(matrix)))

    def _prior(self, jitter: float, drift: Sequence[DriftSize]) -> np.ndarray:
        anomalies = max(jitter, _LEAST_JITTER) ** 2 * np.eye(self.slices - 1)
        prior = block_diag(anomalies, *(size.covariance(self.slices) for size in drift))
        return self.basis.T @ prior @ self.basis

    def log_evidence(self, jitter: float, drift: Sequence[DriftSize]) -> float:
        """Logarithm of the marginal likelihood of faults of these sizes, up to a constant."""
        prior = self._prior(jitter, drift)
        # I + root^T prior root has the determinants of (noise + prior) over noise.
        inner = cho_factor(np.eye(len(prior)) + self.root.T @ prior @ self.root, lower=True)
        pulled = prior @ self.vector
        inside = self.root.T @ pulled
        gain = self.vector @ pulled - inside @ cho_solve(inner, inside)
        return 0.5 * gain - np.log(np.diag(inner[0])).sum()

    def posterior(self, jitter: float, drift: Sequence[DriftSize]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance, in the form of `Unknowns`."""
        prior = self._prior(jitter, drift)
        inner = np.eye(len(prior)) + self.root.T @ prior @ self.root
        covariance = prior - prior @ self.root @ np.linalg.solve(inner, self.root.T @ prior)
        mean = covariance @ self.vector
        return self.basis @ mean, self.basis @ covariance @ self.basis.T


def _precision(solution: Solution) -> np.ndarray:
    basis = Unknowns((len(solution.value) + 1) // 3).free()
    return basis @ np.linalg.inv(basis.T @ solution.covariance @ basis) @ basis.T


def _systems(solutions: list[tuple[int, Solution]], slices: int) -> tuple[list[_System], _System]:
    """The equations of every window, and of the whole stack."""
    whole = Unknowns(slices)
    matrix, vector = np.zeros((whole.size, whole.size)), np.zeros(whole.size)
    windows = []
    for first, solution in solutions:
        part = Unknowns((len(solution.value) + 1) // 3)
        starts = [first + block.start for block in whole.blocks]
        sizes = [block.stop - block.start for block in part.blocks]
        index = np.concatenate([np.arange(n) + at for n, at in zip(sizes, starts, strict=True)])
        weight = _precision(solution)
        windows.append(_System(weight, weight @ solution.value, part.slices))
        matrix[np.ix_(index, index)] += weight
        vector[index] += weight @ solution.value
    return windows, _System(matrix, vector, slices)


def _sizes(log_px: np.ndarray) -> tuple[DriftSize, DriftSize]:
    """From the logarithms of two standard deviations (y, x) and, if given, of two steps."""
    px = np.exp(np.clip(log_px, np.log(_LEAST_DRIFT_PX), np.log(_MOST_DRIFT_PX)))
    steps = px[2:] if len(px) == 4 else (0.0, 0.0)
    y, x = (DriftSize(sd_px=a, step_px=b) for a, b in zip(px[:2], steps, strict=True))
    return y, x


def _likeliest(misfit: Callable[[np.ndarray], float], start: np.ndarray) -> OptimizeResult:
    """Nelder & Mead's search in logarithms; their simplex spans a factor of two in every size."""
    simplex = start + np.vstack([np.zeros(len(start)), 0.7 * np.eye(len(start))])
    how = dict(initial_simplex=simplex, xatol=0.05, fatol=0.02)
    return minimize(misfit, start, method="Nelder-Mead", options=how)


def combine(solutions: list[tuple[int, Solution]], slices: int) -> Posterior:
    """Put windows together under independent normal faults of unknown size.

    Thickness anomalies are taken for independent draws of zero mean, displacements for such draws
    and, if that makes the stack clearly more likely, a random walk. The sizes of the displacements
    are those of highest marginal likelihood (MacKay 1992, doi 10.1162/neco.1992.4.3.415), that of
    the windows together; over that of the thickness the estimate is averaged, weighted by it, so
    that a stack that says little gets wide errors and not none.

    Args:
        solutions: first slice and solution of each window.
        slices: number of slices of the stack.
    """
    windows, whole = _systems(solutions, slices)
    # Slices that two windows share count once.
    share = slices / sum(window.slices for window in windows)

    def log_evidence(jitter: float, drift: Sequence[DriftSize]) -> float:
        return share * sum(window.log_evidence(jitter, drift) for window in windows)

    def misfit(log: np.ndarray) -> float:
        return -log_evidence(min(np.exp(log[0]), _JITTERS[-1]), _sizes(log[1:]))

    even = _likeliest(misfit, np.log([0.1, 0.5, 0.5]))
    walk = _likeliest(misfit, np.append(even.x, np.log([0.2, 0.2])))
    drift = _sizes((walk if walk.fun < even.fun - _WALK_GAIN else even).x[1:])

    evidence = np.array([log_evidence(jitter, drift) for jitter in _JITTERS])
    weight = np.exp(evidence - evidence.max())
    weight[weight < _LEAST_WEIGHT] = 0.0
    weight /= weight.sum()
    parts = [(w, *whole.posterior(j, drift)) for w, j in zip(weight, _JITTERS, strict=True) if w]
    mean = sum(w * one for w, one, _ in parts)
    variance = sum(w * (np.diag(spread) + (one - mean) ** 2) for w, one, spread in parts)
    low, high = np.interp([0.025, 0.975], np.cumsum(weight), _JITTERS)
    return Posterior(
        value=mean,
        error=np.sqrt(np.maximum(variance, 0.0)),
        jitter=float(weight @ _JITTERS),
        jitter_range=(float(low), float(high)),
        drift=drift,
    )
