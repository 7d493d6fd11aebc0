"""What a beam does in a solid, as tables over energy that `fibsim.calibrate` measured.

A file (``.npz``, no pickle) holds ``materials`` ``(material,)``, ``energy_kev`` ``(energy,)`` and
every other field of `InteractionTable` as ``(material, energy)``; the package ships one.
"""

import dataclasses
import difflib
import functools
import zipfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fibsim.errors import InputError

__all__ = [
    "InteractionTable",
    "check_table_name",
    "evaluate",
    "interaction_table",
    "load_tables",
    "save_tables",
    "tabulated_names",
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class InteractionTable:
    """Coefficients of one flat solid at increasing beam energies, each ``(energy,)``.

    Attributes:
        energy_kev: beam energies in keV.
        eta: backscatter coefficient of bulk at normal incidence.
        delta: secondaries per beam electron that the beam itself releases.
        se_by_bse: b, secondaries per outgoing backscattered electron relative to ``delta``, so
            that bulk yields ``delta (1 + b eta)`` secondaries.
        depth_nm: thickness d of the free-standing film that backscatters half of what bulk does.
        depth_shape: p of ``eta_film(t) = eta (1 - exp(-ln 2 (t / d)^p))``.
        eta_tilt, se_tilt: n of ``yield(theta) / yield(0) = cos(theta)^-n`` up to 60 degrees, of
            backscattered and of secondary electrons of bulk.
        transmitted_nm: thickness of the film that transmits half of the beam's electrons.
    """

    energy_kev: Float[Array, " energy"]
    eta: Float[Array, " energy"]
    delta: Float[Array, " energy"]
    se_by_bse: Float[Array, " energy"]
    depth_nm: Float[Array, " energy"]
    depth_shape: Float[Array, " energy"]
    eta_tilt: Float[Array, " energy"]
    se_tilt: Float[Array, " energy"]
    transmitted_nm: Float[Array, " energy"]


_FIELDS = tuple(f.name for f in dataclasses.fields(InteractionTable))
_QUANTITIES = _FIELDS[1:]
_POSITIVE = ("eta", "delta", "depth_nm", "depth_shape", "transmitted_nm")
_POWER_LAWS = ("delta", "depth_nm", "transmitted_nm")  # nearly straight on double log axes


def evaluate(table: InteractionTable, energy_kev: Float[Array, "..."]) -> InteractionTable:
    """The coefficients at any energies, as a table of that shape.

    Linear in ``ln E``, and ``ln delta``, ``ln depth_nm`` and ``ln transmitted_nm`` linear in it;
    outside the table the nearest energy's values. Straight pieces do not overshoot where the
    points scatter by their statistical error. Differentiable in both arguments, jittable.
    """
    energy = jnp.asarray(energy_kev, float)
    at, nodes = jnp.log(energy), jnp.log(table.energy_kev)

    def interpolate(name):
        values = jnp.asarray(getattr(table, name))
        if name in _POWER_LAWS:
            return jnp.exp(jnp.interp(at, nodes, jnp.log(values)))
        return jnp.interp(at, nodes, values)

    return InteractionTable(energy_kev=energy, **{name: interpolate(name) for name in _QUANTITIES})


def save_tables(path: str | Path, tables: Mapping[str, InteractionTable]) -> None:
    """Write tables of one set of energies, by material; the file appears whole or not at all.

    Raises:
        InputError: no table, different energies, a name that does not end in .npz, or a place
            that cannot be written.
    """
    from fibsim.io import atomic_path  # readers of tables need no file formats of images

    path = Path(path)
    check_table_name(path)
    if not tables:
        raise InputError("no interaction table was given; give at least one.")
    energies = [np.asarray(t.energy_kev, float) for t in tables.values()]
    if any(not np.array_equal(e, energies[0]) for e in energies):
        raise InputError("the tables of a file must have the same energies; write several files.")
    content = {
        name: np.stack([np.asarray(getattr(t, name), np.float32) for t in tables.values()])
        for name in _QUANTITIES
    }
    with atomic_path(path) as temporary:
        np.savez(temporary, materials=np.asarray(list(tables)), energy_kev=energies[0], **content)


def check_table_name(path: Path) -> None:
    """Raise an `InputError` if a file of tables cannot have this name."""
    if path.suffix != ".npz" or path.is_dir():
        raise InputError(f"{path} is not the name of an .npz file; let it end in .npz.")


def _check(path: Path, content: dict[str, np.ndarray]) -> None:
    missing = [name for name in ("materials", *_FIELDS) if name not in content]
    if missing:
        raise InputError(f"{path} has no {missing[0]!r}; write it with 'fibsim calibrate'.")
    materials, energy = content["materials"], content["energy_kev"]
    if materials.ndim != 1 or materials.dtype.kind != "U" or not materials.size:
        raise InputError(f"'materials' of {path} is not a list of names.")
    for name in _FIELDS:
        values = content[name]
        if values.dtype.kind not in "fiu" or not np.all(np.isfinite(values)):
            raise InputError(f"{name!r} of {path} holds something that is no finite number.")
    if energy.ndim != 1 or not energy.size or energy[0] <= 0 or np.any(np.diff(energy) <= 0):
        raise InputError(f"'energy_kev' of {path} does not list increasing positive energies.")
    for name in _QUANTITIES:
        values, shape = content[name], (materials.size, energy.size)
        if values.shape != shape:
            raise InputError(f"{name!r} of {path} has shape {values.shape}, expected {shape}.")
        if name in _POSITIVE and np.any(values <= 0):
            raise InputError(f"{name!r} of {path} holds values that are not positive.")
    if np.any(content["se_by_bse"] < 0):
        raise InputError(f"'se_by_bse' of {path} holds negative values.")


def load_tables(path: str | Path) -> dict[str, InteractionTable]:
    """Read a file of tables, by material.

    Raises:
        InputError: no such file, not one of ours, or values out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; make it with 'fibsim calibrate'.")
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is not a readable .npz file of arrays; write it with 'fibsim calibrate'."
        ) from error
    _check(path, content)
    return {
        str(material): InteractionTable(
            energy_kev=jnp.asarray(content["energy_kev"], float),
            **{name: jnp.asarray(content[name][row], float) for name in _QUANTITIES},
        )
        for row, material in enumerate(content["materials"])
    }


@functools.cache
def _shipped() -> dict[str, InteractionTable]:
    file = resources.files("fibsim") / "interaction_tables.npz"
    # The first use may be inside a transformation, whose tracers must not be kept.
    with resources.as_file(file) as path, jax.ensure_compile_time_eval():
        return load_tables(path)


def tabulated_names() -> tuple[str, ...]:
    """Materials of which a table is shipped."""
    return tuple(_shipped())


def interaction_table(material: str) -> InteractionTable:
    """The shipped table of a material.

    Raises:
        InputError: there is none; the sentence names those that there are.
    """
    tables = _shipped()
    if material not in tables:
        near = difflib.get_close_matches(material, tables, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(tables)}."
        raise InputError(
            f"no interaction table of {material!r} is shipped; make one with 'fibsim calibrate', "
            f"or {hint}"
        )
    return tables[material]
