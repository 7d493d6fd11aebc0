"""How much training does a general network save?

Claim: from a general network, 125 steps are as good on the recorded stack as 1000 from scratch, and
500, the preset standard's number with ``--start``, are better than those.

Command: ``python experiments/pretrained_start.py OUT/instrument.yaml --start GENERAL [--stack STACK
--truth FRACTIONS]`` (two minutes on a GPU; on 2 CPU cores a quarter of an hour for each thousand
steps, both ways). GENERAL is a network of ``fibnet pretrain``; from it and from scratch the same
architecture is trained for a fitted instrument, with the preset standard's stacks and each way's
own rates, and scored on simulated stacks that no training saw and on the recorded stack.

Measured (network small, seed 0, instrument_a by its fit before a round; error, 1 - Dice without
half solid pixels; GENERAL of ``fibnet pretrain --steps 3200 --stacks 4``, 223 s on an H200)::

                 simulated             recorded
    steps   scratch   general     scratch   general
      125    0.0744    0.0411      0.0240    0.0127
      250    0.0597    0.0387      0.0172    0.0123
      500    0.0443    0.0365      0.0140    0.0118
     1000    0.0367    0.0342      0.0129    0.0116
     2000    0.0333         -      0.0112         -

GENERAL of 500 steps of 4 stacks (37 s on that GPU) brings less: 0.0542, 0.0477, 0.0410, 0.0362 and
0.0325 on simulated stacks, 0.0181, 0.0148, 0.0133, 0.0124 and 0.0105 on the recorded one.
"""

import argparse
import dataclasses
from pathlib import Path

from networks import error, hidden, recorded, trained_by

from fibnet.data import source_from_file
from fibnet.presets import PRESETS
from fibnet.segmenter import Segmenter, load_segmenter
from fibnet.start import network_folder
from fibnet.train import TrainSettings
from fibsim.console import use_compilation_cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("instrument", type=Path, help="instrument.yaml of a fit")
    parser.add_argument("--stack", type=Path, help="the fitted stack, to be scored on its truth")
    parser.add_argument("--truth", type=Path, help="its true labels or solid fractions")
    parser.add_argument("--stacks", type=int, default=12, help="simulated ones to score")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, required=True, help="folder of fibnet pretrain")
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=(125, 250, 500, 1000, 2000), help="in steps"
    )
    options = parser.parse_args()
    use_compilation_cache()
    source = source_from_file(options.instrument)
    general = load_segmenter(network_folder(options.start))
    standard = PRESETS["standard"]
    stacks = hidden(source, options.stacks)
    real = recorded(options)

    def learned(settings: TrainSettings, start: Segmenter | None) -> Segmenter:
        how = dict(seed=options.seed, data=standard.data, start=start)
        return trained_by(settings, source, general.config, **how)

    print(f"{'steps':>10} {'simulated':>12} {'':>9} {'recorded':>12}")
    print(f"{'':>10} {'scratch':>9} {'general':>9} {'scratch':>9} {'general':>9}")
    for steps in options.lengths:
        once = dict(steps=steps, checkpoint_every=steps, validate_every=steps)
        networks = [
            learned(dataclasses.replace(standard.train, **once, other_kinds=0.0), None),
            learned(dataclasses.replace(standard.from_start, **once), general),
        ]
        errors = [error(network, stacks) for network in networks]
        if real is not None:
            errors += [error(network, [real]) for network in networks]
        print(f"{steps:10d} " + " ".join(f"{value:9.4f}" for value in errors), flush=True)


if __name__ == "__main__":
    main()
