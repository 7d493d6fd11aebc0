"""Which parts of a recorded stack a fit compares, and which it leaves out."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from fibsim.errors import InputError

__all__ = ["Part", "crop_grid", "random_crop", "split_stack"]


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the stack to take crops from.

    Attributes:
        grey: ``(channel, slice, y, x)``.
        starts: first slices that a crop may have.
    """

    grey: np.ndarray
    starts: np.ndarray


def split_stack(
    grey: np.ndarray, crop_px: int, crop_slices: int
) -> tuple[Part, Part, tuple[int, int, int]]:
    """Fitted part, held-out part, and the shape of the crops taken from both.

    Held out are the middle quarter of the slices or, of fewer than 16 slices, the right third
    of the columns: the ends of a stack may differ (ground, coating), its middle stands for it.
    """
    slices, y, x = grey.shape[1:]
    along_z = slices >= 16
    if along_z:
        low, high = 3 * slices // 8, 5 * slices // 8
        depth = min(crop_slices, low, high - low)
        starts = np.arange(slices - depth + 1)
        inside = (starts >= low) & (starts + depth <= high)
        outside = (starts + depth <= low) | (starts >= high)
        parts = Part(grey, starts[outside]), Part(grey, starts[inside])
        side = min(crop_px, y, x)
    else:
        cut, zero, depth = x - x // 3, np.zeros(1, int), min(slices, crop_slices)
        zero = np.arange(slices - depth + 1)
        parts = Part(grey[..., :cut], zero), Part(grey[..., cut:], zero)
        side = min(crop_px, y, x // 3)
    side -= side % 2
    if side < 20:
        raise InputError(
            f"the images are {y} x {x} pixels; the fit needs at least 64 x 64, so record or crop "
            "a larger field."
        )
    return (*parts, (depth, side, side))


@functools.partial(jax.jit, static_argnums=2)
def random_crop(
    grey: jax.Array, starts: jax.Array, shape: tuple[int, int, int], key: jax.Array
) -> jax.Array:
    key_slice, key_corner = jax.random.split(key)
    first = jax.random.choice(key_slice, starts)
    limits = jnp.asarray([g - s + 1 for g, s in zip(grey.shape[2:], shape[1:], strict=True)])
    corner = jax.random.randint(key_corner, (2,), 0, limits)
    start = (0, first, corner[0], corner[1])
    return jax.lax.dynamic_slice(grey, start, (grey.shape[0], *shape))


def crop_grid(grey: np.ndarray, shape: tuple[int, int, int], most: int, seed: int) -> np.ndarray:
    """Crops of ``(channel, slice, y, x)`` that do not overlap, as ``(crop, channel, *shape)``.

    They lie side by side, centred along each axis; of more than ``most`` a random choice.
    """
    axes = []
    for size, side in zip(grey.shape[1:], shape, strict=True):
        count = size // side
        axes.append((size - count * side) // 2 + side * np.arange(count))
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    if len(places) > most:
        places = np.random.default_rng(seed).permutation(places)[:most]
    k, y, x = shape
    return np.stack([grey[:, a : a + k, b : b + y, c : c + x] for a, b, c in places])
