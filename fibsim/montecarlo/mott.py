"""Elastic scattering of electrons by atoms: Mott cross sections from Dirac partial waves.

For every partial wave the radial Dirac equation is integrated outwards as one equation for the
phase ``tan(chi) = s Q / P`` of its two components, which neither overflows nor needs a norm
(Lin, Sherman & Percus 1963, doi 10.1016/0029-5582(63)90824-1). With ``s = (W + c^2) / (c k)`` the
phase of a free wave turns evenly, by k per length::

    d chi / dr = (kappa / r) sin(2 chi) - k (1 - V / E) cos^2 chi - k (1 - V / (W + c^2)) sin^2 chi

It is matched to free waves where the atom's field has died out. The phase shifts give the
scattering amplitudes f and g and ``d sigma / d Omega = |f|^2 + |g|^2`` (Mott & Massey 1965; Salvat,
Jablonski & Powell 2005, doi 10.1016/j.cpc.2004.09.006). Atomic units inside.

The package ships the result for all elements from 50 eV to 30 keV as ``mott.npz``, which this
module computes and writes: ``python -m fibsim.montecarlo.mott FILE``.
"""

import argparse
import concurrent.futures
from pathlib import Path

import numpy as np
from scipy import special

from fibsim.montecarlo.atoms import HIGHEST_Z, potential, screening

__all__ = ["ENERGIES_KEV", "QUANTILES", "cross_section", "phase_shifts", "quantile_grid"]

_C = 137.035999  # speed of light
_HARTREE_KEV = 0.0272113862
_BOHR_CM = 0.529177211e-8

# Table: energies, equidistant in the logarithm, and cumulative probabilities of the angle.
ENERGIES_KEV = np.geomspace(0.05, 30.0, 28)
QUANTILES = 64


def quantile_grid() -> np.ndarray:
    """Cumulative probabilities ``1 - (1 - i / n)^3``: dense at large angles, which turn back."""
    return 1.0 - (1.0 - np.linspace(0.0, 1.0, QUANTILES + 1)) ** 3


def _radial_steps(outer: float, wave_number: float, charge: int, waves: int) -> np.ndarray:
    """Grid of r: equidistant in ln r near the nucleus, in r where the free wave is faster.

    The equation of the highest wave relaxes as r^(2 kappa), so steps of ln r must stay below
    2.8 / (2 kappa), the stability limit of the fourth-order Runge-Kutta rule.
    """
    growth, longest = min(0.004, 1.0 / waves), 0.08 / wave_number
    first = 1e-5 / charge
    switch = longest / growth
    inner = first * np.exp(growth * np.arange(int(np.log(switch / first) / growth) + 1))
    rest = np.arange(inner[-1] + longest, outer + longest, longest)
    return np.concatenate([inner, rest])


def phase_shifts(atomic_number: int, energy_kev: float) -> tuple[np.ndarray, np.ndarray]:
    """Phase shifts in radian, ``(delta_l for j = l + 1/2, delta_l for j = l - 1/2)``, l = 0, 1 ...

    The second array's entry for l = 0 is 0 (there is no such wave). Waves whose shift has fallen
    below 1e-5 are left out.
    """
    energy = energy_kev / _HARTREE_KEV
    total = energy + _C**2
    k = np.sqrt(energy * (energy + 2 * _C**2)) / _C
    amplitude, alpha = screening(atomic_number)
    # Beyond the outer radius the field shifts no phase by more than about 1e-5.
    outer = np.max(np.log(atomic_number * np.abs(amplitude) / 1e-5) / alpha)
    waves = int(min(k * outer, 12 + 8 * np.sqrt(k) + 6 * k)) + 1
    l_up = np.arange(waves)  # j = l + 1/2, kappa = -l - 1
    l_down = np.arange(1, waves)  # j = l - 1/2, kappa = l
    kappa = np.concatenate([-l_up - 1, l_down]).astype(float)
    order = np.concatenate([l_up, l_down])

    radius = _radial_steps(outer, k, atomic_number, waves)
    middle = (radius[1:] + radius[:-1]) / 2

    def coefficients(r):
        """Of sin(2 chi), cos(2 chi) and 1 in the equation; the first lacks kappa."""
        field = potential(atomic_number, r, energy)
        large, little = k * (1 - field / energy), k * (1 - field / (total + _C**2))
        return np.stack([1 / r, (little - large) / 2, -(little + large) / 2], axis=-1)

    here, between = coefficients(radius), coefficients(middle)

    def slope(at, chi):
        return kappa * at[0] * np.sin(2 * chi) + at[1] * np.cos(2 * chi) + at[2]

    # At the nucleus kappa sin(2 chi) = Z / c without the scale; the branch that grows outwards.
    scale = (total + _C**2) / (_C * k)
    small = 0.5 * np.arcsin(np.clip(atomic_number / (_C * kappa), -1, 1))
    chi = np.where(kappa < 0, small, np.pi / 2 - small)
    chi = np.arctan2(scale * np.sin(chi), np.cos(chi))
    for i, h in enumerate(np.diff(radius)):
        k1 = slope(here[i], chi)
        k2 = slope(between[i], chi + h / 2 * k1)
        k3 = slope(between[i], chi + h / 2 * k2)
        k4 = slope(here[i + 1], chi + h * k3)
        chi = chi + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    r = radius[-1]
    x = k * r
    beta = k * np.tan(chi) - (kappa + 1) / r
    j, y = special.spherical_jn(order, x), special.spherical_yn(order, x)
    dj = special.spherical_jn(order, x, derivative=True)
    dy = special.spherical_yn(order, x, derivative=True)
    delta = np.arctan((k * dj - beta * j) / (k * dy - beta * y))
    up, down = delta[:waves], np.concatenate([[0.0], delta[waves:]])
    relevant = np.nonzero(np.abs(up) + np.abs(down) > 1e-5)[0]
    last = relevant[-1] + 1 if len(relevant) else 1
    return up[:last], down[:last]


