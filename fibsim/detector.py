"""From emitted electrons to the expected grey value."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from fibsim.resample import filter_lateral

__all__ = ["grey_value", "mix_signal", "probe_blur"]

_DARKEST = 0.01


def mix_signal(secondary: Array, backscatter: Array, se_fraction: Float[Array, ""]) -> Array:
    """Detected electrons per beam electron, ``f S + (1 - f) B``."""
    return se_fraction * secondary + (1.0 - se_fraction) * backscatter


def probe_blur(
    signal: Float[Array, "... y x"],
    probe_nm: Float[Array, ""],
    pixel_nm: Float[Array, ""],
    *,
    astigmatism: Float[Array, ""] | float = 0.0,
    astigmatism_diagonal: Float[Array, ""] | float = 0.0,
    periodic: bool,
) -> Array:
    """Convolve with the Gaussian probe, an ellipse if the column is astigmatic.

    Its covariance is ``probe_nm^2 [[1 - a, d], [d, 1 + a]]`` in (y, x), so that its variance,
    averaged over directions, stays ``probe_nm^2``: ``a`` is `astigmatism`, ``d`` its part along
    the diagonals; ``a^2 + d^2 < 1``.
    """

    def transfer(q_y, q_x):
        form = (1 - astigmatism) * q_y**2 + (1 + astigmatism) * q_x**2
        form = form + 2 * astigmatism_diagonal * q_y * q_x
        return jnp.exp(-form * (probe_nm / pixel_nm) ** 2 / 2)

    return filter_lateral(signal, transfer, periodic=periodic, isotropic=False)


def grey_value(
    signal: Array,
    gain: Float[Array, ""],
    offset: Float[Array, ""],
    gamma: Float[Array, ""] | float = 1.0,
) -> Array:
    """``offset + gain * signal^gamma``; saturation belongs to `fibsim.noise`, after the noise.

    Below a hundredth of an electron per beam electron the power goes on as a straight line, so
    that darkness has a finite slope whatever gamma is.
    """
    bent = jnp.maximum(signal, _DARKEST) ** gamma
    straight = signal * jnp.asarray(_DARKEST, signal.dtype) ** (gamma - 1.0)
    return offset + gain * jnp.where(signal > _DARKEST, bent, straight)
