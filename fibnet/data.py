"""Endless training data: random specimens recorded by instruments around the fitted one."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fibsim.errors import InputError
from fibsim.fit import (
    apply_unknowns,
    check_drawable,
    default_unknowns,
    draw_sample,
    slices_below,
    specimen_unknowns,
    start_point,
)
from fibsim.instrument import Instrument, allowed_range, leaves_by_name, replace_by_name
from fibsim.instrument_file import InstrumentFile, load_instrument
from fibsim.interaction import face_signal
from fibsim.specimens import KINDS, Ground, part_on_ground

__all__ = [
    "SimulatedData",
    "deep_enough",
    "Source",
    "draw_stack",
    "draw_training_stack",
    "drawn_stacks",
    "of_kind",
    "other_kinds",
    "size_like",
    "source_from_file",
    "source_of",
]

# Standard deviation of the randomisation around the fit, in the free space of the fit's
# unknowns (logarithm, logit or the unknown's own scale): a margin beyond what a fit leaves open.
_SPREAD = {
    "interaction.range_scale": 0.15,
    "interaction.se_escape_nm": 0.1,
    "interaction.se_by_bse": 0.2,
    "interaction.edge_gain": 0.25,
    "interaction.se_incidence": 0.2,
    "interaction.bse_incidence": 0.2,
    "interaction.bse_facing": 0.2,
    "interaction.wall_emission": 0.1,
    "interaction.wall_reflection": 0.15,
    "interaction.wall_transparency": 0.2,
    "interaction.return_depth": 0.2,
    "interaction.lateral_exit": 0.3,
    "detector.se_fraction": 0.3,
    "detector.gain": 0.05,
    "detector.offset": 0.2,
    "detector.probe_nm": 0.15,
    "detector.gamma": 0.03,
    "detector.astigmatism": 0.3,
    "detector.astigmatism_diagonal": 0.3,
    "faults.flicker_sd": 0.0,  # drawn below
    "faults.curtain_sd": 0.0,
    "faults.line_grey": 0.0,
    "noise.dose_electrons": 0.15,
    "noise.read_grey": 0.1,
    "noise.bunching": 0.1,
    "geometry.tilt_deg": 0.15,
}
# Of what a fit left as assumed, instead of its prior: an image is not always of the voltage that
# is stated for it, and this covers 40 % of it (experiments/recorded_ceramic.py).
_SPREAD_ASSUMED = {"interaction.range_scale": 0.6}
_SPREAD_FRACTION = 0.25  # logit of a solid fraction
_SPREAD_SIZE = 0.15  # logarithm of a length
_OTHER_KINDS = ("waves", "spheres", "fibres")
_LARGEST = (48, 128, 128)  # of stacks like the recorded one
_GROUND_SLICES = 3.0  # depth of the ground: it was found 9 slices too deep in one stack of 48

# Milling faults of a training stack are drawn uniformly between zero and these, or twice the
# fitted ones where those are larger.
_WORST_FAULTS = {
    "thickness_sd": 0.1,
    "drift_nm": 0.2,  # in pixels; multiplied by the pixel below
    "flicker_sd": 0.02,
    "curtain_sd": 0.02,
    "line_grey": 1.5,
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """What training data is drawn around.

    Attributes:
        instrument: fitted instrument.
        specimen: parameters of the specimen generator.
        kind: its name, static.
        slice_nm, pixel_nm: grid, static.
        ground: dense ground that the stack's end sees, or None.
        sd: standard deviation, in the free space of the fit's unknowns, with which training stacks
            lie around what the fit left as assumed; of all else it is what is usual.
        spread: how far training stacks lie around it, over what is usual; at 0 all are of
            exactly this instrument and specimen, whatever else is drawn.
    """

    instrument: Instrument
    specimen: dict[str, Array]
    kind: str = dataclasses.field(metadata=dict(static=True))
    slice_nm: float = dataclasses.field(metadata=dict(static=True))
    pixel_nm: float = dataclasses.field(metadata=dict(static=True))
    ground: Ground | None = None
    sd: dict[str, Array] = dataclasses.field(default_factory=dict)
    spread: Array | float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimulatedData:
    """Size of one simulated training stack (static).

    Attributes:
        slices, side_px: what is segmented.
        sublayers: layers per slice.
        below_slices: slices below the last one; `deep_enough` fills in None.
    """

    slices: int = 16
    side_px: int = 128
    sublayers: int = 3
    below_slices: int | None = None


def source_from_file(path: str | Path) -> Source:
    """What to simulate, from an instrument file with a specimen section.

    Raises:
        InputError: the file is bad, names no (known) specimen, or something as undetermined that
            no fit has as an unknown.
    """
    content = load_instrument(path)
    check_drawable(content, str(path))
    known = default_unknowns(tilt_known=False)
    for name in content.undetermined:
        if name not in known:
            raise InputError(
                f"{path} lists {name!r} as undetermined, expected some of {', '.join(known)}; "
                "remove it."
            )
    return source_of(content)


def source_of(content: InstrumentFile) -> Source:
    """What to simulate, from an instrument with its specimen and ground."""
    geometry, unknowns = content.instrument.geometry, default_unknowns(tilt_known=False)
    sd = {n: _SPREAD_ASSUMED.get(n, unknowns[n].prior_sd) for n in content.undetermined}
    return Source(
        instrument=content.instrument,
        specimen={k: jnp.asarray(v, float) for k, v in content.specimen.items()},
        kind=content.kind,
        slice_nm=round(float(geometry.slice_nm), 6),
        pixel_nm=round(float(geometry.pixel_nm), 6),
        ground=content.ground,
        sd={name: jnp.asarray(value) for name, value in sd.items()},
    )


def of_kind(source: Source, kind: str) -> Source:
    """The same instrument before a specimen of another kind, as much of it solid and as fine."""
    if kind == source.kind:
        return source
    numbers = {name: float(value) for name, value in source.specimen.items()}
    # Of two levels the finer one.
    guessed = KINDS[source.kind].guessed.items()
    feature_nm = min(numbers[n] / factor for n, factor in guessed if n.endswith("nm"))
    fraction = math.prod(v for n, v in numbers.items() if n.endswith("fraction"))
    guess = KINDS[kind].guess(feature_nm, fraction)
    specimen = {name: jnp.asarray(value, float) for name, value in guess.items()}
    return dataclasses.replace(source, kind=kind, specimen=specimen)


def other_kinds(source: Source) -> tuple[Source, ...]:
    """The instrument before specimens of other kinds, to learn from too.

    A recorded specimen is never quite of the generator's kind, and a network that has learned
    from one generator's shapes alone sees them where they are not.
    """
    return tuple(of_kind(source, kind) for kind in _OTHER_KINDS if kind != source.kind)


def deep_enough(data: SimulatedData, source: Source) -> SimulatedData:
    """``data`` with the slices below the last one that the source's specimen needs."""
    if data.below_slices is not None:
        return data
    specimen = {name: float(value) for name, value in source.specimen.items()}
    return dataclasses.replace(data, below_slices=slices_below(specimen, source.slice_nm))


