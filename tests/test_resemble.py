"""Which generator resembles a volume, and with which parameters."""

import jax
import numpy as np
import pytest

from fibsim.errors import InputError
from fibsim.fit.resemble import count, difference, resembling_kinds
from fibsim.specimens import make

VOXEL = (10.0, 4.0, 4.0)


def test_difference_sees_each_thing_that_is_counted():
    rng = np.random.default_rng(0)
    noise = rng.uniform(size=(8, 32, 32)) < 0.5
    stripes = np.zeros((8, 32, 32), bool)
    stripes[:, :, ::2] = True
    edges = np.arange(1, 12)
    a, b = count(noise, (2, 8), edges), count(stripes, (2, 8), edges)
    assert difference(a, a) == 0.0
    np.testing.assert_allclose(b.solid_fraction, 0.5)
    np.testing.assert_allclose(b.correlation[-8:], [-1, 1] * 4, atol=1e-5)
    np.testing.assert_allclose(b.solid_chords[0], 0.5)  # along x all of length 1, along y none
    assert difference(a, b) > 0.5


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("waves", {"solid_fraction": 0.4, "ligament_nm": 24.0}),
        ("spheres", {"solid_fraction": 0.4, "radius_nm": 24.0}),
    ],
)
def test_the_kind_of_a_draw_is_recognised(kind, parameters):
    drawn = make(kind, key=jax.random.key(8), shape=(24, 96, 96), voxel_nm=VOXEL, **parameters)
    found = resembling_kinds(np.asarray(drawn.solid) > 0.5, VOXEL, kinds=("waves", "spheres"))
    assert found[0].kind == kind
    assert found[0].distance < 2.5 * found[0].chance
    for name, value in parameters.items():
        assert found[0].parameters[name] == pytest.approx(value, rel=0.25)


def test_kinds_need_structure():
    with pytest.raises(InputError, match="shows no structure"):
        resembling_kinds(np.zeros((4, 32, 32), bool), VOXEL)
    with pytest.raises(InputError, match="'foam' is unknown"):
        resembling_kinds(np.zeros((4, 32, 32), bool), VOXEL, kinds=("foam",))
