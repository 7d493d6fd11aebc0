"""How large are the features of a single image, told by its faces or by a fit of its patches?

Claim: of single slices of recordings whose specimen is known, what is as bright as a milled face
tells the size of grains and ligaments within 12 %, while a descent from the width of the images'
correlation, which sees patches of 9 pixels, misses it by up to half. Solid fractions are told by
neither where much light comes from below.

Command: ``python experiments/single_slices.py OUT [--gold instrument_a --truth fractions.tif]``
with the folder of ``other_instruments.py`` (three minutes of one core). A stack of one slice, the
20th, is fitted as `fibsim fit` does it, sizes held at those of the faces, and once without being
given them. True sizes are those of the draws that resemble the true slice most, which is what a
size of a generator means in one slice.

Measured (size in nm: radius of zirconia's grains, ligaments of the others; made with 40, 33, 45)::

                    size                          solid fraction
              true  faces (held)  without     true   held  without
    zirconia  38.9      36.8        19.3     0.582  0.501    0.498
    copper    47.6      50.2        31.2     0.414  0.671    0.667
    gold      35.9      31.8        34.5     0.394  0.294    0.308

Before priors weighed a hundredfold, sizes without being given were 25.9, 39.8 and 34.1, solid
fractions 0.560, 0.718 and 0.285 (0.471, 0.643 and 0.304 without).
"""

import argparse
import dataclasses
from pathlib import Path

import jax

from fibsim.console import use_compilation_cache
from fibsim.fit import FitSettings, fit_best_kind, fit_instrument
from fibsim.fit.choose import kinds_of_faces, usual_kind
from fibsim.fit.resemble import resembling_kinds
from fibsim.io import read_stack, read_volume
from fibsim.stack import Stack

SLICE = 20


def sizes(parameters: dict[str, float]) -> str:
    return " ".join(f"{float(v):8.3f}" for n, v in parameters.items() if n.endswith("_nm"))


def show(name: str, stack: Stack, truth) -> None:
    """Sizes and solid fractions of one slice, true and told in three ways."""
    one = dataclasses.replace(stack, images=stack.images[:, SLICE : SLICE + 1])
    part, kind = truth[SLICE : SLICE + 1], usual_kind(one)
    how = dict(key=jax.random.key(0), settings=FitSettings())
    rows = {
        "true": resembling_kinds(part > 0.5, one.voxel_nm, kinds=(kind,))[0].parameters,
        "faces": kinds_of_faces(one, (kind,))[0].parameters,
        "fit, held": fit_best_kind(one, **how).specimen,
        "fit without": fit_instrument(one, kind=kind, **how).specimen,
    }
    print(f"{name}, {kind}, solid fraction of the slice {part.mean():.3f}")
    for way, found in rows.items():
        print(f"  {way:12s} size {sizes(found)}  solid {found['solid_fraction']:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--gold", type=Path, help="the independent Monte Carlo's stack")
    parser.add_argument("--truth", type=Path, help="its solid fractions (face_fractions.py)")
    options = parser.parse_args()
    use_compilation_cache()
    for name in ("zirconia", "copper"):
        folder = options.out / name
        show(name, read_stack(folder / "stack"), read_volume(folder / "fraction.tif"))
    if options.gold:
        stack = read_stack(options.gold, overrides={"tilt_deg": 38.0})
        show("gold", stack, read_volume(options.truth))


if __name__ == "__main__":
    main()
