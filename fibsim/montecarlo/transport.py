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
* **Fast secondaries** (an option): what an electron knocks on with more than 50 eV, or an atom
  sends out after it, is drawn from the spectra of `fast_secondaries`, and one of all of them is
  kept (reservoir sampling: the n-th takes the place with probability 1 / n). When the electron has
  ended, the lane follows the kept one with the statistical weight n, which keeps one of its own in
  turn. So the mean over all generations is exact, in the memory of one electron. What cannot come
  near a surface any more is not counted. The loss stays that of the stopping power: secondaries
  released along the path are fewer by what the fast ones carry away and release themselves.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from fibsim.montecarlo.detectors import KINDS, Windows
from fibsim.montecarlo.fast_secondaries import AUGER_NODES, NODES
from fibsim.montecarlo.random_bits import uniform
from fibsim.montecarlo.scattering import LOWEST_KEV, TransportTables, draw_row
from fibsim.montecarlo.scene import MOST_PHASES, Scene

__all__ = ["Beam", "Tally", "transport"]

# What a lane follows: nothing, a beam electron, a secondary of one, a secondary of one that ended.
_READY, _PRIMARY, _SECONDARY, _ORPHAN = range(4)
_SE, _BSE, _TRANSMITTED = range(len(KINDS))
_STEPS_PER_CHECK = 32
_DRAWS = 11  # random numbers per step
_FAST_SALT = 0x9E3779B9  # fast secondaries draw from keys of their own
_BLOCK = 2048  # lanes that advance together on a CPU
# Below a lowest layer that goes on, nothing comes back from deeper in the solid, or in a pore.
_GROUND_NM, _SHAFT_NM = 5000.0, 500.0
_LEVEL = (
    5e-3  # flatter flights are lowered to this slope: in a straight pore one could last forever
)


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
class _Fast:
    """Fast secondaries of the electron under way."""

    carried: Array  # statistical weight of the electron under way: 1 for one of the beam
    waiting: Array  # weight of all that it has knocked on
    kept: tuple[Array, ...]  # of the one kept: place, direction (z last), energy, deepest


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class _State:
    now: _Electron
    saved: tuple[Array, ...]  # place and direction of the beam electron whose secondary flies
    weight: Array  # of the secondary that flies
    left: Array
    current: Array  # (detector, lane) of the electron under way
    total: Array
    squares: Array
    keys: tuple[Array, Array]
    drawn: Array  # numbers that every lane has drawn
    steps: Array
    fast: _Fast | None  # None where they are not followed


# XLA's CPU backend computes a value anew in every array that needs it, all the way from the random
# numbers. A barrier stores it once; `transport` keeps the compiler from dropping the barriers.
_store = jax.lax.optimization_barrier


def _look_up(table: Array, index: Array) -> Array:
    """Entries of a flat table, apart from all else: loops with look-ups are not vectorised."""
    return _store(table.at[_store(index)].get(mode="promise_in_bounds"))


def _by_phase(values: Sequence, phase: Array) -> Array:
    """``values[phase]`` for few phases, by choices instead of memory."""
    out = values[0]
    for number, value in enumerate(values[1:], 1):
        out = jnp.where(phase == number, value, out)
    return jnp.broadcast_to(out, phase.shape)


def _wrap(position: Array, size: Array) -> Array:
    return position - jnp.floor(position * (1 / size)) * size


