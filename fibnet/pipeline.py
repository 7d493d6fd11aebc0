"""The main job: from a recorded stack to a measured volume and a report.

``reconstruct`` runs the stages fit, train, adapt, segment, refine, measure and report in a work
folder; each is a function of the files that the stages before it left there, so that a run can be
broken anywhere and go on later.
"""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fibnet.alternate import AlternationSettings, alternate
from fibnet.baselines import all_baselines
from fibnet.calibration import label_probability
from fibnet.correlation import correlation_rows, correlations, curves_table
from fibnet.data import (
    Source,
    draw_training_stack,
    drawn_stacks,
    other_kinds,
    size_like,
    source_from_file,
)
from fibnet.intervals import intervals, simulated_cases
from fibnet.metrics import scores
from fibnet.model import ModelConfig
from fibnet.morphology import as_rows, measure
from fibnet.presets import NETWORKS, PRESETS, Preset
from fibnet.refine import regress_and_refine
from fibnet.segment import predict
from fibnet.segmenter import Segmenter, load_segmenter, save_segmenter
from fibnet.stages import WorkFolder
from fibnet.start import load_start, start_identity
from fibnet.train import TrainSettings, train
from fibnet.training_log import recorded
from fibnet.transport import transport, transport_rows
from fibsim import io as stack_io
from fibsim.errors import InputError
from fibsim.fit import (
    FitSettings,
    check_fittable,
    fit_best_kind,
    grey_levels,
    instrument_file_of,
    statements,
)
from fibsim.instrument import Instrument
from fibsim.instrument_file import InstrumentFile, load_instrument, save_instrument
from fibsim.stack import Stack

__all__ = ["STAGES", "Reconstruction", "reconstruct"]

STAGES = ("fit", "train", "adapt", "segment", "refine", "measure", "report")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Where a finished reconstruction's results lie, and its headline numbers."""

    folder: Path
    report: Path
    probability: Path
    label: Path
    measures: dict[str, float]
    scores: dict[str, dict[str, float]]


