"""A specimen on another voxel grid, with the same mean."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fibsim.errors import InputError
from fibsim.specimens.specimen import Specimen, voxel_size

__all__ = ["ResampledVolume", "resample"]

# A remainder below this share of a voxel is rounding, not a misfit.
_TOLERANCE = 1e-3


def _box_integral(edges: np.ndarray, size: int) -> np.ndarray:
    """Integral from 0 to each edge of the hat of each voxel: piecewise constant values."""
    return np.clip(edges[:, None] - np.arange(size), 0, 1)


def _linear_integral(edges: np.ndarray, size: int, periodic: bool) -> np.ndarray:
    """The same for linear interpolation between voxel centres, wrapped or held at the ends."""

    def integral(t: np.ndarray) -> np.ndarray:
        # of the hat function max(1 - |t|, 0) from -1 to t
        t = np.clip(t, -1, 1)
        return np.where(t < 0, (1 + t) ** 2 / 2, 1 - (1 - t) ** 2 / 2)

    centres = np.arange(-1, size + 1) + 0.5
    padded = integral(edges[:, None] - centres) - integral(0.0 - centres)
    inside = padded[:, 1:-1].copy()
    ends = (size - 1, 0) if periodic else (0, size - 1)
    inside[:, ends[0]] += padded[:, 0]
    inside[:, ends[1]] += padded[:, -1]
    return inside


def _weights(size: int, start: int, stop: int, ratio: float, periodic: bool) -> np.ndarray:
    """Rows ``start`` to ``stop - 1`` of the matrix (new, size) that averages the old values over
    the new voxels."""
    edges = np.arange(start, stop + 1) * ratio
    coarser = ratio >= 1 - _TOLERANCE
    integral = _box_integral(edges, size) if coarser else _linear_integral(edges, size, periodic)
    return np.diff(integral, axis=0) / ratio


def _plan(
    shape: tuple[int, ...], old_nm: Sequence[float], new_nm: Sequence[float], periodic: bool
) -> tuple[list[tuple[int, int, float]], bool]:
    """Old size, new size and ratio of the axes z, y, x, and whether it stays periodic."""
    plan, fits = [], periodic
    for number, (size, old, new) in enumerate(zip(shape[-3:], old_nm, new_nm, strict=True)):
        ratio = new / old
        count = int(np.floor(size / ratio + _TOLERANCE))
        if count < 1:
            raise InputError(
                f"voxel_nm is {new:g} along axis {number} but the specimen measures only "
                f"{size * old:g} nm there; ask for smaller voxels."
            )
        if abs(count * ratio - size) > _TOLERANCE * ratio:
            fits = False
        else:
            ratio = size / count
        plan.append((size, count, ratio))
    return plan, fits


def resample(specimen: Specimen, voxel_nm: float | Sequence[float]) -> Specimen:
    """The specimen on voxels of another size; differentiable in the solid fraction.

    Each axis by itself. Towards larger voxels: overlap-weighted box average, for integer factors
    the plain mean of blocks. Towards smaller voxels: the mean of the linear interpolant over each
    new voxel. Both keep the mean exactly. Where the extent is no multiple of the new voxel the
    remainder at the far end is cut off, and the result is no longer periodic.

    Raises:
        InputError: bad voxel size, or voxels larger than the specimen.
    """
    voxel_nm = voxel_size(voxel_nm)
    solid = specimen.solid
    plan, periodic = _plan(solid.shape, specimen.voxel_nm, voxel_nm, specimen.periodic)
    for axis, (size, new, ratio) in enumerate(plan, start=solid.ndim - 3):
        if new != size:
            weights = jnp.asarray(_weights(size, 0, new, ratio, specimen.periodic), solid.dtype)
            # GPUs would round to 10 bits else.
            mean = jnp.tensordot(
                weights, solid, axes=(1, axis), precision=jax.lax.Precision.HIGHEST
            )
            solid = jnp.moveaxis(mean, 0, axis)
    # Rounding of the weights may step over 1 by one part in ten million.
    return Specimen(solid=jnp.clip(solid, 0, 1), voxel_nm=voxel_nm, periodic=periodic)


def _sparse_weights(size: int, new: int, ratio: float):
    """`_weights` that are not periodic; all but a few of each row are zero."""
    from scipy.sparse import csr_array, vstack

    starts = range(0, new, 64)
    rows = (_weights(size, a, min(a + 64, new), ratio, periodic=False) for a in starts)
    return vstack([csr_array(part.astype(np.float32)) for part in rows], format="csr")


class ResampledVolume:
    """`resample` of a volume that is read by ranges of layers (`fibsim.slabs.VolumeLike`).

    A layer has the same bits in whatever range it is read. Not differentiable; equal to `resample`
    up to rounding.

    Attributes:
        shape: ``(z, y, x)``, or ``(phase, z, y, x)``, of the new grid.
        voxel_nm: size of its voxels.
    """

    def __init__(self, volume, *, old_nm: Sequence[float], voxel_nm: float | Sequence[float]):
        """Of fractions in ``volume``, whose voxels are ``old_nm`` in size (z, y, x).

        Raises:
            InputError: as `resample`.
        """
        self._volume, self.voxel_nm = volume, voxel_size(voxel_nm)
        plan, _ = _plan(volume.shape, old_nm, self.voxel_nm, periodic=False)
        self.shape = (*volume.shape[:-3], *(new for _, new, _ in plan))
        self._depth, *self._lateral = (
            None if new == size else _sparse_weights(size, new, ratio) for size, new, ratio in plan
        )

    def __getitem__(self, index) -> np.ndarray:
        rows = index[-1] if isinstance(index, tuple) else index
        start, stop, _ = rows.indices(self.shape[-3])
        if self._depth is None:
            return self._across(self._read(start, stop))
        weights = self._depth[start:stop].tocsc()
        out = np.zeros((*self.shape[:-3], stop - start, *self._volume.shape[-2:]), np.float32)
        # One layer after the other, always in the same order: memory is that of the new layers,
        # and sums round alike wherever a range begins.
        for layer in np.unique(weights.nonzero()[1]):
            here = slice(weights.indptr[layer], weights.indptr[layer + 1])
            read = self._read(layer, layer + 1)[..., 0, :, :]
            for new, weight in zip(weights.indices[here], weights.data[here], strict=True):
                out[..., new, :, :] += weight * read
        return self._across(out)

    def _read(self, start: int, stop: int) -> np.ndarray:
        rows = slice(int(start), int(stop))
        many = len(self._volume.shape) == 4
        return np.asarray(self._volume[:, rows] if many else self._volume[rows], np.float32)

    def _across(self, layers: np.ndarray) -> np.ndarray:
        along_y, along_x = self._lateral
        if along_y is None and along_x is None:
            return layers if self._depth is None else np.clip(layers, 0, 1)
        flat = layers.reshape(-1, *layers.shape[-2:])
        out = np.empty((len(flat), *self.shape[-2:]), np.float32)
        for number, layer in enumerate(flat):
            layer = layer if along_y is None else along_y @ layer
            out[number] = layer if along_x is None else (along_x @ layer.T).T
        return np.clip(out, 0, 1).reshape(*layers.shape[:-2], *self.shape[-2:])
