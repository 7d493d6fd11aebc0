"""Fit the instrument and the specimen's statistics to a user's stack, without labels.

First a descent: random specimens of a kind are imaged by the present instrument, and a distance
of what is seen to the real stack (the sliced Wasserstein distance of their patches) is followed
downhill through the whole simulator, noise included (it is reparametrised). Fresh specimens,
noise, crops and projections are drawn at every step; the end point is the mean of the last
quarter of the path. Then `fibsim.fit.refine` matches some hundred moments of the whole stack by
Gauss-Newton steps and states the error of every unknown. A weak prior keeps what the stack does
not determine near its textbook value.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fibsim.depth_order import depth_order_warnings, depth_orders
from fibsim.errors import InputError
from fibsim.fit.crops import random_crop, split_stack
from fibsim.fit.descent import limited_adam, mean_of_last_quarter, update_by
from fibsim.fit.doubts import FEW_SLICES, image_warnings, likely_swapped, likely_tilt
from fibsim.fit.first_guess import (
    grey_levels,
    guess_feature_nm,
    guess_solid_fraction,
    guess_tilt_deg,
)
from fibsim.fit.ground import ground_depth, slices_above_ground
from fibsim.fit.moment_stage import FEWEST_PIXELS, crop_shape, prepare_moments
from fibsim.fit.problem import Problem
from fibsim.fit.refine import Refinement, RefineSettings
from fibsim.fit.resemble import Resemblance
from fibsim.fit.sharpness import OF_EDGES, match_probe, probe_widths
from fibsim.fit.simulated import slices_below
from fibsim.fit.start import (
    check_fittable,
    first_instrument,
    match_contrast,
    match_noise,
    shallowest,
    tilt_is_held,
)
from fibsim.fit.unevenness import Unevenness, unevenness
from fibsim.fit.unknowns import (
    Unknown,
    apply_unknowns,
    default_unknowns,
    log_prior,
    noise_unknowns,
    of_a_whole_stack,
    specimen_unknowns,
    start_point,
)
from fibsim.instrument import Instrument, leaves_by_name, replace_by_name
from fibsim.specimens import KINDS, Ground
from fibsim.stack import Stack
from fibsim.threads import beside

__all__ = ["FitResult", "FitSettings", "fit_instrument"]

# Prior of a solid fraction's logit around the guess.
_FRACTION_SD, _FRACTION_SD_OF_FEW = 0.7, 0.3
# Moments that lead away from the stack by more than this are not followed.
_AWAY = 1.15

Distance = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How long and on how much of the stack a fit runs.

    Attributes:
        steps: optimiser steps of the descent.
        learning_rate: of Adam in the free space, falling to a tenth on a cosine.
        crop_px: side of the square crops that are compared.
        crop_slices: their depth in slices.
        sublayers: simulated layers per slice.
        below_slices: simulated slices below the last one compared; by `slices_below` if None.
        prior_weight: weight of the log prior beside the distance (which is near 0.02-0.5).
        prior_weight_of_few: the same for so few pixels that no moments are matched: by the usual
            weight what a descent finds in them is chance (experiments/single_image_fit.py).
        refine: of the Gauss-Newton steps after the descent; None leaves them out, and with
            them all statements of uncertainty.
        find_ground: whether the depth of ground that the stack's end sees is looked for.
    """

    steps: int = 80
    learning_rate: float = 0.05
    crop_px: int = 96
    crop_slices: int = 12
    sublayers: int = 3
    below_slices: int | None = None
    prior_weight: float = 1e-3
    prior_weight_of_few: float = 0.1
    refine: RefineSettings | None = dataclasses.field(default_factory=RefineSettings)
    find_ground: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitResult:
    """What a fit found, and what it started from.

    Attributes:
        instrument, specimen: fitted; ``specimen`` holds the generator's parameters.
        kind: specimen generator.
        start_instrument, start_specimen: values after matching mean, contrast and, where no moments
            are matched, the sharpness of edges; milled evenly.
        default_distance: distance of the untouched textbook instrument to the part of the stack
            that the descent does not see.
        start_distance, descent_distance, fitted_distance: the same for the start, for the
            descent's end, and for the result (whose moments are those of the whole stack).
        real_distance: the same between two halves of the real crops, the floor of all these.
        loss: objective along the path.
        unknowns: what was free.
        refinement: end point, errors and misfit in the free space; None if left out.
        moment_names: of the numbers in ``refinement.deviations``.
        slices_used: so many slices from the first on were fitted; those below see the ground.
        ground: the dense ground that the last slices see, or None if they see none or it was not
            looked for.
        converged: whether the moments' steps came to rest near the stack; None if left out.
        undetermined: names of the instrument's numbers that are as assumed, and as uncertain: of so
            few and small images those of the interaction, of few slices an unstated tilt.
        unevenness: sizes of thickness jitter and drift, which the result's ``faults`` hold; None if
            the stack is too small to tell, or a start was given.
        warnings: sentences on what may be wrong with the stack or with what is stated of it.
        kinds: how well each kind of specimen resembles the milled faces, the closest first; empty
            if there was no choice.
    """

    instrument: Instrument
    specimen: dict[str, float]
    kind: str
    start_instrument: Instrument
    start_specimen: dict[str, float]
    default_distance: float
    start_distance: float
    descent_distance: float
    fitted_distance: float
    real_distance: float
    loss: np.ndarray
    unknowns: Mapping[str, Unknown]
    refinement: Refinement | None
    moment_names: list[str]
    slices_used: int
    ground: Ground | None
    converged: bool | None
    undetermined: tuple[str, ...] = ()
    unevenness: Unevenness | None = None
    warnings: tuple[str, ...] = ()
    kinds: tuple[Resemblance, ...] = ()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class _Given:
    """What a descent takes as given.

    Attributes:
        real, starts: grey values to take crops from, and first slices of crops.
        instrument, specimen: whose values hold but for the unknowns.
        origin: centre of the priors, in the free space.
    """

    real: jax.Array
    starts: jax.Array
    instrument: Instrument
    specimen: dict[str, jax.Array]
    origin: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Objective:
    """The static side of a descent, compared by value as `Problem`."""

    problem: Problem
    unknowns: tuple[tuple[str, Unknown], ...]
    prior_weight: float
    distance: Distance | None

    def __call__(self, free, given: _Given, key: jax.Array) -> jax.Array:
        key_crop, key_distance = jax.random.split(key)
        key_filters, key_sample = jax.random.split(key_distance)
        unknowns = dict(self.unknowns)
        instrument, parameters = apply_unknowns(free, given.instrument, given.specimen, unknowns)
        crop = random_crop(given.real, given.starts, self.problem.shape, key_crop)
        simulated = self.problem.simulate(instrument, parameters, key_sample).images
        apart = (self.distance or self.problem.distance)(crop, simulated, key_filters)
        return apart - self.prior_weight * log_prior(free, given.origin, unknowns)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_grad(self, free, given: _Given, key: jax.Array):
        return jax.value_and_grad(self)(free, given, key)


