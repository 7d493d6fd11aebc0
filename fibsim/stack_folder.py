"""A recording as a folder that is read back as a stack: images, truth, and ``stack.yaml``."""

import contextlib
import math
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import yaml

from fibsim import io
from fibsim.instrument import Instrument
from fibsim.material_file import save_materials
from fibsim.materials import Material
from fibsim.simulate import Sample
from fibsim.slabs import SampledSlab
from fibsim.stack import channels_of

__all__ = ["write_sample", "write_slabs"]


def _labels(phases: np.ndarray) -> np.ndarray:
    """Number of the phase that fills more of a voxel than any other; 0 = pore, 1 = first phase."""
    open_pore = 1.0 - phases.sum(0, keepdims=True)
    return np.argmax(np.concatenate([open_pore, phases]), axis=0).astype(np.uint8)


def _material_file(folder: Path, key: str, solid: Material) -> str:
    """How ``stack.yaml`` names a material: by its name or, if it has one, by its table's file."""
    if solid.table is None:
        return solid.name
    file = f"{key}_{re.sub(r'[^A-Za-z0-9+-]', '_', solid.name)[:40]}.npz"
    save_materials(folder / file, [solid])
    return file


def write_slabs(
    folder: Path,
    slabs: Iterable[SampledSlab],
    instrument: Instrument,
    shape: tuple[int, int, int],
) -> float:
    """One 8-bit TIFF per channel, ``truth.tif``, and a ``stack.yaml`` that states everything.

    Pages are written as slabs come, in any order; no file appears before all are complete. A
    material that has a table of its own is written beside them, for ``stack.yaml`` to name.

    Args:
        folder: where to.
        slabs: of the whole recording.
        instrument: that recorded it.
        shape: (slice, y, x) of the recording.

    Returns:
        The porosity of the truth.

    Raises:
        InputError: not enough space, or the files cannot be written.
    """
    geometry = instrument.geometry
    voxel = (float(geometry.slice_nm), float(geometry.pixel_nm), float(geometry.pixel_nm))
    files = [*io.stack_files(folder, channels_of(instrument)), folder / "truth.tif"]
    io.require_space(folder, len(files) * math.prod(shape))
    white = np.asarray(instrument.noise.white_level)
    pores, several = 0, False
    with contextlib.ExitStack() as opened:
        *images, truth = (
            opened.enter_context(io.volume_writer(file, shape, np.uint8, voxel_nm=voxel))
            for file in files
        )
        for slab in slabs:
            recorded, solid = np.asarray(slab.sample.images), np.asarray(slab.sample.solid)
            several = solid.ndim == 4
            phases = solid if several else solid[None]
            for row in range(recorded.shape[1]):
                for write, image, level in zip(images, recorded[:, row], white, strict=True):
                    page = np.round(np.clip(image / level, 0, 1) * 255).astype(np.uint8)
                    write(slab.first + row, page)
                labels = _labels(phases[:, row])
                pores += int(np.sum(labels == 0))
                truth(slab.first + row, labels)
    facts = {
        "pixel_nm": voxel[1],
        "slice_nm": voxel[0],
        "tilt_deg": round(float(geometry.tilt_deg), 3),
        "material": _material_file(folder, "material", instrument.solid),
    }
    if not several and instrument.other_phases:
        facts["pores"] = _material_file(folder, "pores", instrument.other_phases[0])
    io.atomic_write_text(folder / "stack.yaml", yaml.safe_dump(facts, sort_keys=False))
    return pores / math.prod(shape)


def write_sample(folder: Path, sample: Sample, instrument: Instrument) -> None:
    """Write a recording that is in memory; see `write_slabs`."""
    write_slabs(folder, [SampledSlab(first=0, sample=sample)], instrument, sample.images.shape[1:])
