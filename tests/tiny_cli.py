"""The fibnet command with a quick preset of a few steps, for tests that run it as a process."""

import dataclasses
import sys

from fibnet import train
from fibnet.cli import main
from fibnet.data import SimulatedData

train.PRESETS["quick"] = dataclasses.replace(
    train.PRESETS["quick"],
    widths=(4, 8),
    window=3,
    train=train.TrainSettings(
        steps=8, checkpoint_every=2, validate_every=4, learning_rate=2e-2, ema=0.8
    ),
    data=SimulatedData(slices=4, side_px=32, sublayers=2, below_slices=2),
    fit_steps=3,
    refine=None,  # compiles for a minute; tests/test_fit.py has it
)

if __name__ == "__main__":
    sys.exit(main())
