"""Apply a trained network to a stack of any size, tile by tile."""

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from fibnet.channels import normalised
from fibnet.model import (
    ModelConfig,
    Neighbours,
    UNet,
    neighbours,
    stack_windows,
    used_logits,
)
from fibnet.segmenter import Segmenter, graph_of
from fibsim.fit import on_grey_scale

__all__ = ["TILE_PX", "expected_cost", "predict", "predict_blocks"]

TILE_PX = 384
"""Default side of a tile. Images up to this and two margins are computed whole."""


@functools.partial(jax.jit, static_argnums=0)
def _sigmoid(
    config: ModelConfig,
    params,
    windows: Float[Array, "slice y x feature"],
    conditions: Array,
    beside: Neighbours,
    temperature: Array,
) -> Float[Array, "slice y x"]:
    model: UNet = nnx.merge(graph_of(config)[0], params)
    present = jnp.ones(conditions.shape[0])
    logits = used_logits(model, config, windows, conditions, present, beside)
    return jax.nn.sigmoid(logits / temperature)


def _round_up(value: int, multiple: int) -> int:
    return math.ceil(value / multiple) * multiple


@dataclasses.dataclass(frozen=True)
class _Piece:
    """A run of pixels along one axis: where the computed window begins, and what is kept of it."""

    window: int
    first: int
    last: int


