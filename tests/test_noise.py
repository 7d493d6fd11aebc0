"""The noise sampler against the law it states, and the likelihood against the sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fibsim.detector import grey_value
from fibsim.instrument import replace_by_name
from fibsim.noise import (
    channel_noise,
    log_likelihood,
    noise_skewness,
    noise_variance,
    sample_grey,
)
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
    bunching = {"noise.bunching": jnp.asarray([1.5, 0.8])}
    instrument = replace_by_name(
        make_instrument(beam_kev=[1.0, 5.0]),
        {f"detector.{k}": jnp.asarray(v) for k, v in values.items()}
        | {f"noise.{k}": jnp.asarray(v) for k, v in noise.items()}
        | bunching,
    )
    mean = jnp.asarray(np.random.default_rng(0).uniform(30, 200, (2, *shape)))
    variance, skewness = channel_noise(mean, instrument)
    for c in range(2):
        own = {name: value[c] for name, value in (values | noise).items()}
        np.testing.assert_allclose(variance[c], noise_variance(mean[c], **own), rtol=1e-5)
        del own["read_grey"]
        stated = noise_skewness(mean[c], variance[c], bunching=[1.5, 0.8][c], **own)
        np.testing.assert_allclose(skewness[c], stated, rtol=1e-5)


def bunched_grey(signal, *, dose, mean_bunch, count=200_000, seed=0):
    """Grey values of compound Poisson counts: bunches of geometric size, one per beam electron.

    The dose that makes their variance the stated one, and their bunching, by the bunch's moments.
    """
    rng = np.random.default_rng(seed)
    share = 1 / (1 + mean_bunch)
    bunch = rng.geometric(share, 2_000_000) - 1.0
    moments = [np.mean(bunch**n) for n in (1, 2, 3)]
    beam = dose * moments[1] / moments[0] ** 2  # beam electrons per pixel at signal 1
    number = rng.poisson(beam * signal, count)
    # A sum of geometric numbers is negative binomial.
    total = np.where(number > 0, rng.negative_binomial(np.maximum(number, 1), share), 0)
    grey = TRUTH["offset"] + TRUTH["gain"] * total / (beam * moments[0])
    return grey, moments[2] * moments[0] / moments[1] ** 2


@pytest.mark.parametrize("signal", [0.1, 0.9])
def test_skew_noise_is_that_of_bunched_electrons(signal):
    """Moments, and shares below and above some levels, of counts that arrive in bunches."""
    dose = 60.0
    wanted, bunching = bunched_grey(signal, dose=dose, mean_bunch=1.3)
    mean = jnp.full(200_000, TRUTH["offset"] + TRUTH["gain"] * signal)
    law = dict(gain=TRUTH["gain"], offset=TRUTH["offset"], dose_electrons=dose)
    variance = noise_variance(mean, read_grey=0.0, **law)
    skewness = noise_skewness(mean, variance, bunching=bunching, **law)
    grey = np.asarray(sample_grey(mean, variance, 1e9, skewness, key=jax.random.key(1)), float)
    assert bunching == pytest.approx(1.4, abs=0.1)
    assert grey.mean() == pytest.approx(wanted.mean(), rel=0.01)
    assert grey.std() == pytest.approx(wanted.std(), rel=0.02)
    assert stats.skew(grey) == pytest.approx(stats.skew(wanted), rel=0.15)
    normal = np.asarray(sample_grey(mean, variance, 1e9, key=jax.random.key(2)), float)
    for level in (-1.5, 2.5):
        at = wanted.mean() + level * wanted.std()
        shares = [np.mean((v > at) == (level > 0)) for v in (wanted, grey, normal)]
        # Nearer than the normal law by far, or as near as numbers of counts allow.
        assert abs(shares[1] - shares[0]) < max(0.35 * abs(shares[2] - shares[0]), 0.002)


def test_bend_of_gamma_is_in_the_skewness():
    """Against counts that are bent as the detector bends them."""
    gamma, dose, signal = 1.5, 400.0, 0.9
    counts = np.random.default_rng(3).poisson(signal * dose, 400_000) / dose
    grey = grey_value(jnp.asarray(counts), TRUTH["gain"], TRUTH["offset"], gamma)
    mean = grey_value(jnp.asarray(signal), TRUTH["gain"], TRUTH["offset"], gamma)
    law = dict(gain=TRUTH["gain"], offset=TRUTH["offset"], dose_electrons=dose, gamma=gamma)
    variance = noise_variance(mean, read_grey=0.0, **law)
    stated = float(noise_skewness(mean, variance, bunching=1.0, **law))
    assert stated > 2 / np.sqrt(signal * dose)
    assert stats.skew(np.asarray(grey, float)) == pytest.approx(stated, rel=0.06)


@pytest.mark.parametrize("skewness", [0.0, 0.05, 0.4, 1.2])
def test_likelihood_of_skew_noise_is_normalised_and_that_of_the_sampler(skewness):
    """Density and cut-off shares sum to one; shares below some levels are the samples'."""
    mean, variance = jnp.asarray(40.0), jnp.asarray(400.0)
    edges = jnp.linspace(1e-3, 120 - 1e-3, 20_001)
    density = np.exp(np.asarray(log_likelihood(edges, mean, variance, 120.0, skewness), float))
    below, above = np.exp(
        np.asarray(log_likelihood(jnp.array([0.0, 120.0]), mean, variance, 120.0, skewness), float)
    )
    levels = np.asarray(edges, float)
    cumulated = below + np.concatenate(
        [[0], np.cumsum(np.diff(levels) * (density[1:] + density[:-1]) / 2)]
    )
    assert cumulated[-1] + above == pytest.approx(1.0, abs=2e-4)
    grey = sample_grey(
        jnp.full(DRAWS, 40.0), jnp.full(DRAWS, 400.0), 120.0, skewness, key=jax.random.key(8)
    )
    shares = np.mean(np.asarray(grey)[:, None] <= levels[::2000], axis=0)
    np.testing.assert_allclose(shares, cumulated[::2000], atol=4 * 0.5 / np.sqrt(DRAWS))


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
        skewness = noise_skewness(
            mean, variance, bunching=1.5, **{k: v for k, v in values.items() if k != "read_grey"}
        )
        grey = sample_grey(mean, variance, WHITE, skewness, key=jax.random.key(0))
        recorded = jnp.array([20.0, 0.0, WHITE])
        likelihood = log_likelihood(recorded, mean, variance, WHITE, skewness)
        return jnp.sum(grey) + jnp.sum(likelihood)

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