def _descend(
    objective: _Objective, given: _Given, start, key, settings: FitSettings, optimiser, progress
):
    """Follow a noisy objective downhill; the mean of the last quarter of the path, and losses."""
    if optimiser is None:
        optimiser = limited_adam(settings.learning_rate, settings.steps)
    update = update_by(optimiser)
    losses: list[float] = []

    def step(i, free, state):
        loss, gradient = objective.value_and_grad(free, given, jax.random.fold_in(key, i))
        free, state = update(gradient, state, free)
        losses.append(float(loss))
        if progress is not None:
            progress(i + 1, settings.steps, f"loss {losses[-1]:.3f}")
        return free, state

    mean = mean_of_last_quarter(start, optimiser.init(start), settings.steps, step)
    if not np.all(np.isfinite(losses)):
        raise InputError(
            "the fit did not stay finite; check the voltages, the pixel size and the material "
            "given for this stack."
        )
    return mean, np.asarray(losses)


def fit_instrument(
    stack: Stack,
    *,
    key: jax.Array,
    kind: str = "waves",
    specimen: Mapping[str, float] | None = None,
    start: Instrument | None = None,
    unknowns: Mapping[str, Unknown] | None = None,
    settings: FitSettings | None = None,
    distance: Distance | None = None,
    optimiser: optax.GradientTransformation | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> FitResult:
    """Fit instrument and specimen statistics to a stack by distribution matching.

    Minimises ``distance - prior_weight log prior`` over the free leaves, by default
    ``mean_f W1(f * real, f * simulated) / sd`` with f random patch filters
    (`fibsim.fit.statistics`), and then matches moments (`fibsim.fit.refine`).

    Args:
        stack: the user's stack. Grey values are scaled to 0..255 (`grey_levels`), and gain,
            offset and noise of the result are in these units.
        kind: specimen generator, a name in `fibsim.specimens.KINDS`.
        specimen: values of its parameters to start from, instead of those that the correlation and
            the histogram suggest. Where no moments are matched to few and small images, all but
            fractions are held at them.
        start: instrument to start from; textbook values of the stack's channels if not given. What
            is free of its contrast, noise and faults is first matched to the stack.
        unknowns: which leaves are free; `default_unknowns` if not given, of few and small images
            without those of the probe, which their edges tell (`fibsim.fit.sharpness`).
        distance: (real crop, simulated crop, key) -> a scalar, differentiable in the second;
            crops are ``(channel, slice, y, x)``. `patch_distance` if not given.
        optimiser: of the descent; Adam on a cosine, steps limited, if not given.
        progress: called with (step, steps, text), first for the descent, then for the moments.

    Raises:
        InputError: unknown generator, or images too small.
    """
    settings = settings or FitSettings()
    check_fittable(stack, kind)
    whole = grey_levels(stack)
    grey = whole[:, : slices_above_ground(whole)]
    part, held, shape = split_stack(grey, settings.crop_px, settings.crop_slices)
    solid_fraction = guess_solid_fraction(shallowest(grey, stack))
    guess = KINDS[kind].guess(guess_feature_nm(grey, stack.pixel_nm), solid_fraction)
    guess |= dict(specimen or {})
    told = [name for name in specimen or () if not name.endswith("fraction")]
    below = settings.below_slices
    if below is None:
        below = slices_below(guess, stack.slice_nm)
    problem = Problem(
        kind=kind,
        sublayers=settings.sublayers,
        below_slices=below,
        shape=shape,
        slice_nm=float(stack.slice_nm),
        pixel_nm=float(stack.pixel_nm),
    )
    key_start, key_held, key_path = jax.random.split(key, 3)

    default = start if start is not None else first_instrument(stack)
    specimen = {name: jnp.asarray(value, float) for name, value in guess.items()}
    milled = None
    with beside() as other_core:
        if start is None:
            milled = other_core.submit(
                unevenness, grey, slice_nm=stack.slice_nm, pixel_nm=stack.pixel_nm,
                tilt_deg=stack.tilt_deg,
            )  # fmt: skip
        first = problem.bare(default, specimen, key_start)
    milled = milled.result() if milled is not None else None
    matched = match_contrast(default, grey, first)

    few = stack.num_slices < FEW_SLICES and grey[0, 0].size < FEWEST_PIXELS
    # Without moments only edges tell the probe; what they tell a descent would lose again.
    by_edges = few and start is None and unknowns is None
    if unknowns is None:
        # What a few slices show could be lit pores as well as faces: the guess must count.
        sd = _FRACTION_SD_OF_FEW if stack.num_slices < FEW_SLICES else _FRACTION_SD
        unknowns = default_unknowns(tilt_known=tilt_is_held(stack))
        # Patches of 9 pixels, all that so few are compared by, do not show how large features are.
        left = {n: v for n, v in specimen.items() if not (few and n in told)}
        unknowns |= specimen_unknowns(left, fraction_sd=sd)
        if by_edges:
            unknowns = {n: u for n, u in unknowns.items() if n not in OF_EDGES}
    # What the caller holds keeps the value that it was given.
    fixed = {n: v for n, v in leaves_by_name(default).items() if n not in unknowns}
    matched = even = replace_by_name(matched, fixed)
    if by_edges:
        matched = even = match_probe(matched, problem, specimen, grey, key=key_start)
    if milled is not None:
        faults = {n: jnp.asarray(v, float) for n, v in milled.values.items()}
        matched = replace_by_name(even, faults)
    origin = start_point(matched, specimen, unknowns)
    real, starts = jnp.asarray(part.grey), jnp.asarray(part.starts)
    objective = _Objective(
        problem=problem,
        unknowns=tuple(unknowns.items()),
        prior_weight=settings.prior_weight_of_few if few else settings.prior_weight,
        distance=distance,
    )
    given = _Given(real=real, starts=starts, instrument=matched, specimen=specimen, origin=origin)
    held_args = jnp.asarray(held.grey), jnp.asarray(held.starts)

    def held_out(instrument, specimen):
        return problem.held_out_distance(instrument, specimen, *held_args, key_held)

    refines = settings.refine is not None and not few
    key_gauges, key_refine = jax.random.split(key_start)
    with beside() as other_core:
        # One core compiles the descent for most of a minute: what does not need its end goes on
        # beside it.
        doubts = stage = None
        if start is None and settings.refine is not None:
            doubts = other_core.submit(
                _doubts, problem, stack, grey, default, specimen, key_start, held_out
            )
        if refines:
            stage = other_core.submit(
                prepare_moments, problem, grey, matched, specimen, unknowns, origin,
                key=key_gauges, whole=stack.images.dtype == np.uint8,
            )  # fmt: skip
        at_default = other_core.submit(held_out, default, specimen)
        at_start = other_core.submit(held_out, even, specimen)
        floor = other_core.submit(problem.real_distance, real, starts, *held_args, key_held)
        free, losses = _descend(objective, given, origin, key_path, settings, optimiser, progress)
    free |= _noise_of(problem, free, matched, specimen, unknowns, grey, key_start)
    warnings = doubts.result() if doubts is not None else []
    before, at_descent = free, held_out(*apply_unknowns(free, matched, specimen, unknowns))
    refinement, names, fitted = None, [], at_descent
    if settings.refine is not None and few:
        warnings.append(
            "so few and small images do not determine the moments that a fit ends with: they "
            "were left out, and how electrons interact is as assumed"
            + ("; the specimen's sizes are held at those that it started with" if told else "")
            + (f"; the probe is held {_probe_of_edges(matched, stack)}" if by_edges else "")
            + "."
        )
    if stage is not None:
        moments = stage.result()
        names = moments.names
        refinement = moments.match(
            free, origin=origin, key=key_refine, settings=settings.refine, progress=progress
        )
        free = refinement.free
        fitted = held_out(*apply_unknowns(free, matched, specimen, unknowns))
        if not fitted <= _AWAY * at_descent:
            warnings.append(
                f"matching the moments led away from the stack (distance {fitted:.3f}, "
                f"{at_descent:.3f} before it); the values before it were kept."
            )
            free, fitted, refinement, names = before, at_descent, None, []
    instrument, parameters = apply_unknowns(free, matched, specimen, unknowns)
    converged = None
    if refines:
        converged = refinement is not None and refinement.converged
    ground = None
    if settings.find_ground and grey.shape[1] < whole.shape[1]:
        ground = _ground(problem, whole, grey.shape[1], instrument, parameters, key_start)
    undetermined = of_a_whole_stack(unknowns) if few else ()
    if start is None and stack.tilt_deg is None and tilt_is_held(stack):
        undetermined += ("geometry.tilt_deg",)
    return FitResult(
        instrument=instrument,
        specimen={k: float(v) for k, v in parameters.items()},
        kind=kind,
        start_instrument=even,
        start_specimen={k: float(v) for k, v in specimen.items()},
        default_distance=at_default.result(),
        start_distance=at_start.result(),
        descent_distance=at_descent,
        fitted_distance=fitted,
        real_distance=floor.result(),
        loss=losses,
        unknowns=unknowns,
        refinement=refinement,
        moment_names=names,
        slices_used=grey.shape[1],
        ground=ground,
        converged=converged,
        undetermined=undetermined,
        unevenness=milled,
        warnings=(*image_warnings(stack), *warnings),
    )


def _probe_of_edges(instrument: Instrument, stack: Stack) -> str:
    widths = [
        f"{y:.1f} nm along y and {x:.1f} nm along x ({channel.name})"
        for channel, (y, x) in zip(stack.channels, probe_widths(instrument.detector).T, strict=True)
    ]
    return "as the sharpest edges tell it, at " + ", ".join(widths)


def _noise_of(problem, free, matched, specimen, unknowns, grey, key) -> dict[str, jax.Array]:
    """Free variables of the stack's noise at the end of a descent.

    A specimen that is not of the stack's kind is made up for by noise on the way: it came out a
    third too high on images of a porous ceramic.
    """
    noise = noise_unknowns(unknowns)
    if not noise:
        return {}
    instrument, parameters = apply_unknowns(free, matched, specimen, unknowns)
    expected = problem.bare(instrument, parameters, key)
    return start_point(match_noise(instrument, grey, expected), {}, noise)


def _doubts(problem, stack, grey, default, specimen, key, held_out) -> list[str]:
    """Whether the images deny the order of the voltages, or the textbook instrument with others of
    them, or another tilt, is closer by far."""

    def apart(instrument) -> float:
        expected = problem.bare(instrument, specimen, key)
        return held_out(match_contrast(instrument, grey, expected), specimen)

    orders = depth_orders(stack)
    stated, said = apart(default), depth_order_warnings(stack, orders)
    # What the images tell by themselves they tell better than such distances do.
    told = {frozenset((order.lower, order.higher)) for order in orders if order.sure}
    swapped = {}
    for a, b in itertools.combinations(range(len(stack.channels)), 2):
        one, other = stack.channels[a], stack.channels[b]
        differ = one.beam_kev != other.beam_kev and one.detector == other.detector
        if differ and frozenset((a, b)) not in told:
            energies = np.array(default.beam_kev)
            energies[[a, b]] = energies[[b, a]]
            energies = jnp.asarray(energies)
            swapped[a, b] = apart(dataclasses.replace(default, beam_kev=energies))
    said += likely_swapped(swapped, stated, stack)
    if stack.tilt_deg is not None and stack.num_slices >= 4:
        guess = guess_tilt_deg(grey, stack.pixel_nm, stack.slice_nm)
        tilts = {}
        for tilt in {-stack.tilt_deg, guess, 0.0, 38.0}:
            if abs(tilt - stack.tilt_deg) > 8:
                geometry = dataclasses.replace(default.geometry, tilt_deg=jnp.asarray(tilt, float))
                tilts[tilt] = apart(dataclasses.replace(default, geometry=geometry))
        said += likely_tilt(tilts, stated, stack.tilt_deg)
    return said


def _ground(problem, grey, above, instrument, specimen, key) -> Ground:
    """The ground below a stack, in the fitted simulation."""
    slices, *sides = crop_shape(*grey.shape[1:])
    wide = dataclasses.replace(problem, shape=(min(slices, above), *sides))

    def simulate(depth_nm: float, seed: int) -> np.ndarray:
        sample = wide.simulate(instrument, specimen, jax.random.fold_in(key, seed), depth_nm)
        return np.asarray(sample.images)

    depth = ground_depth(grey, above, simulate, slice_nm=problem.slice_nm)
    stack_nm = problem.slice_nm * grey.shape[1]
    return Ground(depth_nm=jnp.asarray(depth), stack_nm=jnp.asarray(stack_nm))
