"""Noise of the recorded grey values: a sampler and the likelihood of exactly that sampler.

The grey value before saturation is normal with mean m and, for a signal s that is counted and
shown as ``m = offset + gain s^gamma``, variance::

    v = (dm/ds)^2 s / dose + read^2 = gamma^2 gain^2 s^(2 gamma - 1) / dose + read^2
    s = (max(m - offset, 0) / gain)^(1 / gamma)

counting noise plus the amplifier's; for gamma = 1 it grows with the grey value. It is then cut
off at 0 and at the white level. For the tens of electrons per pixel of a FIB-SEM the normal law
stands in for the compound Poisson statistics of emission and detection, whose excess variance is
part of the effective dose (Timischl, Date & Nemoto 2012, doi 10.1002/sca.20282).
"""

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from fibsim.instrument import Instrument

__all__ = ["channel_noise_variance", "log_likelihood", "noise_variance", "sample_grey"]

_DARK = 1e-6


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
    bright = (mean - offset) / gain
    # Away from zero, where the power's slope is infinite.
    power = jnp.where(bright > _DARK, jnp.maximum(bright, _DARK) ** (2.0 - 1.0 / gamma), 0.0)
    return gamma**2 * gain**2 * power / dose_electrons + read_grey**2


def channel_noise_variance(mean: Float[Array, "channel ..."], instrument: Instrument) -> Array:
    """`noise_variance` of the grey values of all channels of an instrument."""
    detector, noise = instrument.detector, instrument.noise

    def spread(leaf):
        return leaf.reshape(-1, *(1,) * (mean.ndim - 1))

    return noise_variance(
        mean,
        gain=spread(detector.gain),
        offset=spread(detector.offset),
        dose_electrons=spread(noise.dose_electrons),
        read_grey=spread(noise.read_grey),
        gamma=spread(detector.gamma),
    )


def sample_grey(
    mean: Float[Array, "..."],
    variance: Float[Array, "..."],
    white_level: Float[Array, ""],
    *,
    key: jax.Array,
) -> Array:
    """Draw grey values: normal, cut off to ``[0, white_level]``. Not rounded.

    Differentiable in mean and variance (the noise is reparametrised), unlike a Poisson draw,
    whose gradient JAX silently takes as zero.
    """
    # The root of a zero variance would have an infinite gradient.
    sigma = jnp.sqrt(jnp.maximum(variance, 1e-12))
    noisy = mean + sigma * jax.random.normal(key, mean.shape, mean.dtype)
    return jnp.clip(noisy, 0.0, white_level)


def log_likelihood(
    grey: Float[Array, "..."],
    mean: Float[Array, "..."],
    variance: Float[Array, "..."],
    white_level: Float[Array, ""],
) -> Array:
    """Log density of `sample_grey` per pixel; at 0 and at white the log probability of cut-off."""
    sigma = jnp.sqrt(jnp.maximum(variance, 1e-12))
    inside = norm.logpdf(grey, mean, sigma)
    black = norm.logcdf(0.0, mean, sigma)
    white = norm.logsf(white_level, mean, sigma)
    return jnp.where(grey <= 0.0, black, jnp.where(grey >= white_level, white, inside))
