"""The fibnet command with a quick preset of a few steps, for tests that run it as a process."""

import dataclasses
import sys

from fibnet import presets
from fibnet.cli import main
from fibnet.data import SimulatedData
from fibnet.model import ModelConfig
from fibnet.train import TrainSettings

NETWORK = ModelConfig(window=3, widths=(4, 8), fold=2)
QUICK = dataclasses.replace(
    presets.PRESETS["quick"],
    train=TrainSettings(steps=8, checkpoint_every=2, validate_every=4, learning_rate=2e-2, ema=0.8),
    data=SimulatedData(slices=4, side_px=32, sublayers=2, below_slices=2),
    fit_steps=3,
    refine=None,  # compiles for a minute; tests/test_fit.py has it
    cases=3,
)

if __name__ == "__main__":
    presets.NETWORKS["tiny"], presets.PRESETS["quick"] = NETWORK, QUICK
    sys.exit(main())
