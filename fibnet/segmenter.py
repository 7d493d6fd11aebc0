"""A trained network with all that its use needs, and how it is kept on disk."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fibnet.checkpoint import latest_step, load_checkpoint, load_description, save_checkpoint
from fibnet.model import ModelConfig, make_model
from fibsim.errors import InputError

__all__ = ["Segmenter", "graph_of", "load_segmenter", "normalised", "save_segmenter"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segmenter:
    """A trained network.

    Attributes:
        config: architecture.
        params: weights.
        mean, sd: grey-value constants per channel that normalise the input.
        beam_kev, detectors: the channels it was trained for, in order.
    """

    config: ModelConfig
    params: Any
    mean: Float[Array, " channel"]
    sd: Float[Array, " channel"]
    beam_kev: tuple[float, ...]
    detectors: tuple[str, ...]


def graph_of(config: ModelConfig) -> tuple[Any, Any]:
    """Static graph and abstract parameters of an architecture; nothing is computed."""
    return nnx.split(nnx.eval_shape(lambda: make_model(config, seed=0)))


def normalised(images: Array, mean: Array, sd: Array) -> Array:
    """``(grey - mean) / sd`` per channel of ``(channel, slice, y, x)``."""
    each = (slice(None), None, None, None)
    return (images - mean[each]) / sd[each]


def save_segmenter(folder: str | Path, segmenter: Segmenter) -> None:
    """Write weights and description as one checkpoint below ``folder``."""
    arrays = {"params": segmenter.params, "mean": segmenter.mean, "sd": segmenter.sd}
    description = {
        "config": dataclasses.asdict(segmenter.config),
        "beam_kev": list(segmenter.beam_kev),
        "detectors": list(segmenter.detectors),
    }
    save_checkpoint(Path(folder), 0, arrays, description)


def load_segmenter(folder: str | Path) -> Segmenter:
    """Read what `save_segmenter` wrote.

    Raises:
        InputError: the folder holds no network, or a damaged one.
    """
    folder = Path(folder)
    step = latest_step(folder)
    if step is None:
        raise InputError(
            f"{folder} holds no trained network; give the folder that fibnet train wrote."
        )
    description = load_description(folder, step)
    try:
        fields = dict(description["config"])
        config = ModelConfig(**(fields | {"widths": tuple(fields["widths"])}))
        beam_kev = tuple(description["beam_kev"])
        detectors = tuple(description["detectors"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{folder} holds a checkpoint of a training, not a finished network; give the folder "
            "named by fibnet train -o."
        ) from error
    vector = jax.ShapeDtypeStruct((config.channels,), jnp.float32)
    abstract = {"params": graph_of(config)[1], "mean": vector, "sd": vector}
    arrays = load_checkpoint(folder, step, abstract)
    return Segmenter(config=config, beam_kev=beam_kev, detectors=detectors, **arrays)
