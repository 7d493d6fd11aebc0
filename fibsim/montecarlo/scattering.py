"""What an electron meets in a phase: free path, angle, energy loss and secondaries, as tables.

`transport_tables` turns chemical compositions into the arrays that the transport kernel looks up,
32 energies an octave from 50 eV to 30 keV (see `draw_row`). Lengths in nm, energies in keV.
"""

import dataclasses
import functools
import math
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fibsim import electrons
from fibsim.errors import InputError
from fibsim.materials import Composition, Material
from fibsim.montecarlo.fast_secondaries import FastTables, fast_rows
from fibsim.montecarlo.mott import ENERGIES_KEV, quantile_grid
from fibsim.montecarlo.shells import shells

__all__ = [
    "ELASTIC_MODELS",
    "LOWEST_KEV",
    "TransportTables",
    "draw_row",
    "transport_tables",
]

LOWEST_KEV = float(ENERGIES_KEV[0])
ELASTIC_MODELS = ("mott", "browning")
# Energies equidistant in the bits of a float: linear within an octave, 32 steps to each.
_ROW_BITS = 23 - 5
_LOWEST_BITS, _HIGHEST_BITS = (int(np.float32(ENERGIES_KEV[i]).view(np.int32)) for i in (0, -1))
ROWS = ((_HIGHEST_BITS - _LOWEST_BITS) >> _ROW_BITS) + 2
_LN_E = np.log((_LOWEST_BITS + (np.arange(ROWS, dtype=np.int32) << _ROW_BITS)).view(np.float32))
_AVOGADRO = 6.02214076e23


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TransportTables:
    """Tables of all phases; phase 0 is vacuum unless a medium fills the pores.

    Attributes:
        attenuation: inverse elastic mean free path, 1/nm.
        stopping: energy loss per path, keV/nm.
        range_nm: path left until 50 eV.
        sine_half: quantiles of sin(theta / 2) at the probabilities of `mott.quantile_grid`.
        se_per_kev: secondaries released per keV of lost energy.
        se_escape_nm: attenuation length of secondaries.
        vacuum: which phases are none.
        fast: fast secondaries; None where they are not followed.
    """

    attenuation: Float[Array, "phase energy"]
    stopping: Float[Array, "phase energy"]
    range_nm: Float[Array, "phase energy"]
    sine_half: Float[Array, "phase energy quantile"]
    se_per_kev: Float[Array, " phase"]
    se_escape_nm: Float[Array, " phase"]
    vacuum: tuple[bool, ...] = dataclasses.field(metadata=dict(static=True))
    fast: FastTables | None = None


def draw_row(energy_kev: Array, number: Array) -> Array:
    """One of the two rows next to an energy, in proportion to nearness.

    With a ``number`` uniform in 0..1 the mean of what is looked up is the linear interpolation, at
    half its cost and without a logarithm.
    """
    bits = jax.lax.bitcast_convert_type(energy_kev, jnp.int32) - _LOWEST_BITS
    drawn = bits + (number * 2.0**_ROW_BITS).astype(jnp.int32)
    return jnp.clip(drawn >> _ROW_BITS, 0, ROWS - 1)


@functools.cache
def _mott_table() -> dict[str, np.ndarray]:
    file = resources.files("fibsim.montecarlo") / "mott.npz"
    with resources.as_file(file) as path, np.load(path, allow_pickle=False) as table:
        return {name: table[name].astype(float) for name in table.files}


def _interpolate(values: np.ndarray) -> np.ndarray:
    """From the energies of the Mott table to those of the transport tables, linear in ln E."""
    at = np.log(ENERGIES_KEV)
    return np.stack([np.interp(_LN_E, at, column) for column in values.T], axis=-1)


def _mott(z: int) -> tuple[np.ndarray, np.ndarray]:
    """Cross section in cm^2 per energy, and quantiles of mu per energy."""
    table = _mott_table()
    section = np.exp(_interpolate(np.log(table["cross_section_cm2"][z - 1])[:, None])[:, 0])
    return section, _interpolate(table["sine_half_angle"][z - 1]) ** 2