def _spread_of(name: str) -> float:
    if name in _SPREAD:
        return _SPREAD[name]
    return _SPREAD_FRACTION if name.endswith("fraction") else _SPREAD_SIZE


def _faces_of(seen: Instrument, moved: Instrument) -> Instrument:
    """``moved`` with faces as bright and as noisy as those of ``seen``, which the images showed.

    A face of signal s is ``gain s^gamma`` above the offset and has a variance of ``gamma^2 gain^2
    s^(2 gamma - 1) / dose`` (`fibsim.noise`).
    """
    before, after = face_signal(seen), face_signal(moved)
    bent = moved.detector.gamma / seen.detector.gamma
    bright = before**seen.detector.gamma / after**moved.detector.gamma
    detector = dataclasses.replace(moved.detector, gain=moved.detector.gain * bright)
    dose = moved.noise.dose_electrons * bent**2 * before / after
    noise = dataclasses.replace(moved.noise, dose_electrons=dose)
    return dataclasses.replace(moved, detector=detector, noise=noise)


def randomise(
    instrument: Instrument,
    specimen: Mapping[str, Array],
    *,
    key: jax.Array,
    sd: Mapping[str, Array] | None = None,
    spread: Array | float = 1.0,
) -> tuple[Instrument, dict[str, Array]]:
    """Move every unknown by a normal draw in its free space, and draw the size of the faults.

    No number leaves the range that an instrument may have (`fibsim.instrument.allowed_range`).

    Args:
        sd: standard deviations of some of the draws, instead of the usual ones. Where there are
            any, gain and dose follow, so that a milled face stays as bright and as noisy.
        spread: factor of the draws' standard deviations; at 0 the faults stay as well.
    """
    unknowns = default_unknowns(tilt_known=False) | specimen_unknowns(specimen)
    free = start_point(instrument, specimen, unknowns)
    key_free, key_faults = jax.random.split(key)
    keys = jax.random.split(key_free, len(free))
    usual = {name: _spread_of(name) for name in free} | dict(sd or {})
    moved = {
        name: value + spread * usual[name] * jax.random.normal(k, value.shape, value.dtype)
        for k, (name, value) in zip(keys, sorted(free.items()), strict=True)
    }
    seen = instrument
    instrument, specimen = apply_unknowns(moved, seen, specimen, unknowns)
    leaves = {n: v for n, v in leaves_by_name(instrument).items() if n in free}
    within = {name: jnp.clip(value, *allowed_range(name)) for name, value in leaves.items()}
    instrument = replace_by_name(instrument, within)
    if sd:
        instrument = _faces_of(seen, instrument)
    uniform = jax.random.uniform(key_faults, (len(_WORST_FAULTS),))
    worst = dict(_WORST_FAULTS)
    worst["drift_nm"] = worst["drift_nm"] * instrument.geometry.pixel_nm
    fitted = instrument.faults
    drawn = {
        name: u * jnp.maximum(worst[name], 2 * getattr(fitted, name))
        for u, name in zip(uniform, worst, strict=True)
    }
    faults = {n: jnp.where(spread == 0, getattr(fitted, n), size) for n, size in drawn.items()}
    return dataclasses.replace(
        instrument, faults=dataclasses.replace(instrument.faults, **faults)
    ), specimen


