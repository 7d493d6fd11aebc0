"""What the beam sees first behind every pixel, and how much of it the detector sees.

The first surface behind a pixel is a height field in the frame of the leaning beam: a depth map.
From it follow, for all channels at once, how much of the emission of that surface leaves the
specimen without meeting a wall, how much solid stands around its way out, and how obliquely the
beam strikes.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fibsim.instrument import Geometry
from fibsim.layers import Layers, Texture
from fibsim.resample import filter_lateral, neighbour, shift_whole

__all__ = [
    "View",
    "around",
    "deepest_maps",
    "depth_maps",
    "face_view",
    "face_views",
    "lay_depth",
    "limited_gradient",
    "openness",
]

_AZIMUTHS = 8
# Distances at which walls are looked for, in pixels: at most a factor of 1.25 apart from 4 on.
_DISTANCES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 27, 33, 41, 51, 64)
_LEAST_SLOPE = 1e-3  # tangent of the lowest horizon that counts
# arctan(t) / t in powers of t^2 up to t = 1: a Chebyshev fit, within 2e-8.
_ARCTAN = (
    0.9999999842,
    -0.3333306678,
    0.1999248358,
    -0.1420257051,
    0.1063675410,
    -0.0749544544,
    0.0425876075,
    -0.0160050305,
    0.0028340643,
)
_TINY = 1e-3  # open share that a full layer is given, so that what it ends has a gradient
_LEAST_OPEN = 0.05  # below this share of open area, a pixel's depth is not told from the face
# Standard deviation of what counts as around a way out, in mean ways from wall to wall: calibrated
# with the other numbers of `fibsim.render`.
_AROUND = 0.4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """The first surface behind each pixel, in the frame of each face; all ``(slice, y, x)``.

    Attributes:
        face: share of the pixel where the face itself is solid.
        depth_nm: mean depth of the first surface behind the rest of the pixel.
        walls_nm: solid around the way up from there: the fraction of solid in the neighbourhood,
            summed over that depth.
        open: share of the emission of that surface (cosine law) that meets no wall on its way.
        secant: 1 / cos of the beam's incidence on it, relative to that on the face.
    """

    face: Float[Array, "slice y x"]
    depth_nm: Float[Array, "slice y x"]
    walls_nm: Float[Array, "slice y x"]
    open: Float[Array, "slice y x"]
    secant: Float[Array, "slice y x"]


def around(
    filled: Float[Array, "y x"], texture: Texture, geometry: Geometry, *, periodic: bool
) -> Float[Array, "y x"]:
    """Fraction of solid around every pixel of a slice, as far as the next walls."""
    width = _AROUND * texture.period_nm / geometry.pixel_nm
    near = filter_lateral(filled, lambda q2: jnp.exp(-q2 * width**2 / 2), periodic=periodic)
    return jnp.maximum(near, 0.0)


def lay_depth(
    maps: Float[Array, "3 y x"],
    filled: Float[Array, "sublayer y x"],
    near: Float[Array, "y x"],
    height_nm: Float[Array, " sublayer"],
    step_px: Array,
    *,
    periodic: bool,
) -> Float[Array, "3 y x"]:
    """Depth map D, solid around the way out W, and solid share of a face, from the face below.

    Both maps are means over each pixel. For every layer of fraction rho that is laid on, over one
    of fraction c::

        D <- min((1 - rho) / (1 - c), 1) D + (1 - rho) height
        W <- min((1 - rho) / (1 - c), 1) W + (1 - rho) near height

    with near from `around`. In partly filled pixels solid lies over solid as far as it can, as
    the two sides of a wall do (maximum overlap, Geleyn & Hollingsworth 1979, Contrib. Atmos. Phys.
    52, 1, for clouds). Were layers filled at random, ``(1 - rho) (D + height)``, the open part of
    a pixel would end sooner the more layers it is cut into.

    Args:
        maps: D, W in nm and c of the face below.
    """
    more = jnp.stack([jnp.ones_like(near), near])

    def one_layer(maps, layer):
        rho, height = layer
        beneath, covered = maps[:2], maps[2]
        left = jnp.minimum((1.0 - rho + _TINY) / (1.0 - covered + _TINY), 1.0)
        laid = left * beneath + (1.0 - rho) * height * more
        return jnp.concatenate([laid, rho[None]]), None

    maps = shift_whole(maps, step_px, axis=-2, periodic=periodic)
    return jax.lax.scan(one_layer, maps, (filled, height_nm), reverse=True)[0]


def deepest_maps(like: Float[Array, "y x"]) -> Float[Array, "3 y x"]:
    """What `lay_depth` starts from under the deepest layer, where solid is taken to begin."""
    nothing = jnp.zeros_like(like)
    return jnp.stack([nothing, nothing, nothing + 1.0])


def depth_maps(
    layers: Layers, geometry: Geometry, *, periodic: bool
) -> Float[Array, "slice 2 y x"]:
    """D and W of `lay_depth` for every slice, from the deepest, under which solid is taken to
    begin, upwards; in nm below each face. D is the depth of the first solid along the beam."""
    texture = Texture(chord_nm=layers.chord_nm, period_nm=layers.period_nm, shares=jnp.ones(1))

    def one_slice(maps, inputs):
        filled, height, step = inputs
        near = around(jnp.mean(filled, 0), texture, geometry, periodic=periodic)
        maps = lay_depth(maps, filled, near, height, step, periodic=periodic)
        return maps, maps[:2]

    filled = layers.filled
    start = deepest_maps(filled[0, 0])
    xs = (filled, layers.height_nm, layers.step_px)
    return jax.lax.scan(one_slice, start, xs, reverse=True)[1]


def limited_gradient(values: Float[Array, "y x"], *, axis: int, periodic: bool) -> Array:
    """Harmonic mean of the differences to both neighbours, 0 where they disagree in sign.

    It follows slopes and leaves out the cliff between a rim and the surface far below it
    (van Leer 1974, doi 10.1016/0021-9991(74)90019-9).
    """
    ahead = neighbour(values, 1, axis=axis, periodic=periodic) - values
    behind = values - neighbour(values, -1, axis=axis, periodic=periodic)
    agree = ahead * behind > 0
    total = jnp.where(agree, ahead + behind, 1.0)
    return jnp.where(agree, 2 * ahead * behind / total, 0.0)


def _relative_secant(gradient: tuple[Array, Array], tan_tilt: Array) -> Array:
    """Length of the normal ``(1 + t dD/dy, dD/dy, dD/dx)`` of the depth map's surface."""
    up = 1.0 + tan_tilt * gradient[0]
    return jnp.sqrt(up**2 + gradient[0] ** 2 + gradient[1] ** 2)


