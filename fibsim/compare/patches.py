"""Patches of a stack: which are trained on and which are held out.

The split is by contiguous blocks of slices with a guard between training and test, because
neighbouring slices are nearly copies of each other; a stack of too few slices is split by columns
of the image. Each block is held out once.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from fibsim.compare.auc import numbered
from fibsim.errors import InputError

__all__ = [
    "Patches",
    "Side",
    "check_size",
    "cut_into_folds",
    "held_out",
    "outside",
    "random_patches",
]

_FOLDS = 4
_COLUMN = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two things that are compared.

    Attributes:
        images: grey values on the scale of 0 to 255; ``(channel, slice, y, x)``.
        run: number of the specimen that each slice shows; ``(slice,)``. A patch keeps to one.
        patch, depth: size of a patch in pixels and slices.
        along_x: split by columns of the image, not by slices.
        folds: number of blocks.
    """

    images: Float[np.ndarray, "channel slice y x"]
    run: np.ndarray
    patch: int
    depth: int
    along_x: bool = False
    folds: int = _FOLDS

    @property
    def windows(self) -> np.ndarray:
        """View ``(channel, z, y, x, depth, patch, patch)`` of every patch."""
        size = (self.depth, self.patch, self.patch)
        return np.lib.stride_tricks.sliding_window_view(self.images, size, axis=(1, 2, 3))


@dataclasses.dataclass(frozen=True)
class Patches:
    """Some patches of a side.

    Attributes:
        grey: grey values; ``(patch, channel, slice, y, x)``.
        corner: first voxel of each; ``(patch, 3)`` as z, y, x.
        column: number of its column of tissue, at least 32 pixels wide; ``(patch,)``.
    """

    grey: Float[np.ndarray, "patch channel slice y x"]
    corner: np.ndarray
    column: np.ndarray


def _options(slices: int, width: int, patch: int, depth: int) -> list[tuple[bool, int]]:
    """(along x, folds) that the size allows, best first."""
    fits = [
        (slices >= 6 * depth, False, _FOLDS),
        (width >= 4 * patch, True, _FOLDS),
        (slices >= 4 * depth, False, 2),
        (width >= 3 * patch, True, 2),
    ]
    return [(along_x, folds) for possible, along_x, folds in fits if possible]


def check_size(shape: Sequence[int], patch: int, depth: int, name: str) -> None:
    """Whether patches can be cut out of a stack ``(channel, slice, y, x)`` and some held out.

    Raises:
        InputError: too few slices or images too small.
    """
    _, slices, y, x = shape
    if min(y, x) < patch:
        raise InputError(
            f"{name} has images of {y} x {x} pixels, smaller than the patches of {patch}; give "
            "larger images or a smaller --patch."
        )
    if slices < depth:
        raise InputError(
            f"{name} has {slices} slices, fewer than the {depth} of a patch; give more slices or "
            "a smaller --depth."
        )
    if not _options(slices, x, patch, depth):
        raise InputError(
            f"{name} has {slices} slices of {x} pixels width, too few to hold a part out: expected "
            f"{4 * depth} slices or {3 * patch} pixels; give more, or a smaller --patch or --depth."
        )


def cut_into_folds(
    real: tuple[np.ndarray, np.ndarray],
    simulated: tuple[np.ndarray, np.ndarray],
    *,
    patch: int,
    depth: int,
) -> tuple[Side, Side]:
    """Both sides with as many blocks as both allow, cut along slices or along x each.

    Args:
        real, simulated: images, and the number of the specimen that each slice shows.

    Raises:
        InputError: as `check_size`.
    """
    found = []
    for (images, _), name in ((real, "the real stack"), (simulated, "the simulated stack")):
        check_size(images.shape, patch, depth, name)
        found.append(_options(images.shape[1], images.shape[3], patch, depth))
    folds = min(max(count for _, count in options) for options in found)
    sides = []
    for (images, run), options in zip((real, simulated), found, strict=True):
        # What allows four blocks allows two.
        along_x = next(along_x for along_x, count in options if count >= folds)
        sides.append(
            Side(images=images, run=run, patch=patch, depth=depth, along_x=along_x, folds=folds)
        )
    return sides[0], sides[1]


def _starts(side: Side) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First slices, rows and columns that a patch may have."""
    _, slices, y, x = side.images.shape
    z = np.arange(slices - side.depth + 1)
    z = z[side.run[z] == side.run[z + side.depth - 1]]
    return z, np.arange(y - side.patch + 1), np.arange(x - side.patch + 1)


def _block(side: Side, fold: int) -> tuple[int, int, int, int, int]:
    """Axis of the split, extent of a patch along it, guard, and ends of the held-out block."""
    axis, size, guard = (
        (2, side.patch, side.patch // 2) if side.along_x else (0, side.depth, side.depth)
    )
    length = side.images.shape[1 + axis]
    return axis, size, guard, length * fold // side.folds, length * (fold + 1) // side.folds


def _patches(side: Side, corner: np.ndarray) -> Patches:
    grey = np.moveaxis(side.windows[:, *corner.T], 0, 1)
    # Small patches side by side show the same ligament: a column is no narrower than this.
    width = side.patch * -(-_COLUMN // side.patch)
    z, y, x = corner.T
    return Patches(grey, corner, numbered(side.run[z], y // width, x // width))


def random_patches(side: Side, number: int, rng: np.random.Generator) -> Patches:
    """Patches from anywhere, to train on those that `outside` allows."""
    return _patches(side, np.stack([rng.choice(along, number) for along in _starts(side)], axis=1))


def outside(side: Side, fold: int, corner: np.ndarray) -> np.ndarray:
    """Which patches keep off the held-out block of a fold and its guard; ``(patch,)``."""
    axis, size, guard, low, high = _block(side, fold)
    first = corner[:, axis]
    return (first + size + guard <= low) | (first >= high + guard)


def _grid(starts: np.ndarray, step: int) -> np.ndarray:
    """Starts at least ``step`` apart."""
    chosen = []
    for start in starts:
        if not chosen or start >= chosen[-1] + step:
            chosen.append(start)
    return np.asarray(chosen, int)


def held_out(side: Side, fold: int, rng: np.random.Generator, *, most: int = 512) -> Patches:
    """Patches of the held-out block that do not overlap; a random ``most`` of them at most."""
    axis, size, _, low, high = _block(side, fold)
    starts = list(_starts(side))
    starts[axis] = starts[axis][(starts[axis] >= low) & (starts[axis] + size <= high)]
    steps = (side.depth, side.patch, side.patch)
    grids = [_grid(along, step) for along, step in zip(starts, steps, strict=True)]
    corner = np.stack(np.meshgrid(*grids, indexing="ij"), axis=-1).reshape(-1, 3)
    if len(corner) > most:
        corner = corner[np.sort(rng.choice(len(corner), most, replace=False))]
    return _patches(side, corner)
