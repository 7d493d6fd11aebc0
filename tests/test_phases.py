"""Specimens of several materials: the mixture's limits, equivalence with one phase, and errors."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
import yaml

import fibsim
from fibsim.cli import main
from fibsim.errors import InputError
from fibsim.instrument_file import InstrumentFile, load_instrument, save_instrument
from fibsim.interaction import channel_coefficients
from fibsim.specimens import make_specimen

SLICES, DEPTH, SIZE = 3, 30, 32
LAYER_NM = 10.0 / 3
VOXEL_NM = (LAYER_NM, 4.0, 4.0)
Z = np.broadcast_to(np.arange(DEPTH)[:, None, None], (DEPTH, SIZE, SIZE))

pytestmark = pytest.mark.usefixtures("compiled_fast")


def instrument(solid, *others, tilt_deg=38.0):
    """Secondaries and backscatter of 2 kV, per beam electron."""
    base = fibsim.make_instrument(
        beam_kev=(2.0, 2.0), detectors=("SE", "BSE"), solid=solid, other_phases=others,
        tilt_deg=tilt_deg,
    )  # fmt: skip
    detector = dataclasses.replace(
        base.detector,
        se_fraction=jnp.array([1.0, 0.0]),
        gain=jnp.ones(2),
        offset=jnp.zeros(2),
        probe_nm=jnp.zeros(2),
    )
    return dataclasses.replace(base, detector=detector)


def emitted(phases, lens):
    specimen = make_specimen(np.asarray(phases, np.float32), voxel_nm=VOXEL_NM, periodic=True)
    return np.asarray(fibsim.expected_stack(specimen, lens, num_slices=SLICES))


def blobs(seed=0):
    spectrum = np.fft.fftn(np.random.default_rng(seed).normal(size=Z.shape))
    q2 = (
        np.fft.fftfreq(DEPTH)[:, None, None] ** 2
        + np.fft.fftfreq(SIZE)[:, None] ** 2
        + np.fft.fftfreq(SIZE) ** 2
    )
    return np.fft.ifftn(spectrum * np.exp(-400 * q2 / 2)).real > 0


def test_two_names_for_one_material_are_one_phase():
    """Gold cut into two phases of gold emits as gold does: in every voxel, or voxel by voxel."""
    gold = blobs(0)
    one = emitted(gold, instrument("Au"))
    two = emitted([0.3 * gold, 0.7 * gold], instrument("Au", "Au"))
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-4 * one.max())
    # Tilted, the interpolation overshoots at the cuts.
    first = gold & blobs(1)
    one = emitted(gold, instrument("Au", tilt_deg=0.0))
    two = emitted([first, gold & ~first], instrument("Au", "Au", tilt_deg=0.0))
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-4 * one.max())


def test_film_of_resin_over_bulk():
    """``B = eta_r (1 - exp(-mu_r t)) + eta exp(-mu_r t)``: two layers' exact solution."""
    layers = 3
    lens = instrument("Au", "resin", tilt_deg=0.0)
    c = channel_coefficients(lens)
    back = emitted(Z >= layers, lens)[1]  # the resin fills what gold leaves
    (gold, resin), mu = c.eta[1], c.bse_attenuation[1, 1]
    passed = np.exp(-mu * layers * LAYER_NM)
    np.testing.assert_allclose(back[0], resin * (1 - passed) + gold * passed, rtol=1e-4)
    np.testing.assert_allclose(back[2], gold, rtol=1e-4)


def test_bulk_of_a_mixture():
    """``B = sum of mu rho eta / sum of mu rho``, and S of its own mean with ``1 + b B``."""
    lens = instrument("Au", "resin")
    second, back = emitted(np.full((2, *Z.shape), 0.5), lens)
    c = channel_coefficients(lens)
    eta = np.average(c.eta[1], weights=c.bse_attenuation[1])
    delta = np.average(c.delta[0], weights=c.se_attenuation[0])
    np.testing.assert_allclose(back, eta, rtol=1e-4)
    np.testing.assert_allclose(second, delta * (1 + float(c.se_by_bse[0]) * eta), rtol=1e-4)


def test_bad_phases_are_refused():
    third = np.full((2, *Z.shape), 0.6)
    with pytest.raises(InputError, match=r"add up to 1\.2"):
        make_specimen(third, voxel_nm=VOXEL_NM)
    with pytest.raises(InputError, match="3 phases but the instrument names 2 materials"):
        emitted(np.zeros((3, *Z.shape)), instrument("Ni", "YSZ"))
    with pytest.raises(InputError, match="material 'Resin' is unknown"):
        instrument("Au", "Resin")
    with pytest.raises(InputError, match="at most 8"):
        instrument("Au", *["resin"] * 8)


def test_instrument_file_keeps_the_phases(tmp_path):
    lens = instrument("Ni", "YSZ", "resin")
    path = tmp_path / "instrument.yaml"
    save_instrument(path, InstrumentFile(instrument=lens))
    read = load_instrument(path).instrument
    assert [phase.name for phase in read.other_phases] == ["YSZ", "resin"]
    for a, b in zip(read.other_phases, lens.other_phases, strict=True):
        assert float(a.density_g_cm3) == pytest.approx(float(b.density_g_cm3))
    content = yaml.safe_load(path.read_text())
    content["other_phases"] = ["resin", {"name": "epoxy", "density_g_cm3": 1.1}]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"other_phases\.1 lacks 'atomic_number'"):
        load_instrument(path)


def test_command_records_labels_and_infiltrated_pores(tmp_path, capsys):
    labels = blobs(0).astype(np.uint8) * (1 + blobs(1))
    volume = tmp_path / "labels.tif"
    tifffile.imwrite(volume, labels)
    common = ["--slices", "3", "--side", "32", "--specimen-voxel-nm", "3.333", "4", "4"]
    out = tmp_path / "out"
    arguments = ["simulate", "orthogonal", "--out", str(out), "--specimen", str(volume), *common]
    assert main([*arguments, "--materials", "Ni", "YSZ", "--beam-kev", "2"]) == 0
    truth = tifffile.imread(out / "truth.tif")
    assert set(np.unique(truth)) == {0, 1, 2}
    assert main([*arguments[:3], str(tmp_path / "b"), *arguments[4:], "--materials", "Ni"]) == 2
    assert "more than two values" in capsys.readouterr().err
    tifffile.imwrite(volume, (labels > 0).astype(np.uint8))
    arguments[3] = str(tmp_path / "filled")
    assert main([*arguments, "--materials", "NMC", "--pores", "resin", "--beam-kev", "2"]) == 0
    stated = yaml.safe_load((tmp_path / "filled" / "stack.yaml").read_text())
    assert (stated["material"], stated["pores"]) == ("NMC", "resin")
    lens = load_instrument(tmp_path / "filled" / "instrument.yaml").instrument
    assert lens.other_phases[0].name == "resin"
