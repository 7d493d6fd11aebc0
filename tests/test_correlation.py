import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from fibnet import correlation
from fibsim.errors import InputError

SLICED = (10.0, 4.0, 4.0)


def boolean_spheres(shape, voxel_nm, radius_nm, pore_fraction, seed):
    """Overlapping balls; voxels are points at their centres, so that correlations are exact."""
    rng = np.random.default_rng(seed)
    sides = np.asarray(voxel_nm)
    extent = sides * shape + 2 * radius_nm
    density = -math.log(pore_fraction) / (4 / 3 * math.pi * radius_nm**3)
    solid = np.zeros(shape, bool)
    for centre in rng.random((rng.poisson(density * extent.prod()), 3)) * extent - radius_nm:
        low = np.maximum(np.ceil((centre - radius_nm) / sides), 0).astype(int)
        high = np.maximum(np.floor((centre + radius_nm) / sides) + 1, 0).astype(int)
        part = tuple(map(slice, low, high))
        z, y, x = (np.arange(n)[p] * s - c for n, p, s, c in zip(shape, part, sides, centre))  # noqa: B905
        solid[part] |= z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 <= radius_nm**2
    return solid


def blobs(shape, voxel_nm, size_nm, seed, share=0.4):
    """Thresholded Gaussian noise, drawn on the finest side and read in slices."""
    fine = min(voxel_nm)
    drawn = [round(n * side / fine) for n, side in zip(shape, voxel_nm, strict=True)]
    noise = np.random.default_rng(seed).normal(size=drawn).astype(np.float32)
    field = gaussian_filter(noise, np.broadcast_to(np.asarray(size_nm) / fine, 3))
    read = [np.rint(np.arange(n) * s / fine).astype(int) for n, s in zip(shape, voxel_nm)]  # noqa: B905
    field = field[np.ix_(*read)]
    return field > np.quantile(field, 1 - share)


def test_both_functions_count_what_they_say():
    lines = np.random.default_rng(0).random((7, 19)) < 0.7
    pairs = [(lines[:, : 19 - h] & lines[:, h:]).mean() for h in range(19)]
    np.testing.assert_allclose(correlation.two_point(lines), pairs, atol=1e-6)
    windows = [
        np.mean([lines[:, i : i + h + 1].all(axis=1) for i in range(19 - h)]) for h in range(19)
    ]
    np.testing.assert_allclose(correlation.lineal_path(lines), windows, atol=1e-12)


