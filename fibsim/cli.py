"""The ``fibsim`` command and its subcommands. JAX is loaded only by what needs it."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fibsim.console import (
    ImageOptions,
    Options,
    OptionsOfImages,
    StackOptions,
    announce,
    progress_bar,
    run_command,
    use_compilation_cache,
)
from fibsim.errors import InputError

__all__ = ["NOT_CONVERGED", "main"]

NOT_CONVERGED = 3
"""Exit status of a fit whose result is written but did not converge."""


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Show how a stack is read: shape, channels, voxel size, and the source of every fact."""

    stack: tyro.conf.Positional[Path]
    """Folder, file or NAME of the stack."""
    facts: Options = dataclasses.field(default_factory=StackOptions)

    def run(self) -> None:
        from fibsim import io
        from fibsim.depth_order import depth_order_warnings

        stack = io.read_stack(self.stack, overrides=self.facts.overrides())
        announce(io.inspect_stack(stack, depth_order_warnings(stack)))


@dataclasses.dataclass(frozen=True)
class Simulate:
    """Record a virtual specimen with a virtual instrument: one TIFF per channel, and the truth."""

    instrument: tyro.conf.Positional[str] = "tilted52"
    """Instrument file, or a preset: tilted52, tilted54, orthogonal."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("simulated")
    """Folder to write; must not hold anything yet."""
    specimen: str | None = None
    """Kind of specimen, or a volume of solid fraction or labels in a TIFF, .npy or .npz."""
    specimen_voxel_nm: tuple[float, float, float] | None = None
    """Voxel size (z y x) of a specimen file, if it does not state it."""
    parameters: dict[str, float] = dataclasses.field(default_factory=dict)
    """Parameters of the specimen kind, as name value pairs."""
    beam_kev: tuple[float, ...] = ()
    """Beam energies (presets only; default 1 2 5)."""
    materials: tuple[str, ...] = ()
    """Material of the solid (presets only; default Au), or an .npz of fibsim calibrate; several
    for the labels 1, 2 ... of a specimen file."""
    pores: str = "vacuum"
    """What the pores hold (presets only): vacuum, a material such as resin, or an .npz."""
    slices: int = 48
    """Number of slices."""
    side: int = 128
    """Height and width of the images in pixels."""
    ground_nm: float | None = None
    """Depth below the first face, in nm, at which a drawn specimen rests on dense ground; the
    instrument file's if it names one, inf for none."""
    seed: int = 0
    """Seed of specimen, faults and noise."""
    slab_slices: int = 0
    """Slices that are made at a time, to bound the memory: the result is the same to the bit. 0:
    all of them if that takes no more than half the memory, else as many as do."""

    def run(self) -> None:
        from fibsim.simulate_command import simulate_to_folder

        use_compilation_cache()
        simulate_to_folder(
            self.instrument,
            self.out,
            specimen=self.specimen,
            specimen_voxel_nm=self.specimen_voxel_nm,
            parameters=self.parameters,
            beam_kev=self.beam_kev,
            materials=self.materials,
            pores=self.pores,
            slices=self.slices,
            side=self.side,
            seed=self.seed,
            ground_nm=self.ground_nm,
            slab_slices=self.slab_slices,
            announce=announce,
            progress=progress_bar,
        )


