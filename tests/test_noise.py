"""The noise sampler against the law it states, and the likelihood against the sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fibsim.detector import grey_value
from fibsim.instrument import replace_by_name
from fibsim.noise import channel_noise_variance, log_likelihood, noise_variance, sample_grey
from fibsim.presets import make_instrument
from fibsim.simulate import add_noise

DRAWS = 40_000
WHITE = 255.0
TRUTH = dict(gain=120.0, offset=20.0, dose_electrons=45.0, read_grey=3.0)


def draw(mean, *, seed=0, white=WHITE, **changes):
    means = jnp.full(DRAWS, mean)
    variance = noise_variance(means, **{**TRUTH, **changes})
    return np.asarray(sample_grey(means, variance, white, key=jax.random.key(seed)), float)


def stated_variance(mean):
    return TRUTH["gain"] * (mean - TRUTH["offset"]) / TRUTH["dose_electrons"] + 9.0


@pytest.mark.parametrize("mean", [90.0, 120.0, 150.0])
def test_sampled_mean_and_variance_are_the_stated_ones(mean):
    """Far from black and white, within four standard errors of each."""
    grey, variance = draw(mean), stated_variance(mean)
    assert grey.mean() == pytest.approx(mean, abs=4 * np.sqrt(variance / DRAWS))
    assert grey.var() == pytest.approx(variance, abs=4 * variance * np.sqrt(2 / DRAWS))


def test_unsaturated_samples_are_normal():
    """Kolmogorov-Smirnov on the standardised samples; three draws, none improbable."""
    for seed, mean in enumerate((90.0, 120.0, 150.0)):
        standardised = (draw(mean, seed=seed) - mean) / np.sqrt(stated_variance(mean))
        assert stats.kstest(standardised, "norm").pvalue > 0.01


@pytest.mark.parametrize("mean", [21.0, 245.0])
def test_share_of_saturated_pixels(mean):
    """At both ends the share that is cut off, within four standard errors."""
    sigma = np.sqrt(TRUTH["gain"] * (mean - 20.0) / 45.0 + 36.0)
    grey = draw(mean, seed=1, read_grey=6.0)
    for share, expected in (
        (np.mean(grey == 0.0), stats.norm.cdf(0.0, mean, sigma)),
        (np.mean(grey == WHITE), stats.norm.sf(WHITE, mean, sigma)),
    ):
        error = 4 * np.sqrt(expected * (1 - expected) / DRAWS)
        assert share == pytest.approx(expected, abs=error + 1e-12)
    assert grey.min() >= 0.0 and grey.max() <= WHITE
    # Neither end is idle: each mean is near one of them.
    assert np.mean((grey == 0.0) | (grey == WHITE)) > 1e-4


@pytest.mark.parametrize("mean", [5.0, 128.0, 250.0])
def test_likelihood_is_a_normalised_density(mean):
    """Density over the open interval plus the two probabilities of cut-off is one."""
    grey = jnp.linspace(1e-3, WHITE - 1e-3, 20_001)
    variance = jnp.asarray(80.0)
    density = np.exp(np.asarray(log_likelihood(grey, jnp.asarray(mean), variance, WHITE), float))
    ends = log_likelihood(jnp.array([0.0, WHITE]), jnp.asarray(mean), variance, WHITE)
    total = np.trapezoid(density, np.asarray(grey, float)) + np.exp(np.asarray(ends, float)).sum()
    assert total == pytest.approx(1.0, abs=1e-4)


SIGNAL = jnp.linspace(0.0, 2.0, DRAWS)  # dark to saturated


def law(values):
    mean = values["offset"] + values["gain"] * SIGNAL
    return mean, noise_variance(mean, **values)


def test_likelihood_is_greatest_at_the_truth():
    """Each parameter's maximum within three standard errors, which the curvature gives."""
    names = list(TRUTH)
    grey = sample_grey(*law(TRUTH), WHITE, key=jax.random.key(5))

    @jax.jit
    def likelihood(factors):
        values = {name: TRUTH[name] * factors[i] for i, name in enumerate(names)}
        return jnp.sum(log_likelihood(grey, *law(values), WHITE))

    ones = jnp.ones(len(names))
    slope = np.asarray(jax.grad(likelihood)(ones), float)
    curvature = np.diag(np.asarray(jax.hessian(likelihood)(ones), float))
    assert np.all(curvature < 0)
    error = 1 / np.sqrt(-curvature)
    assert np.all(error < 0.05)
    np.testing.assert_array_less(np.abs(slope / curvature), 3 * error)
    for i in range(len(names)):
        for side in (-6, 6):
            assert likelihood(ones.at[i].add(side * error[i])) < likelihood(ones)


