import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.linalg import spsolve

from fibnet import transport
from fibsim.errors import InputError

pytestmark = pytest.mark.usefixtures("compiled_fast")

# One shape for all, since every other one is compiled anew.
SHAPE, VOXEL = (16, 20, 24), (10.0, 4.0, 5.0)


def blobs(shape, voxel_nm, size_nm, share, seed):
    noise = np.random.default_rng(seed).normal(size=shape)
    field = gaussian_filter(noise, [size_nm / side for side in voxel_nm])
    return field > np.quantile(field, 1 - share)


def by_direct_solution(phase, voxel_nm, axis):
    """The same finite volumes, assembled voxel by voxel and solved in double precision."""
    moved = np.moveaxis(phase, axis, 0)
    sides = [voxel_nm[axis], *(s for a, s in enumerate(voxel_nm) if a != axis)]
    volume, n = math.prod(sides), moved.shape[0]
    number = np.arange(moved.size).reshape(moved.shape)
    rows, columns, values, right = [], [], [], np.zeros(moved.size)
    diagonal = np.zeros(moved.size)
    for a, side in enumerate(sides):
        near, far = (
            number[tuple(cut if b == a else slice(None) for b in range(3))].ravel()
            for cut in (slice(None, -1), slice(1, None))
        )
        open_ = moved.ravel()[near] & moved.ravel()[far]
        near, far, g = near[open_], far[open_], volume / side**2
        for i, j in ((near, far), (far, near)):
            rows.append(i)
            columns.append(j)
            values.append(np.full(i.size, -g))
            np.add.at(diagonal, i, g)
    g = 2 * volume / sides[0] ** 2
    for layer, value in ((0, 1.0), (n - 1, 0.0)):
        ends = number[layer][moved[layer]]
        diagonal[ends] += g
        right[ends] += g * value
    diagonal += 1e-9 * g  # clusters without a face would be singular
    rows.append(number.ravel())
    columns.append(number.ravel())
    values.append(diagonal)
    values, rows, columns = map(np.concatenate, (values, rows, columns))
    matrix = coo_array((values, (rows, columns)), shape=(moved.size,) * 2).tocsc()
    c = spsolve(matrix, right)
    first = number[0][moved[0]]
    flux = (g * (1 - c[first])).sum()
    length, area = n * sides[0], moved[0].size * sides[1] * sides[2]
    return phase.mean() * area / (flux * length)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_straight_channels_have_factor_one(axis):
    channel = np.random.default_rng(axis).random(SHAPE).take([0], axis) < 0.2
    phase = np.broadcast_to(channel, SHAPE)
    tau, imbalance = transport.tortuosity_factor(phase, VOXEL, axis)
    assert tau == pytest.approx(1.0, abs=1e-4) and imbalance < 1e-3
    assert transport.percolation(phase)[0][axis] == 1.0


