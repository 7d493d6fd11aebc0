"""The closed-form electron physics against independent tables and against its own limits."""

import csv
import math

import jax.numpy as jnp
import numpy as np
import pytest

from fibsim import electrons
from fibsim.materials import MATERIALS, material

AVOGADRO = 6.02214e23
GOLD = material("Au")
ENERGIES = jnp.geomspace(0.2, 30.0, 400)


def table(shared_data, name):
    with open(shared_data / "physics" / name, newline="") as file:
        return list(csv.DictReader(file))


def test_backscatter_depth_in_gold_is_the_monte_carlo_median_within_3_percent(shared_data):
    rows = table(shared_data, "epq_bulkAu_hist_summary.csv")
    assert len(rows) == 3
    for row in rows:
        depth = float(electrons.backscatter_depth_nm(float(row["E0_keV"]), GOLD))
        assert depth == pytest.approx(float(row["depth_median_nm"]), rel=0.03)


def test_backscatter_coefficient_of_gold_is_near_monte_carlo_from_1_to_20_kev(shared_data):
    """Within 5 %; the worst is +4.1 % at 1 keV, from 2 keV up 1.4 %.

    The law was fitted from 4 keV up. Below 1 keV it misses the turn of heavy solids (gold at
    0.5 keV: 0.43 against 0.29), which is why the comparison starts at 1 keV.
    """
    rows = [
        row
        for row in table(shared_data, "epq_eta_bulk_combined.csv")
        if row["material"] == "Au"
        and float(row["tilt_deg"]) == 0.0
        and 1.0 <= float(row["E0_keV"]) <= 20.0
    ]
    assert len(rows) == 6
    for row in rows:
        energy = float(row["E0_keV"])
        eta = float(electrons.backscatter_coefficient(energy, GOLD))
        assert eta == pytest.approx(float(row["eta"]), rel=0.05 if energy < 2 else 0.02)


def test_backscatter_coefficient_of_gold_is_within_the_spread_of_measurements(shared_data):
    """Between the lowest and the highest set from 2 to 20 keV, 5 % above the highest at 1 keV.

    The sets differ by 45 % of the lowest at 1 keV and by 8 % at 20 keV.
    """
    rows = [r for r in table(shared_data, "eta_measured.csv") if r["element"] == "Au"]
    for energy in (1.0, 2.0, 3.0, 5.0, 10.0, 20.0):
        near = [float(r["eta"]) for r in rows if abs(float(r["energy_keV"]) / energy - 1) < 0.03]
        assert len(near) >= 3
        eta = float(electrons.backscatter_coefficient(energy, GOLD))
        assert min(near) <= eta <= max(near) * (1.05 if energy < 2 else 1.0)


def test_film_backscatters_as_the_monte_carlo_within_a_tenth_of_bulk(shared_data):
    """``1 - exp(-mu t)`` against the backscattered fraction relative to the thickest film.

    The bound is 0.1 of the bulk's coefficient. The exponential meets the half-way point by
    construction and approaches the bulk too slowly: the worst deviations are -0.09 for 20 nm at
    5 keV and -0.085 for 10 nm at 2 keV, and +0.03 for the thinnest films.
    """
    rows = table(shared_data, "epq_film_Au.csv")
    deviations = []
    for energy in (1.0, 2.0, 5.0):
        films = {
            float(r["thickness_nm"]): float(r["backscattered"])
            for r in rows
            if float(r["E0_keV"]) == energy
        }
        bulk = films[max(films)]
        mu = math.log(2) / float(electrons.backscatter_depth_nm(energy, GOLD))
        for thickness, eta in films.items():
            deviation = 1 - math.exp(-mu * thickness) - eta / bulk
            print(f"{energy:g} keV, {thickness:g} nm: {deviation:+.3f} of bulk")
            deviations.append(deviation)
    assert len(deviations) == 18
    assert max(np.abs(deviations)) < 0.1
    assert np.sqrt(np.mean(np.square(deviations))) < 0.05


@pytest.mark.parametrize(("energy", "free_path_nm"), [(1.0, 0.46), (5.0, 0.87)])
def test_elastic_free_path_in_gold(energy, free_path_nm):
    """The values that the cross section of Browning et al. 1994 is known to give."""
    atoms_per_cm3 = float(GOLD.density_g_cm3 / GOLD.atomic_weight) * AVOGADRO
    cross_section = float(electrons.elastic_cross_section_cm2(energy, GOLD))
    assert 1e7 / (atoms_per_cm3 * cross_section) == pytest.approx(free_path_nm, rel=0.01)


