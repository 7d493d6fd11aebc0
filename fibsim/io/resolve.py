"""Which source wins for each fact, and what to say when none states it or two disagree.

Order of precedence: command line, ``stack.yaml``, headers, names.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from fibsim.errors import InputError, counted
from fibsim.io.facts import Fact, FileFacts
from fibsim.io.layout import ChannelFiles, Layout
from fibsim.io.names import detector_of_name, kev_of_name
from fibsim.io.stack_yaml import COMMAND_LINE, MATERIAL_KEYS, Stated, stack_yaml_text
from fibsim.io.table_file import describe_material_file, is_table_name, material_digest
from fibsim.stack import Channel

__all__ = ["Metadata", "resolve_metadata"]

# Sources closer than this agree: headers round, and nominal values are nominal.
_AGREE = 0.02
_RANGES = {
    "beam_kev": (0.1, 30.0, "beam energy", "keV"),
    "pixel_nm": (0.1, 1000.0, "pixel size", "nm"),
    "slice_nm": (0.5, 10_000.0, "slice thickness", "nm"),
    "tilt_deg": (-80.0, 80.0, "tilt", "degrees"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metadata:
    """All that `Stack` holds besides the images."""

    channels: tuple[Channel, ...]
    pixel_nm: float
    slice_nm: float
    tilt_deg: float | None
    material: str | None
    pores: str | None
    specimen: str | None
    provenance: dict[str, str]
    warnings: tuple[str, ...]


def _same_text(one: str, other: str) -> bool:
    if is_table_name(one) and is_table_name(other):
        # What lost need not even be readable.
        with contextlib.suppress(InputError):
            return material_digest(one) == material_digest(other)
    return one.lower() == other.lower()


def _agree(key: str, one: float | str, other: float | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return _same_text(str(one), str(other))
    if key == "tilt_deg":  # a stage tilt does not say to which side the beam leans
        one, other = abs(one), abs(other)
    return abs(one - other) <= _AGREE * max(abs(one), abs(other))


def _value(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def _choose(key: str, candidates: Iterable[Fact], warnings: list[str], of: str = "") -> Fact | None:
    """The first candidate; every other value that contradicts it becomes a warning."""
    candidates = list(candidates)
    if not candidates:
        return None
    winner = candidates[0]
    said = [winner]
    for other in candidates[1:]:
        if not any(_agree(key, fact.value, other.value) for fact in said):
            said.append(other)
            warnings.append(
                f"{key}{of} is {_value(winner.value)} by {winner.source}, but "
                f"{_value(other.value)} by {other.source}; the first was used."
            )
    return winner


def _check_range(key: str, fact: Fact | None, of: str = "") -> None:
    if fact is None:
        return
    if fact.problem:
        raise InputError(fact.problem)
    low, high, what, unit = _RANGES[key]
    value = float(fact.value)
    if low <= value <= high:
        return
    hint = f"state the true value as {key}"
    if key == "beam_kev" and 100 <= value <= 30_000:
        hint = f"this looks like volts: write {value / 1000:g} for {value:g} V"
    raise InputError(
        f"The {what}{of} is {value:.6g} {unit} ({fact.source}), expected {low:g} to {high:g} "
        f"{unit}; {hint}."
    )


def _stated(sources: Sequence[Stated], key: str) -> list[Fact]:
    found = [(getattr(stated, key), stated.source) for stated in sources]
    return [Fact(value, source) for value, source in found if value is not None]


def _goes_by_file(stated: Stated) -> bool:
    """Whether channels are matched by file name; else by order, as on the command line."""
    files = stated.files
    return stated.source != COMMAND_LINE and files is not None and len(set(files)) == len(files)


def _place(stated: Stated, i: int, layout: Layout) -> int | None:
    """Which entry of a source's lists speaks of a channel."""
    if not _goes_by_file(stated):
        return i
    channel = layout.channels[i]
    file = channel.images[0].path
    places = [n for n, name in enumerate(stated.files or ()) if name in (channel.file, file.name)]
    inside = sum(other.images[0].path == file for other in layout.channels)
    if places and inside > 1:
        raise InputError(
            f"{stated.subject} lists {file.name} once but it holds {inside} channels; write one "
            "entry for each channel, in order, without file."
        )
    return places[0] if places else None


def _stated_for_channel(sources: Sequence[Stated], key: str, i: int, layout: Layout) -> list[Fact]:
    facts = []
    for stated in sources:
        values = getattr(stated, key)
        if values is None:
            continue
        place = _place(stated, i, layout)
        if place is not None and values[place] is not None:
            facts.append(Fact(values[place], stated.source))
    return facts


