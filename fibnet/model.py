"""The segmenter: a residual U-Net in Flax NNX, for any set of channels, in 2.5D or 3D.

A slice is segmented from itself and its neighbours in every channel, all stacked as features of
a 2D image: ``(batch, y, x, window * channel)``. The first kernel is made from what is known of
each channel (`ChannelStem`), so the same weights serve any number of them. Only 2D convolutions,
resize + convolution to go up, normalisation per pixel and no dropout: fast on CPUs, and a model
that holds parameters only, so that the same code runs in NNX graph and tree mode. A 3D
convolution is a 2D one over three neighbouring slices stacked as features, which CPUs do several
times faster than a 3D one.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from fibnet.channels import CONDITIONS
from fibnet.convolution import convolve

__all__ = [
    "ChannelStem",
    "ModelConfig",
    "UNet",
    "count_parameters",
    "make_model",
    "neighbours",
    "stack_windows",
    "used_logits",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of a `UNet`.

    Attributes:
        window: slices seen at once by the first layer, odd; the middle one is segmented.
        widths: features per level, finest first; every further level halves the image.
        blocks: residual blocks per level and side.
        fold: pixels folded into features before the first level, to one side; 2 makes the
            network four times cheaper per feature and unfolds the logits at the end.
        volume: whether every residual block also sees the slices above and below (3D); else
            slices meet in the first layer alone (2.5D).
        mirrored: whether a stack is also segmented from its mirror image, see `used_logits`;
            weights and training are the same.
    """

    window: int = 7
    widths: tuple[int, ...] = (16, 32, 64)
    blocks: int = 1
    fold: int = 1
    volume: bool = False
    mirrored: bool = False

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

    @property
    def slice_radius(self) -> int:
        """Slices that can influence an output slice, to one side."""
        blocks = self.blocks * (2 * len(self.widths) - 1)
        return self.window // 2 + blocks * self.volume


