import math

import numpy as np
import pytest

from fibnet import morphology
from fibsim.errors import InputError

ISOTROPIC, SLICED = (4.0, 4.0, 4.0), (10.0, 4.0, 4.0)


def coordinates(voxel_nm, half_nm):
    axes = [np.arange(-half_nm, half_nm + side / 2, side) for side in voxel_nm]
    return np.meshgrid(*axes, indexing="ij")


def ball(voxel_nm, radius_nm, offset=(0.0, 0.0, 0.0), margin_nm=24.0):
    z, y, x = coordinates(voxel_nm, radius_nm + margin_nm)
    dz, dy, dx = offset
    return (z - dz) ** 2 + (y - dy) ** 2 + (x - dx) ** 2 <= radius_nm**2


def random_waves(shape, voxel_nm, wavelength_nm, seed, count=200):
    """A Gaussian field of one wavelength: its level sets have a known surface."""
    rng = np.random.default_rng(seed)
    k = rng.normal(size=(count, 3))
    k *= 2 * np.pi / wavelength_nm / np.linalg.norm(k, axis=1, keepdims=True)
    axes = [np.arange(n) * side for n, side in zip(shape, voxel_nm, strict=True)]
    waves = [np.exp(1j * np.outer(k[:, a], axes[a])) for a in range(3)]
    waves[0] *= np.exp(2j * np.pi * rng.random(count))[:, None]
    return np.sqrt(2 / count) * np.einsum("nz,ny,nx->zyx", *waves, optimize=True).real


@pytest.mark.parametrize("voxel_nm", [ISOTROPIC, SLICED])
@pytest.mark.parametrize("radius_nm", [20.0, 40.0])
def test_ball(voxel_nm, radius_nm):
    solid = ball(voxel_nm, radius_nm, offset=(1.7, -1.1, 0.6))
    found = morphology.measure(solid, voxel_nm)
    extent = math.prod((n - 1) * side for n, side in zip(solid.shape, voxel_nm, strict=True))
    area = found.specific_surface_per_nm * extent
    assert area == pytest.approx(4 * math.pi * radius_nm**2, rel=0.05)
    # Balls are the worst case of the local thickness: up to two pixels, or a slice, too small.
    too_small = 2 * radius_nm - found.ligament_diameter_nm
    assert -2.0 < too_small < max(2.0 * voxel_nm[2], 1.1 * voxel_nm[0])
    assert found.euler_number == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("radius_nm", [14.0, 30.0])
def test_cylinder_in_sliced_voxels(axis, radius_nm):
    grid = coordinates(SLICED, 60.0)
    # Off the grid's symmetry, which would make the digital circle a special one.
    across = [c + 1.3 * (a + 1) for a, c in enumerate(grid) if a != axis]
    found = morphology.measure(sum(c**2 for c in across) <= radius_nm**2, SLICED)
    assert found.ligament_diameter_nm == pytest.approx(
        2 * radius_nm, abs=1.5 * SLICED[2] if axis == 0 else SLICED[0]
    )
    # One diameter but for a few voxels at the poles, where the slices leave an edge.
    assert found.ligament_diameter_sd_nm < 0.2 * 2 * radius_nm
    # Lateral area over the box of 120 nm: the box faces that cut the cylinder do not count.
    expected = 2 * math.pi * radius_nm * 120 / 120**3
    assert found.specific_surface_per_nm == pytest.approx(
        expected, rel=0.1 if radius_nm < 20 else 0.05
    )


@pytest.mark.parametrize(("axis", "thickness"), [(0, 4), (1, 9), (2, 8)])
def test_slab_in_sliced_voxels(axis, thickness):
    solid = np.zeros((12, 24, 26), bool)
    solid[tuple(slice(4, 4 + thickness) if a == axis else slice(None) for a in range(3))] = True
    found = morphology.measure(solid, SLICED)
    assert found.ligament_diameter_nm == pytest.approx(thickness * SLICED[axis], abs=6.0)
    assert found.ligament_diameter_sd_nm < 0.1
    length = (solid.shape[axis] - 1) * SLICED[axis]
    assert found.specific_surface_per_nm == pytest.approx(2 / length, rel=0.01)


