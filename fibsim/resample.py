"""Interpolation and Gaussian filtering of images and volumes, differentiable in every number."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

__all__ = [
    "average_depth",
    "average_window",
    "depth_weights",
    "filter_lateral",
    "map_slices",
    "neighbour",
    "shift_fractions",
    "shift_lateral",
    "shift_whole",
]


def _positions(size: int, start: Array, periodic: bool) -> Array:
    """Indices ``start .. start + size - 1``, wrapped or held at the ends."""
    index = jnp.arange(size, dtype=jnp.int32) + start.astype(jnp.int32)
    return index % size if periodic else jnp.clip(index, 0, size - 1)


def _read(values: Array, index: Array, axis: int) -> Array:
    """``values[..., index, ...]`` along an axis; indices beyond the ends are held there.

    Whole rows or runs of columns are read, which fuses with what follows.
    """
    size = values.shape[axis]
    if axis != values.ndim - 2 or axis == 0:
        return jnp.take(values, index, axis=axis, mode="clip")
    # Rows of all images in one list: the output of a gather along an inner axis is transposed.
    first = size * jnp.arange(math.prod(values.shape[:axis]), dtype=jnp.int32)
    rows = values.reshape(-1, values.shape[-1])
    within = jnp.clip(index, 0, size - 1)
    read = jnp.take(rows, (first[:, None] + within).reshape(-1), axis=0, mode="clip")
    return read.reshape(values.shape)


def _gathered(values: Array, start: Array, axis: int, periodic: bool) -> Array:
    """``values[start : start + size]`` along an axis, periodic or with held ends."""
    return _read(values, _positions(values.shape[axis], start, periodic), axis)


def _spread(cotangent: Array, start: Array, axis: int, periodic: bool) -> Array:
    """Transpose of `_gathered`, by reading: the transpose of a gather is a scatter, many times
    slower on CPUs."""
    size = cotangent.shape[axis]
    if periodic:
        return _gathered(cotangent, -start, axis, True)
    # Position j is read at i = j - start if that is inside; the ends also by all that is beyond.
    back = jnp.arange(size, dtype=jnp.int32) - start.astype(jnp.int32)
    inside = (back >= 0) & (back < size)
    shape = [1] * cotangent.ndim
    shape[axis] = size
    out = jnp.where(inside.reshape(shape), _read(cotangent, back, axis), 0)
    from_there = jnp.arange(size, dtype=jnp.int32) + start.astype(jnp.int32)

    def total(beyond):
        return jnp.sum(jnp.where(beyond.reshape(shape), cotangent, 0), axis, keepdims=True)

    place = jnp.arange(size).reshape(shape)
    first = jnp.where(place == 0, total(from_there < 0), 0)
    last = jnp.where(place == size - 1, total(from_there > size - 1), 0)
    return out + first + last


def _keys_weights(t: Array) -> tuple[Array, ...]:
    """Of the pixels at -2, -1, 0, 1, 2 and 3 for a point at t in 0..1."""

    def near(r):
        return (1 - r) * (1 + r - 4 / 3 * r**2)

    def middle(r):
        return -r * (1 - r) * (8 - 7 * r) / 12

    def far(r):
        return r * (1 - r) ** 2 / 12

    u = 1 - t
    return far(t), middle(t), near(t), near(u), middle(u), far(u)


def _keys_slopes(t: Array) -> tuple[Array, ...]:
    """Derivatives of `_keys_weights`."""
    return jax.jvp(_keys_weights, (t,), (jnp.ones_like(t),))[1]


def _shift_parts(shift_px: Array) -> tuple[Array, Array]:
    whole = jnp.floor(shift_px)
    return whole.astype(jnp.int32) - 2, shift_px - whole


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shift_lateral(values, shift_px, axis, periodic):
    start, t = _shift_parts(shift_px)
    taps = (_gathered(values, start + k, axis, periodic) for k in range(6))
    return sum(w * tap for w, tap in zip(_keys_weights(t), taps, strict=True))


def _shift_lateral_forward(values, shift_px, axis, periodic):
    return _shift_lateral(values, shift_px, axis, periodic), (values, shift_px)


def _shift_lateral_backward(axis, periodic, kept, cotangent):
    values, shift_px = kept
    start, t = _shift_parts(shift_px)
    weights, slopes = _keys_weights(t), _keys_slopes(t)
    back = sum(w * _spread(cotangent, start + k, axis, periodic) for k, w in enumerate(weights))
    moved = sum(s * _gathered(values, start + k, axis, periodic) for k, s in enumerate(slopes))
    return back, jnp.sum(moved * cotangent)


_shift_lateral.defvjp(_shift_lateral_forward, _shift_lateral_backward)


def shift_lateral(
    values: Float[Array, "... y x"], shift_px: Float[Array, ""], *, axis: int, periodic: bool
) -> Array:
    """``out[i] = values[i + shift_px]`` along one axis by cubic convolution (Keys 1981).

    The kernel of six pixels and fourth order (doi 10.1109/TASSP.1981.1163711), continuously
    differentiable in the shift: moved by half a pixel, details of four pixels keep 0.94 of their
    amplitude, with four pixels 0.88. Outside, periodic or edge values. For many shifts at once
    use `jax.lax.map`.
    """
    shift_px = jnp.asarray(shift_px, values.dtype)
    return _shift_lateral(values, shift_px, axis % values.ndim, periodic)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shift_whole(values, shift_px, axis, periodic):
    return _gathered(values, shift_px, axis, periodic)


def _shift_whole_backward(axis, periodic, shift_px, cotangent):
    nothing = np.zeros(shift_px.shape, jax.dtypes.float0)
    return _spread(cotangent, shift_px, axis, periodic), nothing


_shift_whole.defvjp(
    lambda values, shift_px, axis, periodic: (
        _gathered(values, shift_px, axis, periodic),
        shift_px,
    ),
    _shift_whole_backward,
)


def shift_whole(
    values: Float[Array, "... y x"], shift_px: Int[Array, ""], *, axis: int, periodic: bool
) -> Array:
    """``out[i] = values[i + shift_px]`` for whole pixels, exact; borders as in `shift_lateral`."""
    return _shift_whole(values, jnp.asarray(shift_px, jnp.int32), axis % values.ndim, periodic)


def _first_part(fraction: Array, t: Array, rise: Array) -> Array:
    """What of a phase lies in a pixel's first part t, if its neighbours differ by ``rise``."""
    even = t * fraction
    sharp = jnp.where(rise > 0, jnp.maximum(fraction - (1 - t), 0.0), jnp.minimum(fraction, t))
    return even + rise**2 * (sharp - even)


