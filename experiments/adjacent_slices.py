"""How many slices should a network see at once? 1 to 9, and in three dimensions.

Claim: a slice alone leaves 16 % more error than three slices on simulated stacks and 45 % more on
the recorded one; more than three bring nothing here. A network in 3D, which sees as many slices as
its blocks reach, leaves 6 and 7 % less than the best of these in 1.8 times the time; with five
slices at its first layer it is no better.

Command: ``python experiments/adjacent_slices.py OUT/instrument.yaml [--stack DATA --truth TRUTH]``
(15 minutes on 2 cores).

Measured on the fit of the independent Monte Carlo's nanoporous gold (10 nm slices, ligaments of 33
nm; network tiny, 600 steps, one seed; truth of experiments/face_fractions.py; two cores shared with
other work)::

    network                      parameters  training s  simulated  recorded
    2D, 1 slice                       91540         125     0.0498     0.0318
    2.5D, 3 slices                   109972         112     0.0428     0.0220
    2.5D, 5 slices                   128404         112     0.0428     0.0213
    2.5D, 7 slices                   146836         137     0.0432     0.0222
    2.5D, 9 slices                   165268         174     0.0439     0.0224
    3D, 1 slice and neighbours       156052         200     0.0403     0.0198
    3D, 5 slices and neighbours      192916         287     0.0413     0.0202
"""

import dataclasses
import time

from networks import error, hidden, instrument_parser, parsed, recorded, trained

from fibnet.data import source_from_file
from fibnet.model import count_parameters, make_model
from fibnet.presets import NETWORKS

WINDOWS = (1, 3, 5, 7, 9)


def main() -> None:
    options = parsed(instrument_parser(__doc__, stacks=8))
    source = source_from_file(options.instrument)
    seen, stacks = recorded(options), hidden(source, options.stacks)
    small = NETWORKS[options.network]
    names = {window: f"2.5D, {window} slices" for window in WINDOWS} | {1: "2D, 1 slice"}
    configs = {name: dataclasses.replace(small, window=w) for w, name in names.items()}
    configs["3D, 1 slice and neighbours"] = dataclasses.replace(small, window=1, volume=True)
    configs["3D, 5 slices and neighbours"] = dataclasses.replace(small, window=5, volume=True)
    print(f"{'network':28s} parameters  training s  simulated  recorded")
    for name, config in configs.items():
        number = count_parameters(make_model(config, seed=0))
        started = time.perf_counter()
        segmenter = trained(source, options, config=config)
        seconds = time.perf_counter() - started
        found = [error(segmenter, stacks)]
        if seen is not None:
            found.append(error(segmenter, [seen]))
        cells = "  ".join(f"{v:9.4f}" for v in found)
        print(f"{name:28s} {number:10d}  {seconds:10.0f}  {cells}", flush=True)


if __name__ == "__main__":
    main()
