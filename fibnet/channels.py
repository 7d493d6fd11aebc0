"""What the network needs of every channel beside its images.

A few numbers say how a channel looks: its beam energy, its detector, how deep it sees. From these
the kernel of the network's first layer is made (`fibnet.model.ChannelStem`), so that one network
serves any set of channels.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fibsim.electrons import kanaya_okayama_range_nm
from fibsim.instrument import Instrument

__all__ = [
    "CONDITIONS",
    "ChannelInput",
    "channel_conditions",
    "channel_input",
    "grey_statistics",
    "normalised",
]

CONDITIONS = ("energy", "detector", "range", "slice", "tilt")
"""Names of the numbers, in order; see `channel_conditions`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ChannelInput:
    """How the network is to take the images of each channel.

    Attributes:
        mean, sd: grey values that are brought to 0 and 1.
        conditions: see `channel_conditions`.
    """

    mean: Float[Array, " channel"]
    sd: Float[Array, " channel"]
    conditions: Float[Array, "channel condition"]

    def select(self, channels: Sequence[int]) -> "ChannelInput":
        """Those of some channels, in the order given."""
        index = jnp.asarray(list(channels))
        return jax.tree.map(lambda v: v[index], self)


def channel_conditions(instrument: Instrument) -> Float[Array, "channel condition"]:
    """Five numbers of order one per channel. Traceable.

    * energy: ``log2(E / 2 keV)``;
    * detector: ``2 f - 1`` with the weight ``f`` of secondaries in the signal, near 1 for SE and
      -1 for BSE;
    * range: ``log2(R / (10 pixels)) / 2`` of the Kanaya-Okayama range R in the solid (1972,
      doi 10.1088/0022-3727/5/1/308): how deep the channel sees, in what the network counts in;
    * slice: ``log2(slice thickness / (2.5 pixels))``;
    * tilt: ``tan(tilt) / tan(38 degrees)``: how far deep structure appears displaced.
    """
    geometry, energy = instrument.geometry, instrument.beam_kev
    reach = kanaya_okayama_range_nm(energy, instrument.solid) / geometry.pixel_nm
    slices = jnp.log2(geometry.slice_nm / geometry.pixel_nm / 2.5)
    tilt = jnp.tan(jnp.deg2rad(geometry.tilt_deg)) / jnp.tan(jnp.deg2rad(38.0))
    columns = (
        jnp.log2(energy / 2.0),
        2 * instrument.detector.se_fraction - 1,
        jnp.log2(reach / 10.0) / 2,
        slices,
        tilt,
    )
    return jnp.stack([jnp.broadcast_to(c, energy.shape) for c in columns], axis=1)


def normalised(images: Float[Array, "channel slice y x"], channels: ChannelInput) -> Array:
    """``(grey - mean) / sd`` per channel."""
    each = (slice(None), None, None, None)
    return (images - channels.mean[each]) / channels.sd[each]


def grey_statistics(
    stacks: Sequence[Float[Array, "channel slice y x"]] | Sequence[np.ndarray],
) -> tuple[Float[Array, " channel"], Float[Array, " channel"]]:
    """Mean and standard deviation per channel over some stacks. Traceable.

    Of simulated stacks for a network that is trained for one instrument: the constants exist
    before any real image is read, and simulated and real images are treated alike.
    """
    mean = jnp.stack([images.mean((1, 2, 3)) for images in stacks]).mean(0)
    square = jnp.stack([(images**2).mean((1, 2, 3)) for images in stacks]).mean(0)
    return mean, jnp.sqrt(jnp.maximum(square - mean**2, 1.0))


def channel_input(
    stacks: Sequence[Float[Array, "channel slice y x"]], instrument: Instrument
) -> ChannelInput:
    """How to take an instrument's channels, with the grey values of some stacks. Traceable."""
    mean, sd = grey_statistics(stacks)
    return ChannelInput(mean=mean, sd=sd, conditions=channel_conditions(instrument))
