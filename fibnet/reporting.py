"""Gather the files of a finished reconstruction into the content of its report."""

import dataclasses
import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fibnet.correlation import Correlations, correlations, longer_along_z
from fibnet.morphology import measure
from fibnet.report import (
    AdaptationSection,
    FitSection,
    ReportContent,
    write_report,
)
from fibnet.report.numbers import fixed
from fibnet.training_log import training_section
from fibsim import io as stack_io
from fibsim.fit.start import tilt_is_held
from fibsim.fit.statements import unit_of
from fibsim.instrument import leaves_by_name
from fibsim.instrument_file import load_instrument
from fibsim.provenance import versions
from fibsim.stack import Stack

if TYPE_CHECKING:
    from fibnet.pipeline import _Job

__all__ = ["write_reconstruction_report"]


def _rows(start, fitted, channel_names) -> list[tuple]:
    """(parameter, unit, start, fitted, standard error) of every leaf that the fit changed."""
    rows, errors = [], fitted.standard_errors
    before, after = leaves_by_name(start.instrument), leaves_by_name(fitted.instrument)
    for name, value in after.items():
        a, b = np.atleast_1d(before[name]), np.atleast_1d(value)
        if np.allclose(a, b, rtol=1e-5):
            continue
        for i in range(len(b)):
            label = f"{name}, {channel_names[i]}" if np.ndim(value) else name
            error = float(np.atleast_1d(errors[name])[i]) if name in errors else None
            rows.append((label, unit_of(name), float(a[i]), float(b[i]), error))
    for key, value in fitted.specimen.items():
        name = f"specimen.{key}"
        error = float(errors[name]) if name in errors else None
        rows.append((name, unit_of(key), start.specimen[key], value, error))
    return rows


def _fit_section(job: "_Job", names: list[str]) -> tuple[FitSection, dict]:
    from fibnet.pipeline import simulated_examples

    facts = json.loads((job.out / "fit.json").read_text())
    start = load_instrument(job.out / "instrument_start.yaml")
    # What the alternation made of it has a section of its own.
    own = job.adapted / "start" / "instrument.yaml"
    fitted = load_instrument(own if own.exists() else job.out / "instrument.yaml")
    exactly = dataclasses.replace(job.source(), spread=0.0)
    simulated, _ = simulated_examples(exactly, job.stack, job.preset, seed=job.seed, number=1)[0]
    _, slices, y, x = simulated.shape
    return FitSection(
        parameters=_rows(start, fitted, names),
        loss=np.asarray(facts["loss"]),
        distances=[
            ("sliced Wasserstein, default → fitted", facts["default_distance"],
             facts["fitted_distance"]),
            ("sliced Wasserstein, contrast matched → fitted", facts["start_distance"],
             facts["fitted_distance"]),
        ],
        real_patch=job.grey[:, :slices, :y, :x],
        simulated_patch=simulated,
    ), facts  # fmt: skip


def _rounds(job: "_Job") -> list[dict]:
    path = job.out / "adapt.json"
    return json.loads(path.read_text()) if path.exists() else []


_UNKNOWNS_SHOWN = 10


def _adaptation_section(rounds: list[dict], names: list[str]) -> AdaptationSection | None:
    if not rounds:
        return None
    rows, residuals = [], []
    for number, r in enumerate(rounds, 1):
        rows.append((number, r["porosity_before"], r["porosity_after"], r["changed_voxels"],
                     r["moved_sd"], r["kept"]))  # fmt: skip
        for c, name in enumerate(names):
            each = [r[which][what][c] for what in ("chi2", "explained")
                    for which in ("start", "refitted", "retrained")]  # fmt: skip
            residuals.append((number, name, r["start"]["noise_share"][c], *each))
    first, last = rounds[0]["unknowns"], rounds[-1]["unknowns"]
    moved = []
    for name, entry in last.items():
        for i, after in enumerate(entry["after"]):
            label = f"{name}, {names[i]}" if len(entry["after"]) > 1 else name
            total = sum(r["unknowns"][name]["moved_sd"][i] for r in rounds)
            moved.append((label, unit_of(name), first[name]["before"][i], after, total))
    moved.sort(key=lambda row: -abs(row[-1]))
    return AdaptationSection(
        rounds=rows,
        residuals=residuals,
        unknowns=moved[:_UNKNOWNS_SHOWN],
        kinds=[(k["kind"], k["distance"], k["chance"]) for k in rounds[-1]["kinds"]],
    )


def _stack_rows(stack: Stack) -> list[tuple]:
    source = stack.provenance
    rows = [
        ("slices × height × width", " × ".join(map(str, stack.images.shape[1:])), "images"),
        ("grey values", str(stack.images.dtype), "images"),
    ]
    for channel in stack.channels:
        rows.append(
            (f"channel {channel.name}", f"{channel.beam_kev:g} keV, {channel.detector}",
             source.get("beam_kev", ""))
        )  # fmt: skip
    for name, unit in (("pixel_nm", "nm"), ("slice_nm", "nm"), ("tilt_deg", "°"),
                       ("material", ""), ("pores", ""), ("specimen", "")):  # fmt: skip
        value = getattr(stack, name)
        shown = "not stated" if value is None else f"{value} {unit}".strip()
        rows.append((name, shown, source.get(name, "")))
    return rows


