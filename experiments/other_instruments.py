"""Does the main job hold for other materials, voltages, detectors and geometries?

Claim: on zirconia grains at 0.8 and 3 kV (secondaries, tilted), Dice is 0.985 where the best Otsu
has 0.906 and a network taught by the stack's own truth 0.988; on nanoporous copper, imaged upright
at 1.5 kV (secondaries), 4 and 8 kV (backscatter), 0.974 where these have 0.732 and 0.981; on
hierarchical gold over dense ground at 1, 2 and 4 kV (secondaries and a tenth of the backscatter,
tilted, slices uneven by 12 %) 0.936 where these have 0.628 and 0.935: 0.003 and 0.007 short of the
taught networks, within the goal of 0.015, and 0.001 better.

Command: ``python experiments/other_instruments.py OUT [--case CASE]`` (a case takes half an hour on
2 cores, half of it for the recording of copper, a quarter for that of gold). A recording is made by
our Monte Carlo, which shares no law of imaging with the forward model, with uneven slices, flicker,
curtains and line noise; ``fibnet reconstruct`` is told what a user would know. The truth is read
after it has ended.

Measured (preset standard, seed 0; Dice without pixels that are half solid; the labels' porosity,
true 0.580 for copper, 0.446 for zirconia, 0.772 for gold, by the voxels)::

                                            copper            zirconia              gold
                                         Dice  porosity    Dice  porosity    Dice  porosity
    first network                      0.9725     0.592  0.9850     0.450  0.9297     0.764
    after a round of alternation       0.9723     0.599  0.9850     0.448  0.9366     0.766
    refined, the result                0.9737     0.597  0.9851     0.448  0.9361     0.764
    Otsu, best channel                 0.7319         -  0.9058         -  0.6280         -
    taught by the other half's truth   0.9807         -  0.9881         -  0.9347         -

Copper: mean ligament 43.8 (44.0) nm, surface 29.9 (30.0) 1/um, Euler number -130 (-132). Zirconia:
74.7 (74.2) nm, 24.5 (24.5) 1/um, -116 (-91); its spheres were taken for fibres. Gold: 22.6 (21.6)
nm, 31.2 (30.3) 1/um, -1044 (-1024). Of labels that call a pixel solid where more than half of it
is, from which the numbers in brackets are, the porosity is 0.593, 0.457 and 0.786; those that call
a pixel solid where half of it is have 0.758 in gold, whose ligaments are 5 pixels thick, and 23.1
nm. Of the stacks alone, without their mirror images, copper and zirconia had 0.9728 and 0.9843, the
taught networks 0.9792 and 0.9871.

Until what a refit gets wrong was taken away (`fibsim.fit.bias`), copper had 0.9716 and 0.9739,
porosity 0.600 and 0.595, gold 0.9323 and 0.9289, porosity 0.763 and 0.754, zirconia (even slices)
0.9849 and 0.9849. With the network's own segmentation of the twin, whose errors are not the
recording's, instead of the twin's true faces copper and gold had 0.9710 and 0.9686, 0.9366 and
0.9350; with specimens cut from the volume imaged by the instrument as regressed gold had 0.9354 and
0.9347.

Before refits started from the slices that ``fibsim milling`` finds, and with a prior of 0.5 pixels
instead of 0.1 for a displacement of all interfaces, copper had 0.9718 and 0.9741, porosity 0.600
and 0.594, gold 0.9326 and 0.9269, porosity 0.761 and 0.750. With a prior of 0.05 they have 0.9729
and 0.9304, porosity 0.598 and 0.758; with none of it in the refinement, 0.9721 and 0.9318.

With refits whose priors lay around what the fit had found, and with less solid between the faces of
a volume than at them, copper had 0.9723 and 0.9743, porosity 0.593 and 0.585, zirconia 0.9838 and
0.9836.

Copper had 0.956, 0.953 and 0.953, porosity 0.569 to 0.562, zirconia 0.981 to 0.980, when what
surrounds a beam was a mean over the slice that a layer is cut into and films closed pores by the
share of a slice that they fill: `depth_response.py` shows what that made wrong. The laws of now
were chosen by how they explain copper's true specimen and the independent stack's, so copper is not
held out. A backscatter law without bright edges had given 0.947, one whose partly covered pixels
count as edges 0.951.
"""

import argparse
import dataclasses
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import jax.numpy as jnp
import numpy as np
import yaml
from face_fractions import under_pixels
from networks import one_minus_dice

