"""Does the main job give the right volume of a stack whose truth it never sees?

Claim: with the standard preset and no labels, on an independent Monte Carlo's stack of nanoporous
gold (1, 2, 5 kV; tilt stated), Dice is above 0.96, where the best Otsu reaches 0.84 and k-means
0.81; a U-Net trained on this instrument's own truth reaches 0.979.

Command: ``python experiments/label_free_gold.py --out FOLDER`` (at most 25 minutes on 2 cores).
Needs the shared data. The truth is read after the reconstruction has ended, for scoring only.

Measured (seed 0): Dice 0.962 (network alone 0.956; best Otsu 0.840, k-means 0.813, watershed
0.780), boundary F-score 0.998. 65 % of the pixels that are wrong are exactly half solid, which
truth.tif counts as solid; without them Dice is 0.986. Porosity 0.656 (voxels under the faces 0.648,
truth.tif 0.634), specific surface 35.7 (36.5) 1/um, mean ligament 31.9 (33.2) nm, mean pore 44.2
(42.9) nm, Euler number -493 (-523), true values in brackets of truth.tif. The fit found a solid
fraction of 0.327 +- 0.010 (true 0.352). Until slices were cut finely at their face Dice was 0.939,
network 0.929.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import tifffile
from face_fractions import face_fractions
from networks import one_minus_dice

from fibnet.morphology import as_rows, measure
from fibsim.io import read_volume

VOXEL_NM = (10.0, 4.0, 4.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "instrument_a"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--seed", default="0")
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"{options.data} is absent; give the folder with --data")
    fibnet = [sys.executable, "-m", "fibnet.cli"]
    work = ["reconstruct", options.data, "--out", options.out, "--preset", options.preset,
            "--tilt-deg", "38"]  # fmt: skip
    subprocess.run([*fibnet, *map(str, work), "--seed", options.seed], check=True)
    score = ["evaluate", options.out / "label.tif", "--truth", options.data / "truth.tif"]
    subprocess.run([*fibnet, *map(str, score), "--stack", str(options.data)], check=True)
    label = read_volume(options.out / "label.tif") > 0
    solid = face_fractions(tifffile.imread(options.data / "specimen.tif"), len(label))
    print(f"Dice without pixels that are half solid: {1 - one_minus_dice(label, solid):.4f}")
    print(f"porosity {1 - label.mean():.4f}, of the voxels under the faces {1 - solid.mean():.4f}")
    truth = read_volume(options.data / "truth.tif") > 0
    true = {name: value for name, value, _ in as_rows(measure(truth, VOXEL_NM))}
    for name, value, unit in as_rows(measure(label, VOXEL_NM)):
        print(f"{name:40s} {value:10.4g}  true {true[name]:10.4g} {unit}")


if __name__ == "__main__":
    main()
