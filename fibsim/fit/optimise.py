"""Fit the instrument and the specimen's statistics to a user's stack, without labels.

Distribution matching: random specimens of a kind are imaged by the present instrument, and the
sliced Wasserstein distance of their patches to those of the real stack is followed downhill
through the whole simulator, noise included (it is reparametrised). Fresh specimens, noise,
crops and projections are drawn at every step; the end point is the mean of the last quarter of
the path. A weak prior keeps what the stack does not determine near its textbook value.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fibsim.errors import InputError
from fibsim.fit.first_guess import WHITE, grey_levels, guess_feature_nm, guess_tilt_deg, noise_sd
from fibsim.fit.statistics import patch_filters, patch_responses, sliced_wasserstein
from fibsim.fit.unknowns import (
    Unknown,
    apply_unknowns,
    default_unknowns,
    log_prior,
    specimen_unknowns,
    start_point,
)
from fibsim.instrument import Instrument
from fibsim.materials import VACUUM
from fibsim.presets import make_instrument
from fibsim.simulate import Sample, sample_stack
from fibsim.specimens import KINDS, draw
from fibsim.specimens.specimen import Specimen
from fibsim.stack import Stack

__all__ = [
    "FitResult",
    "FitSettings",
    "check_fittable",
    "draw_sample",
    "fit_instrument",
    "slices_below",
]

_HELD_OUT_PAIRS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How long and on how much of the stack a fit runs.

    Attributes:
        steps: optimiser steps.
        learning_rate: of Adam in the free space, falling to a tenth on a cosine.
        crop_px: side of the square crops that are compared.
        crop_slices: their depth in slices.
        sublayers: simulated layers per slice.
        below_slices: simulated slices below the last one compared; by `slices_below` if None.
        prior_weight: weight of the log prior beside the distance (which is near 0.02-0.5).
    """

    steps: int = 250
    learning_rate: float = 0.05
    crop_px: int = 96
    crop_slices: int = 12
    sublayers: int = 3
    below_slices: int | None = None
    prior_weight: float = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitResult:
    """What a fit found, and what it started from.

    Attributes:
        instrument, specimen: fitted; ``specimen`` holds the generator's parameters.
        kind: specimen generator.
        start_instrument, start_specimen: values after matching mean and contrast only.
        default_distance: held-out distance of the untouched textbook instrument.
        start_distance, fitted_distance: the same for the start and for the fit.
        real_distance: the same between two halves of the real crops, the floor of all these.
        loss: objective along the path.
    """

    instrument: Instrument
    specimen: dict[str, float]
    kind: str
    start_instrument: Instrument
    start_specimen: dict[str, float]
    default_distance: float
    start_distance: float
    fitted_distance: float
    real_distance: float
    loss: np.ndarray


def slices_below(specimen: Mapping[str, float], slice_nm: float) -> int:
    """Slices that a simulation needs below its last face: 1.75 times the largest feature.

    That deep, light from a pore's floor is a small part of the signal. Between 4 and 20.
    """
    largest = max((float(v) for name, v in specimen.items() if name.endswith("_nm")), default=0.0)
    return int(np.clip(np.ceil(1.75 * largest / slice_nm), 4, 20))


def draw_sample(
    instrument: Instrument,
    specimen: Mapping[str, jax.Array],
    *,
    key: jax.Array,
    kind: str,
    shape: tuple[int, int, int],
    slice_nm: float,
    pixel_nm: float,
    sublayers: int,
    below_slices: int,
) -> Sample:
    """Draw a random periodic specimen of a kind and record it; traceable in all parameters.

    Args:
        shape: (slice, y, x) of the stack.
        slice_nm, pixel_nm: the grid, static (equal to the instrument's nominal geometry).
    """
    key_specimen, key_stack = jax.random.split(key)
    layers = (shape[0] + below_slices) * sublayers
    voxel_nm = (slice_nm / sublayers, pixel_nm, pixel_nm)
    # A stack is a small window of a large specimen, whose own fraction fluctuates.
    window = {"exact": False} if "exact" in KINDS[kind].options else {}
    solid = draw(
        kind,
        key=key_specimen,
        shape=(layers, *shape[1:]),
        voxel_nm=voxel_nm,
        **specimen,
        **window,
    )
    return sample_stack(
        Specimen(solid=solid, voxel_nm=voxel_nm, periodic=True),
        instrument,
        key=key_stack,
        num_slices=shape[0],
        sublayers=sublayers,
        below_slices=below_slices,
    )


