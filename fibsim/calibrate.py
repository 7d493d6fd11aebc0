"""Interaction tables measured by the Monte Carlo: bulk, free-standing films and tilted bulk.

A film of thickness t backscatters exactly the electrons that in bulk would come back without
ever having been deeper than t, since whatever crosses its lower face is gone. One bulk run whose
detectors are windows of depth is therefore a whole ladder of films.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np
from scipy import optimize, special

from fibsim.electrons import backscatter_depth_nm
from fibsim.errors import InputError
from fibsim.interaction_table import InteractionTable
from fibsim.materials import Composition, mean_material
from fibsim.montecarlo import Detector, Yields, bulk_yields, film_yields

__all__ = ["ENERGIES_KEV", "CalibrationTable", "calibrate", "check_calibration"]

ENERGIES_KEV = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0)
_DEPTHS = np.geomspace(0.2, 6.0, 10)  # of the depth windows, in closed-form depths
_FILMS = (1.0, 2.0, 4.0)  # thicknesses, likewise
_ESCAPES = 3.0  # thickness of the thinnest film in escape depths of secondaries
_TILTS_DEG = (38.0, 60.0)
_GOAL = 0.01  # relative error of eta at which no more batches are sent
_MOST_BATCHES = 8
_MOST_FILM_BATCHES = 16
_MOST_DOUBLINGS = 5
_MISFIT = 0.01  # of the law of secondaries, relative, beside the statistical error


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationTable:
    """Measured coefficients and their standard errors.

    Attributes:
        table: the coefficients over energy.
        eta_error, delta_error, se_by_bse_error: standard errors, ``(energy,)``.
        electrons: beam electrons sent in total.
    """

    table: InteractionTable
    eta_error: np.ndarray
    delta_error: np.ndarray
    se_by_bse_error: np.ndarray
    electrons: int


@dataclasses.dataclass(frozen=True)
class _Sample:
    mean: np.ndarray
    error: np.ndarray
    electrons: int


def _sample(
    run: Callable[[jax.Array], Yields], key: jax.Array, least: int, most: int = 0
) -> _Sample:
    """Average ``least`` batches, and up to ``most`` until the second detector's error will do."""
    means, variances, electrons = [], [], 0
    for number in range(max(least, most)):
        out = run(jax.random.fold_in(key, number))
        means.append(np.asarray(out.mean, float))
        variances.append(np.asarray(out.error, float) ** 2)
        electrons += out.electrons
        mean, error = np.mean(means, 0), np.sqrt(np.sum(variances, 0)) / len(means)
        if number + 1 >= least and error[1] <= _GOAL * mean[1]:
            break
    return _Sample(mean, error, electrons)


def half_thickness(thickness_nm: np.ndarray, survival: np.ndarray) -> float:
    """Thickness at which a fraction that falls from 1 to 0 is one half.

    Linear interpolation of ``ln(-ln survival)`` in ``ln t``, where ``exp(-ln 2 (t/d)^p)`` is
    straight. The thicknesses increase and must enclose the result.
    """
    bounded = np.clip(survival, 1e-5, 1 - 1e-5)
    height = np.maximum.accumulate(np.log(-np.log(bounded)))
    return float(np.exp(np.interp(math.log(math.log(2.0)), height, np.log(thickness_nm))))


def film_share(thickness_nm: np.ndarray, depth_nm: float, shape: float) -> np.ndarray:
    """Backscatter of a film over that of bulk, ``1 - exp(-ln 2 (t / d)^p)``."""
    relative = np.maximum(np.asarray(thickness_nm, float), 0.0) / depth_nm
    return 1 - np.exp(-math.log(2.0) * relative**shape)


def fit_shape(thickness_nm: np.ndarray, share: np.ndarray, depth_nm: float) -> float:
    """Least-squares p of `film_share` at given d."""

    def misfit(shape):
        return np.sum((film_share(thickness_nm, depth_nm, shape) - share) ** 2)

    return float(optimize.minimize_scalar(misfit, bounds=(0.2, 5.0), method="bounded").x)


def escaped_share(thickness_nm: np.ndarray, escape_nm: float) -> np.ndarray:
    """Part of bulk's secondaries that a uniform source releases above depth t.

    ``s(t) = 1 - 2 E3(t / lambda)``, E3 the exponential integral: isotropic emission attenuated
    exponentially on its straight way out.
    """
    return 1 - 2 * special.expn(3, np.asarray(thickness_nm, float) / escape_nm)


