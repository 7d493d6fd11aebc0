"""What the solid is made of: mean atomic number, mean atomic weight and density."""

import dataclasses
import difflib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fibsim.errors import InputError

__all__ = ["MATERIALS", "Material", "material"]


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
    """

    atomic_number: Float[Array, ""]
    atomic_weight: Float[Array, ""]
    density_g_cm3: Float[Array, ""]
    name: str = dataclasses.field(default="custom", metadata=dict(static=True))


# Standard atomic weights (IUPAC 2021) of the elements that the table below needs.
_WEIGHTS = {
    "H": (1, 1.008), "Li": (3, 6.94), "C": (6, 12.011), "N": (7, 14.007), "O": (8, 15.999),
    "Al": (13, 26.982), "Si": (14, 28.085), "Ca": (20, 40.078), "Ti": (22, 47.867),
    "Mn": (25, 54.938), "Co": (27, 58.933), "Ni": (28, 58.693), "Cu": (29, 63.546),
    "Y": (39, 88.906), "Zr": (40, 91.224), "Ag": (47, 107.868), "Sn": (50, 118.71),
    "W": (74, 183.84), "Pt": (78, 195.084), "Au": (79, 196.967),
}  # fmt: skip

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


def material(name: str) -> Material:
    """Look up a material of the table by name (case matters: ``"Co"`` is not ``"CO"``).

    Raises:
        InputError: the name is not in `MATERIALS`.
    """
    if name not in MATERIALS:
        same = [known for known in MATERIALS if known.lower() == name.lower()]
        near = same or difflib.get_close_matches(name, MATERIALS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(MATERIALS)}."
        raise InputError(f"material {name!r} is unknown; {hint}")
    atoms, density = MATERIALS[name]
    mass = {e: n * _WEIGHTS[e][1] for e, n in atoms.items()}
    total = sum(mass.values())
    mean_z = sum(m / total * _WEIGHTS[e][0] for e, m in mass.items())
    mean_a = sum(m / total * _WEIGHTS[e][1] for e, m in mass.items())
    return Material(
        atomic_number=jnp.asarray(mean_z, float),
        atomic_weight=jnp.asarray(mean_a, float),
        density_g_cm3=jnp.asarray(density, float),
        name=name,
    )
