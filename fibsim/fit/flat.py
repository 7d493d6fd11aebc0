"""A dictionary of free variables as one vector."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fibsim.fit.unknowns import Unknown

__all__ = ["Flat", "flatten_free"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flat:
    """A dictionary of free variables as one vector.

    Attributes:
        names: of its numbers, as ``detector.gain[0]``.
        prior_sd: of each.
        lowest: value of each that it cannot fall below, 0 for sizes, else minus infinity.
    """

    keys: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    prior_sd: Float[np.ndarray, " unknown"]
    lowest: Float[np.ndarray, " unknown"]

    def join(self, free: Mapping[str, jax.Array]) -> np.ndarray:
        return np.concatenate([np.ravel(np.asarray(free[k], float)) for k in self.keys])

    def split(self, vector: np.ndarray) -> dict[str, jax.Array]:
        out, at = {}, 0
        for key, shape in zip(self.keys, self.shapes, strict=True):
            size = int(np.prod(shape))
            out[key] = jnp.asarray(np.reshape(vector[at : at + size], shape), jnp.float32)
            at += size
        return out


def flatten_free(free: Mapping[str, jax.Array], unknowns: Mapping[str, Unknown]) -> Flat:
    """How to turn these free variables into a vector and back."""
    names, sd, lowest, shapes = [], [], [], []
    for key, value in free.items():
        shape = np.shape(value)
        shapes.append(shape)
        size = int(np.prod(shape))
        names += [f"{key}[{i}]" for i in range(size)] if shape else [key]
        sd += [unknowns[key].prior_sd] * size
        lowest += [0.0 if unknowns[key].transform == "size" else -np.inf] * size
    return Flat(
        keys=tuple(free),
        shapes=tuple(shapes),
        names=tuple(names),
        prior_sd=np.asarray(sd),
        lowest=np.asarray(lowest),
    )