def _cell(scene: Scene, y: Array, x: Array, z: Array) -> tuple[Array, Array]:
    """Phase and clearance in nm at a point."""
    numbers = []
    for position, side, count, periodic in zip(
        (z, y, x), scene.voxel_nm, scene.shape, (False, scene.periodic, scene.periodic), strict=True
    ):
        if periodic:
            position = _wrap(position, count * side)
        numbers.append(jnp.clip((position * (1 / side)).astype(jnp.int32), 0, count - 1))
    k, j, i = numbers
    code = _look_up(scene.cells, (k * scene.shape[1] + j) * scene.shape[2] + i).astype(jnp.int32)
    clearance = (code // MOST_PHASES).astype(jnp.float32) * scene.clearance_nm
    return code % MOST_PHASES, clearance


def _falling(w: Array) -> Array:
    return jnp.where(jnp.abs(w) < _LEVEL, jnp.where(w < 0, -_LEVEL, _LEVEL), w)


def _to_border(scene: Scene, e: _Electron) -> Array:
    """Way to the border of the present voxel, and a little beyond."""
    way = jnp.full_like(e.z, jnp.inf)
    for position, direction, side in zip(
        (e.z, e.y, e.x), (_falling(e.w), e.v, e.u), scene.voxel_nm, strict=True
    ):
        inside = _wrap(position, side)
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
    # Rounding moves the length from 1 by so little that a Newton step restores it.
    norm = 1.5 - 0.5 * (u * u + v * v + w * w)
    return v * norm, u * norm, w * norm


def _fast_after(
    state: _State,
    scene: Scene,
    tables: TransportTables,
    beam: Beam,
    place: tuple[Array, Array, Array],
    cell: tuple[Array, Array],
    inside: Array,
    way: Array,
    row: Array,
) -> _Fast:
    """The lane's fast secondaries after a flight of length ``way``; a new one begins at ``place``.

    ``cell`` is the phase and clearance there, ``inside`` whether that is in the specimen, ``row``
    that of the electron's energy.
    """
    e, before = state.now, state.fast
    keys = (state.keys[0], state.keys[1] ^ jnp.uint32(_FAST_SALT))
    r_birth, r_kind, r_energy, r_azimuth, r_kept = (
        _store(uniform(keys, state.drawn + jnp.uint32(i))) for i in range(5)
    )
    phase, clearance = cell
    y, x, z = place
    rows = tables.attenuation.shape[1]
    at = phase * rows + row
    expected = _look_up(tables.fast.rate.reshape(-1), at) * way

    coordinate = r_energy * NODES
    node = jnp.minimum(coordinate.astype(jnp.int32), NODES - 1)
    part = coordinate - node

    def spectrum(table):
        start = at * (NODES + 1) + node
        low, high = _look_up(table.reshape(-1), start), _look_up(table.reshape(-1), start + 1)
        return low + part * (high - low)

    # What decided on the kind is uniform again below its bound.
    part_auger = _look_up(tables.fast.auger.reshape(-1), at)
    auger, again = r_kind < part_auger, r_kind / jnp.maximum(part_auger, 1e-12)
    line = jnp.minimum((r_energy * AUGER_NODES).astype(jnp.int32), AUGER_NODES - 1)
    auger_kev = _look_up(tables.fast.auger_kev.reshape(-1), at * AUGER_NODES + line)
    energy = _store(jnp.where(auger, auger_kev, 1 / spectrum(tables.fast.inverse_kev)))
    cosine = jnp.sqrt(spectrum(tables.fast.cosine_squared))
    cosine = _store(jnp.where(auger, 1 - 2 * again, cosine))
    sine = jnp.sqrt(jnp.maximum(1 - cosine * cosine, 0.0))
    sin_turn, cos_turn = _store(_circle(r_azimuth))
    v, u, w = _store(_turn(e, cosine, sine, cos_turn, sin_turn))

    # As for the beam electrons: without the range to a surface it is as good as absorbed.
    surface = jnp.minimum(clearance, z - beam.face_nm)
    if scene.open_below:
        surface = jnp.minimum(surface, scene.shape[0] * scene.voxel_nm[0] - z)
    above = draw_row(energy, jnp.ones_like(energy))
    range_nm = _look_up(tables.range_nm.reshape(-1), phase * rows + above)
    reaches = range_nm + 4 * _by_phase(tables.se_escape_nm, phase) >= surface
    born = inside & (r_birth < expected) & reaches
    weight = jnp.where(born, jnp.maximum(expected, 1.0) * before.carried, 0.0)
    waiting = before.waiting + weight
    taken = born & (r_kept * waiting < weight)
    new = (y, x, z, v, u, w, energy, e.deepest)
    return _store(
        _Fast(
            carried=before.carried,
            waiting=waiting,
            kept=tuple(jnp.where(taken, a, b) for a, b in zip(new, before.kept, strict=True)),
        )
    )


def _step(
    state: _State, scene: Scene, tables: TransportTables, windows: Windows, beam: Beam
) -> _State:
    (r_path, r_accept, r_first, r_second, r_third, r_row, r_turn, r_release, r_along, r_cosine,
     r_azimuth) = (
        _store(uniform(state.keys, state.drawn + jnp.uint32(i))) for i in range(_DRAWS)
    )  # fmt: skip
    e = state.now
    sin_tilt, cos_tilt = jnp.sin(beam.tilt), jnp.cos(beam.tilt)
    depth = scene.shape[0] * scene.voxel_nm[0]

    # A lane whose electron has ended books it and launches its next one, which flies from the
    # next iteration on, so both may use the same random numbers.
    idle = e.mode == _READY
    launch = idle & (state.left > 0)
    fast = state.fast
    if fast is not None:  # the one kept comes first
        resume_kept = idle & (fast.waiting > 0)
        launch = launch & ~resume_kept
    booked = jnp.where(launch, state.current, 0.0)
    total = state.total + booked
    squares = state.squares + booked * booked
    current = jnp.where(launch, 0.0, state.current)
    left = state.left - launch.astype(state.left.dtype)
    log_path = _store(jnp.log(r_path))
    sin_turn, cos_turn = _store(_circle(r_turn))
    radius = beam.probe_nm * jnp.sqrt(-2 * log_path)
    entry = (
        beam.y_nm + (r_first - 0.5) * beam.pixel_nm + radius * sin_turn,
        beam.x_nm + (r_row - 0.5) * beam.pixel_nm + radius * cos_turn,
        beam.face_nm + 1e-4, sin_tilt, 0.0, cos_tilt,
    )  # fmt: skip
    primary, secondary = e.mode == _PRIMARY, e.mode >= _SECONDARY

    # Flight.
    rows = tables.attenuation.shape[1]
    row = draw_row(e.energy, r_row)
    phase, clearance = _store(_cell(scene, e.y, e.x, e.z))
    attenuations = [
        jnp.zeros_like(e.z) if vacuum else _look_up(tables.attenuation[number], row)
        for number, vacuum in enumerate(tables.vacuum)
    ]
    stopping = _look_up(tables.stopping.reshape(-1), phase * rows + row)
    range_nm = _look_up(tables.range_nm.reshape(-1), phase * rows + row)
    here = _by_phase(attenuations, phase)
    largest = functools.reduce(jnp.maximum, attenuations)
    void = _by_phase(tables.vacuum, phase)
    inside = clearance > 0
    # Well inside a phase its own attenuation will do, up to the clearance.
    assumed = jnp.where(inside, here, largest)
    free = -log_path / jnp.maximum(assumed, 1e-12)
    straight = jnp.where(inside, clearance, _to_border(scene, e))
    limit = jnp.where(inside & (here < largest), clearance, jnp.inf)
    way = jnp.where(void | secondary, straight, jnp.minimum(free, limit))
    stopped = ~void & (free <= limit)
    way, stopped, assumed, void = _store((way, stopped, assumed, void))
    y, x, z = _store((e.y + way * e.v, e.x + way * e.u, e.z + way * _falling(e.w)))
    above = z < beam.face_nm
    below = z > depth + (0.0 if scene.open_below else jnp.where(void, _SHAFT_NM, _GROUND_NM))
    next_phase, _ = _cell(scene, y, x, z)
    next_void = below | _by_phase(tables.vacuum, next_phase)

    # Loss along what of the flight lay in the solid: half of it where it ends outside.
    same = (next_phase == phase) & ~above
    loss = jnp.where(primary & ~void, stopping * way, 0.0) * jnp.where(same, 1.0, 0.5)
    energy = e.energy - loss
    deepest = jnp.where(primary, jnp.maximum(e.deepest, z - beam.face_nm), e.deepest)

    # Elastic collision.
    accepted = r_accept * assumed < _by_phase(attenuations, next_phase)
    collides = primary & stopped & ~above & ~next_void & accepted
    # The table's grid is such that 1 - (coordinate) is the cube root of a uniform number, which
    # the largest of three is, too.
    nodes = tables.sine_half.shape[-1]
    coordinate = (1.0 - jnp.maximum(r_first, jnp.maximum(r_second, r_third))) * (nodes - 1)
    node = jnp.minimum(coordinate.astype(jnp.int32), nodes - 2)
    angles = tables.sine_half.reshape(-1)
    start = (next_phase * rows + row) * nodes + node
    low, high = _look_up(angles, start), _look_up(angles, start + 1)
    half = low + (coordinate - node) * (high - low)
    cosine, sine = _store(
        (1 - 2 * half * half, 2 * half * jnp.sqrt(jnp.maximum(1 - half * half, 0.0)))
    )
    turned = _turn(e, cosine, sine, cos_turn, sin_turn)
    v, u, w = (
        jnp.where(collides, new, old) for new, old in zip(turned, (e.v, e.u, e.w), strict=True)
    )
    v, u, w, loss, energy, deepest, same, above, below, next_void = _store(
        (v, u, w, loss, energy, deepest, same, above, below, next_void)
    )

    # Where the electron's journey ends.
    surface = jnp.minimum(clearance, e.z - beam.face_nm)
    if scene.open_below:
        surface = jnp.minimum(surface, depth - e.z)
    escape_nm = _by_phase(tables.se_escape_nm, phase)
    lost = ~void & (range_nm + 4 * escape_nm < surface)
    absorbed = primary & ~above & ~below & ((energy < LOWEST_KEV) | lost)
    taken_up = secondary & ~above & (~next_void | below)
    ended = (primary & (above | below)) | absorbed | (secondary & above) | taken_up
    ended = _store(ended)

    # Tally: whatever leaves is one of three kinds.
    towards = -(e.v * sin_tilt + e.w * cos_tilt)  # cosine to the way back up the beam
    kind = jnp.where(secondary, _SE, jnp.where(above, _BSE, _TRANSMITTED))
    awake = primary & (above | (below & scene.open_below)) & (energy >= LOWEST_KEV)
    leaving = jnp.where(secondary & above, state.weight, awake.astype(jnp.float32))
    if fast is not None:
        leaving = jnp.where(awake, fast.carried, leaving)
    towards = jnp.where(kind == _TRANSMITTED, jnp.abs(towards), towards)
    kind, leaving, towards = _store((kind, leaving, towards))

    # A secondary released on this flight.
    expected = loss * _by_phase(tables.se_per_kev, phase)
    weight = jnp.maximum(expected, 1.0)
    sy, sx, sz = _store(
        tuple(at + r_along * way * along for at, along in ((e.y, e.v), (e.x, e.u), (e.z, e.w)))
    )
    s_phase, s_clearance = _cell(scene, sy, sx, sz)
    s_energy = energy
    if fast is None:
        released = (r_release < expected) & (s_phase == phase) & (sz >= beam.face_nm)
    else:
        # By what the electron meets at that very place, less what fast ones carry: these often end
        # or leave on their first flight, for which half the loss of the whole is too rough.
        s_at = s_phase * rows + row
        share = _look_up(tables.fast.share.reshape(-1), s_at)
        released_kev = _look_up(tables.stopping.reshape(-1), s_at) * way * (1 - share)
        expected = released_kev * _by_phase(tables.se_per_kev, s_phase)
        s_inside = primary & ~void & (sz >= beam.face_nm) & ((sz <= depth) | (not scene.open_below))
        weight = jnp.maximum(expected, 1.0) * fast.carried
        escape_nm = _by_phase(tables.se_escape_nm, s_phase)
        s_energy = jnp.maximum(energy, 0.0)  # a last flight ends below
        after = _fast_after(
            state, scene, tables, beam, (sy, sx, sz), (s_phase, s_clearance), s_inside, way, row
        )
        released = (r_release < expected) & s_inside
    sv, su, sw = _store(_isotropic(r_cosine, r_azimuth))
    # The number that decided on the release is uniform again below its bound.
    fresh = jnp.clip(r_release / jnp.maximum(jnp.minimum(expected, 1.0), 1e-12), 1e-7, 1.0)
    escape = -escape_nm * jnp.log(fresh)
    ty, tx, tz = _store((sy + escape * sv, sx + escape * su, sz + escape * sw))
    t_phase, _ = _cell(scene, ty, tx, tz)
    out = released & (tz < beam.face_nm)
    into_pore = released & ~out & _by_phase(tables.vacuum, t_phase)
    s_leaving, s_towards = jnp.where(out, weight, 0.0), -(sv * sin_tilt + sw * cos_tilt)
    into_pore, s_leaving, s_towards = _store((into_pore, s_leaving, s_towards))
    current = (
        current
        + leaving * windows.counts(kind, energy, towards, deepest)
        + s_leaving * windows.counts(_SE, s_energy, s_towards, deepest)
    )

    if scene.periodic:
        sides = [n * side for n, side in zip(scene.shape, scene.voxel_nm, strict=True)]
        y, x, ty, tx = (_wrap(p, sides[axis]) for p, axis in ((y, 1), (x, 2), (ty, 1), (tx, 2)))
    # After a secondary its beam electron goes on from where it was.
    resumes = secondary & ended
    mode = jnp.where(ended, jnp.where(e.mode == _SECONDARY, _PRIMARY, _READY), e.mode)
    flies = jnp.where(mode == _READY, _ORPHAN, _SECONDARY)
    mode = jnp.where(idle, jnp.where(launch, _PRIMARY, _READY), mode)
    mode = jnp.where(into_pore, flies, mode)
    old = (e.y, e.x, e.z, e.v, e.u, e.w)
    if fast is not None:
        mode = jnp.where(resume_kept, _PRIMARY, mode)
        *kept, kept_energy, kept_deepest = fast.kept
        old = tuple(jnp.where(resume_kept, a, b) for a, b in zip(kept, old, strict=True))
        energy = jnp.where(resume_kept, kept_energy, energy)  # none is below 50 eV
        deepest = jnp.where(resume_kept, kept_deepest, deepest)
        carried = jnp.where(resume_kept, fast.waiting, fast.carried)
        fast = dataclasses.replace(
            after,
            carried=jnp.where(launch, 1.0, carried),
            waiting=jnp.where(resume_kept, 0.0, after.waiting),
        )

    def place(entry, old, moved, saved, secondary):
        moved = jnp.where(idle, jnp.where(launch, entry, old), jnp.where(resumes, saved, moved))
        return jnp.where(into_pore, secondary, moved)

    moved = (y, x, z, v, u, w)
    now = map(place, entry, old, moved, state.saved, (ty, tx, tz, sv, su, sw))
    y, x, z, v, u, w = now
    return _State(
        now=_Electron(
            y=y, x=x, z=z, v=v, u=u, w=w,
            energy=jnp.where(launch, beam.energy_kev, jnp.maximum(energy, 1e-3)),
            deepest=jnp.where(launch, 0.0, deepest),
            mode=mode,
        ),
        saved=tuple(
            jnp.where(into_pore, here, before)
            for here, before in zip(moved, state.saved, strict=True)
        ),
        weight=jnp.where(into_pore, weight, state.weight),
        left=left,
        current=current,
        total=total,
        squares=squares,
        keys=state.keys,
        drawn=state.drawn + jnp.uint32(_DRAWS),
        steps=state.steps + jnp.sum(~idle, dtype=state.steps.dtype),
        fast=fast,
    )  # fmt: skip


def transport(
    scene: Scene,
    tables: TransportTables,
    windows: Windows,
    beam: Beam,
    *,
    keys: tuple[UInt32[Array, " lane"], UInt32[Array, " lane"]],
    electrons: Int[Array, ""] | int,
) -> Tally:
    """Send ``electrons`` through every lane's pixel and count what leaves.

    ``keys`` are those of the lanes' random numbers (`random_bits.seed_lanes`).

    On a CPU lanes advance in blocks that fit its cache, and those with electrons left are gathered
    into few blocks as others finish. Which block a lane is in does not change its result.
    Memory: about 150 bytes per lane, whatever the number of electrons; 40 more to follow fast
    secondaries.
    """
    lanes = beam.y_nm.shape[0]
    platform = jax.default_backend()
    block = min(_BLOCK, lanes) if platform == "cpu" else lanes
    compiled = _compiled(platform)
    return compiled(scene, tables, windows, beam, keys=keys, electrons=electrons, block=block)


@functools.cache
def _compiled(platform: str) -> Callable[..., Tally]:
    """`_transport`, compiled such that ``_store`` works on a CPU."""
    options = {"xla_disable_hlo_passes": "cse_barrier_expander"} if platform == "cpu" else None
    return jax.jit(_transport, static_argnames="block", compiler_options=options)


def _transport(scene, tables, windows, beam, *, keys, electrons, block) -> Tally:
    lanes = beam.y_nm.shape[0]
    blocks = -(-lanes // block)
    block = -(-lanes // blocks)
    spare = blocks * block - lanes
    zero = jnp.zeros(lanes + spare, jnp.float32)
    counts = jnp.zeros((windows.kind.shape[0], lanes + spare), jnp.float32)
    left = jnp.full(lanes + spare, electrons, jnp.int32).at[lanes:].set(0)
    state = _State(
        now=_Electron(
            y=zero, x=zero, z=zero, v=zero, u=zero, w=zero + 1, energy=zero + 1, deepest=zero,
            mode=jnp.full_like(left, _READY),
        ),
        saved=(zero,) * 6,
        weight=zero,
        left=left,
        current=counts,
        total=counts,
        squares=counts,
        keys=tuple(jnp.pad(part, (0, spare)) for part in keys),
        drawn=jnp.zeros((), jnp.uint32),
        steps=jnp.zeros((), jnp.int32),
        fast=None if tables.fast is None else _Fast(
            carried=zero, waiting=zero, kept=(zero,) * 8
        ),
    )  # fmt: skip
    entry = [jnp.pad(at, (0, spare)) for at in (beam.y_nm, beam.x_nm, beam.face_nm)]
    # Whose lane it is moves along when busy lanes are gathered.
    work = (state, entry, jnp.arange(lanes + spare))

    def advance(state, entry):
        at = dict(zip(("y_nm", "x_nm", "face_nm"), entry, strict=True))
        here = dataclasses.replace(beam, **at)
        return jax.lax.fori_loop(
            0, _STEPS_PER_CHECK, lambda _, s: _step(s, scene, tables, windows, here), state
        )

    def advance_block(number, work):
        state, entry, owner = work
        cut = functools.partial(
            jax.lax.dynamic_slice_in_dim, start_index=number * block, slice_size=block, axis=-1
        )
        paste = functools.partial(
            jax.lax.dynamic_update_slice_in_dim, start_index=number * block, axis=-1
        )
        part = jax.tree.map(lambda leaf: cut(leaf) if leaf.ndim else leaf, state)
        after = advance(part, [cut(at) for at in entry])
        after = dataclasses.replace(after, drawn=state.drawn)  # blocks draw the same numbers
        state = jax.tree.map(lambda old, new: paste(old, new) if old.ndim else new, state, after)
        return state, entry, owner

    def gather_busy(work):
        order = jnp.argsort(~_busy(work[0]))
        return jax.tree.map(lambda leaf: leaf[..., order] if leaf.ndim else leaf, work)

    def advance_all(carry):
        work, occupied = carry
        needed = -(-jnp.sum(_busy(work[0]), dtype=jnp.int32) // block)
        work = jax.lax.cond(needed < occupied, gather_busy, lambda work: work, work)
        state, entry, owner = jax.lax.fori_loop(0, needed, advance_block, work)
        drawn = state.drawn + jnp.uint32(_STEPS_PER_CHECK * _DRAWS)
        return (dataclasses.replace(state, drawn=drawn), entry, owner), needed

    (state, _, owner), _ = jax.lax.while_loop(
        lambda carry: jnp.any(_busy(carry[0][0])), advance_all, (work, jnp.int32(blocks))
    )
    place = jnp.argsort(owner)[:lanes]
    return Tally(
        total=(state.total + state.current)[:, place],
        squares=(state.squares + state.current**2)[:, place],
        steps=state.steps,
    )


def _busy(state: _State) -> Array:
    busy = (state.left > 0) | (state.now.mode != _READY)
    return busy if state.fast is None else busy | (state.fast.waiting > 0)
