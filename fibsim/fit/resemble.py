"""Which generator of specimens resembles a segmented volume, and with which parameters.

Serves the fit, whose volume is what is bright, and `fibnet.alternate`, whose volume is segmented.
Draws of every kind are compared with the volume by what can be counted in both: the solid fraction,
the two-point correlation along all axes, and how long straight lines stay in the solid and in the
pores (chords; Torquato 2002, Random Heterogeneous Materials, doi 10.1007/978-1-4757-6355-3).
Nothing is imaged, so that this takes seconds per kind.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Bool

from fibsim.errors import InputError
from fibsim.fit.first_guess import half_width
from fibsim.fit.unknowns import from_free, specimen_unknowns, to_free
from fibsim.specimens import KINDS, make
from fibsim.threads import map_in_threads

__all__ = ["Counted", "Resemblance", "count", "difference", "resembling_kinds"]

# Drawn and compared at most: what is larger adds time and nothing else.
_LARGEST = (40, 112, 112)
# Drawn at least, also for a single slice, or coarse structures would not fit in.
_SHALLOWEST = 24
_EVALUATIONS_PER_PARAMETER = 14
_BINS = 24
# A draw that a kind cannot make is worse than any that it can.
_IMPOSSIBLE = 10.0


@dataclasses.dataclass(frozen=True)
class Counted:
    """What is counted in a volume.

    Attributes:
        solid_fraction: of all voxels.
        correlation: ``(<s(r) s(r + h)> - f^2) / (f - f^2)`` at steps h along z, y and x.
        solid_chords, pore_chords: share of the chords along y and x that are no longer than each
            of the edges.
    """

    solid_fraction: float
    correlation: np.ndarray
    solid_chords: np.ndarray
    pore_chords: np.ndarray


@dataclasses.dataclass(frozen=True)
class Resemblance:
    """How close the best draws of a kind come.

    Attributes:
        kind: name in `fibsim.specimens.KINDS`.
        parameters: of its best draws.
        distance: `difference` to the volume.
        chance: `difference` between two draws with these parameters: no kind comes closer, save
            by luck.
    """

    kind: str
    parameters: dict[str, float]
    distance: float
    chance: float


def _chords(label: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Cumulative distribution of the lengths of whole runs of ones along the last axis."""
    lines = np.pad(label.reshape(-1, label.shape[-1]).astype(np.int8), ((0, 0), (1, 1)))
    step = np.diff(lines, axis=1)
    begin, end = np.nonzero(step == 1), np.nonzero(step == -1)
    whole = (begin[1] > 0) & (end[1] < label.shape[-1])  # a run cut by the border is of no length
    length = np.sort((end[1] - begin[1])[whole])
    return np.searchsorted(length, edges, side="right") / max(len(length), 1)


def _correlation(label: np.ndarray, axis: int, reach: int) -> list[float]:
    solid = np.moveaxis(label, axis, 0).astype(np.float32)
    f = float(solid.mean())
    scale = max(f - f * f, 1e-6)
    return [
        (float((solid[:-h] * solid[h:]).mean()) - f * f) / scale
        for h in range(1, min(reach, len(solid) - 1) + 1)
    ]


def count(label: Bool[np.ndarray, "z y x"], reach: tuple[int, int], edges: np.ndarray) -> Counted:
    """What `difference` compares.

    Args:
        label: True = solid.
        reach: steps along z, and along y and x, to which correlations are counted.
        edges: lengths of chords in pixels.
    """
    label = np.asarray(label, bool)
    across = np.swapaxes(label, 1, 2)
    along = [_correlation(label, 0, reach[0])]
    along += [_correlation(label, axis, reach[1]) for axis in (1, 2)]
    return Counted(
        solid_fraction=float(label.mean()),
        correlation=np.concatenate([np.asarray(v) for v in along]),
        solid_chords=(_chords(label, edges) + _chords(across, edges)) / 2,
        pore_chords=(_chords(~label, edges) + _chords(~across, edges)) / 2,
    )


def difference(a: Counted, b: Counted) -> float:
    """Root of the summed squares of: difference of solid fractions, root mean square difference
    of correlations, and of the two distributions of chords."""
    parts = [a.solid_fraction - b.solid_fraction]
    for name in ("correlation", "solid_chords", "pore_chords"):
        parts.append(np.sqrt(np.mean((getattr(a, name) - getattr(b, name)) ** 2)))
    return float(np.sqrt(np.sum(np.square(parts))))


