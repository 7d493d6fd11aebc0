"""Paths: natural order, suggestions for misspelt names, and files that are written whole or not."""

import contextlib
import csv
import difflib
import io
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from fibsim.errors import InputError

__all__ = [
    "atomic_path",
    "atomic_write_text",
    "csv_text",
    "natural_key",
    "require_exists",
    "require_folder_of",
    "require_new_folder",
    "require_space",
    "suggestion",
]


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sort key under which ``slice_2`` comes before ``slice_10``."""
    parts = re.split(r"(\d+)", text.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """``" (did you mean X?)"`` for the known name nearest to the wrong one, or nothing."""
    near = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def require_exists(path: Path) -> None:
    """Raise an `InputError` that names what does exist if ``path`` does not."""
    if path.exists():
        return
    parent = path.absolute().parent
    wanted = path.name
    while not parent.is_dir() and parent != parent.parent:
        wanted, parent = parent.name, parent.parent
    try:
        names = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
    except OSError:
        names = []
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    hint = f"; did you mean {parent / near[0]}?" if near else "; check the spelling of the path."
    raise InputError(f"{path} does not exist{hint}")


def require_new_folder(path: Path) -> None:
    """Raise an `InputError` if ``path`` exists and is not an empty folder."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(
            f"{path} exists and is not empty or not a folder; name a new one with --out."
        )


def require_folder_of(path: Path) -> None:
    """Raise an `InputError` if the folder that a file is to be written into does not exist."""
    if not path.absolute().parent.is_dir():
        raise InputError(f"the folder of {path} does not exist; make it first.")


def require_space(folder: Path, size: float) -> None:
    """Raise an `InputError` if a folder, made or to be made, has less than ``size`` bytes free."""
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < size:
        raise InputError(
            f"{folder} needs {size / 1e9:.3g} GB but {free / 1e9:.3g} GB are free there; choose "
            "another folder."
        )


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block ends without error.

    A run that is killed, or a disk that fills up, then leaves either the old file or the new
    one, never half of one.

    Raises:
        InputError: the folder cannot be made or written, or the disk is full.
    """
    path = Path(path)
    # The suffix stays last: writers choose their format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{path} cannot be written ({reason}); free space there or choose another folder."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows, the first of which holds the names of the columns, as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text so that a reader sees the whole of it or the file as it was before.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