def fit_secondaries(
    thickness_nm: np.ndarray,
    yields: np.ndarray,
    errors: np.ndarray,
    bulk: tuple[float, float],
    eta: float,
    film_law: tuple[float, float],
    escape_nm: float,
) -> tuple[float, float, float, float]:
    """``delta`` and b of the secondary yield of films, and their standard errors.

    ``S(t) = delta (s(t) + b int_0^t s'(z) eta_film(t - z) dz)``: the layer at depth z emits by
    the beam and by what the film below it backscatters; s is `escaped_share`. For films of
    many escape depths this is the straight line ``delta (1 + b eta_film(t))``. The line is held
    at bulk, ``delta (1 + b eta)``, so one number is fitted, by weighted least squares with b not
    negative. Where the beam stops within the escape depth films hardly determine b; its error
    tells.

    Args:
        bulk: secondary yield of bulk and its error.
        film_law: depth and shape of `film_share`.
    """
    direct = escaped_share(thickness_nm, escape_nm)
    indirect = np.empty_like(direct)
    for i, t in enumerate(thickness_nm):
        z = np.minimum(t, 12 * escape_nm) * np.linspace(0.0, 1.0, 401)
        below = film_share(t - (z[1:] + z[:-1]) / 2, *film_law)
        indirect[i] = np.sum(np.diff(escaped_share(z, escape_nm)) * below)
    # yields - bulk * indirect = delta * (direct - indirect)
    contrast = direct - indirect
    weight = 1 / (errors**2 + (_MISFIT * yields) ** 2)
    norm = np.sum(weight * contrast**2)
    delta = min(np.sum(weight * contrast * (yields - bulk[0] * indirect)) / norm, bulk[0])
    by_films = 1 / math.sqrt(norm)
    by_bulk = bulk[1] * np.sum(weight * contrast * indirect) / norm
    ratio = bulk[0] / delta
    # The bulk yield enters twice: directly, and through delta with the opposite sign.
    ratio_error = ratio * math.hypot(bulk[1] / bulk[0] + by_bulk / delta, by_films / delta)
    return delta, (ratio - 1) / eta, math.hypot(by_films, by_bulk), ratio_error / eta


def tilt_exponent(ratios: np.ndarray) -> float:
    """Least-squares n of ``ln ratio = -n ln cos(theta)`` at the tilts of the calibration."""
    x = -np.log(np.cos(np.deg2rad(_TILTS_DEG)))
    return float(np.sum(x * np.log(ratios)) / np.sum(x**2))


def _batches(kev: float) -> int:
    """Slow electrons cost little, so that more of them are sent: batches of bulk at least."""
    return int(np.clip(round(8 / kev), 1, 4))


def _films(solid, kev, unit_nm, electrons, key) -> tuple[np.ndarray, list[_Sample]]:
    """Samples (SE, BSE, transmitted) of films from thin to opaque, and at half transmission.

    Thin films cost little and get more electrons.
    """

    def film(thickness, number):
        batches = int(
            np.clip(round(2 * _batches(kev) * unit_nm / thickness), 1, _MOST_FILM_BATCHES)
        )
        return _sample(
            lambda k: film_yields(
                solid, thickness, beam_kev=kev, electrons=electrons, key=k,
                detectors=("SE", "BSE", "transmitted"),
            ),
            jax.random.fold_in(key, number), batches,
        )  # fmt: skip

    found = {}
    for thickness in sorted({_ESCAPES * solid.se_escape_nm, *(f * unit_nm for f in _FILMS)}):
        found[thickness] = film(thickness, len(found))
    for _ in range(_MOST_DOUBLINGS):
        if found[max(found)].mean[2] < 0.4:
            break
        found[2 * max(found)] = film(2 * max(found), len(found))

    def ordered():
        thickness = np.asarray(sorted(found))
        return thickness, [found[t] for t in thickness]

    thickness, samples = ordered()
    half = half_thickness(thickness, np.asarray([s.mean[2] for s in samples]))
    found[half] = film(half, len(found))
    return ordered()