def draw_training_stack(
    source: Source, data: SimulatedData, *, key: jax.Array
) -> tuple[Float[Array, "channel slice y x"], Float[Array, "slice y x"]]:
    """One noisy stack of a randomised instrument and its true solid fraction. Traceable."""
    key_random, key_sample = jax.random.split(key)
    instrument, specimen = randomise(
        source.instrument, source.specimen, key=key_random, sd=source.sd, spread=source.spread
    )
    ground = source.ground
    if ground is not None:
        # Known to some slices; a stack that does not reach it does not here either.
        sd_nm = source.spread * _GROUND_SLICES * source.slice_nm
        off = sd_nm * jax.random.normal(jax.random.fold_in(key_random, 1))
        least = jnp.minimum(ground.depth_nm, ground.stack_nm)
        depth_nm = jnp.maximum(ground.depth_nm + off, least)
        ground = dataclasses.replace(ground, depth_nm=depth_nm)
    moved = dataclasses.replace(source, instrument=instrument, specimen=specimen, ground=ground)
    return draw_stack(moved, data, key=key_sample)


def draw_stack(
    source: Source, data: SimulatedData, *, key: jax.Array
) -> tuple[Float[Array, "channel slice y x"], Float[Array, "slice y x"]]:
    """One noisy stack of exactly the source's instrument and specimen parameters. Traceable.

    Where the recorded stack stands on ground, this one is a part of such a stack, from a random
    slice on.
    """
    sample = draw_sample(
        source.instrument,
        source.specimen,
        key=key,
        kind=source.kind,
        shape=(data.slices, data.side_px, data.side_px),
        slice_nm=source.slice_nm,
        pixel_nm=source.pixel_nm,
        sublayers=data.sublayers,
        below_slices=data.below_slices,
        ground_nm=part_on_ground(
            source.ground, data.slices * source.slice_nm, key=jax.random.fold_in(key, 1)
        ),
    )
    # Recorded stacks hold whole grey values.
    return jnp.round(sample.images), sample.solid


@functools.partial(jax.jit, static_argnames=("draw", "data"))
def _drawn(source: Source, key: jax.Array, *, draw: Callable, data: SimulatedData):
    return draw(source, data, key=key)


def drawn_stacks(
    source: Source, data: SimulatedData, *, draw: Callable, seed: int, number: int
) -> Iterator[tuple[Float[np.ndarray, "channel slice y x"], Float[np.ndarray, "slice y x"]]]:
    """Simulated stacks with their solid, one after the other, deep enough for the specimen.

    Args:
        draw: `draw_stack` or `draw_training_stack`.
    """
    data = deep_enough(data, source)
    for key in jax.random.split(jax.random.key(seed), number):
        images, solid = _drawn(source, key, draw=draw, data=data)
        yield np.asarray(images), np.asarray(solid)


def size_like(shape: tuple[int, int, int], *, sublayers: int = 3) -> SimulatedData:
    """Size of simulated stacks like a recorded one of (slice, y, x), but for very large ones.

    All that looks at stacks of this size draws them by one program (`draw_training_stack`).
    """
    slices, *sides = (min(n, most) for n, most in zip(shape, _LARGEST, strict=True))
    return SimulatedData(slices=slices, side_px=max(min(sides) // 2 * 2, 8), sublayers=sublayers)
