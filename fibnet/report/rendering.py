"""A small orthographic renderer: the solid as a shaded body in its box, by sphere tracing.

Rays step through the signed distance to the interface, which says how far they can go without
missing it (Hart 1996, doi:10.1007/s003710050084). The distance also gives the normals and, read a
few steps off the surface, how much open space a point sees (ambient occlusion), which is what
makes the pores look deep.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from fibnet.morphology import isotropic, signed_distance

__all__ = ["Rendering", "render_solid"]

AZIMUTH_DEG, ELEVATION_DEG = 32.0, 30.0
SURFACE_COLOUR = np.array([0.83, 0.70, 0.47])
CUT_COLOUR = np.array([0.95, 0.89, 0.75])
CUT_LIGHT = np.array([0.68, 0.84, 1.0])
"""Brightness of the box faces across x, y and z: three flat tones read as a box."""
DEEP_COLOUR = np.array([0.20, 0.17, 0.20])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rendering:
    """A picture and the camera that took it.

    Attributes:
        image: red, green, blue and opacity in [0, 1], ``(row, column, 4)``.
        extent_nm: left, right, bottom and top of the picture in screen nm.
        right: screen-right as a unit vector ``(x, y, z)``.
        up: screen-up as a unit vector ``(x, y, z)``.
        size_nm: box ``(x, y, z)`` in nm; its centre is the middle of the screen.
    """

    image: np.ndarray
    extent_nm: tuple[float, float, float, float]
    right: np.ndarray
    up: np.ndarray
    size_nm: np.ndarray

    def project(self, points: np.ndarray) -> np.ndarray:
        """Screen coordinates in nm, ``(n, 2)``, of points ``(x, y, z)`` in nm, ``(n, 3)``."""
        centred = np.asarray(points, float) - self.size_nm / 2
        return np.stack([centred @ self.right, centred @ self.up], axis=-1)


def render_solid(
    solid: np.ndarray,
    voxel_nm: Sequence[float],
    *,
    pixels: int = 640,
    max_voxels: int = 3_000_000,
) -> Rendering:
    """Renders the solid seen from above slice 0, the front being the images' lower edge.

    x runs to the right, y towards the viewer, z down, away from the electron gun. Faces of the
    box that cut the solid are paler than its surface.

    Args:
        solid: boolean label ``(z, y, x)`` with at least two samples per axis.
        voxel_nm: voxel size ``(z, y, x)`` in nm.
        pixels: width of the picture.
        max_voxels: a larger volume is coarsened for the picture.
    """
    distance, spacing = _smooth_distance(solid, voxel_nm, max_voxels)
    size = (np.array(distance.shape) - 1) * spacing
    size_xyz = size[::-1]
    forward, right, up = _camera()
    corners = _corners(size_xyz) - size_xyz / 2
    half = np.abs(np.stack([corners @ right, corners @ up])).max(axis=1) * 1.02
    # Twice the pixels each way, averaged below: smooth edges for little code.
    columns = 2 * pixels
    rows = 2 * round(pixels * half[1] / half[0])
    s, t = np.meshgrid(
        np.linspace(-half[0], half[0], columns), np.linspace(half[1], -half[1], rows)
    )
    origin = s.reshape(-1, 1) * right + t.reshape(-1, 1) * up + size_xyz / 2
    image = np.zeros((rows * columns, 4))
    hit, point, face = _trace(distance, spacing, origin, forward, size_xyz)
    image[hit, :3] = _shade(distance, spacing, point, face, forward, size_xyz)
    image[hit, 3] = 1.0
    image = image.reshape(rows // 2, 2, columns // 2, 2, 4)
    opacity = image[..., 3:].mean(axis=(1, 3))
    colour = image[..., :3].sum(axis=(1, 3)) / np.maximum(4 * opacity, 1e-9)
    return Rendering(
        image=np.concatenate([np.clip(colour, 0, 1), opacity], axis=-1),
        extent_nm=(-half[0], half[0], -half[1], half[1]),
        right=right,
        up=up,
        size_nm=size_xyz,
    )


def _smooth_distance(
    solid: np.ndarray, voxel_nm: Sequence[float], max_voxels: int
) -> tuple[np.ndarray, np.ndarray]:
    from scipy.ndimage import gaussian_filter

    solid = np.asarray(solid, dtype=bool)
    extent = math.prod((n - 1) * side for n, side in zip(solid.shape, voxel_nm, strict=True))
    grid = max(min(voxel_nm), (extent / max_voxels) ** (1 / 3))
    if solid.all() or not solid.any():
        distance = np.full(solid.shape, 1e3 if solid.all() else -1e3, np.float32)
    else:
        distance = signed_distance(solid, voxel_nm)
    distance, spacing = isotropic(distance, voxel_nm, grid)
    return gaussian_filter(distance, 0.8), np.array(spacing)


def _camera() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Forward, right and up unit vectors in (x, y, z); z points down in the world."""
    azimuth, elevation = math.radians(AZIMUTH_DEG), math.radians(ELEVATION_DEG)
    flat = math.cos(elevation)
    forward = np.array([-flat * math.sin(azimuth), -flat * math.cos(azimuth), math.sin(elevation)])
    right = np.cross(forward, [0.0, 0.0, -1.0])
    right /= np.linalg.norm(right)
    return forward, right, np.cross(right, forward)