from fibnet.baselines import otsu
from fibnet.channels import channel_input
from fibnet.devices import stacked
from fibnet.morphology import as_rows, measure
from fibnet.presets import NETWORKS, PRESETS
from fibnet.segment import predict
from fibnet.segmenter import Segmenter
from fibnet.train import run_training
from fibsim.fit import grey_levels
from fibsim.instrument import Instrument
from fibsim.instrument_file import load_instrument
from fibsim.io import read_stack, read_volume, write_volume
from fibsim.materials import composition
from fibsim.montecarlo import image_yields
from fibsim.specimens import make

VOXEL_NM, PIXEL_NM, SLICE_NM, BELOW_NM = 2.0, 4.0, 10.0, 200.0
CROP = (12, 80, 80)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A specimen and what records it: (keV, detector, electrons a pixel) of every channel.

    ``uneven`` is the slices' relative standard deviation, ``bse_share`` the backscattered
    electrons that a detector of secondaries counts, too, ``ground_nm`` the depth of dense ground
    below the first face.
    """

    material: str
    kind: str
    parameters: dict[str, float]
    channels: tuple[tuple[float, str, int], ...]
    tilt_deg: float
    seed: int
    slices: int = 40
    side_px: int = 96
    uneven: float = 0.05
    bse_share: float = 0.0
    ground_nm: float = float("inf")


CASES = {
    "copper": Case(
        material="Cu",
        kind="waves",
        parameters=dict(solid_fraction=0.42, ligament_nm=45.0),
        channels=((1.5, "SE", 60), (4.0, "BSE", 120), (8.0, "BSE", 120)),
        tilt_deg=0.0,
        seed=11,
    ),
    "zirconia": Case(
        material="ZrO2",
        kind="spheres",
        parameters=dict(solid_fraction=0.55, radius_nm=40.0),
        channels=((0.8, "SE", 60), (3.0, "SE", 60)),
        tilt_deg=36.0,
        seed=12,
    ),
    "hierarchical": Case(
        material="Au",
        kind="hierarchical",
        parameters=dict(
            upper_fraction=0.45, upper_ligament_nm=110.0, lower_fraction=0.5, lower_ligament_nm=25.0
        ),
        channels=((1.0, "SE", 50), (2.0, "SE", 50), (4.0, "SE", 50)),
        tilt_deg=38.0,
        seed=13,
        slices=48,
        side_px=128,
        uneven=0.12,
        bse_share=0.1,
        ground_nm=510.0,
    ),
}


def milled(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The specimen's voxels, and the depth of every face in nm."""
    steps = SLICE_NM * (1 + case.uneven * rng.normal(size=case.slices))
    faces = 4.0 + np.concatenate([[0.0], np.cumsum(steps[:-1])])
    across = round(case.side_px * PIXEL_NM / VOXEL_NM)
    shape = (round((faces[-1] + BELOW_NM) / VOXEL_NM), across, across)
    made = make(
        case.kind, key=jax.random.key(case.seed), shape=shape, voxel_nm=VOXEL_NM, **case.parameters
    )
    solid = np.asarray(made.solid) > 0.5
    solid[np.arange(len(solid)) * VOXEL_NM >= faces[0] + case.ground_nm] = True
    return solid, faces


def face_fraction(fine: np.ndarray, faces_nm: np.ndarray) -> np.ndarray:
    """Solid fraction of every pixel of every face: of the voxels that it cuts."""
    layers = fine[np.floor(faces_nm / VOXEL_NM).astype(int)].astype(np.float32)
    return under_pixels(layers, round(PIXEL_NM / VOXEL_NM))