@dataclasses.dataclass(frozen=True)
class Fit:
    """Fit the instrument and the specimen's statistics to a stack, without labels.

    Ends with status 3, the file written, if the fit did not converge.
    """

    stack: tyro.conf.Positional[Path]
    """Folder, file or NAME of the stack."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("instrument.yaml")
    """Instrument file to write."""
    steps: int = 80
    """Optimiser steps of the descent, before the moments are matched."""
    seed: int = 0
    """Seed of specimens, noise, crops and projections."""
    facts: Options = dataclasses.field(default_factory=StackOptions)

    def run(self) -> int:
        from fibsim import io

        if self.steps < 1:
            raise InputError(f"--steps is {self.steps}, expected at least 1.")
        io.require_folder_of(self.out)
        stack = io.read_stack(self.stack, overrides=self.facts.overrides())
        use_compilation_cache()
        import jax

        from fibsim.depth_order import depth_order_warnings
        from fibsim.fit import (
            FitSettings,
            check_fittable,
            fit_best_kind,
            instrument_file_of,
            statements,
            table_of_unknowns,
        )
        from fibsim.instrument_file import save_instrument

        check_fittable(stack)
        # What can be doubted before the fit should not wait for its end.
        early = (*stack.warnings, *depth_order_warnings(stack))
        for warning in early:
            announce(f"warning: {warning}")
        show = progress_bar("fit")
        result = fit_best_kind(
            stack,
            key=jax.random.key(self.seed),
            settings=FitSettings(steps=self.steps),
            progress=lambda kind, step, steps, text: show(step, steps, f"{kind}, {text}"),
        )
        save_instrument(self.out, instrument_file_of(result))
        for line in table_of_unknowns(result):
            announce(line)
        for sentence in statements(result):
            announce(sentence)
        announce(
            f"specimen kind {result.kind}: "
            + ", ".join(f"{k} {v:.4g}" for k, v in result.specimen.items())
        )
        announce(
            f"held-out distance: default instrument {result.default_distance:.3f}, contrast "
            f"matched {result.start_distance:.3f}, fitted {result.fitted_distance:.3f}; parts of "
            f"the stack among themselves {result.real_distance:.3f}"
        )
        # No closer than parts of the stack are to one another is as close as can be told.
        if result.fitted_distance > max(result.start_distance, 1.1 * result.real_distance):
            announce("warning: the fit is no closer to held-out parts than its start was.")
        for warning in result.warnings:
            if warning not in early:
                announce(f"warning: {warning}")
        announce(f"wrote {self.out}")
        return NOT_CONVERGED if result.converged is False else 0


@dataclasses.dataclass(frozen=True)
class Compare:
    """Can a classifier tell a simulated from a real stack? Its held-out AUC, and what it sees.

    0.5: the simulation cannot be told apart; 1: always.
    """

    real: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="REAL")]
    """Folder, file or NAME of the recorded stack; options of a stack are this one's."""
    simulated: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SIMULATED")]
    """The same of a simulated stack, or an instrument file (.yaml) with a specimen section, of
    which stacks are drawn."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("comparison")
    """Folder to write; must not hold anything yet."""
    patch: int = 32
    """Height and width of a patch in pixels."""
    depth: int = 3
    """Slices of a patch."""
    steps: int = 300
    """Training steps of each classifier."""
    seed: int = 0
    """Seed of simulated stacks, weights and batches."""
    facts: OptionsOfImages = dataclasses.field(default_factory=ImageOptions)

    def run(self) -> None:
        from fibsim.compare_command import compare_to_folder

        if self.steps < 1:
            raise InputError(f"--steps is {self.steps}, expected at least 1.")
        use_compilation_cache()
        compare_to_folder(
            self.real,
            self.simulated,
            self.out,
            overrides=self.facts.overrides(),
            patch=self.patch,
            depth=self.depth,
            steps=self.steps,
            seed=self.seed,
            announce=announce,
            progress=progress_bar,
        )


@dataclasses.dataclass(frozen=True)
class Design:
    """Which voltages to record of a specimen, and how long: choices ranked by expected error.

    Takes the instrument file of a fit, simulates its specimen at all candidate voltages, and
    lets a classifier learn solid and pore from every choice at equal total exposure.
    """

    instrument: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="INSTRUMENT")]
    """Instrument file with a specimen section, as fibsim fit writes it."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("design")
    """Folder to write; must not hold anything yet."""
    beam_kev: tuple[float, ...] = (0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
    """Candidate beam energies."""
    detector: tuple[str, ...] = ()
    """Candidate detectors, SE or BSE, of those in the file (default: all of them)."""
    exposure: tuple[float, ...] = ()
    """Total exposures to compare at, in images of the fitted dose; the channels of a choice share
    them alike (default: 1, the number of fitted channels, and twice that)."""
    most: int = 3
    """Channels of a choice at most."""
    seed: int = 0
    """Seed of specimens, noise and pixels."""

    def run(self) -> None:
        from fibsim.design_command import design_to_folder

        use_compilation_cache()
        design_to_folder(
            self.instrument,
            self.out,
            beam_kev=self.beam_kev,
            detectors=self.detector,
            exposures=self.exposure,
            most=self.most,
            seed=self.seed,
            announce=announce,
            progress=progress_bar,
        )


@dataclasses.dataclass(frozen=True)
class Montecarlo:
    """Electron by electron: images of a voxel specimen, or the yields of a flat material."""

    specimen: tyro.conf.Positional[str]
    """TIFF volume of phase numbers, or the name of a material (then its bulk yields are
    printed)."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("montecarlo")
    """Folder to write; must not hold anything yet."""
    materials: tuple[str, ...] = ("vacuum", "Au")
    """Material of phase 0, 1 ...; vacuum or resin for pores."""
    voxel_nm: tuple[float, float, float] | None = None
    """Voxel size (z y x) if the file does not state it."""
    beam_kev: tuple[float, ...] = (1.0, 2.0, 5.0)
    """Beam energies."""
    slices: int = 1
    """Faces to image."""
    slice_nm: float = 10.0
    """Distance between faces."""
    first_nm: float = 0.0
    """Depth of the first face."""
    pixel_nm: float = 4.0
    """Side of a pixel."""
    tilt_deg: float = 0.0
    """Angle between beam and slice normal."""
    probe_nm: float = 1.5
    """Standard deviation of the probe."""
    detectors: tuple[str, ...] = ("SE", "BSE")
    """SE, BSE, InLens, ESB, BSE-high-angle, BSE-low-angle or transmitted."""
    electrons: int = 100
    """Beam electrons per pixel (per energy and material: times 1000)."""
    periodic: bool = False
    """Whether the specimen repeats in y and x."""
    elastic: str = "mott"
    """Elastic scattering: mott or browning."""
    fast_secondaries: bool = False
    """Whether knocked-on and Auger electrons above 50 eV are followed, too, and count as BSE, as
    they do in a detector; two to six times the work for the same error."""
    seed: int = 0
    """Seed of everything random."""

    def run(self) -> None:
        from fibsim.montecarlo_command import image_to_folder, is_material, print_bulk

        use_compilation_cache()
        options = dict(
            beam_kev=self.beam_kev, tilt_deg=self.tilt_deg, detectors=self.detectors,
            seed=self.seed, elastic=self.elastic, fast_secondaries=self.fast_secondaries,
            announce=announce,
        )  # fmt: skip
        if is_material(self.specimen):
            print_bulk(self.specimen, electrons=1000 * self.electrons, **options)
            return
        image_to_folder(
            Path(self.specimen),
            self.out,
            materials=self.materials,
            voxel_nm=self.voxel_nm,
            slices=self.slices,
            slice_nm=self.slice_nm,
            first_nm=self.first_nm,
            pixel_nm=self.pixel_nm,
            probe_nm=self.probe_nm,
            electrons=self.electrons,
            periodic=self.periodic,
            progress=progress_bar,
            **options,
        )


@dataclasses.dataclass(frozen=True)
class Calibrate:
    """Measure what beams do in a solid by Monte Carlo: an interaction table over energy.

    The file of one material can be named wherever a material is asked for.
    """

    material: tyro.conf.Positional[tuple[str, ...]]
    """Materials of the table, or a name of your own with --weight-fractions."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("interaction_table.npz")
    """File to write."""
    weight_fractions: dict[str, float] = dataclasses.field(default_factory=dict)
    """Elements and their weight fractions, as Cu 0.7 Zn 0.3."""
    density_g_cm3: float | None = None
    """Density, needed with --weight-fractions."""
    kind: Literal["metal", "semiconductor", "insulator"] | None = None
    """How secondaries are made and escape; metal for a name of your own if not given."""
    energies: tuple[float, ...] = ()
    """Beam energies in keV, increasing (default twelve from 0.5 to 30)."""
    electrons: int = 12288
    """Beam electrons per film; bulk gets more, until its backscatter is known to 1 percent."""
    seed: int = 0
    """Seed of everything random."""

    def run(self) -> None:
        from fibsim.calibrate import ENERGIES_KEV
        from fibsim.calibrate_command import calibrate_to_file

        use_compilation_cache()
        calibrate_to_file(
            self.material,
            self.out,
            weight_fractions=self.weight_fractions,
            density_g_cm3=self.density_g_cm3,
            kind=self.kind,
            energies_kev=self.energies or ENERGIES_KEV,
            electrons=self.electrons,
            seed=self.seed,
            announce=announce,
            progress=progress_bar,
        )


@dataclasses.dataclass(frozen=True)
class Milling:
    """Find thickness, drift and flicker of every slice from the images alone; put slices back.

    Writes milling.csv and milling.png and, if asked, the stack with its slices put back.
    """

    stack: tyro.conf.Positional[Path]
    """Folder, file or NAME of the stack."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("milling")
    """Folder to write; must not hold anything yet."""
    reposition: bool = False
    """Also write the stack with drift undone and on an even grid of depths, in a folder
    repositioned/ that is itself a stack."""
    interpolation: Literal["nearest", "linear", "cubic"] = "linear"
    """Between the slices above and below a depth; nearest leaves the noise as it is."""
    facts: Options = dataclasses.field(default_factory=StackOptions)

    def run(self) -> None:
        from fibsim.milling_command import milling_to_folder

        milling_to_folder(
            self.stack,
            self.out,
            overrides=self.facts.overrides(),
            repositioned=self.reposition,
            interpolation=self.interpolation,
            announce=announce,
            progress=progress_bar("milling", compiles=False),
        )


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Show versions, devices and memory, and run a tiny simulation as a check."""

    def run(self) -> None:
        from fibsim.provenance import environment, versions

        for name, value in {**versions(), **environment()}.items():
            announce(f"{name:20} {value}")
        import time

        import jax

        from fibsim import make_instrument, make_specimen, sample_stack

        started = time.perf_counter()
        specimen = make_specimen(
            "waves",
            key=jax.random.key(0),
            shape=(32, 64, 64),
            voxel_nm=(5.0, 4.0, 4.0),
            ligament_nm=25.0,
        )
        instrument = make_instrument(beam_kev=[1.0, 5.0])
        sample = sample_stack(
            specimen, instrument, key=jax.random.key(1), num_slices=12, sublayers=2
        )
        mean = ", ".join(f"{float(v):.0f}" for v in sample.images.mean((1, 2, 3)))
        seconds = time.perf_counter() - started
        announce(f"{'test simulation':20} mean grey {mean} in {seconds:.1f} s with compilation")


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``fibsim``."""
    commands = {
        "inspect": Inspect,
        "simulate": Simulate,
        "fit": Fit,
        "compare": Compare,
        "design": Design,
        "milling": Milling,
        "montecarlo": Montecarlo,
        "calibrate": Calibrate,
        "doctor": Doctor,
    }
    return run_command("fibsim", commands, "Differentiable FIB-SEM forward model.", argv)


if __name__ == "__main__":
    sys.exit(main())
