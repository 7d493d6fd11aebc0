"""Stage two of the fit: grey values regressed on a segmentation of the same stack.

Once a stack is segmented its specimen is known up to the segmentation's errors, and grey values
can be compared pixel by pixel, in the robust likelihood of `fibsim.fit.robust`. The unknowns are
those of the first stage, and for every slice its thickness, drift and brightness. And all
interfaces may lie further out or in by a fraction of a pixel: a fit without labels can take the
solid for thinner all around than it is and make up for it elsewhere, and a network that is trained
on it does the same; pixel by pixel the two are told apart, in part. What that leaves open (the
escape depth of secondaries also decides how far from a face's rim it is bright) the priors decide.
They should be those of the first stage: what it found comes of the same stack, and would count
twice. The search runs on random crops, so that its cost hardly grows with the stack; then slices
are gone through once more, block by block from the top, for their own numbers.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from fibsim.errors import InputError
from fibsim.fit.descent import limited_adam, mean_of_last_quarter, update_by
from fibsim.fit.faces import (
    bulge_midway,
    central_part,
    face_count,
    face_surfaces,
    level_field,
    mirrored,
)
from fibsim.fit.first_guess import grey_levels
from fibsim.fit.robust import (
    Crop,
    Known,
    RegressionSettings,
    RunPrior,
    SliceMilling,
    expected_crop,
    in_prior_sd,
    regression_objective,
    run_of,
    without_margin,
)
from fibsim.fit.sight import Sight, sight_of
from fibsim.fit.simulated import slices_below
from fibsim.fit.start import match_noise, tilt_is_held
from fibsim.fit.unknowns import (
    Unknown,
    apply_unknowns,
    default_unknowns,
    noise_unknowns,
    start_point,
)
from fibsim.instrument import Instrument
from fibsim.layers import slices_of_steps
from fibsim.milling import Milling
from fibsim.realign import MillingEstimate
from fibsim.specimens import Ground, slices_to_ground
from fibsim.stack import Stack

__all__ = [
    "ChannelResidual",
    "RegressionResult",
    "RegressionSettings",
    "moved_by",
    "regress_instrument",
    "regression_unknowns",
    "slice_weights",
    "stack_residual",
]

_OUTLIER_SD = 4.0
# Distance to the interface inside the ground: by far the largest, so that its top stays flat.
_DEEP_PX = 1e3
# Thickness and drift are never known better than this, in slices and in pixels.
_LEAST_SD = 0.02
# A median absolute deviation times this is the standard deviation of a normal distribution.
_MAD = 1.4826

_expected_crop = jax.jit(expected_crop, static_argnums=3)
_value_and_grad = jax.jit(jax.value_and_grad(regression_objective), static_argnums=3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChannelResidual:
    """How well the stack is explained, per channel; of pixels that count.

    Attributes:
        chi2: mean of ``(g - m)^2 / v``, 1 where nothing but noise is left; ``(channel,)``.
        explained: ``1 - (mean (g - m)^2 - mean v) / (var g - mean v)``, the share explained of
            the variance that is not noise.
        noise_share: ``mean v / var g``.
        outliers: share of pixels more than four standard deviations (noise and misfit) away.
        misfit_grey: robust standard deviation of what is left beyond noise, in grey values.
    """

    chi2: np.ndarray
    explained: np.ndarray
    noise_share: np.ndarray
    outliers: np.ndarray
    misfit_grey: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegressionResult:
    """What a regression found.

    Attributes:
        instrument: refitted.
        milling: each slice's thickness, drift and brightness; without curtains and lines.
        start, fitted: residuals with the given instrument and run, and in the end.
        moved: unknown -> how far it moved, in standard deviations of its prior.
        level_px: by how many pixels all interfaces of the segmentation should lie further out of
            the solid.
        weights: of each slice, see `slice_weights`.
        below_slices: steps that were rendered below a crop.
        loss: objective along the path.
    """

    instrument: Instrument
    milling: Milling
    start: ChannelResidual
    fitted: ChannelResidual
    moved: dict[str, np.ndarray]
    level_px: float
    weights: np.ndarray
    below_slices: int
    loss: np.ndarray


def slice_weights(slices: int, below: int) -> Float[np.ndarray, " slice"]:
    """1 for slices with ``below`` known ones beneath, 0 for the others.

    Where this would leave less than half of them, slices count in proportion to the known ones
    beneath instead: in a short stack a face in doubt is better than none.
    """
    beneath = np.arange(slices)[::-1]
    if 2 * (slices - below) >= slices:
        return (beneath >= below).astype(np.float32)
    return (np.minimum(beneath + 1, below) / below).astype(np.float32)


def moved_by(
    start: Instrument, end: Instrument, unknowns: Mapping[str, Unknown]
) -> dict[str, np.ndarray]:
    """Displacement of every unknown in the free space, in standard deviations of its prior."""
    before, after = start_point(start, {}, unknowns), start_point(end, {}, unknowns)
    return {name: np.asarray((after[name] - before[name]) / u.prior_sd)
            for name, u in unknowns.items()}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Field:
    """Where crops come from: the volume and the grey values, on the host."""

    probability: np.ndarray
    grey: np.ndarray
    weights: np.ndarray
    depth: int
    below: int
    side: tuple[int, int]
    ground_row: float
    reach_px: float
    sight: Sight

    def crop(self, first: int, corner: tuple[int, int]) -> Crop:
        """Faces from ``first`` on; beneath the last one the volume is mirrored, ground dense."""
        below = first + np.arange(face_count(self.depth, self.below))
        rows = mirrored(below, len(self.weights))
        y, x = (slice(c, c + s) for c, s in zip(corner, self.side, strict=True))
        # A copy of these pixels alone is read, so that the volume may be a memory map.
        part = np.asarray(self.probability[rows.min() : rows.max() + 1, y, x])
        field = level_field(part, reach_px=self.reach_px)[rows - rows.min()]
        field[below >= self.ground_row] = _DEEP_PX
        inside = slice(first, first + self.depth)
        weight = self.sight.weights(part[first - rows.min() :] > 0.5, self.weights[inside])
        return Crop(field=field, rows=rows, grey=self.grey[:, inside, y, x], weight=weight)

    @property
    def starts(self) -> np.ndarray:
        """First slices of crops in which some slice counts."""
        first = np.arange(len(self.weights) - self.depth + 1)
        return first[[self.weights[k : k + self.depth].any() for k in first]]

    def random(self, rng: np.random.Generator, first: int | None = None) -> Crop:
        limits = [n - s + 1 for n, s in zip(self.grey.shape[2:], self.side, strict=True)]
        start = int(rng.choice(self.starts)) if first is None else first
        return self.crop(start, tuple(int(rng.integers(n)) for n in limits))

    def spread(self, count: int) -> list[Crop]:
        """Crops one after the other in depth, at corners that a fixed seed draws."""
        rng = np.random.default_rng(0)
        ways = self.starts[np.linspace(0, len(self.starts) - 1, count).round().astype(int)]
        return [self.random(rng, int(first)) for first in ways]


def _checked(stack: Stack, probability: np.ndarray, instrument: Instrument, settings) -> np.ndarray:
    probability = np.asarray(probability)
    if probability.shape != stack.images.shape[1:]:
        raise InputError(
            f"the volume has shape {probability.shape} but the stack {stack.images.shape[1:]} "
            "(slice, y, x); give the segmentation of this stack."
        )
    if len(probability) < 2:
        raise InputError("the stack has a single slice; a regression needs what lies below it.")
    if instrument.num_phases > 2:
        raise InputError(
            f"the instrument names {instrument.num_phases} materials; a volume of solid and pore "
            "can be imaged with one, or with one and what fills its pores."
        )
    if instrument.num_channels != stack.num_channels:
        raise InputError(
            f"the instrument has {instrument.num_channels} channels but the stack "
            f"{stack.num_channels}; give the instrument that was fitted to this stack."
        )
    solid = float(np.mean(probability > 0.5))
    if not 0.001 < solid < 0.999:
        raise InputError(
            f"the volume is {100 * solid:.1f} % solid: without both phases there is nothing to "
            "regress on; look at the segmentation first."
        )
    return probability


def _below(surfaces: np.ndarray, fraction: np.ndarray, stack: Stack) -> int:
    """`slices_below` for the mean chord of the two phases (their geometric mean).

    So many steps are rendered. Of known slices a slice needs only as many as there are steps to
    count: what lies deeper is faint, and may be of the mirrored volume.
    """
    period = 2 * stack.pixel_nm / max(float(surfaces.mean()), 1e-6)
    solid = float(fraction.mean())
    return slices_below({"chord_nm": period * (solid * (1 - solid)) ** 0.5}, stack.slice_nm)


def regression_unknowns(*, tilt_known: bool) -> dict[str, Unknown]:
    """`default_unknowns` without the noise, for which the misfit would be taken: it is measured at
    the end."""
    table = default_unknowns(tilt_known=tilt_known)
    return {name: u for name, u in table.items() if not name.startswith("noise.")}


def _run_prior(
    slices: int, known: MillingEstimate | None, settings: RegressionSettings, dtype
) -> RunPrior:
    """What is known of the slices: of a faultless run how far one may be from it."""
    if known is None:
        values = RunPrior(
            thickness=np.ones(slices),
            thickness_sd=np.full(slices, settings.thickness_sd),
            drift=np.zeros((slices, 2)),
            drift_sd=np.full((slices, 2), settings.drift_px),
        )
    elif len(known.thickness_nm) != slices:
        raise InputError(
            f"the run has {len(known.thickness_nm)} slices but the stack {slices}; give the "
            "estimate of this stack."
        )
    else:
        values = RunPrior(
            thickness=known.thickness_nm / known.slice_nm,
            thickness_sd=np.maximum(known.thickness_se_nm / known.slice_nm, _LEAST_SD),
            drift=known.drift_nm / known.pixel_nm,
            drift_sd=np.maximum(known.drift_se_nm / known.pixel_nm, _LEAST_SD),
        )
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), values)


def _pose(stack, probability, instrument, prior, unknowns, settings, ground, run=None):
    """Where crops come from, what is given, the start, and the static side with all settings
    filled in."""
    volume = _checked(stack, probability, instrument, settings)
    grey = grey_levels(stack)
    surfaces, fraction = face_surfaces(volume)
    below = settings.below_slices
    if below is None:
        below = _below(surfaces, fraction, stack)
    slices = stack.num_slices
    below = min(below, slices - 1)
    room = [min(n, settings.crop_px + 2 * settings.margin_px) for n in grey.shape[2:]]
    margin = min(settings.margin_px, *((n - 1) // 4 for n in room))
    settings = dataclasses.replace(settings, below_slices=below, margin_px=margin)
    where = _Field(
        volume,
        grey,
        weights=slice_weights(slices, below),
        depth=min(settings.crop_slices, slices),
        below=below,
        side=tuple(room),
        ground_row=slices_to_ground(ground, stack.slice_nm),
        reach_px=stack.slice_nm / stack.pixel_nm,
        sight=sight_of(instrument, sum(slices_of_steps(below))),
    )
    field = level_field(central_part(volume), reach_px=where.reach_px)
    dtype = instrument.detector.gain.dtype
    free = {
        "unknowns": start_point(instrument, {}, unknowns),
        "slices": SliceMilling(
            thickness=jnp.zeros(slices, dtype),
            drift=jnp.zeros((slices, 2), dtype),
            brightness=jnp.zeros(slices, dtype),
        ),
        "misfit": jnp.zeros(len(grey), dtype),
        "level": jnp.zeros((), dtype),
    }
    known = Known(
        instrument=instrument,
        origin=start_point(prior or instrument, {}, unknowns),
        misfit=free["misfit"],
        surfaces=(jnp.asarray(surfaces, dtype), jnp.asarray(fraction, dtype)),
        bulge=jnp.asarray(bulge_midway(field), dtype),
        run=_run_prior(slices, run, settings, dtype),
    )
    return where, known, free, (tuple(unknowns.items()), settings)


def stack_residual(
    stack: Stack,
    solid_probability: Float[np.ndarray, "slice y x"],
    instrument: Instrument,
    *,
    milling: Milling | None = None,
    level_px: float = 0.0,
    ground: Ground | None = None,
    settings: RegressionSettings | None = None,
) -> ChannelResidual:
    """How well an instrument explains a stack whose segmentation is given, nothing fitted.

    Args:
        milling: of the run; faultless if not given. Its curtains and lines are not used.
        level_px: by how many pixels all interfaces lie further out of the solid.
        ground: dense ground below the stack, if it has one.

    Raises:
        InputError: as `regress_instrument`.
    """
    settings = settings or RegressionSettings()
    # The unknowns of a regression, so that its compiled program is used again.
    unknowns = regression_unknowns(tilt_known=tilt_is_held(stack))
    where, known, free, model = _pose(
        stack, solid_probability, instrument, None, unknowns, settings, ground
    )
    if milling is not None:
        free["slices"] = in_prior_sd(milling, known.run, instrument, settings)
    free["level"] += level_px / settings.level_px
    return _residual(free, known, where.spread(settings.score_crops), model)


def regress_instrument(
    stack: Stack,
    solid_probability: Float[np.ndarray, "slice y x"],
    instrument: Instrument,
    *,
    prior: Instrument | None = None,
    run: MillingEstimate | None = None,
    ground: Ground | None = None,
    unknowns: Mapping[str, Unknown] | None = None,
    settings: RegressionSettings | None = None,
    optimiser: optax.GradientTransformation | None = None,
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
) -> RegressionResult:
    """Refit an instrument to a stack whose segmentation is given.

    Minimises the mean robust negative log likelihood of a grey value (`fibsim.fit.robust`)
    minus ``prior_weight`` times the log priors; at the end noise is measured, as it is in
    `fibsim.fit.start.match_noise`, unless ``unknowns`` are given and it is not one of them. Slices
    with less than ``below_slices`` known ones beneath them do not count (of short stacks they count
    less, `slice_weights`): what shines through from below the last slice is unknown; the volume is
    mirrored there. Nor do pixels whose beam leaves the crop before it meets solid
    (`fibsim.fit.sight`).

    Args:
        stack: the recorded stack; grey values are scaled to 0..255 (`grey_levels`).
        solid_probability: probability of solid, or a label, at every imaged face on the stack's
            own grid. May be a memory map.
        instrument: where to start.
        prior: centre of the priors, where the first stage started; ``instrument`` if not given.
        run: thickness and drift of the slices as far as they are known (`fibsim.estimate_milling`):
            where they start, and their priors with the standard errors. Without, slices are taken
            for evenly milled but for the settings' standard deviations.
        ground: dense ground below the stack, if it has one.
        unknowns: which leaves are free; `regression_unknowns` if not given.
        optimiser: any `optax.GradientTransformation`; Adam with a clipped norm if not given.
        seed: decides the crops.
        progress: called with (step, steps, objective).

    Raises:
        InputError: a volume of another shape or of one phase only, a single slice, a run of
            other slices, an instrument of other channels or of more than two materials, or a
            regression that does not stay finite.
    """
    settings = settings or RegressionSettings()
    noise_is_held = unknowns is not None and not noise_unknowns(unknowns)
    if unknowns is None:
        unknowns = regression_unknowns(tilt_known=tilt_is_held(stack))
    where, known, free, model = _pose(
        stack, solid_probability, instrument, prior, unknowns, settings, ground, run
    )
    crops = where.spread(settings.score_crops)
    start = _residual(free, known, crops, model)
    settings, slices = model[1], stack.num_slices
    free["misfit"] = jnp.log(jnp.maximum(start.misfit_grey, 1.0)).astype(free["misfit"].dtype)
    known = dataclasses.replace(known, misfit=free["misfit"])

    ends = [min(k, slices - where.depth) for k in range(0, slices, where.depth)]
    blocks = [k for k in ends if where.weights[k : k + where.depth].any()]
    total = settings.steps + settings.slice_steps * len(blocks)
    losses: list[float] = []

    def follow(free, part, steps, optimiser, update, rng, first=None):
        """Descend in the entries ``part`` of ``free``; the mean over the path's last quarter."""
        start = {name: free[name] for name in part}

        def step(_, chosen, state):
            crop = where.random(rng, first)
            loss, gradient = _value_and_grad({**free, **chosen}, known, crop, model)
            losses.append(float(loss))
            if progress is not None:
                progress(len(losses), total, losses[-1])
            return update({name: gradient[name] for name in part}, state, chosen)

        return {**free, **mean_of_last_quarter(start, optimiser.init(start), steps, step)}

    if optimiser is None:
        optimiser = limited_adam(settings.learning_rate, settings.steps)
    rng = np.random.default_rng(seed)
    parts = ("unknowns", "slices", "misfit", "level")
    free = follow(free, parts, settings.steps, optimiser, update_by(optimiser), rng)
    # A block's residuals depend on its own slices and deeper ones: from the top down none is
    # disturbed again.
    rate = optax.cosine_decay_schedule(settings.slice_rate, max(settings.slice_steps, 1), 0.1)
    own = optax.adam(rate)
    update = update_by(own)
    for first in blocks:
        free = follow(free, ("slices",), settings.slice_steps, own, update, rng, first)
    if not np.all(np.isfinite(losses)):
        raise InputError(
            "the regression did not stay finite; look at the segmentation and at the fitted "
            "instrument first."
        )
    fitted, _ = apply_unknowns(free["unknowns"], instrument, {}, unknowns)
    if not noise_is_held:
        # In the likelihood noise and misfit only count together, and which is which is left open;
        # and noise that is kept changes with gain and gamma.
        grey, mean, _, _ = _seen_and_expected(free, known, crops, model)
        fitted = match_noise(fitted, grey, mean)
        known = dataclasses.replace(known, instrument=fitted)
        of_noise = start_point(fitted, {}, noise_unknowns(unknowns))
        free["unknowns"] = free["unknowns"] | of_noise
    return RegressionResult(
        instrument=fitted,
        milling=run_of(free["slices"], known.run, fitted, stack.images.shape[2:], settings),
        start=start,
        fitted=_residual(free, known, crops, model),
        moved=moved_by(instrument, fitted, unknowns),
        level_px=settings.level_px * float(free["level"]),
        weights=where.weights,
        below_slices=where.below,
        loss=np.asarray(losses),
    )