def _at_energy(solid: Composition, kev: float, electrons: int, key: jax.Array) -> dict:
    """All coefficients, errors and electrons used at one energy."""
    unit_nm = float(backscatter_depth_nm(kev, mean_material(solid)))
    depths = _DEPTHS * unit_nm
    windows = [Detector(kind="BSE", depth_nm=d) for d in depths]
    keys = jax.random.split(key, 2 + len(_TILTS_DEG))

    def bulk(key, tilt_deg, detectors):
        return _sample(
            lambda k: bulk_yields(
                solid, beam_kev=kev, electrons=electrons, key=k, tilt_deg=tilt_deg,
                detectors=detectors,
            ),
            key, _batches(kev), _MOST_BATCHES,
        )  # fmt: skip

    flat = bulk(keys[0], 0.0, ("SE", "BSE", *windows))
    eta = flat.mean[1]
    if eta <= 0 or flat.mean[0] <= 0:
        raise InputError(
            f"{solid.name} at {kev:g} keV sent nothing back from {flat.electrons} electrons; "
            "give more electrons."
        )
    share = flat.mean[2:] / eta
    depth = half_thickness(depths, 1 - share)
    shape = fit_shape(depths, share, depth)
    thickness, films = _films(solid, kev, unit_nm, electrons, keys[1])
    delta, by_bse, delta_error, by_bse_error = fit_secondaries(
        thickness,
        np.asarray([f.mean[0] for f in films]),
        np.asarray([f.error[0] for f in films]),
        (flat.mean[0], flat.error[0]),
        eta,
        (depth, shape),
        solid.se_escape_nm,
    )
    tilted = [bulk(k, t, ("SE", "BSE")) for k, t in zip(keys[2:], _TILTS_DEG, strict=True)]
    ratios = np.stack([t.mean / flat.mean[:2] for t in tilted])
    return dict(
        energy_kev=kev,
        eta=eta,
        delta=delta,
        se_by_bse=by_bse,
        depth_nm=depth,
        depth_shape=shape,
        eta_tilt=tilt_exponent(ratios[:, 1]),
        se_tilt=tilt_exponent(ratios[:, 0]),
        transmitted_nm=half_thickness(thickness, np.asarray([f.mean[2] for f in films])),
        eta_error=flat.error[1],
        delta_error=delta_error,
        se_by_bse_error=by_bse_error,
        electrons=sum(s.electrons for s in (flat, *films, *tilted)),
    )


def check_calibration(energies_kev: Sequence[float], electrons: int) -> None:
    """Refuse what `calibrate` cannot use.

    Raises:
        InputError: energies that do not increase or lie outside 0.1 to 30 keV, few electrons.
    """
    energies = np.asarray(energies_kev, float)
    if not energies.size or not np.all((energies >= 0.1) & (energies <= 30)):
        raise InputError(f"energies are {list(energies_kev)} keV, expected some of 0.1 to 30.")
    if np.any(np.diff(energies) <= 0):
        raise InputError(f"energies are {list(energies_kev)} keV, expected increasing ones.")
    if electrons < 256:
        raise InputError(f"electrons per film is {electrons}, expected at least 256.")


def calibrate(
    solid: Composition,
    energies_kev: Sequence[float] = ENERGIES_KEV,
    electrons: int = 12288,
    key: jax.Array | None = None,
    *,
    progress: Callable[[int, int, str], None] | None = None,
) -> CalibrationTable:
    """Measure the interaction table of a solid by Monte Carlo with Mott sections.

    * ``eta``: bulk, in batches of ``electrons`` until its error is 1 % (up to 8; at least 4 up
      to 2 keV).
    * ``depth_nm``, ``depth_shape``: from 10 depth windows of the same run (see the module).
    * ``delta``, ``se_by_bse``: `fit_secondaries` to the secondaries that leave upwards from films
      of 3 escape depths to opaque ones.
    * ``eta_tilt``, ``se_tilt``: `tilt_exponent` of bulk at 0, 38 and 60 degrees.
    * ``transmitted_nm``: interpolated between films, one of them at the first estimate.

    Args:
        energies_kev: increasing beam energies, 0.1 to 30 keV.
        electrons: beam electrons per film; thin films and slow electrons, which take little
            time, get up to 16 times as many.
        key: random key (default: seed 0).
        progress: called with (energies done, all energies, text).

    Raises:
        InputError: see `check_calibration`, or nothing came back from the solid.
    """
    check_calibration(energies_kev, electrons)
    key = jax.random.key(0) if key is None else key
    rows = []
    for number, kev in enumerate(energies_kev):
        rows.append(_at_energy(solid, float(kev), electrons, jax.random.fold_in(key, number)))
        if progress is not None:
            progress(number + 1, len(energies_kev), f"{kev:g} keV")
    columns = {name: np.asarray([row[name] for row in rows]) for name in rows[0]}
    names = [field.name for field in dataclasses.fields(InteractionTable)]
    return CalibrationTable(
        table=InteractionTable(**{name: columns[name] for name in names}),
        eta_error=columns["eta_error"],
        delta_error=columns["delta_error"],
        se_by_bse_error=columns["se_by_bse_error"],
        electrons=int(columns["electrons"].sum()),
    )
