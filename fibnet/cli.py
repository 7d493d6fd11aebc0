"""The ``fibnet`` command: reconstruct, train, pretrain, segment, evaluate, measure, demo."""

import csv
import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fibsim.console import (
    Options,
    StackOptions,
    announce,
    progress_bar,
    run_command,
    use_compilation_cache,
)

__all__ = ["main"]

PresetName = Literal["quick", "standard", "best"]
NetworkName = Literal["tiny", "small", "base", "large"]
PrecisionName = Literal["float32", "bfloat16"]
StageName = Literal["fit", "train", "adapt", "segment", "refine", "measure", "report"]
Out = Annotated[Path, tyro.conf.arg(aliases=["-o"])]


@dataclasses.dataclass(frozen=True)
class Reconstruct:
    """From a recorded stack to a measured solid/pore volume and a report.

    Reads and checks the stack, fits the instrument, trains a segmenter on simulated data for it,
    refits and retrains on what it segments, segments, refines the volume so that it explains the
    stack, measures, and reports. Every stage's result is kept: call again to go on.
    """

    stack: tyro.conf.Positional[Path]
    """Folder, file or NAME of the stack."""
    out: Out
    """Work folder: new, empty, or of the same reconstruction."""
    preset: PresetName = "standard"
    """quick: minutes; standard: up to 25 minutes on 2 cores; best: for a GPU or most of a day."""
    rounds: int | None = None
    """Most rounds of refitting and retraining on the segmented volume (0: none; default: 0 for
    quick, else 1)."""
    stages: tuple[StageName, ...] = (
        "fit",
        "train",
        "adapt",
        "segment",
        "refine",
        "measure",
        "report",
    )
    """Stages to run; finished ones are kept."""
    seed: int = 0
    """Decides every random draw."""
    start: Path | None = None
    """Network to begin the training from, of fibnet pretrain with the preset's architecture."""
    truth: Path | None = None
    """True label volume, used for scores in the table and nothing else."""
    facts: Options = dataclasses.field(default_factory=StackOptions)

    def run(self) -> None:
        from fibnet.labels import read_label
        from fibsim import io
        from fibsim.depth_order import depth_order_warnings

        stack = io.read_stack(self.stack, overrides=self.facts.overrides())
        truth = read_label(self.truth) if self.truth is not None else None
        announce(io.inspect_stack(stack, depth_order_warnings(stack)))
        use_compilation_cache()
        from fibnet.pipeline import reconstruct

        result = reconstruct(
            stack,
            self.out,
            preset=self.preset,
            rounds=self.rounds,
            start=self.start,
            seed=self.seed,
            stages=self.stages,
            truth=truth,
            progress=progress_bar,
            announce=announce,
        )
        if result is not None:
            _show_result(result)


def _show_result(result) -> None:
    announce("")
    with (result.folder / "measures.csv").open(encoding="utf-8") as file:
        for row in csv.reader(file):
            announce("\t".join(row))
    announce("")
    announce(f"probability  {result.probability}")
    announce(f"label        {result.label}")
    announce(f"pictures     {result.folder / 'figures'}")
    announce(f"report       {result.report}")


def _changes_of(options: "Train | Pretrain") -> dict[str, Any]:
    """What a command states of a training's length and pace, by its names in `TrainSettings`."""
    stated = {"stacks": options.stacks, "precision": options.precision}
    return stated if options.steps is None else stated | {"steps": options.steps}


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a segmenter on simulated stacks of an instrument file."""

    instrument: tyro.conf.Positional[Path]
    """Instrument file with a specimen section, as fibsim fit writes it."""
    out: Out
    """Folder for the network and the training log; call again to go on."""
    preset: PresetName = "standard"
    """Size of network and length of training."""
    steps: int | None = None
    """Training steps, instead of the preset's."""
    window: int | None = None
    """Slices seen at once (odd), instead of the preset's; 1 for single slices."""
    start: Path | None = None
    """Network to begin from, of fibnet pretrain with the preset's architecture; takes a third of
    the steps."""
    stacks: int = 1
    """Simulated stacks of a step, shared out among the machine's devices."""
    precision: PrecisionName = "float32"
    """Of the network's arithmetic in training; bfloat16 is for large networks on GPUs."""
    tensorboard: bool = False
    """Also write the training's log for TensorBoard (pip install "fibsim[tensorboard]")."""
    seed: int = 0
    """Decides weights and data."""

    def run(self) -> None:
        from fibnet.train_command import train_to_folder

        use_compilation_cache()
        train_to_folder(
            self.instrument,
            self.out,
            preset=self.preset,
            window=self.window,
            start=self.start,
            changes=_changes_of(self),
            tensorboard=self.tensorboard,
            seed=self.seed,
            progress=progress_bar,
            announce=announce,
        )


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """Train a general network, for any instrument, voltages and specimen: where the training for
    a fitted instrument may begin (--start), and a first look at a stack without a fit."""

    out: Out
    """Folder for the network and the training log; call again to go on."""
    network: NetworkName = "small"
    """Architecture: tiny of the preset quick, small of standard, base of best."""
    steps: int | None = None
    """Training steps; 10000 if not given, hours on a CPU."""
    stacks: int = 1
    """Simulated stacks of a step, shared out among the machine's devices."""
    precision: PrecisionName = "float32"
    """Of the network's arithmetic in training; bfloat16 is for large networks on GPUs."""
    tensorboard: bool = False
    """Also write the training's log for TensorBoard (pip install "fibsim[tensorboard]")."""
    seed: int = 0
    """Decides weights and data."""

    def run(self) -> None:
        from fibnet.train_command import pretrain_to_folder

        use_compilation_cache()
        pretrain_to_folder(
            self.out,
            network=self.network,
            changes=_changes_of(self),
            tensorboard=self.tensorboard,
            seed=self.seed,
            progress=progress_bar,
            announce=announce,
        )


