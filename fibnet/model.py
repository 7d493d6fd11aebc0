"""The segmenter: a 2.5D residual U-Net in Flax NNX.

A slice is segmented from itself and its neighbours in every channel, all stacked as features of
a 2D image: ``(batch, y, x, channel * window)``. Only 2D convolutions, resize + convolution to
go up, GroupNorm and no dropout: fast on CPUs, and a model that holds parameters only, so that
the same code runs in NNX graph and tree mode.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

__all__ = ["ModelConfig", "UNet", "count_parameters", "make_model", "stack_windows"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of a `UNet`.

    Attributes:
        channels: recorded channels.
        window: slices seen at once, odd; the middle one is segmented.
        widths: features per level, finest first; every further level halves the image.
        blocks: residual blocks per level and side.
        fold: pixels folded into features before the first level, to one side; 2 makes the
            network four times cheaper per feature and unfolds the logits at the end.
    """

    channels: int
    window: int = 7
    widths: tuple[int, ...] = (16, 32, 64)
    blocks: int = 1
    fold: int = 1

    @property
    def divisor(self) -> int:
        """Image sides must be multiples of this."""
        return self.fold * 2 ** (len(self.widths) - 1)

    @property
    def receptive_radius(self) -> int:
        """Pixels that can influence an output pixel, to one side (through convolutions alone).

        GroupNorm is applied per pixel over features only, so nothing reaches further. The bound
        counts every 3 x 3 convolution at its level, and one pixel per resize.
        """
        radius = 1  # stem
        for level in range(len(self.widths)):
            sides = 1 if level == len(self.widths) - 1 else 2
            radius += 2**level * (2 * self.blocks * sides + (level > 0) + 1)
        return self.fold * (radius + 1)


def _conv(inputs: int, outputs: int, size: int, *, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(inputs, outputs, (size, size), padding="SAME", rngs=rngs)


class ResidualBlock(nnx.Module):
    """``x + conv(act(norm(conv(act(norm(x))))))``; LayerNorm over the features of each pixel.

    Per-pixel normalisation keeps the network a local operator, so that tiles agree with the
    whole image exactly; GroupNorm over the image would tie every pixel to all others.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.first = _conv(width, width, 3, rngs=rngs)
        self.second = _conv(width, width, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return x + self.second(nnx.relu(self.first(self.norm(x))))


def _halve(x: Array) -> Array:
    b, y, w, c = x.shape
    return x.reshape(b, y // 2, 2, w // 2, 2, c).mean((2, 4))


def _double(x: Array) -> Array:
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def _fold(x: Array, by: int) -> Array:
    """Space to depth: blocks of ``by x by`` pixels become features."""
    b, y, w, c = x.shape
    x = x.reshape(b, y // by, by, w // by, by, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, y // by, w // by, by * by * c)


def _unfold(x: Array, by: int) -> Array:
    """Depth to space, the inverse of `_fold`."""
    b, y, w, c = x.shape
    x = x.reshape(b, y, w, by, by, c // by**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, y * by, w * by, c // by**2)


class UNet(nnx.Module):
    """Map normalised windows of slices to the logit of solid; see the module docstring."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        widths = config.widths
        self.fold = config.fold
        folded = config.channels * config.window * config.fold**2
        self.stem = _conv(folded, widths[0], 3, rngs=rngs)
        self.down = nnx.List(
            [nnx.List([ResidualBlock(w, rngs=rngs) for _ in range(config.blocks)]) for w in widths]
        )
        self.wider = nnx.List([_conv(a, b, 1, rngs=rngs) for a, b in itertools.pairwise(widths)])
        self.narrower = nnx.List([_conv(b, a, 3, rngs=rngs) for a, b in itertools.pairwise(widths)])
        self.up = nnx.List(
            [
                nnx.List([ResidualBlock(w, rngs=rngs) for _ in range(config.blocks)])
                for w in widths[:-1]
            ]
        )
        self.head = _conv(widths[0], config.fold**2, 1, rngs=rngs)

    def __call__(self, x: Float[Array, "batch y x feature"]) -> Float[Array, "batch y x"]:
        x = self.stem(_fold(x, self.fold))
        skips = []
        for level, blocks in enumerate(self.down):
            for block in blocks:
                x = block(x)
            if level < len(self.wider):
                skips.append(x)
                x = self.wider[level](_halve(x))
        for level in reversed(range(len(self.up))):
            x = skips[level] + _double(self.narrower[level](x))
            for block in self.up[level]:
                x = block(x)
        return _unfold(self.head(x), self.fold)[..., 0]


def make_model(config: ModelConfig, *, seed: int) -> UNet:
    """A freshly initialised network."""
    return UNet(config, rngs=nnx.Rngs(seed))


def count_parameters(model: UNet) -> int:
    """Number of trainable numbers."""
    return sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param)))


def stack_windows(
    images: Float[Array, "channel slice y x"], window: int
) -> Float[Array, "slice y x feature"]:
    """Gather each slice with its neighbours; beyond the ends the end slice repeats.

    Features are ordered slice offset first, then channel.
    """
    slices = images.shape[1]
    offsets = jnp.arange(window) - window // 2
    index = jnp.clip(jnp.arange(slices)[:, None] + offsets, 0, slices - 1)
    gathered = images[:, index]  # (channel, slice, window, y, x)
    moved = gathered.transpose(1, 3, 4, 2, 0)
    return moved.reshape(slices, *images.shape[2:], -1)
