"""Fractions and probabilities that hold what they say: temperature scaling.

Logits divided by one number, chosen on simulated stacks that the network has not learned from
(Guo et al. 2017, arXiv 1706.04599). There are two: a pixel across which a wall runs is expected to
be, say, 0.3 solid, and yet it may be almost certain that less than half of it is.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fibnet.losses import segmentation_loss

__all__ = ["TEMPERATURES", "best_temperature", "label_probability"]

TEMPERATURES = tuple(np.geomspace(0.25, 2.0, 91).tolist())
"""What is tried: steps of 2.3 %, which moves no probability by more than 0.007."""


@jax.jit
def _losses(logit: Array, solid: Array) -> Float[Array, " temperature"]:
    return jax.lax.map(lambda t: segmentation_loss(logit / t, solid), jnp.asarray(TEMPERATURES))


def best_temperature(
    logits: Sequence[Float[Array, "..."]], solids: Sequence[Float[Array, "..."]]
) -> float:
    """The temperature of least cross-entropy against the truth, all stacks alike.

    Args:
        solids: true solid fraction of each pixel, or its label, in [0, 1].
    """
    total = sum(np.asarray(_losses(a, b)) for a, b in zip(logits, solids, strict=True))
    return float(TEMPERATURES[int(np.argmin(total))])


def label_probability(
    fraction: Float[np.ndarray, "..."], temperature: float, label_temperature: float
) -> Float[np.ndarray, "..."]:
    """Probability that more than half of a pixel is solid, from its expected solid fraction.

    ``sigmoid(T / T_label logit(fraction))``; one half stays one half.

    Args:
        temperature, label_temperature: T and T_label, see `fibnet.segmenter.Segmenter`.
    """
    from scipy.special import expit, logit

    given = np.asarray(fraction, np.float32)
    return expit(np.float32(temperature / label_temperature) * logit(given))
