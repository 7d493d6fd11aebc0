"""Gauss-Newton on moments: its end point and errors on problems whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fibsim.fit.flat import flatten_free
from fibsim.fit.moments import make_gauges, moment_names, moment_tolerances, stack_moments
from fibsim.fit.newton import (
    bounded_solution,
    limited_solution,
    no_wider_than,
    noise_in_hessian,
)
from fibsim.fit.refine import RefineSettings, refine
from fibsim.fit.unknowns import Unknown, from_free, natural_error

pytestmark = pytest.mark.usefixtures("compiled_fast")

CROPS, NOISE = 4, 0.3
UNKNOWNS = {
    "detector.gain": Unknown(transform="log", prior_sd=1.0),
    "interaction.range_scale": Unknown(transform="log", prior_sd=0.5),
    "interaction.edge_gain": Unknown(transform="log", prior_sd=0.4),
}
ORIGIN = {name: jnp.zeros(2 if name == "detector.gain" else ()) for name in UNKNOWNS}
MIX = np.random.default_rng(7).normal(size=(12, 3))


def mean_moments(free):
    """A curved function of gain and range; nothing depends on the edge."""
    v = jnp.concatenate([free["detector.gain"], free["interaction.range_scale"][None]])
    return jnp.asarray(MIX, jnp.float32) @ jnp.expm1(v)


@jax.jit
def simulate(free, keys):
    return mean_moments(free) + NOISE * jax.vmap(lambda k: jax.random.normal(k, (12,)))(keys)


def record(truth, seed):
    rng = np.random.default_rng(seed)
    return np.asarray(mean_moments(truth)) + NOISE / np.sqrt(CROPS) * rng.normal(size=12)


def run(
    recorded,
    simulate=simulate,
    *,
    unknowns=UNKNOWNS,
    start=ORIGIN,
    tolerance=1e-3,
    seed=1,
    **changes,
):
    settings = dict(rounds=3, steps=4, simulations=60, slope_simulations=2)
    return refine(
        simulate,
        recorded,
        crops=CROPS,
        tolerance=np.full(len(recorded), tolerance),
        start=start,
        origin=start,
        unknowns=unknowns,
        key=jax.random.key(seed),
        settings=RefineSettings(**settings | changes),
    )


TRUTH = {
    "detector.gain": jnp.asarray([0.5, -0.3]),
    "interaction.range_scale": jnp.asarray(0.3),
    "interaction.edge_gain": jnp.asarray(0.2),
}


def test_errors_cover_the_truth():
    """Over 24 recordings: deviations in units of the stated error have a spread of about 1."""
    scores = []
    for seed in range(24):
        found = run(record(TRUTH, seed))
        assert found.converged
        deviation = found.flat.join(found.free) - found.flat.join(TRUTH)
        scores.append((deviation / found.standard_errors)[:3])
    spread = np.sqrt(np.mean(np.square(scores)))
    # 72 scores, not all independent: their spread is known to about a tenth.
    assert 0.7 < spread < 1.4
    assert np.all(found.determined[:3] > 0.8)


def test_steps_within_a_round_need_a_third_of_the_simulations():
    """Where noise grows with the moments, the end is still that of ten times as many."""
    counts = []

    def noisy(free, keys):
        counts.append(len(keys))
        mean = mean_moments(free)
        draws = jax.vmap(lambda key: jax.random.normal(key, (12,)))(keys)
        return mean + NOISE * (1 + 0.3 * mean) * draws

    recorded = record(TRUTH, 3)
    few = run(recorded, noisy, rounds=4, simulations=60)
    assert few.converged
    # All of them where a round starts and for the errors, but in the rough rounds.
    assert 2 <= counts.count(60) <= 3 and counts.count(20) > counts.count(60)
    many = run(recorded, noisy, rounds=4, simulations=600, seed=2)
    apart = few.flat.join(few.free) - many.flat.join(many.free)
    # Sixty add a mean square of 4 crops / 60 to the recording's own scatter.
    assert np.all(np.abs(apart) < 4 * few.standard_errors * np.sqrt(CROPS / 60))


def test_what_the_data_do_not_determine_keeps_its_prior():
    found = run(record(TRUTH, 0))
    last = found.flat.names.index("interaction.edge_gain")
    assert found.standard_errors[last] == pytest.approx(0.4, rel=1e-3)
    assert found.determined[last] == pytest.approx(0.0, abs=1e-3)
    assert float(found.free["interaction.edge_gain"]) == pytest.approx(0.0, abs=1e-6)


def test_misfit_is_near_one_and_grows_with_what_no_unknown_explains():
    fine = run(record(TRUTH, 1))
    assert 0.1 < fine.misfit < 2.5
    outside = np.linalg.svd(MIX)[0][:, 5]  # at right angles to all that the model can do
    off = run(record(TRUTH, 1) + 3.0 * outside)
    assert off.misfit > 5 * fine.misfit
    assert np.all(off.standard_errors[:3] > 1.5 * fine.standard_errors[:3])


def test_too_few_steps_are_not_called_converged():
    far = {**TRUTH, "detector.gain": jnp.asarray([2.0, -1.5])}
    assert not run(record(far, 0), rounds=1, steps=1).converged
    assert run(record(far, 0), rounds=6).converged


def test_a_size_ends_at_zero_and_the_others_where_they_are_best_without_it():
    """A recording with less than no amplifier's noise; the dose must not make up for it."""
    unknowns = {
        "noise.dose_electrons": Unknown(transform="log", prior_sd=2.0),
        "noise.read_grey": Unknown(transform="size", prior_sd=2.0),
    }
    start = {"noise.dose_electrons": jnp.asarray(-1.0), "noise.read_grey": jnp.asarray(1.0)}
    bright = jnp.asarray([1.0, 2.0, 4.0])

    def variance(free, keys):
        counting = bright * jnp.exp(-free["noise.dose_electrons"])
        read = jnp.square(from_free(free["noise.read_grey"], unknowns["noise.read_grey"]))
        noise = 0.01 * jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
        return counting + read + noise

    found = run(
        np.asarray(bright) - 0.5,
        variance,
        unknowns=unknowns,
        start=start,
        tolerance=1e-2,
        seed=2,
        rounds=6,
        simulations=20,
    )
    assert found.converged
    assert float(found.free["noise.read_grey"]) == 0.0
    # Least squares of (bright - 0.5) by a multiple of bright.
    best = float(bright @ (bright - 0.5) / (bright @ bright))
    assert float(found.free["noise.dose_electrons"]) == pytest.approx(-np.log(best), abs=0.02)
    error = natural_error(
        found.free["noise.read_grey"], found.standard_errors[1], unknowns["noise.read_grey"]
    )
    assert 0 < float(error) < np.inf