class _Job:
    """One reconstruction: the inputs, and the stages as methods without arguments."""

    def __init__(
        self,
        stack: Stack,
        preset: Preset,
        preset_name: str,
        rounds: int,
        seed: int,
        start: Segmenter | None,
        truth: np.ndarray | None,
        work: WorkFolder,
        progress: Callable[[str], Callable[[int, int, str], None]],
    ):
        self.stack, self.preset, self.preset_name = stack, preset, preset_name
        # Of a single slice nothing is known of what lies below.
        self.rounds = rounds if stack.num_slices > 1 else 0
        self.seed, self.truth = seed, truth
        self.start = start
        self.work, self.progress = work, progress
        self.out = work.path
        self.grey = grey_levels(stack)

    # -- fit ---------------------------------------------------------------------------------

    def fit(self) -> None:
        show = self.progress("fit")
        result = fit_best_kind(
            self.stack,
            key=jax.random.key(self.seed),
            settings=FitSettings(steps=self.preset.fit_steps, refine=self.preset.refine),
            kinds=self.preset.kinds,
            progress=lambda kind, step, steps, text: show(step, steps, f"{kind}, {text}"),
        )
        start = InstrumentFile(
            instrument=result.start_instrument, kind=result.kind, specimen=result.start_specimen
        )
        save_instrument(self.out / "instrument_start.yaml", start)
        facts = {
            "kind": result.kind,
            "default_distance": result.default_distance,
            "start_distance": result.start_distance,
            "fitted_distance": result.fitted_distance,
            "real_distance": result.real_distance,
            "loss": [float(v) for v in result.loss],
            "statements": statements(result),
            "warnings": list(result.warnings),
        }
        stack_io.atomic_write_text(self.out / "fit.json", json.dumps(facts))
        save_instrument(self.out / "instrument.yaml", instrument_file_of(result))

    def source(self) -> Source:
        return source_from_file(self.out / "instrument.yaml")

    # -- train -------------------------------------------------------------------------------

    @property
    def network(self) -> ModelConfig:
        return network_for(self.preset, self.stack)

    @property
    def training(self) -> TrainSettings:
        """Length and pace of the first training, which is shorter where rounds follow it."""
        if self.start is not None:
            return self.preset.from_start
        settings = self.preset.train
        if self.rounds:
            settings = dataclasses.replace(settings, steps=self.preset.first_steps)
        return settings

    def train(self) -> None:
        # Rounds of an earlier network, if this stage runs once more.
        shutil.rmtree(self.adapted, ignore_errors=True)
        show = self.progress("train")
        source = self.source()
        folder = self.out / "training"
        with recorded(folder) as record:
            segmenter = train(
                source,
                self.network,
                folder=folder,
                seed=self.seed,
                settings=self.training,
                data=self.preset.data,
                others=other_kinds(source),
                start=self.start,
                progress=lambda step, steps, loss: show(step, steps, f"loss {loss:.3f}"),
                record=record,
            )
        save_segmenter(self.out / "model", segmenter)

    # -- adapt -------------------------------------------------------------------------------

    @property
    def adapted(self) -> Path:
        """Folder of the alternation."""
        return self.out / "adapt"

    @property
    def prior(self) -> Instrument:
        """Centre of the priors of every refit: where the fit started."""
        return load_instrument(self.out / "instrument_start.yaml").instrument

    def adapt(self) -> None:
        if not self.rounds:
            return
        # The results of fit and train are replaced in the end, so what a broken run goes on from
        # is kept.
        start = self.adapted / "start"
        if not start.is_dir():
            part = self.adapted / "start.part"
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(self.out / "model", part / "model")
            shutil.copy(self.out / "instrument.yaml", part)
            part.rename(start)
        segmenter, content, rounds = alternate(
            self.stack,
            self.adapted,
            segmenter=load_segmenter(start / "model"),
            content=load_instrument(start / "instrument.yaml"),
            prior=self.prior,
            settings=AlternationSettings(
                rounds=self.rounds,
                train=self.preset.retrain,
                data=self.preset.data,
                regression=self.preset.regression,
            ),
            seed=self.seed,
            progress=self.progress,
        )
        stack_io.atomic_write_text(self.out / "adapt.json", json.dumps(rounds))
        save_instrument(self.out / "instrument.yaml", content)
        save_segmenter(self.out / "model", segmenter)

    # -- segment -----------------------------------------------------------------------------

    def segment(self) -> None:
        segmenter = load_segmenter(self.out / "model")
        show = self.progress("segment")
        fraction = predict(
            segmenter,
            self.grey,
            fraction=True,
            progress=lambda done, tiles: show(done, tiles, "tiles"),
        )
        voxel = self.stack.voxel_nm
        stack_io.write_volume(self.out / "network_fraction.tif", fraction, voxel_nm=voxel)
        self.write_result(fraction, segmenter)

    def write_result(self, fraction: np.ndarray, segmenter: Segmenter) -> None:
        label, voxel = (fraction > 0.5).astype(np.uint8), self.stack.voxel_nm
        probability = label_probability(
            fraction, segmenter.temperature, segmenter.label_temperature
        )
        stack_io.write_volume(self.out / "probability.tif", probability, voxel_nm=voxel)
        stack_io.write_volume(self.out / "label.tif", label, voxel_nm=voxel)

    # -- refine ------------------------------------------------------------------------------

    def refine(self) -> None:
        if self.preset.refinement is None:
            return
        content = load_instrument(self.out / "instrument.yaml")
        fraction, facts = regress_and_refine(
            self.stack,
            stack_io.read_volume(self.out / "network_fraction.tif"),
            content,
            prior=self.prior,
            regression=self.preset.regression,
            settings=self.preset.refinement,
            seed=self.seed,
            progress=self.progress("refine"),
        )
        stack_io.atomic_write_text(self.out / "refine.json", json.dumps(facts))
        self.write_result(fraction, load_segmenter(self.out / "model"))

    # -- measure -----------------------------------------------------------------------------

    def volumes(self) -> tuple[np.ndarray, np.ndarray]:
        probability = stack_io.read_volume(self.out / "probability.tif")
        return probability, stack_io.read_volume(self.out / "label.tif") > 0

    def measure(self) -> None:
        probability, label = self.volumes()
        drawn = simulated_examples(self.source(), self.stack, self.preset, seed=self.seed, number=2)
        volumes = {"fibnet": label} | all_baselines(
            self.grey,
            [c.name for c in self.stack.channels],
            train_images=[images for images, _ in drawn],
            train_labels=[solid for _, solid in drawn],
            seed=self.seed,
        )
        voxel = self.stack.voxel_nm
        folder = self.out / "baselines"
        folder.mkdir(exist_ok=True)
        show = self.progress("measure")
        # Transport takes longest: it is solved for the result and the truth alone.
        chosen = {"fibnet": label} | ({} if self.truth is None else {"truth": self.truth})
        total = len(volumes) + len(chosen)
        results: dict[str, dict] = {}
        for i, (name, volume) in enumerate(volumes.items()):
            results[name] = {"measures": as_rows(measure(volume, voxel))}
            if self.truth is not None:
                own = probability if name == "fibnet" else None
                results[name]["scores"] = scores(volume, self.truth, voxel, probability=own)
            if name != "fibnet":
                path = folder / f"{name.replace(' ', '_')}.tif"
                stack_io.write_volume(path, volume.astype(np.uint8), voxel_nm=voxel)
            show(i + 1, total, name)
        if self.truth is not None:
            results["truth"] = {"measures": as_rows(measure(self.truth, voxel))}
        curves = {name: correlations(volume, voxel) for name, volume in chosen.items()}
        for i, (name, volume) in enumerate(chosen.items(), len(volumes)):
            results[name]["structure"] = [
                *transport_rows(transport(volume, voxel)),
                *correlation_rows(curves[name]),
            ]
            show(i + 1, total, f"transport, {name}")
        table = stack_io.csv_text(curves_table(curves))
        stack_io.atomic_write_text(self.out / "curves.csv", table)
        results["fibnet"] |= self.doubt(results["fibnet"]["measures"])
        stack_io.atomic_write_text(self.out / "measures.csv", measures_csv(results))
        text = json.dumps(finite(results), allow_nan=False)
        stack_io.atomic_write_text(self.out / "measures.json", text)

    def doubt(self, rows: list[tuple[str, float, str]]) -> dict[str, Any]:
        """Intervals of the measures, and how well the network's probabilities are calibrated."""
        if not self.preset.cases:
            return {}
        show = self.progress("doubt")
        cases = simulated_cases(
            load_segmenter(self.out / "model"),
            self.source(),
            self.stack.images.shape[1:],
            seed=self.seed + 2,
            number=self.preset.cases,
            sublayers=self.preset.data.sublayers,
            progress=show,
        )
        found = {name: value for name, value, _ in rows}
        return {
            "intervals": {name: list(v) for name, v in intervals(found, cases).items()},
            "calibration_error": float(np.mean([case.calibration_error for case in cases])),
        }

    # -- report ------------------------------------------------------------------------------

    def report(self) -> None:
        # matplotlib is loaded for the report alone
        from fibnet.reporting import write_reconstruction_report

        write_reconstruction_report(self)