def _conv(inputs: int, outputs: int, size: int, *, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(
        inputs, outputs, (size, size), conv_general_dilated=_plain_convolution, rngs=rngs
    )


def _plain_convolution(x: Array, kernel: Array, *_, **__) -> Array:
    """`convolve` in the place of XLA's convolution, whose options are all at their defaults."""
    return convolve(x, kernel)


Neighbours = tuple[Int[Array, " slice"], Int[Array, " slice"]]
"""For every slice the index of that above and that below it."""


def neighbours(slices: int, first: Array | int = 0, last: Array | int | None = None) -> Neighbours:
    """Neighbours of slices in order; those at the ends, ``first`` and ``last``, are their own."""
    last = slices - 1 if last is None else last
    index = jnp.arange(slices)
    return jnp.clip(index - 1, first, last), jnp.clip(index + 1, first, last)


def _with_neighbours(x: Array, beside: Neighbours) -> Array:
    """Every slice with those above and below as features."""
    above, below = beside
    return jnp.concatenate([x[above], x, x[below]], axis=-1)


class ChannelStem(nnx.Module):
    """First convolution, whose kernel is made from what is known of each channel.

    ``y = sum_c p_c K_c * x_c / sqrt(sum_c p_c) + b`` with ``p_c`` 1 for present channels, and
    ``K_c = sum_k a_k(h_c, m) B_k`` a mixture of learned kernels; ``h_c`` is a hidden layer over
    the channel's conditions and ``m`` its mean over the channels present: how a channel is used
    depends on which others there are. For a fixed set of channels this is an ordinary
    convolution, at the cost of one.
    """

    hidden, basis = 32, 16

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        taps, width = config.fold**2 * config.window, config.widths[0]
        self.describe = nnx.Linear(len(CONDITIONS), self.hidden, rngs=rngs)
        self.mix = nnx.Linear(2 * self.hidden, self.basis, rngs=rngs)
        self.shift = nnx.Linear(self.hidden, width, rngs=rngs)
        scale = (2.0 / (9 * taps * self.basis)) ** 0.5
        kernels = scale * jax.random.normal(rngs.params(), (self.basis, 3, 3, taps, width))
        self.kernels = nnx.Param(kernels)

    def __call__(
        self,
        x: Float[Array, "batch y x feature"],
        conditions: Float[Array, "channel condition"],
        present: Float[Array, " channel"],
    ) -> Float[Array, "batch y x width"]:
        number = jnp.maximum(present.sum(), 1.0)
        own = nnx.relu(self.describe(conditions))
        mean = present @ own / number
        together = jnp.concatenate([own, jnp.broadcast_to(mean, own.shape)], axis=1)
        weights = self.mix(together) * (present / jnp.sqrt(number))[:, None]
        # Features are ordered tap first, then channel.
        kernel = jnp.einsum("ck,kyxtw->yxtcw", weights, self.kernels[...])
        kernel = kernel.reshape(3, 3, -1, kernel.shape[-1])
        # Made in single precision, whatever the images' is.
        return convolve(x, kernel.astype(x.dtype)) + self.shift(mean).astype(x.dtype)


class ResidualBlock(nnx.Module):
    """``x + conv(act(conv(norm(x))))``; LayerNorm over the features of each pixel.

    Per-pixel normalisation keeps the network a local operator, so that tiles agree with the
    whole image exactly; GroupNorm over the image would tie every pixel to all others.
    """

    def __init__(self, width: int, *, volume: bool, rngs: nnx.Rngs):
        self.volume = volume
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.first = _conv(3 * width if volume else width, width, 3, rngs=rngs)
        self.second = _conv(width, width, 3, rngs=rngs)

    def __call__(self, x: Array, beside: Neighbours) -> Array:
        y = self.norm(x)
        if self.volume:
            y = _with_neighbours(y, beside)
        return x + self.second(nnx.relu(self.first(y)))


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

        def stage(width: int) -> nnx.List:
            return nnx.List(
                [
                    ResidualBlock(width, volume=config.volume, rngs=rngs)
                    for _ in range(config.blocks)
                ]
            )

        self.stem = ChannelStem(config, rngs=rngs)
        self.down = nnx.List([stage(width) for width in widths])
        self.wider = nnx.List([_conv(a, b, 1, rngs=rngs) for a, b in itertools.pairwise(widths)])
        self.narrower = nnx.List([_conv(b, a, 3, rngs=rngs) for a, b in itertools.pairwise(widths)])
        self.up = nnx.List([stage(width) for width in widths[:-1]])
        self.head = _conv(widths[0], config.fold**2, 1, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "slice y x feature"],
        conditions: Float[Array, "channel condition"],
        present: Float[Array, " channel"],
        beside: Neighbours | None = None,
    ) -> Float[Array, "slice y x"]:
        """Logits of all slices.

        Args:
            x: windows, see `stack_windows`.
            conditions: see `fibnet.channels.channel_conditions`.
            present: 1 for channels to use, 0 for those to leave out.
            beside: which slices lie next to each other (3D alone); `neighbours` if not given.
        """
        beside = neighbours(x.shape[0]) if beside is None else beside
        x = self.stem(_fold(x, self.fold), conditions, present)
        skips = []
        for level, blocks in enumerate(self.down):
            for block in blocks:
                x = block(x, beside)
            if level < len(self.wider):
                skips.append(x)
                x = self.wider[level](_halve(x))
        for level in reversed(range(len(self.up))):
            x = skips[level] + _double(self.narrower[level](x))
            for block in self.up[level]:
                x = block(x, beside)
        return _unfold(self.head(x), self.fold)[..., 0]


def used_logits(
    model: UNet,
    config: ModelConfig,
    x: Float[Array, "slice y x feature"],
    conditions: Float[Array, "channel condition"],
    present: Float[Array, " channel"],
    beside: Neighbours | None = None,
) -> Float[Array, "slice y x"]:
    """Logits that a segmentation is made of: the network's, or if it is ``mirrored``

        (f(x) + M f(M x)) / 2,    M: x -> -x

    Instruments and specimens are alike under M whatever the tilt, which is along y, and so is the
    training, but not the network: the mean has the errors of neither alone, at twice the cost.
    """
    logits = model(x, conditions, present, beside)
    if not config.mirrored:
        return logits
    return (logits + model(x[:, :, ::-1], conditions, present, beside)[..., ::-1]) / 2


def make_model(config: ModelConfig, *, seed: int) -> UNet:
    """A freshly initialised network."""
    return UNet(config, rngs=nnx.Rngs(seed))


def count_parameters(model: UNet) -> int:
    """Number of trainable numbers."""
    return sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param)))


def stack_windows(
    images: Float[Array, "channel slice y x"], window: int, *, alone: Array | bool = False
) -> Float[Array, "slice y x feature"]:
    """Gather each slice with its neighbours; beyond the ends the end slice repeats.

    Features are ordered slice offset first, then channel.

    Args:
        alone: whether every slice is seen as if it were the only one of its stack.
    """
    slices = images.shape[1]
    offsets = jnp.where(alone, 0, jnp.arange(window) - window // 2)
    index = jnp.clip(jnp.arange(slices)[:, None] + offsets, 0, slices - 1)
    gathered = images[:, index]  # (channel, slice, window, y, x)
    moved = gathered.transpose(1, 3, 4, 2, 0)
    return moved.reshape(slices, *images.shape[2:], -1)
