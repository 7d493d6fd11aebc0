"""The work behind ``fibsim montecarlo``: images of a voxel specimen, or yields of a flat solid."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from fibsim import io
from fibsim.errors import InputError
from fibsim.materials import MATERIALS, VACUUM, Composition, composition
from fibsim.montecarlo import Yields, bulk_yields, image_yields
from fibsim.provenance import versions

__all__ = ["image_to_folder", "is_material", "print_bulk"]


def _compositions(names: Sequence[str]) -> tuple[Composition | None, ...]:
    return tuple(None if name == VACUUM else composition(name) for name in names)


def print_bulk(
    name: str,
    *,
    beam_kev: Sequence[float],
    tilt_deg: float,
    detectors: Sequence[str],
    electrons: int,
    seed: int,
    elastic: str,
    fast_secondaries: bool,
    announce: Callable[[str], None],
) -> None:
    """Print the yields of a flat half-space, a line per energy."""
    solid = composition(name)
    announce(f"{name}, {solid.density_g_cm3:g} g/cm3, tilt {tilt_deg:g} degrees, per electron")
    announce("   keV  " + "  ".join(f"{d:>18s}" for d in detectors))
    for kev in beam_kev:
        out = bulk_yields(
            solid,
            beam_kev=kev,
            electrons=electrons,
            key=jax.random.key(seed),
            tilt_deg=tilt_deg,
            detectors=detectors,
            elastic=elastic,
            fast_secondaries=fast_secondaries,
        )
        columns = (f"{m:9.4f} +- {e:.4f}" for m, e in zip(out.mean, out.error, strict=True))
        announce(f"{kev:6g}  " + "  ".join(f"{c:>18s}" for c in columns))


def _phases(specimen: Path, materials: Sequence[str]) -> np.ndarray:
    phases = io.read_volume(specimen)
    values = np.unique(phases)
    if len(values) > 8:
        raise InputError(
            f"{specimen} holds {len(values)} different values, expected phase numbers; "
            "save it as whole numbers, 0 for the first material, 1 for the second ..."
        )
    if len(materials) == 2 and len(values) == 2:  # a mask may be 0 and 255
        return (phases == values[1]).astype(np.uint8)
    if phases.dtype.kind == "f" and np.all(phases == np.round(phases)):
        return phases.astype(np.uint8)
    return phases


def image_to_folder(
    specimen: Path,
    out: Path,
    *,
    materials: Sequence[str],
    voxel_nm: tuple[float, float, float] | None,
    beam_kev: Sequence[float],
    slices: int,
    slice_nm: float,
    first_nm: float,
    pixel_nm: float,
    tilt_deg: float,
    probe_nm: float,
    detectors: Sequence[str],
    electrons: int,
    periodic: bool,
    seed: int,
    elastic: str,
    fast_secondaries: bool,
    announce: Callable[[str], None],
    progress: Callable[[str], Callable[[int, int, str], None]],
) -> None:
    """Write, per energy and detector, the yield and its standard error as float TIFFs.

    Raises:
        InputError: bad specimen, materials or values, or a folder that holds something already.
    """
    io.require_new_folder(out)
    if slices < 1 or slice_nm <= 0:
        raise InputError(f"{slices} slices of {slice_nm:g} nm: expected positive numbers.")
    compositions = _compositions(materials)
    phases = _phases(specimen, materials)
    voxel_nm = voxel_nm or io.read_voxel_nm(specimen)
    if voxel_nm is None:
        raise InputError(f"{specimen} does not state its voxel size; give --voxel-nm Z Y X.")
    faces = first_nm + slice_nm * np.arange(slices)
    key = jax.random.key(seed)
    for number, kev in enumerate(beam_kev):
        show = progress(f"{kev:g} keV")
        result: Yields = image_yields(
            phases,
            compositions,
            voxel_nm=voxel_nm,
            beam_kev=kev,
            faces_nm=faces,
            pixel_nm=pixel_nm,
            electrons=electrons,
            key=jax.random.fold_in(key, number),
            tilt_deg=tilt_deg,
            probe_nm=probe_nm,
            detectors=detectors,
            periodic=periodic,
            elastic=elastic,
            fast_secondaries=fast_secondaries,
            progress=lambda done, pixels, show=show: show(done, pixels, "pixels"),
        )
        for name, mean, error in zip(detectors, result.mean, result.error, strict=True):
            for what, values in (("", mean), ("_error", error)):
                path = out / f"{kev:g}kV_{name}{what}.tif"
                io.write_volume(
                    path, values.astype(np.float32), voxel_nm=(slice_nm, pixel_nm, pixel_nm)
                )
            announce(f"{name}: mean {mean.mean():.4f}, error of a pixel {error.mean():.4f}")
    io.atomic_write_text(
        out / "montecarlo.json",
        json.dumps(
            dict(
                specimen=specimen.name,
                materials=list(materials),
                voxel_nm=list(voxel_nm),
                beam_kev=list(beam_kev),
                faces_nm=faces.tolist(),
                pixel_nm=pixel_nm,
                tilt_deg=tilt_deg,
                probe_nm=probe_nm,
                detectors=list(detectors),
                electrons_per_pixel=electrons,
                periodic=periodic,
                elastic=elastic,
                fast_secondaries=fast_secondaries,
                seed=seed,
                versions=versions(),
            ),
            indent=2,
        )
        + "\n",
    )
    announce(f"wrote {out}")


def is_material(name: str) -> bool:
    """Whether a name means a material of the table and not a file."""
    return name in MATERIALS and not Path(name).exists()