def _seen_and_expected(free, known, crops, model) -> tuple[np.ndarray, ...]:
    """Grey values of the crops' slices that count, their mean and variance by the model, all
    ``(channel, slice, y, x)``, and the pixels' weights."""
    values = []
    for crop in crops:
        counted = crop.weight.any((1, 2))
        images = (crop.grey, *_expected_crop(free, known, crop, model))
        grey, *expected = (np.asarray(v)[:, counted] for v in images)
        grey, weight = (without_margin(v, model[1].margin_px) for v in (grey, crop.weight[counted]))
        values.append([grey, *expected, weight])
    *images, weights = zip(*values, strict=True)
    return *(np.concatenate(v, axis=1) for v in images), np.concatenate(weights)


def _residual(free, known, crops, model) -> ChannelResidual:
    """`ChannelResidual` over crops."""
    *images, weight = _seen_and_expected(free, known, crops, model)
    counted = weight > 0
    grey, mean, noise = (v[:, counted] for v in images)
    weight = weight[counted]

    def average(values):
        return np.sum(weight * values, axis=1) / weight.sum()

    r2, v = (grey - mean) ** 2, average(noise)
    spread = average((grey - average(grey)[:, None]) ** 2)
    robust = (_MAD * np.median(np.abs(grey - mean), axis=1)) ** 2
    misfit = np.sqrt(np.maximum(robust - v, 1e-4 * robust + 1e-12))
    far = r2 > _OUTLIER_SD**2 * (noise + misfit[:, None] ** 2)
    return ChannelResidual(
        chi2=average(r2 / np.maximum(noise, 1e-6)),
        explained=1 - (average(r2) - v) / np.maximum(spread - v, 1e-6),
        noise_share=v / np.maximum(spread, 1e-6),
        outliers=average(far),
        misfit_grey=misfit,
    )