def test_no_wrapping_round():
    line = np.zeros((1, 10), bool)
    line[0, [0, 9]] = True
    np.testing.assert_allclose(correlation.two_point(line)[1:9], 0, atol=1e-6)
    assert correlation.two_point(line)[9] == pytest.approx(1.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_stripes(axis):
    """Walls of 3 voxels every 8: S2(h) = (3 - h) / 8 up to 3 and again at 8; L as far as 3."""
    shape, voxel = (80, 80, 80), (6.0, 4.0, 5.0)
    index = np.arange(80) % 8 < 3
    solid = np.broadcast_to(index.reshape([-1 if a == axis else 1 for a in range(3)]), shape)
    found = correlation.correlations(solid, voxel)
    name = "zyx"[axis]
    curve, path = found.two_point[name], found.lineal_solid[name]
    assert curve.distance_nm[8] == pytest.approx(8 * voxel[axis])
    np.testing.assert_allclose(curve.value[[0, 8, 16]], 3 / 8, rtol=0.04)
    np.testing.assert_allclose(curve.value[:5], np.array([3, 2, 1, 0, 0]) / 8, atol=0.02)
    np.testing.assert_allclose(path.value[:5], np.array([3, 2, 1, 0, 0]) / 8, atol=0.02)
    np.testing.assert_allclose(path.value[3:], 0)
    for other in set("zyx") - {name}:
        np.testing.assert_allclose(found.two_point[other].value, 3 / 8, rtol=1e-5)
        np.testing.assert_allclose(found.lineal_pore[other].value, 5 / 8, rtol=1e-5)


def test_checkerboard():
    """Cubes of 4 voxels: along an axis S2 = 1/2 - h/8, then up again; L = (1 - h/4) / 2."""
    z, y, x = np.indices((64, 64, 64)) // 4
    found = correlation.correlations((z + y + x) % 2 == 0, SLICED)
    h = np.arange(9)
    for name in "zyx":
        expected = 0.5 - np.where(h <= 4, h, 8 - h) / 8
        np.testing.assert_allclose(found.two_point[name].value[:9], expected, atol=0.01)
        for path in (found.lineal_solid, found.lineal_pore):
            np.testing.assert_allclose(
                path[name].value[:9], np.maximum(1 - h / 4, 0) / 2, atol=0.02
            )
    # In cubes of 40 x 16 x 16 nm everything is longer along z, by the ratio of their sides.
    assert found.anisotropy["lineal_solid"].ratio == pytest.approx(2.5, rel=0.02)


def test_overlapping_spheres():
    """``S2(pore) = exp(-rho V2(r))`` and ``L(pore) = exp(-rho (4/3 pi R^3 + pi R^2 r))``.

    V2 is the volume of two balls at a distance r (Torquato 2002, sections 5.1 and 5.2).
    """
    radius, pore = 32.0, 0.5
    volumes = [boolean_spheres((48, 120, 120), SLICED, radius, pore, seed) for seed in range(3)]
    found = [correlation.correlations(v, SLICED) for v in volumes]
    density = -math.log(pore) / (4 / 3 * math.pi * radius**3)

    def both_pore(r):
        t = np.minimum(r / radius, 2)
        return np.exp(-density * 4 / 3 * math.pi * radius**3 * (1 + 3 * t / 4 - t**3 / 16))

    for name in ("z", "y", "x", "in-plane"):
        distance = found[0].two_point[name].distance_nm
        mean = np.mean([f.two_point[name].value for f in found], axis=0)
        near = distance <= 4 * radius
        np.testing.assert_allclose(
            mean[near], (1 - 2 * pore + both_pore(distance))[near], atol=0.025
        )
        if name == "in-plane":
            continue
        path = np.mean([f.lineal_pore[name].value for f in found], axis=0)
        exact = pore ** (1 + 3 * distance / (4 * radius))
        np.testing.assert_allclose(path[near], exact[near], atol=0.025)
    # Isotropic: no ratio is off by much more than its error.
    ratios = [(a.ratio - 1) / a.standard_error for f in found for a in f.anisotropy.values()]
    assert np.max(np.abs(ratios)) < 4 and np.sqrt(np.mean(np.square(ratios))) < 2


def test_standard_errors_are_those_of_repeated_volumes():
    found = [
        correlation.correlations(blobs((24, 80, 80), SLICED, 10.0, s), SLICED) for s in range(10)
    ]
    for name in correlation.CURVES:
        ratios = np.asarray([f.anisotropy[name].ratio for f in found])
        errors = np.asarray([f.anisotropy[name].standard_error for f in found])
        assert 0.5 < np.sqrt(np.mean(errors**2)) / ratios.std(ddof=1) < 2.0
        assert ratios.mean() == pytest.approx(1.0, abs=0.03)
    assert all(correlation.longer_along_z(f) is None for f in found)


def test_what_is_longer_along_z_is_found():
    solid = blobs((30, 96, 96), SLICED, (13.0, 10.0, 10.0), 0)
    found = correlation.correlations(solid, SLICED)
    for own in found.anisotropy.values():
        assert own.ratio == pytest.approx(1.3, abs=max(0.05, 3 * own.standard_error))
    sentence = correlation.longer_along_z(found)
    assert sentence is not None and f"{found.anisotropy['two_point'].ratio:.2f} ±" in sentence


def test_thick_slices_alone_are_no_anisotropy():
    """One structure in cubes and in slices of three pixels: what z misses, x is not given."""
    fine = blobs((72, 72, 72), (4.0, 4.0, 4.0), 12.0, 3)
    one = correlation.correlations(fine, (4.0, 4.0, 4.0)).anisotropy
    other = correlation.correlations(fine[1::3], (12.0, 4.0, 4.0)).anisotropy
    for name in correlation.CURVES:
        assert other[name].ratio == pytest.approx(one[name].ratio, abs=0.04)


def test_lines_left_out_change_little():
    solid = blobs((24, 80, 80), SLICED, 10.0, 1)
    full = correlation.correlations(solid, SLICED)
    some = correlation.correlations(solid, SLICED, max_voxels=solid.size // 4)
    np.testing.assert_allclose(some.two_point["z"].value, full.two_point["z"].value, atol=0.02)
    np.testing.assert_allclose(
        some.two_point["in-plane"].value, full.two_point["in-plane"].value, atol=0.02
    )
    assert some.anisotropy["two_point"].ratio == pytest.approx(
        full.anisotropy["two_point"].ratio, abs=0.1
    )


def test_a_single_slice_has_its_plane_only():
    found = correlation.correlations(blobs((1, 48, 56), SLICED, 10.0, 0), SLICED)
    assert set(found.two_point) == {"y", "x", "in-plane"} and set(found.lineal_pore) == {"y", "x"}
    assert not found.anisotropy and correlation.correlation_rows(found) == []
    assert correlation.longer_along_z(found) is None


@pytest.mark.parametrize("phase", [True, False])
def test_one_phase_has_curves_but_no_lengths(phase):
    found = correlation.correlations(np.full((3, 8, 9), phase), SLICED)
    np.testing.assert_allclose(found.two_point["x"].value, float(phase), atol=1e-6)
    assert math.isnan(found.anisotropy["two_point"].ratio)
    assert correlation.longer_along_z(found) is None


def test_rows_and_table():
    found = correlation.correlations(blobs((6, 24, 20), SLICED, 8.0, 0), SLICED)
    rows = correlation.correlation_rows(found)
    assert rows[0] == (
        "Half length of two-point correlation, z",
        found.anisotropy["two_point"].half_length_nm[0],
        "nm",
    )
    assert len(rows) == 12 and all(isinstance(value, float) for _, value, _ in rows)
    header, *table = correlation.curves_table({"a": found, "b": found})
    assert header == ["volume", "curve", "direction", "distance_nm", "value"]
    assert {tuple(row[:3]) for row in table} >= {
        ("a", "two_point", "in-plane"), ("b", "lineal_pore", "z"),
    }  # fmt: skip


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="threshold"):
        correlation.correlations(np.full((2, 4, 4), 0.5), SLICED)