def test_more_dose_means_less_relative_noise():
    relative = [draw(130.0, dose_electrons=dose).std() / 110.0 for dose in (10.0, 40.0, 160.0)]
    assert relative[0] > relative[1] > relative[2]
    quiet = draw(130.0, dose_electrons=10.0, read_grey=0.0).std()
    assert quiet / draw(130.0, dose_electrons=160.0, read_grey=0.0).std() == pytest.approx(
        4, rel=0.02
    )


def test_gamma_bends_the_noise_with_the_signal():
    """Normal counts, bent as the detector bends them, against the stated variance."""
    gamma, dose, signal = 0.8, 4000.0, 0.9
    counts = signal + np.sqrt(signal / dose) * np.random.default_rng(3).normal(size=DRAWS)
    grey = np.asarray(grey_value(jnp.asarray(counts), TRUTH["gain"], TRUTH["offset"], gamma))
    mean = grey_value(jnp.asarray(signal), TRUTH["gain"], TRUTH["offset"], gamma)
    values = {**TRUTH, "dose_electrons": dose, "read_grey": 0.0}
    stated = float(noise_variance(mean, gamma=gamma, **values))
    # The variance of DRAWS samples is known to sqrt(2 / DRAWS) = 0.7 %.
    assert grey.var() == pytest.approx(stated, rel=0.03)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_every_channel_has_its_own_law(shape):
    """Gain, offset, dose, amplifier and gamma of each channel, over any axes behind it."""
    values = dict(gain=[120.0, 80.0], offset=[20.0, 10.0], gamma=[1.0, 1.3])
    noise = dict(dose_electrons=[45.0, 90.0], read_grey=[3.0, 1.0])
    instrument = replace_by_name(
        make_instrument(beam_kev=[1.0, 5.0]),
        {f"detector.{k}": jnp.asarray(v) for k, v in values.items()}
        | {f"noise.{k}": jnp.asarray(v) for k, v in noise.items()},
    )
    mean = jnp.asarray(np.random.default_rng(0).uniform(30, 200, (2, *shape)))
    found = channel_noise_variance(mean, instrument)
    for c in range(2):
        own = {name: value[c] for name, value in (values | noise).items()}
        np.testing.assert_allclose(found[c], noise_variance(mean[c], **own), rtol=1e-5)


def test_darkness_has_amplifier_noise_only():
    mean = jnp.array([20.0, 5.0])
    np.testing.assert_allclose(np.asarray(noise_variance(mean, **TRUTH)), 9.0, rtol=1e-6)


@pytest.mark.parametrize("read_grey", [2.0, 0.0])
def test_gradients_at_zero_intensity_are_finite(read_grey):
    """No signal, and even no noise at all: the roots and logarithms must not yield nan."""
    signal = jnp.array([0.0, 0.0, 1.0])

    def loss(values):
        mean = values["offset"] + values["gain"] * signal
        variance = noise_variance(mean, **values)
        grey = sample_grey(mean, variance, WHITE, key=jax.random.key(0))
        recorded = jnp.array([20.0, 0.0, WHITE])
        return jnp.sum(grey) + jnp.sum(log_likelihood(recorded, mean, variance, WHITE))

    values = {k: jnp.asarray(v) for k, v in {**TRUTH, "read_grey": read_grey}.items()}
    for name, slope in jax.grad(loss)(values).items():
        assert np.isfinite(float(slope)), name


def test_gradient_flows_through_the_sample():
    """The noise is reparametrised: a brighter mean moves every unsaturated sample up."""
    slope = jax.grad(
        lambda m: jnp.mean(sample_grey(m, jnp.full(100, 30.0), WHITE, key=jax.random.key(2)))
    )(jnp.full(100, 130.0))
    np.testing.assert_allclose(np.asarray(slope), 0.01, rtol=1e-5)


def test_noise_of_a_slice_goes_by_its_number():
    """Slabs get the noise of the whole, also of a single slice; slices differ from one another."""
    lens = make_instrument(beam_kev=(1.0, 5.0))
    mean, key = jnp.full((2, 5, 16, 16), 120.0), jax.random.key(3)
    whole = np.asarray(add_noise(mean, lens, key=key))
    for first, stop in ((2, 5), (4, 5)):
        part = add_noise(mean[:, first:stop], lens, key=key, first=first)
        np.testing.assert_array_equal(part, whole[:, first:stop])
    correlation = np.corrcoef(whole.reshape(10, -1)) - np.eye(10)
    assert np.abs(correlation).max() < 5 / 16


def test_same_key_same_noise():
    assert np.array_equal(draw(100.0, seed=7), draw(100.0, seed=7))
    assert not np.array_equal(draw(100.0, seed=7), draw(100.0, seed=8))
