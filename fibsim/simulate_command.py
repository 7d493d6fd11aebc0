"""The work behind ``fibsim simulate``: specimen and instrument by name or file, stack to disk."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fibsim import io
from fibsim.errors import InputError
from fibsim.instrument import Instrument
from fibsim.instrument_file import InstrumentFile, load_instrument, save_instrument
from fibsim.layers import grid_below
from fibsim.materials import DEFAULT_SOLID, VACUUM
from fibsim.memory import FEWEST_SLICES, Recording, gigabytes, memory_bound
from fibsim.presets import PRESETS, preset
from fibsim.simulate import Sample, check_request, default_sublayers, sample_stack
from fibsim.slabs import SampledSlab, VolumeLike, sample_slabs
from fibsim.specimens import (
    KINDS,
    Ground,
    ResampledVolume,
    Specimen,
    SpecimenFile,
    make,
    on_ground,
    open_specimen,
)
from fibsim.stack_folder import write_slabs

__all__ = ["record", "simulate_to_folder"]

_BELOW = 10  # steps, which reach 22 slices deep


def _instrument(
    name: str, beam_kev: Sequence[float], materials: Sequence[str], pores: str
) -> InstrumentFile:
    filling = () if pores == VACUUM else (pores,)
    if name in PRESETS:
        changes: dict = {"beam_kev": beam_kev} if beam_kev else {}
        first, *others = materials or (DEFAULT_SOLID,)
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    """What is recorded.

    Attributes:
        volume: fractions of the specimen, its lateral voxels as wide as pixels.
        voxel_nm, periodic: of the volume.
        key: of faults and noise.
        slices, sublayers: as of `fibsim.sample_stack`.
        held_bytes: what of the volume is in memory however it is recorded.
        remark: why it is.
    """

    volume: VolumeLike
    voxel_nm: tuple[float, float, float]
    periodic: bool
    key: jax.Array
    slices: int
    sublayers: int
    held_bytes: float = 0.0
    remark: str = ""

    def sizes(self) -> dict[str, int]:
        return dict(num_slices=self.slices, sublayers=self.sublayers, below_slices=_BELOW)

    def whole(self, instrument: Instrument) -> Sample:
        solid = jnp.asarray(self.volume[:])
        specimen = Specimen(solid=solid, voxel_nm=self.voxel_nm, periodic=self.periodic)
        return sample_stack(specimen, instrument, key=self.key, **self.sizes())

    def recorded(
        self,
        instrument: Instrument,
        slab_slices: int,
        progress: Callable[[str], Callable[[int, int, str], None]],
    ) -> Iterator[SampledSlab]:
        """In slabs, or as one if ``slab_slices`` is 0."""
        if not slab_slices:
            yield SampledSlab(first=0, sample=self.whole(instrument))
            return
        show = progress("simulate")
        yield from sample_slabs(
            self.volume, instrument, key=self.key, voxel_nm=self.voxel_nm, periodic=self.periodic,
            slab_slices=slab_slices, progress=lambda done, total: show(done, total, "slices"),
            **self.sizes(),
        )  # fmt: skip


def _grid(
    instrument: Instrument, slices: int, side: int
) -> tuple[int, tuple[int, int, int], tuple[float, float, float]]:
    """Sub-layers per slice, and shape and voxels of a specimen for such a stack."""
    slice_nm = float(instrument.geometry.slice_nm)
    pixel_nm = float(instrument.geometry.pixel_nm)
    sublayers = default_sublayers(slice_nm, pixel_nm)
    grid, voxel_nm = grid_below(
        (slices, side, side),
        slice_nm=slice_nm,
        pixel_nm=pixel_nm,
        sublayers=sublayers,
        below_slices=_BELOW,
    )
    return sublayers, grid, voxel_nm


def _drawn(
    instrument: Instrument,
    *,
    kind: str,
    parameters: Mapping[str, float],
    slices: int,
    side: int,
    seed: int,
    ground_nm: float | None = None,
) -> _Job:
    """A specimen of a kind, which is drawn in memory."""
    sublayers, grid, voxel_nm = _grid(instrument, slices, side)
    key_specimen, key_stack = jax.random.split(jax.random.key(seed))
    specimen = make(
        kind,
        key=key_specimen,
        shape=grid,
        voxel_nm=voxel_nm,
        **parameters,
    )
    volume = np.asarray(on_ground(specimen.solid, ground_nm, layer_nm=voxel_nm[0]))
    return _Job(
        volume=volume,
        voxel_nm=specimen.voxel_nm,
        periodic=specimen.periodic,
        key=key_stack,
        slices=slices,
        sublayers=sublayers,
        held_bytes=volume.nbytes,
        remark="the specimen is drawn in memory; slabs bound what comes after it",
    )


def _stored(file: SpecimenFile, instrument: Instrument, *, slices: int, seed: int) -> _Job:
    """A specimen of a file, checked."""
    sublayers, _, voxel_nm = _grid(instrument, slices, file.shape[-1])
    volume = ResampledVolume(file, old_nm=file.voxel_nm, voxel_nm=voxel_nm)
    check_request(volume.shape, volume.voxel_nm, instrument, slices, sublayers)
    file.check_values()
    return _Job(
        volume=volume,
        voxel_nm=volume.voxel_nm,
        periodic=False,
        key=jax.random.key(seed),
        slices=slices,
        sublayers=sublayers,
        held_bytes=file.held_bytes,
        remark=file.held_because and f"the specimen file is held in memory: {file.held_because}",
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
    job = _drawn(instrument, kind=kind, parameters=parameters, slices=slices, side=side, seed=seed)
    return job.whole(instrument)


def _choose_slabs(
    job: _Job, instrument: Instrument, asked: int, announce: Callable[[str], None]
) -> int:
    """Slices of a slab, or 0 for all at once; says which, and the memory that is expected."""
    shape = tuple(job.volume.shape)
    channels = len(instrument.detectors)
    recording = Recording(
        specimen=shape,
        phases=instrument.num_phases,
        channels=channels,
        slices=job.slices,
        below=_BELOW,
        sublayers=job.sublayers,
        held_bytes=job.held_bytes,
    )
    bound = memory_bound()
    count = max(asked, FEWEST_SLICES) if asked else recording.slab_slices_within(bound)
    whole = gigabytes(recording.whole_bytes())
    what = f"{channels} x {job.slices} slices of {shape[-2]} x {shape[-1]} pixels"
    if not count:
        announce(f"{what}, made at once: {whole} of memory")
        return 0
    size = recording.slab_bytes(count)
    why = f"at once {whole}" + ("" if asked else f", more than the bound of {gigabytes(bound)}")
    announce(f"{what}, made in slabs of {count}: {gigabytes(size)} of memory ({why})")
    if job.remark:
        announce(f"{job.remark}.")
    if size > bound and not asked:
        announce("warning: the smallest slabs take more than that bound.")
    return count


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
    ground_nm: float | None,
    slab_slices: int,
    announce: Callable[[str], None],
    progress: Callable[[str], Callable[[int, int, str], None]],
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
    if slab_slices < 0:
        raise InputError(
            f"--slab-slices is {slab_slices}; expected the number of slices that are made at a "
            "time, or 0 to let the program choose."
        )
    if ground_nm is not None and not ground_nm > 0:
        raise InputError(
            f"--ground-nm is {ground_nm:g}, expected the positive depth in nm of dense ground "
            "below the first face, or inf for none."
        )
    out = Path(out)
    io.require_new_folder(out)
    content = _instrument(instrument, beam_kev, materials, pores)
    microscope = content.instrument
    is_file = specimen is not None and specimen not in KINDS and Path(specimen).suffix != ""
    if is_file and ground_nm is not None:
        raise InputError("--ground-nm goes with a kind of specimen; a specimen file has its own.")
    kind = specimen or content.kind or "waves"
    ground = None
    with contextlib.ExitStack() as opened:
        if is_file:
            count = len(materials) if len(materials) > 1 else None
            file = opened.enter_context(open_specimen(specimen, specimen_voxel_nm, phases=count))
            job = _stored(file, microscope, slices=slices, seed=seed)
            kind, parameters = None, {}
        else:
            stated = dict(content.specimen) if kind == content.kind else {}
            parameters = {**stated, **parameters}
            if ground_nm is None and kind == content.kind and content.ground is not None:
                ground_nm = float(content.ground.depth_nm)
            if ground_nm is not None and np.isfinite(ground_nm):
                stack_nm = slices * float(microscope.geometry.slice_nm)
                ground = Ground(depth_nm=jnp.asarray(ground_nm), stack_nm=jnp.asarray(stack_nm))
            job = _drawn(
                microscope,
                kind=kind,
                parameters=parameters,
                slices=slices,
                side=side,
                seed=seed,
                ground_nm=ground_nm,
            )
        per_slab = _choose_slabs(job, microscope, slab_slices, announce)
        slabs = job.recorded(microscope, per_slab, progress)
        porosity = write_slabs(out, slabs, microscope, (slices, *job.volume.shape[-2:]))
    save_instrument(
        out / "instrument.yaml",
        InstrumentFile(instrument=microscope, kind=kind, specimen=dict(parameters), ground=ground),
    )
    announce(f"wrote {len(microscope.detectors)} channels, truth.tif (porosity {porosity:.3f}), "
             f"stack.yaml and instrument.yaml in {out}")  # fmt: skip