def recorded(case: Case, folder: Path) -> None:
    """Write the stack, what is known of it, and the solid fraction of every pixel's face."""
    rng = np.random.default_rng(case.seed)
    fine, faces = milled(case, rng)
    folder.mkdir(parents=True, exist_ok=True)  # a recording that was broken off is made anew
    voxel = (SLICE_NM, PIXEL_NM, PIXEL_NM)
    known = {"pixel_nm": PIXEL_NM, "slice_nm": SLICE_NM, "tilt_deg": case.tilt_deg}
    known |= {"material": case.material, "channels": []}
    brightness = 1 + 0.01 * rng.normal(size=(case.slices, 1, 1))
    curtain = 1 + 0.01 * rng.normal(size=(1, 1, case.side_px))
    for number, (kev, detector, electrons) in enumerate(case.channels):
        found = image_yields(
            fine.astype(np.uint8),
            (None, composition(case.material)),
            voxel_nm=(VOXEL_NM,) * 3,
            beam_kev=kev,
            faces_nm=list(faces),
            pixel_nm=PIXEL_NM,
            electrons=electrons,
            key=jax.random.key(100 * case.seed + number),
            tilt_deg=case.tilt_deg,
            detectors=(detector, "BSE"),
        )
        signal = found.mean[0] + (case.bse_share * found.mean[1] if detector == "SE" else 0.0)
        image = signal * brightness * curtain
        low, high = np.percentile(image, (1, 99))
        grey = 30 + 180 * (image - low) / (high - low)
        grey = grey + rng.normal(size=(case.slices, case.side_px, 1))
        name = f"{kev:g}kV_{detector}.tif"
        whole = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
        write_volume(folder / name, whole, voxel_nm=voxel)
        known["channels"].append({"file": name, "beam_kev": kev, "detector": detector})
        print(f"recorded {name}", flush=True)
    (folder / "stack.yaml").write_text(yaml.safe_dump(known))
    write_volume(folder.parent / "fraction.tif", face_fraction(fine, faces), voxel_nm=voxel)


def taught(images: np.ndarray, fraction: np.ndarray, instrument: Instrument) -> np.ndarray:
    """Label of a network of the preset's kind that learned the truth of the other half."""
    half = len(fraction) // 2
    halves = (slice(0, half), slice(half, None))
    label = np.empty(fraction.shape, bool)
    settings = dataclasses.replace(PRESETS["standard"].train, steps=1000, channel_dropping=0.0)
    for number, (learn, keep) in enumerate((halves, halves[::-1])):
        own, solid = images[:, learn], fraction[learn]
        channels = channel_input([jnp.asarray(own)], instrument)
        alike = stacked([channels])

        def batch(numbers: np.ndarray, own=own, solid=solid, alike=alike):
            rng = np.random.default_rng([7, numbers[0]])
            z, y, x = (int(rng.integers(n - m + 1)) for n, m in zip(solid.shape, CROP, strict=True))
            cut = tuple(slice(a, a + m) for a, m in zip((z, y, x), CROP, strict=True))
            flip = slice(None, None, -1 if rng.random() < 0.5 else 1)
            return (
                jnp.asarray(own[:, *cut][None, ..., flip]),
                jnp.asarray(solid[cut][None, ..., flip]),
                alike,
            )

        with TemporaryDirectory() as folder:
            params, temperature, label_temperature = run_training(
                batch,
                [(jnp.asarray(own), jnp.asarray(solid), channels)],
                NETWORKS["small"],
                folder=Path(folder),
                seed=number,
                settings=settings,
            )
        segmenter = Segmenter(
            config=NETWORKS["small"],
            params=params,
            channels=channels,
            beam_kev=tuple(float(e) for e in instrument.beam_kev),
            detectors=instrument.detectors,
            temperature=temperature,
            label_temperature=label_temperature,
        )
        label[keep] = predict(segmenter, images)[keep] > 0.5
    return label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--case", choices=(*CASES, "all"), default="all")
    parser.add_argument("--preset", default="standard")
    options = parser.parse_args()
    for name in CASES if options.case == "all" else (options.case,):
        folder = options.out / name
        if not (folder / "fraction.tif").exists():
            recorded(CASES[name], folder / "stack")
        out = folder / options.preset
        work = ["reconstruct", folder / "stack", "--out", out, "--preset", options.preset]
        subprocess.run([sys.executable, "-m", "fibnet.cli", *map(str, work)], check=True)
        stack = read_stack(folder / "stack")
        fraction = read_volume(folder / "fraction.tif")
        label = read_volume(out / "label.tif") > 0
        grey = grey_levels(stack)
        names = [c.name for c in stack.channels]
        instrument = load_instrument(out / "instrument.yaml").instrument
        methods = {
            "fibnet": label,
            **{f"Otsu, {n}": v for n, v in otsu(grey, names).items()},
            "taught by the other half's truth": taught(grey, fraction, instrument),
        }
        print(f"{name}: porosity {1 - label.mean():.4f}, true {1 - fraction.mean():.4f}")
        for method, volume in methods.items():
            print(f"  {method:40s} Dice {1 - one_minus_dice(volume, fraction):.4f}")
        rows = (as_rows(measure(v, stack.voxel_nm)) for v in (label, fraction > 0.5))
        for (measured, value, unit), (_, true, _) in zip(*rows, strict=True):
            print(f"  {measured:40s} {value:10.4g}  true {true:10.4g} {unit}", flush=True)


if __name__ == "__main__":
    main()
