"""Fast secondaries: electrons that a beam electron knocks on, and Auger electrons, above 50 eV.

**Knock-on.** Per shell of N electrons bound by B, and in units of it (``t = E / B``,
``w = W / B``), the energy W that the slower of the two electrons leaves with is distributed as

    d sigma / d w = S / (t + 2) [ 1/(w+1)^2 + 1/(t-w)^2 - (1/(w+1) + 1/(t-w)) / (t+1)
                                  + ln(t) / (w+1)^3 ],      S = 4 pi a_0^2 N (R / B)^2

up to ``w = (t - 1) / 2`` (binary-encounter Bethe; Kim & Rudd 1994, doi
10.1103/PhysRevA.50.3954; the mean kinetic energy of a bound electron is taken as B, as in
hydrogen). The first three terms are Moller's cross section at low speed, direct, exchanged and
mixed, for the transfer ``Q = W + B``; for B to 0 they are what Murata, Kyser & Ting 1981 (doi
10.1063/1.329366) use. The last stands for distant collisions; electrons bound by less than 20 eV
form the solid's valence band, which takes up little else than plasmons from these, and go without.

Directions are those of a binary collision with an electron at rest: ``cos^2 theta = Q / E``.

**Auger.** Every vacancy below the valence band, its cross section the same spectrum's integral from
W = 0, sends out one electron of ``B - 2 V`` in any direction, V being the binding of the atom's
least bound shell (Burhop 1952, *The Auger Effect*): 269, 66, 93 and 62 eV for C 1s, Al 2p, Si 2p
and Cu 3p (measured: 272, 68, 92, 60), but 110 eV for Au 4f (69). Fluorescence takes few vacancies
below 30 keV; cascades through the shells between are left out.

Energies in keV, lengths in nm. Without relativity: the cross section is 8 % too small at 30 keV.
"""

import dataclasses
import math

import jax
import numpy as np
from jaxtyping import Array, Float

from fibsim.montecarlo.shells import Shell

__all__ = ["AUGER_NODES", "NODES", "FastTables", "fast_rows", "mean_kev", "section_above_cm2"]

NODES = 64  # pieces of the spectrum's inverse
AUGER_NODES = 32  # Auger lines by their shares
_POINTS = 400
_VALENCE_KEV = 0.020
_RYDBERG_KEV = 0.0136056931
_BOHR_CM = 0.529177211e-8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class FastTables:
    """What beam electrons knock on in each phase, by their energy.

    Attributes:
        rate: fast secondaries per path, 1/nm.
        auger: part of them that are Auger electrons.
        auger_kev: their energies, each as probable as another.
        inverse_kev: 1 / W at ``NODES + 1`` equidistant probabilities of a larger W, from 0 to 1;
            for free electrons it is almost a straight line.
        cosine_squared: of the angle to the beam electron's flight, at the same probabilities.
            Auger electrons fly in any direction.
        share: part of the stopping power that fast secondaries carry away and lose on their way.
    """

    rate: Float[Array, "phase energy"]
    auger: Float[Array, "phase energy"]
    auger_kev: Float[Array, "phase energy line"]
    inverse_kev: Float[Array, "phase energy node"]
    cosine_squared: Float[Array, "phase energy node"]
    share: Float[Array, "phase energy"]


def _terms(energy_kev: np.ndarray, shell: Shell) -> tuple[np.ndarray, np.ndarray, float]:
    """t, the factor of the bracket above in cm^2, and whether distant collisions count."""
    t = np.maximum(energy_kev / shell.binding_kev, 1.0 + 1e-9)
    s = 4 * math.pi * _BOHR_CM**2 * shell.electrons * (_RYDBERG_KEV / shell.binding_kev) ** 2
    return t, s / (t + 2), float(shell.binding_kev >= _VALENCE_KEV)


def section_above_cm2(energy_kev: np.ndarray, least_kev: np.ndarray, shell: Shell) -> np.ndarray:
    """Integral of the cross section from W = ``least_kev`` on, in closed form; 0 beyond its end."""
    t, factor, distant = _terms(energy_kev, shell)
    w = np.minimum(least_kev / shell.binding_kev, (t - 1) / 2)
    binary = 1 / (w + 1) - 1 / (t - w) + np.log((w + 1) / (t - w)) / (t + 1)
    return factor * (binary + distant * np.log(t) / 2 * (1 / (w + 1) ** 2 - 4 / (t + 1) ** 2))


def _density_cm2(energy_kev: np.ndarray, at_kev: np.ndarray, shell: Shell) -> np.ndarray:
    """d sigma / d W in cm^2/keV, 0 beyond the spectrum's end."""
    t, factor, distant = _terms(energy_kev, shell)
    w = np.minimum(at_kev / shell.binding_kev, (t - 1) / 2)
    binary = 1 / (w + 1) ** 2 + 1 / (t - w) ** 2 - (1 / (w + 1) + 1 / (t - w)) / (t + 1)
    inside = at_kev <= (t - 1) / 2 * shell.binding_kev * (1 + 1e-9)
    return inside * factor * (binary + distant * np.log(t) / (w + 1) ** 3) / shell.binding_kev


