"""Transport through a segmented volume: percolation, connectivity, diffusive tortuosity factor.

Voxels of a phase are neighbours where they share a face, for the pores and for the solid: diffusion
passes faces only, so that a tortuosity factor is finite exactly where a cluster percolates. (The
Euler number counts the solid with 26 neighbours.)
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from fibnet.morphology import checked_label

__all__ = [
    "PhaseTransport",
    "Transport",
    "percolation",
    "tortuosity_factor",
    "transport",
    "transport_rows",
]

AXES = ("z", "y", "x")
ENERGY_TOLERANCE = 3e-4
"""The solver stops once twenty steps lowered the conductance by less than this share of it; it is
then 0.02 to 0.1 % too high (random waves of 38 to 62 %, up to two million voxels)."""
_WINDOW = 20
_MOST_ITERATIONS = 20_000
# Fluxes in and out may differ by this share of the conductance when the solver stops; they are off
# by the root of what the conductance is off by.
_MOST_IMBALANCE = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhaseTransport:
    """Transport through one phase.

    Attributes:
        percolating: share of the phase's volume in clusters that touch both faces of the box
            across z, y and x; nan along z for a single slice, and for an absent phase.
        largest: share of the phase's volume in its largest cluster; nan for an absent phase.
        tortuosity: tortuosity factor along z, y and x; inf where nothing percolates, nan along
            z for a single slice.
        imbalance: largest difference of the fluxes into and out of the box over their mean, of
            the three solutions.
    """

    percolating: tuple[float, float, float]
    largest: float
    tortuosity: tuple[float, float, float]
    imbalance: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transport:
    """Transport through both phases of a label volume.

    Attributes:
        shape: voxels ``(z, y, x)`` of the label.
        solved_shape: voxels of the middle part on which tortuosity factors were solved: all of
            them unless there are more than ``max_voxels``.
        pores: of the pores.
        solid: of the solid.
    """

    shape: tuple[int, int, int]
    solved_shape: tuple[int, int, int]
    pores: PhaseTransport
    solid: PhaseTransport


def percolation(
    phase: Bool[np.ndarray, "z y x"],
) -> tuple[tuple[float, float, float], float]:
    """Percolating fractions along z, y and x, and the share of the largest cluster.

    ``P_a = V(clusters that touch both faces across axis a) / V(phase)``, clusters by faces
    (Hoshen and Kopelman 1976, doi:10.1103/PhysRevB.14.3438). All nan for an absent phase; nan
    along an axis of one voxel.
    """
    clusters, volumes = _clusters(phase)
    total = volumes.sum()
    if total == 0:
        return (math.nan,) * 3, math.nan
    fractions = tuple(
        float(volumes[_spanning(clusters, len(volumes), axis)].sum() / total)
        if phase.shape[axis] > 1
        else math.nan
        for axis in range(3)
    )
    return fractions, float(volumes.max() / total)


def tortuosity_factor(
    phase: Bool[np.ndarray, "z y x"],
    voxel_nm: Sequence[float],
    axis: int,
    *,
    tolerance: float = ENERGY_TOLERANCE,
) -> tuple[float, float]:
    """Diffusive tortuosity factor of a phase along an axis, from Laplace's equation.

    ``tau = f D0 / Deff`` with ``f`` the volume fraction of the phase (all of it, also what does
    not percolate) and ``Deff = Q L / (A (c0 - c1))`` for the flux ``Q`` through the box of length
    ``L`` and cross-section ``A`` (Cooper et al. 2016, doi:10.1016/j.softx.2016.09.002; not its
    square root, which is the ratio of lengths). ``div grad c = 0`` in the phase, ``c`` fixed on
    the two faces of the box, no flux through its sides or the interface. Finite volumes: the
    conductance between neighbours is face area over distance, twice that from a voxel to the
    face of the box, so that slices thicker than pixels are right and straight channels give 1.
    Walls that cut across the grid are steps of voxels, as in all such solvers, which hold up the
    flux: around a ball, ``tau - 1`` is 30 % too large at a radius of 8 voxels and 10 % at 24.

    Solved matrix-free by conjugate gradients with Jacobi's preconditioner in float32. The flux is
    taken from the energy ``sum g (c_i - c_j)^2``, whose error is the square of that of ``c``.

    Args:
        phase: True where the phase is.
        voxel_nm: voxel size ``(z, y, x)`` in nm.
        axis: 0, 1 or 2 for z, y, x.
        tolerance: see `ENERGY_TOLERANCE`.

    Returns:
        The tortuosity factor (inf where no cluster touches both faces, nan for an absent phase and
        where the fluxes in and out still differ by more than 15 % after 20 000 steps) and the
        relative difference of the fluxes.
    """
    clusters, volumes = _clusters(phase)
    return _solve(clusters, volumes, tuple(voxel_nm), axis, tolerance)


def transport(
    solid: np.ndarray,
    voxel_nm: Sequence[float],
    *,
    max_voxels: int = 2_000_000,
    tolerance: float = ENERGY_TOLERANCE,
) -> Transport:
    """Percolation, connectivity and tortuosity factors of both phases along z, y and x.

    48 x 128 x 128 voxels take about 6 s of one core, one second of them compilation, which is
    kept for volumes of the same shape.

    Args:
        solid: boolean label ``(z, y, x)``, 1 = solid.
        voxel_nm: voxel size ``(z, y, x)`` in nm.
        max_voxels: of more, tortuosity factors are solved in the middle part of so many voxels
            and of the same proportions, at full resolution (coarser voxels would close necks);
            `Transport.solved_shape` states it. Percolation is counted on the whole.
        tolerance: see `ENERGY_TOLERANCE`.

    Raises:
        InputError: the label is not a binary (z, y, x) volume of at least 2 x 2 pixels, or the
            voxel size is not positive.
    """
    solid, voxel = checked_label(solid, voxel_nm)
    part = _middle(solid, max_voxels)
    phases = {}
    for name, value in (("pores", False), ("solid", True)):
        percolating, largest = percolation(solid == value)
        clusters, volumes = _clusters(part == value)
        solved = [
            _solve(clusters, volumes, voxel, axis, tolerance)
            if solid.shape[axis] > 1
            else (math.nan, 0.0)
            for axis in range(3)
        ]
        phases[name] = PhaseTransport(
            percolating=percolating,
            largest=largest,
            tortuosity=tuple(tau for tau, _ in solved),
            imbalance=max(imbalance for _, imbalance in solved),
        )
    return Transport(shape=solid.shape, solved_shape=part.shape, **phases)


def transport_rows(found: Transport) -> list[tuple[str, float, str]]:
    """The numbers as rows ``(name, value, unit)``; an axis of one voxel is left out."""
    rows: list[tuple[str, float, str]] = []
    phases = (("pores", found.pores), ("solid", found.solid))
    axes = [a for a in range(3) if found.shape[a] > 1]
    for name, phase in phases:
        rows += [
            (f"Tortuosity factor of the {name}, {AXES[a]}", phase.tortuosity[a], "") for a in axes
        ]
    for name, phase in phases:
        rows += [
            (f"Percolating fraction of the {name}, {AXES[a]}", phase.percolating[a], "")
            for a in axes
        ]
        rows.append((f"Largest cluster's share of the {name}", phase.largest, ""))
    share = 100.0 * math.prod(found.solved_shape) / math.prod(found.shape)
    return [*rows, ("Part of the volume solved for tortuosity", share, "%")]


def _clusters(phase: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of every voxel's cluster (0: not of the phase), and the volumes, that of 0 being 0."""
    from scipy.ndimage import label

    clusters = np.empty(phase.shape, np.int32)
    number = int(label(phase, output=clusters))
    volumes = np.bincount(clusters.ravel(), minlength=number + 1)
    volumes[0] = 0
    return clusters, volumes


