"""Training loss of the segmenter."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

__all__ = ["segmentation_loss", "soft_dice"]


def soft_dice(probability: Float[Array, "..."], solid: Float[Array, "..."]) -> Array:
    """``2 sum(p s) / sum(p^2 + s^2)``, 1 for perfect overlap; over the whole array.

    With squares in the denominator a fractional truth is best matched by itself
    (Milletari, Navab & Ahmadi 2016, doi 10.1109/3DV.2016.79).
    """
    overlap = 2 * jnp.sum(probability * solid) + 1.0
    return overlap / (jnp.sum(probability**2) + jnp.sum(solid**2) + 1.0)


def segmentation_loss(logit: Float[Array, "..."], solid: Float[Array, "..."]) -> Array:
    """Mean cross-entropy against the true solid fraction of each pixel.

    A proper score: its optimum is the calibrated probability, which is what the volume's
    uncertainty is read from. (A Dice term would sharpen probabilities beyond what is known.)
    """
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logit, solid))
