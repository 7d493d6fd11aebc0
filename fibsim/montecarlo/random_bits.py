"""Cheap random numbers inside a kernel: one xoshiro128+ generator per lane.

Threefry costs a third of the transport's time; here every lane owns 128 bits of state, seeded from
a JAX key (Blackman & Vigna 2021, doi 10.1145/3460772). Its upper 24 bits make a float.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

__all__ = ["seed_lanes", "uniform"]


def seed_lanes(key: jax.Array, lanes: int) -> tuple[UInt32[Array, " lane"], ...]:
    """State of every lane."""
    words = jax.random.bits(key, (4, lanes), jnp.uint32)
    return tuple(words.at[0].set(words[0] | 1))  # the all-zero state would never leave zero


def _rotate(word: Array, bits: int) -> Array:
    return (word << bits) | (word >> (32 - bits))


def uniform(state: tuple[Array, ...]) -> tuple[tuple[Array, ...], Float[Array, " lane"]]:
    """Next state and a number in (0, 1), never exactly either."""
    s0, s1, s2, s3 = state
    value = s0 + s3
    shifted = s1 << 9
    s2, s3 = s2 ^ s0, s3 ^ s1
    s1, s0 = s1 ^ s2, s0 ^ s3
    s2, s3 = s2 ^ shifted, _rotate(s3, 11)
    number = ((value >> 8).astype(jnp.float32) + 0.5) * jnp.float32(2.0**-24)
    # 2^24 - 1/2 rounds to 2^24 in single precision.
    return (s0, s1, s2, s3), jnp.minimum(number, jnp.float32(1 - 2.0**-24))
