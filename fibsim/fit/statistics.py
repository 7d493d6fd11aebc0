"""Statistics of a stack that need no labels, and the distance between two stacks.

The sliced Wasserstein distance of small multi-channel 3D patches (Rabin, Peyre, Delon & Bernot
2012, doi 10.1007/978-3-642-24785-9_37): project every patch of both stacks on the same random
directions, sort each projection, and average the absolute difference of the sorted values in
units of the real stack's standard deviation. Patches hold neighbouring pixels, slices and
channels together, so the distance sees grey levels, noise, texture, feature size, the streaks
that a tilted beam leaves from slice to slice, and how the channels differ.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["patch_filters", "patch_responses", "sliced_wasserstein"]


def patch_filters(
    *, key: jax.Array, channels: int, depth: int, size: int = 9, num_random: int = 48
) -> Float[Array, "filter channel depth size size"]:
    """Projection directions for patches of ``(channel, depth, size, size)``, unit length each.

    Fixed ones first, for every channel: the pixel (histogram), its difference to the neighbours
    in x and y (noise), to the next slice, and to the patch mean; and the difference of
    each pair of consecutive channels. Then random ones: normal weights, smoothed over a random
    width so that coarse structure is seen above the noise.
    """
    mid = size // 2
    zeros = jnp.zeros((channels, depth, size, size))
    fixed = []
    for c in range(channels):
        pixel = zeros.at[c, 0, mid, mid].set(1.0)
        fixed += [
            pixel,
            pixel.at[c, 0, mid, mid + 1].set(-1.0),
            pixel.at[c, 0, mid + 1, mid].set(-1.0),
            zeros.at[c, 0].set(1.0),
            zeros.at[c, 0, mid - 1 : mid + 2, mid - 1 : mid + 2].set(1.0),
        ]
        if depth > 1:
            fixed.append(zeros.at[c, 0].set(1.0).at[c, 1].set(-1.0))
        if c:
            fixed.append(zeros.at[c, 0].set(1.0).at[c - 1, 0].set(-1.0))
    key_w, key_s = jax.random.split(key)
    weights = jax.random.normal(key_w, (num_random, channels, depth, size, size))
    width = jnp.exp(jax.random.uniform(key_s, (num_random, 1), minval=-1.5, maxval=1.3))
    offset = jnp.arange(size)
    kernel = jnp.exp(-((offset[:, None] - offset) ** 2) / (2 * width[..., None] ** 2))
    weights = jnp.einsum("fcdyx,fyu,fxv->fcduv", weights, kernel, kernel)
    filters = jnp.concatenate([jnp.stack(fixed), weights])
    return filters / jnp.sqrt(jnp.sum(filters**2, axis=(1, 2, 3, 4), keepdims=True))


def patch_responses(
    images: Float[Array, "channel slice y x"],
    filters: Float[Array, "filter channel depth size size"],
    *,
    stride: int = 5,
) -> Float[Array, "patch filter"]:
    """Project all patches (every ``stride``-th pixel, every slice) on the filters."""
    depth = filters.shape[2]
    slices = images.shape[1] - depth + 1
    windows = jnp.stack([images[:, k : k + slices] for k in range(depth)], axis=1)
    flat = windows.reshape(-1, *windows.shape[2:]).swapaxes(0, 1)  # (slice, channel*depth, y, x)
    kernel = filters.reshape(filters.shape[0], -1, *filters.shape[3:])
    out = jax.lax.conv_general_dilated(
        flat, kernel, (stride, stride), "VALID", precision=jax.lax.Precision.HIGHEST
    )
    return out.transpose(0, 2, 3, 1).reshape(-1, filters.shape[0])


def sliced_wasserstein(
    real: Float[Array, "patch filter"], simulated: Float[Array, "patch filter"]
) -> Float[Array, " filter"]:
    """Distance of each projection in units of the real one's standard deviation.

    ``mean |sort(a) - sort(b)| / sd(a)``; both need the same number of patches. Differentiable in
    ``simulated``: every simulated value is pulled towards the real value of its own rank.
    """
    real, simulated = real.T, simulated.T  # sorting runs along contiguous memory
    scale = jnp.std(real, axis=1) + 1e-6
    order = jnp.argsort(jax.lax.stop_gradient(simulated), axis=1)
    rank = jnp.argsort(order, axis=1)
    target = jnp.take_along_axis(jnp.sort(real, axis=1), rank, axis=1)
    return jnp.mean(jnp.abs(simulated - jax.lax.stop_gradient(target)), axis=1) / scale