def test_steps_stay_where_simulations_are_finite():
    """The best values lie where nothing can be simulated."""

    def broken(free, keys):
        moments = simulate(free, keys)
        return jnp.where(free["detector.gain"][0] > 0.4, jnp.nan, moments)

    found = run(record(TRUTH, 0), broken)
    assert not found.converged
    assert 0.2 < float(found.free["detector.gain"][0]) <= 0.4
    assert np.all(np.isfinite(found.flat.join(found.free)))
    assert np.all(np.isfinite(found.standard_errors)) and np.isfinite(found.misfit)


def test_steps_that_lead_away_are_halved():
    """Newton's steps to the root of an arc tangent overshoot, farther each time."""
    unknowns = {"detector.gain": Unknown(transform="log", prior_sd=8.0)}
    start = {"detector.gain": jnp.asarray(0.7)}

    def bent(free, keys):
        noise = 0.01 * jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
        return jnp.arctan(3 * free["detector.gain"]) * jnp.asarray([1.0, 2.0, 3.0]) + noise

    found = run(
        np.zeros(3),
        bent,
        unknowns=unknowns,
        start=start,
        tolerance=1e-2,
        seed=3,
        rounds=8,
        steps=2,
        simulations=12,
    )
    assert found.converged
    assert abs(float(found.free["detector.gain"])) < 4 * found.standard_errors[0] < 0.1


