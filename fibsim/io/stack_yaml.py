"""What the user states about a stack: ``stack.yaml`` beside the images, or command line options."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fibsim.errors import InputError
from fibsim.io._files import suggestion
from fibsim.io.facts import number
from fibsim.io.names import normalise_detector
from fibsim.io.table_file import is_table_name

__all__ = [
    "COMMAND_LINE",
    "MATERIAL_KEYS",
    "Stated",
    "find_stack_yaml",
    "load_stack_yaml",
    "stack_yaml_text",
    "stated_on_command_line",
]

COMMAND_LINE = "command line"
_NUMBERS = ("pixel_nm", "slice_nm", "tilt_deg")
MATERIAL_KEYS = ("material", "pores")
_TEXTS = (*MATERIAL_KEYS, "specimen")
_CHANNEL_KEYS = ("file", "beam_kev", "detector", "name")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stated:
    """Facts that the user states, from one source; ``None`` for what is not stated.

    Attributes:
        source: name of the YAML file, or `COMMAND_LINE`.
        material, pores: names, or paths of interaction tables (those in a YAML file are relative
            to its folder, and are given here with it).
        files: names of the channel files (or sub-folders), in order.
        beam_kev, detector, names: one entry per channel.
    """

    source: str
    pixel_nm: float | None = None
    slice_nm: float | None = None
    tilt_deg: float | None = None
    material: str | None = None
    pores: str | None = None
    specimen: str | None = None
    files: tuple[str, ...] | None = None
    beam_kev: tuple[float | None, ...] | None = None
    detector: tuple[str | None, ...] | None = None
    names: tuple[str | None, ...] | None = None

    @property
    def subject(self) -> str:
        """The source as the subject of a sentence."""
        return "The command line" if self.source == COMMAND_LINE else self.source

    @property
    def num_channels(self) -> int | None:
        """Number of channels stated, if any list of channels is."""
        lists = (self.files, self.beam_kev, self.detector)
        return next((len(one) for one in lists if one is not None), None)


def _unknown_key(key: object, known: Sequence[str], where: str) -> InputError:
    return InputError(
        f"{where} holds the unknown key {key!r}{suggestion(str(key), known)}; known keys are "
        f"{', '.join(known)}."
    )


def _number(value: object, key: str, where: str) -> float | None:
    if value is None:
        return None
    result = number(value)
    if result is None:
        raise InputError(
            f"{where} gives {key} as {value!r}, expected a plain number without a unit."
        )
    return result


def _text(value: object, key: str, where: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where} gives {key} as {value!r}, expected a name.")
    return value.strip()


def _detector(value: object, where: str) -> str | None:
    text = _text(value, "detector", where)
    if text is None:
        return None
    kind = normalise_detector(text)
    if kind is None:
        raise InputError(
            f"{where} gives detector as {value!r}, expected SE or BSE; state which of the two it "
            "mainly collects."
        )
    return kind


def _shared(entries: Mapping, source: str, where: str) -> dict[str, Any]:
    numbers = {key: _number(entries.get(key), key, where) for key in _NUMBERS}
    texts = {key: _text(entries.get(key), key, where) for key in _TEXTS}
    return {"source": source, **numbers, **texts}


def _channel_lists(channels: object, where: str) -> dict[str, Any]:
    if channels is None:
        return {}
    if not isinstance(channels, list) or not channels:
        raise InputError(
            f"{where} gives channels as {channels!r}, expected a list with one entry per channel, "
            "such as '- {file: 1kV.tif, beam_kev: 1, detector: SE}'."
        )
    for entry in channels:
        if not isinstance(entry, Mapping):
            raise InputError(
                f"{where} lists the channel {entry!r}, expected keys and values such as "
                "{file: 1kV.tif, beam_kev: 1, detector: SE}."
            )
        for key in entry:
            if key not in _CHANNEL_KEYS:
                raise _unknown_key(key, _CHANNEL_KEYS, f"A channel in {where}")
    files = tuple(_text(entry.get("file"), "file", where) for entry in channels)
    if any(file is None for file in files) and any(file is not None for file in files):
        raise InputError(
            f"{where} gives file for some channels only; give it for every channel, or for none "
            "to go by their order."
        )
    return {
        "files": None if files[0] is None else files,
        "beam_kev": tuple(_number(entry.get("beam_kev"), "beam_kev", where) for entry in channels),
        "detector": tuple(_detector(entry.get("detector"), where) for entry in channels),
        "names": tuple(_text(entry.get("name"), "name", where) for entry in channels),
    }


def find_stack_yaml(path: Path) -> Path | None:
    """The file that describes ``path``: ``stack.yaml`` in a folder; for an image file or an
    nnU-Net case ``NAME.yaml``, else ``stack.yaml`` in the same folder."""
    if path.is_dir():
        candidates = [path / "stack.yaml"]
    else:
        own = path.with_suffix(".yaml") if path.exists() else path.with_name(f"{path.name}.yaml")
        candidates = [own, path.parent / "stack.yaml"]
    return next((file for file in candidates if file.is_file()), None)


def load_stack_yaml(path: Path) -> Stated:
    """Read and check a ``stack.yaml``.

    Raises:
        InputError: no YAML, an unknown key, a value of the wrong kind, a ``?`` left to fill in.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as text ({error}); save it as plain UTF-8 text."
        ) from error
    for line, content in enumerate(text.splitlines(), start=1):
        if "?" in content.split("#")[0]:
            raise InputError(
                f"{path} still holds a '?' in line {line} ({content.strip()}); replace it by its "
                "value."
            )
    try:
        entries = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 1}"
        reason = " ".join(str(getattr(error, "problem", None) or error).split())[:200]
        raise InputError(
            f"{path} is not valid YAML{where} ({reason}); write 'key: value' on lines of their own."
        ) from error
    if entries is None:
        entries = {}
    if not isinstance(entries, dict):
        raise InputError(
            f"{path} holds {type(entries).__name__}, expected lines such as 'pixel_nm: 4'."
        )
    known = (*_NUMBERS, *_TEXTS, "channels")
    for key in entries:
        if key not in known:
            raise _unknown_key(key, known, str(path))
    where = str(path)
    lists = _channel_lists(entries.get("channels"), where)
    shared = _shared(entries, path.name, where)
    for key in MATERIAL_KEYS:
        if shared[key] is not None and is_table_name(shared[key]):
            shared[key] = str(path.parent / shared[key])
    return Stated(**shared, **lists)


