"""Refinement of a segmented volume by the likelihood of the stack, through the forward model.

First the refit of the instrument to the volume (`fibnet.twin`) says by how many pixels all
interfaces lie too far in or out, and they are moved by that. Then single voxels are decided anew.

The network sees a small window of the images and decides every voxel by itself. The forward model
says what a whole volume must look like. Both are brought together by the mean-field update of
variational inference: with the network's fractions as the prior,

    logit q  <-  logit q_0 - w dL/dq,    dL/dq = dL/d(logit q) / (q (1 - q)),

where ``L(q)`` is the robust negative log likelihood of the whole stack (`fibsim.fit.robust`) for
the volume of solid fractions ``q``, between faces interpolated in the logit, and its gradient tells
for every voxel how much better the stack would be explained if it were solid. The weight ``w`` is
far below 1: neighbouring grey values share their errors, and the network has seen the same images
(Blei, Kucukelbir & McAuliffe 2017, doi 10.1080/01621459.2017.1285773, for the method).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from fibnet.adapt import has_both_phases
from fibnet.twin import refit
from fibsim.fit import (
    RegressionResult,
    RegressionSettings,
    Sight,
    bulge_midway,
    expected_faces,
    face_count,
    face_surfaces,
    grey_levels,
    mirrored,
    robust_loss,
    run_as_seen,
    sight_of,
)
from fibsim.instrument import Instrument
from fibsim.instrument_file import InstrumentFile
from fibsim.layers import slices_of_steps
from fibsim.milling import Milling
from fibsim.specimens import Ground, slices_to_ground
from fibsim.stack import Stack

__all__ = ["VolumeRefinement", "advance", "refine_volume", "regress_and_refine"]

# The network's logits are kept within these: beyond, a wall between two faces would lie where the
# network is surer instead of midway.
_LARGEST_LOGIT = 6.0
# q (1 - q) is not taken smaller, so that what is certain stays.
_SMALLEST_VARIANCE = 0.05
# A refit that moves interfaces by less is the last one.
_SETTLED_PX = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class VolumeRefinement:
    """How a volume is refined.

    Attributes:
        rounds: at most so many refits, each on the volume refined before; fewer where interfaces
            no longer move.
        steps: updates.
        damping: share of the way to the update's result that each goes.
        weight: ``w`` of the module's docstring.
        largest_change: of a voxel's logit.
        smoothing: standard deviation of the Gaussian that the update is smoothed with, in slices,
            pixels and pixels: a single grey value says little over its noise, and what is wrong
            is wrong for a patch.
        tile_px, margin_px: side of what is rendered at once, and the rim around it whose own
            grey values another tile explains.
        tile_slices: its depth in slices.
        sublayers: layers per slice.
    """

    rounds: int = 1
    steps: int = 8
    damping: float = 0.4
    weight: float = 0.05
    largest_change: float = 3.0
    smoothing: tuple[float, float, float] = (0.5, 1.0, 1.0)
    tile_px: int = 128
    margin_px: int = 12
    tile_slices: int = 24
    sublayers: int = 3


@functools.partial(jax.jit, static_argnames=("below", "sublayers"))
def _gradient(
    logit: Float[Array, "face y x"],
    grey: Float[Array, "channel slice y x"],
    weight: Float[Array, "slice y x"],
    instrument: Instrument,
    milling: Milling,
    misfit: Float[Array, " channel"],
    surfaces: tuple[Array, Array],
    bulge: Float[Array, ""],
    below: int,
    sublayers: int,
) -> tuple[Array, Float[Array, "face y x"]]:
    """Robust loss of a tile, summed over channels and pixels, and its gradient in ``logit``."""

    def loss(logit):
        expected = expected_faces(
            logit,
            instrument,
            milling,
            num_slices=grey.shape[1],
            below_slices=below,
            sublayers=sublayers,
            surfaces=surfaces,
            bulge=bulge,
            logit=True,
        )
        return jnp.sum(weight * robust_loss(grey, expected, instrument, misfit))

    return jax.value_and_grad(loss)(logit)


@dataclasses.dataclass(frozen=True)
class _Tile:
    """Faces ``rows`` (the first ``count`` are explained) and pixels ``y, x`` of a tile; those of
    ``dense`` are ground."""

    rows: np.ndarray
    dense: np.ndarray
    count: int
    y: slice
    x: slice
    weight: np.ndarray


def _parts(size: int, tile: int, before: int, after: int) -> list[tuple[slice, slice]]:
    """(what is rendered, what of it is explained) along an axis, all of one length."""
    full, found = tile + before + after, []
    if size <= full:
        return [(slice(0, size), slice(0, size))]
    for first in range(0, size, tile):
        last = min(first + tile, size)
        start = min(max(first - before, 0), size - full)
        found.append((slice(start, start + full), slice(first - start, last - start)))
    return found


def _tiles(
    solid: Bool[np.ndarray, "slice y x"],
    weights: Float[np.ndarray, " slice"],
    below: int,
    ground_row: float,
    sight: Sight,
    how: VolumeRefinement,
):
    slices, margin = len(solid), how.margin_px
    # What a leaning beam sees is rendered with the tile.
    before, after = max(margin, -sight.drop), max(margin, sight.drop)
    depth = min(how.tile_slices, slices)
    for first in range(0, slices, depth):
        # The last tile begins earlier, so that all are alike; a slice counts in one of them.
        start = min(first, slices - depth)
        own = weights[start : start + depth] * (np.arange(start, start + depth) >= first)
        if not own.any():
            continue
        faces = start + np.arange(face_count(depth, below))
        rows, dense = mirrored(faces, slices), faces >= ground_row
        for y, inside_y in _parts(solid.shape[1], how.tile_px, before, after):
            for x, inside_x in _parts(solid.shape[2], how.tile_px, margin, margin):
                of_pixels = sight.weights(solid[start : int(faces[-1]) + 1, y, x], own)
                weight = np.zeros_like(of_pixels)
                inside = (slice(None), inside_y, inside_x)
                weight[inside] = of_pixels[inside]
                yield _Tile(rows, dense, depth, y, x, weight)


def refine_volume(
    stack: Stack,
    fraction: Float[np.ndarray, "slice y x"],
    regression: RegressionResult,
    *,
    ground: Ground | None = None,
    settings: VolumeRefinement | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[Float[np.ndarray, "slice y x"], np.ndarray]:
    """Solid fractions that also explain the stack.

    The volume is rendered tile by tile, so that memory does not grow with it.

    Args:
        stack: the recorded stack.
        fraction: expected of solid at every imaged face, the network's.
        regression: of the instrument on that volume: instrument, milling and misfit are taken.
        ground: dense ground below the stack, if it has one.
        progress: called with (updates done, updates, text).

    Returns:
        The refined fractions, and the robust loss per grey value before each update and
        after the last one.
    """
    from scipy.ndimage import gaussian_filter
    from scipy.special import expit

    how = settings or VolumeRefinement()
    grey = grey_levels(stack)
    surfaces = tuple(jnp.asarray(v) for v in face_surfaces(fraction))
    misfit = jnp.asarray(regression.fitted.misfit_grey, jnp.float32)
    ground_row = slices_to_ground(ground, stack.slice_nm)
    below = regression.below_slices
    sight = sight_of(regression.instrument, sum(slices_of_steps(below)))
    tiles = list(
        _tiles(np.asarray(fraction) > 0.5, regression.weights, below, ground_row, sight, how)
    )
    counted = max(sum(float(t.weight.sum()) for t in tiles) * len(grey), 1.0)
    network = _logit(fraction)
    first = np.clip(network, -_LARGEST_LOGIT, _LARGEST_LOGIT)
    bulge = jnp.asarray(bulge_midway(first, logit=True), jnp.float32)

    def gradient_of(logit: np.ndarray) -> tuple[float, np.ndarray]:
        total, gradient = 0.0, np.zeros_like(logit)
        for tile in tiles:
            run = _run_of(regression.milling, tile)
            volume = logit[tile.rows, tile.y, tile.x]
            volume[tile.dense] = _LARGEST_LOGIT
            loss, slope = _gradient(
                jnp.asarray(volume),
                jnp.asarray(grey[:, tile.rows[: tile.count], tile.y, tile.x]),
                jnp.asarray(tile.weight),
                regression.instrument,
                run,
                misfit,
                surfaces,
                bulge,
                below,
                how.sublayers,
            )
            total += float(loss)
            # Mirrored faces come twice, so that an indexed sum is needed.
            own = np.where(tile.dense[:, None, None], 0, np.nan_to_num(np.asarray(slope)))
            np.add.at(gradient[:, tile.y, tile.x], tile.rows, own)
        return total / counted, gradient

    logit, losses = first, []
    for step in range(how.steps):
        loss, gradient = gradient_of(logit)
        losses.append(loss)
        solid = expit(logit)
        by_fraction = gradient / np.maximum(solid * (1 - solid), _SMALLEST_VARIANCE)
        by_fraction = gaussian_filter(by_fraction, how.smoothing)
        change = np.clip(-how.weight * by_fraction, -how.largest_change, how.largest_change)
        logit = logit + how.damping * (first + change - logit)
        if progress is not None:
            progress(step + 1, how.steps, f"loss {loss:.3f}")
    losses.append(gradient_of(logit)[0])
    refined = expit(network + logit - first)
    return refined.astype(np.float32), np.asarray(losses)


def advance(
    fraction: Float[np.ndarray, "slice y x"], pixels: float
) -> Float[np.ndarray, "slice y x"]:
    """Move all interfaces out of the solid by some pixels, within the slices.

    ``psi <- psi + delta |grad psi|`` for the logit ``psi``, with the gradient taken from the side
    that the interface comes from (Osher & Sethian 1988, doi 10.1016/0021-9991(88)90002-2), in steps
    of half a pixel at most.
    """
    from scipy.special import expit

    if pixels == 0:
        return fraction
    logit = _logit(fraction)
    count = max(1, math.ceil(2 * abs(pixels)))
    for _ in range(count):
        slopes = []
        for axis in (1, 2):
            step = np.diff(logit, axis=axis)
            none = np.zeros_like(logit.take([0], axis))
            ahead = np.concatenate([step, none], axis)
            behind = np.concatenate([none, -step], axis)
            sign = 1 if pixels > 0 else -1
            slopes.append(np.maximum(np.maximum(sign * ahead, sign * behind), 0))
        logit = logit + pixels / count * np.hypot(*slopes)
    return expit(logit).astype(np.float32)


def regress_and_refine(
    stack: Stack,
    fraction: Float[np.ndarray, "slice y x"],
    content: InstrumentFile,
    *,
    prior: Instrument,
    regression: RegressionSettings,
    settings: VolumeRefinement,
    seed: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[Float[np.ndarray, "slice y x"], dict[str, Any] | None]:
    """Refit the instrument to the stack as segmented, and refine the volume by it.

    Args:
        content: instrument and specimen as fitted to the stack; where the refit starts.
        prior: centre of the priors, as in `fibnet.alternate.alternate`.

    Returns:
        The refined fractions and what happened (see docs/file_formats.md). A volume that is
        almost of one phase, or a single slice, is returned as it is, and None.
    """
    solid = float(np.mean(fraction > 0.5))
    if len(fraction) < 2 or not has_both_phases(fraction):
        return fraction, None

    def show(done: int, total: int, text: str) -> None:
        if progress is not None:
            progress(done, total, text)

    tilt_deg = float(content.instrument.geometry.tilt_deg)
    run = run_as_seen(stack, tilt_deg=tilt_deg, progress=progress)
    level, refined = 0.0, fraction
    for _ in range(settings.rounds):
        result = refit(
            stack,
            refined,
            content,
            prior=prior,
            run=run,
            settings=regression,
            seed=seed,
            progress=show,
        )
        found = result.found
        level += result.level_px
        # The prior stays the network's: what the stack says must count once.
        moved = advance(fraction, level)
        refined, losses = refine_volume(
            stack, moved, found, ground=content.ground, settings=settings, progress=progress
        )
        if abs(result.level_px) < _SETTLED_PX:
            break
    facts = {
        "loss": losses.tolist(),
        "kept": bool(losses[-1] < losses[0]),
        "level_px": level,
        "twin_level_px": result.twin_level_px,
        "changed_voxels": float(np.mean((refined > 0.5) != (fraction > 0.5))),
        "changed_after_level": float(np.mean((refined > 0.5) != (moved > 0.5))),
        "porosity_before": 1 - solid,
        "porosity_after": float(np.mean(refined <= 0.5)),
        "explained": found.fitted.explained.tolist(),
        "misfit_grey": found.fitted.misfit_grey.tolist(),
        "slices_counted": int(np.sum(found.weights > 0)),
    }
    return (refined if facts["kept"] else moved), facts


def _run_of(milling: Milling, tile: _Tile) -> Milling:
    rows = jax.tree.map(lambda v: v[tile.rows], milling)
    return dataclasses.replace(rows, curtain=rows.curtain[:, tile.x], line=rows.line[:, tile.y])


def _logit(fraction: np.ndarray) -> np.ndarray:
    from scipy.special import logit

    inside = np.clip(np.asarray(fraction, np.float32), 1e-6, 1 - 1e-6)
    return logit(inside)