def shift_fractions(
    phases: Float[Array, "phase y x"], shift_px: Float[Array, ""], *, axis: int, periodic: bool
) -> Float[Array, "phase y x"]:
    """`shift_lateral` of volume fractions: what of each phase lies in the displaced pixels.

    An image of edges is not band limited, and any interpolation of it blurs. But a pixel that an
    edge cuts is known to be filled from the side of its fuller neighbour, so what lies in its
    first t of a pixel is (donor and acceptor, Hirt & Nichols 1981, doi
    10.1016/0021-9991(81)90145-5)::

        max(f - (1 - t), 0)  if it is filled from the far side,  min(f, t)  if from the near one

    and ``t f`` if it is filled evenly. The first is taken with weight d^2, the last with 1 - d^2,
    d being the difference of the two neighbours: 1 across an edge, small on a slope. So for all
    phases together; what they fill is shared among them in the same way, f being a phase's share
    of it. Amounts are conserved, and fractions stay in 0..1.
    """
    shift_px = jnp.asarray(shift_px, phases.dtype)
    whole = jnp.floor(shift_px)
    t = shift_px - whole
    axis = axis % phases.ndim

    def sides(values):
        return (neighbour(values, side, axis=axis, periodic=periodic) for side in (1, -1))

    filled = jnp.sum(phases, 0, keepdims=True)
    ahead, behind = sides(filled)
    first = _first_part(filled, t, ahead - behind)
    if len(phases) > 1:
        some = jnp.where(filled > 0, filled, 1.0)
        share = phases / some
        share_ahead, share_behind = sides(share)
        # Empty neighbours have no shares.
        rise = (share_ahead - share_behind) * jnp.minimum(jnp.minimum(ahead, behind), 1.0)
        t = first / some
        part = _first_part(share, t, rise)
        total = jnp.sum(part, 0, keepdims=True)
        # Of more than two phases these do not add up to t: what is too much on its side is less.
        less = part * t / jnp.where(total > 0, total, 1.0)
        more = share - (share - part) * (1 - t) / jnp.where(total < 1, 1 - total, 1.0)
        first = filled * jnp.where(total > t, less, jnp.where(total < t, more, part))
    return shift_whole(phases - first, whole, axis=axis, periodic=periodic) + shift_whole(
        first, whole + 1, axis=axis, periodic=periodic
    )