def network_for(preset: Preset, stack: Stack) -> ModelConfig:
    """The preset's architecture, for a single slice that of 2D."""
    config = NETWORKS[preset.network]
    if stack.num_slices == 1:
        config = dataclasses.replace(config, window=1, volume=False)
    return config


def simulated_examples(
    source: Source, stack: Stack, preset: Preset, *, seed: int, number: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Labelled simulated stacks about as large as the recorded one, drawn around the source."""
    data = size_like(stack.images.shape[1:], sublayers=preset.data.sublayers)
    drawn = drawn_stacks(source, data, draw=draw_training_stack, seed=seed + 1, number=number)
    return list(drawn)


def measures_csv(results: dict[str, dict]) -> str:
    """One row per quantity, one column per method; scores below the measures.

    Beside the result the bounds of its 90 % interval, where it has one.
    """
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for method, content in results.items():
        for name, value, unit in [*content["measures"], *content.get("structure", [])]:
            rows.setdefault((name, unit), {})[method] = value
        for name, value in content.get("scores", {}).items():
            rows.setdefault((name, ""), {})[method] = value
    bounds = results["fibnet"].get("intervals", {})
    others = [m for m in results if m != "fibnet"]
    shown = (
        [
            name,
            unit,
            *map(_number, (values.get("fibnet"), *bounds.get(name, (None, None)))),
            *(_number(values.get(m)) for m in others),
        ]
        for (name, unit), values in rows.items()
    )
    head = ["quantity", "unit", "fibnet", "fibnet 5 %", "fibnet 95 %", *others]
    return stack_io.csv_text([head, *shown])


def finite(value: Any) -> Any:
    """The same with None for infinite and undefined numbers, which JSON does not know."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _check_stages(stages: tuple[str, ...]) -> None:
    for stage in stages:
        if stage not in STAGES:
            raise InputError(f"stage {stage!r} is unknown; expected some of {', '.join(STAGES)}.")


def reconstruct(
    stack: Stack,
    out: str | Path,
    *,
    preset: str = "standard",
    rounds: int | None = None,
    start: str | Path | None = None,
    seed: int = 0,
    stages: tuple[str, ...] = STAGES,
    truth: np.ndarray | None = None,
    progress: Callable[[str], Callable[[int, int, str], None]] | None = None,
    announce: Callable[[str], None] = print,
) -> Reconstruction | None:
    """Run the main job on a stack, or go on where it stopped.

    Args:
        stack: what `fibsim.io.read_stack` gave.
        out: work folder; every stage's result is kept there.
        preset: a name of `fibnet.presets.PRESETS`.
        rounds: most rounds of the alternation; the preset's if not given, 0 for none.
        start: network that the training begins from, a folder that ``fibnet pretrain`` wrote
            with the preset's architecture.
        seed: decides every random draw; the same seed gives the same volume.
        stages: which to run; a stage that is already finished is kept.
        truth: true label (slice, y, x), for scores only, after everything else is done.
        progress: stage name -> callback (done, total, text).
        announce: prints a line.

    Returns:
        The result, or None where ``stages`` leaves out the last ones.

    Raises:
        InputError: unknown preset or stage, bad number of rounds, a start of another architecture;
            a stack that cannot be fitted; a stage whose forerunner is not finished; a work folder
            of another stack or setting; a truth of another shape; a write that failed.
    """
    if preset not in PRESETS:
        raise InputError(f"preset {preset!r} is unknown; expected one of {', '.join(PRESETS)}.")
    _check_stages(stages)
    rounds = PRESETS[preset].rounds if rounds is None else rounds
    if not 0 <= rounds <= 20:
        raise InputError(f"rounds is {rounds}, expected 0 to 20.")
    check_fittable(stack)
    if truth is not None and truth.shape != stack.images.shape[1:]:
        raise InputError(
            f"the truth has shape {truth.shape} but the stack {stack.images.shape[1:]} "
            "(slice, y, x); give the truth of this stack."
        )
    begin = load_start(start, network_for(PRESETS[preset], stack))
    identity = {
        "stack": stack_io.fingerprint(stack),
        "preset": preset,
        "rounds": rounds,
        "start": start_identity(begin),
        "seed": seed,
        "truth": truth is not None,
    }
    work = WorkFolder(out, identity)
    quiet = progress or (lambda stage: lambda done, total, text: None)
    job = _Job(stack, PRESETS[preset], preset, rounds, seed, begin, truth, work, quiet)
    for i, stage in enumerate(STAGES):
        if stage not in stages:
            continue
        missing = [s for s in STAGES[:i] if not work.is_done(s)]
        if missing:
            raise InputError(
                f"the stage {stage} needs the stage {missing[0]}, which is not finished in "
                f"{work.path}; run it first or leave out --stages."
            )
        if work.run(stage, getattr(job, stage), announce):
            # What was made from this stage's earlier result is out of date.
            work.forget(list(STAGES[i + 1 :]))
    if not work.is_done("report"):
        return None
    results = json.loads((work.path / "measures.json").read_text())
    return Reconstruction(
        folder=work.path,
        report=work.path / "report.html",
        probability=work.path / "probability.tif",
        label=work.path / "label.tif",
        measures={name: value for name, value, _ in results["fibnet"]["measures"]},
        scores={m: c["scores"] for m, c in results.items() if "scores" in c},
    )
