"""Materials from files: what ``fibsim calibrate`` wrote, wherever a material is named."""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from fibsim.errors import InputError
from fibsim.interaction_table import table_of
from fibsim.io.table_file import (
    MEANS,
    QUANTITIES,
    is_table_name,
    read_material_file,
    write_table_file,
)
from fibsim.materials import Material, check_kind, material

__all__ = ["material_from_table", "named_material", "save_materials"]


def material_from_table(path: str | Path) -> Material:
    """The material whose interaction table ``fibsim calibrate`` wrote, with that table.

    Raises:
        InputError: no such file, not one of ours, values out of range, or several materials.
    """
    found = read_material_file(path)
    check_kind(found["kind"], str(path))
    return Material(
        **{name: jnp.asarray(found[name], float) for name in MEANS},
        name=found["name"],
        kind=found["kind"],
        table=table_of(found["energy_kev"], found),
    )


def named_material(name: str) -> Material:
    """A material by its name or, where that ends in ``.npz``, from a file.

    Raises:
        InputError: as `fibsim.materials.material` or `material_from_table`.
    """
    return material_from_table(name) if is_table_name(name) else material(name)


def save_materials(path: str | Path, solids: Sequence[Material]) -> None:
    """Write materials with their tables, all at the same energies, whole or not at all.

    Raises:
        InputError: a material without a table, different energies, a name that does not end in
            .npz, or a place that cannot be written.
    """
    tables = [solid.table for solid in solids if solid.table is not None]
    if not tables or len(tables) < len(solids):
        raise InputError("a material without an interaction table was given; calibrate it first.")
    energies = [np.asarray(table.energy_kev, float) for table in tables]
    if any(not np.array_equal(e, energies[0]) for e in energies):
        raise InputError("the tables of a file must have the same energies; write several files.")

    def each(objects, name, dtype=np.float32):
        return np.stack([np.asarray(getattr(one, name), dtype) for one in objects])

    content = {
        "materials": np.asarray([solid.name for solid in solids]),
        "kinds": np.asarray([solid.kind for solid in solids]),
        "energy_kev": energies[0],
        **{name: each(solids, name) for name in MEANS},
        **{name: each(tables, name) for name in QUANTITIES},
    }
    write_table_file(path, content)
