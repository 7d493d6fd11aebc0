"""What a fit starts from, taken from the images: share of faces, noise, faults."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from fibsim.fit.first_guess import (
    guess_faults,
    guess_solid_fraction,
    noise_by_brightness,
    noise_sd,
)
from fibsim.fit.start import match_contrast, match_noise
from fibsim.presets import make_instrument

GAIN, OFFSET, DOSE, READ = 150.0, 20.0, 60.0, 4.0
SHAPE = (24, 96, 96)


def structure(seed):
    """Faces of one brightness with sharp edges, and pores with bottoms; ``(slice, y, x)``."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.standard_normal(SHAPE), (1, 4, 4), mode="wrap")
    bottoms = 0.4 + gaussian_filter(rng.standard_normal(SHAPE), (1, 6, 6), mode="wrap")
    return OFFSET + GAIN * np.where(field > -0.03, 0.8, np.clip(bottoms, 0.05, 0.7))


def recorded(seed):
    """Two channels with counting and amplifier noise; ``(channel, slice, y, x)``."""
    mean = np.stack([structure(seed), structure(seed)])
    sd = np.sqrt(GAIN * (mean - OFFSET) / DOSE + READ**2)
    return (mean + sd * np.random.default_rng(9).standard_normal(mean.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def instrument():
    made = make_instrument(beam_kev=[1.0, 2.0], tilt_deg=38.0)
    both = {"gain": GAIN, "offset": OFFSET}
    both = {name: jnp.full(2, value) for name, value in both.items()}
    return dataclasses.replace(made, detector=dataclasses.replace(made.detector, **both))


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8])
def test_the_share_of_milled_face_is_guessed_from_its_peak(fraction):
    """Faces of one grey value and noise; all that lies deeper is darker."""
    rng = np.random.default_rng(2)
    blocks = rng.random((4, 8, 8)) < fraction
    depth = rng.uniform(0.0, 0.8, blocks.shape)
    grey = np.where(blocks, 180.0, 180.0 * (0.8 - depth)).repeat(16, 1).repeat(16, 2)
    found = guess_solid_fraction(grey + 8 * rng.standard_normal(grey.shape))
    assert found == pytest.approx(blocks.mean(), abs=0.12)


def test_edges_brighter_than_faces_are_not_taken_for_their_width():
    """A quarter of the faces' pixels shine above the rest by up to its own brightness."""
    rng = np.random.default_rng(3)
    blocks = rng.random((4, 8, 8)) < 0.4
    grey = np.where(blocks, 120.0, 120.0 * rng.uniform(0.2, 0.8, blocks.shape))
    grey = grey.repeat(16, 1).repeat(16, 2)
    edge = (grey == 120) & (np.arange(128) % 16 < 4)
    grey = np.where(edge, 120 * rng.uniform(1, 2, (4, 8, 8)).repeat(16, 1).repeat(16, 2), grey)
    found = guess_solid_fraction(grey + 8 * rng.standard_normal(grey.shape))
    assert found == pytest.approx(blocks.mean(), abs=0.12)


def test_a_guessed_share_stays_within_its_bounds():
    assert 0.1 <= guess_solid_fraction(np.full((1, 8, 8), 5.0)) <= 0.9


def test_noise_estimate_ignores_structure():
    y, x = np.mgrid[:128, :128]
    structure = 60 * np.sin(x / 9.0) + 40 * (np.hypot(y - 64, x - 64) < 30)
    noisy = structure + np.random.default_rng(0).normal(0, 7.0, (1, 4, 128, 128))
    assert noise_sd(noisy)[0] == pytest.approx(7.0, rel=0.05)


def test_noise_is_matched_whatever_edges_add(instrument):
    """Another specimen of the kind, simulated without noise, says what edges alone scatter."""
    expected = np.stack([structure(1), structure(2)]).astype(np.float32)
    found = match_noise(instrument, recorded(3), expected).noise
    for signal in (50.0, 120.0):
        variance = GAIN * signal / np.asarray(found.dose_electrons) + np.square(found.read_grey)
        np.testing.assert_allclose(variance, GAIN * signal / DOSE + READ**2, rtol=0.15)
    # Without that the edges count as noise.
    flat = np.full_like(expected, expected.mean())
    more = match_noise(instrument, recorded(3), flat).noise
    assert np.all(np.asarray(more.dose_electrons) < 0.95 * np.asarray(found.dose_electrons))