def stated_on_command_line(overrides: Mapping[str, Any] | None) -> Stated:
    """Check what was given on the command line; ``None`` and empty lists mean not given.

    Raises:
        InputError: unknown key or a value of the wrong kind.
    """
    where = "The command line"
    given = {
        key: value
        for key, value in (overrides or {}).items()
        if value is not None and not (isinstance(value, list | tuple) and not value)
    }
    known = (*_NUMBERS, *_TEXTS, "beam_kev", "detector", "channels")
    for key in given:
        if key not in known:
            raise _unknown_key(key, known, where)

    def listed(key: str) -> list | None:
        value = given.get(key)
        if value is None:
            return None
        return list(value) if isinstance(value, list | tuple) else [value]

    files, kev, detector = listed("channels"), listed("beam_kev"), listed("detector")
    return Stated(
        **_shared(given, COMMAND_LINE, where),
        files=None if files is None else tuple(str(file) for file in files),
        beam_kev=None if kev is None else tuple(_number(v, "beam_kev", where) for v in kev),
        detector=None if detector is None else tuple(_detector(v, where) for v in detector),
    )


def stack_yaml_text(facts: Mapping[str, Any], channels: Sequence[Mapping[str, Any]]) -> str:
    """A complete ``stack.yaml``, with ``?`` for every value that is ``None``.

    Args:
        facts: pixel_nm and the like.
        channels: file (left out if ``None``), beam_kev and detector of each channel.
    """

    def scalar(value: object) -> str:
        if value is None:
            return "?"
        if isinstance(value, float):
            return f"{value:.6g}"
        return yaml.safe_dump(value, default_flow_style=True, width=1000).split("\n")[0]

    lines = [f"{key}: {scalar(value)}" for key, value in facts.items()]
    lines.append("channels:")
    for channel in channels:
        pairs = [
            f"{key}: {scalar(value)}"
            for key, value in channel.items()
            if not (key == "file" and value is None)
        ]
        lines.append("  - {" + ", ".join(pairs) + "}")
    return "\n".join(lines) + "\n"
