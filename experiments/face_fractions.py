"""The true solid fraction of every pixel of instrument_a's faces, for scoring.

truth.tif calls a pixel solid if two or more of its four voxels are. Exactly two are in 3.0 % of all
pixels, which no segmentation can know to be solid: they alone are 0.019 of the pixels that a
label cut at one half gets wrong. The experiments take the fractions for the truth and leave these
pixels out.

Command: ``python experiments/face_fractions.py fractions.tif``. Needs the shared data.
"""

import argparse
from pathlib import Path

import numpy as np
import tifffile

from fibsim.io import read_volume, write_volume

VOXEL_NM, SLICE_NM, FIRST_FACE_NM, ACROSS = 2.0, 10.0, 4.0, 2


def under_pixels(voxels: np.ndarray, across: int) -> np.ndarray:
    """Mean of the ``across`` x ``across`` voxels under each pixel; ``(..., y, x)``."""
    *front, y, x = voxels.shape
    return voxels.reshape(*front, y // across, across, x // across, across).mean((-3, -1))


def face_fractions(specimen: np.ndarray, slices: int) -> np.ndarray:
    """Mean of the voxels under each pixel of each face; ``(slice, y, x)``."""
    layers = np.rint((FIRST_FACE_NM + SLICE_NM * np.arange(slices)) / VOXEL_NM).astype(int)
    return under_pixels(specimen[layers].astype(np.float32), ACROSS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "instrument_a"
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=default)
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"{options.data} is absent; give the folder with --data")
    truth = read_volume(options.data / "truth.tif") > 0
    found = face_fractions(tifffile.imread(options.data / "specimen.tif"), len(truth))
    if not np.array_equal(found >= 0.5, truth):
        raise SystemExit("the faces do not lie where they were taken to lie")
    print(f"porosity {1 - found.mean():.4f}, of truth.tif {1 - truth.mean():.4f}")
    print(f"half solid: {np.mean(found == 0.5):.4f} of all pixels")
    write_volume(options.out, found, voxel_nm=(SLICE_NM, VOXEL_NM * ACROSS, VOXEL_NM * ACROSS))


if __name__ == "__main__":
    main()
