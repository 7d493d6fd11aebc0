"""Instrument files: YAML with the unit in every name, readable, diffable, and checked on reading.

The file holds an `Instrument` and, if a fit made it, the specimen generator and its parameters::

    fibsim_instrument: 1
    detectors: [SE, SE]
    beam_kev: [1.0, 2.0]
    geometry: {pixel_nm: 4.0, slice_nm: 10.0, tilt_deg: 38.0}
    solid: {name: Au, kind: metal, atomic_number: 79.0, ...}
    other_phases: [{name: resin, ...}]      # only where there are any
    ...
    specimen: {kind: waves, solid_fraction: 0.37, ligament_nm: 35.0}
    standard_errors:                         # only where a fit stated them, in the same units
      geometry: {tilt_deg: 0.4}
      specimen: {solid_fraction: 0.006}
    undetermined: [interaction.edge_gain, ...]  # only where a fit left them as they were assumed
    ground: {depth_nm: 508.0, stack_nm: 480.0}  # only where the stack's end sees dense ground

A material that was calibrated also holds its ``table``, a list over energy for each of its
columns, so that the file needs no other.
"""

import contextlib
import dataclasses
import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import yaml

from fibsim.errors import InputError
from fibsim.instrument import Instrument, leaves_by_name, replace_by_name, validate_instrument
from fibsim.interaction_table import InteractionTable, table_of
from fibsim.io.table_file import QUANTITIES, check_columns
from fibsim.materials import DEFAULT_SOLID, MATERIALS, Material, check_kind, kind_of_solid, material
from fibsim.presets import make_instrument
from fibsim.specimens.ground import Ground

__all__ = ["InstrumentFile", "load_instrument", "save_instrument"]

_VERSION = 1
_GROUND = dataclasses.fields(Ground)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstrumentFile:
    """Content of an instrument file.

    Attributes:
        instrument: the microscope.
        kind: specimen generator, or None.
        specimen: its parameters.
        standard_errors: of what a fit left free, by name (``detector.gain``,
            ``specimen.solid_fraction``), shaped and in units as the values.
        undetermined: names of the instrument's numbers that a fit of few images says nothing of:
            they are as assumed and as uncertain, and training draws them as widely.
        ground: dense ground below the recorded stack's specimen, or None.
    """

    instrument: Instrument
    kind: str | None = None
    specimen: dict[str, float] = dataclasses.field(default_factory=dict)
    standard_errors: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    undetermined: tuple[str, ...] = ()
    ground: Ground | None = None


def _plain(value: Any) -> Any:
    """Shortest decimal that reads back as the same float32."""
    array = np.asarray(value)
    if array.ndim:
        return [_plain(v) for v in array]
    return float(str(np.float32(array))) if array.dtype == np.float32 else float(array)


def to_mapping(content: InstrumentFile) -> dict:
    """The nested dictionary that the file holds."""
    instrument = content.instrument
    out: dict[str, Any] = {
        "fibsim_instrument": _VERSION,
        "detectors": list(instrument.detectors),
    }
    for path, leaf in leaves_by_name(instrument).items():
        group, _, name = path.rpartition(".")
        if group == "solid":
            out["solid"] = _material_mapping(instrument.solid)
        elif not group.startswith(("solid.", "other_phases.")):
            target = out.setdefault(group, {}) if group else out
            target[name] = _plain(leaf)
    if instrument.other_phases:
        out["other_phases"] = [_material_mapping(phase) for phase in instrument.other_phases]
    if content.kind is not None:
        out["specimen"] = {
            "kind": content.kind,
            **{k: _plain(np.float32(v)) for k, v in content.specimen.items()},
        }
    if content.standard_errors:
        errors: dict[str, Any] = {}
        for path, value in content.standard_errors.items():
            group, _, name = path.rpartition(".")
            target = errors.setdefault(group, {}) if group else errors
            target[name] = _plain(np.asarray(value, np.float32))
        out["standard_errors"] = errors
    if content.undetermined:
        out["undetermined"] = list(content.undetermined)
    if content.ground is not None:
        out["ground"] = {f.name: _plain(getattr(content.ground, f.name)) for f in _GROUND}
    return out


