"""Fast secondaries: their spectrum, the balance of energy, and the weights that stand for a stack.

The tables are compared with integrals and energies from elsewhere, the kernel with an electron
Monte Carlo that keeps every secondary (`analog`), which shares the tables but no code with it.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_tables import rows
from scipy import integrate, special

from fibsim.materials import composition
from fibsim.montecarlo import Detector, bulk_yields, film_yields, image, image_yields
from fibsim.montecarlo.fast_secondaries import AUGER_NODES, NODES, mean_kev, section_above_cm2
from fibsim.montecarlo.mott import quantile_grid
from fibsim.montecarlo.scattering import _LN_E, transport_tables
from fibsim.montecarlo.shells import Shell, shells

KEY = jax.random.key(0)
GOLD = composition("Au")


# Tables


@pytest.mark.parametrize(
    ("z", "measured_ev"),
    [(6, [284]), (13, [1559, 118, 73]), (14, [1839, 150, 99]), (29, [8979, 1097, 939, 123, 76])],
)
def test_binding_energies_are_near_measured_ones(z, measured_ev):
    """Levels over 50 eV (X-ray Data Booklet, 2009, mean of doublets) within 12 %."""
    found = [1000 * shell.binding_kev for shell in shells(z) if shell.binding_kev > 0.05]
    np.testing.assert_allclose(found, measured_ev, rtol=0.12)
    assert sum(shell.electrons for shell in shells(z)) == z


def test_all_elements_have_all_their_electrons():
    for z in range(1, 93):
        assert sum(shell.electrons for shell in shells(z)) == z
        assert all(shell.binding_kev > 0 for shell in shells(z))


def test_cross_section_of_free_electrons_is_mollers():
    """``pi e^4 / E [1/W - 1/(E-W) + ln(W/(E-W)) / E]``: Moller's at low speed, integrated from W.

    e^4 is 2 a_0 Rydberg squared. An electron bound by 1 meV is free, within twice that over W.
    """
    e4 = (2 * 0.529177211e-8 * 0.0136056931) ** 2
    energy, w = np.array([[0.5], [5.0], [20.0]]), np.array([0.05, 0.1, 0.2])
    expected = np.pi * e4 / energy * (1 / w - 1 / (energy - w) + np.log(w / (energy - w)) / energy)
    found = section_above_cm2(energy, w, Shell(electrons=1, binding_kev=1e-6))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("binding_kev", [0.01, 0.1, 1.0])
def test_closed_form_is_the_integral_of_the_spectrum(binding_kev):
    """The spectrum written out once more (Kim & Rudd 1994, equation 44) and integrated."""
    energy, least = 5.0, 0.05
    t = energy / binding_kev
    s = 4 * np.pi * 0.529177211e-8**2 * 6 * (0.0136056931 / binding_kev) ** 2

    def density(w):
        moller = 1 / (w + 1) ** 2 + 1 / (t - w) ** 2 - (1 / (w + 1) + 1 / (t - w)) / (t + 1)
        distant = np.log(t) / (w + 1) ** 3 if binding_kev > 0.02 else 0.0
        return s / (t + 2) * (moller + distant)

    expected, _ = integrate.quad(density, least / binding_kev, (t - 1) / 2, epsabs=0, epsrel=1e-9)
    found = section_above_cm2(
        np.array(energy), np.array(least), Shell(electrons=6, binding_kev=binding_kev)
    )
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["C", "Al", "Au"])
def test_tabled_spectrum_is_that_of_the_cross_sections(name):
    """Shares above 0.1, 0.3 and 1 keV of energies drawn from the table at 5 keV."""
    solid = composition(name)
    fast = transport_tables((None, solid), fast_secondaries=True).fast
    row = int(np.argmin(np.abs(np.exp(_LN_E) - 5.0)))
    energy = float(np.exp(_LN_E[row]))
    uniform = np.random.default_rng(0).uniform(size=400_000)
    inverse = np.interp(uniform * NODES, np.arange(NODES + 1), np.asarray(fast.inverse_kev)[1, row])
    drawn = 1 / inverse
    z = solid.elements[0][0]

    def above(w):
        return sum(float(section_above_cm2(np.array(energy), np.array(w), s)) for s in shells(z))

    for w in (0.1, 0.3, 1.0):
        expected = above(w) / above(0.05)
        assert np.mean(drawn > w) == pytest.approx(expected, rel=0.02, abs=5e-4), w
    assert drawn.min() >= 0.05 * (1 - 1e-5) and drawn.max() <= energy / 2
    assert np.mean(drawn) == pytest.approx(float(mean_kev(np.asarray(fast.inverse_kev)[1, row])),
                                           rel=0.01)  # fmt: skip
    per_nm = 6.02214076e23 * solid.density_g_cm3 / solid.elements[0][1] * 1e-7
    knocked_on = float(fast.rate[1, row]) * (1 - float(fast.auger[1, row]))
    assert knocked_on == pytest.approx(per_nm * above(0.05), rel=1e-5)


def test_auger_electrons_have_the_energies_of_measured_lines():
    """KVV of carbon, LVV of aluminium and silicon, MVV of copper within 8 eV."""
    for name, measured_ev in (("C", 272), ("Al", 68), ("Si", 92), ("Cu", 60)):
        fast = transport_tables((None, composition(name)), fast_secondaries=True).fast
        row = int(np.argmin(np.abs(np.exp(_LN_E) - 2.0)))
        lines, count = np.unique(np.asarray(fast.auger_kev)[1, row], return_counts=True)
        assert 1000 * lines[np.argmax(count)] == pytest.approx(measured_ev, abs=8)


def test_every_vacancy_gives_one_auger_electron():
    """At 1.5 keV in silicon: 2s and 2p vacancies, none of 1s, by the total cross section."""
    solid = composition("Si")
    fast = transport_tables((None, solid), fast_secondaries=True).fast
    row = int(np.argmin(np.abs(np.exp(_LN_E) - 1.5)))
    energy = np.exp(_LN_E[row]).astype(float)
    per_nm = 6.02214076e23 * solid.density_g_cm3 / solid.elements[0][1] * 1e-7
    expected = per_nm * sum(
        section_above_cm2(energy, np.array(0.0), s) for s in shells(14) if s.binding_kev > 0.05
    )
    assert float(fast.rate[1, row] * fast.auger[1, row]) == pytest.approx(expected, rel=1e-5)


def test_they_never_carry_away_more_than_is_lost():
    names = ("C", "Al", "Si", "Cu", "Au", "resin", "ZrO2")
    fast = transport_tables((None, *map(composition, names)), fast_secondaries=True).fast
    share = np.asarray(fast.share)
    assert np.all(share >= 0) and np.all(share < 0.7)
    assert np.all(share[0] == 0) and np.all(np.asarray(fast.rate)[0] == 0)


# Kernel


def changed_tables(monkeypatch, change):
    """Makes `image` use ``change(tables)`` of its transport tables."""
    made = transport_tables

    def tables(*args, **kwargs):
        return change(made(*args, **kwargs))

    monkeypatch.setattr(image, "transport_tables", tables)


def test_without_any_backscatter_is_the_same(monkeypatch):
    """With the option and a rate of 0, backscatter is bit for bit that without the option.

    Secondaries are not: without it flights that leave the solid release half of them.
    """
    arguments = dict(beam_kev=2.0, electrons=8192, key=KEY, tilt_deg=38.0)
    detectors = ["SE", "BSE", "ESB", Detector(kind="BSE", depth_nm=2.0)]
    without = bulk_yields(GOLD, **arguments, detectors=detectors)

    def none(tables):
        if tables.fast is None:
            return tables
        zero = jnp.zeros_like(tables.fast.rate)
        return dataclasses.replace(
            tables, fast=dataclasses.replace(tables.fast, rate=zero, share=zero)
        )

    changed_tables(monkeypatch, none)
    zero = bulk_yields(GOLD, **arguments, detectors=detectors, fast_secondaries=True)
    np.testing.assert_array_equal(without.mean[1:], zero.mean[1:])
    np.testing.assert_array_equal(without.error[1:], zero.error[1:])
    assert without.steps == zero.steps
    assert without.mean[0] < zero.mean[0] < 1.2 * without.mean[0]


def test_tables_without_the_option_have_none():
    assert transport_tables((None, GOLD)).fast is None


@pytest.mark.parametrize("name", ["C", "Au"])
def test_energy_is_conserved(monkeypatch, name):
    """All energy down to 50 eV releases secondaries, however many generations carry it: in 2 %.

    Without deflection in collisions nothing comes back, and with an endless escape depth every
    second secondary does, so their yield is (E - 50 eV) / (2 x energy per secondary).
    """
    solid = composition(name)

    def straight(tables):
        return dataclasses.replace(
            tables,
            sine_half=jnp.zeros_like(tables.sine_half),
            se_escape_nm=jnp.full_like(tables.se_escape_nm, 1e6),
        )

    changed_tables(monkeypatch, straight)
    for fast in (False, True):
        out = bulk_yields(solid, beam_kev=2.0, electrons=16384, key=KEY, fast_secondaries=fast)
        expected = (2000.0 - 50.0) / solid.se_energy_ev / 2
        print(f"{name}, {fast}: {out.mean[0]:.2f} +- {out.error[0]:.2f} against {expected:.2f}")
        assert 0 <= out.mean[1] < 0.2  # Auger electrons, and of a second generation
        assert out.mean[0] == pytest.approx(expected, rel=0.02, abs=4 * float(out.error[0]))


def analog(solid, beam_kev, electrons, seed):
    """Yields (SE, BSE) of bulk and their errors, with a stack of all generations.

    In numpy, at normal incidence; secondaries' escape is averaged: E_2(z / lambda) / 2.
    """
    tables = jax.tree.map(
        lambda leaf: np.asarray(leaf, float)[1],
        transport_tables((None, solid), fast_secondaries=True),
    )
    rng = np.random.default_rng(seed)
    grid = np.exp(_LN_E)

    def by_energy(column, energy):
        return np.interp(energy, grid, column)

    def by_quantile(table, energy, coordinate, steps):
        """Bilinear: between energies, and between the quantiles of a table."""
        upper = np.clip(np.searchsorted(grid, energy), 1, len(grid) - 1)
        part = np.clip((energy - grid[upper - 1]) / (grid[upper] - grid[upper - 1]), 0, 1)
        row = upper - (rng.uniform(size=len(energy)) > part)
        node = np.minimum(coordinate.astype(int), steps - 1)
        low, high = table[row, node], table[row, node + 1]
        return low + (coordinate - node) * (high - low)

    def turned(direction, cosine):
        """Turn by an angle and any azimuth: along, and two vectors across."""
        across = np.cross(
            direction, np.where(np.abs(direction[:, :1]) < 0.9, (1.0, 0, 0), (0, 1.0, 0))
        )
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        other = np.cross(direction, across)
        turn = rng.uniform(0, 2 * np.pi, len(cosine))[:, None]
        sine = np.sqrt(np.maximum(1 - cosine**2, 0))[:, None]
        return cosine[:, None] * direction + sine * (np.cos(turn) * across + np.sin(turn) * other)

    depth = np.full(electrons, 1e-4)
    direction = np.tile((0.0, 0.0, 1.0), (electrons, 1))
    energy, owner = np.full(electrons, beam_kev), np.arange(electrons)
    counts = np.zeros((2, electrons))
    probability = quantile_grid()
    while len(depth):
        free = -np.log(rng.uniform(size=len(depth))) / by_energy(tables.attenuation, energy)
        # Of a flight that ends outside only the part in the solid counts.
        rise = -direction[:, 2] * free
        inside = np.where(rise > depth, np.maximum(depth, 0) / np.maximum(rise, 1e-12), 1.0)
        at = depth + rng.uniform(size=len(depth)) * inside * free * direction[:, 2]
        loss = by_energy(tables.stopping, energy) * free * inside
        slow = loss * (1 - by_energy(tables.fast.share, energy)) * tables.se_per_kev
        np.add.at(counts[0], owner, slow * special.expn(2, at / tables.se_escape_nm) / 2)
        births = rng.poisson(by_energy(tables.fast.rate, energy) * free * inside)
        who = np.repeat(np.arange(len(depth)), births)
        coordinate = rng.uniform(size=len(who)) * NODES
        state = rng.bit_generator.state
        new_energy = 1 / by_quantile(tables.fast.inverse_kev, energy[who], coordinate, NODES)
        rng.bit_generator.state = state  # the same rows for the angle
        squared = by_quantile(tables.fast.cosine_squared, energy[who], coordinate, NODES)
        cosine = np.sqrt(squared)
        auger = rng.uniform(size=len(who)) < by_energy(tables.fast.auger, energy[who])
        row = np.clip(np.searchsorted(grid, energy[who]), 0, len(grid) - 1)
        line = rng.integers(AUGER_NODES, size=len(who))
        new_energy = np.where(auger, tables.fast.auger_kev[row, line], new_energy)
        cosine = np.where(auger, rng.uniform(-1, 1, len(who)), cosine)
        new_depth = depth[who] + rng.uniform(size=len(who)) * (inside * free * direction[:, 2])[who]
        new_direction = turned(direction[who], cosine)

        energy = energy - loss
        depth = depth + free * direction[:, 2]
        left = (depth < 0) & (energy >= 0.05)
        np.add.at(counts[1], owner[left], 1.0)
        uniform = rng.uniform(size=len(depth))
        spot = np.interp(uniform, probability, np.arange(len(probability)))
        half = by_quantile(tables.sine_half, energy + loss, spot, len(probability) - 1)
        direction = turned(direction, 1 - 2 * half**2)
        alive = (depth >= 0) & (energy >= 0.05)
        # What cannot reach the surface, or whose secondaries cannot, ends.
        depth, direction, energy, owner = (
            np.concatenate([old[alive], new])
            for old, new in (
                (depth, new_depth), (direction, new_direction), (energy, new_energy),
                (owner, owner[who]),
            )
        )  # fmt: skip
        reach = by_energy(tables.range_nm, energy) + 4 * tables.se_escape_nm
        near = depth < reach
        depth, direction, energy, owner = (a[near] for a in (depth, direction, energy, owner))
    return counts.mean(1), counts.std(1) / np.sqrt(electrons)


@pytest.mark.parametrize(("name", "kev"), [("C", 1.0), ("Au", 2.0)])
def test_weights_stand_for_all_secondaries(name, kev):
    """Yields within 4 standard errors and 2 % (BSE), 3 % (SE) of those with a stack."""
    solid = composition(name)
    expected, error = analog(solid, kev, 16000, 1)
    out = bulk_yields(solid, beam_kev=kev, electrons=65536, key=KEY, fast_secondaries=True)
    print(f"{name} {kev:g} keV: {out.mean} +- {out.error} against {expected} +- {error}")
    for ours, own, other, others, bound in zip(
        out.mean, out.error, expected, error, (0.03, 0.02), strict=True
    ):
        assert abs(ours - other) < 4 * np.hypot(own, others) + bound * other


@pytest.mark.parametrize("kev", [2.0])
def test_film_over_a_gap_over_bulk_still_has_the_eta_of_bulk(kev):
    """Exact: an endless gap only displaces trajectories, those of fast secondaries too."""
    whole = bulk_yields(
        GOLD, beam_kev=kev, electrons=32768, key=KEY, detectors=["BSE"], fast_secondaries=True
    )
    split = film_yields(
        GOLD, 5.0, gap_nm=20.0, beam_kev=kev, electrons=32768, key=jax.random.key(1),
        detectors=["BSE"], fast_secondaries=True,
    )  # fmt: skip
    print(f"{kev:g} keV: bulk {whole.mean[0]:.4f}, over a gap {split.mean[0]:.4f}")
    assert abs(whole.mean[0] - split.mean[0]) < 4 * np.hypot(whole.error[0], split.error[0])


def test_images_of_a_pore_are_the_same_for_any_block(monkeypatch):
    """And homogeneous voxels have the yields of bulk, secondaries of fast secondaries included."""
    from fibsim.montecarlo import transport

    arguments = dict(
        voxel_nm=(2.0,) * 3, beam_kev=2.0, faces_nm=[0.0], pixel_nm=4.0, key=KEY,
        fast_secondaries=True,
    )  # fmt: skip
    phases = np.ones((16, 16, 16), np.uint8)
    phases[:12, 4:12, 4:12] = 0
    whole = image_yields(phases, (None, GOLD), **arguments, electrons=5)
    monkeypatch.setattr(transport, "_BLOCK", 7)
    blocks = image_yields(phases, (None, GOLD), **arguments, electrons=5)
    np.testing.assert_allclose(whole.mean, blocks.mean, rtol=1e-5)
    assert whole.steps == blocks.steps
    monkeypatch.undo()

    voxels = image_yields(np.ones((30, 8, 8), np.uint8), (None, GOLD), **arguments, electrons=2000)
    bulk = bulk_yields(GOLD, beam_kev=2.0, electrons=32768, key=KEY, fast_secondaries=True)
    for image_mean, flat, error in zip(voxels.mean, bulk.mean, bulk.error, strict=True):
        noise = image_mean.std() / np.sqrt(image_mean.size)
        assert abs(image_mean.mean() - flat) < 4 * np.hypot(noise, error)


def test_gain_in_backscatter_is_penreds():
    """eta_all / eta_primary of bulk, 0.5 to 20 keV: within 0.05 and 3 standard errors of PenRed's.

    PenRed follows knock-on and Auger electrons down to 50 eV by other cross sections (PENELOPE).
    """
    for row in [*rows("penred_eta_bulk.csv"), *rows("penred_eta_bulkother.csv")]:
        kev, tilt = float(row["E0_keV"]), float(row["tilt_deg"])
        if kev not in (0.5, 2.0, 20.0) or tilt:
            continue
        primary, every = float(row["eta_primary"]), float(row["eta_all_gt50eV"])
        # Their runs are counted together, so the ratio's error is that of the difference.
        error = np.sqrt((every - primary) / float(row["n_electrons"])) / primary
        ours = [
            bulk_yields(
                composition(row["material"]), beam_kev=kev, electrons=electrons,
                key=jax.random.key(number), detectors=["BSE"], fast_secondaries=fast,
            )
            for number, (fast, electrons) in enumerate([(False, 32768), (True, 65536)])
        ]  # fmt: skip
        without, with_them = ours
        ratio = with_them.mean[0] / without.mean[0]
        own = ratio * np.hypot(*(o.error[0] / o.mean[0] for o in ours))
        print(f"{row['material']} {kev:g} keV: {ratio:.3f} +- {own:.3f}, "
              f"PenRed {every / primary:.3f} +- {error:.3f}")  # fmt: skip
        assert abs(ratio - every / primary) < 0.05 + 3 * np.hypot(own, error)


def test_command_follows_them_on_request(capsys):
    from fibsim.cli import main

    command = ["montecarlo", "Cu", "--electrons", "16", "--beam-kev", "2", "--detectors", "BSE"]
    eta = []
    for more in ([], ["--fast-secondaries"]):
        assert main([*command, *more]) == 0
        eta.append(float(capsys.readouterr().out.splitlines()[-1].split()[1]))
    assert 1.03 < eta[1] / eta[0] < 1.17
