"""A stack in some hundred numbers: statistics whose mean over a stack obeys the central limit.

Where the sliced Wasserstein distance says how far two stacks are apart, these say in what, and
with which sampling error, so that a fit can state its own (`fibsim.fit.refine`). Two types:

* shares: the part of all pixels, pairs of pixels or patches that lie below a grey level, with
  the step smoothed to ``1 / (1 + exp(-(level - grey) / width))``;
* energies: the logarithm of a mean square, of grey differences over a distance, of noise at a
  brightness, of lines, curtains and flicker.

All are differentiable. Grey levels, widths and filters are taken once from the recorded stack.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fibsim.fit.first_guess import noise_sd
from fibsim.fit.statistics import patch_filters, patch_responses

__all__ = ["Gauges", "make_gauges", "moment_names", "moment_tolerances", "stack_moments"]

_GREY_SHARES = (
    0.02, 0.06, 0.12, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.88, 0.94, 0.98, 0.995, 0.999,
)  # fmt: skip
_PAIR_LEVELS = (1, 4, 8)  # of these: dark, middle and bright
_NOISE_LEVELS = (2, 4, 6, 8)  # of these: borders of the classes of brightness
_FILTER_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
_LATERAL_PX = (1, 2, 3, 5, 8, 13)
_LEANS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5)  # tangents of the lean from slice to slice
_DEPTHS = (1, 3)  # slices
_STRIDE = 5
# What a good model may still miss of a share (absolute), of the tail above a grey level (of
# itself), and of an energy and of noise (of their logarithm). Noise is free in size and law, and
# a classifier sees 2 % of it.
_SHARE_TOLERANCE, _TAIL_TOLERANCE, _ENERGY_TOLERANCE, _NOISE_TOLERANCE = 0.01, 0.3, 0.05, 0.02


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Gauges:
    """What the statistics are measured with; made once from the recorded stack.

    Attributes:
        level: grey levels, increasing; ``(channel, level)``.
        width: smoothing of a step in grey values; ``(channel,)``.
        filters: random patch filters; ``(filter, channel, depth, y, x)``.
        filter_level, filter_width: the same for the filters' responses.
        lean_px: displacements along y from slice to slice that are looked at, static.
    """

    level: Float[Array, "channel level"]
    width: Float[Array, " channel"]
    filters: Float[Array, "filter channel depth y x"]
    filter_level: Float[Array, "filter level"]
    filter_width: Float[Array, " filter"]
    lean_px: tuple[int, ...] = dataclasses.field(metadata=dict(static=True))


def make_gauges(
    images: Float[np.ndarray, "channel slice y x"],
    *,
    slice_nm: float,
    pixel_nm: float,
    key: jax.Array,
    num_filters: int = 32,
) -> Gauges:
    """Levels at the images' own quantiles, smoothed by half of the noise.

    Args:
        images: the recorded grey values, or a part of them that stands for all.
        key: of the random filters.
    """
    channels, slices = images.shape[:2]
    flat = images.reshape(channels, -1)
    level = np.quantile(flat, _GREY_SHARES, axis=1).T
    # Whole grey values need a step that is not narrower than they are.
    width = np.maximum(0.5 * noise_sd(images), 0.5)
    depth = min(3, slices)
    filters = patch_filters(key=key, channels=channels, depth=depth, num_random=num_filters)
    filters = filters[-num_filters:] / jnp.asarray(flat.std(1) + 1e-6)[:, None, None, None]
    response = np.asarray(patch_responses(jnp.asarray(images), filters, stride=_STRIDE))
    filter_level = np.quantile(response, _FILTER_SHARES, axis=0).T
    step = slice_nm / pixel_nm
    lean = sorted({round(t * step) for t in _LEANS})
    longest = (images.shape[2] - 8) // (2 * max(_DEPTHS))
    return Gauges(
        level=jnp.asarray(level, jnp.float32),
        width=jnp.asarray(width, jnp.float32),
        filters=filters,
        filter_level=jnp.asarray(filter_level, jnp.float32),
        filter_width=jnp.asarray(0.1 * response.std(0) + 1e-6, jnp.float32),
        lean_px=tuple(v for v in lean if abs(v) <= longest),
    )


def _below(values: Array, level: Array, width: Array) -> Array:
    return jax.nn.sigmoid((level - values) / width)


def _products(one: Array, other: Array) -> Array:
    """Row by row; XLA's CPU backend sums a product of vectors many times faster than it reduces.

    In full precision on GPUs too, which else round the factors to 10 bits.
    """
    return jnp.einsum("ci,ci->c", one, other, precision=jax.lax.Precision.HIGHEST)


def _energy(values: Array) -> Array:
    """Logarithm of the mean square over all axes but the first."""
    flat = values.reshape(values.shape[0], -1)
    return jnp.log(_products(flat, flat) / flat.shape[1] + 1e-6)


def _share(one: Array, other: Array) -> Array:
    """Mean product over all axes but the first."""
    flat = one.reshape(one.shape[0], -1)
    return _products(flat, other.reshape(one.shape[0], -1)) / flat.shape[1]


def _pair(values: Array, depth: int, shift: int) -> tuple[Array, Array]:
    """The same places in slices k and k + depth, the latter displaced by ``shift`` along y."""
    slices, y = values.shape[-3:-1]
    first = values[..., : slices - depth, max(-shift, 0) : y - max(shift, 0), :]
    second = values[..., depth:, max(shift, 0) : y - max(-shift, 0), :]
    return first, second


def _second(values: Array, axis: int) -> Array:
    return jnp.diff(values, n=2, axis=axis)


@jax.jit
def _prepare(images: Array, gauges: Gauges):
    """What several statistics need: where it is dark, local noise, and the smoothed images.

    A program of its own: within one, XLA's CPU backend would compute these anew for every
    statistic that uses them.
    """
    columns, expanded = images[..., ::2], gauges.width[:, None, None, None]
    dark = [_below(columns, gauges.level[:, j, None, None, None], expanded) for j in _PAIR_LEVELS]
    bumps = _second(_second(images, -1), -2) / 6.0
    smooth = images[..., 1:-1, :] + images[..., :-2, :] + images[..., 2:, :]
    smooth = (smooth[..., 1:-1] + smooth[..., :-2] + smooth[..., 2:]) / 9.0
    # The cube root is robust: edges have far larger bumps than noise.
    return dark, (bumps**2 + 1e-6) ** (1 / 3), smooth


@jax.jit
def _brightness_shares(smooth: Array, gauges: Gauges) -> list[Array]:
    edges = gauges.level[:, jnp.asarray(_NOISE_LEVELS)]
    expanded = gauges.width[:, None, None, None]
    below = [_below(smooth, edge[:, None, None, None], expanded) for edge in edges.T]
    return [below[0], *(b - a for a, b in itertools.pairwise(below)), 1 - below[-1]]


def _list_moments(images: Array, prepared, shares: list[Array], gauges: Gauges):
    """Yields (name, is_energy, values per channel or per pair of channels)."""
    dark, rough, _ = prepared
    channels, slices = images.shape[:2]
    expanded = gauges.width[:, None, None, None]
    # Every second column, or row, tells nearly as much: features are wider than two pixels.
    columns, rows = images[..., ::2], images[..., ::2, :]
    for j in range(gauges.level.shape[1]):
        level = gauges.level[:, j, None, None, None]
        yield f"grey level {j + 1}", False, jnp.mean(_below(columns, level, expanded), (1, 2, 3))
    for axis, name, thinned in ((2, "y", columns), (3, "x", rows)):
        for lag in _LATERAL_PX:
            if 2 * lag < images.shape[axis]:
                size = images.shape[axis]
                here = jax.lax.slice_in_dim(thinned, 0, size - lag, axis=axis)
                there = jax.lax.slice_in_dim(thinned, lag, size, axis=axis)
                yield f"difference over {lag} px along {name}", True, _energy(here - there)

    for depth in _DEPTHS:
        if depth >= slices:
            continue
        for shift in gauges.lean_px:
            one, other = _pair(columns, depth, shift * depth)
            name = f"{depth} slices on, {shift * depth} px along y"
            yield f"difference {name}", True, _energy(one - other)
            one, other = _pair(dark[0], depth, shift * depth)
            yield f"dark {name}", False, _share(one, other)

    # Noise where it is dark, and where it is bright; of a crop that is never so, that of all.
    ones = jnp.ones_like(rough)
    everywhere = _share(rough, ones)
    for j, share in enumerate(shares):
        area = _share(share, ones)
        mean = (_share(share, rough) + 1e-4 * everywhere) / (area + 1e-4)
        yield f"noise at brightness {j + 1}", True, 3 * jnp.log(mean)
    yield "lines", True, _energy(_second(images.mean(-1), -1))
    yield "curtains", True, _energy(_second(images.mean(-2), -1))
    if slices > 2:
        yield "flicker", True, _energy(_second(images.mean((-1, -2)), -1))

    for c in range(1, channels):
        pair = images[c : c + 1] / jnp.std(images[c]) - images[c - 1 : c] / jnp.std(images[c - 1])
        pair = pair - pair.mean()
        yield f"channel {c + 1} against {c}", True, _energy(pair)
        for here in dark:
            for there in dark:
                both = _share(here[c : c + 1], there[c - 1 : c])
                yield f"both dark, channels {c + 1} and {c}", False, both

    if slices >= gauges.filters.shape[2]:
        response = patch_responses(images, gauges.filters, stride=_STRIDE)
        level, width = gauges.filter_level, gauges.filter_width
        share = [jnp.mean(_below(response, edge, width), 0) for edge in level.T]
        yield "patches", False, jnp.concatenate(share)


@jax.jit
def _measure(images: Array, prepared, shares, gauges: Gauges) -> Array:
    found = _list_moments(images, prepared, shares, gauges)
    return jnp.concatenate([values for _, _, values in found])


def stack_moments(
    images: Float[Array, "channel slice y x"], gauges: Gauges
) -> Float[Array, " moment"]:
    """All statistics of a stack as one vector; see the module docstring."""
    prepared = _prepare(images, gauges)
    return _measure(images, prepared, _brightness_shares(prepared[2], gauges), gauges)


def _described(images: tuple[int, ...], gauges: Gauges) -> list[tuple[str, bool, int]]:
    found: list[tuple[str, bool]] = []

    def trace(values):
        sizes = []
        prepared = _prepare(values, gauges)
        shares = _brightness_shares(prepared[2], gauges)
        for name, energy, vector in _list_moments(values, prepared, shares, gauges):
            found.append((name, energy))
            sizes.append(vector)
        return sizes

    sizes = jax.eval_shape(trace, jax.ShapeDtypeStruct(images, jnp.float32))
    return [(n, e, s.shape[0]) for (n, e), s in zip(found, sizes, strict=True)]


def moment_names(shape: tuple[int, ...], gauges: Gauges) -> list[str]:
    """What every number of `stack_moments` of images of this shape is."""
    names = []
    for name, _, size in _described(shape, gauges):
        channel = size == shape[0] and size > 1 and name != "patches"
        numbers = [f", channel {i + 1}" if channel else "" for i in range(size)]
        names += [name + number for number in numbers]
    return names


def moment_tolerances(shape: tuple[int, ...], gauges: Gauges) -> np.ndarray:
    """What a good model may still miss: 0.01 of a share, 30 % of the tail above a grey level if
    that is less, 5 % of an energy, 2 % of the variance of noise.
    """
    described = _described(shape, gauges)

    def tolerance(name: str, energy: bool) -> float:
        if name.startswith("noise at"):
            return _NOISE_TOLERANCE
        return _ENERGY_TOLERANCE if energy else _SHARE_TOLERANCE

    each = [tolerance(name, energy) for name, energy, _ in described]
    above = [_TAIL_TOLERANCE * (1 - share) for share in _GREY_SHARES]
    each[: len(above)] = np.minimum(each[: len(above)], above)
    return np.repeat(each, [size for _, _, size in described])
