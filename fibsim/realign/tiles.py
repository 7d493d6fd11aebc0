"""What of a stack is compared from slice to slice: the spatial frequencies of its tiles."""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Complex, Float, Int

__all__ = ["FOLDS", "Tiles", "cut_tiles", "mode_phases", "periodic_spectrum"]

# Frequencies above this part of Nyquist are mostly noise and the edges of what is below.
_HIGHEST = 0.4
# Modes that share one covariance: a patch of the frequency plane, sides in cycles per pixel.
_PATCH = 3 / 128
_LARGEST, _MOST = 128, 36
# Parts of the modes of a bin: each is judged by the covariance of the others.
FOLDS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiles:
    """Fourier coefficients of the tiles of every image, unit variance per image.

    Modes are sorted by bin. A bin is a patch of the (y, x) frequency plane and its mirror image
    in x: a beam that leans along y treats both alike.

    Attributes:
        value: coefficients; ``(channel, slice, tile, mode)``.
        qy, qx: wave numbers in 1 / pixel; ``(mode,)``.
        start: first mode of each bin, and the number of modes; ``(bin + 1,)``.
    """

    value: Complex[np.ndarray, "channel slice tile mode"]
    qy: Float[np.ndarray, " mode"]
    qx: Float[np.ndarray, " mode"]
    start: Int[np.ndarray, " bin_1"]

    @property
    def bins(self) -> list[slice]:
        """Modes of each bin."""
        return [slice(a, b) for a, b in zip(self.start[:-1], self.start[1:], strict=True)]

    def part(self, used: Bool[np.ndarray, " mode"]) -> "Tiles":
        """Some of the modes; some of every bin."""
        start = np.concatenate([[0], np.cumsum(np.add.reduceat(used, self.start[:-1], dtype=int))])
        return Tiles(value=self.value[..., used], qy=self.qy[used], qx=self.qx[used], start=start)

    @property
    def fold(self) -> Int[np.ndarray, " mode"]:
        """Which part of its bin a mode belongs to, in turn."""
        return (np.arange(len(self.qy)) - np.repeat(self.start[:-1], np.diff(self.start))) % FOLDS

    @property
    def bin_qy(self) -> Float[np.ndarray, " bin"]:
        """Mean of ``qy`` over each bin."""
        return np.add.reduceat(self.qy, self.start[:-1]) / np.diff(self.start)


def periodic_spectrum(images: Float[np.ndarray, "*batch y x"]) -> Complex[np.ndarray, "*batch y x"]:
    """Discrete Fourier transform of the periodic part of images.

    Opposite borders of an image do not fit; the smooth part that carries their difference is
    taken off, which costs no pixels as a window would (Moisan 2011, doi
    10.1007/s10851-010-0227-1).
    """
    y, x = images.shape[-2:]
    jump = np.zeros_like(images)
    rows = images[..., -1, :] - images[..., 0, :]
    columns = images[..., :, -1] - images[..., :, 0]
    jump[..., 0, :] += rows
    jump[..., -1, :] -= rows
    jump[..., :, 0] += columns
    jump[..., :, -1] -= columns
    laplacian = (
        2 * np.cos(2 * np.pi * np.fft.fftfreq(y))[:, None]
        + 2 * np.cos(2 * np.pi * np.fft.fftfreq(x))
        - 4
    )
    laplacian[0, 0] = 1.0  # the jumps' mean is zero
    return np.fft.fft2(images) - np.fft.fft2(jump) / laplacian


def _spread(count: int, most: int) -> np.ndarray:
    """At most ``most`` of ``count`` indices, evenly spread."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).round().astype(int))


def _modes(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns of the modes used, sorted by bin, and where the bins start.

    Half of the plane holds all of a real image. Modes with qx = 0 or qy = 0 are left out: there
    lie the offsets of scan lines, curtains and flicker.
    """
    index = np.rint(np.fft.fftfreq(side) * side).astype(int)
    row, column = (a.ravel() for a in np.meshgrid(index, index, indexing="ij"))
    inside = np.hypot(row, column) < _HIGHEST * side / 2
    used = inside & (row > 0) & (column != 0)
    row, column = row[used], column[used]
    patch = max(round(_PATCH * side), 2)
    bins = (row - 1) // patch * side + (abs(column) - 1) // patch
    _, number, size = np.unique(bins, return_inverse=True, return_counts=True)
    many = size[number] >= 2 * FOLDS
    row, column, bins = row[many], column[many], bins[many]
    order = np.argsort(bins, kind="stable")
    _, start = np.unique(bins[order], return_index=True)
    return row[order], column[order], np.append(start, len(order))


def cut_tiles(
    images: Float[np.ndarray, "channel slice y x"],
    offsets_px: Int[np.ndarray, "slice 2"],
    channel_px: Float[np.ndarray, "channel slice 2"] | None = None,
    *,
    halves: int = 1,
) -> Tiles:
    """Cut the common part of displaced images into tiles and transform them.

    Args:
        images: what is compared.
        offsets_px: whole pixels by which each image is displaced; the tiles follow them.
        channel_px: displacement of each channel beside that; put back.
        halves: into how many tiles, along either axis, to cut what else would be one tile of at
            most 128 pixels.
    """
    count, slices, y, x = images.shape
    offsets = offsets_px - offsets_px.min(0)
    y, x = (int(n) for n in (y, x) - offsets.max(0))
    side = min(y, x, _LARGEST) // halves
    rows, columns = y // side, x // side
    places = [
        ((y - rows * side) // 2 + i * side, (x - columns * side) // 2 + j * side)
        for i in range(rows)
        for j in range(columns)
    ]
    places = [places[i] for i in _spread(len(places), _MOST)]
    row, column, start = _modes(side)
    value = np.empty((count, slices, len(places), len(row)), np.complex64)
    for k, (down, right) in enumerate(offsets):
        seen = images[:, k, down : down + y, right : right + x].astype(np.float32)
        seen = (seen - seen.mean((1, 2), keepdims=True)) / seen.std((1, 2), keepdims=True)
        cut = np.stack([seen[:, i : i + side, j : j + side] for i, j in places], axis=1)
        value[:, k] = periodic_spectrum(cut)[..., row, column] / side
    qy, qx = 2 * math.pi * row / side, 2 * math.pi * column / side
    tiles = Tiles(value=value, qy=qy, qx=qx, start=start)
    if channel_px is not None:
        value *= mode_phases(tiles, channel_px)[:, :, None, :]
    return tiles


def mode_phases(
    tiles: Tiles, shift_px: Float[np.ndarray, "*image 2"]
) -> Complex[np.ndarray, "*image mode"]:
    """Factors that put back images displaced by ``shift_px``."""
    return np.exp(1j * (shift_px[..., :1] * tiles.qy + shift_px[..., 1:] * tiles.qx))