def _check_counts(sources: Sequence[Stated], layout: Layout) -> None:
    """Lists that go by order must have one entry per channel."""
    count = len(layout.channels)
    titles = ", ".join(channel.title for channel in layout.channels[:8])
    for stated in sources:
        if _goes_by_file(stated):
            continue
        for key in ("beam_kev", "detector"):
            values = getattr(stated, key)
            if values is not None and len(values) != count:
                raise InputError(
                    f"{stated.subject} gives {counted(len(values), 'value')} of {key}, expected "
                    f"one for each of the {count} channels ({titles}); give them in this order."
                )


def _unique(facts: Iterable[Fact]) -> list[Fact]:
    """Without repeats of the same value, as every slice of a channel states the same."""
    seen: dict[float | str, Fact] = {}
    for fact in facts:
        seen.setdefault(fact.value, fact)
    return list(seen.values())


def _header(channel: ChannelFiles, key: str) -> list[Fact]:
    return _unique(fact for image in channel.images for fact in getattr(image.facts, key))


def _summary(channels: Sequence[Channel], sources: Sequence[str]) -> str:
    if len(set(sources)) == 1:
        return sources[0]
    return "; ".join(
        f"{channel.name}: {source}" for channel, source in zip(channels, sources, strict=True)
    )


def _default_names(pairs: Sequence[tuple[float, str]], given: Sequence[str | None]) -> list[str]:
    voltages = [kev for kev, _ in pairs]
    names = []
    for (kev, detector), name in zip(pairs, given, strict=True):
        plain = f"{kev:g}kV"
        names.append(name or (plain if voltages.count(kev) == 1 else f"{plain}_{detector}"))
    return names


def _channel_facts(
    layout: Layout, sources: Sequence[Stated], warnings: list[str]
) -> tuple[list[Fact | None], list[Fact], list[str | None]]:
    energies: list[Fact | None] = []
    detectors: list[Fact] = []
    names: list[str | None] = []
    for i, channel in enumerate(layout.channels):
        of = f" of {channel.title}"
        kev = kev_of_name(channel.label)
        named = [] if kev is None else [Fact(kev, channel.label_source)]
        # The header of a hyperstack speaks of one channel only, its own channel names of each.
        several = channel.images[0].shape[0] > 1
        header = [] if several else _header(channel, "beam_kev")
        stated = _stated_for_channel(sources, "beam_kev", i, layout)
        energy = _choose("beam_kev", [*stated, *header, *named], warnings, of)
        _check_range("beam_kev", energy, of)
        energies.append(energy)

        kind = detector_of_name(channel.label)
        named = [] if kind is None else [Fact(kind, channel.label_source)]
        header = [] if several else _header(channel, "detector")
        stated = _stated_for_channel(sources, "detector", i, layout)
        detector = _choose("detector", [*stated, *header, *named], warnings, of)
        detectors.append(detector or Fact("SE", "assumed"))
        name = _stated_for_channel(sources, "names", i, layout)
        names.append(str(name[0].value) if name else None)
    return energies, detectors, names


def _missing_error(
    layout: Layout,
    path: str,
    missing: list[str],
    facts: dict[str, float | str | None],
    energies: Sequence[Fact | None],
    detectors: Sequence[Fact],
) -> InputError:
    whole = {key: value for key, value in facts.items() if value is not None or key in missing}
    entries = [
        {
            "file": channel.file,
            "beam_kev": None if energy is None else float(energy.value),
            "detector": detector.value,
        }
        for channel, energy, detector in zip(layout.channels, energies, detectors, strict=True)
    ]
    wanted = [f"{key} ({_RANGES[key][2]})" for key in missing]
    without = [
        channel.title
        for channel, energy in zip(layout.channels, energies, strict=True)
        if energy is None
    ]
    if without:
        shown = ", ".join(without[:8])
        wanted.append(f"beam_kev (beam energy in keV) of {shown}")
    return InputError(
        f"{path} does not state {' and '.join(wanted)}; write the following to "
        f"{layout.yaml_path}, with each ? replaced by its value, or give the values on the "
        f"command line:\n\n{stack_yaml_text(whole, entries)}"
    )


def _check_doubled(layout: Layout, channels: Sequence[Channel]) -> None:
    seen: dict[tuple[float, str], str] = {}
    names: dict[str, str] = {}
    for channel, files in zip(channels, layout.channels, strict=True):
        pair = (channel.beam_kev, channel.detector)
        if pair in seen:
            raise InputError(
                f"{seen[pair]} and {files.title} are both {channel.beam_kev:g} keV "
                f"{channel.detector}, expected every voltage and detector once; state the right "
                "beam_kev or detector in stack.yaml, or list only one of them under channels."
            )
        seen[pair] = files.title
        if channel.name in names:
            raise InputError(
                f"{names[channel.name]} and {files.title} are both named {channel.name}; give "
                "every channel a name of its own in stack.yaml."
            )
        names[channel.name] = files.title


def _as_written(value: float | str, layout: Layout) -> float | str:
    """A value as ``stack.yaml`` states it: paths of tables relative to its folder."""
    if isinstance(value, str) and is_table_name(value):
        return os.path.relpath(value, layout.yaml_path.parent)
    return value


