"""How wrong may what was stated or fitted be? Error of a network on stacks of other instruments.

Claim: a network trained around one instrument serves others whose slices are 10 % thicker or
thinner, whose tilt is 5 degrees off, whose probe is half as wide or whose dose is three times as
high with at most 8 % more error. A third of the dose costs 38 %, a probe twice as wide 42 %; with a
tenth of the dose, a probe three times as wide or silver for gold the error is 2.4 to 3.4 times as
large: that must be fitted.

Command: ``python experiments/robustness.py OUT/instrument.yaml [--stacks 6]`` (two and a half
minutes on one core).

Measured on the instrument after a round of the independent Monte Carlo's nanoporous gold (network
tiny, 600 steps, six stacks of each instrument)::

    recorded by            error   porosity off by
    as fitted             0.0286  +0.0001
    dose x 0.1            0.0691  +0.0124
    dose x 0.3            0.0396  +0.0029
    dose x 3              0.0249  -0.0006
    probe x 0.5           0.0273  -0.0032
    probe x 2             0.0407  +0.0137
    probe x 3             0.0732  +0.0371
    slices x 0.8          0.0318  +0.0017
    slices x 0.9          0.0290  +0.0009
    slices x 1.1          0.0295  +0.0007
    slices x 1.2          0.0309  +0.0005
    tilt -10 degrees      0.0345  -0.0015
    tilt -5 degrees       0.0308  -0.0006
    tilt +5 degrees       0.0290  +0.0010
    tilt +10 degrees      0.0329  +0.0004
    solid Ag              0.0978  +0.0564
    solid Cu              0.0432  +0.0177
    solid Ni              0.0328  +0.0076
"""

import dataclasses

import numpy as np
from networks import changed, hidden, instrument_parser, one_minus_dice, parsed, trained

from fibnet.data import Source, draw_stack, source_from_file
from fibnet.segment import predict
from fibsim.materials import material


def thicker(source: Source, factor: float) -> Source:
    """Slices that are thicker than stated, all alike."""
    moved = changed(source, "geometry.slice_nm", lambda nm: nm * factor)
    return dataclasses.replace(moved, slice_nm=round(source.slice_nm * factor, 6))


def of_material(source: Source, name: str) -> Source:
    instrument = dataclasses.replace(source.instrument, solid=material(name))
    return dataclasses.replace(source, instrument=instrument)


def cases(source: Source) -> dict[str, Source]:
    found = {"as fitted": source}
    for factor in (0.1, 0.3, 3.0):
        found[f"dose x {factor:g}"] = changed(
            source, "noise.dose_electrons", lambda v, f=factor: v * f
        )
    for factor in (0.5, 2.0, 3.0):
        found[f"probe x {factor:g}"] = changed(
            source, "detector.probe_nm", lambda v, f=factor: v * f
        )
    for factor in (0.8, 0.9, 1.1, 1.2):
        found[f"slices x {factor:g}"] = thicker(source, factor)
    for degrees in (-10.0, -5.0, 5.0, 10.0):
        found[f"tilt {degrees:+g} degrees"] = changed(
            source, "geometry.tilt_deg", lambda v, d=degrees: v + d
        )
    for name in ("Ag", "Cu", "Ni"):
        found[f"solid {name}"] = of_material(source, name)
    return found


def main() -> None:
    options = parsed(instrument_parser(__doc__, stacks=8))
    source = dataclasses.replace(source_from_file(options.instrument), ground=None)
    segmenter = trained(source, options)
    print(f"{'recorded by':20s}   error   porosity off by")
    for name, other in cases(source).items():
        stacks = hidden(other, options.stacks, draw=draw_stack)
        labels = [predict(segmenter, images) > 0.5 for images, _ in stacks]
        pairs = [(label, solid) for label, (_, solid) in zip(labels, stacks, strict=True)]
        wrong = np.mean([one_minus_dice(label, solid) for label, solid in pairs])
        off = np.mean([solid.mean() - label.mean() for label, solid in pairs])
        print(f"{name:20s}  {wrong:.4f}  {off:+.4f}", flush=True)


if __name__ == "__main__":
    main()
