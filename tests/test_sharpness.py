"""The probe, told by how sharp edges are: against known blur, and through the simulator."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.special import erf

from fibsim.fit import draw_sample
from fibsim.fit.problem import Problem
from fibsim.fit.sharpness import (
    OF_EDGES,
    astigmatic_probe,
    edge_sharpness,
    edge_widths,
    match_probe,
    probe_widths,
)
from fibsim.instrument import leaves_by_name, replace_by_name
from fibsim.presets import make_instrument

NOISE = 6.0


def structure(seed, *, noise=NOISE, y_px=0.0, x_px=0.0):
    """Faces with sharp edges and pores with bottoms, blurred; ``(channel, slice, y, x)``."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.standard_normal((6, 160, 160)), (0, 6, 6), mode="wrap")
    deep = gaussian_filter(rng.standard_normal(field.shape), (0, 9, 9), mode="wrap")
    grey = np.where(field > 0.0, 160.0, 70.0 + 900.0 * deep.clip(-0.04, 0.04))
    # Sampled by squares of a pixel before the probe: every edge is a pixel wide by itself.
    blurred = gaussian_filter(grey, (0, y_px, x_px), mode="wrap")
    return (blurred + noise * rng.standard_normal(grey.shape))[None]


@pytest.mark.parametrize("probe", [0.02, 0.5, 0.8, 1.2])
def test_straight_edges_have_the_sharpness_of_their_integral(probe):
    """Edges at every place of a pixel, without noise: the sum over u of (I(u+k) - I(u))^2 is

    ``step^2 int (k - |t|)_+ N(t; 2 probe^2) dt``.
    """
    period = 600
    x = np.arange(2 * period)[None, :] % period - 150.0 - np.arange(64)[:, None] / 16.0
    rises = 0.5 * (1 + erf(x / np.sqrt(2) / probe))
    falls = 0.5 * (1 + erf((x - period / 2) / np.sqrt(2) / probe))
    t = np.linspace(-8.0, 8.0, 160001)
    density = np.exp(-(t**2) / 4 / probe**2)
    near, far = (np.sum(np.maximum(k - np.abs(t), 0.0) * density) for k in (1, 5))
    found = edge_sharpness(100.0 * (rises - falls)[None, None], -1)
    assert found == pytest.approx(near / far, rel=0.03)


def test_sharpness_depends_on_neither_gain_nor_offset():
    images = structure(0, y_px=0.5, x_px=0.5)
    moved = 40.0 + 0.4 * images
    for axis in (-1, -2):
        np.testing.assert_allclose(
            edge_sharpness(moved, axis), edge_sharpness(images, axis), rtol=1e-3
        )


def test_noise_is_taken_from_both_sides_of_the_quotient():
    """With noise of a tenth of the contrast and without."""
    quiet, loud = (structure(1, noise=sd, y_px=0.7, x_px=0.7) for sd in (0.5, 9.0))
    assert edge_sharpness(loud, -1) == pytest.approx(edge_sharpness(quiet, -1), rel=0.06)


def test_each_axis_tells_its_own_width():
    """Another structure with another width along each axis, and other noise."""
    found = edge_widths(
        structure(2, noise=9.0, y_px=0.4, x_px=1.1),
        lambda width_nm: structure(3, y_px=width_nm / 20, x_px=width_nm / 20),
        20.0,
    )
    assert found.shape == (2, 1)
    # Within an eighth of a pixel: blur along the other axis softens slanted edges a little.
    np.testing.assert_allclose(found[:, 0], [8.0, 22.0], atol=2.5)


def test_edges_sharper_than_any_have_the_narrowest_probe_tried():
    found = edge_widths(
        structure(4), lambda width_nm: structure(5, y_px=width_nm + 0.5, x_px=width_nm + 0.5), 1.0
    )
    np.testing.assert_allclose(found, 0.25)


def test_widths_are_the_roots_of_the_probe_s_variances():
    """`fibsim.detector.probe_blur` states the covariance."""
    widths = np.array([[3.0, 2.0], [5.0, 2.0]])
    made = astigmatic_probe(widths)
    square, a = made["detector.probe_nm"] ** 2, made["detector.astigmatism"]
    np.testing.assert_allclose(np.sqrt([square * (1 - a), square * (1 + a)]), widths)
    assert a[1] == 0.0
    detector = make_instrument(beam_kev=[1.0, 5.0]).detector
    back = dataclasses.replace(
        detector, probe_nm=made["detector.probe_nm"], astigmatism=made["detector.astigmatism"]
    )
    np.testing.assert_allclose(probe_widths(back), widths)
    # No farther than an instrument file may go.
    assert astigmatic_probe(np.array([[1.0], [9.0]]))["detector.astigmatism"] == 0.7
    assert astigmatic_probe(np.array([[2000.0], [2000.0]]))["detector.probe_nm"] == 1000.0


@pytest.mark.usefixtures("compiled_fast_once")
def test_the_probe_of_a_single_image_is_found():
    """Of a finer and denser specimen than that which is simulated; one channel narrow, one wide."""
    instrument = make_instrument(
        beam_kev=[2.0, 2.0], tilt_deg=0.0, pixel_nm=20.0, slice_nm=20.0, solid="ZrO2"
    )
    true = {
        "detector.probe_nm": jnp.array([4.0, 16.0]),
        "detector.astigmatism": jnp.array([0.0, 0.4]),
    }
    grid = dict(slice_nm=20.0, pixel_nm=20.0, sublayers=2, below_slices=8)
    recorded = draw_sample(
        replace_by_name(instrument, true),
        {"solid_fraction": 0.7, "ligament_nm": 160.0},
        key=jax.random.key(1),
        kind="waves",
        shape=(1, 192, 192),
        **grid,
    )
    problem = Problem(kind="waves", shape=(1, 64, 64), **grid)
    specimen = {"solid_fraction": 0.6, "ligament_nm": 220.0}
    specimen = {name: jnp.asarray(value) for name, value in specimen.items()}
    grey = np.asarray(recorded.images)
    found = match_probe(instrument, problem, specimen, grey, key=jax.random.key(2))
    assert 3.0 < found.detector.probe_nm[0] < 8.0
    assert found.detector.probe_nm[1] == pytest.approx(16.0, rel=0.15)
    assert found.detector.astigmatism[1] == pytest.approx(0.4, abs=0.2)
    # Noise is matched to it, and nothing else is moved.
    np.testing.assert_allclose(
        found.noise.dose_electrons, instrument.noise.dose_electrons, rtol=0.4
    )
    before = leaves_by_name(instrument)
    same = replace_by_name(found, {name: before[name] for name in OF_EDGES})
    same = dataclasses.replace(same, noise=instrument.noise)
    assert jax.tree.all(jax.tree.map(np.array_equal, same, instrument))
