import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from fibnet import mesh as meshes
from fibnet import morphology
from fibsim.errors import InputError

ISOTROPIC, SLICED = (4.0, 4.0, 4.0), (10.0, 4.0, 4.0)


def ball(voxel_nm, radius_nm=40.0, margin_nm=24.0):
    half = radius_nm + margin_nm
    axes = [np.arange(-half, half + side / 2, side) for side in voxel_nm]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return (z - 1.7) ** 2 + (y + 1.1) ** 2 + (x - 0.6) ** 2 <= radius_nm**2


def porous(shape=(12, 30, 34), seed=0):
    noise = np.random.default_rng(seed).normal(size=shape)
    return gaussian_filter(noise, (1.2, 3, 3)) > 0


def edges(mesh):
    """Directed edges of all triangles, each as one number, and reversed."""
    pairs = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    a, b = pairs.astype(np.int64).T
    return a * len(mesh.vertices) + b, b * len(mesh.vertices) + a


@pytest.mark.parametrize("voxel_nm", [ISOTROPIC, SLICED])
def test_ball(voxel_nm):
    found = meshes.surface_mesh(ball(voxel_nm), voxel_nm)
    assert found.volume_nm3 == pytest.approx(4 / 3 * math.pi * 40**3, rel=0.02)
    assert found.area_nm2 == pytest.approx(4 * math.pi * 40**2, rel=0.025)
    # Centre (x, y, z) from the corner of the box, half a voxel before the first centre.
    centre = [64 + 0.6 + voxel_nm[2] / 2, 64 - 1.1 + voxel_nm[1] / 2]
    np.testing.assert_allclose(found.vertices.mean(axis=0)[:2], centre, atol=0.5)
    # Normals point away from the centre.
    middle = found.vertices[found.faces].mean(axis=1)
    outward = np.einsum("fi,fi->f", found.normals(), middle - found.vertices.mean(axis=0))
    assert np.all(outward > 0)


def test_closed_at_the_box():
    solid = porous()
    found = meshes.surface_mesh(solid, SLICED)
    one_way, other_way = edges(found)
    assert np.unique(one_way).size == one_way.size
    assert set(one_way) == set(other_way)
    np.testing.assert_allclose(found.vertices.min(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(found.vertices.max(axis=0), [34 * 4, 30 * 4, 12 * 10], rtol=1e-5)
    assert found.volume_nm3 / (solid.size * 160) == pytest.approx(solid.mean(), abs=0.01)


def test_open_is_the_interface_alone():
    solid = porous()
    found = meshes.surface_mesh(solid, SLICED, closed=False)
    extent = 11 * 10 * 29 * 4 * 33 * 4
    expected = morphology.measure(solid, SLICED).specific_surface_per_nm
    assert found.area_nm2 / extent == pytest.approx(expected, rel=0.01)
    assert found.vertices.min() >= 2.0 - 1e-3


def test_a_box_with_a_hole_in_it():
    solid = np.ones((6, 9, 8), bool)
    solid[2:4, 3:6, 3:6] = False
    found = meshes.surface_mesh(solid, SLICED)
    assert found.volume_nm3 == pytest.approx(solid.sum() * 160, rel=0.01)


def test_large_volumes_get_a_coarser_grid():
    fine, coarse = (meshes.surface_mesh(ball(SLICED), SLICED, max_voxels=n) for n in (10**7, 6000))
    assert fine.grid_nm == pytest.approx((4.0, 4.0, 4.0), rel=0.05)
    assert min(coarse.grid_nm) > 6.0 and len(coarse.faces) < len(fine.faces)
    assert coarse.volume_nm3 == pytest.approx(fine.volume_nm3, rel=0.05)


def test_stl_reads_back(tmp_path):
    found = meshes.surface_mesh(porous(), SLICED)
    meshes.write_mesh(tmp_path / "m.stl", found)
    data = (tmp_path / "m.stl").read_bytes()
    number = int.from_bytes(data[80:84], "little")
    assert number == len(found.faces) and len(data) == 84 + 50 * number
    assert not data.startswith(b"solid") and b"nm" in data[:80]
    record = np.dtype([("n", "<f4", 3), ("v", "<f4", (3, 3)), ("a", "<u2")])
    triangles = np.frombuffer(data, record, offset=84)
    np.testing.assert_array_equal(triangles["v"], found.vertices[found.faces])
    a, b, c = np.moveaxis(triangles["v"].astype(float), 1, 0)
    assert np.einsum("fi,fi->", a, np.cross(b, c)) / 6 == pytest.approx(found.volume_nm3)
    np.testing.assert_allclose(np.linalg.norm(triangles["n"], axis=1), 1, atol=1e-5)
    assert np.einsum("fi,fi->f", np.cross(b - a, c - a), triangles["n"]).min() > 0


def test_ply_reads_back(tmp_path):
    found = meshes.surface_mesh(porous(), SLICED)
    meshes.write_mesh(tmp_path / "m.ply", found)
    header, body = (tmp_path / "m.ply").read_bytes().split(b"end_header\n", 1)
    lines = header.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"] and "unit: nm" in lines[2]
    vertices, faces = (int(s.split()[-1]) for s in lines if s.startswith("element"))
    np.testing.assert_array_equal(
        np.frombuffer(body, "<f4", 3 * vertices).reshape(-1, 3), found.vertices
    )
    record = np.dtype([("n", "u1"), ("v", "<i4", 3)])
    read = np.frombuffer(body, record, offset=12 * vertices)
    assert len(read) == faces and np.all(read["n"] == 3)
    np.testing.assert_array_equal(read["v"], found.faces)


def test_a_write_that_fails_leaves_the_file_before(tmp_path, monkeypatch):
    path = tmp_path / "m.stl"
    path.write_bytes(b"before")

    def full(mesh):
        yield b"half"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(meshes, "_stl", full)
    with pytest.raises(InputError, match="No space left"):
        meshes.write_mesh(path, meshes.surface_mesh(ball(SLICED), SLICED))
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["m.stl"]


@pytest.mark.parametrize(
    ("solid", "words"),
    [
        (np.ones((4, 5, 6), bool), "100 % solid"),
        (np.zeros((4, 5, 6), bool), "0 % solid"),
        (np.eye(6, dtype=bool)[None], "two slices"),
    ],
)
def test_what_has_no_surface_is_refused(solid, words):
    with pytest.raises(InputError, match=words):
        meshes.surface_mesh(solid, SLICED)


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"\.stl or \.ply"):
        meshes.write_mesh(tmp_path / "m.obj", meshes.surface_mesh(ball(SLICED), SLICED))
