"""What a regression gets wrong is taken away (that it helps: experiments/regression_bias.py)."""

import jax.numpy as jnp
import numpy as np
import pytest

from fibsim.fit import (
    apply_unknowns,
    default_unknowns,
    keep_noise,
    regression_unknowns,
    start_point,
    without_bias,
)
from fibsim.instrument import replace_by_name
from fibsim.noise import channel_noise
from fibsim.presets import make_instrument

UNKNOWNS = regression_unknowns(tilt_known=True)


@pytest.fixture(scope="module")
def instrument():
    made = make_instrument(beam_kev=[1.0, 5.0], tilt_deg=38.0)
    return replace_by_name(
        made,
        {
            "detector.gain": jnp.asarray([120.0, 150.0]),
            "detector.offset": jnp.asarray([20.0, 30.0]),
            "noise.dose_electrons": jnp.asarray([30.0, 25.0]),
            "noise.read_grey": jnp.asarray([5.0, 6.0]),
        },
    )


@pytest.fixture(scope="module")
def grey():
    return np.random.default_rng(0).uniform(30, 200, (2, 3, 40, 40)).astype(np.float32)


def test_noise_is_kept_at_every_brightness(instrument, grey):
    """At another gain, offset and gamma."""
    moved = replace_by_name(
        instrument,
        {
            "detector.gain": 1.15 * instrument.detector.gain,
            "detector.offset": instrument.detector.offset - 2.0,
            "detector.gamma": jnp.asarray([0.97, 1.02]),
        },
    )
    kept = keep_noise(moved, instrument, grey)
    mean = jnp.broadcast_to(jnp.linspace(40.0, 190.0, 7), (2, 7))
    before, after, neither = (channel_noise(mean, i)[0] for i in (instrument, kept, moved))
    # Exactly at two brightnesses; gamma bends the law between and beyond.
    np.testing.assert_allclose(after, before, rtol=0.03)
    assert np.max(np.abs(neither / before - 1)) > 0.05
    np.testing.assert_array_equal(kept.detector.gain, moved.detector.gain)


def test_what_the_twin_is_off_is_taken_away(instrument, grey):
    """In the free space; not more than a standard deviation of the prior, and not of the noise."""
    free = start_point(instrument, {}, UNKNOWNS)
    rng = np.random.default_rng(1)
    off = {name: 0.5 * rng.normal(size=v.shape).clip(-1.5, 1.5) for name, v in free.items()}
    off |= {n: 0 * v for n, v in off.items() if UNKNOWNS[n].transform == "size"}  # they end at zero
    off["interaction.return_depth"] = np.asarray(3.0)

    def moved(sign, size):
        values = {
            name: v + sign * UNKNOWNS[name].prior_sd * jnp.asarray(size(off[name]))
            for name, v in free.items()
        }
        return apply_unknowns(values, instrument, {}, UNKNOWNS)[0]

    again, expected = moved(1, lambda v: v), moved(-1, lambda v: v.clip(-1, 1))
    result, bias = without_bias(instrument, again, UNKNOWNS, grey=grey)
    for name, value in start_point(result, {}, UNKNOWNS).items():
        wanted = start_point(expected, {}, UNKNOWNS)[name]
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=2e-4, err_msg=name)
    assert bias["interaction.return_depth"] == 1.0
    assert not any(name.startswith("noise.") for name in bias)

    # Nor of a regression that had it free.
    every = default_unknowns(tilt_known=True)
    measured = {"noise.dose_electrons", "noise.read_grey"}
    assert every.keys() - without_bias(instrument, again, every, grey=grey)[1].keys() == measured