@jax.custom_jvp
def _arctan(x: Array) -> Array:
    """Arc tangent: 1e-7 in single precision at a ninth of the time of XLA's on CPUs."""
    if x.dtype != jnp.float32:
        return jnp.arctan(x)
    size = jnp.abs(x)
    large = size > 1.0
    # Of the angle's tangent or, beyond 45 degrees, of the complement's.
    t = jnp.minimum(size, 1.0) / jnp.maximum(size, 1.0)
    square = t * t
    series = jnp.full_like(t, _ARCTAN[-1])
    for coefficient in _ARCTAN[-2::-1]:
        series = series * square + coefficient
    angle = t * series
    return jnp.copysign(jnp.where(large, 0.5 * np.pi - angle, angle), x)


@_arctan.defjvp
def _arctan_slope(primals, tangents):
    (x,), (dx,) = primals, tangents
    return _arctan(x), dx / (1.0 + x * x)


def _sector_integrals(reach: Array, along: Array) -> tuple[Array, Array]:
    """``int_0^q u / Q^2 du`` and ``int_0^q u^2 / Q^2 du`` with ``Q = u^2 - 2 a u + 1 + t^2``.

    The cosine law per unit of slope: of all electrons that a horizontal surface emits,
    ``(1/pi) / (1 + |d|^2)^2`` per unit area of slope d leave with lateral displacement d per
    height. With d = u e - t (u: slope in the beam's frame along the unit vector e, t: the beam's
    own), 1 + |d|^2 = Q. ``reach`` is q; ``along`` holds (a, 1 + t^2) with a = e . t.
    """
    a, c = along
    rest = c - a * a
    root = jnp.sqrt(rest)

    def primitive(u):
        v = u - a
        q = v * v + rest
        angle = _arctan(v / root) / (2 * root)
        mean = v / (2 * rest * q) + angle / rest
        first = -0.5 / q + a * mean
        second = angle - v / (2 * q) - a / q + a * a * mean
        return first, second

    upper, lower = primitive(reach), primitive(jnp.zeros_like(a))
    return upper[0] - lower[0], upper[1] - lower[1]


