"""The transport kernel: many electrons at once through voxels, one step of each per iteration.

Single scattering with continuous loss (Joy 1995, *Monte Carlo Modeling for Electron Microscopy and
Microanalysis*). A lane is one pixel; it sends its electrons one after the other, so that lanes
finish at nearly the same time and tallies need no scattering of memory.

* **Solid**: free path ``-ln(u) / Sigma`` with Sigma the largest attenuation of all phases, and a
  collision only if a second number falls below the local one's share (delta tracking; Woodcock
  1965): exact whatever phases the flight crosses.
* **Void**: straight on by the clearance, or to the voxel's border where a wall may follow.
* **Loss**: stopping power times the path in the solid; below 50 eV, or with less range left than
  the nearest surface is away, an electron is absorbed.
* **Secondaries**: released along the path in proportion to the loss, isotropic, attenuated
  exponentially on the way to the surface; in a pore they fly straight until they leave through
  the face or meet a wall, which takes them up.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fibsim.montecarlo.detectors import KINDS, Windows
from fibsim.montecarlo.random_bits import seed_lanes, uniform
from fibsim.montecarlo.scattering import LN_HIGHEST, LN_LOWEST, LOWEST_KEV, TransportTables
from fibsim.montecarlo.scene import MOST_PHASES, Scene

__all__ = ["Beam", "Tally", "transport"]

_READY, _PRIMARY, _SECONDARY = 0, 1, 2
_SE, _BSE, _TRANSMITTED = range(len(KINDS))
_STEPS_PER_CHECK = 32
_GROUND_NM = 5000.0  # below a lowest layer that goes on, nothing comes back from deeper


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Beam:
    """Where and how the electrons of every lane enter.

    Attributes:
        y_nm, x_nm: centre of the lane's pixel; ``(lane,)``.
        face_nm: depth of the milled face that the lane images; ``(lane,)``.
        energy_kev, pixel_nm, probe_nm: energy, pixel side, standard deviation of the probe.
        tilt: angle to the face's normal in radian; the beam leans towards +y.
    """

    y_nm: Float[Array, " lane"]
    x_nm: Float[Array, " lane"]
    face_nm: Float[Array, " lane"]
    energy_kev: Float[Array, ""]
    pixel_nm: Float[Array, ""]
    probe_nm: Float[Array, ""]
    tilt: Float[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Tally:
    """Sums over a lane's electrons of what each detector counted, and of its square."""

    total: Float[Array, "detector lane"]
    squares: Float[Array, "detector lane"]
    steps: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class _Electron:
    y: Array
    x: Array
    z: Array
    v: Array  # direction along y
    u: Array  # along x
    w: Array  # along z, downwards
    energy: Array
    deepest: Array
    mode: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class _State:
    now: _Electron
    saved: _Electron  # the beam electron, while a secondary of its flies
    weight: Array  # of the secondary that flies
    left: Array
    current: Array  # (detector, lane) of the electron under way
    total: Array
    squares: Array
    random: tuple[Array, ...]
    steps: Array


def _choose(condition: Array, yes: _Electron, no: _Electron) -> _Electron:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _wrap(position: Array, scene: Scene, axis: int) -> Array:
    size = scene.shape[axis] * scene.voxel_nm[axis]
    return position - jnp.floor(position / size) * size


