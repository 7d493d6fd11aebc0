"""Apply a trained network to a stack of any size, tile by tile."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from fibnet.channels import normalised
from fibnet.model import Neighbours, UNet, neighbours, stack_windows
from fibnet.segmenter import Segmenter, graph_of

__all__ = ["predict"]


@functools.partial(jax.jit, static_argnums=0)
def _probability(
    graph,
    params,
    windows: Float[Array, "slice y x feature"],
    conditions: Array,
    beside: Neighbours,
    temperature: Array,
) -> Float[Array, "slice y x"]:
    model: UNet = nnx.merge(graph, params)
    present = jnp.ones(conditions.shape[0])
    return jax.nn.sigmoid(model(windows, conditions, present, beside) / temperature)


def _round_up(value: int, multiple: int) -> int:
    return math.ceil(value / multiple) * multiple


def predict(
    segmenter: Segmenter,
    images: Float[np.ndarray, "channel slice y x"],
    *,
    tile_px: int = 256,
    slices_at_once: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, "slice y x"]:
    """Probability of solid for every pixel, on exactly the input grid.

    The images are extended by their edge values as far as the network can see; every tile is
    computed with that margin and cut back, so the result does not depend on the tiling beyond
    rounding, and memory is bounded by one tile of ``slices_at_once`` slices.

    Args:
        images: grey values on the 0..255 scale of `fibsim.fit.grey_levels`, of the channels of
            ``segmenter`` in their order.
        tile_px: side of the tiles, without margin.
        slices_at_once: 4 if not given, 16 for networks in 3D, which compute as many slices again
            around them.
        progress: called with (tiles done, tiles).
    """
    config = segmenter.config
    graph, _ = graph_of(config)
    slices, y, x = images.shape[1:]
    margin = _round_up(config.receptive_radius, config.divisor)
    tile = [min(_round_up(n, config.divisor), _round_up(tile_px, config.divisor)) for n in (y, x)]
    starts = [(i, j) for i in range(0, y, tile[0]) for j in range(0, x, tile[1])]
    half = config.window // 2
    # Slices around the wanted ones that reach them inside the network.
    extra = config.slice_radius - half
    slices_at_once = slices_at_once or (16 if config.volume else 4)
    count = slices_at_once + 2 * extra
    groups = range(0, slices, slices_at_once)
    out = np.empty((slices, y, x), np.float32)
    done, total = 0, len(starts) * len(groups)
    temperature = jnp.asarray(segmenter.temperature)
    for first in groups:
        wanted = np.arange(first, min(first + slices_at_once, slices))
        # All groups have the same shape, so that one compilation serves them all.
        block = np.arange(first - extra - half, first + slices_at_once + extra + half)
        part = normalised(jnp.asarray(images[:, np.clip(block, 0, slices - 1)]), segmenter.channels)
        windows = stack_windows(part, config.window)[half : half + count]
        # Slices that do not exist must not reach others.
        beside = neighbours(
            count, *(jnp.clip(end - (first - extra), 0, count - 1) for end in (0, slices - 1))
        )
        high = [_round_up(n, t) - n + margin for n, t in zip((y, x), tile, strict=True)]
        windows = jnp.pad(
            windows, ((0, 0), (margin, high[0]), (margin, high[1]), (0, 0)), mode="edge"
        )
        for i, j in starts:
            size = (count, tile[0] + 2 * margin, tile[1] + 2 * margin, windows.shape[3])
            piece = jax.lax.dynamic_slice(windows, (0, i, j, 0), size)
            found = _probability(
                graph,
                segmenter.params,
                piece,
                segmenter.channels.conditions,
                beside,
                temperature,
            )
            probability = np.asarray(found)[extra:][: len(wanted), margin:-margin, margin:-margin]
            rows, columns = min(tile[0], y - i), min(tile[1], x - j)
            out[first : first + len(wanted), i : i + rows, j : j + columns] = probability[
                :, :rows, :columns
            ]
            done += 1
            if progress is not None:
                progress(done, total)
    return out
