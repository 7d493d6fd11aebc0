"""Stacks of a training step, shared out among the devices of one machine.

Every device simulates its own stacks and finds their gradient; the mean over all devices is what
the weights, of which each holds a copy, are moved by. So a step depends on how many stacks it has,
not on how many devices there are (but for rounding).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["each_own", "held_by_all", "shared_out", "stack_devices", "stacked", "unstacked"]

_STACKS = "stack"  # name of the axis along which stacks are shared out
_WHOLE = jax.sharding.PartitionSpec()
_OWN = jax.sharding.PartitionSpec(_STACKS)


def stack_devices(stacks: int) -> int:
    """How many devices share: as many as there are, but so that all get the same number."""
    most = min(stacks, jax.device_count())
    return max(n for n in range(1, most + 1) if stacks % n == 0)


def _mesh(devices: int) -> jax.sharding.Mesh:
    return jax.sharding.Mesh(jax.devices()[:devices], (_STACKS,))


def held_by_all(tree: Any, devices: int) -> Any:
    """The same arrays, a copy on each of the devices."""
    return jax.device_put(tree, jax.sharding.NamedSharding(_mesh(devices), _WHOLE))


def shared_out(tree: Any, devices: int) -> Any:
    """The same arrays, every device's part of their first axis on it."""
    return jax.device_put(tree, jax.sharding.NamedSharding(_mesh(devices), _OWN))


def each_own(
    function: Callable, *arguments: Any, own: tuple[bool, ...], devices: int, mean: bool = False
) -> Any:
    """Apply a function on every device to its part of the arguments. Traceable.

    Args:
        own: which arguments are shared out along the first axis of their arrays; of the others
            every device has the whole.
        mean: give the mean of what the devices find, in the place of their results along a first
            axis that each makes part of.
    """

    def on_one(*arguments):
        found = function(*arguments)
        return jax.lax.pmean(found, _STACKS) if mean else found

    return jax.shard_map(
        on_one,
        mesh=_mesh(devices),
        in_specs=tuple(_OWN if o else _WHOLE for o in own),
        out_specs=_WHOLE if mean else _OWN,
        check_vma=False,
    )(*arguments)


def stacked(trees: list[Any]) -> Any:
    """One tree whose arrays are those of the given ones along a new first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstacked(tree: Any) -> list[Any]:
    """The inverse of `stacked`, on the first device."""
    here = jax.device_put(tree, jax.devices()[0])
    leaves, structure = jax.tree.flatten(here)
    return [jax.tree.unflatten(structure, own) for own in zip(*leaves, strict=True)]
