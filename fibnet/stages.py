"""The work folder of a reconstruction: which stages are finished, for which input and settings.

Every stage writes its results under temporary names, renames them, and is then entered in
``run.json``. A process that is killed at any moment leaves either the stage's entry with all its
files or no entry, and the next call repeats only what has no entry.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from fibsim.errors import InputError

__all__ = ["WorkFolder", "peak_memory_mb"]


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB (0 where the system cannot say)."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class WorkFolder:
    """OUT of ``fibnet reconstruct``.

    Args:
        path: the folder; made if absent.
        identity: what the run is for (input fingerprint and settings). A folder that holds a
            run of another identity is refused.

    Raises:
        InputError: the folder belongs to another stack or other settings, holds foreign files,
            or cannot be written.
    """

    def __init__(self, path: str | Path, identity: dict):
        self.path = Path(path)
        self._file = self.path / "run.json"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.write_text("x")
            probe.unlink()
        except OSError as error:
            raise InputError(
                f"cannot write in {self.path}: {error.strerror}; choose another output folder."
            ) from error
        if self._file.exists():
            self._state = self._read(identity)
        else:
            foreign = sorted(p.name for p in self.path.iterdir())
            if foreign:
                raise InputError(
                    f"{self.path} is not empty (it holds {foreign[0]!r}) and no reconstruction "
                    "was begun there; give an empty or a new output folder."
                )
            self._state = {"identity": identity, "stages": {}}
            self._write()

    def _read(self, identity: dict) -> dict:
        try:
            state = json.loads(self._file.read_text())
            found = state["identity"]
            state["stages"]
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(f"{self._file} cannot be read; give a new output folder.") from error
        for name, value in identity.items():
            if found.get(name) != value:
                raise InputError(
                    f"{self.path} holds a reconstruction with another {name} "
                    f"({_short(found.get(name))}, now {_short(value)}); give a new output folder."
                )
        return state

    def _write(self) -> None:
        partial = self._file.with_suffix(".part")
        partial.write_text(json.dumps(self._state, indent=1))
        os.replace(partial, self._file)

    def is_done(self, stage: str) -> bool:
        return stage in self._state["stages"]

    def timings(self) -> list[tuple[str, float, float]]:
        """(stage, seconds, peak MB of the process until its end) of the finished stages."""
        return [(n, s["seconds"], s["peak_mb"]) for n, s in self._state["stages"].items()]

    def forget(self, stages: list[str]) -> None:
        """Drop stages, so that they run again."""
        for stage in stages:
            self._state["stages"].pop(stage, None)
        self._write()

    def run(self, stage: str, work: Callable[[], None], announce: Callable[[str], None]) -> bool:
        """Do a stage unless it is finished; True if it ran."""
        if self.is_done(stage):
            announce(f"{stage}: finished before, kept")
            return False
        announce(f"{stage}: starting")
        started = time.perf_counter()
        try:
            work()
        except OSError as error:
            raise InputError(
                f"the stage {stage} could not write its results in {self.path} "
                f"({error.strerror or error}); make room or choose another output folder and "
                "call again, finished stages are kept."
            ) from error
        # A resumed stage counts the time of its last run only.
        seconds = time.perf_counter() - started
        self._state["stages"][stage] = {"seconds": seconds, "peak_mb": peak_memory_mb()}
        self._write()
        announce(f"{stage}: done in {seconds:.0f} s")
        return True


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else text[:21] + "..."
