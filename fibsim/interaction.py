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
from fibsim.instrument import Instrument
from fibsim.interaction_table import (
    InteractionTable,
    evaluate,
    interaction_table,
    tabulated_names,
)
from fibsim.materials import Material, material, se_escape_nm

__all__ = ["BulkYields", "Coefficients", "bulk_yields", "channel_coefficients"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Coefficients:
    """Coefficients of the recurrence, ``(channel,)`` or for each phase ``(channel, phase)``.

    Attributes:
        eta: backscatter coefficient of bulk; by phase.
        delta: secondaries per beam electron that the beam itself releases; by phase.
        se_by_bse: secondaries per outgoing backscattered electron, relative to ``delta``.
        bse_attenuation: ``mu = ln 2 / d`` in 1/nm with d the median backscatter depth, so that a
            film of thickness t backscatters ``eta (1 - exp(-mu t))``; by phase.
        se_attenuation: one over the escape depth of secondaries, 1/nm; by phase.
        spread: growth of the beam's lateral variance per depth, nm^2/nm; by phase.
        edge_nm: width over which a pore changes the emission of the solid beside it.
        depth_nm: median depth of backscattered electrons in the first phase.
        edge_gain, se_incidence, bse_incidence, wall_emission, wall_transparency, return_depth: as
            in `fibsim.instrument.Interaction`.
    """

    eta: Float[Array, "channel phase"]
    delta: Float[Array, "channel phase"]
    se_by_bse: Float[Array, " channel"]
    bse_attenuation: Float[Array, "channel phase"]
    se_attenuation: Float[Array, "channel phase"]
    spread: Float[Array, "channel phase"]
    depth_nm: Float[Array, " channel"]
    edge_nm: Float[Array, " channel"]
    edge_gain: Float[Array, " channel"]
    se_incidence: Float[Array, " channel"]
    bse_incidence: Float[Array, " channel"]
    wall_emission: Float[Array, " channel"]
    wall_transparency: Float[Array, " channel"]
    return_depth: Float[Array, " channel"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class BulkYields:
    """What leaves flat bulk of the first phase per beam electron, each ``(channel,)``."""

    secondary: Float[Array, " channel"]
    backscatter: Float[Array, " channel"]


# The lateral standard deviation reaches this fraction of the backscatter depth at that depth:
# half of the beam's electrons have lost their direction there. Fitted to images of our Monte Carlo
# (experiments/specimen_fidelity.py).
_SPREAD_FRACTION = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Flat:
    """What flat solids do to the beam, each ``(channel, phase)``."""

    eta: Array
    depth_nm: Array
    secondary: Array


def _measured(table: InteractionTable, energy: Array) -> tuple[Array, ...]:
    """Backscatter, its median depth and secondary yield of bulk, of a table."""
    at = evaluate(table, energy)
    return at.eta, at.depth_nm, at.delta * (1.0 + at.se_by_bse * at.eta)


def _flat_solid(energy: Array, solid: Material) -> tuple[Array, ...]:
    """Backscatter, its median depth and secondary yield of bulk.

    The solid's own table if it has one. Else the closed-form laws of `fibsim.electrons`; for a
    solid whose table is shipped (`fibsim.interaction_table`) times the table's value over the
    law's for that solid as tabulated, so that the numbers are the table's and another density or
    atomic number still counts.
    """
    if solid.table is not None:
        return _measured(solid.table, energy)

    def laws(of):
        return (
            electrons.backscatter_coefficient(energy, of),
            electrons.backscatter_depth_nm(energy, of),
            electrons.secondary_yield(energy),
        )

    values = laws(solid)
    if solid.name in tabulated_names():
        measured = _measured(interaction_table(solid.name), energy)
        tabulated = laws(material(solid.name))
        values = tuple(
            value * (m / t).astype(value.dtype)
            for value, m, t in zip(values, measured, tabulated, strict=True)
        )
    return values


def _flat_phases(instrument: Instrument) -> _Flat:
    phases = (instrument.solid, *instrument.other_phases)
    values = zip(*(_flat_solid(instrument.beam_kev, phase) for phase in phases), strict=True)
    eta, depth_nm, secondary = (jnp.stack(value, axis=-1) for value in values)
    return _Flat(eta=eta, depth_nm=depth_nm, secondary=secondary)


def channel_coefficients(instrument: Instrument) -> Coefficients:
    """Evaluate the laws of voltage and material for every channel.

    With eta, d and sigma (backscatter, its median depth, secondary yield) of the flat solid from
    the Monte Carlo's tables or, for other solids, the laws of `fibsim.electrons`:
    ``mu = ln 2 / (range_scale d)``, ``spread = (0.5 spread_scale)^2 range_scale d``,
    ``delta = sigma / (1 + b eta)``; ``edge_nm`` is the quadrature sum of the backscatter depth
    and the escape depth of secondaries, since both bring electrons to a wall. Secondaries of
    another phase escape from ``se_escape_nm`` times the ratio of `fibsim.materials.se_escape_nm`.
    """
    scale, flat = instrument.interaction, _flat_phases(instrument)
    depth = scale.range_scale * flat.depth_nm
    ones = jnp.ones_like(depth[:, 0])
    first = se_escape_nm(instrument.solid)
    escape = scale.se_escape_nm * jnp.asarray(
        [1.0, *(se_escape_nm(phase) / first for phase in instrument.other_phases)],
        depth.dtype,
    )
    return Coefficients(
        eta=flat.eta,
        delta=flat.secondary / (1.0 + scale.se_by_bse * flat.eta),
        se_by_bse=scale.se_by_bse * ones,
        bse_attenuation=math.log(2.0) / depth,
        se_attenuation=jnp.ones_like(depth) / escape,
        spread=(_SPREAD_FRACTION * scale.spread_scale) ** 2 * depth,
        depth_nm=depth[:, 0],
        edge_nm=jnp.sqrt(depth[:, 0] ** 2 + scale.se_escape_nm**2),
        edge_gain=scale.edge_gain * ones,
        se_incidence=scale.se_incidence * ones,
        bse_incidence=scale.bse_incidence * ones,
        wall_emission=scale.wall_emission * ones,
        wall_transparency=scale.wall_transparency * ones,
        return_depth=scale.return_depth * ones,
    )


def bulk_yields(instrument: Instrument) -> BulkYields:
    """The recurrence's closed form for homogeneous bulk: ``eta`` and ``delta (1 + b eta)``."""
    c = channel_coefficients(instrument)
    eta, delta = c.eta[:, 0], c.delta[:, 0]
    return BulkYields(secondary=delta * (1.0 + c.se_by_bse * eta), backscatter=eta)