def first_instrument(stack: Stack) -> Instrument:
    """Textbook instrument of the stack's channels and geometry; a guessed tilt if none is given."""
    tilt = stack.tilt_deg
    if tilt is None:
        tilt = guess_tilt_deg(grey_levels(stack), stack.pixel_nm, stack.slice_nm)
    return make_instrument(
        beam_kev=[c.beam_kev for c in stack.channels],
        detectors=[c.detector for c in stack.channels],
        pixel_nm=stack.pixel_nm,
        slice_nm=stack.slice_nm,
        tilt_deg=tilt,
        solid=stack.material or "Au",
        other_phases=() if stack.pores in (None, VACUUM) else (stack.pores,),
        white_level=WHITE,
    )


def check_fittable(stack: Stack, kind: str | None = None) -> None:
    """Refuse, before any long work, a stack that a fit could not use.

    Raises:
        InputError: unknown material or specimen kind, a number of channels, voltage or geometry
            out of range, or images too small.
    """
    kind = kind or stack.specimen
    if kind is not None and kind not in KINDS:
        raise InputError(f"specimen kind {kind!r} is unknown; expected one of {', '.join(KINDS)}.")
    first_instrument(stack)
    _split(stack.images, FitSettings())


def match_contrast(instrument: Instrument, grey: np.ndarray, expected: np.ndarray) -> Instrument:
    """Set gain, offset and noise so that mean, contrast and noise per channel are the stack's.

    ``expected`` is a noise-free simulation by ``instrument``. Half of the measured noise
    variance is given to counting, half to the amplifier.
    """
    noise = noise_sd(grey)
    axes = (1, 2, 3)
    contrast = np.sqrt(np.maximum(grey.var(axes) - noise**2, 0.05 * grey.var(axes)))
    factor = contrast / np.maximum(expected.std(axes), 1e-3)
    detector = instrument.detector
    gain = np.asarray(detector.gain) * factor
    signal = (expected.mean(axes) - np.asarray(detector.offset)) * factor
    half = np.maximum(noise**2, 0.25) / 2
    return dataclasses.replace(
        instrument,
        detector=dataclasses.replace(
            detector,
            gain=jnp.asarray(gain, float),
            offset=jnp.asarray(grey.mean(axes) - signal, float),
        ),
        noise=dataclasses.replace(
            instrument.noise,
            dose_electrons=jnp.asarray(gain * np.maximum(signal, 1.0) / half, float),
            read_grey=jnp.asarray(np.sqrt(half), float),
        ),
    )


@dataclasses.dataclass(frozen=True)
class _Part:
    """A part of the stack to take crops from.

    Attributes:
        grey: ``(channel, slice, y, x)``.
        starts: first slices that a crop may have.
    """

    grey: np.ndarray
    starts: np.ndarray


