"""Coordinates and errors of a fit whose good ends lie along a bent valley."""

import jax.numpy as jnp
import numpy as np
import pytest

from fibsim.fit.flat import flatten_free
from fibsim.fit.straight import Straight
from fibsim.fit.unknowns import Unknown, from_free, natural_error, to_free
from fibsim.fit.valley import bend_of_valley

UNKNOWNS = {
    "detector.gain": Unknown(transform="log", prior_sd=3.0),
    "detector.offset": Unknown(transform="linear", prior_sd=3.0, scale=20.0),
    "noise.read_grey": Unknown(transform="size", prior_sd=2.0),
}


def coordinates(gain=(80.0, 200.0), offset=30.0, read=(0.0, 12.0)):
    """Of a fit that starts here, with these values; and the free vector."""
    values = {"detector.gain": gain, "detector.offset": offset, "noise.read_grey": read}
    free = {name: to_free(jnp.asarray(v), UNKNOWNS[name]) for name, v in values.items()}
    flat = flatten_free(free, UNKNOWNS)
    vector = flat.join(free)
    return Straight(flat=flat, start=vector, origin=vector), vector


def test_gain_and_the_variance_of_noise_are_straight():
    line, start = coordinates()
    _, other = coordinates(gain=(160.0, 50.0), offset=-10.0, read=(3.0, 24.0))
    # Gains relative to the start's; variances in the start's, or in 1.
    np.testing.assert_allclose(line.to(other), [2.0, 0.25, -0.5, 9.0, 4.0], rtol=1e-5)
    for vector in (start, other):
        np.testing.assert_allclose(line.back(line.to(vector)), vector, rtol=1e-5, atol=1e-6)
    step = 1e-5
    numeric = (line.to(other + step) - line.to(other - step)) / (2 * step)
    np.testing.assert_allclose(line.slope(line.to(other)), numeric, rtol=1e-4)


def test_bounds_and_priors_in_straight_coordinates():
    line, start = coordinates()
    np.testing.assert_allclose(line.to(start), [1.0, 1.0, 1.5, 0.0, 1.0], atol=1e-6)
    assert line.lowest[2] == -np.inf and np.all(line.lowest[3:] == 0)
    assert np.all(np.isfinite(line.back(np.full(5, -1.0))))
    np.testing.assert_allclose(line.prior_sd[:3], [np.sinh(3.0)] * 2 + [3.0], rtol=1e-5)
    # Of an amplifier without noise: what its variance may be two standard deviations above.
    assert line.prior_sd[3] == pytest.approx(np.expm1(4.0) / 2, rel=1e-5)


def test_three_errors_of_a_size_reach_three_of_its_variance():
    unknown = UNKNOWNS["noise.read_grey"]
    for grey, of_variance in ((12.0, 3.0), (12.0, 40.0), (2.0, 30.0), (0.0, 9.0)):
        free = to_free(jnp.asarray(grey), unknown)
        error = float(natural_error(free, of_variance / (2 * (grey**2 + 1)), unknown))
        lowest = np.sqrt(max(grey**2 - 3 * of_variance, 0.0))
        assert error >= (grey - lowest) / 3 - 1e-3
        assert error >= np.sqrt(grey**2 + of_variance) - grey - 1e-3
        assert float(from_free(free, unknown)) == pytest.approx(grey, abs=1e-3)
    # Well known, its error is the variance's over the slope of the square.
    assert float(natural_error(to_free(jnp.asarray(12.0), unknown), 0.001, unknown)) == (
        pytest.approx(2 * 145 * 0.001 / 24, rel=0.01)
    )


def bend(moments, *, slopes, prior_sd, covariance, lowest=-np.inf, draws=300):
    return bend_of_valley(
        moments,
        np.zeros(2),
        np.asarray(slopes, float),
        np.asarray(covariance, float),
        weight=np.ones(len(slopes)),
        prior_sd=np.asarray(prior_sd, float),
        lowest=np.full(2, lowest),
        draws=draws,
        seed=1,
    )


STIFF = 100.0


def parabola(v):
    """Nothing shows the second unknown, except through ``v0 + v1^2``."""
    return np.array([STIFF * (v[0] + v[1] ** 2) + 70.0, -5.0])


def test_errors_follow_a_parabola():
    """v1 is as its prior, N(0, 0.5^2); on the floor v0 = -v1^2, of mean square 3 x 0.5^4."""
    covariance = np.diag([STIFF**-2, 0.25])
    found = bend(parabola, slopes=[[STIFF, 0], [0, 0]], prior_sd=[10.0, 0.5], covariance=covariance)
    assert found[0, 0] == pytest.approx(3 * 0.5**4, rel=0.3)
    assert found[0, 0] > 1000 * covariance[0, 0]
    assert found[1, 1] < 1e-3 * covariance[1, 1]


def test_a_straight_valley_does_not_bend():
    slopes = np.array([[30.0, 20.0], [30.0, 21.0]])
    covariance = np.linalg.inv(slopes.T @ slopes + np.eye(2))
    found = bend(
        lambda v: slopes @ v + 3.0,
        slopes=slopes,
        prior_sd=[1.0, 1.0],
        covariance=covariance,
        draws=20,
    )
    np.testing.assert_allclose(found, 0, atol=1e-12)


def test_where_nothing_can_be_simulated_half_of_the_way_tells():
    covariance = np.diag([STIFF**-2, 0.25])

    def walled(v):
        return parabola(v) if abs(v[1]) < 0.7 else np.full(2, np.nan)

    found = bend(walled, slopes=[[STIFF, 0], [0, 0]], prior_sd=[10.0, 0.5], covariance=covariance)
    assert found[0, 0] == pytest.approx(3 * 0.5**4, rel=0.5)
    nowhere = bend(
        lambda v: np.full(2, np.nan if np.any(v) else 0.0),
        slopes=[[STIFF, 0], [0, 0]],
        prior_sd=[10.0, 0.5],
        covariance=covariance,
        draws=3,
    )
    np.testing.assert_array_equal(nowhere, 0)
