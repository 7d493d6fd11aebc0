"""The specimen as the transport kernel sees it: phase and clearance of every voxel."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import ndimage

from fibsim.errors import InputError

__all__ = ["MOST_PHASES", "Scene", "check_phases", "make_scene"]

MOST_PHASES = 8
_CLEARANCE_STEP = 0.25  # clearance is kept in whole quarters of the smallest voxel side
_LARGEST = 4095


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """Voxels of a specimen.

    Attributes:
        cells: ``phase + 8 * clearance`` per voxel; clearance, in units of ``clearance_nm``, is a
            lower bound for the way from anywhere in the voxel to another phase.
        shape: voxels in z, y, x.
        voxel_nm: their sides.
        clearance_nm: unit of the clearance.
        periodic: whether the specimen repeats in y and x; otherwise its border voxels go on.
        open_below: whether vacuum follows below; otherwise the lowest layer goes on.
    """

    cells: Int[Array, " voxel"]
    voxel_nm: Float[Array, "3"]
    clearance_nm: Float[Array, ""]
    shape: tuple[int, int, int] = dataclasses.field(metadata=dict(static=True))
    periodic: bool = dataclasses.field(metadata=dict(static=True))
    open_below: bool = dataclasses.field(metadata=dict(static=True))


def _clearance(phases: np.ndarray, voxel_nm: tuple[float, ...], periodic: bool) -> np.ndarray:
    """Distance from voxel to nearest voxel of another phase, less a voxel's diagonal, in nm."""
    flat = phases.shape[1:] == (1, 1)  # nothing changes sideways
    margin = min(32, *phases.shape[1:]) if periodic and not flat else 0
    padded = np.pad(phases, ((0, 0), (margin, margin), (margin, margin)), mode="wrap")
    far = np.full(padded.shape, np.inf, np.float32)
    for phase in np.unique(padded):
        inside = padded == phase
        if not inside.all():
            distance = ndimage.distance_transform_edt(inside, sampling=voxel_nm)
            far[inside] = distance[inside]
    if margin:
        # A wall outside the margin cannot be nearer than the margin is wide.
        side = [np.minimum(np.arange(n), np.arange(n)[::-1]) + 1 for n in padded.shape[1:]]
        border = np.minimum(side[0][:, None] * voxel_nm[1], side[1][None, :] * voxel_nm[2])
        far = np.minimum(far, border[None])
        far = far[:, margin:-margin, margin:-margin]
    diagonal = voxel_nm[0] if flat else np.linalg.norm(voxel_nm)
    return np.maximum(far - diagonal, 0.0)


def check_phases(phases: np.ndarray) -> np.ndarray:
    """The volume as an array, if it holds phase indices ``(z, y, x)``.

    Raises:
        InputError: not a volume of whole numbers from 0 to 7.
    """
    phases = np.asarray(phases)
    if phases.ndim != 3 or phases.dtype.kind not in "ui":
        raise InputError(
            f"the Monte Carlo's specimen has shape {phases.shape} and type {phases.dtype}; "
            "expected phase indices (z, y, x) as whole numbers."
        )
    if phases.size == 0 or phases.min() < 0 or phases.max() >= MOST_PHASES:
        raise InputError(f"phase indices must lie in 0 to {MOST_PHASES - 1}.")
    return phases


def make_scene(
    phases: np.ndarray,
    voxel_nm: tuple[float, float, float],
    *,
    periodic: bool,
    open_below: bool = False,
) -> Scene:
    """Prepare a volume of phase indices ``(z, y, x)`` (see `check_phases`) for transport."""
    unit = _CLEARANCE_STEP * min(voxel_nm)
    clearance = np.minimum(_clearance(phases, voxel_nm, periodic) / unit, _LARGEST)
    cells = phases.astype(np.int32) + MOST_PHASES * clearance.astype(np.int32)
    return Scene(
        cells=jnp.asarray(cells.ravel().astype(np.uint16)),
        voxel_nm=jnp.asarray(voxel_nm, jnp.float32),
        clearance_nm=jnp.asarray(unit, jnp.float32),
        shape=phases.shape,
        periodic=periodic,
        open_below=open_below,
    )