def _split(grey: np.ndarray, settings: FitSettings) -> tuple[_Part, _Part, tuple[int, int, int]]:
    """Fitted part, held-out part, and the shape of the crops taken from both.

    Held out are the middle quarter of the slices or, of fewer than 16 slices, the right third
    of the columns: the ends of a stack may differ (ground, coating), its middle stands for it.
    """
    slices, y, x = grey.shape[1:]
    along_z = slices >= 16
    if along_z:
        low, high = 3 * slices // 8, 5 * slices // 8
        depth = min(settings.crop_slices, low, high - low)
        starts = np.arange(slices - depth + 1)
        inside = (starts >= low) & (starts + depth <= high)
        outside = (starts + depth <= low) | (starts >= high)
        parts = _Part(grey, starts[outside]), _Part(grey, starts[inside])
        side = min(settings.crop_px, y, x)
    else:
        cut, zero, depth = x - x // 3, np.zeros(1, int), min(slices, settings.crop_slices)
        zero = np.arange(slices - depth + 1)
        parts = _Part(grey[..., :cut], zero), _Part(grey[..., cut:], zero)
        side = min(settings.crop_px, y, x // 3)
    side -= side % 2
    if side < 20:
        raise InputError(
            f"the images are {y} x {x} pixels; the fit needs at least 64 x 64, so record or crop "
            "a larger field."
        )
    return (*parts, (depth, side, side))


@functools.partial(jax.jit, static_argnums=2)
def _patch_distance(real: jax.Array, other: jax.Array, depth: int, key: jax.Array) -> jax.Array:
    """Mean sliced Wasserstein distance of the patches of two crops ``(channel, slice, y, x)``."""
    filters = patch_filters(key=key, channels=real.shape[0], depth=depth)
    responses = (patch_responses(crop, filters) for crop in (real, other))
    return jnp.mean(sliced_wasserstein(*responses))


@functools.partial(jax.jit, static_argnums=2)
def _random_crop(
    grey: jax.Array, starts: jax.Array, shape: tuple[int, int, int], key: jax.Array
) -> jax.Array:
    key_slice, key_corner = jax.random.split(key)
    first = jax.random.choice(key_slice, starts)
    limits = jnp.asarray([g - s + 1 for g, s in zip(grey.shape[2:], shape[1:], strict=True)])
    corner = jax.random.randint(key_corner, (2,), 0, limits)
    start = (0, first, corner[0], corner[1])
    return jax.lax.dynamic_slice(grey, start, (grey.shape[0], *shape))


@dataclasses.dataclass(frozen=True)
class _Problem:
    """The static side of one fit, so that jit sees only arrays; compared by value."""

    channels: int
    kind: str
    settings: FitSettings
    shape: tuple[int, int, int]
    slice_nm: float
    pixel_nm: float

    @property
    def depth(self) -> int:
        """Slices in a patch."""
        return min(3, self.shape[0])

    @functools.partial(jax.jit, static_argnums=0)
    def simulate(self, instrument, specimen, key) -> Sample:
        return draw_sample(
            instrument,
            specimen,
            key=key,
            kind=self.kind,
            shape=self.shape,
            slice_nm=self.slice_nm,
            pixel_nm=self.pixel_nm,
            sublayers=self.settings.sublayers,
            below_slices=self.settings.below_slices,
        )

    def distance(self, instrument, specimen, real_crop, key):
        """Mean sliced Wasserstein distance of one simulated to one real crop."""
        key_filters, key_sample = jax.random.split(key)
        simulated = self.simulate(instrument, specimen, key_sample).images
        return _patch_distance(real_crop, simulated, self.depth, key_filters)

    def held_out_distance(self, instrument, specimen, held, starts, key) -> float:
        """Mean over pairs of held-out crops and simulations, with keys of their own."""
        found = []
        for one in jax.random.split(key, _HELD_OUT_PAIRS):
            crop, filters, sample = jax.random.split(one, 3)
            real = _random_crop(held, starts, self.shape, crop)
            simulated = self.simulate(instrument, specimen, sample).images
            found.append(_patch_distance(real, simulated, self.depth, filters))
        return float(np.mean(found))

    def real_distance(self, fitted, fitted_starts, held, held_starts, key) -> float:
        """The same between crops of the fitted and of the held-out part."""
        found = []
        for one in jax.random.split(key, _HELD_OUT_PAIRS):
            a, b, filters = jax.random.split(one, 3)
            real = _random_crop(held, held_starts, self.shape, a)
            other = _random_crop(fitted, fitted_starts, self.shape, b)
            found.append(_patch_distance(real, other, self.depth, filters))
        return float(np.mean(found))


def fit_instrument(
    stack: Stack,
    *,
    key: jax.Array,
    kind: str = "waves",
    start: Instrument | None = None,
    unknowns: Mapping[str, Unknown] | None = None,
    settings: FitSettings | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> FitResult:
    """Fit instrument and specimen statistics to a stack by distribution matching.

    Minimises ``mean_f W1(f * real, f * simulated) / sd - prior_weight log prior`` over the free
    leaves, with ``f`` random patch filters (`fibsim.fit.statistics`).

    Args:
        stack: the user's stack. Grey values are scaled to 0..255 (`grey_levels`), and gain,
            offset and noise of the result are in these units.
        kind: specimen generator, a name in `fibsim.specimens.KINDS`.
        start: instrument to start from; textbook values of the stack's channels if not given.
        unknowns: which leaves are free; `default_unknowns` if not given.
        progress: called with (step, steps, loss).

    Raises:
        InputError: unknown generator, or images too small.
    """
    settings = settings or FitSettings()
    check_fittable(stack, kind)
    grey = grey_levels(stack)
    part, held, shape = _split(grey, settings)
    guess = KINDS[kind].guess(guess_feature_nm(grey, stack.pixel_nm))
    below = settings.below_slices
    if below is None:
        below = slices_below(guess, stack.slice_nm)
    settings = dataclasses.replace(settings, below_slices=below)
    problem = _Problem(
        stack.num_channels, kind, settings, shape, float(stack.slice_nm), float(stack.pixel_nm)
    )
    key_start, key_held, key_path = jax.random.split(key, 3)

    default = start if start is not None else first_instrument(stack)
    specimen = {name: jnp.asarray(value, float) for name, value in guess.items()}
    first = np.asarray(problem.simulate(default, specimen, key_start).expected)
    matched = match_contrast(default, grey, first)

    if unknowns is None:
        unknowns = default_unknowns(tilt_known=stack.tilt_deg is not None)
        unknowns |= specimen_unknowns(specimen)
    origin = start_point(matched, specimen, unknowns)
    real, starts = jnp.asarray(part.grey), jnp.asarray(part.starts)

    def objective(free, key):
        key_crop, key_distance = jax.random.split(key)
        instrument, parameters = apply_unknowns(free, matched, specimen, unknowns)
        crop = _random_crop(real, starts, shape, key_crop)
        distance = problem.distance(instrument, parameters, crop, key_distance)
        return distance - settings.prior_weight * log_prior(free, origin, unknowns)

    schedule = optax.cosine_decay_schedule(settings.learning_rate, settings.steps, alpha=0.1)
    # A single unlucky draw must not throw the path: the step is limited.
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.98))

    @jax.jit
    def step(free, state, key):
        loss, gradient = jax.value_and_grad(objective)(free, key)
        gradient = jax.tree.map(jnp.nan_to_num, gradient)
        update, state = optimiser.update(gradient, state, free)
        return optax.apply_updates(free, update), state, loss

    free, state = origin, optimiser.init(origin)
    tail = settings.steps - max(settings.steps // 4, 1)
    mean, losses = jax.tree.map(jnp.zeros_like, origin), []
    for i in range(settings.steps):
        free, state, loss = step(free, state, jax.random.fold_in(key_path, i))
        losses.append(float(loss))
        if i >= tail:
            mean = jax.tree.map(lambda m, f: m + f / (settings.steps - tail), mean, free)
        if progress is not None:
            progress(i + 1, settings.steps, losses[-1])
    if not np.all(np.isfinite(losses)):
        raise InputError(
            "the fit did not stay finite; check the voltages, the pixel size and the material "
            "given for this stack."
        )
    instrument, parameters = apply_unknowns(mean, matched, specimen, unknowns)

    held_args = jnp.asarray(held.grey), jnp.asarray(held.starts)

    def held_out(which, what):
        return problem.held_out_distance(which, what, *held_args, key_held)

    return FitResult(
        instrument=instrument,
        specimen={k: float(v) for k, v in parameters.items()},
        kind=kind,
        start_instrument=matched,
        start_specimen={k: float(v) for k, v in specimen.items()},
        default_distance=held_out(default, specimen),
        start_distance=held_out(matched, specimen),
        fitted_distance=held_out(instrument, parameters),
        real_distance=problem.real_distance(real, starts, *held_args, key_held),
        loss=np.asarray(losses),
    )
