"""The probe's shape and the detector's curve against their closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fibsim.detector import grey_value, probe_blur


def second_moments(image):
    y, x = np.meshgrid(*(np.arange(n) - n // 2 for n in image.shape), indexing="ij")
    weight = image / image.sum()
    return [(weight * form).sum() for form in (y * y, x * x, y * x)]


@pytest.mark.parametrize(("a", "d"), [(0.0, 0.0), (0.3, 0.0), (-0.2, 0.4)])
def test_probe_has_the_stated_covariance(a, d):
    """Of a point, seen by a probe of 12 nm on 4 nm pixels."""
    point = jnp.zeros((64, 64)).at[32, 32].set(1.0)
    seen = probe_blur(
        point,
        jnp.asarray(12.0),
        jnp.asarray(4.0),
        astigmatism=a,
        astigmatism_diagonal=d,
        periodic=True,
    )
    expected = [9 * (1 - a), 9 * (1 + a), 9 * d]
    np.testing.assert_allclose(second_moments(np.asarray(seen, float)), expected, atol=0.02)


def test_grey_value_is_linear_without_gamma_and_a_power_with_it():
    signal = jnp.asarray([0.0, 0.005, 0.01, 0.3, 1.0, 1.7])
    np.testing.assert_allclose(grey_value(signal, 80.0, 12.0), 12 + 80 * signal, rtol=1e-6)
    bent = grey_value(signal, 80.0, 12.0, 0.7)
    np.testing.assert_allclose(bent[2:], 12 + 80 * signal[2:] ** 0.7, rtol=1e-5)
    assert float(bent[0]) == 12.0 and float(bent[4]) == pytest.approx(92.0)
    # No jump where the power ends and the straight line begins.
    assert float(bent[1]) == pytest.approx(12 + 80 * 0.5 * 0.01**0.7, rel=1e-5)


def test_darkness_has_a_finite_slope():
    slope = jax.grad(lambda s, g: grey_value(s, 80.0, 12.0, g), argnums=(0, 1))
    for value in slope(jnp.asarray(0.0), jnp.asarray(0.7)):
        assert np.isfinite(float(value))
