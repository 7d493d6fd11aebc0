"""What tells a fitted simulation from its recording: the specimen, or how it is imaged?

Claim: not the specimen. The independent Monte Carlo's stack is told from stacks drawn by the fit
with an AUC of 0.977, and from the very same specimen, recorded by the fitted instrument, as surely;
that recording is told from the drawn ones with 0.71, and from itself with other noise with 0.5. So
what is left is the image formation, in differences too fine for named statistics of one channel.

Command: ``python experiments/domain_gap.py instrument.yaml`` with the file that ``fibsim fit
../shared/data/instrument_a --tilt-deg 38`` wrote (2 to 12 minutes). Needs the shared
data; specimen.tif is looked at here alone, for the diagnosis of the forward model.

Slices 0-35, which the ground does not reach; held-out AUC of the classifier of `fibsim compare` on
patches of 3 slices of 32 x 32 pixels, with its 95 % interval, that of its network and its
statistics, and that of one channel's statistics. Measured::

    real against drawn           0.977 (0.937 to 0.992)
        network 0.972, statistics 0.898; 1kV 0.69, 2kV 0.66, 5kV 0.77
    real against same specimen   0.976 (0.930 to 0.992)
        network 0.960, statistics 0.936; 1kV 0.85, 2kV 0.80, 5kV 0.84
    same specimen against drawn  0.705 (0.623 to 0.773)
        network 0.644, statistics 0.701; 1kV 0.71, 2kV 0.70, 5kV 0.65
    same specimen, other noise   0.490 (0.385 to 0.597)
        network 0.516, statistics 0.476; 1kV 0.47, 2kV 0.51, 5kV 0.52

Kullback-Leibler divergence of a patch's second orders (`divergence`), details of 10 to 17, 7 to 10,
5 to 7, 3 to 5 and 2 to 3 pixels, nats::

    drawn from real              23.8: 2.6, 5.0, 6.5, 5.8, 4.0
    same specimen from real      28.5: 2.4, 5.0, 6.8, 6.8, 7.4
    drawn from one drawn stack   3.1, 3.2, 4.2 (of three stacks, by chance)

An AUC of 0.65 would need 0.15, an error of less than one per cent in every whitened cross-spectrum
of channels and slices, where the forward model explains 96 to 98 % of the noise-free variance with
the specimen given. Tried: a Gauss-Newton fit of all unknowns to these cross-spectra and the fit's
own moments (once, on slices 0-35) took 24.9 nats against four drawn stacks to 11.3 and the solid
fraction from 0.337 to 0.345 (true 0.352), but by astigmatism of 0.2 to 0.6 that the recording does
not have, and with an AUC of 0.999: other statistics were then worse. Largest in the same specimen
(before walls that face away gave more secondaries): at 1 kV walls 2 to 20 nm below a rim are up to
8 % of the face too bright and keep too much of what the slice below shows, coherence 0.28 instead
of 0.20 for details of 4 to 5 pixels along the lean.

Power of details 3.3 to 5 pixels wide, same specimen over real: along x 1.15, 1.14 and 1.06 (1, 2,
5 kV), along y 1.04, 1.03 and 0.93. Before fits looked for uneven slices the AUCs were 0.984, 0.984,
0.757 and 0.490, the divergences 22.3 and 28.4; with means over slices instead of below layers
(`fibsim.surroundings`) 0.984, 0.988, 0.781 and 0.495, 20.9 and 27.1. Before walls that face away
gave more secondaries the first AUC was 0.985, before layers were sheared as volume fractions
0.991.

The instrument as refitted in a round of ``fibnet reconstruct`` (OUT/instrument.yaml) explains the
segmented stack pixel by pixel, but its random specimens are told from the recording more surely:
35.0 nats and an AUC of 1.000 (network 0.998), less what a twin shows (`fibsim.fit.bias`) 24.8 nats
and 0.999 (0.967). Its noise of dark parts is 7 and 11 % too high (1 and 2 kV; 11 and 14 % with the
bias), and 0.04 % of its pixels are black, of the recording's next to none.
"""