def _spanning(clusters: np.ndarray, number: int, axis: int) -> np.ndarray:
    """Which cluster numbers touch both faces across an axis, ``(number,)``."""
    spans = np.ones(number, bool)
    for end in (0, -1):
        touched = np.zeros(number, bool)
        touched[clusters.take(end, axis)] = True
        spans &= touched
    spans[0] = False
    return spans


def _middle(volume: np.ndarray, max_voxels: int) -> np.ndarray:
    shrink = min(1.0, max_voxels / volume.size) ** (1.0 / sum(n > 1 for n in volume.shape))
    sizes = [max(int(n * shrink + 1e-9), min(n, 2)) for n in volume.shape]
    starts = [(n - m) // 2 for n, m in zip(volume.shape, sizes, strict=True)]
    return volume[tuple(slice(s, s + m) for s, m in zip(starts, sizes, strict=True))]


def _solve(
    clusters: np.ndarray, volumes: np.ndarray, voxel: tuple, axis: int, tolerance: float
) -> tuple[float, float]:
    if not volumes.any():
        return math.nan, 0.0
    spans = _spanning(clusters, len(volumes), axis)
    if not spans.any():
        return math.inf, 0.0
    n = clusters.shape[axis]
    # Conductances in units of that between neighbours along the axis.
    weights = np.asarray([(voxel[axis] / side) ** 2 for side in voxel], np.float32)
    along = np.arange(3) == axis
    energy, inward, outward = map(
        float, _conduct(spans[clusters], weights, along, np.float32(tolerance))
    )
    imbalance = abs(inward - outward) / max(0.5 * abs(inward + outward), 1e-30)
    # The solver's sum of residuals is rounded otherwise than these fluxes.
    if not (energy > 0 and imbalance < 1.5 * _MOST_IMBALANCE):
        return math.nan, imbalance
    # Between full cross-sections of as many voxels the conductance would be columns / n.
    fraction, columns = volumes.sum() / clusters.size, clusters.size / n
    return float(fraction * columns / (n * energy)), imbalance


@jax.jit
def _conduct(
    phase: Bool[Array, "z y x"],
    weights: Float[Array, "3"],
    along: Bool[Array, "3"],
    tolerance: Float[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """Conductance of the box by the energy, by the flux in, and by the flux out.

    ``weights`` are the conductances between neighbours, 1 along the axis, which is traced: one
    program serves all three.
    """
    inside = phase.astype(jnp.float32)
    z, y, x = (jax.lax.broadcasted_iota(jnp.float32, phase.shape, a) for a in range(3))
    index = jnp.where(along[0], z, jnp.where(along[1], y, x))
    length = jnp.where(along, jnp.asarray(phase.shape), 0).sum().astype(jnp.float32)
    # Conductances to the faces of the box: half the distance, twice the conductance.
    first, last = 2.0 * inside * (index == 0), 2.0 * inside * (index == length - 1)
    diagonal = (_neighbours(inside, weights) + first + last) * inside
    inverse = jnp.where(diagonal > 0, 1.0 / jnp.maximum(diagonal, 1e-30), 0.0)

    # Outside the phase c is 0 and stays so: closed faces need no mask of their own.
    def apply(c):
        return diagonal * c - inside * _neighbours(c, weights)

    def energy(c):
        return first.sum() - 2.0 * jnp.vdot(first, c) + jnp.vdot(c, apply(c))

    def unfinished(state):
        _, residual, _, _, gains, left, iteration = state
        # The residuals add up to the flux in less the flux out.
        unequal = jnp.abs(residual.sum()) > _MOST_IMBALANCE * left
        return ((gains.sum() > tolerance * left) | unequal) & (iteration < _MOST_ITERATIONS)

    def step(state):
        c, residual, direction, product, gains, left, iteration = state
        image = apply(direction)
        far = product / jnp.maximum(jnp.vdot(direction, image), 1e-30)
        c = c + far * direction
        residual = residual - far * image
        scaled = inverse * residual
        new_product = jnp.vdot(residual, scaled)
        direction = scaled + new_product / jnp.maximum(product, 1e-30) * direction
        # What a step lowers the energy by (Hestenes and Stiefel 1952, doi:10.6028/jres.049.044).
        gain = far * product
        gains = jnp.concatenate([gains[1:], gain[None]])
        return c, residual, direction, new_product, gains, left - gain, iteration + 1

    c = (1.0 - (index + 0.5) / length) * inside
    residual = first - apply(c)
    scaled = inverse * residual
    many = jnp.full(_WINDOW, jnp.inf)
    start = (c, residual, scaled, jnp.vdot(residual, scaled), many, energy(c), 0)
    c, *_ = jax.lax.while_loop(unfinished, step, start)
    return energy(c), jnp.vdot(first, 1.0 - c), jnp.vdot(last, c)


def _neighbours(c: Float[Array, "z y x"], weights: Float[Array, "3"]) -> Float[Array, "z y x"]:
    """Weighted sum over the six neighbours, 0 beyond the box."""
    wide = jnp.pad(c, 1)
    total = jnp.zeros_like(c)
    for axis in range(3):
        near, far = (
            wide[tuple(cut if a == axis else slice(1, -1) for a in range(3))]
            for cut in (slice(None, -2), slice(2, None))
        )
        total = total + weights[axis] * (near + far)
    return total
