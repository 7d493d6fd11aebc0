"""Interpolation and Gaussian filtering of images and volumes, differentiable in every number."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

__all__ = ["average_depth", "filter_lateral", "sample_depth", "shift_lateral", "shift_whole"]


def _window(values: Array, start: Array, axis: int, periodic: bool) -> Array:
    """``values[start - 1 : start + size + 2]`` along an axis, periodic or with held ends.

    A slice of an extended copy, not a gather: its gradient is a slice update, where that of a
    gather is a scatter, many times slower on CPUs.
    """
    size = values.shape[axis]
    if periodic:
        extended = jnp.concatenate(
            [values, values, jax.lax.slice_in_dim(values, 0, min(3, size), axis=axis)], axis
        )
        begin = (start - 1) % size
    else:
        width = [(0, 0)] * values.ndim
        width[axis] = (size + 1, size + 2)
        extended = jnp.pad(values, width, mode="edge")
        begin = jnp.clip(start, -size, size) + size
    return jax.lax.dynamic_slice_in_dim(extended, begin, size + 3, axis)


def shift_lateral(
    values: Float[Array, "... y x"], shift_px: Float[Array, ""], *, axis: int, periodic: bool
) -> Array:
    """``out[i] = values[i + shift_px]`` along one axis by cubic convolution (Keys 1981).

    Catmull-Rom weights (doi 10.1109/TASSP.1981.1163711) keep fine detail that linear
    interpolation would blur away when a shift is repeated from slice to slice, and are
    continuously differentiable in the shift. Outside, periodic or edge values. The axis must be
    at least 3 pixels long. For many shifts at once use `jax.lax.map`.
    """
    axis = axis % values.ndim
    whole = jnp.floor(shift_px)
    t = shift_px - whole
    window = _window(values, whole.astype(jnp.int32), axis, periodic)
    weights = (
        0.5 * (-t + 2 * t**2 - t**3),
        0.5 * (2 - 5 * t**2 + 3 * t**3),
        0.5 * (t + 4 * t**2 - 3 * t**3),
        0.5 * (-(t**2) + t**3),
    )
    size = values.shape[axis]
    parts = (jax.lax.slice_in_dim(window, k, k + size, axis=axis) for k in range(4))
    return sum(w * part for w, part in zip(weights, parts, strict=True))


def shift_whole(
    values: Float[Array, "... y x"], shift_px: Int[Array, ""], *, axis: int, periodic: bool
) -> Array:
    """``out[i] = values[i + shift_px]`` for whole pixels, exact; borders as in `shift_lateral`."""
    axis = axis % values.ndim
    window = _window(values, shift_px.astype(jnp.int32), axis, periodic)
    return jax.lax.slice_in_dim(window, 1, 1 + values.shape[axis], axis=axis)


def sample_depth(volume: Float[Array, "z y x"], index: Float[Array, " n"]) -> Array:
    """Linear interpolation of whole layers at fractional layer ``index``; ends are held."""
    last = volume.shape[0] - 1
    index = jnp.clip(index, 0.0, last)
    low = jnp.clip(jnp.floor(index).astype(jnp.int32), 0, max(last - 1, 0))
    t = (index - low)[:, None, None]
    return (1 - t) * volume[low] + t * volume[jnp.minimum(low + 1, last)]


def average_depth(volume: Float[Array, "z y x"], border: Float[Array, " n+1"]) -> Array:
    """Mean of the volume between consecutive borders (in layers; layer i is i..i+1); n of them.

    Exact for voxels of constant value: the integral from the top is linear between their
    borders. Past the ends the first and the last layer go on.
    """
    last = volume.shape[0]

    def add(total, layer):
        return total + layer, total

    # A scan: jnp.cumsum becomes a windowed sum on CPUs, many times slower.
    _, total = jax.lax.scan(add, jnp.zeros_like(volume[0]), volume)

    inside = jnp.clip(border, 0.0, last)
    low = jnp.clip(jnp.floor(inside).astype(jnp.int32), 0, last - 1)
    part, outside = (v[:, None, None] for v in (inside - low, border - inside))
    beyond = jnp.where(outside > 0, volume[-1], volume[0]) * outside
    integral = total[low] + part * volume[low] + beyond
    return jnp.diff(integral, axis=0) / jnp.diff(border)[:, None, None]


def _frequencies_squared(shape: tuple[int, int], dtype) -> Array:
    fy = jnp.fft.fftfreq(shape[0]).astype(dtype)
    fx = jnp.fft.rfftfreq(shape[1]).astype(dtype)
    return (2 * jnp.pi) ** 2 * (fy[:, None] ** 2 + fx[None, :] ** 2)


def filter_lateral(values: Float[Array, "... y x"], transfer, *, periodic: bool) -> Array:
    """Multiply the lateral spectrum by ``transfer(q2)``, q2 in (radian/pixel)^2.

    A Gaussian of s pixels is ``lambda q2: exp(-q2 s^2 / 2)``. Non-periodic images are mirrored
    by up to 32 pixels first, so that opposite borders do not mix. Fourier filtering costs the
    same at any width, unlike a convolution.
    """
    y, x = values.shape[-2:]
    pad = (0, 0) if periodic else (min(32, y - 1), min(32, x - 1))
    if any(pad):
        width = [(0, 0)] * (values.ndim - 2) + [(pad[0], pad[0]), (pad[1], pad[1])]
        values = jnp.pad(values, width, mode="reflect")
    shape = values.shape[-2:]
    spectrum = jnp.fft.rfft2(values) * transfer(_frequencies_squared(shape, values.dtype))
    out = jnp.fft.irfft2(spectrum, s=shape)
    return out[..., pad[0] : pad[0] + y, pad[1] : pad[1] + x]
