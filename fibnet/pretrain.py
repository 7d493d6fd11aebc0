"""A general network: trained on every instrument and specimen that we can think of.

It takes any one to four (and, less sure, up to eight) channels of any voltage, and is where the
training for a fitted instrument may begin; that then takes a fraction of the steps.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fibnet.channels import ChannelInput, channel_input
from fibnet.data import SimulatedData, Source, draw_training_stack
from fibnet.devices import unstacked
from fibnet.learner import Labelled
from fibnet.model import ModelConfig
from fibnet.segmenter import Segmenter
from fibnet.train import TrainSettings, draw_batch, run_training
from fibnet.training_log import Record
from fibsim.instrument import Instrument
from fibsim.interaction_table import interaction_table, tabulated_names
from fibsim.materials import material
from fibsim.presets import make_instrument
from fibsim.specimens import Ground

__all__ = ["CHANNELS", "Frame", "draw_frame", "draw_source", "pretrain"]

CHANNELS = 4
"""Channels of every simulated stack; of most steps some are left out."""

# (pixel, slice) in nm: what instruments record, from isotropic voxels to slices of four pixels.
_GRIDS = ((4.0, 10.0), (10.0, 10.0), (5.0, 20.0))
# Kind -> how often.
_KINDS = {"waves": 0.45, "hierarchical": 0.25, "spheres": 0.15, "fibres": 0.15}
_LIGAMENT_PX = (5.0, 16.0)
_FRACTION = (0.2, 0.8)
_ENERGY_KEV = (0.7, 10.0)
_BSE = 0.25
_ORTHOGONAL = 0.3  # share of machines whose beam meets the face at a right angle
_TILT_DEG = (34.0, 40.0)
_DOSE = (10.0, 300.0)
_PROBE_PX = (0.2, 0.8)
_ON_GROUND = 0.3  # share of specimens on dense ground that is seen from some of their slices
_BELOW = 10  # steps below the last slice (22 slices): five features of most specimens


def _between(rng: np.random.Generator, bounds: tuple[float, float], size=None):
    """Uniform in the logarithm."""
    low, high = np.log(bounds)
    return np.exp(rng.uniform(low, high, size))


def _specimen(rng: np.random.Generator, kind: str, pixel_nm: float) -> dict[str, float]:
    size = pixel_nm * _between(rng, _LIGAMENT_PX)
    fraction = rng.uniform(*_FRACTION)
    if kind == "hierarchical":
        return {
            "upper_fraction": rng.uniform(0.4, 0.8),
            "upper_ligament_nm": size * rng.uniform(2.0, 4.0),
            "lower_fraction": rng.uniform(0.4, 0.8),
            "lower_ligament_nm": size,
        }
    if kind == "waves":
        return {"solid_fraction": fraction, "ligament_nm": size}
    return {"solid_fraction": fraction, "radius_nm": size / (1.0 if kind == "spheres" else 2.0)}


def _instrument(rng: np.random.Generator, pixel_nm: float, slice_nm: float) -> Instrument:
    name = str(rng.choice(tabulated_names()))
    # One name for all, and the table as leaves: one program serves every material.
    solid = dataclasses.replace(
        material(name), name="any solid", kind="metal", table=interaction_table(name)
    )
    chosen = make_instrument(
        beam_kev=_between(rng, _ENERGY_KEV, CHANNELS),
        pixel_nm=pixel_nm,
        slice_nm=slice_nm,
        tilt_deg=0.0 if rng.random() < _ORTHOGONAL else rng.uniform(*_TILT_DEG),
        solid=solid,
    )
    backscatter = rng.random(CHANNELS) < _BSE
    fraction = np.where(backscatter, 0.03, rng.uniform(0.6, 0.97, CHANNELS))
    detector = dataclasses.replace(
        chosen.detector,
        se_fraction=jnp.asarray(fraction, float),
        probe_nm=jnp.asarray(pixel_nm * _between(rng, _PROBE_PX, CHANNELS), float),
    )
    noise = dataclasses.replace(
        chosen.noise, dose_electrons=jnp.asarray(_between(rng, _DOSE, CHANNELS), float)
    )
    return dataclasses.replace(chosen, detector=detector, noise=noise)


def _ground(rng: np.random.Generator, slice_nm: float) -> Ground:
    """Ground at most twenty slices below the stack, or infinitely deep."""
    depth = slice_nm * rng.uniform(0.0, 30.0) if rng.random() < _ON_GROUND else np.inf
    # A stack of no thickness: its parts begin with its first face.
    return Ground(depth_nm=jnp.asarray(depth, float), stack_nm=jnp.asarray(0.0))


@dataclasses.dataclass(frozen=True)
class Frame:
    """What the stacks of one training step have in common: one program simulates them all."""

    pixel_nm: float
    slice_nm: float
    kind: str


def draw_frame(rng: np.random.Generator) -> Frame:
    """A random grid and kind of specimen."""
    pixel_nm, slice_nm = _GRIDS[rng.integers(len(_GRIDS))]
    kind = str(rng.choice(list(_KINDS), p=list(_KINDS.values())))
    return Frame(pixel_nm, slice_nm, kind)


def draw_source(rng: np.random.Generator, frame: Frame) -> Source:
    """A random instrument and specimen, whose arrays lie in the machine's main memory.

    Materials are the 17 whose tables are shipped, energies 0.7 to 10 keV, every fourth channel
    of backscatter, doses 10 to 300 electrons a pixel, features 5 to 16 pixels wide;
    three of ten stand on dense ground, in the stack or below it.
    """
    # Of hundreds of small operations, each would cost a GPU more than it does a CPU.
    with jax.default_device(jax.devices("cpu")[0]):
        specimen = _specimen(rng, frame.kind, frame.pixel_nm)
        source = Source(
            instrument=_instrument(rng, frame.pixel_nm, frame.slice_nm),
            specimen={name: jnp.asarray(value, float) for name, value in specimen.items()},
            kind=frame.kind,
            slice_nm=frame.slice_nm,
            pixel_nm=frame.pixel_nm,
            ground=_ground(rng, frame.slice_nm),
        )
    return jax.tree.map(np.asarray, source)


@jax.jit
def _own_channels(images: jax.Array, instruments: Instrument) -> ChannelInput:
    """Every stack's channels from its own grey values, all that is known of it before a fit."""

    def of_one(images: jax.Array, instrument: Instrument) -> ChannelInput:
        return channel_input([images], instrument)

    return jax.vmap(of_one)(images, instruments)


