"""What a beam of E keV does in the solid: the forward model's coefficients as laws.

`channel_coefficients` turns an `Instrument` into the few numbers per channel that the recurrence
of `fibsim.render` needs. All lengths in nm.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fibsim import electrons
from fibsim.detector import mix_signal
from fibsim.instrument import Instrument
from fibsim.interaction_table import (
    InteractionTable,
    evaluate,
    interaction_table,
    tabulated_names,
)
from fibsim.materials import Material, material, se_escape_nm

__all__ = ["BulkYields", "Coefficients", "bulk_yields", "channel_coefficients", "face_signal"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Coefficients:
    """Coefficients of the recurrence, ``(channel,)`` or for each phase ``(channel, phase)``.

    Attributes:
        eta: backscatter coefficient of bulk at the beam's tilt; by phase.
        delta: secondaries per beam electron that the tilted beam itself releases; by phase.
        se_by_bse: secondaries per outgoing backscattered electron, relative to ``delta``.
        bse_attenuation: ``mu = ln 2 / d`` in 1/nm with d the median backscatter depth, so that a
            film of thickness t backscatters ``eta (1 - exp(-mu t))``; by phase.
        se_attenuation: one over the escape depth of secondaries, 1/nm; by phase.
        edge_nm: width over which a pore changes the emission of the solid beside it.
        edge_gain, bse_facing, wall_emission, return_depth, lateral_exit: as in
            `fibsim.instrument.Interaction`.
        se_exponent, bse_exponent: of the secant of the incidence on a wall, relative to the face.
        reflected: share of backscattered electrons that a wall sends on.
        crossing_nm: solid around the way out past which half of the rest gets, through walls.
    """

    eta: Float[Array, "channel phase"]
    delta: Float[Array, "channel phase"]
    se_by_bse: Float[Array, " channel"]
    bse_attenuation: Float[Array, "channel phase"]
    se_attenuation: Float[Array, "channel phase"]
    edge_nm: Float[Array, " channel"]
    edge_gain: Float[Array, " channel"]
    bse_facing: Float[Array, " channel"]
    wall_emission: Float[Array, " channel"]
    return_depth: Float[Array, " channel"]
    lateral_exit: Float[Array, " channel"]
    se_exponent: Float[Array, " channel"]
    bse_exponent: Float[Array, " channel"]
    reflected: Float[Array, " channel"]
    crossing_nm: Float[Array, " channel"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class BulkYields:
    """What leaves flat bulk of the first phase per beam electron, each ``(channel,)``."""

    secondary: Float[Array, " channel"]
    backscatter: Float[Array, " channel"]


# Electrons strike a wall of a pore at all angles: reflection is that at this secant of incidence.
_WALL_SECANT = 1.6
_MOST_REFLECTED = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Flat:
    """What flat solids do to the beam at normal incidence, each ``(channel, phase)``.

    ``eta_tilt`` and ``se_tilt`` are n of ``yield(theta) = yield cos(theta)^-n``.
    """

    eta: Array
    depth_nm: Array
    secondary: Array
    eta_tilt: Array
    se_tilt: Array
    transmitted_nm: Array


def _measured(table: InteractionTable, energy: Array) -> _Flat:
    """The numbers of a table."""
    at = evaluate(table, energy)
    return _Flat(
        eta=at.eta,
        depth_nm=at.depth_nm,
        secondary=at.delta * (1.0 + at.se_by_bse * at.eta),
        eta_tilt=at.eta_tilt,
        se_tilt=at.se_tilt,
        transmitted_nm=at.transmitted_nm,
    )


def _laws(energy: Array, solid: Material) -> _Flat:
    """The closed-form laws of `fibsim.electrons`."""
    eta = electrons.backscatter_coefficient(energy, solid)
    depth = electrons.backscatter_depth_nm(energy, solid)
    return _Flat(
        eta=eta,
        depth_nm=depth,
        secondary=electrons.secondary_yield(energy),
        eta_tilt=electrons.backscatter_tilt_exponent(eta),
        se_tilt=electrons.secondary_tilt_exponent(eta, energy),
        transmitted_nm=electrons.half_transmission_nm(depth, eta),
    )


def _flat_solid(energy: Array, solid: Material) -> _Flat:
    """What one flat solid does to the beam.

    The solid's own table if it has one. Else the closed-form laws of `fibsim.electrons`; for a
    solid whose table is shipped (`fibsim.interaction_table`) times the table's value over the
    law's for that solid as tabulated, so that the numbers are the table's and another density or
    atomic number still counts.
    """
    if solid.table is not None:
        return _measured(solid.table, energy)
    values = _laws(energy, solid)
    if solid.name not in tabulated_names():
        return values
    measured = _measured(interaction_table(solid.name), energy)
    tabulated = _laws(energy, material(solid.name))

    def corrected(name):
        value, m, t = (getattr(flat, name) for flat in (values, measured, tabulated))
        return value * (m / t).astype(value.dtype)

    return _Flat(**{field.name: corrected(field.name) for field in dataclasses.fields(_Flat)})


def _flat_phases(instrument: Instrument) -> _Flat:
    phases = (instrument.solid, *instrument.other_phases)
    each = [_flat_solid(instrument.beam_kev, phase) for phase in phases]
    return _Flat(
        **{
            field.name: jnp.stack([getattr(flat, field.name) for flat in each], axis=-1)
            for field in dataclasses.fields(_Flat)
        }
    )


def channel_coefficients(instrument: Instrument) -> Coefficients:
    """Evaluate the laws of voltage and material for every channel.

    With eta, d, sigma (backscatter, its median depth, secondary yield), tilt exponents n and half
    transmission T of the flat solid from the Monte Carlo's tables or, for other solids, the laws
    of `fibsim.electrons`, and s the secant of the beam's tilt::

        eta' = eta s^n_b,  sigma' = sigma s^n_s,  delta = sigma' / (1 + b eta')
        mu = ln 2 / (range_scale d),  crossing = wall_transparency T
        reflected = wall_reflection eta 1.6^n_b

    ``edge_nm`` is the quadrature sum of the backscatter depth and the escape depth of
    secondaries, since both bring electrons to a wall. What concerns walls is that of the first
    phase. Secondaries of another phase escape from ``se_escape_nm`` times the ratio of
    `fibsim.materials.se_escape_nm`.
    """
    scale, flat = instrument.interaction, _flat_phases(instrument)
    depth = scale.range_scale * flat.depth_nm
    ones = jnp.ones_like(depth[:, 0])
    first = se_escape_nm(instrument.solid)
    escape = scale.se_escape_nm * jnp.asarray(
        [1.0, *(se_escape_nm(phase) / first for phase in instrument.other_phases)],
        depth.dtype,
    )
    secant = 1.0 / jnp.cos(jnp.deg2rad(instrument.geometry.tilt_deg))
    eta, secondary = flat.eta * secant**flat.eta_tilt, flat.secondary * secant**flat.se_tilt
    reflected = scale.wall_reflection * flat.eta[:, 0] * _WALL_SECANT ** flat.eta_tilt[:, 0]
    return Coefficients(
        eta=eta,
        delta=secondary / (1.0 + scale.se_by_bse * eta),
        se_by_bse=scale.se_by_bse * ones,
        bse_attenuation=math.log(2.0) / depth,
        se_attenuation=jnp.ones_like(depth) / escape,
        edge_nm=jnp.sqrt(depth[:, 0] ** 2 + scale.se_escape_nm**2),
        edge_gain=scale.edge_gain * ones,
        bse_facing=scale.bse_facing * ones,
        wall_emission=scale.wall_emission * ones,
        return_depth=scale.return_depth * ones,
        lateral_exit=scale.lateral_exit * ones,
        se_exponent=scale.se_incidence * flat.se_tilt[:, 0],
        bse_exponent=scale.bse_incidence * flat.eta_tilt[:, 0],
        reflected=jnp.minimum(reflected, _MOST_REFLECTED),
        crossing_nm=scale.wall_transparency * flat.transmitted_nm[:, 0],
    )


def bulk_yields(instrument: Instrument) -> BulkYields:
    """The recurrence's closed form for homogeneous bulk: ``eta`` and ``delta (1 + b eta)``."""
    c = channel_coefficients(instrument)
    eta, delta = c.eta[:, 0], c.delta[:, 0]
    return BulkYields(secondary=delta * (1.0 + c.se_by_bse * eta), backscatter=eta)


def face_signal(instrument: Instrument) -> Float[Array, " channel"]:
    """What each channel's detector sees of a flat face of homogeneous bulk, per beam electron."""
    bulk = bulk_yields(instrument)
    return mix_signal(bulk.secondary, bulk.backscatter, instrument.detector.se_fraction)