def test_bent_channels_are_resistors_in_series_and_in_parallel():
    z_nm, y_nm, x_nm = VOXEL
    phase = np.zeros(SHAPE, bool)
    phase[:9, 4, 3] = phase[8, 4, 3:12] = phase[8:, 4, 11] = True
    # 16 steps of z (half ones at both faces), eight of x, each distance over area.
    resistance = 16 * z_nm / (y_nm * x_nm) + 8 * x_nm / (y_nm * z_nm)
    box = 16 * z_nm / (20 * y_nm * 24 * x_nm)
    expected = phase.mean() * resistance / box
    assert transport.tortuosity_factor(phase, VOXEL, 0, tolerance=1e-7)[0] == pytest.approx(
        expected, rel=1e-3
    )
    straight = np.zeros(SHAPE, bool)
    straight[:, 9, 7] = True
    both = (phase | straight).mean() / (1 / expected * phase.mean() + straight.mean())
    assert transport.tortuosity_factor(phase | straight, VOXEL, 0, tolerance=1e-7)[
        0
    ] == pytest.approx(both, rel=1e-3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_agrees_with_a_direct_solution(axis):
    phase = blobs(SHAPE, VOXEL, 8.0, 0.5, 3)
    expected = by_direct_solution(phase, VOXEL, axis)
    tau, imbalance = transport.tortuosity_factor(phase, VOXEL, axis)
    assert tau == pytest.approx(expected, rel=2e-3)
    # Minimal energy: the unfinished solution conducts too well, never too badly.
    assert tau < expected * (1 + 1e-4)
    assert imbalance < 0.1
    fine, balanced = transport.tortuosity_factor(phase, VOXEL, axis, tolerance=1e-8)
    assert fine == pytest.approx(expected, rel=2e-4) and balanced < 0.01


def test_dilute_balls_follow_maxwell():
    """An insulating ball in a conductor: Deff / D0 = 2 f / (3 - f), f = 1 - ball (Maxwell 1873).

    The box is one cell of a cubic array, in voxels of three different sides. Steps of voxels hold
    up the flux, in proportion to their size: what is compared is the limit of small ones.
    """
    factors = []
    for fold in (1, 2):
        sides = (1.5 / fold, 1.2 / fold, 1.0 / fold)
        axes = ((np.arange(fold * n) + 0.5) * s - 12 for n, s in zip(SHAPE, sides, strict=True))
        z, y, x = np.meshgrid(*axes, indexing="ij")
        around = z**2 + y**2 + x**2 > 8.0**2
        factors.append([transport.tortuosity_factor(around, sides, axis)[0] for axis in range(3)])
    coarse, fine = np.asarray(factors)
    f = 1 - 4 / 3 * math.pi * 8**3 / 24**3
    assert np.all(coarse > fine) and np.all(fine > (3 - f) / 2)
    np.testing.assert_allclose(2 * fine - coarse, (3 - f) / 2, atol=0.005)


def test_percolation_and_connectivity_of_known_bodies():
    solid = np.zeros(SHAPE, bool)
    solid[:, 2:4, 2:4] = True  # 64 voxels from face to face along z
    solid[5:7, 10:14, 10:14] = True  # 32 inside
    solid[0, 18, 20:] = True  # 4 at a corner of three faces' rims
    fractions, largest = transport.percolation(solid)
    assert fractions == (0.64, 0.0, 0.0) and largest == 0.64
    # Voxels that share an edge only are not connected.
    steps = np.zeros((4, 4, 4), bool)
    steps[range(4), range(4), 0] = True
    assert transport.percolation(steps) == ((0.0, 0.0, 0.0), 0.25)
    found = transport.transport(solid, VOXEL)
    assert found.solid.tortuosity[1:] == (math.inf, math.inf)
    # All of the phase counts, so what does not conduct makes the factor larger.
    assert found.solid.tortuosity[0] == pytest.approx(1 / 0.64, rel=1e-3)
    assert found.pores.percolating == (1.0, 1.0, 1.0) and found.pores.largest == 1.0


def test_an_absent_phase_has_no_numbers():
    found = transport.transport(np.ones(SHAPE, bool), VOXEL)
    assert found.solid.tortuosity == pytest.approx((1.0, 1.0, 1.0), abs=1e-4)
    assert all(map(math.isnan, (*found.pores.tortuosity, *found.pores.percolating)))
    assert math.isnan(found.pores.largest)


def test_large_volumes_are_solved_in_their_middle_and_say_so():
    channel = np.zeros((32, 40, 48), bool)
    channel[:, 15:25, 20:30] = True
    found = transport.transport(channel, VOXEL, max_voxels=math.prod(SHAPE))
    assert found.shape == (32, 40, 48) and found.solved_shape == SHAPE
    assert found.solid.tortuosity[0] == pytest.approx(1.0, abs=1e-4)
    rows = {name: value for name, value, _ in transport.transport_rows(found)}
    assert rows["Part of the volume solved for tortuosity"] == pytest.approx(12.5)
    assert rows["Percolating fraction of the solid, z"] == 1.0


def test_a_single_slice_has_its_plane_only():
    found = transport.transport(blobs((1, 20, 24), VOXEL, 8.0, 0.6, 1), VOXEL)
    names = [name for name, _, _ in transport.transport_rows(found)]
    assert not any(name.endswith(", z") for name in names)
    assert "Tortuosity factor of the solid, x" in names
    assert math.isnan(found.solid.tortuosity[0]) and math.isnan(found.solid.percolating[0])


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="positive"):
        transport.transport(np.ones(SHAPE, bool), (1.0, 0.0, 1.0))
    with pytest.raises(InputError, match="expected"):
        transport.transport(np.ones((4, 4), bool), VOXEL)
