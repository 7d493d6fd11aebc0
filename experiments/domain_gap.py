"""What tells a fitted simulation from its recording: the specimen, or how it is imaged?

Claim: not the specimen. The independent Monte Carlo's stack is told from stacks drawn by the fit
with an AUC of 0.985, and from the very same specimen, recorded by the fitted instrument, as surely;
that recording is told from the drawn ones with 0.78, and from itself with other noise with 0.5. So
what is left is the image formation, in differences too fine for named statistics of one channel.

Command: ``python experiments/domain_gap.py instrument.yaml`` with the file that ``fibsim fit
../shared/data/instrument_a --tilt-deg 38`` wrote (4 to 12 minutes on 2 cores). Needs the shared
data; specimen.tif is looked at here alone, for the diagnosis of the forward model.

Slices 0-35, which the ground does not reach; held-out AUC of the classifier of `fibsim compare` on
patches of 3 slices of 32 x 32 pixels, with its 95 % interval, that of its network and its
statistics, and that of one channel's statistics. Measured::

    real against drawn           0.985 (0.957 to 0.994)
        network 0.983, statistics 0.923; 1kV 0.71, 2kV 0.67, 5kV 0.77
    real against same specimen   0.988 (0.951 to 0.997)
        network 0.975, statistics 0.964; 1kV 0.88, 2kV 0.83, 5kV 0.86
    same specimen against drawn  0.777 (0.697 to 0.839)
        network 0.678, statistics 0.784; 1kV 0.73, 2kV 0.73, 5kV 0.69
    same specimen, other noise   0.483 (0.371 to 0.596)
        network 0.502, statistics 0.479; 1kV 0.46, 2kV 0.50, 5kV 0.51

Power of details 3.3 to 5 pixels wide, same specimen over real: along x 1.17, 1.17 and 1.07 (1, 2,
5 kV), along y 1.04, 1.04 and 0.95. Before layers were sheared as volume fractions 1.20, 1.20, 1.08
and 1.00, 1.01, 0.91, and the first AUC was 0.991, of one channel 0.78, 0.73 and 0.81.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tifffile

from fibsim import io
from fibsim.compare import compare_stacks
from fibsim.compare.draw import draw_stacks, recorded_as
from fibsim.console import use_compilation_cache
from fibsim.fit.first_guess import WHITE
from fibsim.instrument_file import InstrumentFile, load_instrument
from fibsim.simulate import sample_stack
from fibsim.specimens.specimen import Specimen
from fibsim.stack import Stack

VOXEL_NM, FIRST_FACE, ACROSS = 2.0, 2, 2  # of specimen.tif: voxels above face 0, and to a pixel
GROUND, SLICES, ABOVE_GROUND = 20, 48, 36
SHOWN = 4


def true_specimen(folder: Path) -> Specimen:
    """specimen.tif on the images' pixels, with its ground of dense gold."""
    fine = tifffile.imread(folder / "specimen.tif").astype(np.float32)[FIRST_FACE:]
    deep, y, x = fine.shape
    solid = fine.reshape(deep, y // ACROSS, ACROSS, x // ACROSS, ACROSS).mean((2, 4))
    ground = np.ones((GROUND, *solid.shape[1:]), np.float32)
    voxel_nm = (VOXEL_NM, ACROSS * VOXEL_NM, ACROSS * VOXEL_NM)
    return Specimen(
        solid=jnp.asarray(np.concatenate([solid, ground])), voxel_nm=voxel_nm, periodic=True
    )


def recording(specimen: Specimen, content: InstrumentFile, real: Stack, seed: int) -> Stack:
    """The specimen as the fitted instrument records it, in the real stack's grey values."""
    sample = sample_stack(
        specimen, content.instrument, key=jax.random.key(seed), num_slices=SLICES, sublayers=3
    )
    white = np.asarray(content.instrument.noise.white_level)[:, None, None, None]
    images = np.asarray(sample.images)[:, :ABOVE_GROUND] * (WHITE / white)
    return dataclasses.replace(real, images=recorded_as(images, real.images))


def detail(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Power of details 3.3 to 5 pixels wide that vary along x and along y, per channel."""
    f_y, f_x = (np.abs(np.fft.fftfreq(n)) for n in images.shape[-2:])
    power = np.mean(np.abs(np.fft.fft2(images.astype(float))) ** 2, axis=1)
    size = np.hypot(f_y[:, None], f_x)
    fine = (size > 0.2) & (size < 0.3)
    across = f_x > f_y[:, None]
    return power[:, fine & across].mean(-1), power[:, fine & ~across].mean(-1)


def show(title: str, real: Stack, simulated: Stack | list[Stack]) -> None:
    """One line, and the statistics that tell most."""
    found = compare_stacks(real, simulated, key=jax.random.key(1))
    views = ", ".join(f"{name} {a.value:.3f}" for name, a in found.auc_by_view.items())
    channels = ", ".join(f"{name} {a.value:.2f}" for name, a in found.auc_by_channel.items())
    low, high = found.interval
    print(f"{title:28} {found.auc:.3f} ({low:.3f} to {high:.3f}); {views}; {channels}")
    for gap in found.auc_by_statistic[:SHOWN]:
        print(f"    {gap.sentence()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("instrument", type=Path)
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "instrument_a"
    parser.add_argument("--data", type=Path, default=default)
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"{options.data} is absent; give the folder with --data")
    use_compilation_cache()
    whole = io.read_stack(options.data)
    real = dataclasses.replace(whole, images=whole.images[:, :ABOVE_GROUND])
    content = load_instrument(options.instrument)
    specimen = true_specimen(options.data)
    same, again = (recording(specimen, content, real, seed) for seed in (5, 6))
    for name, simulated, recorded in zip(
        "xy", detail(same.images), detail(real.images), strict=True
    ):
        ratios = ", ".join(f"{ratio:.2f}" for ratio in simulated / recorded)
        print(f"details along {name}, same specimen over real: {ratios}", flush=True)
    drawn = draw_stacks(content, real, key=jax.random.key(0))
    show("real against drawn", real, drawn)
    show("real against same specimen", real, same)
    show("same specimen against drawn", same, drawn)
    show("same specimen, other noise", same, again)


if __name__ == "__main__":
    main()
