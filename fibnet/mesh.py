"""The interface of a segmented volume as a triangle mesh, and its files: binary STL and PLY."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from fibnet.morphology import checked_label, isotropic, signed_distance, smooth_interface
from fibsim import io
from fibsim.errors import InputError

__all__ = ["FORMATS", "Mesh", "surface_mesh", "write_mesh"]

FORMATS = ("stl", "ply")

# Half the thickness of the shell of samples that closes a mesh, in voxel sides: edges of the box
# are cut by so much, and no triangle degenerates.
_SHELL = 0.02


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Triangles whose normals point out of the solid.

    Attributes:
        vertices: positions ``(x, y, z)`` in nm; the box begins at 0, z grows with the slices. The
            frame is right-handed.
        faces: three vertices of each triangle, counter-clockwise seen from the pores.
        grid_nm: sides ``(z, y, x)`` of the samples that it was triangulated on, in nm.
    """

    vertices: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]
    grid_nm: tuple[float, ...]

    @property
    def area_nm2(self) -> float:
        """Sum of the triangles' areas in nm^2."""
        return float(0.5 * np.linalg.norm(self._crosses(), axis=1).sum())

    @property
    def volume_nm3(self) -> float:
        """Volume inside in nm^3, ``sum a . (b x c) / 6``; positive where normals point outward.

        Of a closed mesh only.
        """
        a, b, c = np.moveaxis(self._corners(), 1, 0)
        return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6)

    def normals(self) -> Float[np.ndarray, "face 3"]:
        """Unit normals of the triangles."""
        crosses = self._crosses()
        return crosses / np.maximum(np.linalg.norm(crosses, axis=1, keepdims=True), 1e-30)

    def _corners(self) -> np.ndarray:
        return self.vertices[self.faces].astype(np.float64)

    def _crosses(self) -> np.ndarray:
        a, b, c = np.moveaxis(self._corners(), 1, 0)
        return np.cross(b - a, c - a)


def surface_mesh(
    solid: np.ndarray,
    voxel_nm: Sequence[float],
    *,
    closed: bool = True,
    max_voxels: int = 20_000_000,
) -> Mesh:
    """Triangulates the interface between solid and pores.

    Marching cubes (Lewiner et al. 2003, doi:10.1080/10867651.2003.10487582) on the signed
    distance, interpolated onto cubes and blurred by less than a pixel, as
    `fibnet.morphology.measure` does for the specific surface, at the level that leaves the
    label's solid fraction as it is. 48 x 128 x 128 voxels take a second.

    Args:
        solid: boolean label ``(z, y, x)``, 1 = solid, of at least two slices.
        voxel_nm: voxel size ``(z, y, x)`` in nm.
        closed: also the faces of the box where the solid meets them, so that the mesh encloses
            the solid and has a volume; otherwise the interface alone, within the centres of the
            outermost voxels.
        max_voxels: of more cubes, their sides grow, which `Mesh.grid_nm` states.

    Raises:
        InputError: the label is not a binary (z, y, x) volume of at least 2 x 2 x 2 voxels, the
            voxel size is not positive, or the label is of one phase.
    """
    from skimage.measure import marching_cubes

    solid, voxel = checked_label(solid, voxel_nm)
    if len(solid) == 1 or solid.all() or not solid.any():
        raise InputError(
            f"A label of shape {solid.shape} that is {100 * solid.mean():.0f} % solid has no "
            "surface to mesh; give at least two slices that hold both phases."
        )
    lengths = [n * side for n, side in zip(solid.shape, voxel, strict=True)]
    finest = min(voxel)
    cubes = float(np.prod(lengths)) / finest**3
    side = finest * max(1.0, cubes / max_voxels) ** (1 / 3)
    distance, spacing = isotropic(signed_distance(solid, voxel), voxel, side)
    field, _ = smooth_interface(distance, spacing, voxel)
    field = field - _level(field, _share(solid))
    # Samples are voxel centres, half a voxel inside the box.
    positions = [
        0.5 * v + h * np.arange(n) for v, h, n in zip(voxel, spacing, field.shape, strict=True)
    ]
    if closed:
        field, positions = _closed(field, positions, lengths, voxel)
    corners, faces, _, _ = marching_cubes(field, 0.0)
    vertices = [np.interp(corners[:, a], np.arange(len(p)), p) for a, p in enumerate(positions)]
    # Taken as (x, y, z) instead of (z, y, x) the triangles are mirrored, and so turn outward.
    return Mesh(
        np.stack(vertices[::-1], axis=1).astype(np.float32), faces.astype(np.int32), spacing
    )


