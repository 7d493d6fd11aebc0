"""Which pixels see only what is known of a segmented stack."""

import numpy as np
import pytest

from fibsim.fit.sight import Sight, sight_of
from fibsim.presets import make_instrument


def floor_at(face, faces=8, side=20):
    solid = np.zeros((faces, side, 3), bool)
    solid[face] = True
    return solid


def test_a_straight_beam_never_leaves_at_a_side():
    sight = Sight(lean=0.0, seen=4)
    weights = sight.weights(np.zeros((8, 20, 3), bool), np.array([1.0, 0.3, 0.0]))
    expected = np.broadcast_to(np.array([1.0, 0.3, 0.0])[:, None, None], weights.shape)
    np.testing.assert_allclose(weights, expected)


@pytest.mark.parametrize("lean", [2.0, -2.0])
def test_a_leaning_beam_leaves_at_the_side_it_leans_to(lean):
    """From face 0 it has moved by 10 pixels at the floor, from face 5 not at all."""
    sight = Sight(lean=lean, seen=6)
    ends = sight.ends(floor_at(5), 7)
    for k in range(6):
        rows = ends[k].all(1)[:: 1 if lean > 0 else -1]
        np.testing.assert_array_equal(rows, np.arange(20) < 20 - 2 * (5 - k))
    assert not ends[6].any()
    # Of those that are not stopped the ones stay whose beam ends, unseen, within the view.
    weights = sight.weights(floor_at(5), np.array([1.0, 0.5]))
    for k, weight in enumerate((1.0, 0.5)):
        rows = weights[k, :, 0][:: 1 if lean > 0 else -1]
        np.testing.assert_allclose(rows, weight * (np.arange(20) < 20 - 2 * (5 - k)))
    open_to = sight.weights(floor_at(7), np.array([1.0]))[0, :, 0][:: 1 if lean > 0 else -1]
    np.testing.assert_allclose(open_to, np.arange(20) < 8)


def test_solid_beyond_the_border_stops_no_beam():
    solid = np.zeros((4, 6, 1), bool)
    solid[:, -1] = True
    ends = Sight(lean=2.0, seen=3).ends(solid, 1)
    np.testing.assert_array_equal(ends[0, :, 0], [0, 1, 0, 1, 0, 1])
    # Nor does solid that is deeper than what is seen.
    ends = Sight(lean=2.0, seen=1).ends(solid, 1)
    np.testing.assert_array_equal(ends[0, :, 0], [0, 0, 0, 1, 0, 1])


def test_sight_follows_tilt_and_voxels():
    tilted = sight_of(make_instrument(beam_kev=[1.0], tilt_deg=45.0, pixel_nm=4.0), 5)
    assert tilted.lean == pytest.approx(2.5) and tilted.seen == 5 and tilted.drop == 13
    away = make_instrument(beam_kev=[1.0], tilt_deg=-45.0, pixel_nm=8.0)
    assert sight_of(away, 5).drop == -7
    assert sight_of(make_instrument(beam_kev=[1.0], tilt_deg=0.0), 5).drop == 0