import argparse
import dataclasses
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tifffile
from face_fractions import under_pixels

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
PATCH, PATCH_DEPTH = 32, 3
BANDS = (0.06, 0.1, 0.15, 0.22, 0.32, 0.5)  # cycles per pixel


def true_specimen(folder: Path) -> Specimen:
    """specimen.tif on the images' pixels, with its ground of dense gold."""
    fine = tifffile.imread(folder / "specimen.tif").astype(np.float32)[FIRST_FACE:]
    solid = under_pixels(fine, ACROSS)
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


def waves(stack: Stack) -> np.ndarray:
    """Fourier transforms of all channels in three neighbouring slices: ``(run, 9, f_y, f_x)``."""
    images = stack.images.astype(float)
    spectra = np.fft.fft2(images - images.mean((1, 2, 3), keepdims=True), norm="ortho")
    runs = images.shape[1] - PATCH_DEPTH + 1
    return np.concatenate([spectra[:, k : k + runs] for k in range(PATCH_DEPTH)]).swapaxes(0, 1)


def divergence(recorded: Stack, others: list[Stack]) -> np.ndarray:
    """Kullback-Leibler divergence of patches from recorded ones, of Gaussian images with the same
    cross-spectra, in each of the bands of `BANDS`; in nats.

    With C the mean of v v^H over a band and direction, v being the waves of all channels and
    slices, ``sum over modes of a patch of (tr A - n - ln det A)``, A = L^-1 C L^-H and
    C_recorded = L L^H. The best classifier of such patches has an AUC of about
    ``Phi(sqrt(divergence))`` where A is near 1.
    """
    y, x = recorded.images.shape[-2:]
    f_y, f_x = np.meshgrid(np.fft.fftfreq(y), np.fft.fftfreq(x), indexing="ij")
    size, angle = np.hypot(f_y, f_x), np.degrees(np.arctan2(np.abs(f_y), np.abs(f_x)))
    half = (f_y > 0) | ((f_y == 0) & (f_x > 0))  # the other half are their conjugates
    ways = (angle < 30, angle > 60, (angle >= 30) & (angle <= 60))

    def spectra(runs, band):
        v = np.concatenate([r[..., band] for r in runs]).swapaxes(0, 1)
        v = v.reshape(len(v), -1)
        return v @ v.conj().T / v.shape[1]

    ours, theirs = [waves(recorded)], [waves(stack) for stack in others]
    found = []
    for low, high in itertools.pairwise(BANDS):
        total = 0.0
        for way in ways:
            band = half & way & (size >= low) & (size < high)
            white = np.linalg.inv(np.linalg.cholesky(spectra(ours, band)))
            ratio = np.linalg.eigvalsh(white @ spectra(theirs, band) @ white.conj().T)
            total += band.sum() * PATCH**2 / (y * x) * np.sum(ratio - 1 - np.log(ratio))
        found.append(total)
    return np.asarray(found)


def show_divergence(title: str, recorded: Stack, others: list[Stack]) -> None:
    found = divergence(recorded, others)
    bands = ", ".join(f"{value:.1f}" for value in found)
    print(f"{title:40} {found.sum():5.1f} nats; by band {bands}", flush=True)


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
    show_divergence("drawn from real", real, drawn)
    show_divergence("same specimen from real", real, [same])
    for number, one in enumerate(drawn[:3]):
        rest = drawn[:number] + drawn[number + 1 :]
        show_divergence(f"the other drawn from drawn stack {number + 1}", one, rest)
    show("real against drawn", real, drawn)
    show("real against same specimen", real, same)
    show("same specimen against drawn", same, drawn)
    show("same specimen, other noise", same, again)


if __name__ == "__main__":
    main()
