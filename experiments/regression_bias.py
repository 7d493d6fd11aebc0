"""How wrong is an instrument that was regressed on a segmentation, and without its bias?

Claim: of hierarchical gold with ligaments of 26 nm in slices of 10 nm, contrast comes out 5 to 9 %
too small, the probe 20 to 50 % too wide, dark pores 7 to 9 grey values too bright, and interfaces
seem displaced by 0.09 pixels; less what a twin shows, gains are right within 5 %, interfaces within
0.02 pixels, and half of the probe's error is left.

Command: ``python experiments/regression_bias.py OUT [--stacks 2]`` with OUT a finished ``fibnet
reconstruct`` (three minutes per stack on 2 cores). OUT's instrument records random specimens like
OUT's; they are segmented by OUT's network, and the instrument is regressed on what that made of
them, from where OUT's fit had ended. What is printed are gain and probe over the true ones, offsets
against theirs, how far interfaces seem to be displaced, and the root mean square error of all
unknowns in standard deviations of their priors, as found and less the bias that a twin shows.

Measured (hierarchical gold of ``other_instruments.py``, 1, 2 and 4 kV; two stacks)::

    found          gain [0.92 0.91 0.92], probe [1.43 1.31 1.22], offset [8.2 8.9 9.0],
                   interfaces +0.093 px, all 0.25 s.d.
    less its bias  gain [1.01 0.99 0.96], probe [1.22 1.16 1.09], offset [-2.0 -0.5 2.8],
                   interfaces +0.013 px, all 0.20 s.d.
    found          gain [0.95 0.94 0.94], probe [1.48 1.37 1.28], offset [7.0 8.0 8.2],
                   interfaces +0.093 px, all 0.27 s.d.
    less its bias  gain [1.05 1.03 0.98], probe [1.28 1.23 1.15], offset [-5.0 -2.9 0.7],
                   interfaces +0.010 px, all 0.26 s.d.
"""

import argparse
import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from fibnet.data import draw_training_stack, drawn_stacks, size_like, source_of
from fibnet.presets import PRESETS
from fibnet.segment import predict
from fibnet.segmenter import load_segmenter
from fibnet.twin import refit
from fibsim.console import use_compilation_cache
from fibsim.fit import grey_levels, moved_by, regression_unknowns, run_as_seen
from fibsim.instrument_file import load_instrument
from fibsim.io import read_volume
from fibsim.stack import virtual_stack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--stacks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    use_compilation_cache()
    true = load_instrument(options.out / "instrument.yaml")
    start = load_instrument(options.out / "adapt" / "start" / "instrument.yaml")
    prior = load_instrument(options.out / "instrument_start.yaml").instrument
    segmenter = load_segmenter(options.out / "model")
    unknowns = {
        name: u
        for name, u in regression_unknowns(tilt_known=True).items()
        if not name.startswith("faults.")  # the regression leaves them
    }
    source = dataclasses.replace(source_of(true), spread=jnp.zeros(()))
    shape = read_volume(options.out / "network_fraction.tif").shape
    drawn = drawn_stacks(
        source,
        size_like(shape),
        draw=draw_training_stack,
        seed=options.seed,
        number=options.stacks,
    )
    content = dataclasses.replace(true, instrument=start.instrument)
    for images, _ in drawn:
        stack = virtual_stack(images, true.instrument)
        fraction = predict(segmenter, grey_levels(stack), fraction=True)
        result = refit(
            stack,
            fraction,
            content,
            prior=prior,
            run=run_as_seen(stack, tilt_deg=stack.tilt_deg),
            settings=PRESETS["standard"].regression,
            seed=options.seed,
            progress=lambda done, total, text: None,
        )
        for name, instrument, level in (
            ("found", result.found.instrument, result.found.level_px),
            ("less its bias", result.instrument, result.level_px),
        ):
            seen, known = instrument.detector, true.instrument.detector
            off = np.concatenate(
                [np.ravel(v) for v in moved_by(true.instrument, instrument, unknowns).values()]
            )
            print(
                f"{name:14s} gain {np.round(seen.gain / known.gain, 3)}, "
                f"probe {np.round(seen.probe_nm / known.probe_nm, 2)}, "
                f"offset {np.round(seen.offset - known.offset, 1)}, "
                f"interfaces {level:+.3f} px, all {np.sqrt(np.mean(off**2)):.2f} s.d.",
                flush=True,
            )


if __name__ == "__main__":
    main()