def _cell(scene: Scene, y: Array, x: Array, z: Array) -> tuple[Array, Array]:
    """Phase and clearance in nm at a point."""
    nz, ny, nx = scene.shape
    k = jnp.clip(jnp.floor(z / scene.voxel_nm[0]).astype(jnp.int32), 0, nz - 1)
    j = jnp.floor(y / scene.voxel_nm[1]).astype(jnp.int32)
    i = jnp.floor(x / scene.voxel_nm[2]).astype(jnp.int32)
    # Points have been wrapped to within one period already, but may lie past it by one step.
    if scene.periodic:
        j, i = j % ny, i % nx
    else:
        j, i = jnp.clip(j, 0, ny - 1), jnp.clip(i, 0, nx - 1)
    code = scene.cells[(k * ny + j) * nx + i].astype(jnp.int32)
    return code % MOST_PHASES, (code // MOST_PHASES).astype(jnp.float32) * scene.clearance_nm


def _to_border(scene: Scene, e: _Electron) -> Array:
    """Way to the border of the present voxel, and a little beyond."""
    way = jnp.full_like(e.z, jnp.inf)
    for position, direction, side in zip(
        (e.z, e.y, e.x), (e.w, e.v, e.u), scene.voxel_nm, strict=True
    ):
        inside = position - jnp.floor(position / side) * side
        ahead = jnp.where(direction > 0, side - inside, inside)
        way = jnp.minimum(way, ahead / jnp.maximum(jnp.abs(direction), 1e-6))
    return way + 2e-3 * scene.voxel_nm[0]


def _circle(turn: Array) -> tuple[Array, Array]:
    """Sine and cosine of a turn in 0..1, up to half a turn's offset; within 1e-6.

    Taylor series of half the angle: library sines are ten times slower, and an offset does not
    matter for random angles.
    """
    t = jnp.pi * (turn - 0.5)
    q = t * t
    sine = t * (1 - q / 6 * (1 - q / 20 * (1 - q / 42 * (1 - q / 72 * (1 - q / 110)))))
    cosine = 1 - q / 2 * (1 - q / 12 * (1 - q / 30 * (1 - q / 56 * (1 - q / 90 * (1 - q / 132)))))
    return 2 * sine * cosine, 1 - 2 * sine * sine


def _isotropic(first: Array, second: Array) -> tuple[Array, Array, Array]:
    w = 1 - 2 * first
    across = jnp.sqrt(jnp.maximum(1 - w * w, 0.0))
    sine, cosine = _circle(second)
    return across * sine, across * cosine, w


def _turn(
    e: _Electron, cosine: Array, sine: Array, cos_a: Array, sin_a: Array
) -> tuple[Array, Array, Array]:
    """Direction after scattering by an angle about the present direction."""
    # Stable frame for any direction (Duff et al. 2017, Journal of Computer Graphics Techniques).
    sign = jnp.where(e.w >= 0, 1.0, -1.0)
    a = -1.0 / (sign + e.w)
    b = e.u * e.v * a
    first = (1.0 + sign * e.u * e.u * a, sign * b, -sign * e.u)  # x, y, z
    second = (b, sign + e.v * e.v * a, -e.v)
    u, v, w = (
        sine * (cos_a * p + sin_a * q) + cosine * d
        for p, q, d in zip(first, second, (e.u, e.v, e.w), strict=True)
    )
    norm = jax.lax.rsqrt(u * u + v * v + w * w)
    return v * norm, u * norm, w * norm


def _step(
    state: _State, scene: Scene, tables: TransportTables, windows: Windows, beam: Beam
) -> _State:
    random, draws = state.random, []
    for _ in range(9):
        random, number = uniform(random)
        draws.append(number)
    r0, r1, r2, r3, r4, r5, r6, r7, r8 = draws
    e = state.now
    cos = jnp.cos(beam.tilt)
    depth = scene.shape[0] * scene.voxel_nm[0]
    rows = tables.attenuation.shape[1]
    scale = (rows - 1) / (LN_HIGHEST - LN_LOWEST)

    # A lane whose electron has ended books it and launches its next one, which flies from the
    # next iteration on, so both may use the same random numbers.
    launch = (e.mode == _READY) & (state.left > 0)
    booked = jnp.where(launch, state.current, 0.0)
    total = state.total + booked
    squares = state.squares + booked * booked
    current = jnp.where(launch, 0.0, state.current)
    left = state.left - launch.astype(state.left.dtype)
    log_r0 = jnp.log(r0)
    sin_r4, cos_r4 = _circle(r4)
    radius = beam.probe_nm * jnp.sqrt(-2 * log_r0)
    entry = _Electron(
        y=beam.y_nm + (r2 - 0.5) * beam.pixel_nm + radius * sin_r4,
        x=beam.x_nm + (r3 - 0.5) * beam.pixel_nm + radius * cos_r4,
        z=beam.face_nm + 1e-4,
        v=jnp.sin(beam.tilt) * jnp.ones_like(e.v),
        u=jnp.zeros_like(e.u),
        w=cos * jnp.ones_like(e.w),
        energy=beam.energy_kev * jnp.ones_like(e.energy),
        deepest=jnp.zeros_like(e.deepest),
        mode=jnp.full_like(e.mode, _PRIMARY),
    )
    if scene.periodic:
        e = dataclasses.replace(e, y=_wrap(e.y, scene, 1), x=_wrap(e.x, scene, 2))
    primary, secondary = e.mode == _PRIMARY, e.mode == _SECONDARY

    # Flight.
    phase, clearance = _cell(scene, e.y, e.x, e.z)
    position = jnp.clip((jnp.log(e.energy) - LN_LOWEST) * scale, 0.0, rows - 1.001)
    row = position.astype(jnp.int32)
    part = position - row

    def look_up(table, index):
        flat = table.reshape(-1)
        low = flat[index * rows + row]
        return low + part * (flat[index * rows + row + 1] - low)

    here = look_up(tables.attenuation, phase)
    largest = look_up(tables.largest, 0)
    void = here <= 0
    inside = clearance > 0
    # Well inside a phase its own attenuation will do, up to the clearance.
    assumed = jnp.where(inside, here, largest)
    free = -log_r0 / jnp.maximum(assumed, 1e-12)
    straight = jnp.where(inside, clearance, _to_border(scene, e))
    limit = jnp.where(inside & (here < largest), clearance, jnp.inf)
    way = jnp.where(void | secondary, straight, jnp.minimum(free, limit))
    stopped = ~void & (free <= limit)
    y, x, z = e.y + way * e.v, e.x + way * e.u, e.z + way * e.w
    above = z < beam.face_nm
    below = z > depth + (0.0 if scene.open_below else _GROUND_NM)
    next_phase, _ = _cell(scene, y, x, z)
    next_attenuation = jnp.where(below, 0.0, look_up(tables.attenuation, next_phase))
    next_void = next_attenuation <= 0

    # Loss along what of the flight lay in the solid: half of it where it ends outside.
    same = (next_phase == phase) & ~above
    loss = jnp.where(primary & ~void, look_up(tables.stopping, phase) * way, 0.0)
    loss = loss * jnp.where(same, 1.0, 0.5)
    energy = e.energy - loss
    deepest = jnp.maximum(e.deepest, z - beam.face_nm)

    # Elastic collision.
    collides = primary & stopped & ~above & (r1 * assumed < next_attenuation)
    nodes = tables.sine_half.shape[-1]
    coordinate = (1.0 - jnp.exp(jnp.log(1.0 - r2) / 3)) * (nodes - 1)  # cbrt is not vectorised
    node = jnp.minimum(coordinate.astype(jnp.int32), nodes - 2)
    # One of the two neighbouring energies, in proportion to their nearness.
    angle_row = row + (r3 < part)
    flat = tables.sine_half.reshape(-1)
    start = (next_phase * rows + angle_row) * nodes + node
    half = flat[start] + (coordinate - node) * (flat[start + 1] - flat[start])
    cosine, sine = 1 - 2 * half * half, 2 * half * jnp.sqrt(jnp.maximum(1 - half * half, 0.0))
    v, u, w = _turn(e, cosine, sine, cos_r4, sin_r4)
    v, u, w = (jnp.where(collides, new, old) for new, old in ((v, e.v), (u, e.u), (w, e.w)))

    # Where the electron's journey ends.
    surface = jnp.minimum(clearance, e.z - beam.face_nm)
    if scene.open_below:
        surface = jnp.minimum(surface, depth - e.z)
    reach = look_up(tables.range_nm, phase) + 4 * tables.se_escape_nm[phase]
    lost = ~void & (reach < surface)
    absorbed = primary & ~above & ~below & ((energy < LOWEST_KEV) | lost)
    taken_up = secondary & ~above & (~next_void | below)
    ended = (primary & (above | below)) | absorbed | (secondary & above) | taken_up

    # Tally.
    towards = -(e.v * jnp.sin(beam.tilt) + e.w * cos)  # cosine to the way back up the beam
    awake = energy >= LOWEST_KEV
    for kind, leaves in (
        (_BSE, primary & above & awake),
        (_TRANSMITTED, primary & below & awake & scene.open_below),
    ):
        seen = windows.counts(
            kind, energy, jnp.abs(towards) if kind == _TRANSMITTED else towards, deepest
        )
        current = current + jnp.where(leaves, seen, 0.0)
    seen = windows.counts(_SE, energy, towards, deepest)
    current = current + jnp.where(secondary & above, state.weight * seen, 0.0)

    # A secondary released on this flight.
    expected = loss * tables.se_per_kev[phase]
    released = (r5 < expected) & (expected > 0)
    weight = jnp.maximum(expected, 1.0)
    sy, sx, sz = e.y + r6 * way * e.v, e.x + r6 * way * e.u, e.z + r6 * way * e.w
    s_phase, _ = _cell(scene, sy, sx, sz)
    released = released & (s_phase == phase) & (sz >= beam.face_nm)
    sv, su, sw = _isotropic(r7, r8)
    # The escape length needs a number of its own; r1 and r4 are spent, but r5 below its bound is
    # uniform again.
    fresh = jnp.clip(r5 / jnp.maximum(jnp.minimum(expected, 1.0), 1e-12), 1e-7, 1.0)
    escape = -tables.se_escape_nm[phase] * jnp.log(fresh)
    ty, tx, tz = sy + escape * sv, sx + escape * su, sz + escape * sw
    t_phase, _ = _cell(scene, ty, tx, tz)
    t_void = tables.attenuation[t_phase, 0] <= 0
    out = released & (tz < beam.face_nm)
    s_towards = -(sv * jnp.sin(beam.tilt) + sw * cos)
    seen = windows.counts(_SE, energy, s_towards, deepest)
    current = current + jnp.where(out, weight * seen, 0.0)
    into_pore = released & ~out & t_void

    moved = _Electron(
        y=y, x=x, z=z, v=v, u=u, w=w, energy=jnp.maximum(energy, 1e-3), deepest=deepest,
        mode=jnp.where(ended, _READY, e.mode),
    )  # fmt: skip
    idle = e.mode == _READY
    moved = _choose(idle, _choose(launch, entry, e), moved)
    # After a secondary its beam electron goes on from where it was.
    resumes = secondary & ended
    after = _choose(resumes, state.saved, moved)
    flies = _Electron(
        y=ty, x=tx, z=tz, v=sv, u=su, w=sw, energy=e.energy, deepest=deepest,
        mode=jnp.full_like(e.mode, _SECONDARY),
    )  # fmt: skip
    return _State(
        now=_choose(into_pore, flies, after),
        saved=_choose(into_pore, moved, state.saved),
        weight=jnp.where(into_pore, weight, state.weight),
        left=left,
        current=current,
        total=total,
        squares=squares,
        random=random,
        steps=state.steps + jnp.sum(~idle, dtype=state.steps.dtype),
    )


@jax.jit
def transport(
    scene: Scene,
    tables: TransportTables,
    windows: Windows,
    beam: Beam,
    *,
    key: jax.Array,
    electrons: Int[Array, ""] | int,
) -> Tally:
    """Send ``electrons`` through every lane's pixel and count what leaves.

    Memory: about 150 bytes per lane, whatever the number of electrons.
    """
    lanes = beam.y_nm.shape[0]
    zero = jnp.zeros(lanes, jnp.float32)
    nothing = _Electron(
        y=zero, x=zero, z=zero, v=zero, u=zero, w=zero + 1, energy=zero + 1, deepest=zero,
        mode=jnp.full(lanes, _READY, jnp.int32),
    )  # fmt: skip
    counts = jnp.zeros((windows.kind.shape[0], lanes), jnp.float32)
    state = _State(
        now=nothing,
        saved=nothing,
        weight=zero,
        left=jnp.full(lanes, electrons, jnp.int32),
        current=counts,
        total=counts,
        squares=counts,
        random=seed_lanes(key, lanes),
        steps=jnp.zeros((), jnp.int32),
    )

    def busy(state):
        return jnp.any((state.left > 0) | (state.now.mode != _READY))

    def advance(state):
        return jax.lax.fori_loop(
            0, _STEPS_PER_CHECK, lambda _, s: _step(s, scene, tables, windows, beam), state
        )

    state = jax.lax.while_loop(busy, advance, state)
    return Tally(
        total=state.total + state.current,
        squares=state.squares + state.current**2,
        steps=state.steps,
    )
