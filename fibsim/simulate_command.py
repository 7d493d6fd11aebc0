"""The work behind ``fibsim simulate``: specimen and instrument by name or file, stack to disk."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import yaml

from fibsim import io
from fibsim.errors import InputError
from fibsim.instrument import Instrument
from fibsim.instrument_file import InstrumentFile, load_instrument, save_instrument
from fibsim.layers import slices_of_steps
from fibsim.material_file import save_materials
from fibsim.materials import VACUUM, Material
from fibsim.presets import PRESETS, preset
from fibsim.simulate import Sample, default_sublayers, sample_stack
from fibsim.specimens import KINDS, Specimen, make, resample, specimen_from_file
from fibsim.stack import Channel

__all__ = ["labels_of", "record", "simulate_to_folder", "write_sample"]

_BELOW = 10  # steps, which reach 22 slices deep


def _instrument(
    name: str, beam_kev: Sequence[float], materials: Sequence[str], pores: str
) -> InstrumentFile:
    filling = () if pores == VACUUM else (pores,)
    if name in PRESETS:
        changes: dict = {"beam_kev": beam_kev} if beam_kev else {}
        first, *others = materials or ("Au",)
        changes |= {"solid": first, "other_phases": (*others, *filling)}
        return InstrumentFile(instrument=preset(name, **changes))
    if Path(name).suffix in (".yaml", ".yml") or Path(name).exists():
        for option, given in (("beam-kev", beam_kev), ("materials", materials), ("pores", filling)):
            if given:
                raise InputError(
                    f"--{option} goes with a preset; an instrument file names its own."
                )
        return load_instrument(name)
    raise InputError(
        f"{name!r} is neither a preset ({', '.join(PRESETS)}) nor an instrument file; "
        "give one of these."
    )


def record(
    instrument: Instrument,
    *,
    kind: str,
    parameters: Mapping[str, float],
    slices: int,
    side: int,
    seed: int,
) -> Sample:
    """Draw a specimen of a kind and record it."""
    geometry = instrument.geometry
    slice_nm, pixel_nm = float(geometry.slice_nm), float(geometry.pixel_nm)
    sublayers = default_sublayers(slice_nm, pixel_nm)
    key_specimen, key_stack = jax.random.split(jax.random.key(seed))
    specimen = make(
        kind,
        key=key_specimen,
        shape=((slices + sum(slices_of_steps(_BELOW))) * sublayers, side, side),
        voxel_nm=(slice_nm / sublayers, pixel_nm, pixel_nm),
        **parameters,
    )
    return _record(specimen, instrument, key_stack, slices, sublayers)


def _record(specimen: Specimen, instrument: Instrument, key, slices: int, sublayers: int) -> Sample:
    return sample_stack(
        specimen,
        instrument,
        key=key,
        num_slices=slices,
        sublayers=sublayers,
        below_slices=_BELOW,
    )


def labels_of(sample: Sample) -> np.ndarray:
    """Number of the phase that fills more of a voxel than any other; 0 = pore, 1 = first phase."""
    solid = np.asarray(sample.solid)
    phases = solid if solid.ndim == 4 else solid[None]
    open_pore = 1.0 - phases.sum(0, keepdims=True)
    return np.argmax(np.concatenate([open_pore, phases]), axis=0).astype(np.uint8)


def _material_file(folder: Path, key: str, solid: Material) -> str:
    """How ``stack.yaml`` names a material: by its name or, if it has one, by its table's file."""
    if solid.table is None:
        return solid.name
    file = f"{key}_{re.sub(r'[^A-Za-z0-9+-]', '_', solid.name)[:40]}.npz"
    save_materials(folder / file, [solid])
    return file


def write_sample(folder: Path, sample: Sample, instrument: Instrument) -> None:
    """One 8-bit TIFF per channel, ``truth.tif``, and a ``stack.yaml`` that states everything.

    A material that has a table of its own is written beside them, for ``stack.yaml`` to name.
    """
    geometry = instrument.geometry
    voxel = (float(geometry.slice_nm), float(geometry.pixel_nm), float(geometry.pixel_nm))
    channels = [
        Channel(beam_kev=float(e), detector=d)
        for e, d in zip(instrument.beam_kev, instrument.detectors, strict=True)
    ]
    grey = np.asarray(sample.images) / np.asarray(instrument.noise.white_level)[:, None, None, None]
    images = np.round(np.clip(grey, 0, 1) * 255).astype(np.uint8)
    io.write_stack(folder, images, channels, voxel_nm=voxel)
    io.write_volume(folder / "truth.tif", labels_of(sample), voxel_nm=voxel)
    facts = {
        "pixel_nm": voxel[1],
        "slice_nm": voxel[0],
        "tilt_deg": round(float(geometry.tilt_deg), 3),
        "material": _material_file(folder, "material", instrument.solid),
    }
    if sample.solid.ndim == 3 and instrument.other_phases:
        facts["pores"] = _material_file(folder, "pores", instrument.other_phases[0])
    io.atomic_write_text(folder / "stack.yaml", yaml.safe_dump(facts, sort_keys=False))


def simulate_to_folder(
    instrument: str,
    out: Path,
    *,
    specimen: str | None,
    specimen_voxel_nm: tuple[float, float, float] | None,
    parameters: Mapping[str, float],
    beam_kev: tuple[float, ...],
    materials: tuple[str, ...],
    pores: str,
    slices: int,
    side: int,
    seed: int,
    announce: Callable[[str], None],
) -> None:
    """Do ``fibsim simulate``; see its help for the arguments.

    Raises:
        InputError: unknown instrument, specimen or parameter, sizes out of range, or a folder
            that is not empty.
    """
    if not (1 <= slices <= 100_000 and 16 <= side <= 100_000):
        raise InputError(
            f"{slices} slices of {side} pixels were asked for; expected at least 1 of 16 pixels."
        )
    out = Path(out)
    io.require_new_folder(out)
    content = _instrument(instrument, beam_kev, materials, pores)
    microscope = content.instrument
    is_file = specimen is not None and specimen not in KINDS and Path(specimen).suffix != ""
    kind = specimen or content.kind or "waves"
    if is_file:
        count = len(materials) if len(materials) > 1 else None
        read = specimen_from_file(specimen, voxel_nm=specimen_voxel_nm, phases=count)
        pixel, depth = float(microscope.geometry.pixel_nm), float(microscope.geometry.slice_nm)
        sublayers = default_sublayers(depth, pixel)
        solid = resample(read, (depth / sublayers, pixel, pixel))
        sample = _record(solid, microscope, jax.random.key(seed), slices, sublayers)
        kind, parameters = None, {}
    else:
        stated = dict(content.specimen) if kind == content.kind else {}
        parameters = {**stated, **parameters}
        sample = record(
            microscope, kind=kind, parameters=parameters, slices=slices, side=side, seed=seed
        )
    write_sample(out, sample, microscope)
    save_instrument(
        out / "instrument.yaml",
        InstrumentFile(instrument=microscope, kind=kind, specimen=dict(parameters)),
    )
    porosity = float(np.mean(labels_of(sample) == 0))
    announce(f"wrote {len(microscope.detectors)} channels, truth.tif (porosity {porosity:.3f}), "
             f"stack.yaml and instrument.yaml in {out}")  # fmt: skip
