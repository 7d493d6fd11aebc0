"""Simulations in three parts: equal to whole ones, and no part is made twice without need."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fibsim.fit.moments import make_gauges, stack_moments
from fibsim.fit.problem import Problem
from fibsim.fit.staged import MomentSimulator
from fibsim.fit.unknowns import apply_unknowns, default_unknowns, specimen_unknowns, start_point
from fibsim.instrument import replace_by_name
from fibsim.presets import make_instrument

pytestmark = pytest.mark.usefixtures("compiled_fast")

PROBLEM = Problem(
    kind="waves", sublayers=2, below_slices=4, shape=(4, 32, 32), slice_nm=10.0, pixel_nm=4.0
)
SPECIMEN = {"solid_fraction": jnp.asarray(0.4), "ligament_nm": jnp.asarray(25.0)}
FAULTS = {
    "thickness_sd": 0.1,
    "drift_nm": 2.0,
    "flicker_sd": 0.05,
    "curtain_sd": 0.05,
    "line_grey": 1.0,
}


@pytest.fixture(scope="module")
def problem():
    """Instrument with all faults, and the unknowns that move everything."""
    instrument = replace_by_name(
        make_instrument(beam_kev=[1.0, 5.0], tilt_deg=38.0),
        {f"faults.{name}": jnp.asarray(size) for name, size in FAULTS.items()}
        | {"detector.probe_nm": jnp.asarray([3.0, 5.0])},
    )
    unknowns = default_unknowns(tilt_known=False) | specimen_unknowns(SPECIMEN)
    return instrument, unknowns, start_point(instrument, SPECIMEN, unknowns)


def test_parts_make_the_whole(problem):
    instrument, _, _ = problem
    key = jax.random.key(3)
    whole = PROBLEM.simulate(instrument, SPECIMEN, key).images
    emission = PROBLEM.emit(instrument, PROBLEM.draw(SPECIMEN, key), key)
    assert emission.shape == (4, 2, 2, 32, 32)
    images = PROBLEM.record(instrument, emission, key)
    np.testing.assert_allclose(images, whole, atol=2e-2)


def test_every_unknown_counts_whatever_is_kept(problem, monkeypatch):
    """One after the other is moved, as for slopes; moments are those of fresh simulations."""
    instrument, unknowns, free = problem
    keys = jax.random.split(jax.random.key(5), 2)
    recorded = np.asarray(PROBLEM.simulate(instrument, SPECIMEN, keys[0]).images)
    gauges = make_gauges(recorded, slice_nm=10.0, pixel_nm=4.0, key=jax.random.key(1))
    made = {"draw": 0, "emit": 0, "record": 0}
    for part in made:
        function = getattr(Problem, part)

        def counted(*arguments, part=part, function=function):
            made[part] += 1
            return function(*arguments)

        monkeypatch.setattr(Problem, part, counted)
    simulate = MomentSimulator(PROBLEM, instrument, SPECIMEN, unknowns, gauges, whole=False)
    first = simulate(free, keys)
    for name in unknowns:
        moved = {**free, name: free[name] + 0.2}
        changed, parameters = apply_unknowns(moved, instrument, SPECIMEN, unknowns)
        fresh = [PROBLEM.simulate(changed, parameters, key).images for key in keys]
        expected = np.stack([np.asarray(stack_moments(one, gauges)) for one in fresh])
        found = simulate(moved, keys)
        np.testing.assert_allclose(found, expected, atol=2e-3, rtol=2e-3, err_msg=name)
        assert np.abs(found - first).max() > 1e-6, name
    # Specimens: of the start, and of each of its own two unknowns. Faces: of thirteen more.
    emitting = [n for n in unknowns if n.startswith(("interaction.", "geometry.", "specimen."))]
    assert made["draw"] <= 2 * 3 and made["record"] == 2 * (1 + len(unknowns))
    assert made["emit"] <= 2 * (len(emitting) + 3) < made["record"]
