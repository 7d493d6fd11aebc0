"""What a beam does in a solid, as tables over energy that `fibsim.calibrate` measured.

The package ships a file of them (`fibsim.io.table_file`).
"""

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fibsim.errors import InputError
from fibsim.io.table_file import QUANTITIES, read_table_file

__all__ = [
    "InteractionTable",
    "evaluate",
    "interaction_table",
    "load_tables",
    "table_of",
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

    return InteractionTable(energy_kev=energy, **{name: interpolate(name) for name in QUANTITIES})


def load_tables(path: str | Path) -> dict[str, InteractionTable]:
    """Read a file of tables, by material.

    Raises:
        InputError: no such file, not one of ours, or values out of range.
    """
    content = read_table_file(path)
    return {
        str(material): table_of(content["energy_kev"], {n: content[n][row] for n in QUANTITIES})
        for row, material in enumerate(content["materials"])
    }


def table_of(energy_kev: np.ndarray, quantities: Mapping[str, np.ndarray]) -> InteractionTable:
    """A table of JAX arrays."""
    return InteractionTable(
        energy_kev=jnp.asarray(energy_kev, float),
        **{name: jnp.asarray(quantities[name], float) for name in QUANTITIES},
    )


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
