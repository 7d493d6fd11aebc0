"""The Monte Carlo against conservation, closed forms and published tables.

Tables: NIST EPQ (Mott, Joy-Luo) and PenRed runs in the shared data; tests that read them skip
where they are absent.
"""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_tables import agreed_eta, rows

from fibsim.errors import InputError
from fibsim.materials import composition
from fibsim.montecarlo import Detector, bulk_yields, film_yields, image_yields
from fibsim.montecarlo.mott import cross_section, phase_shifts, quantile_grid
from fibsim.montecarlo.random_bits import seed_lanes, uniform
from fibsim.montecarlo.scattering import transport_tables
from fibsim.montecarlo.scene import make_scene

GOLD = composition("Au")
KEY = jax.random.key(0)


# Elastic cross sections


@pytest.mark.parametrize(("z", "kev"), [(6, 1.0), (29, 0.1), (79, 1.0), (79, 20.0)])
def test_total_cross_section_obeys_the_partial_wave_sum(z, kev):
    """``sigma = 4 pi / k^2 sum (l + 1) sin^2 delta_up + l sin^2 delta_down``, by another route."""
    up, down = phase_shifts(z, kev)
    energy = kev / 0.0272113862
    k = np.sqrt(energy * (energy + 2 * 137.035999**2)) / 137.035999
    order = np.arange(len(up))
    waves = np.sum((order + 1) * np.sin(up) ** 2 + order * np.sin(down) ** 2)
    expected = 4 * np.pi / k**2 * waves * 0.529177211e-8**2
    assert cross_section(z, kev)[0] == pytest.approx(expected, rel=2e-3)


def test_born_limit_of_phase_shifts():
    """High waves of a light atom see a weak field: ``delta = -2 k int V j_l^2 r^2 dr`` (Born)."""
    from scipy import special

    from fibsim.montecarlo.atoms import potential

    kev, z = 1.0, 6
    up, _ = phase_shifts(z, kev)
    energy = kev / 0.0272113862
    k = np.sqrt(2 * energy)
    r = np.linspace(1e-4, 12, 40000)
    for wave in (20, 25):
        shape = special.spherical_jn(wave, k * r) ** 2 * r**2
        born = -2 * k * np.trapezoid(potential(z, r, energy) * shape, r)
        assert up[wave] == pytest.approx(born, rel=0.05)


def test_shipped_table_is_what_the_solver_gives():
    tables = transport_tables((composition("C"),), elastic="mott")
    from fibsim.montecarlo.mott import ENERGIES_KEV
    from fibsim.montecarlo.scattering import _mott_table

    total, _, quantiles = cross_section(6, ENERGIES_KEV[12])
    table = _mott_table()
    assert table["cross_section_cm2"][5, 12] == pytest.approx(total, rel=1e-4)
    np.testing.assert_allclose(table["sine_half_angle"][5, 12] ** 2, quantiles, rtol=3e-3)
    assert np.all(np.diff(np.asarray(tables.sine_half)[0], axis=-1) >= 0)
    assert len(quantile_grid()) == tables.sine_half.shape[-1]


# Random numbers


def test_uniform_numbers_have_the_moments_of_uniform_numbers():
    keys = seed_lanes(KEY, 4096)
    u = np.stack([np.asarray(uniform(keys, jnp.uint32(n))) for n in range(64)])
    assert 0 < u.min() and u.max() < 1
    n = u.size
    assert u.mean() == pytest.approx(0.5, abs=5 * np.sqrt(1 / 12 / n))
    assert u.var() == pytest.approx(1 / 12, abs=5 * np.sqrt(1 / 180 / n))
    assert abs(np.mean((u[1:] - 0.5) * (u[:-1] - 0.5))) < 5 / 12 / np.sqrt(n)  # in time
    assert abs(np.mean((u[:, 1:] - 0.5) * (u[:, :-1] - 0.5))) < 5 / 12 / np.sqrt(n)  # lanes


# Flat specimens


def test_every_electron_is_accounted_for_and_errors_are_binomial():
    """A beam electron comes back at most once, so the variance of its count is p (1 - p)."""
    out = film_yields(GOLD, 10.0, beam_kev=2.0, electrons=20000, key=KEY)
    back, through = out.mean
    assert 0 < back < 1 and 0 < through < 1 and back + through <= 1
    np.testing.assert_allclose(
        out.error, np.sqrt(out.mean * (1 - out.mean) / out.electrons), rtol=0.01
    )