@pytest.mark.parametrize("voxel_nm", [ISOTROPIC, SLICED, (20.0, 4.0, 4.0)])
def test_surface_of_random_waves(voxel_nm):
    shape = tuple(round(280 / side) for side in voxel_nm)
    found, expected = [], []
    for seed in range(2):
        level = 0.385
        solid = random_waves(shape, voxel_nm, 60.0, seed) > level
        found.append(morphology.measure(solid, voxel_nm).specific_surface_per_nm)
        # (2 / pi) sqrt(k^2 / 3) exp(-level^2 / 2): Teubner 1991, doi:10.1209/0295-5075/14/5/003.
        expected.append(2 / 60 / math.sqrt(3) * 2 * math.exp(-(level**2) / 2))
    assert np.mean(found) == pytest.approx(np.mean(expected), rel=0.05)


def test_slices_change_little():
    """The same field in thin and in thick slices gives the same measures."""
    fine = random_waves((72, 72, 72), ISOTROPIC, 70.0, 1) > 0.3
    thick = fine[1::3]
    one, other = (
        morphology.measure(fine, ISOTROPIC),
        morphology.measure(thick, (12.0, 4.0, 4.0)),
    )
    assert other.grid_nm == one.grid_nm == 4.0
    for name in ("specific_surface_per_nm", "ligament_diameter_nm", "pore_diameter_nm"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=0.05), name


def test_agrees_with_porespy_on_a_blob():
    porespy = pytest.importorskip("porespy")
    blob = random_waves((56, 56, 56), (1.0, 1.0, 1.0), 16.0, 4) > 0.2
    theirs = 2 * porespy.filters.local_thickness(blob, sizes=30)
    ours = morphology.local_thickness(blob, (1.0, 1.0, 1.0))
    assert np.all((ours > 0) == blob)
    assert ours[blob].mean() == pytest.approx(theirs[blob].mean(), rel=0.06)
    # Theirs leaves a skin of small sizes on every ball: compare where the balls are.
    core = theirs > np.median(theirs[blob])
    assert np.median(np.abs(ours[core] - theirs[core])) < 1.0


def test_coarse_voxels_do_not_change_the_mean_size():
    """Sampled four times coarser, to 5 voxels a ligament, sizes stay within a quarter voxel."""
    fine = random_waves((108, 108, 108), (1.0, 1.0, 1.0), 54.0, 3, count=80) > 0.4
    coarse = fine[2::4, 2::4, 2::4]
    expected = morphology.local_thickness(fine, (1.0,) * 3)[fine].mean()
    found = morphology.local_thickness(coarse, (4.0,) * 3)[coarse].mean()
    assert found == pytest.approx(expected, abs=1.0)


def test_local_thickness_of_two_balls():
    z, y, x = np.mgrid[:60, :60, :120]
    small = (z - 30) ** 2 + (y - 30) ** 2 + (x - 20) ** 2 < 10.5**2
    large = (z - 30) ** 2 + (y - 30) ** 2 + (x - 80) ** 2 < 24.5**2
    found = morphology.local_thickness(small | large, (2.0, 2.0, 2.0))
    assert np.median(found[small]) == pytest.approx(42, abs=2.1)
    assert np.median(found[large]) == pytest.approx(98, abs=2.1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ball", 1), ("two balls", 2), ("torus", 0), ("hollow ball", 2), ("empty", 0)],
)
def test_euler_number(name, expected):
    z, y, x = np.mgrid[-10:11, -16:17, -16:17]
    r2 = z**2 + y**2 + x**2
    bodies = {
        "ball": r2 <= 81,
        "two balls": (z**2 + y**2 + (abs(x) - 9) ** 2) <= 25,
        "torus": (np.sqrt(x**2 + y**2) - 10) ** 2 + z**2 <= 16,
        "hollow ball": (r2 <= 81) & (r2 >= 25),
        "empty": r2 < 0,
    }
    found = morphology.measure(bodies[name], ISOTROPIC)
    assert found.euler_number == expected
    volume_um3 = 21 * 33 * 33 * 0.004**3
    assert found.euler_density == pytest.approx(expected / volume_um3)


def test_porosity_and_histograms():
    solid = random_waves((20, 48, 40), SLICED, 60.0, 2) > 0.1
    found = morphology.measure(solid, SLICED)
    assert found.porosity == pytest.approx(1 - solid.mean())
    np.testing.assert_allclose(found.porosity_per_slice, 1 - solid.mean(axis=(1, 2)))
    for edges, fraction, mean in (
        (found.ligament_edges_nm, found.ligament_fraction, found.ligament_diameter_nm),
        (found.pore_edges_nm, found.pore_fraction, found.pore_diameter_nm),
    ):
        assert fraction.sum() == pytest.approx(1)
        assert edges.size == fraction.size + 1
        middle = (edges[1:] + edges[:-1]) / 2
        assert (middle * fraction).sum() == pytest.approx(mean, abs=np.diff(edges)[0] / 2)


