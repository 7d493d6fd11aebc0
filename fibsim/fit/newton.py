"""A step of Gauss-Newton within bounds and limits, and what noisy slopes do to its Hessian."""

import numpy as np
from jaxtyping import Float

__all__ = [
    "bounded_solution",
    "less_noise",
    "limited_solution",
    "no_wider_than",
    "noise_in_hessian",
]


def bounded_solution(
    hessian: np.ndarray, force: np.ndarray, lowest: np.ndarray
) -> Float[np.ndarray, " unknown"]:
    """Solution of ``hessian move = force`` with ``move >= lowest``, by active sets.

    What would pass its bound is put there and the others are solved for anew: cut off alone, it
    would leave them where they make up for the rest of its way.
    """
    move, inside = np.zeros_like(force), np.ones(len(force), bool)
    while inside.any():
        rest = (force - hessian[:, ~inside] @ move[~inside])[inside]
        move[inside] = np.linalg.solve(hessian[np.ix_(inside, inside)], rest)
        below = inside & (move < lowest)
        if not below.any():
            break
        move[below] = lowest[below]
        inside &= ~below
    return move


def limited_solution(
    hessian: np.ndarray, force: np.ndarray, lowest: np.ndarray, limit: np.ndarray
) -> Float[np.ndarray, " unknown"]:
    """`bounded_solution` with no move beyond its limit, by damping (Marquardt 1963, doi
    10.1137/0111030): ``(H + d diag(limit^-2)) move = force`` with the least d that does.

    What wants to move far is mostly what the moments hardly determine; the same step shortened as
    a whole would stop all others with it.
    """

    def solve(damping: float) -> np.ndarray:
        return bounded_solution(hessian + np.diag(damping / limit**2), force, lowest)

    def too_far(move: np.ndarray) -> bool:
        return bool(np.max(np.abs(move) / limit) > 1)

    move = solve(0.0)
    if not too_far(move):
        return move
    low, high = 1e-6, 1.0
    while too_far(solve(high)):
        high *= 10
    for _ in range(30):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if too_far(solve(middle)) else (low, middle)
    return solve(high)


def noise_in_hessian(
    slopes: list[Float[np.ndarray, "simulation moment unknown"]],
    weight: Float[np.ndarray, " moment"],
) -> Float[np.ndarray, "unknown unknown"]:
    """What the noise E of the mean of all these slopes adds to ``J' W J``: ``<E' W E>``.

    Args:
        slopes: of rounds, each from its own simulations; the scatter within rounds counts. One
            simulation a round shows none, and 0 is returned.
        weight: diagonal of W.
    """
    deviations = [each - each.mean(0) for each in slopes]
    total = sum(len(each) for each in slopes)
    freedom = total - len(slopes)
    scatter = sum(np.einsum("smi,m,smj->ij", d, weight, d) for d in deviations)
    return scatter / (max(freedom, 1) * total)


def _with_eigenvalues(
    matrix: np.ndarray, unit: np.ndarray, least: float, most: float
) -> Float[np.ndarray, "unknown unknown"]:
    """The matrix with its eigenvalues, in these units, moved into a range."""
    value, vector = np.linalg.eigh(matrix / unit)
    return (vector * np.clip(value, least, most)) @ vector.T * unit


def less_noise(
    hessian: Float[np.ndarray, "unknown unknown"],
    noise: Float[np.ndarray, "unknown unknown"],
    prior_sd: Float[np.ndarray, " unknown"],
) -> Float[np.ndarray, "unknown unknown"]:
    """``hessian - noise``, and nowhere less than the prior's precision."""
    return _with_eigenvalues(hessian - noise, 1 / np.outer(prior_sd, prior_sd), 1.0, np.inf)


def no_wider_than(
    prior_sd: Float[np.ndarray, " unknown"], covariance: Float[np.ndarray, "unknown unknown"]
) -> Float[np.ndarray, "unknown unknown"]:
    """The covariance, and nowhere more than the prior's.

    No recording makes an unknown worse known than it was. Where slopes are mostly noise, what is
    left of the Hessian is small but the noise still carries the moments' scatter.
    """
    return _with_eigenvalues(covariance, np.outer(prior_sd, prior_sd), -np.inf, 1.0)
