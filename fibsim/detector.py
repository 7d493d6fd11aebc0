"""From emitted electrons to the expected grey value."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from fibsim.resample import filter_lateral

__all__ = ["grey_value", "mix_signal", "probe_blur"]


def mix_signal(secondary: Array, backscatter: Array, se_fraction: Float[Array, ""]) -> Array:
    """Detected electrons per beam electron, ``f S + (1 - f) B``."""
    return se_fraction * secondary + (1.0 - se_fraction) * backscatter


def probe_blur(
    signal: Float[Array, "... y x"],
    probe_nm: Float[Array, ""],
    pixel_nm: Float[Array, ""],
    *,
    periodic: bool,
) -> Array:
    """Convolve with the Gaussian probe of standard deviation ``probe_nm``."""

    def transfer(q2):
        return jnp.exp(-q2 * (probe_nm / pixel_nm) ** 2 / 2)

    return filter_lateral(signal, transfer, periodic=periodic)


def grey_value(signal: Array, gain: Float[Array, ""], offset: Float[Array, ""]) -> Array:
    """``offset + gain * signal``; saturation belongs to `fibsim.noise`, after the noise."""
    return offset + gain * signal