def test_single_slice_is_measured_in_two_dimensions():
    _, y, x = coordinates((10.0, 4.0, 4.0), 80.0)
    disc = ((y - 1.3) ** 2 + (x + 0.8) ** 2 <= 40.0**2)[:1]
    found = morphology.measure(disc, (10.0, 4.0, 4.0))
    assert found.dimensions == 2
    assert found.ligament_diameter_nm == pytest.approx(80, abs=4)
    assert found.specific_surface_per_nm == pytest.approx(2 * math.pi * 40 / 160**2, rel=0.03)
    assert found.euler_number == 1
    assert morphology.measure(~disc, (10.0, 4.0, 4.0)).euler_number == 0
    rows = morphology.as_rows(found)
    assert rows[1] == ("Perimeter per area", 1000 * found.specific_surface_per_nm, "1/µm")
    assert rows[-1][2] == "1/µm²"


def test_rectangular_pixels_in_one_slice():
    y, x = np.meshgrid(np.arange(-80, 81, 8.0), np.arange(-80, 81, 4.0), indexing="ij")
    found = morphology.measure((y**2 + x**2 <= 50.0**2)[None], (10.0, 8.0, 4.0))
    assert found.ligament_diameter_nm == pytest.approx(100, abs=8)
    assert found.specific_surface_per_nm == pytest.approx(2 * math.pi * 50 / 160**2, rel=0.03)


@pytest.mark.parametrize("phase", [True, False])
@pytest.mark.parametrize("slices", [1, 3])
def test_one_phase_has_no_interface(phase, slices):
    found = morphology.measure(np.full((slices, 6, 7), phase), SLICED)
    assert found.porosity == (0 if phase else 1)
    assert found.specific_surface_per_nm == 0
    assert found.euler_number == int(phase)
    assert math.isnan(found.ligament_diameter_nm) and math.isnan(found.pore_diameter_nm)
    assert found.ligament_fraction.sum() == 0


def test_specks_do_not_break_the_surface():
    solid = np.zeros((8, 20, 20), bool)
    solid[4, 10, 10] = True
    found = morphology.measure(solid, SLICED)
    assert 0 < found.specific_surface_per_nm < 1e-2
    assert morphology.measure(~solid, SLICED).specific_surface_per_nm > 0


def test_grid_is_coarsened_on_demand():
    solid = random_waves((24, 64, 64), SLICED, 90.0, 7) > 0
    full = morphology.measure(solid, SLICED)
    coarse = morphology.measure(solid, SLICED, max_voxels=60_000)
    assert full.grid_nm == 4.0 < coarse.grid_nm
    assert coarse.porosity == full.porosity
    assert coarse.ligament_diameter_nm == pytest.approx(full.ligament_diameter_nm, rel=0.1)
    assert coarse.specific_surface_per_nm == pytest.approx(full.specific_surface_per_nm, rel=0.1)


def test_rows_are_numbers_with_units():
    rows = morphology.as_rows(morphology.measure(ball(SLICED, 30.0), SLICED))
    units = {name: unit for name, _, unit in rows}
    assert units["Specific surface area"] == "1/µm"
    assert units["Mean pore diameter"] == "nm"
    assert all(isinstance(value, float) for _, value, _ in rows)


@pytest.mark.parametrize(
    ("solid", "voxel_nm", "message"),
    [
        (np.zeros((4, 4), bool), SLICED, "expected (z, y, x)"),
        (np.zeros((4, 1, 4), bool), SLICED, "2 x 2 pixels"),
        (np.full((2, 4, 4), 0.5), SLICED, "threshold"),
        (np.zeros((2, 4, 4), bool), (10.0, 0.0, 4.0), "positive"),
    ],
)
def test_bad_input_is_refused(solid, voxel_nm, message):
    with pytest.raises(InputError) as error:
        morphology.measure(solid, voxel_nm)
    assert message in str(error.value)


def test_thickness_without_background_is_refused():
    with pytest.raises(InputError, match="no local thickness"):
        morphology.local_thickness(np.ones((4, 4, 4), bool), (1.0, 1.0, 1.0))