def write_mesh(path: str | Path, mesh: Mesh) -> None:
    """Writes a mesh as binary STL or PLY by the ending of the path, whole or not at all.

    Lengths are in nm, which the comment of the file says; neither format has units.

    Raises:
        InputError: another ending, or the file cannot be written.
    """
    path = Path(path)
    writers = {".stl": _stl, ".ply": _ply}
    if path.suffix.lower() not in writers:
        raise InputError(f"{path} ends in {path.suffix!r}; meshes are written as .stl or .ply.")
    parts = writers[path.suffix.lower()](mesh)
    with io.atomic_path(path) as temporary, temporary.open("wb") as file:
        for part in parts:
            file.write(part)


def _share(solid: np.ndarray) -> float:
    """Solid fraction within the centres of the outermost voxels, half of which lie outside."""
    weights = [np.ones(n) for n in solid.shape]
    for weight in weights:
        weight[[0, -1]] = 0.5
    planes = np.stack([weights[1] @ plane @ weights[2] for plane in solid])
    return float(weights[0] @ planes / np.prod([weight.sum() for weight in weights]))


def _level(field: np.ndarray, share: float) -> float:
    """Level above which a share of the volume lies, by bisection of the field's range.

    Not the one that `smooth_interface` returns: an interpolated distance cuts the ends of bodies
    between thick slices, a ball of four slices by 4 % of its volume.
    """
    low, high = float(field.min()), float(field.max())
    for _ in range(16):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _share(field > middle) > share else (low, middle)
    return 0.5 * (low + high)


def _closed(
    field: np.ndarray, positions: list[np.ndarray], lengths: Sequence[float], voxel: Sequence[float]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The field continued to just inside the box, and as its negative, or pore, just outside.

    The zero between both lies exactly on the face of the box.
    """
    inside = np.pad(field, 1, mode="edge")
    wide = -abs(np.pad(inside, 1, mode="edge"))
    wide[1:-1, 1:-1, 1:-1] = inside
    shells = [_SHELL * v for v in voxel]
    positions = [
        np.concatenate([[-t, t], p, [length - t, length + t]])
        for p, t, length in zip(positions, shells, lengths, strict=True)
    ]
    return wide, positions


# Both formats are a header and records of fixed layout, which NumPy writes as they are; a library
# would be a dependency for these lines.


def _stl(mesh: Mesh) -> list[bytes]:
    """80 bytes of comment, the number of triangles, and 50 bytes for each (little-endian)."""
    record = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    triangles = np.zeros(len(mesh.faces), record)
    triangles["normal"] = mesh.normals()
    triangles["corners"] = mesh.vertices[mesh.faces]
    # A comment that begins with "solid" would be taken for the text format.
    comment = b"binary STL written by fibnet; unit: nm".ljust(80)
    return [comment, np.uint32(len(triangles)).astype("<u4").tobytes(), triangles.tobytes()]


def _ply(mesh: Mesh) -> list[bytes]:
    """A text header, 12 bytes for each vertex, 13 for each triangle (little-endian)."""
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment written by fibnet; unit: nm\n"
        f"element vertex {len(mesh.vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {len(mesh.faces)}\n"
        "property list uchar int vertex_indices\nend_header\n"
    )
    faces = np.zeros(len(mesh.faces), np.dtype([("number", "u1"), ("vertices", "<i4", 3)]))
    faces["number"], faces["vertices"] = 3, mesh.faces
    return [header.encode("ascii"), mesh.vertices.astype("<f4").tobytes(), faces.tobytes()]