def _describe_tables(chosen: dict[str, Fact | None]) -> list[Path]:
    """Check the interaction tables that are named as materials, and say in the sources what they
    are; returns their paths."""
    paths = []
    for key in MATERIAL_KEYS:
        fact = chosen[key]
        if fact is not None and is_table_name(str(fact.value)):
            paths.append(Path(str(fact.value)))
            source = f"{fact.source}: {describe_material_file(paths[-1])}"
            chosen[key] = dataclasses.replace(fact, source=source)
    return paths


def resolve_metadata(
    layout: Layout, sources: Sequence[Stated], folder_slice: Fact | None, path: str
) -> Metadata:
    """Choose every fact of a stack.

    Args:
        layout: channels and their files.
        sources: what the user states, the strongest first.
        folder_slice: slice thickness from a job file beside the images, if there is one.
        path: what the user gave, for messages.

    Raises:
        InputError: a fact that is needed is stated nowhere (one error lists them all), lies
            outside what is possible, or makes two channels the same.
    """
    warnings: list[str] = list(layout.warnings)
    provenance: dict[str, str] = {"form": layout.form}
    for image in (image for channel in layout.channels for image in channel.images):
        facts: FileFacts = image.facts
        warnings += [text for text in facts.warnings if text not in warnings]
        for key, note in facts.notes.items():
            provenance.setdefault(key, note)
    _check_counts(sources, layout)
    energies, detectors, given_names = _channel_facts(layout, sources, warnings)
    chosen: dict[str, Fact | None] = {}
    for key in ("pixel_nm", "slice_nm", "tilt_deg"):
        header = [fact for channel in layout.channels for fact in _header(channel, key)]
        if key == "slice_nm" and folder_slice is not None:
            header.append(folder_slice)
        chosen[key] = _choose(key, [*_stated(sources, key), *_unique(header)], warnings)
        _check_range(key, chosen[key])
    for key in (*MATERIAL_KEYS, "specimen"):
        chosen[key] = _choose(key, _stated(sources, key), warnings)
    tables = _describe_tables(chosen)

    ignored = [name for name in layout.ignored if layout.yaml_path.parent / name not in tables]
    if ignored:
        provenance["ignored"] = ", ".join(ignored[:8]) + (" ..." if len(ignored) > 8 else "")

    slices = layout.channels[0].shape[0]
    needed = ["pixel_nm"] + (["slice_nm"] if slices > 1 else [])
    missing = [key for key in needed if chosen[key] is None]
    if missing or None in energies:
        known = {
            key: None if fact is None else _as_written(fact.value, layout)
            for key, fact in chosen.items()
        }
        raise _missing_error(layout, path, missing, known, energies, detectors)

    pixel = chosen["pixel_nm"]
    if chosen["slice_nm"] is None and pixel is not None:
        chosen["slice_nm"] = Fact(pixel.value, "assumed equal to pixel_nm")
        warnings.append(
            f"Slice thickness is not stated and was assumed equal to the pixel, "
            f"{_value(pixel.value)} nm; with a single slice it hardly matters."
        )
    if chosen["tilt_deg"] is None:
        warnings.append(
            "No source states the tilt between beam and slice normal; a fit estimates it from four "
            "slices or more, and takes it for 0 with fewer."
        )
    if chosen["material"] is None:
        warnings.append("No source states the material of the solid.")
    assumed = [
        channel.title
        for channel, detector in zip(layout.channels, detectors, strict=True)
        if detector.source == "assumed"
    ]
    if assumed:
        warnings.append(
            f"No source states the detector of {', '.join(assumed[:8])}; secondary electrons (SE) "
            "were assumed."
        )

    energy_facts = [energy for energy in energies if energy is not None]
    pairs = [
        (float(energy.value), str(detector.value))
        for energy, detector in zip(energy_facts, detectors, strict=True)
    ]
    channels = tuple(
        Channel(beam_kev=kev, detector=detector, name=name)
        for (kev, detector), name in zip(pairs, _default_names(pairs, given_names), strict=True)
    )
    _check_doubled(layout, channels)
    provenance["beam_kev"] = _summary(channels, [fact.source for fact in energy_facts])
    provenance["detector"] = _summary(channels, [fact.source for fact in detectors])
    for key, fact in chosen.items():
        provenance[key] = "not stated" if fact is None else fact.source

    def value(key: str) -> float | None:
        fact = chosen[key]
        return None if fact is None else float(fact.value)

    def text(key: str) -> str | None:
        fact = chosen[key]
        return None if fact is None else str(fact.value)

    return Metadata(
        channels=channels,
        pixel_nm=value("pixel_nm") or 0.0,
        slice_nm=value("slice_nm") or 0.0,
        tilt_deg=value("tilt_deg"),
        material=text("material"),
        pores=text("pores"),
        specimen=text("specimen"),
        provenance=provenance,
        warnings=tuple(warnings),
    )
