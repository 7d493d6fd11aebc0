"""The named compromises of time and quality that the commands offer."""

import dataclasses

from fibnet.data import SimulatedData
from fibnet.model import ModelConfig
from fibnet.refine import VolumeRefinement
from fibnet.train import TrainSettings
from fibsim.fit import RefineSettings, RegressionSettings

__all__ = ["NETWORKS", "PRESETS", "PRETRAINING", "PRETRAINING_DATA", "Preset"]


NETWORKS: dict[str, ModelConfig] = {
    "tiny": ModelConfig(widths=(16, 32, 32), fold=2, window=5),
    "small": ModelConfig(widths=(32, 64, 64), fold=2, window=7, mirrored=True),
    "base": ModelConfig(widths=(32, 64, 128, 128), blocks=2, window=9, mirrored=True),
    "large": ModelConfig(widths=(48, 96, 192, 192), blocks=2, window=7, volume=True, mirrored=True),
}
"""Architectures by size; docs/performance.md lists parameters, memory and speed."""

PRETRAINING = TrainSettings(
    steps=10000,
    ema=0.995,
    channel_dropping=0.75,
    slices_alone=0.05,
    checkpoint_every=200,
    validate_every=500,
)
"""Pace of ``fibnet pretrain``."""

PRETRAINING_DATA = SimulatedData(slices=10, side_px=80)
"""Size of its stacks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """A named compromise of time and quality.

    Attributes:
        network: architecture, one of `NETWORKS`.
        train, data: training, where no alternation follows.
        from_start: training that begins from a given network instead.
        rounds: most rounds of the alternation with the segmenter (`fibnet.alternate`).
        first_steps: steps of the training before it, instead of those of ``train``.
        retrain: training in each of its rounds.
        regression: refit of the instrument in each of its rounds and for the refinement.
        refinement: of the segmented volume by the stack's likelihood; None for none.
        cases: simulated stacks that the measures' intervals are taken from; 0 for none.
        fit_steps: optimiser steps of the instrument's fit.
        refine: its Gauss-Newton steps after these; None for none, and no errors.
        kinds: specimen generators to choose from when the stack names none; None for all.
        description: for the help text.
    """

    network: str
    train: TrainSettings
    from_start: TrainSettings
    data: SimulatedData
    rounds: int
    first_steps: int
    retrain: TrainSettings
    fit_steps: int
    refine: RefineSettings | None
    kinds: tuple[str, ...] | None
    refinement: VolumeRefinement | None
    cases: int
    description: str
    regression: RegressionSettings = dataclasses.field(default_factory=RegressionSettings)


PRESETS: dict[str, Preset] = {
    "quick": Preset(
        network="tiny",
        train=TrainSettings(steps=300, ema=0.97),
        from_start=TrainSettings(steps=100, learning_rate=7e-3, ema=0.95),
        data=SimulatedData(slices=8, side_px=64),
        fit_steps=40,
        refine=RefineSettings(rounds=2, steps=2, simulations=24, draws=4),
        rounds=0,
        first_steps=300,
        retrain=TrainSettings(steps=150, learning_rate=7e-3, ema=0.97),
        kinds=("waves",),
        refinement=None,
        cases=6,
        description="a first look, some minutes on 2 CPU cores",
    ),
    "standard": Preset(
        network="small",
        train=TrainSettings(
            steps=2000, ema=0.99, other_kinds=0.25, checkpoint_every=200, validate_every=200
        ),
        from_start=TrainSettings(steps=500, learning_rate=7e-3, ema=0.98),
        data=SimulatedData(slices=12, side_px=80),
        fit_steps=80,
        refine=RefineSettings(),
        rounds=1,
        first_steps=1000,
        retrain=TrainSettings(
            steps=2000, learning_rate=7e-3, ema=0.98, checkpoint_every=200, validate_every=200
        ),
        kinds=None,
        refinement=VolumeRefinement(),
        cases=12,
        description="a volume to publish, at most 25 minutes on 2 CPU cores",
    ),
    "best": Preset(
        network="base",
        train=TrainSettings(
            steps=12000,
            learning_rate=1e-2,
            ema=0.998,
            other_kinds=0.25,
            checkpoint_every=500,
            validate_every=500,
        ),
        from_start=TrainSettings(
            steps=4000, learning_rate=5e-3, ema=0.998, checkpoint_every=500, validate_every=500
        ),
        data=SimulatedData(slices=16, side_px=128),
        rounds=1,
        first_steps=8000,
        retrain=TrainSettings(
            steps=3000, learning_rate=5e-3, ema=0.998, checkpoint_every=500, validate_every=500
        ),
        fit_steps=500,
        refine=RefineSettings(rounds=8, simulations=80, slope_simulations=4, draws=24),
        kinds=None,
        refinement=VolumeRefinement(rounds=3),
        cases=30,
        description="no time limit; for a GPU or most of a day",
    ),
}