def _material_mapping(solid: Material) -> dict:
    means = leaves_by_name(dataclasses.replace(solid, table=None))
    out = {"name": solid.name, "kind": solid.kind, **{k: _plain(v) for k, v in means.items()}}
    if solid.table is not None:
        out["table"] = {k: _plain(v) for k, v in leaves_by_name(solid.table).items()}
    return out


def save_instrument(path: str | Path, content: InstrumentFile) -> None:
    """Write the file; it appears whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path)
    text = yaml.safe_dump(to_mapping(content), sort_keys=False, default_flow_style=None)
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror}; choose another place.") from error


def load_instrument(path: str | Path) -> InstrumentFile:
    """Read an instrument file; parameters it leaves out keep their textbook values.

    Raises:
        InputError: the file is missing, not YAML, has an unknown name (the nearest one is
            suggested), or a value outside its range.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}; give an instrument file."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a YAML file; give one that fibsim fit wrote.") from error
    if not isinstance(raw, dict) or raw.get("fibsim_instrument") != _VERSION:
        raise InputError(
            f"{path} is not an instrument file of version {_VERSION} (its first line should read "
            f"'fibsim_instrument: {_VERSION}'); give one that fibsim fit or fibsim simulate wrote."
        )
    raw = {str(k): v for k, v in raw.items() if k != "fibsim_instrument"}
    specimen = _mapping(path, raw.pop("specimen", {}) or {}, "specimen")
    stated = _mapping(path, raw.pop("standard_errors", {}) or {}, "standard_errors")
    undetermined = raw.pop("undetermined", None) or []
    ground = _ground(path, raw.pop("ground", None))
    detectors = raw.pop("detectors", None)
    if detectors is not None and not isinstance(detectors, list):
        raise InputError(f"{path}: detectors is {detectors!r}, expected a list, one per channel.")
    if "beam_kev" not in raw:
        raise InputError(f"{path} names no beam_kev; add a list with one energy per channel.")
    solid = _solid(path, raw)
    others = _other_phases(path, raw)
    energies = _numbers(path, "beam_kev", raw["beam_kev"])
    # The textbook gain belongs to the tilt. A list is refused below, with its shape.
    tilt = _mapping(path, raw.get("geometry", {}), "geometry").get("tilt_deg", [])
    tilt = _numbers(path, "geometry.tilt_deg", tilt)
    tilted = {} if tilt.ndim else dict(tilt_deg=float(tilt))
    base = make_instrument(
        beam_kev=np.atleast_1d(energies),
        detectors=detectors,
        solid=solid,
        other_phases=others,
        **tilted,
    )
    known = leaves_by_name(base)
    values = {}
    for group, content in raw.items():
        is_group = any(k.startswith(group + ".") for k in known)
        items = _mapping(path, content, group).items() if is_group else [("", content)]
        for key, value in items:
            full = f"{group}.{key}" if is_group else group
            if full not in known:
                raise _unknown(path, full, known)
            values[full] = jnp.asarray(_numbers(path, full, value), float)
    instrument = replace_by_name(base, values)
    validate_instrument(instrument)
    kind = specimen.pop("kind", None)
    parameters = {str(k): _number(path, f"specimen.{k}", v) for k, v in specimen.items()}
    shapes = {name: np.shape(leaf) for name, leaf in known.items()}
    shapes |= {f"specimen.{name}": () for name in parameters}
    return InstrumentFile(
        instrument=instrument,
        kind=kind,
        specimen=parameters,
        standard_errors=_errors(path, stated, shapes),
        undetermined=_undetermined(path, undetermined, known),
        ground=ground,
    )


def _ground(path: Path, stated: Any) -> Ground | None:
    if stated is None:
        return None
    stated, names = _mapping(path, stated, "ground"), [f.name for f in _GROUND]
    for name in stated:
        if name not in names:
            raise _unknown(path, f"ground.{name}", [f"ground.{known}" for known in names])
    missing = [name for name in names if name not in stated]
    if missing:
        raise InputError(f"{path}: ground lacks {missing[0]!r}; give {', '.join(names)}.")
    values = {name: _number(path, f"ground.{name}", stated[name]) for name in names}
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise InputError(
                f"{path}: ground.{name} is {value:g}, expected a positive length in nm; remove "
                "the section where the specimen goes on below the stack."
            )
    return Ground(**{name: jnp.asarray(value, float) for name, value in values.items()})


