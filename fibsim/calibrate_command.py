"""The work behind ``fibsim calibrate``: interaction tables of materials into a file."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

from fibsim import io
from fibsim.calibrate import CalibrationTable, calibrate, check_calibration
from fibsim.errors import InputError
from fibsim.io.table_file import check_table_name
from fibsim.material_file import save_materials
from fibsim.materials import Composition, composition, mean_material

__all__ = ["calibrate_to_file"]


def _compositions(
    names: Sequence[str],
    weight_fractions: Mapping[str, float],
    density_g_cm3: float | None,
    kind: str | None,
) -> list[Composition]:
    if not names:
        raise InputError("no material was given; name at least one, for example Au.")
    twice = [name for name in names if list(names).count(name) > 1]
    if twice:
        raise InputError(f"material {twice[0]!r} was given twice; name it once.")
    own = dict(weight_fractions=weight_fractions or None, density_g_cm3=density_g_cm3, kind=kind)
    if len(names) > 1 and any(value is not None for value in own.values()):
        raise InputError(
            f"a composition, density or kind was given for {len(names)} materials; name one."
        )
    return [composition(name, **own) for name in names]


def _lines(result: CalibrationTable) -> list[str]:
    t = result.table
    out = ["   keV      eta           delta         b           depth nm  p     "
           "n eta  n SE   transmitted nm"]  # fmt: skip
    for i, kev in enumerate(t.energy_kev):
        out.append(
            f"{kev:6g}  {t.eta[i]:.4f} +- {result.eta_error[i]:.4f}  "
            f"{t.delta[i]:.3f} +- {result.delta_error[i]:.3f}  "
            f"{t.se_by_bse[i]:.2f} +- {result.se_by_bse_error[i]:.2f}  {t.depth_nm[i]:9.2f}  "
            f"{t.depth_shape[i]:.2f}  {t.eta_tilt[i]:.2f}   {t.se_tilt[i]:.2f}  "
            f"{t.transmitted_nm[i]:9.2f}"
        )
    return out


def calibrate_to_file(
    names: Sequence[str],
    out: Path,
    *,
    weight_fractions: Mapping[str, float],
    density_g_cm3: float | None,
    kind: str | None,
    energies_kev: Sequence[float],
    electrons: int,
    seed: int,
    announce: Callable[[str], None],
    progress: Callable[[str], Callable[[int, int, str], None]],
) -> None:
    """Calibrate materials one after the other; the file holds those that are finished.

    Raises:
        InputError: unknown material or kind, bad composition, energies, electrons or file name.
    """
    solids = _compositions(names, weight_fractions, density_g_cm3, kind)
    check_calibration(energies_kev, electrons)
    check_table_name(out)
    io.require_folder_of(out)
    done = []
    for solid in solids:
        result = calibrate(
            solid, energies_kev, electrons, jax.random.key(seed), progress=progress(solid.name)
        )
        done.append(dataclasses.replace(mean_material(solid), table=result.table))
        save_materials(out, done)
        announce(f"{solid.name}, {solid.density_g_cm3:g} g/cm3, {result.electrons} electrons")
        for line in _lines(result):
            announce(line)
    use = f"; name it as a material, as in --material {out}" if len(done) == 1 else ""
    announce(f"wrote {out}{use}")
