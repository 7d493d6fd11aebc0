"""Dense ground below a porous specimen: the foil or wafer that a film grew on.

What shines through the pores then ends in a flat floor, and the last slices of a stack look
brighter in their pores than all others.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["Ground", "on_ground", "part_on_ground", "slices_to_ground"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ground:
    """Where a recorded stack's specimen ends in dense solid.

    Attributes:
        depth_nm: depth of the ground's flat top below the first imaged face.
        stack_nm: thickness of the recorded stack, slices times slice thickness.
    """

    depth_nm: Float[Array, ""]
    stack_nm: Float[Array, ""]


def part_on_ground(
    ground: Ground | None, thickness_nm: float, *, key: jax.Array
) -> Float[Array, ""] | None:
    """Depth of the ground below the first face of a part of the stack, at a random place."""
    if ground is None:
        return None
    room = jnp.maximum(ground.stack_nm - thickness_nm, 0.0)
    return ground.depth_nm - room * jax.random.uniform(key)


def slices_to_ground(ground: Ground | None, slice_nm: float) -> float:
    """Depth of the ground below the first face in slices, infinite without ground."""
    return float("inf") if ground is None else float(ground.depth_nm) / slice_nm


def on_ground(
    solid: Float[Array, "z y x"], depth_nm: Float[Array, ""] | None, *, layer_nm: float
) -> Float[Array, "z y x"]:
    """A specimen with all below a depth dense: ``s + g - s g``, g being each layer's ground.

    Traceable, and differentiable in both; an infinite depth, or none, changes nothing.

    Args:
        depth_nm: of the ground's top below the specimen's.
        layer_nm: height of the specimen's voxels.
    """
    if depth_nm is None:
        return solid
    bottom = layer_nm * jnp.arange(1, solid.shape[0] + 1, dtype=solid.dtype)
    share = jnp.clip((bottom - depth_nm) / layer_nm, 0.0, 1.0)[:, None, None]
    return solid + share - solid * share
