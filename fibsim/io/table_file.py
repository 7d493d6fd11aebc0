"""Files of interaction tables: ``.npz`` of plain arrays, no pickle; read and checked without JAX.

A file holds ``materials`` ``(material,)``, ``energy_kev`` ``(energy,)`` and every one of
`QUANTITIES` as ``(material, energy)``. What `fibsim.calibrate` writes also holds the kind and the
means of each material (``kinds`` and `MEANS`, ``(material,)``), so that the file of one material
can be named wherever a material is asked for.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fibsim.errors import InputError
from fibsim.io._files import atomic_path, require_exists

__all__ = [
    "MEANS",
    "QUANTITIES",
    "check_columns",
    "check_table_name",
    "describe_material_file",
    "is_table_name",
    "material_digest",
    "read_material_file",
    "read_table_file",
    "write_table_file",
]

QUANTITIES = (
    "eta", "delta", "se_by_bse", "depth_nm", "depth_shape", "eta_tilt", "se_tilt",
    "transmitted_nm",
)  # fmt: skip
MEANS = ("atomic_number", "atomic_weight", "density_g_cm3")
_POSITIVE = ("eta", "delta", "depth_nm", "depth_shape", "transmitted_nm")


def is_table_name(name: str) -> bool:
    """Whether a material is named by the path of a file and not by its own name."""
    return name.lower().endswith(".npz")


def check_table_name(path: Path) -> None:
    """Raise an `InputError` if a file of tables cannot have this name."""
    if path.suffix != ".npz" or path.is_dir():
        raise InputError(f"{path} is not the name of an .npz file; let it end in .npz.")


def _finite(values: np.ndarray) -> bool:
    """Whether all are numbers that single precision, which computes with them, can hold."""
    if values.dtype.kind not in "fiu":
        return False
    with np.errstate(over="ignore"):
        return bool(np.all(np.isfinite(values.astype(np.float32))))


def check_columns(columns: Mapping[str, np.ndarray], where: str, materials: int = 0) -> None:
    """Check the energies and the quantities over them.

    Args:
        where: names their source in messages, as in "'eta' of WHERE".
        materials: rows of each quantity; 0 for plain lists over energy.

    Raises:
        InputError: something is missing, no finite number, of another shape or out of range.
    """
    for name in ("energy_kev", *QUANTITIES):
        if name not in columns:
            raise InputError(f"{where} has no {name!r}; write it with 'fibsim calibrate'.")
        if not _finite(columns[name]):
            raise InputError(f"{name!r} of {where} holds something that is no finite number.")
    energy = columns["energy_kev"].astype(np.float32)
    if energy.ndim != 1 or not energy.size or energy[0] <= 0 or np.any(np.diff(energy) <= 0):
        raise InputError(f"'energy_kev' of {where} does not list increasing positive energies.")
    shape = (materials, energy.size) if materials else (energy.size,)
    for name in QUANTITIES:
        values = columns[name].astype(np.float32)
        if values.shape != shape:
            raise InputError(f"{name!r} of {where} has shape {values.shape}, expected {shape}.")
        if name in _POSITIVE and np.any(values <= 0):
            raise InputError(f"{name!r} of {where} holds values that are not positive.")
    if np.any(columns["eta"] >= 1):
        raise InputError(f"'eta' of {where} holds values of 1 or more, expected fractions.")
    if np.any(columns["se_by_bse"] < 0):
        raise InputError(f"'se_by_bse' of {where} holds negative values.")


def _names(content: Mapping[str, np.ndarray], key: str, path: Path) -> list[str]:
    if key not in content:
        raise InputError(f"{path} has no {key!r}; write it with 'fibsim calibrate'.")
    values = content[key]
    if values.ndim != 1 or values.dtype.kind != "U" or not values.size:
        raise InputError(f"{key!r} of {path} is not a list of names.")
    return [str(value) for value in values]


def read_table_file(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a file, checked as far as they are tables over energy.

    Raises:
        InputError: no such file, not one of ours, or values out of range.
    """
    path = Path(path)
    require_exists(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: np.asarray(file[name]) for name in file.files}
    except Exception as error:  # damaged archives raise errors of many kinds
        raise InputError(
            f"{path} is not a readable .npz file of arrays; write it with 'fibsim calibrate'."
        ) from error
    check_columns(content, str(path), materials=len(_names(content, "materials", path)))
    return content


def read_material_file(path: str | Path) -> dict:
    """The one material of a file: ``name``, ``kind``, each of `MEANS`, and the table's columns.

    Raises:
        InputError: as `read_table_file`, several materials, or no means.
    """
    path = Path(path)
    content = read_table_file(path)
    names = _names(content, "materials", path)
    if len(names) > 1:
        raise InputError(
            f"{path} holds {len(names)} materials ({', '.join(names)}), expected one; calibrate "
            "each into a file of its own."
        )
    kinds = _names(content, "kinds", path)
    if len(kinds) > 1:
        raise InputError(f"'kinds' of {path} lists {len(kinds)}, expected one for one material.")
    found: dict = {"name": names[0], "kind": kinds[0]}
    for key in MEANS:
        if key not in content:
            raise InputError(f"{path} has no {key!r}; write it with 'fibsim calibrate'.")
        values = content[key]
        if not _finite(values) or values.shape != (1,) or values[0] <= 0:
            raise InputError(f"{key!r} of {path} is not one positive number.")
        found[key] = float(values[0])
    found["energy_kev"] = content["energy_kev"]
    return found | {name: content[name][0] for name in QUANTITIES}


def describe_material_file(path: str | Path) -> str:
    """Name and energies of the material of a file, after checking it.

    Raises:
        InputError: as `read_material_file`.
    """
    found = read_material_file(path)
    low, high = (f"{found['energy_kev'][end]:g}" for end in (0, -1))
    return f"interaction table of {found['name']}, " + (
        f"{low} keV" if low == high else f"{low} to {high} keV"
    )


def material_digest(path: str | Path) -> str:
    """SHA-256 (hexadecimal) of the material of a file, wherever it lies.

    Raises:
        InputError: as `read_material_file`.
    """
    found = read_material_file(path)
    digest = hashlib.sha256()
    for key in sorted(found):
        value = found[key]
        number = value if isinstance(value, str) else np.asarray(value, "<f4").tobytes().hex()
        digest.update(f"{key}={number};".encode())
    return digest.hexdigest()


def write_table_file(path: str | Path, content: Mapping[str, np.ndarray]) -> None:
    """Write arrays; the file appears whole or not at all.

    Raises:
        InputError: a name that does not end in .npz, or a place that cannot be written.
    """
    path = Path(path)
    check_table_name(path)
    with atomic_path(path) as temporary:
        np.savez(temporary, **content)
