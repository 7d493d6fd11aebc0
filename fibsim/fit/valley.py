"""How far a valley of good fits bends away from the straight line that its errors follow.

Errors of a fit come from slopes at its end: a normal distribution N(0, C) of deviations d. Where
many unknowns can make up for each other, equally good fits lie along a bent valley, and the
straight line through its floor climbs its walls: what looks well determined on the line is not.
Draws from N(0, C) are put back onto the floor, each at the least of::

    |mu(theta + x) - mu(theta) - J d|^2_W + |x - d|^2 / prior_sd^2

that is at the moments which the line predicts for d, as near to d as they allow (as in randomised
maximum likelihood: Oliver, He, Reynolds 1996, doi 10.3997/2214-4609.201406884). The steps to it
take the slopes along, updated by what each step found (Broyden 1965,
doi 10.1090/S0025-5718-1965-0198670-6), so that none needs slopes of its own. With x - d the bend,
of second order in d and so uncorrelated with it, the covariance of x is ``C + <(x - d)(x - d)'>``.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from fibsim.fit.newton import limited_solution

__all__ = ["CALLS_PER_DRAW", "bend_of_valley"]

# Steps at half of a draw, where the valley bends a quarter as much, and at all of it.
_HALF, _WHOLE = 2, 3
CALLS_PER_DRAW = _HALF + _WHOLE


def bend_of_valley(
    moments: Callable[[np.ndarray], Float[np.ndarray, " moment"]],
    at: Float[np.ndarray, " unknown"],
    slopes: Float[np.ndarray, "moment unknown"],
    covariance: Float[np.ndarray, "unknown unknown"],
    *,
    weight: Float[np.ndarray, " moment"],
    prior_sd: Float[np.ndarray, " unknown"],
    lowest: Float[np.ndarray, " unknown"],
    draws: int,
    seed: int,
) -> Float[np.ndarray, "unknown unknown"]:
    """``<(x - d)(x - d)'>`` over draws; see the module docstring.

    A draw of which the whole is not reached counts with four times the square of its half's
    bend (the bend grows with the square of the draw), and not at all if that is not reached.

    Args:
        moments: smooth function mu, with the same random numbers at every call.
        at: end of the fit.
        slopes: J there.
        covariance: C.
        weight: diagonal of W.
        prior_sd: of the unknowns, also the unit in which steps are measured.
        lowest: bounds of the unknowns.
        draws: how many; each takes up to `CALLS_PER_DRAW` calls of ``moments``.
    """
    value, vector = np.linalg.eigh(covariance / np.outer(prior_sd, prior_sd))
    root = prior_sd[:, None] * vector * np.sqrt(np.maximum(value, 0.0))
    precision = np.diag(1 / prior_sd**2)
    error = np.sqrt(np.diag(covariance))
    limit = np.maximum(2 * error, 0.25 * prior_sd)
    base = moments(at)
    # As far from the moments asked for as a draw from the posterior is on average.
    near = len(at)

    def bend_of(line: np.ndarray) -> np.ndarray | None:
        """x - d of the draw d = ``line``."""
        known, x, found = slopes, np.zeros_like(at), np.zeros_like(base)
        bend = None
        for part, steps in ((0.5, _HALF), (1.0, _WHOLE)):
            aim, asked = part * line, part * (slopes @ line)
            # Broyden's updates are of low quality far from where they were made: the best counts.
            least = near
            for _ in range(steps):
                hessian = known.T @ (weight[:, None] * known) + precision
                force = known.T @ (weight * (asked - found)) - precision @ (x - aim)
                move = limited_solution(hessian, force, lowest - at - x, limit)
                gone = moments(at + x + move) - base - found
                if not np.all(np.isfinite(gone)):
                    break
                along = move / prior_sd**2
                known = known + np.outer(gone - known @ move, along) / max(move @ along, 1e-12)
                x, found = x + move, found + gone
                off = (asked - found) @ (weight * (asked - found))
                off += np.sum(((x - aim) / prior_sd) ** 2)
                if off < least:
                    least, bend = off, (x - aim) / part**2
        return bend

    normal = np.random.default_rng(seed).normal(size=(draws, len(at)))
    bends = [bend for each in normal if (bend := bend_of(root @ each)) is not None]
    if not bends:
        return np.zeros_like(covariance)
    return np.einsum("di,dj->ij", bends, bends) / len(bends)
