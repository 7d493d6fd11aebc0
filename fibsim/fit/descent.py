"""Following a noisy objective downhill: the optimiser, and what is taken of its path."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax

__all__ = ["limited_adam", "mean_of_last_quarter", "update_by"]

Values = TypeVar("Values")
State = TypeVar("State")


def limited_adam(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Adam whose rate falls to a tenth on a cosine, and whose gradient's norm is at most 1: a
    single unlucky draw must not throw the path."""
    rate = optax.cosine_decay_schedule(learning_rate, max(steps, 1), alpha=0.1)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.98))


def update_by(optimiser: optax.GradientTransformation):
    """A jitted step ``(gradient, state, values) -> values, state``.

    Apart from the program of the gradient, which takes long to compile and is the same for all
    optimisers.
    """

    @jax.jit
    def update(gradient, state, values):
        gradient = jax.tree.map(jnp.nan_to_num, gradient)
        change, state = optimiser.update(gradient, state, values)
        return optax.apply_updates(values, change), state

    return update


def mean_of_last_quarter(
    start: Values,
    state: State,
    steps: int,
    step: Callable[[int, Values, State], tuple[Values, State]],
) -> Values:
    """Apply ``step`` repeatedly; the mean of the last quarter of what it returns.

    The last value alone would be as scattered as the last few gradients were.
    """
    values, tail = start, steps - max(steps // 4, 1)
    mean = jax.tree.map(jnp.zeros_like, start)
    for i in range(steps):
        values, state = step(i, values, state)
        if i >= tail:
            mean = jax.tree.map(lambda m, v: m + v / (steps - tail), mean, values)
    return mean if steps else start
