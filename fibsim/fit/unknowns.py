"""The unknowns of a fit: which leaves are free, in which space, with which prior.

A fit runs in an unconstrained space. Every unknown has a transform (positive values by their
logarithm, fractions by their logit, grey values and angles by a scale), and a normal prior in
that space, centred on its start. What is fixed is simply not in the dictionary.

Sizes that may be zero (of faults, of an amplifier's noise) are ``scale sqrt(exp(2 f) - 1)``: a
logarithm where they are large, and where they vanish among other scatter their variance, which is
what adds to it, still has a slope.
"""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array

from fibsim.instrument import Instrument, leaves_by_name, replace_by_name

__all__ = [
    "SPECIMEN_PREFIX",
    "Unknown",
    "apply_unknowns",
    "default_unknowns",
    "from_free",
    "log_prior",
    "natural_error",
    "noise_unknowns",
    "of_a_whole_stack",
    "specimen_unknowns",
    "start_point",
    "to_free",
]

SPECIMEN_PREFIX = "specimen."

# Of a size, in units of its scale and squared.
_SMALLEST = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unknown:
    """How one leaf is fitted.

    Attributes:
        transform: ``"log"``, ``"logit"``, ``"linear"`` or ``"size"``.
        prior_sd: standard deviation of the prior in the free space; large where the stack
            itself decides.
        scale: unit of the free variable for ``"linear"``; what hardly shows for ``"size"``.
    """

    transform: str
    prior_sd: float
    scale: float = 1.0


# Interaction leaves carry the uncertainty of the laws behind them: a range known to 20 %, yields
# ratios and losses known within a factor of up to two.
_TABLE = {
    "interaction.range_scale": Unknown(transform="log", prior_sd=0.2),
    "interaction.se_escape_nm": Unknown(transform="log", prior_sd=0.3),
    "interaction.se_by_bse": Unknown(transform="log", prior_sd=0.5),
    "interaction.edge_gain": Unknown(transform="log", prior_sd=0.5),
    "interaction.se_incidence": Unknown(transform="log", prior_sd=0.3),
    "interaction.bse_incidence": Unknown(transform="log", prior_sd=0.5),
    "interaction.bse_facing": Unknown(transform="linear", prior_sd=0.3),
    "interaction.wall_emission": Unknown(transform="log", prior_sd=0.15),
    "interaction.wall_reflection": Unknown(transform="log", prior_sd=0.3),
    "interaction.wall_transparency": Unknown(transform="log", prior_sd=0.4),
    "interaction.return_depth": Unknown(transform="log", prior_sd=0.4),
    "interaction.lateral_exit": Unknown(transform="logit", prior_sd=0.5),
    "detector.se_fraction": Unknown(transform="logit", prior_sd=1.0),
    "detector.gain": Unknown(transform="log", prior_sd=3.0),
    "detector.offset": Unknown(transform="linear", prior_sd=3.0, scale=20.0),
    "detector.probe_nm": Unknown(transform="log", prior_sd=0.7),
    "detector.gamma": Unknown(transform="log", prior_sd=0.1),
    "detector.astigmatism": Unknown(transform="linear", prior_sd=1.0, scale=0.15),
    "detector.astigmatism_diagonal": Unknown(transform="linear", prior_sd=1.0, scale=0.15),
    "noise.dose_electrons": Unknown(transform="log", prior_sd=2.0),
    "noise.read_grey": Unknown(transform="size", prior_sd=2.0, scale=1.0),
    "noise.bunching": Unknown(transform="log", prior_sd=0.25),
    "faults.flicker_sd": Unknown(transform="size", prior_sd=1.0, scale=0.003),
    "faults.curtain_sd": Unknown(transform="size", prior_sd=1.0, scale=0.003),
    "faults.line_grey": Unknown(transform="size", prior_sd=1.0, scale=0.3),
}
_TILT = Unknown(transform="linear", prior_sd=2.0, scale=10.0)


def default_unknowns(*, tilt_known: bool) -> dict[str, Unknown]:
    """The instrument's unknowns for a stack; the tilt only if nothing states it."""
    table = dict(_TABLE)
    if not tilt_known:
        table["geometry.tilt_deg"] = _TILT
    return table


def specimen_unknowns(
    parameters: Mapping[str, Array], *, fraction_sd: float = 0.7
) -> dict[str, Unknown]:
    """Unknowns for a generator's parameters: fractions by logit, everything else by logarithm."""
    return {
        SPECIMEN_PREFIX + name: (
            Unknown(transform="logit", prior_sd=fraction_sd)
            if name.endswith("fraction")
            else Unknown(transform="log", prior_sd=0.7)
        )
        for name in parameters
    }


