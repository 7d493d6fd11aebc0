"""The work behind ``fibsim design``: an instrument file into a ranking of what to record."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from fibsim import io
from fibsim.design import (
    Candidate,
    Choice,
    Design,
    DesignSettings,
    check_choices,
    rank_choices,
)
from fibsim.errors import InputError
from fibsim.fit import check_drawable
from fibsim.instrument_file import load_instrument
from fibsim.picture_file import write_picture

__all__ = ["design_to_folder", "lines_of"]

_SHOWN = 4


def _percent(choice: Choice) -> str:
    return f"{100 * choice.error:.2f} ± {100 * choice.standard_error:.2f} %"


def lines_of(design: Design) -> list[str]:
    """The ranking in plain words."""
    lines = []
    for exposure in design.exposures:
        ranked = design.at(exposure)
        best, own = ranked[0], set(design.recorded)
        lines.append(f"total exposure {exposure:g}: {best}, expected error {_percent(best)}")
        single = design.at(exposure, 1)[0]
        if single is not best:
            lines.append(f"  one channel alone: {single}, {_percent(single)}")
        equal = [c for c in ranked[1:] if c.as_good and c is not single][:_SHOWN]
        if equal:
            lines.append("  not told apart from the best: " + "; ".join(map(str, equal)))
        recorded = next(c for c in ranked if set(c.channels) == own)
        if recorded not in (best, single):
            gap, error = recorded.behind
            lines.append(
                f"  as the instrument was fitted ({recorded}): {_percent(recorded)}, "
                f"{100 * gap:.2f} ± {100 * error:.2f} % more than the best"
            )
    return lines


def _table(design: Design) -> str:
    rows = [
        ["total_exposure", "channels", "error", "standard_error", "more_than_best",
         "standard_error_of_that"]
    ]  # fmt: skip
    for c in design.choices:
        numbers = (c.error, c.standard_error, *c.behind)
        rows.append([f"{c.exposure:g}", str(c), *(f"{v:.5f}" for v in numbers)])
    return io.csv_text(rows)


def _draw(design: Design, path: Path) -> None:
    from fibsim.design.picture import draw_picture

    draw_picture(design, path)


def design_to_folder(
    path: Path,
    out: Path,
    *,
    beam_kev: Sequence[float],
    detectors: Sequence[str],
    exposures: Sequence[float],
    most: int,
    seed: int,
    announce: Callable[[str], None],
    progress: Callable[[str], Callable[[int, int, str], None]],
    settings: DesignSettings | None = None,
) -> None:
    """Do ``fibsim design``; see its help for the arguments.

    Raises:
        InputError: a bad instrument file, channels that it cannot record, or a folder that is not
            empty.
    """
    io.require_new_folder(out)
    content = load_instrument(path)
    check_drawable(content, str(path))
    instrument = content.instrument
    detectors = detectors or tuple(dict.fromkeys(instrument.detectors))
    candidates = [Candidate(float(kev), name) for name in detectors for kev in beam_kev]
    if not exposures:
        number = len(instrument.detectors)
        exposures = tuple(dict.fromkeys((1.0, float(number), 2.0 * number)))
    if instrument.num_phases > 2:
        raise InputError(
            f"{path} names {instrument.num_phases} materials; designs are made for a solid and "
            "pores, open or filled."
        )
    check_choices(instrument, content.kind, candidates, exposures=exposures, most=most)
    out.mkdir(parents=True, exist_ok=True)
    design = rank_choices(
        instrument,
        content.kind,
        content.specimen,
        candidates,
        key=jax.random.key(seed),
        exposures=exposures,
        most=most,
        settings=settings,
        progress=progress("design"),
    )
    for line in lines_of(design):
        announce(line)
    io.atomic_write_text(out / "design.csv", _table(design))
    picture = out / "design.png"
    drawn = write_picture(picture, functools.partial(_draw, design), announce=announce)
    announce(f"wrote {out / 'design.csv'}" + (f" and {picture}" if drawn else ""))
