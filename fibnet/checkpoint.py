"""Save and load with Orbax: the one file that knows its API.

A checkpoint is a folder ``step_000120`` that appears whole or not at all (Orbax writes to a
temporary folder and renames it), holding arrays only; what describes them is JSON beside them.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint.experimental import v1 as ocp

from fibsim.errors import InputError

__all__ = [
    "all_steps",
    "latest_step",
    "load_checkpoint",
    "load_description",
    "prune",
    "save_checkpoint",
]

_NAME = re.compile(r"step_(\d{6,})$")


def _folder(root: Path, step: int) -> Path:
    return Path(root).absolute() / f"step_{step:06d}"


def all_steps(root: Path) -> list[int]:
    """Steps with a finished checkpoint under ``root``, ascending."""
    if not Path(root).is_dir():
        return []
    found = (_NAME.match(p.name) for p in Path(root).iterdir() if p.is_dir())
    return sorted(int(m.group(1)) for m in found if m)


def latest_step(root: Path) -> int | None:
    """The last finished checkpoint's step, or None."""
    steps = all_steps(root)
    return steps[-1] if steps else None


def save_checkpoint(root: Path, step: int, arrays: Any, description: dict) -> None:
    """Write a pytree of arrays and a JSON description; blocks until both are on disk."""
    folder = _folder(root, step)
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(description)
    ocp.save_checkpointables(folder, {"arrays": arrays, "description": {"json": text}})


def load_description(root: Path, step: int) -> dict:
    """The JSON description of a checkpoint."""
    folder = _folder(root, step)
    try:
        loaded = ocp.load_checkpointables(folder, {"description": None})
        return json.loads(loaded["description"]["json"])
    except Exception as error:
        raise InputError(
            f"{folder} cannot be read as a checkpoint ({type(error).__name__}); "
            "give the folder that training wrote, or train again."
        ) from error


def load_checkpoint(root: Path, step: int, abstract: Any) -> Any:
    """Read the arrays into the structure, shapes and types of ``abstract``.

    Everything lands on this process's first device: a checkpoint of a GPU machine opens on a
    laptop.

    Raises:
        InputError: the checkpoint is unreadable or belongs to another architecture.
    """
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), abstract)
    folder = _folder(root, step)
    try:
        return ocp.load_checkpointables(folder, {"arrays": wanted})["arrays"]
    except Exception as error:
        raise InputError(
            f"{folder} does not hold the network that its settings describe "
            f"({type(error).__name__}); train again in a new folder."
        ) from error


def prune(root: Path, keep: int) -> None:
    """Delete all but the last ``keep`` checkpoints."""
    for step in all_steps(root)[:-keep]:
        shutil.rmtree(_folder(root, step))