def _errors(path: Path, stated: dict, shapes: dict[str, tuple]) -> dict[str, np.ndarray]:
    """Standard errors by full name; none may be negative or of another shape than its value."""
    errors = {}
    for group, content in stated.items():
        items = content.items() if isinstance(content, dict) else [("", content)]
        for key, value in items:
            full = f"{group}.{key}" if key else str(group)
            where = f"standard_errors.{full}"
            if full not in shapes:
                raise _unknown(path, where, [f"standard_errors.{name}" for name in shapes])
            array = _numbers(path, where, value)
            if array.shape != shapes[full] or not np.all(array >= 0):
                raise InputError(
                    f"{path}: {where} is {value!r}, expected "
                    f"{f'{shapes[full][0]} numbers' if shapes[full] else 'one number'} of at "
                    "least 0; remove it, or let fibsim fit write the file."
                )
            errors[full] = array
    return errors


def _undetermined(path: Path, listed: Any, known: Iterable[str]) -> tuple[str, ...]:
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise InputError(
            f"{path}: undetermined is {listed!r}, expected a list of parameters' full names; "
            "remove it, or let fibsim fit write the file."
        )
    for name in listed:
        if name not in known:
            raise _unknown(path, name, known)
    return tuple(listed)


def _solid(path: Path, raw: dict) -> Material:
    """Take ``solid`` out of the file; Au, or what the file changes of it, if it has no name."""
    stated = _mapping(path, raw.pop("solid", {}), "solid")
    return _material(path, {"name": DEFAULT_SOLID, **stated}, "solid")


def _other_phases(path: Path, raw: dict) -> tuple[Material, ...]:
    """Take ``other_phases`` out of the file."""
    listed = raw.pop("other_phases", None) or []
    if not isinstance(listed, list):
        raise InputError(f"{path}: other_phases is {listed!r}, expected a list of materials.")
    return tuple(
        _material(path, {"name": entry} if isinstance(entry, str) else entry, f"other_phases.{i}")
        for i, entry in enumerate(listed)
    )


def _material(path: Path, entry: Any, where: str) -> Material:
    """One material: a name of the table, changed or not, or all its numbers."""
    stated = _mapping(path, entry, where)
    name = str(stated.pop("name", "custom"))
    kind = str(stated.pop("kind", kind_of_solid(name)))
    check_kind(kind, f"{path}: {where}")
    table = _table(path, stated.pop("table"), f"{where}.table") if "table" in stated else None
    known = leaves_by_name(material(name if name in MATERIALS else DEFAULT_SOLID))
    missing = [] if name in MATERIALS else [key for key in known if key not in stated]
    unknown = [key for key in stated if key not in known]
    if missing:
        raise InputError(
            f"{path}: {where} lacks {missing[0]!r}; give a name of the table of materials, or "
            f"{', '.join(known)}."
        )
    if unknown:
        raise _unknown(path, f"{where}.{unknown[0]}", [f"{where}.{key}" for key in known])
    values = {k: jnp.asarray(_number(path, f"{where}.{k}", v), float) for k, v in stated.items()}
    return Material(name=name, kind=kind, table=table, **known | values)


def _table(path: Path, entry: Any, where: str) -> InteractionTable:
    stated = _mapping(path, entry, where)
    known = ("energy_kev", *QUANTITIES)
    unknown = [str(key) for key in stated if key not in known]
    if unknown:
        raise _unknown(path, f"{where}.{unknown[0]}", [f"{where}.{key}" for key in known])
    columns = {key: _numbers(path, f"{where}.{key}", value) for key, value in stated.items()}
    check_columns(columns, f"{where} in {path}")
    return table_of(columns["energy_kev"], columns)


def _unknown(path: Path, name: str, known: Iterable[str]) -> InputError:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "; remove it."
    return InputError(f"{path} has the unknown parameter {name!r}{hint}")


def _mapping(path: Path, value: Any, name: str) -> dict:
    if not isinstance(value, dict):
        raise InputError(f"{path}: {name} is {value!r}, expected 'name: value' pairs below it.")
    return dict(value)


def _number(path: Path, name: str, value: Any) -> float:
    array = _numbers(path, name, value)
    if array.ndim:
        raise InputError(f"{path}: {name} is {value!r}, expected one number.")
    return float(array)


def _numbers(path: Path, name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value, float)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: {name} is {value!r}, expected a number or a list.") from error
