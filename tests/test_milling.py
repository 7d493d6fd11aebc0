"""The faults of a milling run: their sizes, and where they put every face and every image."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fibsim
from fibsim import milling
from fibsim.milling import apply_shading, displace, nominal_milling
from fibsim.simulate import true_faces
from fibsim.specimens import make_specimen

SLICES, SIZE = 4, 24
MANY = (4000, 16, 64)  # a long run, so that moments are sharp
sample_milling = jax.jit(milling.sample_milling, static_argnums=1)
FAULTS = dict(thickness_sd=0.1, drift_nm=3.0, flicker_sd=0.05, curtain_sd=0.04, line_grey=2.5)


def instrument(**faults):
    base = fibsim.make_instrument(beam_kev=(2.0,), pixel_nm=4.0, slice_nm=10.0, tilt_deg=38.0)
    leaves = {k: jnp.asarray(v, float) for k, v in faults.items()}
    return dataclasses.replace(base, faults=dataclasses.replace(base.faults, **leaves))


@pytest.fixture(scope="module")
def many():
    return sample_milling(instrument(**FAULTS), MANY, key=jax.random.key(1))


@pytest.fixture(scope="module")
def specimen():
    """Smooth random structure on the grid of the faces, two layers a slice."""
    rng = np.random.default_rng(2)
    z, y, x = np.meshgrid(*(np.arange(SIZE) * 2 * np.pi / SIZE,) * 3, indexing="ij")
    field = sum(
        np.cos(a * z + b * y + c * x + rng.uniform(0, 6))
        for a, b, c in ((1, 2, 1), (2, 1, -2), (0, 1, 2), (1, -2, 0))
    )
    return make_specimen(1 / (1 + np.exp(-4 * field)), voxel_nm=(5.0, 4.0, 4.0), periodic=True)


def near(samples, mean, sd, correlated=1.0):
    """Mean and standard deviation within five standard errors; ``correlated`` draws per one."""
    samples = np.asarray(samples, float)
    n = samples.size / correlated
    assert samples.mean() == pytest.approx(mean, abs=5 * sd / np.sqrt(n))
    assert samples.std() == pytest.approx(sd, rel=5 / np.sqrt(2 * n))


def test_independent_faults_have_the_stated_sizes(many):
    near(many.thickness_nm, 10.0, 10.0 * FAULTS["thickness_sd"])
    near(many.drift_nm[:, 0], 0.0, FAULTS["drift_nm"])
    near(many.drift_nm[:, 1], 0.0, FAULTS["drift_nm"])
    near(many.brightness, 1.0, FAULTS["flicker_sd"])
    near(many.line, 0.0, FAULTS["line_grey"])


def test_independent_faults_are_uncorrelated(many):
    series = [many.thickness_nm, many.drift_nm[:, 0], many.drift_nm[:, 1], many.brightness]
    correlation = np.corrcoef([np.asarray(s) for s in series])
    assert np.max(np.abs(correlation - np.eye(4))) < 5 / np.sqrt(4000)
    lag = np.corrcoef(np.asarray(many.thickness_nm)[1:], np.asarray(many.thickness_nm)[:-1])[0, 1]
    assert abs(lag) < 5 / np.sqrt(4000)


def test_curtains_have_the_stated_size_width_and_memory(many):
    """s.d. within 10 %; correlation ``exp(-d^2 / 4 w^2)`` over d columns and 0.8 per slice."""
    curtain = np.asarray(many.curtain, float) - 1
    sd = FAULTS["curtain_sd"]
    assert curtain.std() == pytest.approx(sd, rel=0.1)
    assert curtain.mean() == pytest.approx(0.0, abs=0.1 * sd)
    variance = np.mean(curtain**2)
    for step in (1, 2, 3):
        columns = np.mean(curtain * np.roll(curtain, step, axis=1)) / variance
        assert columns == pytest.approx(np.exp(-(step**2) / (4 * 1.5**2)), abs=0.05)
    assert np.mean(curtain[1:] * curtain[:-1]) / variance == pytest.approx(0.8, abs=0.03)


def test_curtains_of_the_first_slices_have_the_stated_size_too():
    """The memory of the curtains must start in its steady state."""
    run = sample_milling(instrument(curtain_sd=0.04), (3, 3, 20_000), key=jax.random.key(4))
    spread = np.asarray(run.curtain, float).std(axis=1)
    np.testing.assert_allclose(spread, 0.04, rtol=0.1)


def test_no_slice_is_thinner_than_a_fifth():
    run = sample_milling(instrument(thickness_sd=0.9), MANY, key=jax.random.key(2))
    assert float(run.thickness_nm.min()) == pytest.approx(2.0, rel=1e-6)


def test_a_faultless_instrument_mills_nominally():
    shape = (SLICES, SIZE, SIZE)
    drawn = sample_milling(instrument(), shape, key=jax.random.key(3))
    for a, b in zip(
        jax.tree.leaves(drawn), jax.tree.leaves(nominal_milling(instrument(), shape)), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_same_key_same_run():
    shape = (SLICES, SIZE, SIZE)
    one, two, other = (
        sample_milling(instrument(**FAULTS), shape, key=jax.random.key(seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(one.curtain, two.curtain)
    assert not np.array_equal(one.curtain, other.curtain)


def test_nominal_milling_changes_nothing(specimen):
    images = specimen.solid[:SLICES]
    run = nominal_milling(instrument(), images.shape)
    np.testing.assert_array_equal(
        np.asarray(displace(images, run, jnp.asarray(4.0), periodic=True)), np.asarray(images)
    )
    np.testing.assert_array_equal(np.asarray(apply_shading(images, run)), np.asarray(images))
    with_run = fibsim.expected_stack(specimen, instrument(), run, num_slices=SLICES, sublayers=2)
    without = fibsim.expected_stack(specimen, instrument(), num_slices=SLICES, sublayers=2)
    np.testing.assert_array_equal(np.asarray(with_run), np.asarray(without))


def moved(drift_nm):
    run = nominal_milling(instrument(), (SLICES, SIZE, SIZE))
    return dataclasses.replace(run, drift_nm=jnp.asarray(drift_nm, float))


def test_drift_moves_images_and_truth_by_drift_over_pixel(specimen):
    """8 nm in y and -12 nm in x are 2 and -3 pixels: what was at (y, x) is at (y + 2, x - 3)."""
    run = moved([[0, 0], [8, -12], [4, 0], [0, 20]])
    steps = [(0, 0), (2, -3), (1, 0), (0, 5)]
    still = fibsim.expected_stack(specimen, instrument(), num_slices=SLICES, sublayers=2)[0]
    drifted = fibsim.expected_stack(specimen, instrument(), run, num_slices=SLICES, sublayers=2)[0]
    faces = true_faces(specimen, instrument(), moved(np.zeros((SLICES, 2))))
    drifted_faces = true_faces(specimen, instrument(), run)
    for k, step in enumerate(steps):
        for before, after in ((still, drifted), (faces, drifted_faces)):
            np.testing.assert_allclose(
                np.asarray(after[k]), np.roll(np.asarray(before[k]), step, (0, 1)), rtol=1e-4,
                atol=1e-5,
            )  # fmt: skip


def test_drift_of_part_of_a_pixel():
    """A sine of 24 pixels moved by 1.3 pixels, within the error of cubic interpolation."""
    phase = 2 * np.pi * np.arange(SIZE) / SIZE
    wave = np.tile(np.sin(phase)[:, None], (SLICES, 1, SIZE))
    out = displace(jnp.asarray(wave), moved([[5.2, 0.0]] * SLICES), 4.0, periodic=True)
    expected = np.sin(phase - 2 * np.pi * 1.3 / SIZE)
    np.testing.assert_allclose(np.asarray(out)[0, :, 0], expected, atol=2e-3)


def test_true_faces_lie_at_the_cumulative_depth():
    """In a specimen whose solid fraction grows linearly with depth the truth reads the depth of the
    middle of the voxel under the face."""
    centres = (np.arange(SIZE) + 0.5) * 5.0
    ramp = np.broadcast_to((centres / 120.0)[:, None, None], (SIZE, SIZE, SIZE))
    run = nominal_milling(instrument(), (SLICES, SIZE, SIZE))
    thickness = jnp.array([6.0, 17.0, 9.0, 11.0])
    run = dataclasses.replace(run, thickness_nm=thickness)
    faces = true_faces(
        make_specimen(ramp, voxel_nm=(5.0, 4.0, 4.0), periodic=True), instrument(), run
    )
    expected = (np.array([0.0, 6.0, 23.0, 32.0]) + 2.5) / 120.0
    np.testing.assert_allclose(np.asarray(faces).mean((1, 2)), expected, rtol=1e-4)


def test_irregular_thickness_moves_only_the_faces_that_it_moves(specimen):
    """5 + 15 nm puts face 2 where 10 + 10 nm does, with the same structure below it."""
    run = nominal_milling(instrument(), (SLICES, SIZE, SIZE))
    uneven = dataclasses.replace(run, thickness_nm=jnp.array([5.0, 15.0, 10.0, 10.0]))
    even, odd = (
        np.asarray(fibsim.expected_stack(specimen, instrument(), r, num_slices=SLICES, sublayers=2))
        for r in (run, uneven)
    )
    np.testing.assert_allclose(odd[0, 2:], even[0, 2:], rtol=1e-4, atol=1e-3)
    contrast = even[0, 1].std()
    assert np.abs(odd[0, 1] - even[0, 1]).std() > 0.1 * contrast
    np.testing.assert_allclose(
        np.asarray(true_faces(specimen, instrument(), uneven))[2:],
        np.asarray(true_faces(specimen, instrument(), run))[2:],
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_shading_multiplies_the_signal_and_lines_add_grey(specimen):
    """``offset + gain signal brightness curtain + line``, each where it belongs."""
    lens = instrument()
    offset = float(lens.detector.offset[0])
    run = nominal_milling(lens, (SLICES, SIZE, SIZE))
    rng = np.random.default_rng(5)
    brightness, curtain, line = (
        rng.uniform(0.8, 1.2, shape) for shape in ((SLICES,), (SLICES, SIZE), (SLICES, SIZE))
    )
    shaded = dataclasses.replace(
        run,
        brightness=jnp.asarray(brightness, float),
        curtain=jnp.asarray(curtain, float),
        line=jnp.asarray(10 * line, float),
    )
    plain, out = (
        np.asarray(fibsim.expected_stack(specimen, lens, r, num_slices=SLICES, sublayers=2))[0]
        for r in (run, shaded)
    )
    factor = brightness[:, None, None] * curtain[:, None, :]
    expected = offset + (plain - offset) * factor + 10 * line[:, :, None]
    np.testing.assert_allclose(out, expected, rtol=1e-5)
