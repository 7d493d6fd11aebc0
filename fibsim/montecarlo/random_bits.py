"""Cheap random numbers inside a kernel: a hash of the lane's key and a counter.

Threefry costs a third of the transport's time, and a generator with state has to store it after
every number. Here every lane owns a key of 64 bits, drawn from a JAX key, and its n-th number is
``mix(mix(n + key_0) xor key_1)``, mix being the 32-bit finaliser of MurmurHash3 (A. Appleby); the
idea of counters through a keyed mixing function is that of Salmon et al. 2011 (doi
10.1145/2063384.2063405). Numbers of a lane repeat after 2^32. The upper 24 bits make a float.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

__all__ = ["seed_lanes", "uniform"]


def seed_lanes(key: jax.Array, lanes: int) -> tuple[UInt32[Array, " lane"], UInt32[Array, " lane"]]:
    """Key of every lane."""
    words = jax.random.bits(key, (2, lanes), jnp.uint32)
    return words[0], words[1]


def _mix(word: Array) -> Array:
    word = (word ^ (word >> 16)) * jnp.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * jnp.uint32(0xC2B2AE35)
    return word ^ (word >> 16)


def uniform(
    keys: tuple[UInt32[Array, " lane"], UInt32[Array, " lane"]], number: UInt32[Array, ""]
) -> Float[Array, " lane"]:
    """The lanes' ``number``-th number in (0, 1), never exactly either."""
    word = _mix(_mix(keys[0] + number) ^ keys[1])
    value = ((word >> 8).astype(jnp.int32).astype(jnp.float32) + 0.5) * jnp.float32(2.0**-24)
    # 2^24 - 1/2 rounds to 2^24 in single precision.
    return jnp.minimum(value, jnp.float32(1 - 2.0**-24))