@dataclasses.dataclass(frozen=True)
class Segment:
    """Segment a stack with a trained network: probability.tif and label.tif.

    The stack may have some of the channels that the network was trained for, or any channels if
    the network is a general one.
    """

    stack: tyro.conf.Positional[Path]
    """Folder, file or NAME of the stack."""
    model: Path
    """Folder that fibnet train, pretrain or reconstruct wrote."""
    out: Out
    """Folder for the volumes."""
    tile_px: int = 384
    """Side of the tiles; bounds the memory."""
    facts: Options = dataclasses.field(default_factory=StackOptions)

    def run(self) -> None:
        from fibsim import io

        stack = io.read_stack(self.stack, overrides=self.facts.overrides())
        use_compilation_cache()
        from fibnet.train_command import segment_to_folder

        segment_to_folder(
            stack,
            self.model,
            self.out,
            tile_px=self.tile_px,
            progress=progress_bar("segment"),
            announce=announce,
        )


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Score a label volume against a truth, beside the baselines on the same stack."""

    label: tyro.conf.Positional[Path]
    """Label or probability TIFF (a probability is cut at one half)."""
    truth: Path
    """True label TIFF."""
    stack: Path | None = None
    """The stack, to score Otsu, k-means and watershed beside it."""
    facts: Options = dataclasses.field(default_factory=StackOptions)

    def run(self) -> None:
        from fibnet.evaluate_command import evaluate_table

        announce(evaluate_table(self.label, self.truth, self.stack, self.facts.overrides()))


@dataclasses.dataclass(frozen=True)
class Measure:
    """Measure a label volume: sizes, surface, topology, transport, correlation, surface mesh."""

    volume: tyro.conf.Positional[Path]
    """Label (0 = pore, one other value = solid) or probability (cut at one half)."""
    out: Out
    """New folder for measures.csv, curves.csv and the mesh."""
    voxel_nm: tuple[float, float, float] | None = None
    """Sides of a voxel along z, y and x in nm, instead of the file's own."""
    mesh: Literal["stl", "ply"] | None = None
    """Also write the surface of the solid in this format."""

    def run(self) -> None:
        from fibnet.measure_command import measure_to_folder

        use_compilation_cache()
        measure_to_folder(
            self.volume, self.out, voxel_nm=self.voxel_nm, mesh=self.mesh, announce=announce
        )


@dataclasses.dataclass(frozen=True)
class Demo:
    """The whole job on a small virtual specimen: simulate, fit, train, segment, score, report."""

    out: Out = Path("demo-out")
    """Work folder."""
    seed: int = 0
    """Decides every random draw."""

    def run(self) -> None:
        use_compilation_cache()
        from fibnet.demo import run_demo

        _show_result(run_demo(self.out, seed=self.seed, progress=progress_bar, announce=announce))


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``fibnet``."""
    commands = {
        "reconstruct": Reconstruct,
        "train": Train,
        "pretrain": Pretrain,
        "segment": Segment,
        "evaluate": Evaluate,
        "measure": Measure,
        "demo": Demo,
    }
    return run_command("fibnet", commands, "Segmenter for FIB-SEM stacks, taught by fibsim.", argv)


if __name__ == "__main__":
    sys.exit(main())