def test_same_key_same_result_other_key_within_errors():
    a, b, c = (
        bulk_yields(GOLD, beam_kev=1.0, electrons=8192, key=jax.random.key(k)) for k in (3, 3, 4)
    )
    np.testing.assert_array_equal(a.mean, b.mean)
    assert np.all(a.mean != c.mean)
    assert np.all(np.abs(a.mean - c.mean) < 5 * np.hypot(a.error, c.error))


@pytest.mark.parametrize("kev", [1.0, 5.0])
def test_film_over_a_gap_over_bulk_has_the_eta_of_bulk(kev):
    """Exact: an endless gap only displaces trajectories."""
    whole = bulk_yields(GOLD, beam_kev=kev, electrons=12288, key=KEY, detectors=["BSE"])
    split = film_yields(
        GOLD, 5.0, gap_nm=20.0, beam_kev=kev, electrons=12288, key=jax.random.key(1),
        detectors=["BSE"],
    )  # fmt: skip
    print(f"{kev:g} keV: bulk {whole.mean[0]:.4f}, over a gap {split.mean[0]:.4f}")
    assert abs(whole.mean[0] - split.mean[0]) < 4 * np.hypot(whole.error[0], split.error[0])


def test_gold_films_agree_with_epq():
    """Transmitted and backscattered fractions within 0.02 at 2 and 5 keV."""
    worst = 0.0
    for row in rows("epq_film_Au.csv"):
        kev, thickness = float(row["E0_keV"]), float(row["thickness_nm"])
        if kev not in (2.0, 5.0):
            continue
        out = film_yields(GOLD, thickness, beam_kev=kev, electrons=16384, key=KEY)
        expected = np.array([float(row["backscattered"]), float(row["transmitted"])])
        worst = max(worst, *np.abs(out.mean - expected))
        assert np.all(np.abs(out.mean - expected) < 0.02), (kev, thickness, out.mean, expected)
    print(f"largest difference {worst:.4f}")


def test_depths_of_backscattered_electrons_agree_with_epq():
    """Median, 90 % and 99 % of their greatest depth in gold within 10 %."""
    for row in rows("epq_bulkAu_hist_summary.csv"):
        kev = float(row["E0_keV"])
        median = float(row["depth_median_nm"])
        depths = np.linspace(0.2, 4.0, 39) * median
        detectors = [*(Detector(kind="BSE", depth_nm=d) for d in depths), "BSE"]
        out = bulk_yields(GOLD, beam_kev=kev, electrons=16384, key=KEY, detectors=detectors)
        share = out.mean[:-1] / out.mean[-1]
        found = np.interp([0.5, 0.9, 0.99], share, depths)
        expected = [float(row[f"depth_{q}_nm"]) for q in ("median", "90pct", "99pct")]
        print(f"{kev:g} keV: {found.round(2)} against {expected}")
        np.testing.assert_allclose(found, expected, rtol=0.1)


def test_bulk_eta_agrees_where_other_codes_agree():
    """Within 5 % (and 3 standard errors) of the mean of EPQ and PenRed if they are as near."""
    compared = 0
    for case, epq, other in agreed_eta():
        out = bulk_yields(
            composition(case[0]), beam_kev=case[1], tilt_deg=case[2], electrons=16384, key=KEY,
            detectors=["BSE"],
        )  # fmt: skip
        middle = (epq + other) / 2
        print(f"{case}: {out.mean[0]:.4f} against {epq:.4f} and {other:.4f}")
        assert abs(out.mean[0] - middle) < 0.05 * middle + 3 * out.error[0], case
        compared += 1
    assert compared >= 8


def test_secondary_yield_falls_with_energy_and_rises_with_tilt():
    """Above its peak the yield falls as the loss per path; tilted by 60 degrees it is larger."""
    yields = [
        bulk_yields(GOLD, beam_kev=kev, electrons=16384, key=KEY).mean[0] for kev in (1, 2, 5)
    ]
    assert np.all(np.diff(yields) < 0)
    tilted = bulk_yields(GOLD, beam_kev=2.0, tilt_deg=60.0, electrons=16384, key=KEY).mean[0]
    assert 1.3 < tilted / yields[1] < 2.1  # at most the secant law's 2


# Blocks and devices


def test_blocks_of_lanes_do_not_change_the_result(monkeypatch):
    from fibsim.montecarlo import transport

    whole = image_yields(cube(), (None, GOLD), **{**ARGUMENTS, "electrons": 5})
    monkeypatch.setattr(transport, "_BLOCK", 7)
    blocks = image_yields(cube(), (None, GOLD), **{**ARGUMENTS, "electrons": 5})
    np.testing.assert_allclose(whole.mean, blocks.mean, rtol=1e-5)
    assert whole.steps == blocks.steps


