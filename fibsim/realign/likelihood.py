"""How likely depths and displacements of the slices are: score and information."""

import numpy as np
from jaxtyping import Complex, Float

from fibsim.realign.covariance import SliceCovariance
from fibsim.realign.tiles import Tiles

__all__ = ["depth_terms", "displacement_terms"]


def displacement_terms(
    value: Complex[np.ndarray, "image tile mode"],
    tiles: Tiles,
    covariance: Complex[np.ndarray, "bin image image"],
) -> tuple[Float[np.ndarray, "tile 2 image"], Float[np.ndarray, "2 image 2 image"]]:
    """Of displacements (y, x) of images whose coefficients v have covariance K.

    With W = K^-1, per mode of wave number q (Whittle 1953 for the likelihood)

        score_k = -2 q Im(conj(v_k) (W v)_k),    information_kl = 2 q q' (Re(W_kl K_lk) - [k = l])

    summed over modes; the information also over tiles. Lengths in pixels.
    """
    images, count, _ = value.shape
    inverse = np.linalg.inv(covariance)
    score = np.zeros((count, 2, images))
    for b, w in zip(tiles.bins, inverse, strict=True):
        v = value[:, :, b]
        imaginary = -2 * np.imag(v.conj() * _apply(w, v))
        score[:, 0] += (imaginary @ tiles.qy[b]).T
        score[:, 1] += (imaginary @ tiles.qx[b]).T
    curvature = 2 * ((inverse * covariance.swapaxes(1, 2)).real - np.eye(images))
    wave = np.stack([tiles.qy, tiles.qx])
    squares = np.add.reduceat(wave[:, None] * wave, tiles.start[:-1], axis=2)
    return score, count * np.einsum("acb,bkl->akcl", squares, curvature)


def depth_terms(
    value: Complex[np.ndarray, "slice tile mode"],
    tiles: Tiles,
    covariance: SliceCovariance,
    z: Float[np.ndarray, " slice"],
) -> tuple[Float[np.ndarray, "tile 3 slice"], Float[np.ndarray, "3 slice 3 slice"]]:
    """Of depth (in nominal slices) and displacement (y, x; in pixels) of every slice.

    As `displacement_terms`, with the depth in front: with A the derivative of K's rows,

        score_k = 2 Re((A W v)_k conj((W v)_k)) - 2 Re(A W)_kk
        information_kl = 2 Re((A W)_kl (A W)_lk + (A W A^H)_kl W_lk)
    """
    slices, count, _ = value.shape
    matrix, slope = covariance.matrix(z), covariance.slope(z)
    inverse = np.linalg.inv(matrix)
    modes = np.diff(tiles.start)
    score = np.zeros((count, 3, slices))
    information = np.zeros((3, slices, 3, slices))
    score[:, 1:], information[1:, :, 1:] = displacement_terms(value, tiles, matrix)
    product = slope @ inverse
    for b, w, a in zip(tiles.bins, inverse, slope, strict=True):
        weighted = _apply(w, value[:, :, b])
        score[:, 0] += 2 * np.real(_apply(a, weighted) * weighted.conj()).sum(2).T
    score[:, 0] -= 2 * np.einsum("b,bkk->k", modes, product).real
    both = product @ slope.conj().swapaxes(1, 2)
    terms = product * product.swapaxes(1, 2) + both * inverse.swapaxes(1, 2)
    information[0, :, 0] = 2 * count * np.einsum("b,bkl->kl", modes, terms.real)
    # Depth with displacement along y, k the displacement, l the depth; x does not couple, since
    # a bin holds as much of +qx as of -qx.
    own = np.einsum("bll->bl", product)
    cross = slope.conj().swapaxes(1, 2) * inverse.swapaxes(1, 2)
    cross = cross - inverse * slope.swapaxes(1, 2)
    cross = cross.imag + 2 * own.imag[:, None, :] * np.eye(slices)
    coupling = count * np.einsum("b,bkl->kl", modes * tiles.bin_qy, cross)
    information[1, :, 0], information[0, :, 1] = coupling, coupling.T
    return score, information


def _apply(matrix: np.ndarray, value: np.ndarray) -> np.ndarray:
    """A matrix over slices, applied to ``(slice, tile, mode)``."""
    return (matrix @ value.reshape(len(value), -1)).reshape(value.shape)