def _cut(size: int, tile: int, margin: int, divisor: int) -> tuple[int, list[_Piece]]:
    """Length of a window along one axis, and the pieces that make up the axis.

    A window ends at the image's border, where the network pads as it did in training, or reaches
    a margin beyond what is kept of it.
    """
    padded = _round_up(size, divisor)
    if padded <= tile + 2 * margin:
        return padded, [_Piece(0, 0, size)]
    core = _round_up(math.ceil(size / math.ceil(size / tile)), divisor)
    window = min(core + 2 * margin, padded)
    pieces = [
        _Piece(min(max(first - margin, 0), padded - window), first, min(first + core, size))
        for first in range(0, size, core)
    ]
    return window, pieces


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How a stack of a given shape is cut for a network; all pieces have one shape."""

    window: tuple[int, int]
    pieces: list[tuple[_Piece, _Piece]]
    slices_at_once: int
    extra: int
    groups: range

    @property
    def count(self) -> int:
        """Slices that are computed at once."""
        return self.slices_at_once + 2 * self.extra

    @property
    def total(self) -> int:
        return len(self.pieces) * len(self.groups)


def _plan(
    config: ModelConfig, shape: tuple[int, ...], tile_px: int, slices_at_once: int | None
) -> _Plan:
    slices, *sides = shape
    margin = _round_up(config.receptive_radius, config.divisor)
    tile = _round_up(tile_px, config.divisor)
    (height, rows), (width, columns) = (_cut(n, tile, margin, config.divisor) for n in sides)
    at_once = slices_at_once or (16 if config.volume else 4)
    return _Plan(
        window=(height, width),
        pieces=list(itertools.product(rows, columns)),
        slices_at_once=at_once,
        # Slices around the wanted ones that reach them inside the network.
        extra=config.slice_radius - config.window // 2,
        groups=range(0, slices, at_once),
    )


def predict_blocks(
    segmenter: Segmenter,
    images: np.ndarray,
    *,
    fraction: bool = False,
    scale: tuple[np.ndarray, np.ndarray] | None = None,
    tile_px: int = TILE_PX,
    slices_at_once: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, Float[np.ndarray, "slice y x"]]]:
    """`predict` for a few slices at a time: yields the first slice's number and the block.

    Args:
        scale: `fibsim.fit.grey_scale` of the images, if they are as recorded and not grey values;
            a few slices at a time are then brought to grey values.
    """
    config, channels = segmenter.config, segmenter.channels
    assert channels is not None, "a general network has no channels of its own"
    slices, y, x = images.shape[1:]
    plan = _plan(config, images.shape[1:], tile_px, slices_at_once)
    half, extra, count = config.window // 2, plan.extra, plan.count
    temperature = jnp.asarray(segmenter.temperature if fraction else segmenter.label_temperature)
    beyond = [(0, _round_up(n, config.divisor) - n) for n in (y, x)]
    done = 0
    for first in plan.groups:
        kept = min(plan.slices_at_once, slices - first)
        # All groups have the same shape, so that one compilation serves them all.
        block = np.arange(first - extra - half, first + plan.slices_at_once + extra + half)
        part = images[:, np.clip(block, 0, slices - 1)]
        grey = jnp.asarray(part if scale is None else on_grey_scale(part, scale))
        windows = stack_windows(normalised(grey, channels), config.window)[half : half + count]
        # Slices that do not exist must not reach others.
        beside = neighbours(
            count, *(jnp.clip(end - (first - extra), 0, count - 1) for end in (0, slices - 1))
        )
        windows = jnp.pad(windows, ((0, 0), *beyond, (0, 0)), mode="edge")
        out = np.empty((kept, y, x), np.float32)
        for rows, columns in plan.pieces:
            corner, size = (0, rows.window, columns.window, 0), (count, *plan.window)
            piece = jax.lax.dynamic_slice(windows, corner, (*size, windows.shape[3]))
            found = _sigmoid(
                config, segmenter.params, piece, channels.conditions, beside, temperature
            )
            inside = (slice(p.first - p.window, p.last - p.window) for p in (rows, columns))
            wanted = np.asarray(found)[extra : extra + kept][:, *inside]
            out[:, rows.first : rows.last, columns.first : columns.last] = wanted
            done += 1
            if progress is not None:
                progress(done, plan.total)
        yield first, out


def predict(
    segmenter: Segmenter,
    images: Float[np.ndarray, "channel slice y x"],
    *,
    fraction: bool = False,
    tile_px: int = TILE_PX,
    slices_at_once: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, "slice y x"]:
    """Probability of solid for every pixel, or its solid fraction, on exactly the input grid.

    Solid is a pixel of which more than half is. The expected fraction and this probability are one
    half in the same places; across a wall the fraction changes more slowly.

    Images that are larger than a tile are computed in pieces which reach as far beyond what is
    kept of them as the network can see, so the result does not depend on the tiling beyond
    rounding. Borders of the images are padded inside the network, as in training.

    Args:
        images: grey values on the 0..255 scale of `fibsim.fit.grey_levels`, of the channels of
            ``segmenter`` in their order.
        fraction: return expected solid fractions.
        tile_px: side of the tiles, without margin.
        slices_at_once: 4 if not given, 16 for networks in 3D, which compute as many slices again
            around them.
        progress: called with (tiles done, tiles).
    """
    blocks = predict_blocks(
        segmenter,
        images,
        fraction=fraction,
        tile_px=tile_px,
        slices_at_once=slices_at_once,
        progress=progress,
    )
    out = np.empty(images.shape[1:], np.float32)
    for first, block in blocks:
        out[first : first + len(block)] = block
    return out


def expected_cost(
    segmenter: Segmenter, shape: tuple[int, int, int, int], *, tile_px: int = TILE_PX
) -> tuple[float, float]:
    """Seconds that `predict_blocks` of such a stack will take, and its memory in bytes.

    One group of slices is computed twice: the first time compiles. Memory is that of one piece
    beside the stack itself and the blocks.

    Args:
        shape: (channel, slice, y, x).
    """
    config, channels = segmenter.config, segmenter.channels
    assert channels is not None, "a general network has no channels of its own"
    plan = _plan(config, shape[1:], tile_px, None)
    depth = plan.count + 2 * (config.window // 2)
    sample = np.zeros((shape[0], min(depth, shape[1]), *shape[2:]), np.uint8)
    flat = np.zeros(shape[0], np.float32), np.ones(shape[0], np.float32)
    for _ in range(2):
        started = time.perf_counter()
        next(predict_blocks(segmenter, sample, scale=flat, tile_px=tile_px))
        seconds = time.perf_counter() - started
    features = config.window * shape[0]
    abstract = jax.ShapeDtypeStruct((plan.count, *plan.window, features), jnp.float32)
    program = _sigmoid.lower(
        config,
        segmenter.params,
        abstract,
        channels.conditions,
        neighbours(plan.count),
        jnp.asarray(segmenter.temperature),
    ).compile()
    analysis = program.memory_analysis()
    inside = 0 if analysis is None else analysis.temp_size_in_bytes
    piece = inside + 4 * math.prod(abstract.shape)
    whole = 4 * math.prod((plan.count + depth, *shape[2:])) * features
    return seconds * len(plan.groups), float(piece + whole)