# Share of a channel's variance beyond noise that a volume imaged by a good fit leaves out.
_POORLY_EXPLAINED = 0.3


def _warnings(job: "_Job", facts: dict, fitted, curves: Correlations) -> list[str]:
    found = [*job.stack.warnings, *facts["warnings"], *facts["statements"]]
    if (longer := longer_along_z(curves)) is not None:
        found.append(longer)
    rounds = _rounds(job)
    for c, channel in enumerate(job.stack.channels if rounds else ()):
        last = rounds[-1]["retrained" if rounds[-1]["kept"] else "before"]["explained"][c]
        if last < 1 - _POORLY_EXPLAINED:
            found.append(
                f"The segmented volume, imaged by the fitted simulator, explains only "
                f"{100 * max(last, 0):.0f} % of what is not noise in channel {channel.name}: "
                "volume or simulator are wrong in part."
            )
    if rounds and not rounds[-1]["kept"]:
        found.append(
            f"Round {len(rounds)} of the alternation explained the stack clearly worse than "
            "before; its network was not kept."
        )
    if not tilt_is_held(job.stack):
        tilt = float(fitted.instrument.geometry.tilt_deg)
        found.append(f"The tilt was not stated; the fit estimated {tilt:.1f} degrees.")
    if facts["fitted_distance"] > 2.0 * facts["real_distance"]:
        found.append(
            f"The simulation still differs from the stack: distance "
            f"{facts['fitted_distance']:.3f}, twice the {facts['real_distance']:.3f} between parts "
            "of the stack itself or more. Look at the patches side by side before trusting the "
            "volume."
        )
    if facts["fitted_distance"] > facts["start_distance"]:
        found.append("The fit is no closer to the stack than its contrast-matched start.")
    return found


def _refinement_rows(path: Path) -> list[tuple[str, Any, str]]:
    """How much of the volume the refinement changed, if there was one."""
    facts = json.loads(path.read_text()) if path.exists() else None
    if facts is None:
        return []
    moved = ("Interfaces moved out of the solid", fixed(facts["level_px"], 3), "pixels")
    if not facts["kept"]:
        return [moved, ("Refinement of voxels", "did not explain the stack better, not used", "")]
    return [moved, ("Voxels changed by both", 100 * facts["changed_voxels"], "%")]


def write_reconstruction_report(job: "_Job") -> None:
    """Write ``report.html`` and its figures into the work folder."""
    stack, out = job.stack, job.out
    names = [c.name for c in stack.channels]
    probability, label = job.volumes()
    results = json.loads((out / "measures.json").read_text())
    fit, facts = _fit_section(job, names)
    fitted = load_instrument(out / "instrument.yaml")
    morphology = measure(label, stack.voxel_nm)
    volumes = {"fibnet": label} | ({} if job.truth is None else {"truth": job.truth})
    curves = {name: correlations(volume, stack.voxel_nm) for name, volume in volumes.items()}
    doubtful = float(np.mean((probability > 0.1) & (probability < 0.9)))
    bounds = {name: tuple(v) for name, v in results["fibnet"].get("intervals", {}).items()}
    rows = [
        (name, (value, *bounds[name]) if name in bounds else value, unit)
        for name, value, unit in results["fibnet"]["measures"]
    ]
    summary = [
        *[row for row in rows if row[0] == "Porosity"],
        ("Porosity, mean of probability", 1.0 - float(probability.mean()), ""),
        *[row for row in rows if row[0] != "Porosity"],
        *_refinement_rows(out / "refine.json"),
        ("Voxels in doubt (probability 0.1 to 0.9)", 100 * doubtful, "%"),
    ]
    scored = {m: c["scores"] for m, c in results.items() if "scores" in c}
    if scored:
        summary.append(("Dice against the given truth", scored["fibnet"]["dice"], ""))
    baselines = {
        p.stem.replace("_", " "): stack_io.read_volume(p) > 0
        for p in sorted((out / "baselines").glob("*.tif"))
    }
    content = ReportContent(
        title=f"FIB-SEM reconstruction of {stack.name}",
        created=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        summary=summary,
        warnings=_warnings(job, facts, fitted, curves["fibnet"]),
        stack_rows=_stack_rows(stack),
        images=job.grey,
        channel_names=names,
        voxel_nm=stack.voxel_nm,
        probability=probability,
        label=label,
        truth=job.truth,
        baseline_labels=baselines,
        morphology=morphology,
        measures={m: [tuple(r) for r in c["measures"]] for m, c in results.items()},
        intervals=bounds,
        structure={
            m: [tuple(r) for r in c["structure"]] for m, c in results.items() if "structure" in c
        },
        correlations=curves,
        scores=scored or None,
        fit=fit,
        training=training_section(job.out / "training"),
        adaptation=_adaptation_section(_rounds(job), names),
        settings={
            "preset": job.preset_name,
            "seed": job.seed,
            "specimen kind": facts["kind"],
            "fit steps": job.preset.fit_steps,
            "training steps": job.training.steps,
            "rounds of the alternation, at most": job.rounds,
            "network widths": ", ".join(map(str, job.network.widths)),
            "slices seen at once": job.network.window,
            "held-out distance of the stack to itself": facts["real_distance"],
        },
        versions=versions(),
        timings=job.work.timings(),
    )
    write_report(out / "report.html", content)