def _corners(size_xyz: np.ndarray) -> np.ndarray:
    return np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * size_xyz


def _sample(distance: np.ndarray, spacing: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Distance in nm at points (x, y, z); beyond the box that of the nearest face."""
    from scipy.ndimage import map_coordinates

    index = (points[:, ::-1] / spacing).T
    return map_coordinates(distance, index, order=1, mode="nearest")


def _trace(
    distance: np.ndarray,
    spacing: np.ndarray,
    origin: np.ndarray,
    forward: np.ndarray,
    size_xyz: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First solid point of every ray.

    Returns the indices of the rays that hit, their points (x, y, z), and the axis of the box
    face that was hit (-1: the inner surface).
    """
    with np.errstate(divide="ignore"):
        first, second = -origin / forward, (size_xyz - origin) / forward
    near, far = np.minimum(first, second), np.maximum(first, second)
    enter, leave = near.max(axis=1), far.min(axis=1)
    entry_axis = near.argmax(axis=1)
    ray = np.flatnonzero(enter < leave)
    t = enter[ray].copy()
    value = _sample(distance, spacing, origin[ray] + t[:, None] * forward)
    at_face = value > 0
    hits, depths = [ray[at_face]], [t[at_face]]
    faces = [entry_axis[ray[at_face]]]
    ray, t, value = ray[~at_face], t[~at_face], value[~at_face]
    shortest = 0.3 * float(spacing.min())
    while ray.size:
        # Four fifths: the interpolated distance is not exactly a distance any more.
        step = np.maximum(-0.8 * value, shortest)
        ahead = t + step
        new = _sample(distance, spacing, origin[ray] + ahead[:, None] * forward)
        inside = new > 0
        crossing = t + step * value / np.where(inside, value - new, 1.0)
        landed = inside & (crossing <= leave[ray])
        hits.append(ray[landed])
        depths.append(crossing[landed])
        faces.append(np.full(np.count_nonzero(landed), -1))
        going = ~inside & (ahead < leave[ray])
        ray, t, value = ray[going], ahead[going], new[going]
    hit, depth = np.concatenate(hits), np.concatenate(depths)
    return hit, origin[hit] + depth[:, None] * forward, np.concatenate(faces)


def _shade(
    distance: np.ndarray,
    spacing: np.ndarray,
    point: np.ndarray,
    face: np.ndarray,
    forward: np.ndarray,
    size_xyz: np.ndarray,
) -> np.ndarray:
    """Colours of the hit points: sky light times openness, a key light, and a hint of depth."""
    normal = _normals(distance, spacing, point, face, forward)
    cut = face >= 0
    openness = np.where(cut, 1.0, _openness(distance, spacing, point, normal, size_xyz))
    key = np.array([-0.35, 0.55, -0.75])
    key /= np.linalg.norm(key)
    lambert = np.clip(normal @ key, 0.0, 1.0)
    sky = 0.5 - 0.5 * normal[:, 2]
    gloss = np.clip(normal @ _halfway(key, forward), 0.0, 1.0) ** 30
    light = openness * (0.30 + 0.30 * sky + 0.52 * lambert * (0.4 + 0.6 * openness))
    light = np.where(cut, CUT_LIGHT[face], light)
    colour = np.where(cut[:, None], CUT_COLOUR, SURFACE_COLOUR)
    # Multiplying alone would turn deep pores grey: fade them to a warm dark instead.
    shaded = colour * light[:, None] + DEEP_COLOUR * (1.0 - openness[:, None]) * 0.45
    shaded += np.where(cut, 0.0, 0.16 * openness * gloss)[:, None]
    return np.clip(shaded, 0.0, 1.0)


def _normals(
    distance: np.ndarray,
    spacing: np.ndarray,
    point: np.ndarray,
    face: np.ndarray,
    forward: np.ndarray,
) -> np.ndarray:
    """Unit normals out of the solid; of the box where a face was hit."""
    gradient = np.empty_like(point)
    for axis in range(3):
        offset = np.zeros(3)
        offset[axis] = spacing[2 - axis]
        gradient[:, axis] = _sample(distance, spacing, point - offset) - _sample(
            distance, spacing, point + offset
        )
    cut = face >= 0
    gradient[cut] = 0.0
    gradient[cut, face[cut]] = -np.sign(forward[face[cut]])
    return gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-9)


def _halfway(light: np.ndarray, forward: np.ndarray) -> np.ndarray:
    half = light - forward
    return half / np.linalg.norm(half)


def _openness(
    distance: np.ndarray,
    spacing: np.ndarray,
    point: np.ndarray,
    normal: np.ndarray,
    size_xyz: np.ndarray,
) -> np.ndarray:
    """Share of free space in front of a point, in [0, 1]: 1 = nothing but open space."""
    blocked = np.zeros(len(point))
    total = 0.0
    for k in range(1, 6):
        reach = k * 2.2 * float(spacing.min())
        there = point + reach * normal
        free = np.clip(-_sample(distance, spacing, there), 0.0, reach)
        outside = np.any((there < 0) | (there > size_xyz), axis=1)
        weight = 0.75**k
        blocked += weight * np.where(outside, 0.0, 1.0 - free / reach)
        total += weight
    return 1.0 - blocked / total