def neighbour(values: Float[Array, "... y x"], side: int, *, axis: int, periodic: bool) -> Array:
    """`shift_whole` by ``side``, -1 or 1: of slices, which the gradient reads as fast as the
    forward run, where columns gathered at indices known only when it runs are slow."""
    size = values.shape[axis]

    def part(start, stop):
        return jax.lax.slice_in_dim(values, start, stop, axis=axis)

    if side > 0:
        last = part(0, 1) if periodic else part(size - 1, size)
        return jnp.concatenate([part(1, size), last], axis)
    first = part(size - 1, size) if periodic else part(0, 1)
    return jnp.concatenate([first, part(0, size - 1)], axis)


def map_slices(function, inputs):
    """`jax.lax.map` over slices that rounds alike whatever their number.

    A loop of one step is unrolled by the compiler, which then rounds it differently: a single
    slice is computed twice.
    """
    count = len(jax.tree.leaves(inputs)[0])
    if count == 1:
        inputs = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), inputs)
    return jax.tree.map(lambda leaf: leaf[:count], jax.lax.map(function, inputs))


def depth_weights(index: Float[Array, " n"], layers: int) -> tuple[Array, Array]:
    """Linear interpolation at fractional layer ``index`` of a volume; ends are held.

    Returns:
        The upper one of the two layers at each index, and the weight t of the one below it:
        ``(1 - t) v[upper] + t v[min(upper + 1, layers - 1)]``.
    """
    last = layers - 1
    index = jnp.clip(index, 0.0, last)
    upper = jnp.clip(jnp.floor(index).astype(jnp.int32), 0, max(last - 1, 0))
    return upper, index - upper


def _exclusive_sums(images: Float[Array, "z y x"], first: Array, *, reverse: bool) -> Array:
    """``first`` plus all images before (``reverse``: after) each one."""

    def add(total, image):
        return total + image, total

    # A scan: jnp.cumsum becomes a windowed sum on CPUs, many times slower.
    return jax.lax.scan(add, first, images, reverse=reverse)[1]


def average_depth(volume: Float[Array, "z y x"], border: Float[Array, " n+1"]) -> Array:
    """Mean of the volume between consecutive borders (in layers; layer i is i..i+1); n of them.

    Exact for voxels of constant value: the integral is linear between their borders. Past the
    ends the first and the last layer go on.
    """
    low = jnp.floor(border).astype(jnp.int32)
    nothing = jnp.zeros_like(volume[0])
    return average_window(volume, nothing, border, jnp.clip(low, 0, volume.shape[0] - 1), 0)[0]


def average_window(
    window: Float[Array, "z y x"],
    beneath: Float[Array, "y x"],
    border: Float[Array, " n+1"],
    low: Int[Array, " n+1"],
    first: Int[Array, ""] | int,
) -> tuple[Array, Array]:
    """`average_depth` for a window of a volume: what lies deeper enters by its sum alone.

    The integral of all that is deeper than b is ``sum of the layers below l + (l + 1 - b) v[l]``
    with l the layer of b (`layer_of`), also past the ends.

    Args:
        window: layers ``first .. first + z - 1`` of the volume.
        beneath: sum of all deeper layers.
        border: borders in layers of the volume.
        low: the layer that each border lies in, inside the window.
        first: index of the window's first layer.

    Returns:
        Means ``(n, y, x)``, and the sum of all layers deeper than the first border's.
    """
    mean = _average(window, beneath, border, low - first, first)
    deeper = _exclusive_sums(window, beneath, reverse=True)
    return mean, deeper[low[0] - first]


def _rows(values: Array, index: Array) -> Array:
    return jnp.take(values, index, axis=0, mode="clip")