def _element(z: int, a: float = 1.0, density_g_cm3: float = 1.0) -> Material:
    """An element for the laws of `fibsim.electrons`; cross sections per atom need only Z."""
    return Material(
        atomic_number=jnp.asarray(float(z)),
        atomic_weight=jnp.asarray(a),
        density_g_cm3=jnp.asarray(density_g_cm3),
    )


def _browning(z: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit to Mott cross sections of Browning et al. 1994 (doi 10.1063/1.357534), E in keV.

    Rutherford scattering screened by ``alpha = 7e-3 / E`` and isotropic scattering in the ratio
    ``300 E^(1 - Z/2000) / Z + Z^3 / (3e5 E)``.
    """
    e = np.exp(_LN_E)
    section = np.asarray(electrons.elastic_cross_section_cm2(e, _element(z)), float)
    ratio = 300.0 * e ** (1 - z / 2000) / z + z**3 / (3e5 * e)
    rutherford = ratio / (1 + ratio)
    mu = np.concatenate([[0.0], np.geomspace(1e-8, 1.0, 4000)])
    alpha = 7e-3 / e
    rows = []
    for weight, a in zip(rutherford, alpha, strict=True):
        cumulative = weight * mu * (1 + a) / (mu + a) + (1 - weight) * mu
        rows.append(np.interp(quantile_grid(), cumulative, mu))
    return section, np.stack(rows)


def _stopping_kev_nm(composition: Composition) -> np.ndarray:
    """Joy & Luo 1989 (doi 10.1002/sca.4950110404), summed over elements by weight (Bragg).

    ``78500 rho Z / (A E) ln(1.166 (E + k J) / J)`` keV/cm with ``k = 0.731 + 0.0688 log10 Z``
    (Gauvin & L'Esperance 1992), which gives Joy and Luo's own values within 0.02.
    """
    e = np.exp(_LN_E)
    loss = np.zeros_like(e)
    for z, a, weight in composition.elements:
        k = 0.731 + 0.0688 * math.log10(z)
        element = _element(z, a, composition.density_g_cm3 * weight)
        loss += np.asarray(electrons.stopping_power_kev_cm(e, element, k), float)
    return loss * 1e-7


def _deflection_by_electrons(z: int, section: np.ndarray, mu: np.ndarray) -> np.ndarray:
    """Transport cross section of collisions with atomic electrons over that of the atom's field.

    An electron that hands over energy W is turned by ``cos^2 theta = 1 - W / E``, and
    ``d sigma / d W = Z pi e^4 / (E W^2)`` (Moller without exchange; Murata et al. 1981, doi
    10.1063/1.329366), so ``sigma_tr = Z pi e^4 / (2 E^2) ln(E / 2 J)`` between the mean ionisation
    and half the energy. 10 % of the elastic one in carbon at 5 keV, 1 % in gold.
    """
    e = np.exp(_LN_E)
    j = float(electrons.mean_ionisation_ev(float(z))) / 1000.0
    # pi e^4 = 6.51e-20 cm^2 keV^2
    inelastic = z * 6.51e-20 / (2 * e**2) * np.log(np.maximum(e / (2 * j), 1.0))
    middle = (mu[:, 1:] + mu[:, :-1]) / 2
    transport = section * 2 * np.sum(middle * np.diff(quantile_grid()), axis=1)
    return inelastic / transport


def _mix_angles(sections: list[np.ndarray], quantiles: list[np.ndarray]) -> np.ndarray:
    """Quantiles of mu of a mixture, per energy; sections weigh the elements."""
    if len(sections) == 1:
        return quantiles[0]
    probability = quantile_grid()
    total = np.sum(sections, axis=0)
    out = np.empty_like(quantiles[0])
    for row in range(ROWS):
        mu = np.unique(np.concatenate([q[row] for q in quantiles]))
        cumulative = sum(
            s[row] / total[row] * np.interp(mu, q[row], probability)
            for s, q in zip(sections, quantiles, strict=True)
        )
        out[row] = np.interp(probability, cumulative, mu)
    return out


def _phase(composition: Composition, elastic: str) -> dict[str, np.ndarray]:
    sections, quantiles = [], []
    for z, a, weight in composition.elements:
        section, mu = (_mott if elastic == "mott" else _browning)(z)
        if elastic == "mott":  # Browning's fit stands for measured backscatter, as it is
            section = section * (1 + _deflection_by_electrons(z, section, mu))
        per_cm3 = _AVOGADRO * composition.density_g_cm3 * weight / a
        sections.append(section * per_cm3 * 1e-7)
        quantiles.append(mu)
    stopping = _stopping_kev_nm(composition)
    e = np.exp(_LN_E)
    path = np.diff(e) * (1 / stopping[1:] + 1 / stopping[:-1]) / 2
    return dict(
        attenuation=np.sum(sections, axis=0),
        stopping=stopping,
        range_nm=np.concatenate([[0.0], np.cumsum(path)]),
        sine_half=np.sqrt(_mix_angles(sections, quantiles)),
        se_per_kev=np.asarray(1000.0 / composition.se_energy_ev),
        se_escape_nm=np.asarray(composition.se_escape_nm),
    )


def _fast(phases: tuple[Composition | None, ...], rows: list[dict[str, np.ndarray]]) -> FastTables:
    """Fast secondaries of phases whose other tables are ``rows``."""
    made = []
    for composition, row in zip(phases, rows, strict=True):
        present = []
        for z, a, weight in () if composition is None else composition.elements:
            per_nm3 = _AVOGADRO * composition.density_g_cm3 * weight / a * 1e-21
            present.append((shells(z), per_nm3))
        # The last flight ends below 50 eV, by as much as a flight there loses on average.
        beyond = row["stopping"][0] / row["attenuation"][0] if present else 0.0
        end = max(LOWEST_KEV - beyond, 0.0)
        made.append(fast_rows(np.exp(_LN_E), LOWEST_KEV, end, row["stopping"], present))
    return FastTables(
        **{name: jnp.asarray(np.stack([m[name] for m in made]), jnp.float32) for name in made[0]}
    )


def transport_tables(
    phases: tuple[Composition | None, ...],
    *,
    elastic: str = "mott",
    fast_secondaries: bool = False,
) -> TransportTables:
    """Tables for the given phases; None is vacuum.

    Args:
        elastic: ``"mott"`` (the package's partial-wave table, and the small part that collisions
            with atomic electrons add to the deflection) or ``"browning"`` (the fit of Browning et
            al. 1994, as other codes use it).
        fast_secondaries: whether electrons that are knocked on, and Auger electrons, of more than
            50 eV are followed (`fast_secondaries`).

    Raises:
        InputError: no phase, or an unknown model.
    """
    if elastic not in ELASTIC_MODELS:
        raise InputError(f"elastic model {elastic!r} is unknown; expected one of {ELASTIC_MODELS}.")
    if not phases:
        raise InputError("no phase was given; give at least one material.")
    empty = dict(
        attenuation=np.zeros(ROWS),
        stopping=np.zeros(ROWS),
        range_nm=np.full(ROWS, np.inf),
        sine_half=np.zeros((ROWS, len(quantile_grid()))),
        se_per_kev=np.asarray(0.0),
        se_escape_nm=np.asarray(1.0),
    )
    rows = [empty if p is None else _phase(p, elastic) for p in phases]
    stacked = {name: jnp.asarray(np.stack([r[name] for r in rows]), jnp.float32) for name in empty}
    return TransportTables(
        **stacked,
        vacuum=tuple(p is None for p in phases),
        fast=_fast(phases, rows) if fast_secondaries else None,
    )
