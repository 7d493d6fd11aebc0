"""The end of a fit: simulated moments, Gauss-Newton, and the errors of every unknown.

With m(d) the moments of data (`fibsim.fit.moments`), mu(theta) their mean over simulations with
the unknowns theta in the free space, W = diag(S / n + T)^-1 from their covariance S over
simulated crops, the number n of recorded crops and what a good model may miss (T), and a normal
prior N(theta_0, P), the end point solves::

    J' W (m - mu(theta)) = P^-1 (theta - theta_0)          J = d mu / d theta

by damped steps with ``H = J' W J + P^-1``, halved where they lead away, in coordinates in which mu
bends little (`fibsim.fit.straight`); a size ends at zero where that asks for less. Its covariance
is that of the estimator where the model misses as much as it may, more where the misfit shows
that it misses more::

    C = B^-1 (c J' W (S / n + S / r + T) W J + P^-1) B^-1      c = max(1, misfit)

r is the number of simulations behind mu; to it comes what a bent valley of good fits strays from
the line that these slopes follow (`fibsim.fit.valley`). This is the method of simulated moments
(McFadden 1989, doi 10.2307/1913621; Gouriéroux, Monfort & Renault 1993, doi
10.1002/jae.3950080507). Weights are diagonal: the inverse of a covariance known from some dozen
simulations would follow its noise, and a model that is not quite right; the covariance C holds for
any weights. Every simulation of a sweep uses the same random numbers whatever theta is, so mu is a
smooth function; J is taken by central differences, since one simulation is cheap and the moments
are many. From a few simulations J has noise E, and J' W J is larger than the slope of the equation
above by E' W E on average: what the data hardly determine would look determined. B is H less that,
as the scatter of J between simulations gives it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jaxtyping import Float

from fibsim.fit.flat import Flat, flatten_free
from fibsim.fit.newton import less_noise, limited_solution, no_wider_than, noise_in_hessian
from fibsim.fit.straight import Straight
from fibsim.fit.unknowns import SPECIMEN_PREFIX, Unknown
from fibsim.fit.valley import CALLS_PER_DRAW, bend_of_valley

__all__ = ["Refinement", "RefineSettings", "refine"]

# Largest moves, in standard errors, after which a round ends, and after which no other is needed.
_SMALL, _NEAR = 0.15, 0.5
# How often a step is halved that leads to where simulations are not finite, or farther away; the
# distance may rise by so much, since slopes with noise do not end where it is least.
_HALVINGS, _SLACK = 3, 1.0
# So many rounds in turn that bring nothing are the last.
_IDLE_ROUNDS = 2
# So many first rounds are of a part of the simulations, if as many others follow.
_ROUGH_ROUNDS = 2
_PARTS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefineSettings:
    """How long the end of a fit may take.

    Attributes:
        rounds: how often slopes are taken anew, at most; four or five where a fit starts near its
            end. Some unknowns bend: an amplifier's noise that is a small part of the whole has a
            small slope, but not where the fit starts.
        steps: Gauss-Newton steps with the same slopes, at most.
        simulations: crops that are simulated for the mean and covariance of moments; a third of
            them in the first two of four or more rounds, which are far from the end, and for what
            the steps within a round change.
        slope_simulations: crops that are simulated per side of each difference quotient; one in
            those two rounds. As many are simulated at each step along the valley.
        draws: from the distribution of errors, which are followed along the valley.
    """

    rounds: int = 8
    steps: int = 3
    simulations: int = 40
    slope_simulations: int = 2
    draws: int = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refinement:
    """End point of a fit, with its errors, in the free space.

    Attributes:
        free: the unknowns.
        flat: their order in what follows.
        covariance: ``(unknown, unknown)``.
        determined: how much the data say, 1 - (error / prior's)^2; 0 where they say nothing.
        converged: whether the last step was small against the standard errors (0.3), and the
            first with the last slopes, too (1).
        misfit: mean square of the moments' deviations, in units of that of simulated stacks; near
            1 where the model describes the recording.
        deviations: (recorded - simulated) / expected error of every moment.
        steps: largest move of each step, in standard errors.
        last_moved: the unknown that moved most in the last step.
        slopes: J; ``(moment, unknown)``.
    """

    free: dict[str, jax.Array]
    flat: Flat
    covariance: Float[np.ndarray, "unknown unknown"]
    determined: Float[np.ndarray, " unknown"]
    converged: bool
    misfit: float
    deviations: Float[np.ndarray, " moment"]
    steps: list[float]
    last_moved: str
    slopes: Float[np.ndarray, "moment unknown"]

    @property
    def standard_errors(self) -> Float[np.ndarray, " unknown"]:
        return np.sqrt(np.diag(self.covariance))

    @property
    def correlation(self) -> Float[np.ndarray, "unknown unknown"]:
        error = self.standard_errors
        return self.covariance / np.outer(error, error)


def _variance(samples: Float[np.ndarray, "sample moment"]) -> Float[np.ndarray, " moment"]:
    """Of every moment, and of one that never changes hardly more than 0: it is divided by."""
    return samples.var(0, ddof=1) + 1e-24


def _step_sizes(flat: Flat) -> np.ndarray:
    """Half widths of difference quotients: small against curvature, large against rounding.

    A crop's own features move in and out of it with their size, which says nothing of the
    specimen's: the wider the step, the less of that is in the slope. From 0.05 to 0.1 its variance
    falls to a half for ligaments of 25 nm in crops of 512, and the slope changes by 5 %; with 0.2,
    a fifth and 6 %, steps are too far from the moments' own slope to end quickly.
    """
    of_specimen = [name.startswith(SPECIMEN_PREFIX) for name in flat.names]
    return np.minimum(0.25 * flat.prior_sd, np.where(of_specimen, 0.1, 0.05))


def _slopes(simulate, flat: Flat, at: np.ndarray, keys, report) -> np.ndarray:
    """Of every simulation; ``(simulation, moment, unknown)``."""
    columns = []
    for i, half in enumerate(_step_sizes(flat)):
        ends, places = [], []
        for sign in (1, -1):
            moved = at.copy()
            moved[i] = max(at[i] + sign * half, flat.lowest[i])
            places.append(moved[i])
            ends.append(np.asarray(simulate(flat.split(moved), keys), float))
        slope = (ends[0] - ends[1]) / (places[0] - places[1])
        # Of what is not finite beside the place, nothing is known.
        columns.append(np.where(np.isfinite(slope), slope, 0.0))
        report()
    return np.stack(columns, axis=-1)


def refine(
    simulate: Callable[[dict[str, jax.Array], jax.Array], jax.Array],
    recorded: Float[np.ndarray, " moment"],
    *,
    crops: float,
    tolerance: Float[np.ndarray, " moment"],
    start: Mapping[str, jax.Array],
    origin: Mapping[str, jax.Array],
    unknowns: Mapping[str, Unknown],
    key: jax.Array,
    settings: RefineSettings,
    progress: Callable[[int, int, str], None] | None = None,
) -> Refinement:
    """Improve ``start`` by Gauss-Newton steps, and state errors; see the module docstring.

    Args:
        simulate: (free variables, keys) -> moments of one crop per key; ``(key, moment)``.
        recorded: moments of the recorded stack, the mean over its crops.
        crops: how many independent crops those are the mean of.
        tolerance: what a good model may miss of each moment.
        origin: the prior's centre.
        progress: called with (simulated batches, batches at most, text).
    """
    flat = flatten_free(start, unknowns)
    first = np.maximum(flat.join(start), flat.lowest)
    line = Straight(flat=flat, start=first, origin=flat.join(origin))
    # From here on all is in straight coordinates.
    at, centre = line.to(first), line.to(line.origin)
    prior_sd, lowest = line.prior_sd, line.lowest
    precision = np.diag(1 / prior_sd**2)
    key_mean, key_slope, key_test = jax.random.split(key, 3)
    mean_keys = jax.random.split(key_mean, settings.simulations)
    few_keys = mean_keys[: -(-len(mean_keys) // _PARTS)]
    total = settings.rounds * (settings.steps + len(at)) + 1 + CALLS_PER_DRAW * settings.draws
    done = 0

    def report(text: str = "slopes") -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(min(done, total), total, text)

    def sweep(vector, keys):
        return np.asarray(simulate(flat.split(line.back(vector)), keys), float)

    def sweep_from(start, vector):
        """Like ``sweep``, but of few keys: all change by what these do from the samples ``start``
        of the round's start. With the same random numbers, little else does."""
        return start + (sweep(vector, few_keys) - start[: len(few_keys)]).mean(0)

    def distance(vector, samples):
        """What the steps are to lessen: ``(m - mu)' W (m - mu)`` and the prior's term."""
        missing = recorded - samples.mean(0)
        return missing @ (weight * missing) + np.sum(((vector - centre) / prior_sd) ** 2)

    def near(vector, before, sample, most):
        """Where simulations are finite and no farther than ``most``: at a vector, or on the way
        back to the one before."""
        for _ in range(_HALVINGS):
            samples = sample(vector)
            if np.all(np.isfinite(samples)) and distance(vector, samples) < most:
                return vector, samples
            vector = (vector + before) / 2
        return before, sample(before)

    before, is_size = at, np.isfinite(flat.lowest)
    rough_rounds = max(min(_ROUGH_ROUNDS, settings.rounds - _ROUGH_ROUNDS), 0)
    weight, most = np.ones_like(recorded), np.inf
    moves: list[float] = []
    last_moved = ""
    found: list[np.ndarray] = []
    distances: list[float] = []
    for turn in range(settings.rounds):
        rough = turn < rough_rounds
        several = few_keys if rough else mean_keys
        if turn == rough_rounds:
            most = np.inf  # distances are compared with the same random numbers only
        at, samples = near(at, before, functools.partial(sweep, keys=several), most)
        nearby = functools.partial(sweep_from, samples)
        report("slopes")
        if turn < 3:
            sampling = _variance(samples) * (1 / crops + 1 / len(several))
            weight = 1 / (sampling + tolerance**2)
        distances.append(distance(at, samples))
        # Those of the first rounds are of other weights.
        recent = np.diff(distances[2:])[-_IDLE_ROUNDS:]
        if len(recent) == _IDLE_ROUNDS and np.all(recent > -_SLACK):
            break
        # Slopes and weights stay fixed for the steps of a round, or the end point would move
        # with them; and once near it, weights stay and slopes are averaged, against their noise.
        few = 1 if rough else settings.slope_simulations
        keys = jax.random.split(jax.random.fold_in(key_slope, turn), few)
        found.append(_slopes(simulate, flat, line.back(at), keys, report) / line.slope(at))
        averaged = found[2:] or found[-1:]
        slopes = np.concatenate(averaged).mean(0)
        hessian = slopes.T @ (weight[:, None] * slopes) + precision
        error = np.sqrt(np.diag(np.linalg.inv(hessian)))
        in_round = []
        for step in range(settings.steps):
            if step:
                at, samples = near(at, before, nearby, most)
                report(f"last step {moves[-1]:.1f} standard errors")
                if at is before:
                    break  # with these slopes there is no way on
            most = distance(at, samples) + _SLACK
            missing = recorded - samples.mean(0)
            force = slopes.T @ (weight * missing) - precision @ (at - centre)
            # Far from the end the slopes are not to be trusted: an unknown moves by two standard
            # errors or a quarter of the prior's at most, whichever is longer; a size by half.
            wide = flat.prior_sd * line.slope(at)
            limit = np.where(is_size, 0.5 * wide, np.maximum(2 * error, 0.25 * wide))
            move = limited_solution(hessian, force, lowest - at, limit)
            before, at = at, at + move
            relative = np.abs(move) / error
            last_moved = flat.names[int(np.argmax(relative))]
            in_round.append(float(np.max(relative)))
            moves.append(in_round[-1])
            if moves[-1] < _SMALL:
                break
        if not rough and in_round[0] < _NEAR and moves[-1] < 2 * _SMALL:
            break

    at, samples = near(at, before, functools.partial(sweep, keys=mean_keys), most)
    report("errors")
    deviation = recorded - samples.mean(0)
    share = 1 / crops + 1 / settings.simulations
    sampling = _variance(samples) * share
    expected = np.sqrt(sampling + tolerance**2)
    # Simulated recordings show what misfit is to be expected of so many, correlated moments.
    groups = max(round(min(crops, settings.simulations // 4)), 1)
    fresh = sweep(at, jax.random.split(key_test, 4 * groups)).reshape(4, groups, -1).mean(1)
    scale = np.sqrt(groups / crops)
    null = np.mean(((fresh - samples.mean(0)) * scale) ** 2 @ (1 / sampling))
    misfit = float(np.sum((deviation / expected) ** 2) / max(null, 1e-12))
    # In the unknowns' space, which has fewer numbers than there are simulations or hardly more,
    # the plain covariance is free of bias, which shrinking correlations would bring.
    forces = (samples - samples.mean(0)) * weight @ slopes
    score = share * forces.T @ forces / (len(forces) - 1)
    score += slopes.T @ (((weight * tolerance) ** 2)[:, None] * slopes)
    bent = less_noise(hessian, noise_in_hessian(averaged, weight), prior_sd)
    inverse = np.linalg.inv(bent)
    spread = inverse @ (max(1.0, misfit) * score + precision) @ inverse
    spread = no_wider_than(prior_sd, spread)
    same_keys = jax.random.split(jax.random.fold_in(key_test, 1), settings.slope_simulations)

    def moments(vector):
        report("along the valley")
        return sweep(vector, same_keys).mean(0)

    spread += bend_of_valley(
        moments,
        at,
        slopes,
        spread,
        weight=weight,
        prior_sd=prior_sd,
        lowest=lowest,
        draws=settings.draws,
        seed=0,
    )
    spread = no_wider_than(prior_sd, spread)
    per_free = 1 / line.slope(at)
    return Refinement(
        free=flat.split(line.back(at)),
        flat=flat,
        covariance=spread * np.outer(per_free, per_free),
        determined=np.clip(1 - np.diag(spread) / prior_sd**2, 0, 1),
        converged=bool(moves[-1] < 2 * _SMALL and in_round[0] < 2 * _NEAR),
        misfit=misfit,
        deviations=deviation / expected,
        steps=moves,
        last_moved=last_moved,
        slopes=slopes / per_free,
    )