_ON_DEVICES = """
import jax, numpy as np
from fibsim.materials import composition
from fibsim.montecarlo import image, image_yields
image._LANES_CPU = image._LEAST_LANES = 4  # batches for all devices
phases = np.ones((4, 4, 4), np.uint8)
phases[:3, 1:3, 1:3] = 0
devices, used, transport = jax.local_devices(), set(), image.transport
def recorded(*args, **kwargs):
    tally = transport(*args, **kwargs)
    used.update(tally.total.devices())
    return tally
image.transport = recorded
for several in (devices, devices[:1]):
    used.clear()
    jax.local_devices = lambda: several
    out = image_yields(
        phases, (None, composition("Au")), voxel_nm=(2.0,) * 3, beam_kev=0.5, faces_nm=[0.0],
        pixel_nm=2.0, electrons=4, key=jax.random.key(0),
    )
    print(len(used), *out.mean.ravel())
"""


def test_several_devices_give_the_result_of_one():
    """Batches are dealt out to devices; every pixel has its own seed, wherever it runs."""
    own = dict(
        XLA_FLAGS="--xla_backend_optimization_level=0",
        JAX_PLATFORMS="cpu",
        JAX_NUM_CPU_DEVICES="4",
    )
    done = subprocess.run(
        [sys.executable, "-c", _ON_DEVICES],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        check=True,
    )
    four, one = (line.split() for line in done.stdout.splitlines())
    assert (four[0], one[0]) == ("4", "1")
    assert four[1:] == one[1:]
    assert max(map(float, one[1:])) > 0


# Voxels


def cube():
    """Gold with a pore 16 nm wide and 24 nm deep, and a buried void."""
    phases = np.ones((16, 16, 16), np.uint8)
    phases[:12, 4:12, 4:12] = 0
    return phases


ARGUMENTS = dict(
    voxel_nm=(2.0, 2.0, 2.0), beam_kev=2.0, faces_nm=[0.0], pixel_nm=4.0, electrons=300, key=KEY
)


def test_homogeneous_voxels_have_the_yield_of_bulk():
    out = image_yields(np.ones((30, 8, 8), np.uint8), (None, GOLD), **ARGUMENTS)
    bulk = bulk_yields(GOLD, beam_kev=2.0, electrons=30000, key=KEY)
    for voxels, flat, error in zip(out.mean, bulk.mean, bulk.error, strict=True):
        noise = voxels.std() / np.sqrt(voxels.size)
        assert abs(voxels.mean() - flat) < 4 * np.hypot(noise, error)


def test_size_of_voxels_does_not_matter():
    """The same pore in voxels of 2 and of 1 nm."""
    fine = np.repeat(np.repeat(np.repeat(cube(), 2, 0), 2, 1), 2, 2)
    coarse = image_yields(cube(), (None, GOLD), **ARGUMENTS)
    other = image_yields(
        fine, (None, GOLD), **{**ARGUMENTS, "voxel_nm": (1.0,) * 3, "key": jax.random.key(9)}
    )
    difference = (coarse.mean - other.mean) / np.hypot(coarse.error, other.error).clip(1e-3)
    print(f"rms difference in standard errors {np.sqrt(np.mean(difference**2)):.2f}")
    assert np.sqrt(np.mean(difference**2)) < 1.3


def test_pores_are_darker_and_their_darkness_is_that_of_the_depth():
    out = image_yields(cube(), (None, GOLD), **ARGUMENTS)
    inside, outside = out.mean[:, 0, 3:5, 3:5].mean((1, 2)), out.mean[:, 0, 0].mean(1)
    assert np.all(inside < 0.7 * outside)


def test_faces_mill_away_what_lies_above():
    """The image of a face is that of the specimen cut there."""
    deep = image_yields(cube(), (None, GOLD), **{**ARGUMENTS, "faces_nm": [8.0]})
    cut = image_yields(cube()[4:], (None, GOLD), **{**ARGUMENTS, "key": jax.random.key(5)})
    difference = (deep.mean - cut.mean) / np.hypot(deep.error, cut.error).clip(1e-3)
    assert np.sqrt(np.mean(difference**2)) < 1.3


def test_resin_in_the_pore_is_a_dense_medium():
    """Between vacuum and gold: resin scatters back a little where vacuum shows the floor."""
    filled = image_yields(cube(), (composition("resin"), GOLD), **ARGUMENTS)
    assert np.all(np.isfinite(filled.mean))
    inside, outside = filled.mean[1, 0, 3:5, 3:5].mean(), filled.mean[1, 0, 0].mean()
    assert 0.02 < inside < 0.6 * outside


