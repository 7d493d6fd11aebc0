"""What changes a network's weights: loss, optimiser and running mean of one step, jitted."""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from flax import nnx
from jaxtyping import Array, Float

from fibnet.channels import ChannelInput, normalised
from fibnet.devices import each_own
from fibnet.losses import segmentation_loss, soft_dice
from fibnet.model import ModelConfig, UNet, neighbours, stack_windows, used_logits
from fibnet.segmenter import graph_of

__all__ = ["Labelled", "Learner", "Pace", "Precision", "draw_present", "mean_weights"]

Precision = Literal["float32", "bfloat16"]

Labelled = tuple[Array, Array, ChannelInput]
"""Images ``(channel, slice, y, x)``, true solid fraction ``(slice, y, x)``, how to take them."""


def _cast(params, dtype):
    """Weights for arithmetic of a type; a stem makes its kernel in single precision first."""

    def cast(path, leaf):
        return leaf if path[0].key == "stem" else leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, params)


def _logits(
    config: ModelConfig,
    params,
    images: Array,
    channels: ChannelInput,
    present: Array | None = None,
    alone: Array | bool = False,
    precision: Precision = "float32",
    *,
    learned: bool = True,
) -> Float[Array, "slice y x"]:
    """Of the network, as it learns or as it is used (`used_logits`)."""
    dtype = jnp.dtype(precision)
    model: UNet = nnx.merge(graph_of(config)[0], _cast(params, dtype))
    windows = stack_windows(normalised(images, channels).astype(dtype), config.window, alone=alone)
    present = jnp.ones(images.shape[0]) if present is None else present
    index = jnp.arange(images.shape[1])
    beside = tuple(jnp.where(alone, index, n) for n in neighbours(images.shape[1]))
    seen = windows, channels.conditions, present, beside
    logits = model(*seen) if learned else used_logits(model, config, *seen)
    return logits.astype(jnp.float32)


def draw_present(key: Array, channels: int, dropping: Array | float) -> Float[Array, " channel"]:
    """1 for every channel, or with probability ``dropping`` a random part of them.

    Any number from one to all but one is equally likely, and any such part.
    """
    key_drop, key_number, key_order = jax.random.split(key, 3)
    if channels == 1:
        return jnp.ones(1)
    number = jax.random.randint(key_number, (), 1, channels)
    part = jax.random.permutation(key_order, channels) < number
    return jnp.where(jax.random.bernoulli(key_drop, dropping), part, True).astype(float)


def _kernel_axes(params):
    """What Muon takes for a matrix: kernels ``(..., y, x, in, out)``, a stem's one by one."""

    def axes(leaf):
        # The head's few outputs are no matrix to speak of.
        if leaf.ndim < 4 or leaf.shape[-1] <= 4:
            return None
        last = leaf.ndim - 1
        return optax.contrib.MuonDimensionNumbers(
            reduction_axis=(last - 3, last - 2, last - 1), output_axis=last
        )

    return jax.tree.map(axes, params)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """Numbers of one step that are no part of its program (`fibnet.train.paces`)."""

    learning_rate: Any
    vector_rate: Any
    ema: Any
    channel_dropping: Any
    slices_alone: Any


def _optimiser(learning_rate, vector_rate) -> optax.GradientTransformation:
    """Muon for convolutions (Jordan et al. 2024), Adam for the rest.

    Muon takes a kernel for the matrix from all it reads to all it writes and makes the update's
    singular values alike. In 500 steps it came further than AdamW in 2000.
    """
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.contrib.muon(
            learning_rate,
            adam_learning_rate=vector_rate,
            muon_weight_dimension_numbers=_kernel_axes,
        ),
    )


@functools.partial(jax.jit, static_argnums=0)
def _random_weights(config: ModelConfig, key: Array):
    """Of a new network; one program, where every layer would compile its own."""
    return nnx.split(UNet(config, rngs=nnx.Rngs(key)))[1]


@dataclasses.dataclass(frozen=True)
class Learner:
    """The jitted functions that change weights; the loop is `fibnet.train.run_training`.

    Compared by value, and of the architecture alone: a second training of the same network
    compiles nothing, whatever its length and pace.

    Attributes:
        config: architecture.
        precision: of the network's arithmetic.
        devices: over how many the stacks of a step are shared out.
    """

    config: ModelConfig
    precision: Precision = "float32"
    devices: int = 1

    def _loss(self, params, labelled: Labelled, key: Array, pace: Pace) -> Float[Array, ""]:
        """Of one stack, from which channels and neighbours may be left out."""
        images, solid, channels = labelled
        key_present, key_alone = jax.random.split(key)
        present = draw_present(key_present, images.shape[0], pace.channel_dropping)
        alone = jax.random.bernoulli(key_alone, pace.slices_alone)
        logit = _logits(self.config, params, images, channels, present, alone, self.precision)
        return segmentation_loss(logit, solid)

    def _mean_loss(self, params, batch: Labelled, keys: Array, pace: Pace):
        """Mean over stacks, and its gradient."""

        def mean(params):
            return jax.vmap(self._loss, in_axes=(None, 0, 0, None))(
                params, batch, keys, pace
            ).mean()

        return jax.value_and_grad(mean)(params)

    @functools.partial(jax.jit, static_argnums=0)
    def step(self, state, batch: Labelled, key: Array, pace: Pace):
        """New state and mean loss of a batch: stacks along a new first axis of every array."""
        keys = jax.random.split(key, batch[0].shape[0])
        loss, gradient = each_own(
            self._mean_loss,
            state["params"],
            batch,
            keys,
            pace,
            own=(False, True, True, False),
            devices=self.devices,
            mean=True,
        )
        optimiser = _optimiser(pace.learning_rate, pace.vector_rate)
        update, moments = optimiser.update(gradient, state["optimiser"], state["params"])
        params = optax.apply_updates(state["params"], update)
        decay = pace.ema
        ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state["ema"], params)
        # An average that starts at the random first weights must be freed of them.
        weight = decay * state["ema_weight"] + (1 - decay)
        return dict(params=params, optimiser=moments, ema=ema, ema_weight=weight), loss

    @functools.partial(jax.jit, static_argnums=0)
    def validate(self, params, labelled: Labelled):
        """Loss, Dice and logits of one stack, all of its channels used, in single precision."""
        images, solid, channels = labelled
        logit = _logits(self.config, params, images, channels, learned=False)
        hard = (logit > 0).astype(logit.dtype), (solid > 0.5).astype(logit.dtype)
        return segmentation_loss(logit, solid), soft_dice(*hard), logit

    def fresh(self, seed: int, params=None):
        """The state before the first step, from given or from random weights."""
        if params is None:
            params = _random_weights(self.config, jax.random.key(seed))
        return dict(
            params=params,
            optimiser=_optimiser(0.0, 0.0).init(params),
            ema=jax.tree.map(jnp.zeros_like, params),
            ema_weight=jnp.zeros(()),
        )


def mean_weights(state):
    """The running mean, on the first device."""
    mean = jax.tree.map(lambda e: e / jnp.maximum(state["ema_weight"], 1e-8), state["ema"])
    return jax.device_put(mean, jax.devices()[0])
