"""The work behind ``fibnet measure``: every measure of one label volume into a folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

from fibnet.correlation import correlation_rows, correlations, curves_table, longer_along_z
from fibnet.labels import read_label
from fibnet.mesh import surface_mesh, write_mesh
from fibnet.morphology import as_rows, measure
from fibnet.report.numbers import format_value
from fibnet.transport import transport, transport_rows
from fibsim import io
from fibsim.errors import InputError

__all__ = ["measure_to_folder"]

Row = tuple[str, float, str]


def measure_to_folder(
    path: Path,
    out: Path,
    *,
    voxel_nm: Sequence[float] | None,
    mesh: str | None,
    announce: Callable[[str], None],
) -> None:
    """Do ``fibnet measure``; see its help for the arguments.

    Raises:
        InputError: a folder that is not empty; a file that cannot be read, is no label, or does
            not state its voxel size; a mesh of a volume without an interface.
    """
    io.require_new_folder(out)
    solid = read_label(path)
    voxel = voxel_nm or io.read_voxel_nm(path)
    if voxel is None:
        raise InputError(f"{path} states no voxel size; give --voxel-nm Z Y X in nm.")
    rows = as_rows(measure(solid, voxel))
    surface = None if mesh is None else surface_mesh(solid, voxel)
    rows += transport_rows(transport(solid, voxel))
    curves = correlations(solid, voxel)
    rows += correlation_rows(curves)
    table = [["quantity", "unit", "value"], *([n, unit, f"{v:.6g}"] for n, v, unit in rows)]
    io.atomic_write_text(out / "measures.csv", io.csv_text(table))
    io.atomic_write_text(out / "curves.csv", io.csv_text(curves_table({path.stem: curves})))
    if surface is not None:
        write_mesh(out / f"surface.{mesh}", surface)
    sides = " x ".join(f"{side:g}" for side in voxel)
    announce(f"{' x '.join(map(str, solid.shape))} voxels (z, y, x) of {sides} nm")
    for line in _lines(rows):
        announce(line)
    if (longer := longer_along_z(curves)) is not None:
        announce(f"note: {longer}")
    if surface is not None:
        announce(f"surface      {out / f'surface.{mesh}'}, {len(surface.faces)} triangles")
    announce(f"measures     {out / 'measures.csv'}")
    announce(f"curves       {out / 'curves.csv'}")


def _lines(rows: Sequence[Row]) -> list[str]:
    shown = [(name, format_value(float(value)), unit) for name, value, unit in rows]
    wide, number = (max(len(row[i]) for row in shown) for i in (0, 1))
    return [f"{n.ljust(wide)}  {v.rjust(number)} {unit}".rstrip() for n, v, unit in shown]