def _ways(shape: tuple[int, int], dtype) -> tuple[Array, Array, Array]:
    """Of each azimuth: its unit vector, whole-pixel steps to look for walls at, their lengths."""
    reach = [r for r in _DISTANCES if r <= max(min(shape) // 2, 1)]
    angle = 2 * np.pi * np.arange(_AZIMUTHS) / _AZIMUTHS
    way = np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    steps = np.round(way[:, None] * np.asarray(reach)[:, None]).astype(np.int32)
    lengths = np.hypot(steps[..., 0], steps[..., 1])
    return jnp.asarray(way, dtype), jnp.asarray(steps), jnp.asarray(lengths, dtype)


def _farthest(steps: Array) -> int:
    """Pixels that the longest of `_ways` reaches along an axis."""
    return _DISTANCES[steps.shape[1] - 1]


def _padded(images: Float[Array, "... y x"], pad: int, mode: str) -> Array:
    width = [(0, 0)] * (images.ndim - 2) + [(pad, pad)] * 2
    return jnp.pad(images, width, mode=mode)


def _horizon(
    depth_nm: Float[Array, "y x"],
    around: Float[Array, "Y X"],
    steps: Int[Array, "reach 2"],
    per_nm: Float[Array, " reach"],
) -> tuple[Array, Array, Array]:
    """Steepest ``(depth - around[step_r]) per_r`` over r, which r that is, and its ``per_r``.

    ``per_r`` is 1 / length. Where none exceeds the least slope r is -1 and ``per_r`` 0.
    ``around`` is padded by `_farthest` on all sides.
    """
    pad = (around.shape[0] - depth_nm.shape[0]) // 2
    slope = jnp.full_like(depth_nm, _LEAST_SLOPE)
    at, per = jnp.full(depth_nm.shape, -1, jnp.int32), jnp.zeros_like(depth_nm)
    for r in range(len(per_nm)):
        wall = jax.lax.dynamic_slice(around, pad + steps[r], depth_nm.shape)
        new = (depth_nm - wall) * per_nm[r]
        at, per = jnp.where(new > slope, r, at), jnp.where(new > slope, per_nm[r], per)
        slope = jnp.maximum(slope, new)
    return slope, at, per


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _escapes(
    depth_nm: Float[Array, "y x"],
    walls_nm: Float[Array, "y x"],
    tan_tilt: Float[Array, ""],
    pixel_nm: Float[Array, ""],
    periodic: bool,
) -> tuple[Array, Array, Array]:
    """Sums over azimuths e of ``f``, ``e_y m`` and ``e_x m`` up to the horizon.

    f and m are the two of `_sector_integrals`.
    """
    ways = _ways(depth_nm.shape, depth_nm.dtype)
    around = _padded(walls_nm, _farthest(ways[1]), "wrap" if periodic else "edge")

    def add_azimuth(sums, azimuth):
        first, first_y, first_x = sums
        (e_y, e_x), steps, lengths_px = azimuth
        slope, _, _ = _horizon(depth_nm, around, steps, 1.0 / (lengths_px * pixel_nm))
        flux, moment = _sector_integrals(1.0 / slope, (tan_tilt * e_y, 1.0 + tan_tilt**2))
        return (first + flux, first_y + e_y * moment, first_x + e_x * moment), None

    # A scan and not a Python loop: 8 x 18 unrolled steps compile for long.
    return jax.lax.scan(add_azimuth, (jnp.zeros_like(depth_nm),) * 3, ways)[0]


def _escapes_forward(depth_nm, walls_nm, tan_tilt, pixel_nm, periodic):
    kept = (depth_nm, walls_nm, tan_tilt, pixel_nm)
    return _escapes(*kept, periodic), kept


def _escapes_backward(periodic, kept, cotangents):
    """Only the wall at the horizon counts: of the 18 slopes of an azimuth one has a cotangent.

    ``df/dq = q / Q^2`` and ``dm/dq = q^2 / Q^2``, the integrands. The tilt is one number for all
    pixels, so its derivative goes forward and ends in one sum.
    """
    depth_nm, walls_nm, tan_tilt, pixel_nm = kept
    to_first, to_y, to_x = cotangents
    shape = depth_nm.shape
    ways = _ways(shape, depth_nm.dtype)
    pad = _farthest(ways[1])
    mode = "wrap" if periodic else "edge"
    around = _padded(walls_nm, pad, mode)

    def one_azimuth(sums, azimuth):
        to_depth, to_tilt, to_pixel = sums
        (e_y, e_x), steps, lengths_px = azimuth
        slope, at, per = _horizon(depth_nm, around, steps, 1.0 / (lengths_px * pixel_nm))
        reach, to_moment = 1.0 / slope, e_y * to_y + e_x * to_x

        def integrals(tan_tilt):
            return _sector_integrals(reach, (tan_tilt * e_y, 1.0 + tan_tilt**2))

        one = jnp.ones_like(tan_tilt)
        _, (flux, moment) = jax.jvp(integrals, (tan_tilt,), (one,))
        to_tilt = to_tilt + flux * to_first + moment * to_moment
        big_q = (reach - 2.0 * tan_tilt * e_y) * reach + 1.0 + tan_tilt**2
        to_slope = -((reach / big_q) ** 2) * reach * (to_first + reach * to_moment)
        each = per * to_slope
        to_pixel = to_pixel + jnp.where(at < 0, 0.0, slope * to_slope)
        return (to_depth + each, to_tilt, to_pixel), (each, at)

    nothing = (jnp.zeros_like(depth_nm),) * 3
    (to_depth, to_tilt, to_pixel), (each, at) = jax.lax.scan(one_azimuth, nothing, ways)

    # A wall reads from all pixels that it may be the horizon of: a scatter would be slower. Images
    # that are not periodic have walls in their padding as well.
    margin = 0 if periodic else pad
    if periodic:
        each, at = _padded(each, pad, "wrap"), _padded(at, pad, "wrap")
    else:
        each = _padded(each, 2 * pad, "constant")
        at = jnp.pad(at, [(0, 0)] + [(2 * pad, 2 * pad)] * 2, constant_values=-1)
    size = tuple(n + 2 * margin for n in shape)

    def collect(total, azimuth):
        each, at, steps = azimuth
        for r in range(len(steps)):
            start = pad - steps[r]
            here = jax.lax.dynamic_slice(at, start, size) == r
            total = total - jnp.where(here, jax.lax.dynamic_slice(each, start, size), 0.0)
        return total, None

    start = jnp.zeros(size, each.dtype)
    to_walls, _ = jax.lax.scan(collect, start, (each, at, ways[1]))
    if not periodic:
        (to_walls,) = jax.linear_transpose(lambda w: _padded(w, pad, mode), walls_nm)(to_walls)
    return to_depth, to_walls, jnp.sum(to_tilt), -jnp.sum(to_pixel) / pixel_nm


_escapes.defvjp(_escapes_forward, _escapes_backward)


def openness(
    depth_nm: Float[Array, "y x"],
    walls_nm: Float[Array, "y x"],
    gradient: tuple[Array, Array],
    *,
    tan_tilt: Float[Array, ""],
    pixel_nm: Float[Array, ""],
    periodic: bool,
) -> Float[Array, "y x"]:
    """Share of cosine-law emission from each surface point that leaves between the walls.

    In each of 8 azimuths the horizon is the steepest line of sight to ``walls_nm``, the depth map
    around; emission above all horizons leaves. With n the surface's normal,
    ``open = (1/pi) sum over azimuths of int (n . (1, d))_+ / (1 + |d|^2)^2 u du`` up to the
    horizon (`_sector_integrals`), relative to the same sum for the face. In the middle of the
    floor of a round pore of radius r and depth h that is ``r^2 / (r^2 + h^2)``.

    Args:
        depth_nm: depth of the emitting surface.
        walls_nm: depth map of what stands around it.
        gradient: slope of the depth map in the beam's frame along y and x.
    """
    tan_tilt, pixel_nm = (jnp.asarray(v, depth_nm.dtype) for v in (tan_tilt, pixel_nm))
    first, first_y, first_x = _escapes(depth_nm, walls_nm, tan_tilt, pixel_nm, periodic)
    e_y = _ways(depth_nm.shape, depth_nm.dtype)[0][:, 0]
    lowest = jnp.full_like(e_y, 1.0 / _LEAST_SLOPE)
    whole = jnp.sum(_sector_integrals(lowest, (tan_tilt * e_y, 1.0 + tan_tilt**2))[0])
    first_y = first_y - tan_tilt * first
    up = 1.0 + tan_tilt * gradient[0]
    seen = up * first + gradient[0] * first_y + gradient[1] * first_x
    return jnp.clip(seen / (whole * _relative_secant(gradient, tan_tilt)), 0.0, 1.0)


def face_view(
    maps_nm: Float[Array, "2 y x"],
    face: Float[Array, "y x"],
    geometry: Geometry,
    *,
    periodic: bool,
) -> View:
    """`face_views` of one face, without the leading axis, from its maps of `lay_depth`."""
    tan_tilt = jnp.tan(jnp.deg2rad(geometry.tilt_deg))
    gradient = tuple(
        limited_gradient(maps_nm[0], axis=axis, periodic=periodic) / geometry.pixel_nm
        for axis in (-2, -1)
    )
    behind, walls = maps_nm / jnp.maximum(1.0 - face, _LEAST_OPEN)
    seen = openness(
        behind,
        maps_nm[0],
        gradient,
        tan_tilt=tan_tilt,
        pixel_nm=geometry.pixel_nm,
        periodic=periodic,
    )
    secant = _relative_secant(gradient, tan_tilt)
    return View(face=face, depth_nm=behind, walls_nm=walls, open=seen, secant=secant)


def face_views(layers: Layers, geometry: Geometry, *, periodic: bool) -> View:
    """Depth, walls, openness and incidence of the first surface behind every pixel of every face.

    With the depth map ``D(y, x)`` of the beam's frame, t the tangent of the tilt and
    ``up = 1 + t dD/dy``, the surface's normal is ``(up, dD/dy, dD/dx)`` and the secant of the
    incidence, relative to that on the face, is the length of that vector.
    """

    @jax.checkpoint
    def one_face(inputs):
        return face_view(*inputs, geometry, periodic=periodic)

    maps = depth_maps(layers, geometry, periodic=periodic)
    return jax.lax.map(one_face, (maps, layers.filled[:, 0]))