def pretrain(
    config: ModelConfig,
    *,
    folder: Path,
    seed: int,
    settings: TrainSettings,
    data: SimulatedData,
    validation: int = 12,
    progress: Callable[[int, int, float], None] | None = None,
    record: Record | None = None,
) -> Segmenter:
    """Train a general network, or go on where a broken run of the same arguments stopped.

    Args:
        folder: for checkpoints and log, see `fibnet.train.run_training`.
        seed: decides weights and data.
        validation: stacks for validation lines and temperatures.
    """
    data = dataclasses.replace(data, below_slices=data.below_slices or _BELOW)
    keys = jax.random.split(jax.random.key(seed))

    def batch(numbers: np.ndarray, which: int) -> Labelled:
        frame = draw_frame(np.random.default_rng([seed, which, numbers[0]]))
        # From another stream than the frame.
        streams = [np.random.default_rng([seed, which, number, 1]) for number in numbers]
        sources = jax.tree.map(
            lambda *leaves: np.stack(leaves), *[draw_source(rng, frame) for rng in streams]
        )
        drawn_with = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(keys[which], numbers)
        images, solid = draw_batch(
            sources, drawn_with, draw=draw_training_stack, data=data, apart=True
        )
        return images, solid, _own_channels(images, sources.instrument)

    stacks = settings.stacks
    held_out = [
        one
        for first in range(0, validation, stacks)
        for one in unstacked(batch(np.arange(first, first + stacks), 1))
    ]
    params, temperature, label_temperature = run_training(
        lambda numbers: batch(numbers, 0),
        held_out[:validation],
        config,
        folder=folder,
        seed=seed,
        settings=settings,
        progress=progress,
        record=record,
    )
    return Segmenter(
        config=config,
        params=params,
        channels=None,
        beam_kev=(),
        detectors=(),
        temperature=temperature,
        label_temperature=label_temperature,
    )