@jax.custom_vjp
def _average(window, beneath, border, low, first):
    deeper = _exclusive_sums(window, beneath, reverse=True)

    # A loop, whose body is the same program however many layers there are: a volume in slabs
    # gives the same bits as the whole.
    def one(ends):
        (above, below), (first_low, last_low) = ends

        def integral(depth, layer):
            left = (layer + first + 1) - depth
            return deeper[layer] + left * window[layer]

        return (integral(above, first_low) - integral(below, last_low)) / (below - above)

    return jax.lax.map(one, ((border[:-1], border[1:]), (low[:-1], low[1:])))


def _average_forward(window, beneath, border, low, first):
    return _average(window, beneath, border, low, first), (window, beneath, border, low, first)


def _average_backward(kept, cotangent):
    """The transpose of a mean over layers is again an integral over a piecewise constant: of the
    cotangent, between the borders of the voxels. So it needs no scatter either."""
    window, beneath, border, low, first = kept
    height = jnp.diff(border)
    mean = _average(window, beneath, border, low, first)
    each = jnp.stack(
        [
            jnp.sum(cotangent * mean, (1, 2)),
            jnp.sum(cotangent * _rows(window, low[:-1]), (1, 2)),
            jnp.sum(cotangent * _rows(window, low[1:]), (1, 2)),
        ]
    )
    each = each / height
    none = jnp.zeros(1, each.dtype)
    to_border = jnp.concatenate([each[0] - each[1], none]) + jnp.concatenate(
        [none, each[2] - each[0]]
    )
    count = window.shape[0]
    edge = jnp.arange(1, count, dtype=border.dtype) + first
    edge = jnp.clip(edge, border[0], border[-1])
    edge = jnp.concatenate([border[:1], edge, border[-1:]])
    cell = jnp.clip(jnp.searchsorted(border, edge, side="right") - 1, 0, len(height) - 1)
    part = (edge - border[cell]) / height[cell]
    before = _exclusive_sums(cotangent, jnp.zeros_like(cotangent[0]), reverse=False)
    integral = _rows(before, cell) + part[:, None, None] * _rows(cotangent, cell)
    no_int = (np.zeros(low.shape, jax.dtypes.float0), np.zeros(np.shape(first), jax.dtypes.float0))
    return jnp.diff(integral, axis=0), jnp.zeros_like(beneath), to_border, *no_int


_average.defvjp(_average_forward, _average_backward)


def _frequencies(shape: tuple[int, int], dtype) -> tuple[Array, Array]:
    """Of `jnp.fft.rfft2`, along y and x in radian/pixel."""
    fy = jnp.fft.fftfreq(shape[0]).astype(dtype)
    fx = jnp.fft.rfftfreq(shape[1]).astype(dtype)
    return 2 * jnp.pi * fy[:, None], 2 * jnp.pi * fx[None, :]


def filter_lateral(
    values: Float[Array, "... y x"], transfer, *, periodic: bool, isotropic: bool = True
) -> Array:
    """Multiply the lateral spectrum by ``transfer(q2)``, q2 in (radian/pixel)^2.

    A Gaussian of s pixels is ``lambda q2: exp(-q2 s^2 / 2)``. A filter that is not isotropic is
    ``transfer(q_y, q_x)``, in radian/pixel. Non-periodic images are mirrored
    by up to 32 pixels first, so that opposite borders do not mix. Fourier filtering costs the
    same at any width, unlike a convolution.
    """
    y, x = values.shape[-2:]
    pad = (0, 0) if periodic else (min(32, y - 1), min(32, x - 1))
    if any(pad):
        width = [(0, 0)] * (values.ndim - 2) + [(pad[0], pad[0]), (pad[1], pad[1])]
        values = jnp.pad(values, width, mode="reflect")
    shape = values.shape[-2:]
    q_y, q_x = _frequencies(shape, values.dtype)
    factor = transfer(q_y**2 + q_x**2) if isotropic else transfer(q_y, q_x)
    spectrum = jnp.fft.rfft2(values) * factor
    out = jnp.fft.irfft2(spectrum, s=shape)
    return out[..., pad[0] : pad[0] + y, pad[1] : pad[1] + x]
