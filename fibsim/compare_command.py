"""The work behind ``fibsim compare``: two stacks, or a stack and an instrument, into a folder."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from fibsim import io
from fibsim.compare import (
    Auc,
    Comparison,
    TrainSettings,
    check_comparable,
    compare_stacks,
    draw_stacks,
)
from fibsim.fit import check_drawable
from fibsim.instrument_file import InstrumentFile, load_instrument
from fibsim.picture_file import write_picture
from fibsim.provenance import versions
from fibsim.stack import Stack, channels_of

__all__ = ["compare_to_folder", "lines_of", "mapping_of"]

_TELLING = 5
# Facts that a comparison does not use.
_UNUSED = ("No source states the tilt", "No source states the material")


def _is_instrument(path: Path) -> bool:
    return path.suffix in (".yaml", ".yml")


def _nominal(content: InstrumentFile, real: Stack) -> Stack:
    """What will be drawn, without its images: enough to check that it can be compared."""
    instrument = content.instrument
    return Stack(
        images=real.images,
        channels=channels_of(instrument),
        pixel_nm=float(instrument.geometry.pixel_nm),
        slice_nm=float(instrument.geometry.slice_nm),
    )


def mapping_of(comparison: Comparison) -> dict[str, Any]:
    """Everything but the pictures, as JSON holds it."""
    return {
        "auc": comparison.auc,
        "interval_95": list(comparison.interval),
        "auc_by_fold": list(comparison.auc_by_fold),
        "auc_by_view": {
            name: dataclasses.asdict(auc) for name, auc in comparison.auc_by_view.items()
        },
        "auc_by_channel": {
            name: dataclasses.asdict(auc) for name, auc in comparison.auc_by_channel.items()
        },
        "auc_by_statistic": [dataclasses.asdict(gap) for gap in comparison.auc_by_statistic],
        "patches": {
            kind: {
                "corner_zyx": examples.corner.tolist(),
                "told_apart_from": [float(v) for v in examples.outranked],
            }
            for kind, examples in comparison.patches.items()
        },
        "channels": list(comparison.channel_names),
        "patch_slices_pixels": list(comparison.patch_size),
        "held_out_patches": dict(zip(("real", "simulated"), comparison.numbers, strict=True)),
    }


def _shown(auc: Auc) -> str:
    return f"{auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f})"


def lines_of(comparison: Comparison) -> list[str]:
    """The result in plain words."""
    low, high = comparison.interval
    if low > 0.5:
        meaning = "the simulation can be told apart"
    else:
        meaning = "no difference was found"
    lines = [
        f"held-out AUC {comparison.auc:.3f} (95 % interval {low:.3f} to {high:.3f}): {meaning}; "
        "0.5 = indistinguishable, 1 = always told apart"
    ]
    views = comparison.auc_by_view
    lines.append(
        f"  by the network alone {_shown(views['network'])}, by all statistics together "
        f"{_shown(views['statistics'])}"
    )
    if comparison.auc_by_channel:
        each = (f"{name} {_shown(auc)}" for name, auc in comparison.auc_by_channel.items())
        lines.append("  by all statistics of one channel: " + ", ".join(each))
    telling = [gap for gap in comparison.auc_by_statistic if gap.clear][:_TELLING]
    if not telling:
        lines.append("no single statistic of the patches tells them apart")
        return lines
    lines.append(
        "most telling statistics (of the simulated patches, of the real ones; AUC of each alone):"
    )
    return lines + [f"  {gap.sentence()}" for gap in telling]


def _draw(comparison: Comparison, path: Path) -> None:
    from fibsim.compare.picture import draw_picture

    draw_picture(comparison, path)


def compare_to_folder(
    real: Path,
    simulated: Path,
    out: Path,
    *,
    overrides: Mapping[str, Any],
    patch: int,
    depth: int,
    steps: int,
    seed: int,
    announce: Callable[[str], None],
    progress: Callable[[str], Callable[[int, int, str], None]],
) -> None:
    """Do ``fibsim compare``; see its help for the arguments.

    Raises:
        InputError: unreadable input, stacks that cannot be compared, or a folder that is not
            empty.
    """
    io.require_new_folder(out)
    recorded = io.read_stack(real, overrides=overrides)
    content = load_instrument(simulated) if _is_instrument(simulated) else None
    if content is None:
        imitation = io.read_stack(simulated)
    else:
        check_drawable(content, str(simulated))
        imitation = _nominal(content, recorded)
    check_comparable(recorded, imitation, patch=patch, depth=depth)
    for warning in dict.fromkeys((*recorded.warnings, *imitation.warnings)):
        if not warning.startswith(_UNUSED):
            announce(f"warning: {warning}")
    out.mkdir(parents=True, exist_ok=True)

    key_draw, key_compare = jax.random.split(jax.random.key(seed))
    stacks = [imitation]
    if content is not None:
        stacks = draw_stacks(content, recorded, key=key_draw, patch=patch, depth=depth)
        slices, y, x = stacks[0].images.shape[1:]
        announce(f"drew {len(stacks)} simulated stacks of {slices} slices of {y} x {x} pixels")
    show = progress("compare")
    comparison = compare_stacks(
        recorded,
        stacks,
        key=key_compare,
        patch=patch,
        depth=depth,
        settings=TrainSettings(steps=steps),
        progress=lambda step, steps: show(step, steps, ""),
    )
    for line in lines_of(comparison):
        announce(line)
    facts = {
        "fibsim_compare": 1,
        "real": str(real),
        "simulated": str(simulated),
        "simulated_stacks": len(stacks),
        "seed": seed,
        "steps": steps,
        **mapping_of(comparison),
        "versions": versions(),
    }
    picture = out / "compare.png"
    drawn = write_picture(picture, functools.partial(_draw, comparison), announce=announce)
    io.atomic_write_text(out / "compare.json", json.dumps(facts, indent=1) + "\n")
    announce(f"wrote {out / 'compare.json'}" + (f" and {picture}" if drawn else ""))