def _angles(k: float) -> np.ndarray:
    """``mu = (1 - cos theta) / 2`` from 0 to 1, dense in the forward peak of width 1 / k."""
    peak = np.geomspace(1e-3 / max(k, 1.0) ** 2, 1.0, 900)
    return np.unique(np.concatenate([[0.0], peak, np.linspace(0.0, 1.0, 801)]))


def cross_section(atomic_number: int, energy_kev: float) -> tuple[float, float, np.ndarray]:
    """Total and transport cross section in cm^2, and quantiles of ``mu = (1 - cos theta) / 2``.

    The quantiles belong to the cumulative probabilities of `quantile_grid`.
    """
    up, down = phase_shifts(atomic_number, energy_kev)
    energy = energy_kev / _HARTREE_KEV
    k = np.sqrt(energy * (energy + 2 * _C**2)) / _C
    order = np.arange(len(up))
    outgoing, incoming = np.exp(2j * up) - 1, np.exp(2j * down) - 1
    direct = (order + 1) * outgoing + order * incoming
    flipped = incoming - outgoing
    mu = _angles(k)
    cosine = 1 - 2 * mu
    sine = np.sqrt(np.maximum(1 - cosine**2, 0))
    f, g = np.zeros((2, len(mu)), complex)
    # P_l and P_l^1 = sin P_l' by upward recurrence.
    below, here = np.zeros_like(mu), np.ones_like(mu)
    slope_below, slope = np.zeros_like(mu), np.zeros_like(mu)
    for n in order:
        f += direct[n] * here
        g += flipped[n] * sine * slope
        below, here, slope_below, slope = (
            here,
            ((2 * n + 1) * cosine * here - n * below) / (n + 1),
            slope,
            slope_below + (2 * n + 1) * here,
        )
    density = (np.abs(f) ** 2 + np.abs(g) ** 2) / (4 * k**2)
    step = np.diff(mu)
    pieces = 4 * np.pi * step * (density[1:] + density[:-1]) / 2
    total = pieces.sum()
    transport = np.sum(pieces * (mu[1:] + mu[:-1]))  # weight 1 - cos theta = 2 mu
    cumulative = np.concatenate([[0.0], np.cumsum(pieces)]) / total
    quantiles = np.interp(quantile_grid(), cumulative, mu)
    return total * _BOHR_CM**2, transport * _BOHR_CM**2, quantiles


def _element(atomic_number: int) -> tuple[np.ndarray, np.ndarray]:
    rows = [cross_section(atomic_number, e) for e in ENERGIES_KEV]
    return np.array([r[0] for r in rows]), np.array([np.sqrt(r[2]) for r in rows])


def main() -> None:
    """Compute the table of all elements (about 20 minutes on two cores) and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    with concurrent.futures.ProcessPoolExecutor() as pool:
        rows = list(pool.map(_element, range(1, HIGHEST_Z + 1)))
    np.savez_compressed(
        options.file,
        cross_section_cm2=np.stack([r[0] for r in rows]).astype(np.float32),
        sine_half_angle=np.stack([r[1] for r in rows]).astype(np.float16),
    )


if __name__ == "__main__":
    main()
