"""A trained network with all that its use needs, and how it is kept on disk."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fibnet.channels import CONDITIONS, ChannelInput
from fibnet.checkpoint import latest_step, load_checkpoint, load_description, save_checkpoint
from fibnet.model import ModelConfig, make_model
from fibsim.errors import InputError

__all__ = ["Segmenter", "graph_of", "load_segmenter", "save_segmenter"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segmenter:
    """A trained network.

    Attributes:
        config: architecture.
        params: weights.
        channels: how it takes the channels it was trained for; None for a general network
            (`fibnet.pretrain`), which was trained for all.
        beam_kev, detectors: which these are, in the same order.
        temperature: logits divided by it are those of the expected solid fraction of a pixel.
        label_temperature: divided by it, of the probability that more than half of it is solid.
    """

    config: ModelConfig
    params: Any
    channels: ChannelInput | None
    beam_kev: tuple[float, ...]
    detectors: tuple[str, ...]
    temperature: float = 1.0
    label_temperature: float = 1.0

    def select(self, channels: Sequence[int]) -> "Segmenter":
        """The same network for some of its channels, or for another order of them."""
        assert self.channels is not None, "a general network has no channels of its own"
        return dataclasses.replace(
            self,
            channels=self.channels.select(channels),
            beam_kev=tuple(self.beam_kev[i] for i in channels),
            detectors=tuple(self.detectors[i] for i in channels),
        )


@functools.cache
def graph_of(config: ModelConfig) -> tuple[Any, Any]:
    """Static graph and abstract parameters of an architecture; nothing is computed."""
    return nnx.split(nnx.eval_shape(lambda: make_model(config, seed=0)))


def save_segmenter(folder: str | Path, segmenter: Segmenter) -> None:
    """Write weights and description as one checkpoint below ``folder``."""
    channels = segmenter.channels
    arrays = {"params": segmenter.params}
    if channels is not None:
        arrays["channels"] = dataclasses.asdict(channels)
    description = {
        "config": dataclasses.asdict(segmenter.config),
        "beam_kev": list(segmenter.beam_kev),
        "detectors": list(segmenter.detectors),
        "temperature": segmenter.temperature,
        "label_temperature": segmenter.label_temperature,
        "general": channels is None,
    }
    save_checkpoint(Path(folder), 0, arrays, description)


def load_segmenter(folder: str | Path) -> Segmenter:
    """Read what `save_segmenter` wrote.

    Raises:
        InputError: the folder holds no network, a damaged one, or one of an earlier version.
    """
    folder = Path(folder)
    step = latest_step(folder)
    if step is None:
        raise InputError(
            f"{folder} holds no trained network; give the folder that fibnet train wrote."
        )
    description = load_description(folder, step)
    if "config" not in description:
        raise InputError(
            f"{folder} holds a checkpoint of a training, not a finished network; give the folder "
            "named by fibnet train -o."
        )
    try:
        fields = dict(description["config"])
        config = ModelConfig(**(fields | {"widths": tuple(fields["widths"])}))
        beam_kev = tuple(description["beam_kev"])
        detectors = tuple(description["detectors"])
        temperature = float(description["temperature"])
        label_temperature = float(description["label_temperature"])
        general = bool(description["general"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder} holds a network of another version of fibnet; train again in a new folder."
        ) from error
    vector = jax.ShapeDtypeStruct((len(detectors),), jnp.float32)
    table = jax.ShapeDtypeStruct((len(detectors), len(CONDITIONS)), jnp.float32)
    abstract: dict[str, Any] = {"params": graph_of(config)[1]}
    if not general:
        abstract["channels"] = {"mean": vector, "sd": vector, "conditions": table}
    arrays = load_checkpoint(folder, step, abstract)
    return Segmenter(
        config=config,
        params=arrays["params"],
        channels=None if general else ChannelInput(**arrays["channels"]),
        beam_kev=beam_kev,
        detectors=detectors,
        temperature=temperature,
        label_temperature=label_temperature,
    )