def mean_kev(inverse_kev: np.ndarray) -> np.ndarray:
    """Mean energy of a tabled spectrum, ``ln(b / a) / (b - a)`` over each piece of 1 / W."""
    low, high = inverse_kev[..., :-1], inverse_kev[..., 1:]
    x = high / low - 1
    return np.mean(np.where(x > 1e-6, np.log1p(x) / np.maximum(x, 1e-6), 1.0) / low, axis=-1)


def _auger(
    energy_kev: np.ndarray, least_kev: float, atoms: list[tuple[tuple[Shell, ...], float]]
) -> tuple[np.ndarray, np.ndarray]:
    """Auger electrons per nm, ``(energy,)``, and their energies, ``(energy, AUGER_NODES)``."""
    lines = []
    for shells, per_nm in atoms:
        loosest = min(shell.binding_kev for shell in shells)
        for shell in shells:
            kev = shell.binding_kev - 2 * loosest
            if shell.binding_kev >= _VALENCE_KEV and kev > least_kev:
                lines.append((kev, per_nm * section_above_cm2(energy_kev, 0.0, shell)))
    if not lines:
        return np.zeros(len(energy_kev)), np.full((len(energy_kev), AUGER_NODES), least_kev)
    kev = np.array([line for line, _ in lines])
    up_to = np.cumsum([rate for _, rate in lines], axis=0).T
    total = up_to[:, -1]
    middle = (np.arange(AUGER_NODES) + 0.5) / AUGER_NODES * total[:, None]
    number = (up_to[:, None] < middle[:, :, None]).sum(-1)
    return total, kev[np.minimum(number, len(kev) - 1)]


def fast_rows(
    energies_kev: np.ndarray,
    least_kev: float,
    end_kev: float,
    stopping: np.ndarray,
    atoms_per_nm3: list[tuple[tuple[Shell, ...], float]],
) -> dict[str, np.ndarray]:
    """Rows of `FastTables` of one phase.

    Args:
        energies_kev: of the beam electron; ``(energy,)``.
        least_kev: secondaries of less energy are not fast.
        end_kev: mean energy at which they are absorbed; what they lose until then is theirs.
        stopping: keV/nm at these energies.
        atoms_per_nm3: shells of every element, and its atoms per nm^3; none for vacuum.
    """
    probability = np.linspace(0.0, 1.0, NODES + 1)
    rate = np.zeros(len(energies_kev))
    inverse = np.full((len(energies_kev), NODES + 1), 1 / least_kev)
    cosine_squared = np.full_like(inverse, 0.5)
    atoms = [(shells, number * 1e14) for shells, number in atoms_per_nm3]  # per nm and cm^2
    auger_rate, auger_kev = _auger(energies_kev, least_kev, atoms)
    if atoms:
        per_nm = [(shell, number) for shells, number in atoms for shell in shells]
        e = energies_kev[:, None]
        # The spectrum ends where the least bound electron shares its energy with the beam's.
        # Nearly all of it is even over 1 / W.
        loosest = min(shell.binding_kev for shell, _ in per_nm)
        last = np.maximum((e - loosest) / 2, least_kev)
        w = 1 / (1 / last + (1 / least_kev - 1 / last) * np.linspace(0.0, 1.0, _POINTS))
        above = sum(n * section_above_cm2(e, w, shell) for shell, n in per_nm)
        parts = [(n * _density_cm2(e, w, shell), shell.binding_kev) for shell, n in per_nm]
        density = sum(part for part, _ in parts)
        transfer = sum(part * (w + binding) for part, binding in parts)
        transfer = np.where(density > 0, transfer / np.maximum(density, 1e-300), w)
        rate = np.maximum(above[:, -1], 0.0)  # not -0.0 by rounding
        for row in np.nonzero(rate > 0)[0]:
            inverse[row] = np.interp(probability, above[row] / rate[row], 1 / w[row])
            shared = np.interp(inverse[row], 1 / w[row], transfer[row]) / energies_kev[row]
            cosine_squared[row] = np.minimum(shared, 1.0)
    carried = rate * (mean_kev(inverse) - end_kev)
    carried += auger_rate * (auger_kev.mean(-1) - end_kev)
    return dict(
        rate=rate + auger_rate,
        auger=auger_rate / np.maximum(rate + auger_rate, 1e-30),
        auger_kev=auger_kev,
        inverse_kev=inverse,
        cosine_squared=cosine_squared,
        share=np.clip(carried / np.maximum(stopping, 1e-30), 0.0, 1.0),
    )