def test_rounds_that_bring_nothing_are_not_repeated():
    """A wall just beside the start: whatever the step, its end cannot be simulated."""
    counted = []

    def walled(free, keys):
        counted.append(len(keys))
        far = jnp.abs(free["detector.gain"]).max() > 0.06  # farther than a slope needs
        return jnp.where(far, jnp.nan, simulate(free, keys))

    found = run(record(TRUTH, 0), walled, rounds=20, draws=0)
    assert not found.converged
    slopes = sum(1 for size in counted if size < 20)
    assert slopes <= 8 * 6  # two ends of four unknowns, in six rounds at most


def test_flat_round_trip_and_names():
    flat = flatten_free(TRUTH, UNKNOWNS)
    assert flat.names[:2] == ("detector.gain[0]", "detector.gain[1]")
    again = flat.split(flat.join(TRUTH))
    for name, value in TRUTH.items():
        np.testing.assert_array_equal(again[name], value)


def test_noise_of_slopes_is_taken_off_the_hessian():
    """Slopes from few simulations: J' W J is too large, and less its noise right on average."""
    rng = np.random.default_rng(5)
    true, weight = rng.normal(size=(40, 3)) * [1.0, 0.3, 0.0], rng.uniform(0.5, 2, 40)
    noisy, clean = [], []
    for _ in range(400):
        common = rng.normal(size=(5, 40, 1))  # unknowns share a simulation's random numbers
        each = true + common + 0.5 * rng.normal(size=(5, 40, 3))
        rounds = [each[:2] + 0.1, each[2:] - 0.1]  # and rounds lie at different places
        mean = np.concatenate(rounds).mean(0) + 0.02  # (2 * 0.1 - 3 * 0.1) / 5
        plain = mean.T @ (weight[:, None] * mean)
        noisy.append(plain)
        clean.append(plain - noise_in_hessian(rounds, weight))
    expected = true.T @ (weight[:, None] * true)
    error = np.std(clean, axis=0) / np.sqrt(len(clean))
    np.testing.assert_array_less(np.abs(np.mean(clean, 0) - expected), 4 * error)
    assert np.mean(noisy, 0)[2, 2] > 5 and abs(np.mean(clean, 0)[2, 2]) < 1


def test_a_limited_step_is_the_best_within_its_limits():
    """Damping leaves the well determined free; no move is beyond its limit or its bound."""
    hessian = np.diag([100.0, 1.0, 4.0]) + 0.1
    force = np.array([30.0, 50.0, -8.0])
    lowest = np.array([-np.inf, -np.inf, -0.25])
    free = bounded_solution(hessian, force, lowest)
    assert free[2] == -0.25 and free[1] > 40
    np.testing.assert_allclose((hessian @ free)[:2], force[:2])
    limit = np.array([1.0, 2.0, 1.0])
    move = limited_solution(hessian, force, lowest, limit)
    assert np.max(np.abs(move) / limit) == pytest.approx(1.0, abs=1e-3)
    assert -0.25 <= move[2] < 0
    # The whole step shortened until the second is within its limit would hardly move the first.
    assert move[0] > 10 * free[0] * 2 / free[1]
    np.testing.assert_array_equal(limited_solution(hessian, force, lowest, 100 * limit), free)


def test_errors_hold_where_slopes_are_noisy():
    """What moments hardly show is not called determined by the noise of its slopes.

    Of 200 moments none depends on the edge on average, but in every simulation, either way.
    """
    size = 200

    @jax.jit
    def unsteady(free, keys):
        def one(key):
            noise, turned = jax.random.normal(key, (2, size))
            gain = jnp.linspace(1, 2, size) * free["detector.gain"][0]
            return gain + NOISE * noise + 0.1 * turned * free["interaction.edge_gain"]

        return jax.vmap(one)(keys)

    found = run(np.linspace(0.5, 1, size), unsteady, rounds=4, slope_simulations=3)
    last = found.flat.names.index("interaction.edge_gain")
    plain = found.slopes[:, last] @ found.slopes[:, last] / (NOISE**2 / CROPS)
    assert plain > 2 / 0.4**2  # the noise alone would take two thirds of the prior's variance
    assert found.standard_errors[last] > 0.8 * 0.4
    assert found.determined[0] > 0.9


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(2)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(2, 6, 40, 44)), -1), -2)
    smooth = 120 + 30 * smooth / smooth.std()
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.float32)


