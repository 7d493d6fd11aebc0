"""Does the Monte Carlo backscatter as clean surfaces do?

Question: does eta of C, Al, Si, Cu and Au from 0.5 to 30 keV lie inside the spread of the measured
values (below 6 keV those of clean surfaces: El Gomati & Assad, Bronstein & Fraiman)?

Command: ``python experiments/electron_yields.py`` (about 2 minutes on 2 cores). Needs the shared
data (``../shared/data/physics``). A measurement counts for an energy within 15 % of it; the spread
is theirs, widened by 5 %, their usual uncertainty.

Measured: at 20 of 31 points. All 15 from 10 keV on, gold at 1, 2, 3 keV, silicon at 2 and 3 keV.
Not inside, where a single clean-surface value stands against us: carbon 0.5 to 3 keV (it is 37, 39,
27 and 13 % higher), aluminium 1 to 3 keV (9 %), silicon 1 keV (9 %), copper (16 to 21 %).
For C, Si and Cu NIST EPQ and PenRed side with us. Part of it is that measurements count every
electron above 50 eV, fast secondaries too (8 to 14 % in PenRed), and we count beam electrons only.
"""

import argparse
import csv
from pathlib import Path

import jax
import numpy as np

from fibsim.materials import composition
from fibsim.montecarlo import bulk_yields

ENERGIES_KEV = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0)
CLEAN = ("El Gomati", "Bronstein")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "physics"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--electrons", type=int, default=40000)
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"{options.data} is absent; give the folder with --data")
    with (options.data / "eta_measured.csv").open() as file:
        measured = list(csv.DictReader(file))
    inside = compared = 0
    print("solid   keV     eta +- error   measured (sets)    inside")
    for element in ("C", "Al", "Si", "Cu", "Au"):
        for kev in ENERGIES_KEV:
            near = [
                (float(r["eta"]), r["source"])
                for r in measured
                if r["element"] == element
                and abs(float(r["energy_keV"]) / kev - 1) < 0.15
                and (kev >= 6 or any(name in r["source"] for name in CLEAN))
            ]
            out = bulk_yields(
                composition(element),
                beam_kev=kev,
                electrons=options.electrons,
                key=jax.random.key(0),
                detectors=["BSE"],
            )
            eta, error = out.mean[0], out.error[0]
            text = "none"
            if near:
                values = np.array([value for value, _ in near])
                low, high = 0.95 * values.min(), 1.05 * values.max()
                within = low - 2 * error <= eta <= high + 2 * error
                compared, inside = compared + 1, inside + within
                sets = len({source for _, source in near})
                text = (
                    f"{values.min():.3f}-{values.max():.3f} ({sets})   {'yes' if within else 'NO'}"
                )
            print(f"{element:5s} {kev:5g}  {eta:.4f} +- {error:.4f}   {text}", flush=True)
    print(f"inside {inside} of {compared}")


if __name__ == "__main__":
    main()