def noise_unknowns(unknowns: Mapping[str, Unknown]) -> dict[str, Unknown]:
    """Those that `fibsim.fit.start.match_noise` sets; none unless all of them are free."""
    names = ("noise.dose_electrons", "noise.read_grey")
    return {n: unknowns[n] for n in names} if unknowns.keys() >= set(names) else {}


def of_a_whole_stack(unknowns: Mapping[str, Unknown]) -> tuple[str, ...]:
    """Those of the instrument that one image leaves as assumed: how electrons interact, and what
    of the detector shows neither in contrast nor in noise."""
    others = ("detector.se_fraction", "detector.gamma", "noise.bunching")
    return tuple(n for n in unknowns if n.startswith("interaction.") or n in others)


def to_free(value: Array, unknown: Unknown) -> Array:
    """Physical value -> free variable."""
    if unknown.transform == "log":
        # What is absent (a fault of size 0) would start at minus infinity and never move.
        return jnp.log(jnp.maximum(value, 1e-6))
    if unknown.transform == "logit":
        # A fraction of exactly 0 or 1 would start at infinity and never move.
        inside = jnp.clip(value, 0.02, 0.98)
        return jnp.log(inside) - jnp.log1p(-inside)
    if unknown.transform == "size":
        return 0.5 * jnp.log1p(jnp.square(value / unknown.scale))
    return value / unknown.scale


def from_free(free: Array, unknown: Unknown) -> Array:
    """Free variable -> physical value."""
    if unknown.transform == "log":
        return jnp.exp(free)
    if unknown.transform == "logit":
        return 1.0 / (1.0 + jnp.exp(-free))
    if unknown.transform == "size":
        square = jnp.maximum(jnp.expm1(2.0 * free), 0.0)
        # At zero the root's slope would be infinite: there it is a straight line.
        root = jnp.sqrt(jnp.maximum(square, _SMALLEST))
        return unknown.scale * jnp.where(square > _SMALLEST, root, square / _SMALLEST**0.5)
    return free * unknown.scale


def natural_error(free: Array, error: Array, unknown: Unknown) -> Array:
    """An error in the free space as one in natural units: times the slope d value / d free.

    Of a size it is the variance v that is normally distributed, with an error e, and the size is
    not: its error is such that three of them reach from ``sqrt(v)`` to ``sqrt(v - 3 e)`` or to 0,
    and one to ``sqrt(v + e)``.
    """
    value = from_free(free, unknown)
    if unknown.transform == "log":
        return error * value
    if unknown.transform == "logit":
        return error * value * (1.0 - value)
    if unknown.transform == "size":
        square = jnp.square(value)
        of_square = 2.0 * (square + unknown.scale**2) * error
        above = jnp.sqrt(square + of_square) - value
        below = (value - jnp.sqrt(jnp.maximum(square - 3.0 * of_square, 0.0))) / 3.0
        return jnp.maximum(above, below)
    return error * unknown.scale


def start_point(
    instrument: Instrument, specimen: Mapping[str, Array], unknowns: Mapping[str, Unknown]
) -> dict[str, Array]:
    """Free variables of the present values of an instrument and a specimen's parameters."""
    values = leaves_by_name(instrument)
    values |= {SPECIMEN_PREFIX + k: v for k, v in specimen.items()}
    return {name: to_free(values[name], u) for name, u in unknowns.items()}


def apply_unknowns(
    free: Mapping[str, Array],
    instrument: Instrument,
    specimen: Mapping[str, Array],
    unknowns: Mapping[str, Unknown],
) -> tuple[Instrument, dict[str, Array]]:
    """The instrument and the specimen's parameters with the free variables put in."""
    values = {name: from_free(free[name], u) for name, u in unknowns.items()}
    changed = {name: values.get(SPECIMEN_PREFIX + name, value) for name, value in specimen.items()}
    return replace_by_name(instrument, values), changed


def log_prior(
    free: Mapping[str, Array], start: Mapping[str, Array], unknowns: Mapping[str, Unknown]
) -> Array:
    """Log density (up to a constant) of the priors, summed over all unknowns."""
    return sum(
        jnp.sum(-0.5 * ((free[name] - start[name]) / u.prior_sd) ** 2)
        for name, u in unknowns.items()
    )