def test_contrast_is_matched_from_another_gain(instrument):
    """Gain and offset of another recording: mean, contrast and noise become the stack's."""
    expected = np.stack([structure(1), structure(2)])
    dim = dataclasses.replace(
        instrument,
        detector=dataclasses.replace(
            instrument.detector, gain=jnp.full(2, GAIN / 3), offset=jnp.full(2, 5.0)
        ),
    )
    darker = (5.0 + (expected - OFFSET) / 3).astype(np.float32)
    found = match_contrast(dim, recorded(3), darker)
    np.testing.assert_allclose(found.detector.gain, GAIN, rtol=0.1)
    np.testing.assert_allclose(found.detector.offset, OFFSET, atol=12)
    np.testing.assert_allclose(found.noise.dose_electrons, DOSE, rtol=0.3)


def test_dark_pores_do_not_clip_that_do_not_in_the_recording():
    """Of the first specimen few pores are lit; of the recorded one most, and none is black."""
    rng = np.random.default_rng(2)
    start = make_instrument(beam_kev=[1.0, 5.0])
    field = gaussian_filter(rng.standard_normal((1, *SHAPE)), (0, 1, 6, 6), mode="wrap")
    share = np.argsort(np.argsort(field, axis=None)).reshape(field.shape) / field.size
    few_lit = np.where(share < 0.06, 25.0, 170.0) * np.ones((2, 1, 1, 1))
    most_lit = np.where(share < 0.03, 40.0, np.where(share < 0.5, 80.0, 160.0))
    most_lit = most_lit * np.ones((2, 1, 1, 1))
    found = match_contrast(start, most_lit.astype(np.float32), few_lit.astype(np.float32))
    factor = np.asarray(found.detector.gain) / np.asarray(start.detector.gain)
    simulated = most_lit.mean() + factor * (25.0 - few_lit.mean())
    np.testing.assert_allclose(simulated, 40.0, atol=0.5)
    # Where they would not clip, the contrast is the recording's, as it was before.
    bright = match_contrast(start, most_lit + 60.0, few_lit.astype(np.float32))
    factor = np.asarray(bright.detector.gain) / np.asarray(start.detector.gain)
    np.testing.assert_allclose(factor, most_lit.std() / few_lit.std(), rtol=0.02)


@pytest.mark.parametrize("name", ["flicker_sd", "curtain_sd", "line_grey"])
def test_faults_are_what_structure_does_not_explain(name):
    rng = np.random.default_rng(4)
    clean = recorded(5)
    faultless = recorded(6)
    none = guess_faults(clean[None], faultless)
    assert none == {"flicker_sd": 0.003, "curtain_sd": 0.003, "line_grey": 0.3}
    if name == "line_grey":
        shaded = clean + 8.0 * rng.standard_normal((2, SHAPE[0], SHAPE[1], 1))
    else:
        # Curtains are smooth over 1.5 pixels.
        size = (1, SHAPE[0], 1, SHAPE[2] if name == "curtain_sd" else 1)
        wave = rng.standard_normal(size)
        if name == "curtain_sd":
            wave = gaussian_filter(wave, (0, 0, 0, 1.5), mode="wrap")
            wave /= wave.std()
        shaded = clean * (1 + 0.2 * wave)
    found = guess_faults(shaded[None], faultless)
    assert found[name] == (pytest.approx(8.0, rel=0.4) if name == "line_grey" else 0.03)
    # Strong curtains or lines also make whole slices brighter.
    for other in {"curtain_sd", "line_grey"} - {name}:
        assert found[other] < 5 * none[other], other


def test_noise_is_told_by_brightness_where_faces_are_of_one_grey(recwarn):
    """Without noise more than a class of brightness may hold the same value."""
    flat = np.full((1, 2, 64, 64), 100.0)
    flat[..., :20] = 30.0
    intercept, slope = noise_by_brightness(flat)
    assert np.all(np.isfinite(intercept)) and np.all(np.isfinite(slope))
    np.testing.assert_allclose(intercept + slope * 100.0, 0.0, atol=1e-6)
    assert not recwarn.list