def test_energy_and_angle_windows_split_the_backscattered_electrons():
    detectors = [
        "BSE",
        Detector(kind="BSE", energy=(0.0, 0.7)),
        Detector(kind="BSE", energy=(0.7, 1.0)),
        "BSE-high-angle",
        "BSE-low-angle",
        "InLens",
        "SE",
    ]
    all_bse, slow, fast, high, low, lens, se = bulk_yields(
        GOLD, beam_kev=2.0, electrons=8192, key=KEY, detectors=detectors
    ).mean
    assert slow + fast == pytest.approx(all_bse, abs=2e-3)
    assert high + low == pytest.approx(all_bse, abs=2e-3)
    # A cosine law sends sin^2 45 = 1/2 within 45 degrees.
    assert lens / se == pytest.approx(0.5, abs=0.05)


def test_clearance_is_a_lower_bound_of_the_way_to_another_phase():
    rng = np.random.default_rng(0)
    phases = (rng.uniform(size=(9, 10, 11)) > 0.97).astype(np.uint8)
    voxel = (1.0, 2.0, 1.5)
    scene = make_scene(phases, voxel, periodic=True)
    clearance = np.asarray(scene.cells).reshape(phases.shape) // 8 * float(scene.clearance_nm)
    index = np.argwhere(np.ones_like(phases))
    for z, y, x in index[:: len(index) // 60]:
        other = np.argwhere(phases != phases[z, y, x])
        way = np.abs(other - (z, y, x)).astype(float)
        for axis in (1, 2):
            way[:, axis] = np.minimum(way[:, axis], phases.shape[axis] - way[:, axis])
        gap = np.maximum(way - 1, 0) * voxel  # between the voxels' faces
        assert clearance[z, y, x] <= np.linalg.norm(gap, axis=1).min() + 1e-6


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(beam_kev=60.0), "expected 0.1 to 30"),
        (dict(tilt_deg=89.0), "expected -80 to 80"),
        (dict(electrons=0), "at least 1"),
        (dict(faces_nm=[50.0]), "expected 0 to below 32 nm"),
        (dict(pixel_nm=40.0), "wider than the specimen"),
        (dict(elastic="rutherford"), "expected one of"),
        (dict(detectors=["SED"]), "detector 'SED' is unknown"),
        (dict(detectors=[]), "at least one"),
        (dict(detectors=[Detector(kind="BSE", energy=(0.9, 0.2))]), "empty window"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(InputError, match=message):
        image_yields(cube(), (None, GOLD), **{**ARGUMENTS, **change})


def test_bad_specimens_and_compositions_are_named():
    with pytest.raises(InputError, match="phase indices"):
        image_yields(jnp.ones((4, 4, 4)), (None, GOLD), **ARGUMENTS)
    with pytest.raises(InputError, match="phase 1 but 1 materials"):
        image_yields(cube(), (None,), **ARGUMENTS)
    with pytest.raises(InputError, match="add up to"):
        composition("brass", weight_fractions={"Cu": 0.7, "Zn": 0.2}, density_g_cm3=8.5)
    with pytest.raises(InputError, match="density"):
        composition("brass", weight_fractions={"Cu": 0.7, "Zn": 0.3})
    with pytest.raises(InputError, match="'Xx' is unknown"):
        composition("x", weight_fractions={"Xx": 1.0}, density_g_cm3=8.5)


# Command


def test_command_prints_bulk_yields_and_writes_images(tmp_path, capsys):
    from fibsim.cli import main
    from fibsim.io import read_volume, read_voxel_nm, write_volume

    assert main(["montecarlo", "Cu", "--electrons", "4", "--beam-kev", "2"]) == 0
    line = capsys.readouterr().out.splitlines()[-1].split()
    assert float(line[0]) == 2 and 0.25 < float(line[4]) < 0.38

    volume, out = tmp_path / "cube.tif", tmp_path / "out"
    write_volume(volume, 255 * cube(), voxel_nm=2.0)
    command = ["montecarlo", str(volume), "--out", str(out), "--beam-kev", "2", "--electrons", "50"]
    assert main(command) == 0
    image, error = (read_volume(out / f"2kV_BSE{what}.tif") for what in ("", "_error"))
    assert image.shape == error.shape == (1, 8, 8)
    assert image[0, 3:5, 3:5].mean() < image[0, 0].mean()
    assert read_voxel_nm(out / "2kV_BSE.tif") == pytest.approx((10.0, 4.0, 4.0))
    assert (out / "montecarlo.json").is_file()

    for change, message in (
        ([], "is not empty"),
        (["--out", str(tmp_path / "new"), "--materials", "vacuum", "Aw"], "'Aw' is unknown"),
        (["--out", str(tmp_path / "new"), "--first-nm", "99"], "faces lie at"),
    ):
        assert main([*command, *change]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
