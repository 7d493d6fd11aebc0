"""The alternation: segment, take the volume as the specimen, refit the instrument, retrain.

Every round leaves its results in a folder of its own and is then entered in ``round.json``, so that
a broken run goes on at the step it was in; the training inside goes on at its last checkpoint. A
round's network is kept unless what it segments explains the stack clearly worse than what was
segmented before, with the same refitted instrument: a check that needs no labels.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from fibnet.adapt import (
    AdaptedSource,
    draw_adapted_stack,
    has_both_phases,
    volume_to_draw,
)
from fibnet.checkpoint import latest_step
from fibnet.data import SimulatedData, source_from_file
from fibnet.segment import predict
from fibnet.segmenter import Segmenter, load_segmenter, save_segmenter
from fibnet.train import TrainSettings, train
from fibnet.training_log import recorded
from fibnet.twin import refit
from fibsim.errors import InputError
from fibsim.fit import (
    ChannelResidual,
    RegressionSettings,
    grey_levels,
    moved_by,
    regression_unknowns,
    run_as_seen,
    stack_residual,
)
from fibsim.fit.resemble import resembling_kinds
from fibsim.fit.start import tilt_is_held
from fibsim.fit.unknowns import SPECIMEN_PREFIX
from fibsim.instrument import Instrument, leaves_by_name
from fibsim.instrument_file import InstrumentFile, load_instrument, save_instrument
from fibsim.io import atomic_write_text, read_volume, write_volume
from fibsim.milling import nominal_milling
from fibsim.specimens import KINDS
from fibsim.stack import Stack

__all__ = ["AlternationSettings", "alternate", "unexplained"]


# Grey values left beyond noise may grow by this factor: the instrument was refitted to the old
# volume, which favours it.
_WORSE = 1.15


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlternationSettings:
    """How long and on what the alternation runs.

    Attributes:
        rounds: at most so many.
        train: of each round's training, which goes on from the network before.
        data: size of its stacks.
        regression: of each round's fit.
        share: share of the training stacks whose specimen is cut from the segmented volume.
        settled: root mean square movement of the unknowns in a round, in standard deviations of
            their priors, below which there is no further round.
    """

    rounds: int
    train: TrainSettings
    data: SimulatedData
    regression: RegressionSettings = dataclasses.field(default_factory=RegressionSettings)
    share: float = 0.5
    settled: float = 0.1


def unexplained(residual: ChannelResidual) -> float:
    """Geometric mean over channels of the grey values that are left beyond noise."""
    return float(np.exp(np.mean(np.log(residual.misfit_grey))))


def alternate(
    stack: Stack,
    folder: Path,
    *,
    segmenter: Segmenter,
    content: InstrumentFile,
    prior: Instrument,
    settings: AlternationSettings,
    seed: int,
    progress: Callable[[str], Callable[[int, int, str], None]],
) -> tuple[Segmenter, InstrumentFile, list[dict[str, Any]]]:
    """Run the rounds, or go on where a broken run of the same arguments stopped.

    Args:
        stack: the recorded stack.
        folder: for the rounds' results.
        segmenter: trained on ``content``.
        content: instrument and specimen of the first stage.
        prior: centre of the priors, where the first stage started. Not what it found: that came of
            the same stack, and its chance errors would stay.
        progress: name -> callback (done, total, text).

    Returns:
        The last kept network, the last instrument with the generator that resembles the volume
        best, and what changed in each round (see docs/file_formats.md).
    """
    folder = Path(folder)
    grey = grey_levels(stack)
    fraction = _kept(
        folder / "fraction.tif", lambda: _segment(segmenter, grey, progress), stack.voxel_nm
    )
    records = []
    for number in range(1, settings.rounds + 1):
        # Else nothing can be learned: the reader sees it in the report.
        if not has_both_phases(fraction):
            break
        here = folder / f"round_{number}"
        here.mkdir(parents=True, exist_ok=True)
        before = _generator(stack, fraction, here, content, seed, progress)
        content = _refitted(
            stack, fraction, here, before, prior, settings.regression, seed, progress
        )
        if not (here / "round.json").exists():
            source = source_from_file(here / "instrument.yaml")
            _train(source, fraction, here, segmenter, settings, seed + number, progress)
            found = _kept(
                here / "fraction.tif",
                lambda here=here: _segment(load_segmenter(here / "model"), grey, progress),
                stack.voxel_nm,
            )
            record = _record(stack, fraction, found, here, settings)
            atomic_write_text(here / "round.json", json.dumps(record))
        record = json.loads((here / "round.json").read_text())
        records.append(record)
        if record["kept"]:
            segmenter = load_segmenter(here / "model")
            fraction = read_volume(here / "fraction.tif")
        if not record["kept"] or record["moved_sd"] < settings.settled:
            break
    return segmenter, content, records


def _kept(path: Path, make: Callable[[], np.ndarray], voxel_nm) -> np.ndarray:
    """The volume in a file, made and written unless it is there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(path, make(), voxel_nm=voxel_nm)
    return read_volume(path)


def _segment(segmenter: Segmenter, grey: np.ndarray, progress) -> np.ndarray:
    show = progress("segment")
    return predict(
        segmenter,
        grey,
        fraction=True,
        progress=lambda done, tiles: show(done, tiles, "tiles"),
    )


def _listed(residual: ChannelResidual) -> dict[str, list[float]]:
    return {k: [float(x) for x in v] for k, v in dataclasses.asdict(residual).items()}