def test_moments_are_named_and_finite(images):
    gauges = make_gauges(images, slice_nm=10.0, pixel_nm=4.0, key=jax.random.key(0), num_filters=4)
    moments = np.asarray(stack_moments(jnp.asarray(images), gauges))
    names = moment_names(images.shape, gauges)
    assert len(names) == len(moments) == len(moment_tolerances(images.shape, gauges))
    assert np.all(np.isfinite(moments))
    # Levels lie at the images' own quantiles, so the shares are those, up to the smoothing.
    at = [names.index(f"grey level {j}, channel 1") for j in (1, 7, 13)]
    np.testing.assert_allclose(moments[at], [0.02, 0.5, 0.98], atol=0.03)


def test_a_crop_that_is_nowhere_bright_has_moments(images):
    """A deep pore fills a crop of a wide image: what is never bright has the noise of the rest."""
    gauges = make_gauges(images, slice_nm=10.0, pixel_nm=4.0, key=jax.random.key(0), num_filters=4)
    names = moment_names(images.shape, gauges)
    dark = np.random.default_rng(5).normal(-500, 2, images.shape)
    moments = np.asarray(stack_moments(jnp.asarray(dark, jnp.float32), gauges))
    assert np.all(np.isfinite(moments))
    here, nowhere = (names.index(f"noise at brightness {j}, channel 1") for j in (1, 5))
    assert moments[nowhere] == pytest.approx(moments[here], abs=0.01)


def test_moments_move_with_what_they_are_named_after(images):
    gauges = make_gauges(images, slice_nm=10.0, pixel_nm=4.0, key=jax.random.key(0), num_filters=4)
    names = moment_names(images.shape, gauges)
    plain = np.asarray(stack_moments(jnp.asarray(images), gauges))
    rng = np.random.default_rng(3)

    def changed(extra):
        return np.asarray(stack_moments(jnp.asarray(images + extra, jnp.float32), gauges)) - plain

    lines = changed(rng.normal(0, 8, (2, 6, 40, 1)))
    columns = changed(rng.normal(0, 8, (2, 6, 1, 44)))
    noise = changed(rng.normal(0, 8, images.shape))
    each = [names.index(f"{name}, channel 2") for name in ("lines", "curtains")]
    assert lines[each[0]] > 1 and abs(lines[each[1]]) < 0.5
    assert columns[each[1]] > 1 and abs(columns[each[0]]) < 0.5
    quiet = names.index("noise at brightness 2, channel 1")
    assert noise[quiet] > 0.5


def test_moments_are_differentiable(images):
    gauges = make_gauges(images, slice_nm=10.0, pixel_nm=4.0, key=jax.random.key(0), num_filters=4)
    weights = jnp.asarray(
        np.random.default_rng(4).normal(size=len(moment_names(images.shape, gauges)))
    )

    def value(scale):
        return jnp.dot(weights, stack_moments(scale * jnp.asarray(images), gauges))

    slope = float(jax.grad(value)(1.0))
    numeric = float(value(1.01) - value(0.99)) / 0.02
    assert slope == pytest.approx(numeric, rel=0.05)


def test_nothing_is_known_less_well_than_before():
    """Directions in which a covariance is wider than the prior's get the prior's, others stay."""
    prior_sd = np.array([2.0, 0.5, 1.0])
    narrow = np.diag(prior_sd**2) * 0.3
    narrow[0, 1] = narrow[1, 0] = 0.1
    np.testing.assert_allclose(no_wider_than(prior_sd, narrow), narrow, rtol=1e-12)
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    unit = np.outer(prior_sd, prior_sd)
    wide, held = ((turned * values) @ turned.T * unit for values in ([1e6, 0.2, 3], [1, 0.2, 1]))
    np.testing.assert_allclose(no_wider_than(prior_sd, wide), held, rtol=1e-8, atol=1e-9)
