"""Intervals of the measures cover what they say, and leave out what has no interval."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fibnet.data import SimulatedData, Source
from fibnet.intervals import Case, intervals, simulated_cases
from fibnet.model import ModelConfig
from fibnet.train import TrainSettings, train
from fibsim.presets import make_instrument


def _cases(rng, number, bias, spread):
    """Sizes that come out too large by ``bias``, porosities too small, in the stated scales."""
    cases = []
    for _ in range(number):
        error = bias + spread * rng.normal(size=3)
        odds = math.log(0.6 / 0.4)
        cases.append(
            Case(
                found={"Porosity": 1 / (1 + math.exp(-odds + error[0])), "Size": 30.0 *
                       math.exp(error[1]), "Euler number": -40 + 10 * error[2]},
                true={"Porosity": 0.6, "Size": 30.0, "Euler number": -40.0},
                calibration_error=0.01,
            )
        )  # fmt: skip
    return cases


def test_ninety_percent_are_ninety_percent():
    """Of 600 recordings, each with twelve simulated cases of its own."""
    rng = np.random.default_rng(0)
    inside = {"Porosity": 0, "Size": 0, "Euler number": 0}
    for _ in range(600):
        *cases, recorded = _cases(rng, 13, bias=0.1, spread=0.05)
        for name, (low, high) in intervals(recorded.found, cases).items():
            inside[name] += low <= recorded.true[name] <= high
    # three standard deviations of a share of 600
    np.testing.assert_allclose([n / 600 for n in inside.values()], 0.9, atol=0.037)


def test_what_is_undefined_has_no_interval():
    cases = _cases(np.random.default_rng(1), 5, 0.0, 0.1)
    assert "Porosity" not in intervals({"Porosity": 1.0}, cases)
    assert "Size" not in intervals({"Size": math.nan}, cases)
    assert "Size" not in intervals({"Size": 3.0}, cases[:2])
    assert "Other" not in intervals({"Other": 3.0}, cases)
    assert "Size" in intervals({"Size": 3.0}, cases[:3])


@pytest.mark.usefixtures("compiled_fast")
def test_cases_are_simulated_stacks_with_their_truth(tmp_path):
    source = Source(
        instrument=make_instrument(beam_kev=[1.0, 5.0]),
        specimen={"solid_fraction": jnp.asarray(0.4), "ligament_nm": jnp.asarray(24.0)},
        kind="waves",
        slice_nm=10.0,
        pixel_nm=4.0,
    )
    config = ModelConfig(window=1, widths=(4, 8), fold=2)
    settings = TrainSettings(steps=1)
    # As in other modules, whose programs are found in the cache then.
    data = SimulatedData(slices=4, side_px=32, sublayers=2, below_slices=2)
    segmenter = train(source, config, folder=tmp_path, seed=0, settings=settings, data=data)
    cases = simulated_cases(segmenter, source, (4, 40, 34), seed=1, number=2, sublayers=2)
    assert len(cases) == 2 and cases[0].true != cases[1].true
    for case in cases:
        assert set(case.found) == set(case.true)
        # one volume of 4 x 34 x 34 voxels of a specimen that is 40 % solid on average
        assert 0.3 < case.true["Porosity"] < 0.9
        assert 0 <= case.calibration_error <= 1
    assert jax.tree.leaves(cases[0].found) != jax.tree.leaves(cases[0].true)
