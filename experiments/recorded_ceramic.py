"""Does a single image of a ceramic come out that no law of the forward model has made?

Claim: yes: pores have an IoU of 0.88 and 0.91, and of 0.80 where the voltage is stated wrongly,
where Otsu's have 0.60 to 0.70; porosities are within 0.016 (0.035), their 90 % intervals hold the
true ones. That training draws what one image does not tell, how electrons interact and at what
tilt, as widely as their priors brings 0.01 to 0.03 of it.

Command: ``python experiments/recorded_ceramic.py OUT [--case rough wrong_voltage grains]`` (12
minutes each on one core, one and a half of them for the recording). Zirconia is recorded by our
Monte Carlo, which shares no law of imaging with the forward model, with 100 electrons a pixel of 20
nm, lines, and the beam tilted by 38 degrees, which ``fibnet reconstruct`` is not told. It is told 2
kV, which is wrong in one case. Rough pores are level sets of a random field of two scales, so of
none of the generator's kinds. The truth is read after it has ended.

Measured (preset standard, seed 0)::

    case           pore IoU   Otsu   porosity   90 %          true
    rough             0.908  0.697      0.269   0.233-0.340    0.278
    wrong_voltage     0.802  0.596      0.413   0.340-0.533    0.378
    grains            0.879  0.687      0.315   0.253-0.417    0.331

With training drawn around the assumed values as closely as around those of a stack these were
0.900, 0.769 and 0.879, porosities 0.262, 0.377 and 0.314. Trained for 500 more steps in several
ways (one seed each; differences of 0.003 mean nothing)::

                                              rough  wrong_voltage  grains
    as closely as around those of a stack     0.898          0.787   0.872
    the interaction as widely as its priors   0.906          0.793       -
    - the range by 0.6 instead of 0.2         0.906          0.802       -
    the interaction and the tilt              0.907          0.791   0.882
    - the range by 0.6 (adopted)              0.908          0.804   0.883
    - and faces as bright and noisy (adopted) 0.907          0.806   0.880
    - the solid fraction's logit by 0.6       0.906          0.804       -

Two rounds in which kind, sizes and solid fraction of the segmented slice replaced the fit's, and
500 steps of training each, brought no more than as many steps without: 0.898 and 0.906 (rough),
0.788 and 0.779 (wrong_voltage).
"""

import argparse
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import tifffile
from face_fractions import under_pixels
from rough_ceramic import OF_CERAMIC, POROSITY, SIDE_PX, reconstructed, two_scales

from fibsim.console import use_compilation_cache
from fibsim.materials import composition
from fibsim.montecarlo import image_yields
from fibsim.specimens import make

VOXEL_NM, LAYERS, FACE_NM, TILT_DEG, ELECTRONS = 10.0, 200, 5.0, 38.0, 100
PIXEL_NM = OF_CERAMIC["pixel_nm"]
UNDER_PIXEL = round(PIXEL_NM / VOXEL_NM)
SHAPE = (LAYERS, SIDE_PX * UNDER_PIXEL, SIDE_PX * UNDER_PIXEL)
SCALES = (18.0, 5.0)  # of the two fields, in voxels


def rough(seed: int) -> np.ndarray:
    both = two_scales(seed, SHAPE, [(scale,) * 3 for scale in SCALES], np.float32)
    return both > np.quantile(both, POROSITY)


def grains(seed: int) -> np.ndarray:
    drawn = make(
        "spheres",
        key=jax.random.key(seed),
        shape=SHAPE,
        voxel_nm=VOXEL_NM,
        solid_fraction=1 - POROSITY,
        radius_nm=170.0,
    )
    return np.asarray(drawn.solid) > 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A specimen, and the beam's energy and its probe's standard deviation."""

    solid: np.ndarray
    beam_kev: float
    probe_nm: float


CASES = {
    "rough": lambda: Case(solid=rough(7), beam_kev=2.0, probe_nm=1.5),
    "wrong_voltage": lambda: Case(solid=rough(8), beam_kev=5.0, probe_nm=12.0),
    "grains": lambda: Case(solid=grains(9), beam_kev=2.0, probe_nm=12.0),
}


def recorded(case: Case) -> np.ndarray:
    """The image of the first face, grey values of secondaries."""
    found = image_yields(
        case.solid.astype(np.uint8),
        (None, composition(OF_CERAMIC["material"])),
        voxel_nm=(VOXEL_NM,) * 3,
        beam_kev=case.beam_kev,
        faces_nm=[FACE_NM],
        pixel_nm=PIXEL_NM,
        electrons=ELECTRONS,
        key=jax.random.key(3),
        tilt_deg=TILT_DEG,
        probe_nm=case.probe_nm,
        detectors=("SE", "BSE"),
    )
    signal = found.mean[0, 0]
    low, high = np.percentile(signal, (1, 99))
    lines = np.random.default_rng(1).normal(size=(SIDE_PX, 1))
    return np.clip(np.rint(30 + 180 * (signal - low) / (high - low) + lines), 0, 255)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    use_compilation_cache()
    options.out.mkdir(parents=True, exist_ok=True)
    print("case           pore IoU   Otsu   porosity   90 %          true")
    for name in options.case:
        path, out = options.out / f"{name}.tif", options.out / name
        case = CASES[name]()
        if not path.exists():
            tifffile.imwrite(path, recorded(case).astype(np.uint8))
        layer = case.solid[int(FACE_NM // VOXEL_NM)].astype(np.float32)
        truth = under_pixels(layer, UNDER_PIXEL) > 0.5
        ours, otsu, porosity = reconstructed(path, out, truth)
        low, high = interval(out)
        print(
            f"{name:14s} {ours:8.3f} {otsu:6.3f} {porosity:10.3f}   {low:.3f}-{high:.3f} "
            f"{1 - truth.mean():8.3f}",
            flush=True,
        )


def interval(out: Path) -> tuple[float, float]:
    """Of the porosity."""
    measures = json.loads((out / "measures.json").read_text())
    return measures["fibnet"]["intervals"]["Porosity"]


if __name__ == "__main__":
    main()
