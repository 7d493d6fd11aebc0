"""What the experiments on segmentation share: train a network, and score it.

The error of a segmentation is ``1 - Dice``; of several stacks the mean. The truth is a solid
fraction per pixel; pixels that are half solid to the last bit, of voxels cut into few, count for
nothing.
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from fibnet.data import SimulatedData, Source, draw_training_stack, drawn_stacks
from fibnet.metrics import dice
from fibnet.model import ModelConfig
from fibnet.presets import NETWORKS
from fibnet.segment import predict
from fibnet.segmenter import Segmenter
from fibnet.train import TrainSettings, train
from fibsim.console import use_compilation_cache
from fibsim.fit import grey_levels
from fibsim.instrument import leaves_by_name, replace_by_name, select_channels
from fibsim.io import read_stack, read_volume

DATA = SimulatedData(slices=10, side_px=80)
Stacks = Sequence[tuple[np.ndarray, np.ndarray]]


def training_parser(doc: str) -> argparse.ArgumentParser:
    """A parser for the script of this docstring, with the options of its trainings."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--network", default="tiny", choices=list(NETWORKS))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def instrument_parser(doc: str, *, stacks: int) -> argparse.ArgumentParser:
    """The same for experiments on the fit of a stack, with ``stacks`` simulated ones to score."""
    parser = training_parser(doc)
    parser.add_argument("instrument", type=Path, help="instrument.yaml of a fit")
    parser.add_argument("--stack", type=Path, help="the fitted stack, to be scored on its truth")
    parser.add_argument("--truth", type=Path, help="its true labels or solid fractions")
    parser.add_argument("--stacks", type=int, default=stacks)
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options given; what is trained is printed above the table."""
    options = parser.parse_args()
    use_compilation_cache()
    print(f"network {options.network}, {options.steps} steps, {DATA.slices} x {DATA.side_px} px")
    return options


def with_channels(source: Source, channels: Sequence[int]) -> Source:
    """The source recording some of its channels."""
    return dataclasses.replace(source, instrument=select_channels(source.instrument, channels))


def changed(source: Source, name: str, law: Callable) -> Source:
    """The source with one number of its instrument changed."""
    value = law(leaves_by_name(source.instrument)[name])
    return dataclasses.replace(source, instrument=replace_by_name(source.instrument, {name: value}))


def channel_names(source: Source) -> list[str]:
    """``SE 1 kV`` and so on."""
    instrument = source.instrument
    pairs = zip(instrument.detectors, np.asarray(instrument.beam_kev), strict=True)
    return [f"{detector} {kev:g} kV" for detector, kev in pairs]


def trained(
    source,
    options: argparse.Namespace,
    *,
    config: ModelConfig | None = None,
    dropping: float = 0.0,
    draw: Callable = draw_training_stack,
    data: SimulatedData = DATA,
    others: Sequence[Source] = (),
    share: float = 0.0,
) -> Segmenter:
    """A network trained from scratch; its checkpoints are thrown away.

    Args:
        others: what ``share`` of the steps are of instead.
    """
    steps = options.steps
    settings = TrainSettings(
        steps=steps,
        ema=0.98,
        channel_dropping=dropping,
        other_kinds=share,
        checkpoint_every=steps,
        validate_every=steps,
    )
    config = config or NETWORKS[options.network]
    return trained_by(
        settings, source, config, seed=options.seed, data=data, draw=draw, others=others
    )


def trained_by(settings: TrainSettings, source, config: ModelConfig, **how) -> Segmenter:
    """A network trained as `fibnet.train.train` does; its checkpoints are thrown away."""
    with TemporaryDirectory() as folder:
        return train(source, config, folder=Path(folder), settings=settings, **how)


def hidden(
    source: Source,
    number: int,
    *,
    draw: Callable = draw_training_stack,
    data: SimulatedData = DATA,
    seed: int = 1000,
) -> Stacks:
    """Simulated stacks that no training sees, with their solid."""
    return list(drawn_stacks(source, data, draw=draw, seed=seed, number=number))


def scaled_to(images: np.ndarray, segmenter: Segmenter) -> np.ndarray:
    """Every channel with the mean and standard deviation of the network's training images: what
    is done where nothing is known of the instrument's gain."""
    each = (slice(None), None, None, None)
    wanted, spread = np.asarray(segmenter.channels.mean), np.asarray(segmenter.channels.sd)
    mean, sd = images.mean((1, 2, 3)), images.std((1, 2, 3))
    return (images - mean[each]) * (spread / sd)[each] + wanted[each]


def recorded(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray] | None:
    """Grey values and true solid of the recorded stack, if it was given."""
    if options.stack is None or options.truth is None:
        return None
    stack = read_stack(options.stack)
    return grey_levels(stack), read_volume(options.truth)


def one_minus_dice(label: np.ndarray, solid: np.ndarray) -> float:
    """Error of a label against the solid fraction of every pixel."""
    known = solid != 0.5
    return 1 - dice(label[known][None, None], solid[known][None, None] > 0.5)


def error(segmenter: Segmenter, stacks: Stacks, channels: Sequence[int] | None = None) -> float:
    """Mean of ``1 - Dice``; of the stacks only ``channels`` are looked at."""
    chosen = slice(None) if channels is None else list(channels)
    return float(
        np.mean(
            [
                one_minus_dice(predict(segmenter, images[chosen]) > 0.5, solid)
                for images, solid in stacks
            ]
        )
    )
