"""What solids are made of.

`Material` holds the few means that the forward model's laws need, as array leaves that can be
fitted; `Composition` lists the elements, as the Monte Carlo needs them.
"""

import dataclasses
import difflib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fibsim.errors import InputError
from fibsim.interaction_table import InteractionTable
from fibsim.io.table_file import is_table_name

__all__ = [
    "DEFAULT_SOLID",
    "MATERIALS",
    "SOLID_KINDS",
    "VACUUM",
    "Composition",
    "Material",
    "check_kind",
    "composition",
    "kind_of_solid",
    "material",
    "mean_material",
    "se_escape_nm",
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Material:
    """A homogeneous solid as the forward model sees it.

    Compounds enter by the mass-weighted means of atomic number and weight, the usual choice for
    backscattering (Castaing 1960; Goldstein et al. 2018, doi 10.1007/978-1-4939-6676-9).

    Attributes:
        atomic_number: mean Z.
        atomic_weight: mean A in g/mol.
        density_g_cm3: mass density.
        name: label, static.
        kind: one of `SOLID_KINDS`, static; decides how deep secondaries come from.
        table: what beams do in this solid, as calibrated; the laws then count as little as the
            means above, which only describe. None for the shipped table of this name, or laws.
    """

    atomic_number: Float[Array, ""]
    atomic_weight: Float[Array, ""]
    density_g_cm3: Float[Array, ""]
    name: str = dataclasses.field(default="custom", metadata=dict(static=True))
    kind: str = dataclasses.field(default="metal", metadata=dict(static=True))
    table: InteractionTable | None = None


# symbol -> (atomic number, standard atomic weight; IUPAC 2021, of unstable elements the mass
# number of the longest-lived isotope).
_ELEMENTS = {
    "H": (1, 1.008), "He": (2, 4.0026), "Li": (3, 6.94), "Be": (4, 9.0122), "B": (5, 10.81),
    "C": (6, 12.011), "N": (7, 14.007), "O": (8, 15.999), "F": (9, 18.998), "Ne": (10, 20.180),
    "Na": (11, 22.990), "Mg": (12, 24.305), "Al": (13, 26.982), "Si": (14, 28.085),
    "P": (15, 30.974), "S": (16, 32.06), "Cl": (17, 35.45), "Ar": (18, 39.95), "K": (19, 39.098),
    "Ca": (20, 40.078), "Sc": (21, 44.956), "Ti": (22, 47.867), "V": (23, 50.942),
    "Cr": (24, 51.996), "Mn": (25, 54.938), "Fe": (26, 55.845), "Co": (27, 58.933),
    "Ni": (28, 58.693), "Cu": (29, 63.546), "Zn": (30, 65.38), "Ga": (31, 69.723),
    "Ge": (32, 72.630), "As": (33, 74.922), "Se": (34, 78.971), "Br": (35, 79.904),
    "Kr": (36, 83.798), "Rb": (37, 85.468), "Sr": (38, 87.62), "Y": (39, 88.906),
    "Zr": (40, 91.224), "Nb": (41, 92.906), "Mo": (42, 95.95), "Tc": (43, 97),
    "Ru": (44, 101.07), "Rh": (45, 102.91), "Pd": (46, 106.42), "Ag": (47, 107.868),
    "Cd": (48, 112.41), "In": (49, 114.82), "Sn": (50, 118.71), "Sb": (51, 121.76),
    "Te": (52, 127.60), "I": (53, 126.90), "Xe": (54, 131.29), "Cs": (55, 132.91),
    "Ba": (56, 137.33), "La": (57, 138.91), "Ce": (58, 140.12), "Pr": (59, 140.91),
    "Nd": (60, 144.24), "Pm": (61, 145), "Sm": (62, 150.36), "Eu": (63, 151.96),
    "Gd": (64, 157.25), "Tb": (65, 158.93), "Dy": (66, 162.50), "Ho": (67, 164.93),
    "Er": (68, 167.26), "Tm": (69, 168.93), "Yb": (70, 173.05), "Lu": (71, 174.97),
    "Hf": (72, 178.49), "Ta": (73, 180.95), "W": (74, 183.84), "Re": (75, 186.21),
    "Os": (76, 190.23), "Ir": (77, 192.22), "Pt": (78, 195.084), "Au": (79, 196.967),
    "Hg": (80, 200.59), "Tl": (81, 204.38), "Pb": (82, 207.2), "Bi": (83, 208.98),
    "Po": (84, 209), "At": (85, 210), "Rn": (86, 222), "Fr": (87, 223), "Ra": (88, 226),
    "Ac": (89, 227), "Th": (90, 232.04), "Pa": (91, 231.04), "U": (92, 238.03),
}  # fmt: skip

# Of a stack or an instrument that names none: what most hierarchical nanoporous metals are.
DEFAULT_SOLID = "Au"

# name -> (atoms per formula unit, density in g/cm3 at room temperature, CRC Handbook of
# Chemistry and Physics, 97th edition; YSZ and the cathode oxide: usual crystal densities).
MATERIALS: dict[str, tuple[dict[str, float], float]] = {
    "Au": ({"Au": 1}, 19.3),
    "Ag": ({"Ag": 1}, 10.5),
    "Cu": ({"Cu": 1}, 8.96),
    "Ni": ({"Ni": 1}, 8.90),
    "Ti": ({"Ti": 1}, 4.506),
    "Al": ({"Al": 1}, 2.70),
    "Si": ({"Si": 1}, 2.3296),
    "C": ({"C": 1}, 2.0),
    "graphite": ({"C": 1}, 2.2),
    "Pt": ({"Pt": 1}, 21.5),
    "W": ({"W": 1}, 19.3),
    "Sn": ({"Sn": 1}, 7.287),
    "SiO2": ({"Si": 1, "O": 2}, 2.2),
    "Al2O3": ({"Al": 2, "O": 3}, 3.97),
    "ZrO2": ({"Zr": 1, "O": 2}, 5.68),
    "YSZ": ({"Zr": 0.85, "Y": 0.15, "O": 1.925}, 6.05),
    "CaCO3": ({"Ca": 1, "C": 1, "O": 3}, 2.71),
    "NMC": ({"Li": 1, "Ni": 1 / 3, "Mn": 1 / 3, "Co": 1 / 3, "O": 2}, 4.7),
    "resin": ({"C": 21, "H": 25, "O": 5}, 1.2),
}


VACUUM = "vacuum"  # what open pores hold, wherever a material is asked for

# Energy (eV) that releases one secondary, and escape depth (nm), by kind of solid: depths from
# Seiler 1983 (doi 10.1063/1.332840), energies such that the Monte Carlo's yield peaks near the
# middle of the measured ones (which differ by a factor of two between laboratories).
_SECONDARIES = {"metal": (25.0, 1.0), "semiconductor": (20.0, 2.0), "insulator": (13.0, 4.0)}
SOLID_KINDS = tuple(_SECONDARIES)
_KINDS = dict.fromkeys(("Si", "C", "graphite"), "semiconductor") | dict.fromkeys(
    ("SiO2", "Al2O3", "ZrO2", "YSZ", "CaCO3", "NMC", "resin"), "insulator"
)  # all others are metals


def kind_of_solid(name: str) -> str:
    """The kind of a material of the table; what is not in it is taken for a metal."""
    return _KINDS.get(name, "metal")


def se_escape_nm(solid: Material) -> float:
    """Attenuation length of secondaries in a kind of solid (Seiler 1983).

    Raises:
        InputError: the kind is none of `SOLID_KINDS`.
    """
    check_kind(solid.kind, solid.name)
    return _SECONDARIES[solid.kind][1]


def check_kind(kind: str, name: str) -> None:
    """Raise an `InputError` if the kind of a solid called ``name`` is none of `SOLID_KINDS`."""
    if kind not in SOLID_KINDS:
        raise InputError(
            f"{name}: kind of solid {kind!r} is unknown; expected one of {', '.join(SOLID_KINDS)}."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Composition:
    """Elements of a homogeneous phase.

    Attributes:
        elements: (atomic number, atomic weight in g/mol, weight fraction) of every element.
        density_g_cm3: mass density.
        kind: one of `SOLID_KINDS`.
        se_energy_ev: energy loss that releases one secondary electron inside.
        se_escape_nm: attenuation length of secondaries.
    """

    name: str
    elements: tuple[tuple[int, float, float], ...]
    density_g_cm3: float
    kind: str = "metal"
    se_energy_ev: float = _SECONDARIES["metal"][0]
    se_escape_nm: float = _SECONDARIES["metal"][1]


def composition(
    name: str,
    *,
    weight_fractions: Mapping[str, float] | None = None,
    density_g_cm3: float | None = None,
    kind: str | None = None,
) -> Composition:
    """A material of the table, or an alloy or compound by weight fractions and density.

    ``composition("ZrO2")``, or
    ``composition("brass", weight_fractions={"Cu": 0.7, "Zn": 0.3}, density_g_cm3=8.5)``.

    Args:
        kind: one of `SOLID_KINDS`, by which secondaries are made and escape; the table's for its
            materials and metal for others if not given.

    Raises:
        InputError: unknown name, element or kind, fractions that do not add up to 1, no density.
    """
    kind = kind_of_solid(name) if kind is None else kind
    check_kind(kind, name)
    if weight_fractions is None:
        if is_table_name(name):
            raise InputError(
                f"{name} is an interaction table, which does not say what elements the material "
                "is made of; name one of the table of materials."
            )
        if name not in MATERIALS:
            same = [known for known in MATERIALS if known.lower() == name.lower()]
            near = same or difflib.get_close_matches(name, MATERIALS, n=1, cutoff=0.5)
            known = ", ".join(MATERIALS)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {known}."
            raise InputError(f"material {name!r} is unknown; {hint}")
        atoms, density = MATERIALS[name]
        mass = {e: n * _ELEMENTS[e][1] for e, n in atoms.items()}
        total = sum(mass.values())
        weight_fractions = {e: m / total for e, m in mass.items()}
        density_g_cm3 = density if density_g_cm3 is None else density_g_cm3
    unknown = [e for e in weight_fractions if e not in _ELEMENTS]
    if unknown:
        raise InputError(f"{name}: element {unknown[0]!r} is unknown; use symbols from H to U.")
    total = sum(weight_fractions.values())
    if abs(total - 1) > 1e-3 or any(w <= 0 for w in weight_fractions.values()):
        raise InputError(
            f"{name}: weight fractions add up to {total:g}; give positive ones of sum 1."
        )
    if density_g_cm3 is None or not 0.001 < density_g_cm3 < 30:
        raise InputError(f"{name}: density is {density_g_cm3}; give it in g/cm3, 0.001 to 30.")
    energy, escape = _SECONDARIES[kind]
    return Composition(
        name=name,
        elements=tuple((*_ELEMENTS[e], w / total) for e, w in weight_fractions.items()),
        density_g_cm3=float(density_g_cm3),
        kind=kind,
        se_energy_ev=energy,
        se_escape_nm=escape,
    )


def mean_material(solid: Composition) -> Material:
    """The mass-weighted means of a composition."""
    mean_z = sum(weight * z for z, _, weight in solid.elements)
    mean_a = sum(weight * a for _, a, weight in solid.elements)
    return Material(
        atomic_number=jnp.asarray(mean_z, float),
        atomic_weight=jnp.asarray(mean_a, float),
        density_g_cm3=jnp.asarray(solid.density_g_cm3, float),
        name=solid.name,
        kind=solid.kind,
    )


def material(name: str) -> Material:
    """Look up a material of the table by name (case matters: ``"Co"`` is not ``"CO"``).

    Raises:
        InputError: the name is not in `MATERIALS`.
    """
    return mean_material(composition(name))
