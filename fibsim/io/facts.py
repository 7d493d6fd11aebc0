"""Facts about a stack, each with the source that states it."""

import dataclasses
import math
import re

__all__ = ["Fact", "FileFacts", "beam_to_face_deg", "length_nm", "number"]

_NM_PER_UNIT = {
    "fm": 1e-6, "pm": 1e-3, "å": 0.1, "a": 0.1, "angstrom": 0.1, "nm": 1.0, "nanometer": 1.0,
    "nanometre": 1.0, "um": 1e3, "µm": 1e3, "μm": 1e3, "micron": 1e3, "microns": 1e3,
    "micrometer": 1e3, "micrometre": 1e3, "mm": 1e6, "millimeter": 1e6, "cm": 1e7, "inch": 2.54e7,
    "m": 1e9,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Fact:
    """One value and where it was found.

    Attributes:
        value: number (in the unit of the fact's name) or text.
        source: for example ``"ImageJ resolution tag of 1kV.tif"``.
        problem: why the value must not be used, as a sentence; empty if it may.
    """

    value: float | str
    source: str
    problem: str = ""


@dataclasses.dataclass(kw_only=True)
class FileFacts:
    """What one file's own header states, the most trusted source first.

    Attributes:
        pixel_nm, slice_nm, tilt_deg, beam_kev, detector: candidates for each fact.
        channel_names: names of the channels inside the file, empty if it has none.
        rows: rows of the image itself where a data bar is attached below it.
        writes_bar: whether the maker's software writes a data bar over the image instead.
        notes: what was done with the file, for `Stack.provenance`.
        warnings: sentences for the user.
    """

    pixel_nm: list[Fact] = dataclasses.field(default_factory=list)
    slice_nm: list[Fact] = dataclasses.field(default_factory=list)
    tilt_deg: list[Fact] = dataclasses.field(default_factory=list)
    beam_kev: list[Fact] = dataclasses.field(default_factory=list)
    detector: list[Fact] = dataclasses.field(default_factory=list)
    channel_names: tuple[str, ...] = ()
    rows: int | None = None
    writes_bar: bool = False
    notes: dict[str, str] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)


def number(value: object) -> float | None:
    """``value`` as a finite number; ``None`` for anything else, as headers hold all sorts."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        result = float(value)
    except ValueError:
        return None
    return result if math.isfinite(result) else None


def length_nm(value: object, unit: object) -> float | None:
    """A positive length in nm, ``None`` if the number or the unit is not one."""
    text = str(unit).strip().lower().replace("\\u00b5", "µ").rstrip(".")
    text = re.sub(r"^(nanomet\w+|micromet\w+|millimet\w+)s$", r"\1", text)
    size = number(value)
    if size is None or size <= 0 or text not in _NM_PER_UNIT:
        return None
    return size * _NM_PER_UNIT[text]


def beam_to_face_deg(stage_deg: object) -> float | None:
    """Angle between electron beam and slice normal for a stage tilted towards the ion beam.

    Slices are milled with the ion beam along the face, so the stage is tilted by the angle
    between the two columns (52 to 55 degrees) and the face normal lies 90 degrees minus that
    from the electron beam. Outside 45 to 60 degrees a pre-tilted holder must be in use, and
    nothing follows.
    """
    stage = number(stage_deg)
    if stage is None or not 45 <= abs(stage) <= 60:
        return None
    return round(90 - abs(stage), 3)
