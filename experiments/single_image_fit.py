"""How much of what a descent finds in one small image is chance?

Claim: all that it finds of how electrons interact. Of six virtual ceramics whose instruments were
moved at random, the interaction is 0.82 of the priors' standard deviations off at the start, 0.86
after a descent with the weight that priors have beside a whole stack, 0.82 with a hundredfold,
which such fits use. Gain, offset and solid fraction are hardly nearer to the true ones, or farther.

Command: ``python experiments/single_image_fit.py [--draws 6]`` (7 minutes on one core). Images of
256 x 256 pixels as in ``rough_ceramic.py``, with probes of 0.1 to 1 pixel.

Measured (root mean squares; interaction in standard deviations of the priors, gain and probe as
logarithms, offset in grey values)::

    6 images  interaction         gain       offset        probe solid fraction
    start           0.815        0.225       22.816        0.194          0.041
    0.001           0.855        0.217       24.334        0.194          0.057
    0.01            0.820        0.226       24.109        0.194          0.046
    0.1             0.816        0.255       25.239        0.194          0.044
"""

import argparse

import jax
import numpy as np
from fit_recovery import FAULTS, moved
from rough_ceramic import OF_CERAMIC, ceramic_image, ceramic_instrument, rough_specimen

from fibsim.console import use_compilation_cache
from fibsim.fit import FitSettings, apply_unknowns, default_unknowns, fit_best_kind, start_point
from fibsim.fit.sharpness import OF_EDGES
from fibsim.instrument import Instrument
from fibsim.stack import Channel, Stack

# Of the log prior beside the distance: from that of a whole stack to that of such fits.
WEIGHTS = (1e-3, 1e-2, 1e-1)
UNKNOWNS = default_unknowns(tilt_known=True)
SHOWN = {
    "interaction": (1.0, [name for name in UNKNOWNS if name.startswith("interaction.")]),
    "gain": (UNKNOWNS["detector.gain"].prior_sd, ["detector.gain"]),
    "offset": (UNKNOWNS["detector.offset"].prior_sd * 20.0, ["detector.offset"]),
    "probe": (UNKNOWNS["detector.probe_nm"].prior_sd, ["detector.probe_nm"]),
}


def drawn(seed: int) -> Instrument:
    """The instrument of the virtual ceramic, moved at random."""
    rng = np.random.default_rng(seed)
    base = ceramic_instrument(20.0 * rng.uniform(0.1, 1.0), 0.0)
    free = moved(start_point(base, {}, UNKNOWNS), UNKNOWNS, rng, {*FAULTS, *OF_EDGES})
    return apply_unknowns(free, base, {}, UNKNOWNS)[0]


def errors(found: Instrument, true: Instrument) -> dict[str, np.ndarray]:
    """In the free space, in standard deviations of the priors."""
    free, aim = (start_point(each, {}, UNKNOWNS) for each in (found, true))
    return {n: np.ravel(free[n] - aim[n]) / u.prior_sd for n, u in UNKNOWNS.items()}


def rms(values: list[np.ndarray]) -> float:
    return float(np.sqrt(np.mean(np.square(np.concatenate(values)))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=6)
    options = parser.parse_args()
    use_compilation_cache()
    off: dict[str, list[dict[str, np.ndarray]]] = {}
    for seed in range(options.draws):
        true = drawn(seed)
        image, solid = ceramic_image(rough_specimen(seed), true, seed)
        stack = Stack(images=image[None, None], channels=(Channel(beam_kev=2.0),), **OF_CERAMIC)
        for weight in WEIGHTS:
            settings = FitSettings(prior_weight_of_few=weight)
            fit = fit_best_kind(stack, key=jax.random.key(seed), settings=settings)
            ends = {f"{weight:g}": (fit.instrument, fit.specimen)}
            if weight == WEIGHTS[0]:
                ends = {"start": (fit.start_instrument, fit.start_specimen)} | ends
            for name, (instrument, specimen) in ends.items():
                fraction = np.array([specimen["solid_fraction"] - solid.mean()])
                off.setdefault(name, []).append(errors(instrument, true) | {"solid": fraction})
        print(f"{seed + 1} images", *(f"{name:>12s}" for name in SHOWN), "solid fraction")
        for name, several in off.items():
            shown = [
                scale * rms([one[n] for one in several for n in names])
                for scale, names in SHOWN.values()
            ]
            fraction = rms([one["solid"] for one in several])
            print(f"{name:8s}", *(f"{v:12.3f}" for v in shown), f"{fraction:14.3f}", flush=True)


if __name__ == "__main__":
    main()