def _refitted(stack, fraction, here, content, prior, settings, seed, progress) -> InstrumentFile:
    """The refitted instrument; in ``regressed.yaml`` as the regression found it, for images of
    the segmented volume, and in ``regression.json`` how it came about."""
    path = here / "instrument.yaml"
    if not path.exists():
        show = progress("regress")
        tilt_deg = float(content.instrument.geometry.tilt_deg)
        result = refit(
            stack,
            fraction,
            content,
            prior=prior,
            run=run_as_seen(stack, tilt_deg=tilt_deg, progress=show),
            settings=settings,
            seed=seed,
            progress=show,
        )
        found = result.found
        unknowns = regression_unknowns(tilt_known=tilt_is_held(stack))
        before, after = leaves_by_name(content.instrument), leaves_by_name(result.instrument)
        moved = moved_by(content.instrument, result.instrument, unknowns)
        every = np.concatenate([np.ravel(v) for v in moved.values()])
        facts = {
            "level_px": result.level_px,
            "twin_level_px": result.twin_level_px,
            "below_slices": found.below_slices,
            "slices_counted": int(np.sum(found.weights > 0)),
            "moved_sd": float(np.sqrt(np.mean(every**2))),
            "start": _listed(found.start),
            "refitted": _listed(found.fitted),
            "unknowns": {
                name: {
                    "before": np.ravel(before[name]).tolist(),
                    "after": np.ravel(after[name]).tolist(),
                    "moved_sd": np.ravel(moved[name]).tolist(),
                    "bias_sd": np.ravel(result.bias.get(name, 0.0)).tolist(),
                }
                for name in unknowns
            },
            "thickness_nm": np.asarray(found.milling.thickness_nm).tolist(),
            "drift_nm": np.asarray(found.milling.drift_nm).tolist(),
            "brightness": np.asarray(found.milling.brightness).tolist(),
            "loss": found.loss.tolist(),
        }
        atomic_write_text(here / "regression.json", json.dumps(facts))
        # What the fit stated as errors were those of other values.
        errors = {n: v for n, v in content.standard_errors.items() if n not in unknowns}
        content = dataclasses.replace(content, standard_errors=errors)
        regressed = dataclasses.replace(content, instrument=found.instrument)
        save_instrument(here / "regressed.yaml", regressed)
        # What the fit left as assumed the volume tells, but for a tilt that so few slices hide.
        left = tuple(name for name in content.undetermined if name not in unknowns)
        refitted = dataclasses.replace(content, instrument=result.instrument, undetermined=left)
        save_instrument(path, refitted)
    return load_instrument(path)


def _candidates(stack: Stack) -> Sequence[str]:
    return tuple(KINDS) if stack.specimen is None else (stack.specimen,)


def _with_specimen(content: InstrumentFile, kind: str, specimen: dict) -> InstrumentFile:
    """With another specimen; errors that the fit stated for the one before are left out."""
    before = content.standard_errors.items()
    errors = {name: v for name, v in before if not name.startswith(SPECIMEN_PREFIX)}
    return dataclasses.replace(content, kind=kind, specimen=specimen, standard_errors=errors)


def _generator(stack, fraction, here, content, seed, progress) -> InstrumentFile:
    """The instrument file with the generator that resembles the volume best."""
    path = here / "kinds.json"
    if not path.exists():
        try:
            found = resembling_kinds(
                fraction > 0.5,
                stack.voxel_nm,
                kinds=_candidates(stack),
                seed=seed,
                progress=progress("resemble"),
            )
        except InputError:  # too small a stack to draw on: the first stage's generator stays
            found = []
        atomic_write_text(path, json.dumps([dataclasses.asdict(r) for r in found]))
    found = json.loads(path.read_text())
    if not found:
        return content
    return _with_specimen(content, found[0]["kind"], dict(found[0]["parameters"]))


def _train(source, fraction, here, segmenter, settings, seed, progress) -> None:
    if latest_step(here / "model") is not None:
        return
    show = progress("retrain")
    volume = volume_to_draw(fraction, slice_nm=source.slice_nm, pixel_nm=source.pixel_nm)
    adapted = AdaptedSource(source=source, volume=volume, share=jnp.asarray(settings.share))
    folder = here / "training"
    with recorded(folder) as record:
        trained = train(
            adapted,
            segmenter.config,
            folder=folder,
            seed=seed,
            settings=settings.train,
            data=settings.data,
            draw=draw_adapted_stack,
            start=segmenter,
            progress=lambda step, steps, loss: show(step, steps, f"loss {loss:.3f}"),
            record=record,
        )
    save_segmenter(here / "model", trained)


def _record(stack, before, after, here, settings) -> dict[str, Any]:
    facts = json.loads((here / "regression.json").read_text())
    content = load_instrument(here / "regressed.yaml")
    how = dataclasses.replace(settings.regression, below_slices=facts["below_slices"])
    run = dataclasses.replace(
        nominal_milling(content.instrument, stack.images.shape[1:]),
        **{k: jnp.asarray(facts[k]) for k in ("thickness_nm", "drift_nm", "brightness")},
    )
    old, new = (
        stack_residual(
            stack, volume, content.instrument, milling=run, ground=content.ground, settings=how
        )
        for volume in (before, after)
    )
    return {
        **facts,
        "kind": content.kind,
        "specimen": content.specimen,
        "kinds": json.loads((here / "kinds.json").read_text()),
        "before": _listed(old),
        "retrained": _listed(new),
        "unexplained_before": unexplained(old),
        "unexplained_after": unexplained(new),
        "kept": unexplained(new) <= _WORSE * unexplained(old),
        "porosity_before": float(1 - np.mean(before > 0.5)),
        "porosity_after": float(1 - np.mean(after > 0.5)),
        "changed_voxels": float(np.mean((before > 0.5) != (after > 0.5))),
    }
