"""Noise of the recorded grey values: a sampler and the likelihood of exactly that sampler.

A beam electron yields a bunch of k electrons, so that what is counted is compound Poisson
(Timischl, Date & Nemoto 2012, doi 10.1002/sca.20282). For a signal s that is shown as
``m = offset + gain s^gamma``, variance and third central moment of the grey value before
saturation are::

    v  = (dm/ds)^2 s / dose + read^2 = gamma^2 gain^2 s^(2 gamma - 1) / dose + read^2
    m3 = gamma^3 gain^3 s^(3 gamma - 2) (bunching + 3 (gamma - 1)) / dose^2
    s  = (max(m - offset, 0) / gain)^(1 / gamma)

The dose is an effective one, beam electrons times ``<k>^2 / <k^2>``, and
``bunching = <k^3> <k> / <k^2>^2``: 1 if k is 0 or 1, as of backscattered electrons, 1.5 if k is
distributed exponentially, and 1.4 to 1.7 of secondaries in the Monte Carlo (gold, copper, silicon;
1 to 5 keV). The second term of m3 is the bend of gamma. Few electrons make a long tail towards
white and none towards black; a normal law would put a visible share of dark pixels at black.

Mean, variance and skewness are those of a shifted log-normal law, whose density is known in closed
form (Johnson 1949, doi 10.1093/biomet/36.1-2.149)::

    grey = m + sqrt(v) (exp(b z - b^2 / 2) - 1) / q      z normal, q = sqrt(exp(b^2) - 1)
    m3 / v^(3/2) = (q^2 + 3) q,  that is  q = 2 sinh(asinh(m3 / v^(3/2) / 2) / 3)

which is normal for b = 0. It is then cut off at 0 and at the white level.
"""

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from fibsim.instrument import Instrument

__all__ = [
    "channel_noise",
    "log_likelihood",
    "noise_skewness",
    "noise_variance",
    "sample_grey",
    "unsaturated_grey",
]

_DARK = 1e-6
# Less than this is normal for all purposes; q = 0 would divide by zero.
_LEAST_SKEWNESS = 3e-3
# Beyond it m3 is that of a fraction of an electron, and the law has no meaning.
_MOST_SKEWNESS = 3.0


def _bright_power(mean: Array, gain, offset, exponent) -> Array:
    """``((mean - offset) / gain)^exponent``, and 0 near zero, where its slope would be infinite."""
    bright = (mean - offset) / gain
    return jnp.where(bright > _DARK, jnp.maximum(bright, _DARK) ** exponent, 0.0)


def noise_variance(
    mean: Float[Array, "..."],
    *,
    gain: Float[Array, ""],
    offset: Float[Array, ""],
    dose_electrons: Float[Array, ""],
    read_grey: Float[Array, ""],
    gamma: Float[Array, ""] | float = 1.0,
) -> Array:
    """Variance of the grey value before saturation, see the module docstring."""
    power = _bright_power(mean, gain, offset, 2.0 - 1.0 / gamma)
    return gamma**2 * gain**2 * power / dose_electrons + read_grey**2


def noise_skewness(
    mean: Float[Array, "..."],
    variance: Float[Array, "..."],
    *,
    gain: Float[Array, ""],
    offset: Float[Array, ""],
    dose_electrons: Float[Array, ""],
    bunching: Float[Array, ""],
    gamma: Float[Array, ""] | float = 1.0,
) -> Array:
    """Skewness of the grey value before saturation, ``m3 / v^(3/2)``; 0 at least."""
    power = _bright_power(mean, gain, offset, 3.0 - 2.0 / gamma)
    third = gamma**3 * gain**3 * power * (bunching + 3 * (gamma - 1)) / dose_electrons**2
    return jnp.maximum(third, 0.0) / jnp.maximum(variance, 1e-12) ** 1.5


def channel_noise(
    mean: Float[Array, "channel ..."], instrument: Instrument
) -> tuple[Float[Array, "channel ..."], Float[Array, "channel ..."]]:
    """`noise_variance` and `noise_skewness` of the grey values of all channels."""
    detector, noise = instrument.detector, instrument.noise

    def spread(leaf):
        return leaf.reshape(-1, *(1,) * (mean.ndim - 1))

    law = dict(
        gain=spread(detector.gain),
        offset=spread(detector.offset),
        dose_electrons=spread(noise.dose_electrons),
        gamma=spread(detector.gamma),
    )
    variance = noise_variance(mean, read_grey=spread(noise.read_grey), **law)
    return variance, noise_skewness(mean, variance, bunching=spread(noise.bunching), **law)


def _shape(skewness: Array | float) -> tuple[Array, Array]:
    """b and q of the shifted log-normal law."""
    skewness = jnp.clip(skewness, _LEAST_SKEWNESS, _MOST_SKEWNESS)
    q = 2 * jnp.sinh(jnp.arcsinh(skewness / 2) / 3)
    return jnp.sqrt(jnp.log1p(q * q)), q


def unsaturated_grey(
    mean: Float[Array, "..."],
    variance: Float[Array, "..."],
    skewness: Float[Array, "..."] | float = 0.0,
    *,
    key: jax.Array,
) -> Array:
    """`sample_grey` before it is cut off."""
    # The root of a zero variance would have an infinite gradient.
    sigma = jnp.sqrt(jnp.maximum(variance, 1e-12))
    b, q = _shape(skewness)
    z = jax.random.normal(key, mean.shape, mean.dtype)
    return mean + sigma * jnp.expm1(b * (z - b / 2)) / q


def sample_grey(
    mean: Float[Array, "..."],
    variance: Float[Array, "..."],
    white_level: Float[Array, ""],
    skewness: Float[Array, "..."] | float = 0.0,
    *,
    key: jax.Array,
) -> Array:
    """Draw grey values, cut off to ``[0, white_level]``. Not rounded.

    Differentiable in mean, variance and skewness (the noise is reparametrised), unlike a Poisson
    draw, whose gradient JAX silently takes as zero.
    """
    return jnp.clip(unsaturated_grey(mean, variance, skewness, key=key), 0.0, white_level)


def _normal_quantile(
    grey: Array | float, mean: Array, sigma: Array, shape: tuple[Array, Array]
) -> tuple[Array, Array]:
    """z of a grey value, and ``log(dz / dgrey)``; below the law's end z is very low."""
    b, q = shape
    above = jnp.maximum(1 + q * (grey - mean) / sigma, 1e-6)
    return jnp.log(above) / b + b / 2, jnp.log(q / (b * sigma)) - jnp.log(above)


def log_likelihood(
    grey: Float[Array, "..."],
    mean: Float[Array, "..."],
    variance: Float[Array, "..."],
    white_level: Float[Array, ""],
    skewness: Float[Array, "..."] | float = 0.0,
) -> Array:
    """Log density of `sample_grey` per pixel; at 0 and at white the log probability of cut-off."""
    sigma = jnp.sqrt(jnp.maximum(variance, 1e-12))
    shape = _shape(skewness)
    z, slope = _normal_quantile(grey, mean, sigma, shape)
    inside = norm.logpdf(z) + slope
    black = norm.logcdf(_normal_quantile(0.0, mean, sigma, shape)[0])
    white = norm.logsf(_normal_quantile(white_level, mean, sigma, shape)[0])
    return jnp.where(grey <= 0.0, black, jnp.where(grey >= white_level, white, inside))