def test_secondary_yield_peaks_where_and_as_high_as_its_arguments_say():
    """The universal curve's rounded constants put its peak 2.5 % above ``peak``."""
    fine = jnp.linspace(0.3, 2.0, 2001)
    for peak, peak_kev in ((1.5, 0.6), (2.3, 0.9)):
        curve = np.asarray(electrons.secondary_yield(fine, peak=peak, peak_kev=peak_kev))
        assert float(fine[curve.argmax()]) == pytest.approx(peak_kev, rel=0.02)
        assert curve.max() == pytest.approx(peak, rel=0.03)


def test_secondary_yield_falls_as_a_power_law_above_its_peak():
    high = np.asarray(electrons.secondary_yield(jnp.array([10.0, 20.0])))
    assert np.log(high[1] / high[0]) / np.log(2) == pytest.approx(-0.67, abs=1e-3)


def test_secondary_yield_has_the_shape_that_is_measured_in_gold(shared_data):
    """From 1 keV up within 20 % rms of every set (worst 19 %, best 4 %).

    Sets differ in height by a factor of two, so each is scaled to its own mean.
    """
    rows = [r for r in table(shared_data, "se_yield_measured.csv") if r["element"] == "Au"]
    for source in {r["source"] for r in rows}:
        points = [r for r in rows if r["source"] == source and float(r["energy_keV"]) >= 1.0]
        if len(points) < 4:
            continue
        energy = jnp.array([float(r["energy_keV"]) for r in points])
        measured = np.array([float(r["delta"]) for r in points])
        ratio = np.log(np.asarray(electrons.secondary_yield(energy)) / measured)
        print(f"{source}: {len(points)} points, rms of log ratio {ratio.std():.3f}")
        assert ratio.std() < 0.2


def test_depth_range_and_losses_are_monotone_in_energy():
    """Browning's cross section turns over below 0.55 keV in gold, so that one starts at 0.6."""
    for law, sign, lowest in (
        (electrons.kanaya_okayama_range_nm, 1, 0.2),
        (electrons.backscatter_depth_nm, 1, 0.2),
        (electrons.stopping_power_kev_cm, -1, 0.2),
        (electrons.elastic_cross_section_cm2, -1, 0.6),
    ):
        values = np.asarray(law(ENERGIES, GOLD))[np.asarray(ENERGIES) >= lowest]
        assert np.all(np.isfinite(values)) and np.all(values > 0)
        assert np.all(sign * np.diff(values) > 0), law.__name__


def test_backscatter_depth_has_no_step_at_its_knee_and_follows_the_range_above():
    depth = np.asarray(electrons.backscatter_depth_nm(ENERGIES, GOLD), float)
    slope = np.diff(np.log(depth)) / np.diff(np.log(np.asarray(ENERGIES, float)))
    assert np.max(np.abs(np.diff(slope))) < 0.02
    assert slope[-1] == pytest.approx(1.67, abs=0.01)


def test_kanaya_okayama_range_of_gold():
    """27.6 * 196.967 / (79^0.889 * 19.3) = 5.79 nm at 1 keV."""
    assert float(electrons.kanaya_okayama_range_nm(1.0, GOLD)) == pytest.approx(5.79, abs=0.01)


def test_heavier_elements_backscatter_more():
    names = ("C", "Al", "Ti", "Cu", "Ag", "Au")
    eta = [float(electrons.backscatter_coefficient(5.0, material(name))) for name in names]
    assert np.all(np.diff(eta) > 0)


def test_stopping_power_approaches_bethe_and_stays_positive_below():
    """At 30 keV the low-energy term changes ``ln(1.166 E / J)`` by less than 1 %."""
    j_kev = float(electrons.mean_ionisation_ev(79.0)) / 1000
    bethe = 78500 * 19.3 * 79 / (196.967 * 30) * math.log(1.166 * 30 / j_kev)
    assert float(electrons.stopping_power_kev_cm(30.0, GOLD)) == pytest.approx(bethe, rel=0.01)
    assert float(electrons.stopping_power_kev_cm(0.05, GOLD)) > 0


def test_mean_ionisation_on_both_sides_of_its_branch():
    assert float(electrons.mean_ionisation_ev(6.0)) == pytest.approx(69.0)
    expected = 9.76 * 79 + 58.5 * 79**-0.19
    assert float(electrons.mean_ionisation_ev(79.0)) == pytest.approx(expected, rel=1e-5)


def test_every_material_of_the_table_is_plausible():
    for name in MATERIALS:
        solid = material(name)
        assert 1 < float(solid.atomic_number) < float(solid.atomic_weight)
        assert 0.04 < float(electrons.backscatter_coefficient(5.0, solid)) < 0.5


def test_compounds_enter_by_mass_weighted_means():
    silica = material("SiO2")
    mass = 28.085 + 2 * 15.999
    expected = (28.085 * 14 + 2 * 15.999 * 8) / mass
    assert float(silica.atomic_number) == pytest.approx(expected, rel=1e-5)
