"""A small convolutional network that learns to tell simulated patches from real ones.

Three layers of 3 x 3 convolutions over pixels, in which channels and slices are features, each
followed by a ReLU and the first two by 2 x 2 averages. The head is linear in mean and logarithmic
standard deviation of every layer's features over the patch, so that noise and texture are seen
from the first step on and shapes as the deeper layers learn them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

__all__ = ["Network", "TrainSettings", "network_logits", "train_network"]

_FEATURES = (16, 32, 64)
_AVERAGED = 2
_FIRST = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How the classifiers are trained.

    Attributes:
        patches: of each side, from all over the stacks, to train on those outside the guard.
        steps: optimiser steps of the network.
        batch: patches of each side per step.
        learning_rate: of AdamW, falling to zero on a cosine.
        weight_decay: of AdamW.
    """

    patches: int = 2400
    steps: int = 300
    batch: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2


class Network(NamedTuple):
    """Weights and biases of the layers and of the head.

    Attributes:
        layers: kernels ``(y, x, before, after)`` and biases.
        head: weights ``(feature,)`` and bias.
        centre, scale: constants that standardise the head's features; ``(feature,)``.
    """

    layers: list[tuple[Array, Array]]
    head: tuple[Array, Array]
    centre: Array
    scale: Array


def _halve(x: Float[Array, "patch y x feature"]) -> Array:
    y, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    x = x[:, :y, :w]
    return x.reshape(x.shape[0], y // 2, 2, w // 2, 2, x.shape[3]).mean((2, 4))


def _features(
    layers: list[tuple[Array, Array]], patches: Float[Array, "patch channel slice y x"]
) -> Float[Array, "patch feature"]:
    x = patches.reshape(patches.shape[0], -1, *patches.shape[3:]).transpose(0, 2, 3, 1)
    found = []
    for i, (kernel, bias) in enumerate(layers):
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + bias)
        # A feature that is zero all over would have an infinite logarithm.
        found += [x.mean((1, 2)), 0.5 * jnp.log(x.var((1, 2)) + 1e-4)]
        if i < _AVERAGED:
            x = _halve(x)
    return jnp.concatenate(found, axis=1)


def _initial(patches: np.ndarray, key: jax.Array) -> Network:
    """He's normal weights (He, Zhang, Ren & Sun 2015, doi 10.1109/ICCV.2015.123); the head 0.

    The head's features are standardised over ``patches``.
    """
    layers, before = [], patches.shape[1] * patches.shape[2]
    for one, after in zip(jax.random.split(key, len(_FEATURES)), _FEATURES, strict=True):
        kernel = jax.random.normal(one, (3, 3, before, after)) * (2 / (9 * before)) ** 0.5
        layers.append((kernel, jnp.zeros(after)))
        before = after
    first = _features(layers, patches)
    centre, scale = first.mean(0), first.std(0) + 1e-3
    return Network(layers, (jnp.zeros_like(centre), jnp.zeros(())), centre, scale)


def _logits(network: Network, patches: Array) -> Float[Array, " patch"]:
    weight, bias = network.head
    return (_features(network.layers, patches) - network.centre) / network.scale @ weight + bias


@functools.cache
def _optimiser(settings: TrainSettings) -> optax.GradientTransformation:
    schedule = optax.cosine_decay_schedule(settings.learning_rate, settings.steps)
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, weight_decay=settings.weight_decay),
    )


@functools.partial(jax.jit, static_argnames="settings")
def _step(network, state, patches, simulated, settings):
    def loss_of(trained):
        logits = _logits(Network(*trained, network.centre, network.scale), patches)
        return optax.sigmoid_binary_cross_entropy(logits, simulated).mean()

    trained = (network.layers, network.head)
    gradient = jax.grad(loss_of)(trained)
    update, state = _optimiser(settings).update(gradient, state, trained)
    return Network(*optax.apply_updates(trained, update), network.centre, network.scale), state


Pool = Float[np.ndarray, "patch channel slice y x"]


def train_network(
    real: Pool,
    simulated: Pool,
    *,
    key: jax.Array,
    settings: TrainSettings,
    progress: Callable[[], None] | None = None,
) -> Network:
    """Minimise the cross-entropy over random patches of both, half of them mirrored in x.

    Not mirrored in y, towards which the beam leans, nor in z.

    Args:
        real, simulated: patches to train on, standardised.
        key: decides weights and batches.
        progress: called after every step.
    """
    key_weights, key_batches = jax.random.split(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key_batches)).ravel())
    network = _initial(np.concatenate([real[:_FIRST], simulated[:_FIRST]]), key_weights)
    state = _optimiser(settings).init((network.layers, network.head))
    truth = np.repeat(np.float32([0, 1]), settings.batch)
    for _ in range(settings.steps):
        patches = np.concatenate(
            [side[rng.integers(len(side), size=settings.batch)] for side in (real, simulated)]
        )
        mirrored = rng.random(len(patches)) < 0.5
        patches[mirrored] = patches[mirrored][..., ::-1]
        network, state = _step(network, state, patches, truth, settings)
        if progress is not None:
            progress()
    return network


_logits_of_batch = jax.jit(_logits)


def network_logits(network: Network, patches: Pool, *, batch: int = 64) -> np.ndarray:
    """Log odds that patches are simulated; the mean of each and its mirror image in x."""
    found = []
    for first in range(0, len(patches), batch):
        some = patches[first : first + batch]
        # One shape, one compilation: the last batch is filled up.
        filled = np.concatenate([some, np.repeat(some[:1], batch - len(some), axis=0)])
        both = _logits_of_batch(network, filled) + _logits_of_batch(network, filled[..., ::-1])
        found.append(np.asarray(both)[: len(some)] / 2)
    return np.concatenate(found)
