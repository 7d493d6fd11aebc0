"""Does the Monte Carlo see what an independent one sees, pixel by pixel?

Claim: on a voxel specimen of nanoporous gold (38 degrees, 1, 2 and 5 kV), the noise-free parts of
our images and of those of an independent electron Monte Carlo (Browning cross sections, its own
secondaries) correlate above 0.98, secondary and backscatter.

Command: ``python experiments/montecarlo_agreement.py`` (about 15 minutes on 2 cores). Needs the
shared data (``../shared/data/instrument_a``). Nothing is fitted.

Measured with 40 electrons a pixel, face 20, SE and BSE at 1, 2, 5 kV (1.00 = the same picture up to
counting noise): with Browning's cross sections 0.989 0.992, 0.994 0.999, 1.002 0.999 and slopes of
BSE 1.04, 1.01, 1.00; with Mott's 0.988 0.989, 0.993 0.996, 0.997 1.001 and slopes 1.10, 1.09, 1.06.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
import tifffile

from fibsim.materials import composition
from fibsim.montecarlo import image_yields

# Share of the variance of the reference that is counting noise, from the data's notes.
NOISE_SHARE = {1.0: (0.063, 0.071), 2.0: (0.086, 0.070), 5.0: (0.167, 0.101)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "instrument_a"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--electrons", type=int, default=80)
    parser.add_argument("--slice", type=int, default=20)
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"{options.data} is absent; give the folder with --data")
    phases = (tifffile.imread(options.data / "specimen.tif") > 0).astype(np.uint8)
    phases = np.concatenate([phases, np.ones_like(phases[:1])])  # the ground goes on below
    reference = np.load(options.data / "yields.npz")["yields"][options.slice].astype(float)
    print("elastic    kV   signal  correlation   slope  mean ours  mean reference")
    for elastic in ("browning", "mott"):
        for v, kev in enumerate((1.0, 2.0, 5.0)):
            ours = image_yields(
                phases,
                (None, composition("Au")),
                voxel_nm=(2.0, 2.0, 2.0),
                beam_kev=kev,
                faces_nm=[4.0 + 10.0 * options.slice],
                pixel_nm=4.0,
                electrons=options.electrons,
                key=jax.random.key(v),
                tilt_deg=38.0,
                elastic=elastic,
            )
            for d, name in enumerate(("SE", "BSE")):
                a, b = ours.mean[d, 0], reference[v, d]
                noiseless_a = a.var() - np.mean(ours.error[d, 0] ** 2)
                noiseless_b = b.var() * (1 - NOISE_SHARE[kev][d])
                shared = np.mean((a - a.mean()) * (b - b.mean()))
                correlation = shared / np.sqrt(noiseless_a * noiseless_b)
                print(
                    f"{elastic:9s} {kev:3g}   {name:5s}  {correlation:9.4f}  "
                    f"{shared / noiseless_a:7.3f}  {a.mean():9.4f}  {b.mean():9.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