def _half_width(label: np.ndarray) -> float:
    """Pixels along x in which the correlation falls to one half."""
    return half_width(np.asarray([1.0, *_correlation(label, 2, label.shape[2] // 3)]))


def resembling_kinds(
    label: Bool[np.ndarray, "slice y x"],
    voxel_nm: tuple[float, float, float],
    *,
    kinds: Sequence[str] = tuple(KINDS),
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Resemblance]:
    """Fit the parameters of every kind to a label volume; the closest kind first.

    The parameters that a fit would guess are varied by the simplex method of Nelder and Mead
    (1965, doi 10.1093/comjnl/7.4.308), with the same random numbers in every draw.

    Args:
        label: True = solid.
        voxel_nm: (z, y, x); generators draw on the same grid.
        kinds: names in `fibsim.specimens.KINDS`.
        seed: decides the draws.
        progress: called with (kinds done, kinds, name).

    Raises:
        InputError: an unknown kind, a volume of one phase, or no kind that can be drawn on its
            grid.
    """
    from scipy.optimize import minimize

    label = np.asarray(label, bool)
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"specimen kind {kind!r} is unknown; expected some of {list(KINDS)}.")
    if not 0.001 < label.mean() < 0.999:
        raise InputError(f"the volume is {100 * label.mean():.1f} % solid; it shows no structure.")
    shape = tuple(min(n, limit) for n, limit in zip(label.shape, _LARGEST, strict=True))
    shape = (max(shape[0], _SHALLOWEST), *(n - n % 2 for n in shape[1:]))
    half = _half_width(label)
    lateral = int(np.clip(4 * half, 4, min(shape[1:]) // 2))
    deep = int(np.clip(round(lateral * voxel_nm[2] / voxel_nm[0]), 1, shape[0] // 2))
    reach = (min(deep, len(label) - 1), lateral)
    edges = np.unique(np.geomspace(1, min(shape[1:]) / 1.5, _BINS).round().astype(int))
    wanted = count(label, reach, edges)
    key = jax.random.key(seed)

    def counted(kind: str, parameters: dict[str, float], key) -> Counted:
        drawn = make(kind, key=key, shape=shape, voxel_nm=voxel_nm, **parameters)
        return count(np.asarray(drawn.solid) > 0.5, reach, edges)

    def closest(kind: str) -> Resemblance | None:
        guess = KINDS[kind].guess(half * voxel_nm[2], float(label.mean()))
        unknowns = specimen_unknowns(guess).values()
        start = np.asarray([to_free(v, u) for v, u in zip(guess.values(), unknowns, strict=True)])

        def values(free) -> dict[str, float]:
            named = zip(guess, free, unknowns, strict=True)
            return {name: float(from_free(v, u)) for name, v, u in named}

        def miss(free) -> float:
            try:
                return difference(wanted, counted(kind, values(free), key))
            except InputError:  # sizes that the grid cannot carry
                return _IMPOSSIBLE

        simplex = start + np.vstack([np.zeros(len(start)), 0.3 * np.eye(len(start))])
        most = _EVALUATIONS_PER_PARAMETER * len(start)
        best = minimize(
            miss,
            start,
            method="Nelder-Mead",
            options={"maxfev": most, "initial_simplex": simplex, "xatol": 0.01, "fatol": 5e-4},
        )
        if best.fun >= _IMPOSSIBLE:
            return None
        parameters = values(best.x)
        others = [counted(kind, parameters, jax.random.fold_in(key, i)) for i in (1, 2)]
        # Not the fitted draw: it was chosen among many for its resemblance.
        fresh = float(np.mean([difference(wanted, other) for other in others]))
        return Resemblance(kind, parameters, fresh, difference(*others))

    finished = itertools.count(1)

    def reported(kind: str) -> Resemblance | None:
        found = closest(kind)
        if progress is not None:
            progress(next(finished), len(kinds), kind)
        return found

    found = [best for best in map_in_threads(reported, kinds) if best is not None]
    if not found:
        raise InputError(
            f"none of the kinds {', '.join(kinds)} can be drawn on a grid of {shape} voxels with "
            "the sizes found in the volume; give a larger stack."
        )
    return sorted(found, key=lambda r: r.distance)
