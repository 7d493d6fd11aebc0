"""Apply a trained network to a stack of any size, tile by tile."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from fibnet.model import UNet, stack_windows
from fibnet.segmenter import Segmenter, graph_of, normalised

__all__ = ["predict"]


@functools.partial(jax.jit, static_argnums=0)
def _probability(graph, params, images: Float[Array, "channel window y x"]) -> Array:
    """Probability of solid of the middle slice of each window."""
    model: UNet = nnx.merge(graph, params)
    return jax.nn.sigmoid(model(images))


def _round_up(value: int, multiple: int) -> int:
    return math.ceil(value / multiple) * multiple


def predict(
    segmenter: Segmenter,
    images: Float[np.ndarray, "channel slice y x"],
    *,
    tile_px: int = 256,
    slices_at_once: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, "slice y x"]:
    """Probability of solid for every pixel, on exactly the input grid.

    The images are extended by their edge values as far as the network can see; every tile is
    computed with that margin and cut back, so the result does not depend on the tiling beyond
    rounding, and memory is bounded by one tile of ``slices_at_once`` slices.

    Args:
        images: grey values on the 0..255 scale of `fibsim.fit.grey_levels`.
        tile_px: side of the tiles, without margin.
        progress: called with (tiles done, tiles).
    """
    config = segmenter.config
    graph, _ = graph_of(config)
    slices, y, x = images.shape[1:]
    margin = _round_up(config.receptive_radius, config.divisor)
    tile = [min(_round_up(n, config.divisor), _round_up(tile_px, config.divisor)) for n in (y, x)]
    starts = [(i, j) for i in range(0, y, tile[0]) for j in range(0, x, tile[1])]
    half = config.window // 2
    groups = range(0, slices, slices_at_once)
    out = np.empty((slices, y, x), np.float32)
    done, total = 0, len(starts) * len(groups)
    for first in groups:
        wanted = np.arange(first, min(first + slices_at_once, slices))
        # All groups have the same shape, so that one compilation serves them all.
        block = np.arange(first - half, first + slices_at_once + half)
        part = normalised(
            jnp.asarray(images[:, np.clip(block, 0, slices - 1)]), segmenter.mean, segmenter.sd
        )
        windows = stack_windows(part, config.window)[half : half + slices_at_once]
        high = [_round_up(n, t) - n + margin for n, t in zip((y, x), tile, strict=True)]
        windows = jnp.pad(
            windows, ((0, 0), (margin, high[0]), (margin, high[1]), (0, 0)), mode="edge"
        )
        for i, j in starts:
            size = (slices_at_once, tile[0] + 2 * margin, tile[1] + 2 * margin, windows.shape[3])
            piece = jax.lax.dynamic_slice(windows, (0, i, j, 0), size)
            probability = np.asarray(_probability(graph, segmenter.params, piece))
            probability = probability[: len(wanted), margin:-margin, margin:-margin]
            rows, columns = min(tile[0], y - i), min(tile[1], x - j)
            out[first : first + len(wanted), i : i + rows, j : j + columns] = probability[
                :, :rows, :columns
            ]
            done += 1
            if progress is not None:
                progress(done, total)
    return out
