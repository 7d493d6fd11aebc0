"""How many slices should a network see at once? 1 to 9, and in three dimensions.

Claim: a slice alone leaves 27 % more error than three slices on simulated stacks and 63 % more on
the recorded one; more than three bring 3 % at best. A network in 3D, which sees as many slices as
its blocks reach, leaves 4 and 2 % less than the best of these; with five slices at its first layer
it is no better.

Command: ``python experiments/adjacent_slices.py OUT/instrument.yaml [--stack DATA --truth TRUTH]``
(9 minutes on one core).

Measured on the instrument after a round of the independent Monte Carlo's nanoporous gold (10 nm
slices, ligaments of 33 nm; network tiny, 600 steps, one seed; truth of
experiments/face_fractions.py; one core beside one with other work)::

    network                      parameters  training s  simulated  recorded
    2D, 1 slice                       91540          69     0.0506     0.0206
    2.5D, 3 slices                   109972          71     0.0399     0.0126
    2.5D, 5 slices                   128404          55     0.0389     0.0127
    2.5D, 7 slices                   146836          76     0.0403     0.0129
    2.5D, 9 slices                   165268          77     0.0403     0.0131
    3D, 1 slice and neighbours       156052          74     0.0374     0.0123
    3D, 5 slices and neighbours      192916          79     0.0382     0.0127
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
