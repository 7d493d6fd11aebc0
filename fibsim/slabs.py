"""Stacks of volumes that do not fit in memory, slab by slab from the deepest slice upwards.

A slab needs of all that lies below it one `fibsim.chain.Scene` and the sum of the layers there.
What must be known of the whole specimen beforehand (`fibsim.layers.Texture`) is gathered in a
first pass. Every slab runs the scan that `fibsim.expected_stack` runs over all slices, and gives
the same bits.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from fibsim.chain import first_scene, image_slices, with_slices_below
from fibsim.errors import InputError
from fibsim.instrument import Instrument
from fibsim.layers import (
    Texture,
    chords_nm,
    lean_layers,
    mean_shares,
    plan_cuts,
    slice_shares,
    slices_of_steps,
    surface_counts,
)
from fibsim.milling import Milling, nominal_milling
from fibsim.resample import average_window
from fibsim.specimens.specimen import Specimen, phase_fractions, voxel_size

__all__ = ["Slab", "VolumeLike", "expected_slabs"]

_TOLERANCE = 1e-3


class VolumeLike(Protocol):
    """Anything with a shape that gives a range of layers, such as a NumPy memory map.

    ``shape`` is ``(z, y, x)``, or ``(phase, z, y, x)``; ``volume[z0:z1]``, or
    ``volume[:, z0:z1]``, holds solid fractions, floating in [0, 1] or boolean, or integers 0..255
    for 0..1 if it is ``uint8``.
    """

    shape: tuple[int, ...]

    def __getitem__(self, index, /): ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slab:
    """Expected grey values of consecutive faces.

    Attributes:
        first: number of the first of them.
        images: ``(channel, slice, y, x)``.
    """

    first: int
    images: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Part:
    """Slices ``start..stop`` and the window of layers that they need."""

    start: int
    stop: int
    top: int


def _fractions(part: np.ndarray, top: int) -> np.ndarray:
    """What was read, as float32 fractions; ``top`` is its first layer, for messages."""
    part = np.asarray(part)
    if part.dtype == np.uint8:
        return part.astype(np.float32) / np.float32(255)
    if part.dtype.kind not in "bf":
        raise InputError(
            f"the volume holds {part.dtype}, expected fractions in [0, 1] as floating numbers or "
            "booleans, or uint8 with 255 for solid; convert it first."
        )
    values = part.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
        raise InputError(
            f"the volume holds values from {low:g} to {high:g} from layer {top} on, expected "
            "fractions in [0, 1]; scale them first."
        )
    return np.clip(values, 0, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Source:
    """Reads windows of a volume as fractions of all phases."""

    volume: VolumeLike
    voxel_nm: tuple[float, float, float]
    periodic: bool
    phases: int

    @property
    def depth(self) -> int:
        return self.volume.shape[-3]

    def window(self, top: int, count: int) -> Array:
        """Layers ``top .. top + count - 1`` as ``(phase, z, y, x)``; above the volume it is
        empty, which no average uses."""
        missing = max(-top, 0)
        top, count = top + missing, count - missing
        rows = slice(top, top + count)
        read = self.volume[rows] if len(self.volume.shape) == 3 else self.volume[:, rows]
        values = _fractions(read, top)
        wanted = (*self.volume.shape[:-3], count, *self.volume.shape[-2:])
        if values.shape != wanted:
            raise InputError(
                f"the volume gave shape {values.shape} for layers {top} to {top + count - 1}, "
                f"expected {wanted}."
            )
        if missing:
            width = [(0, 0)] * values.ndim
            width[-3] = (missing, 0)
            values = np.pad(values, width)
        specimen = Specimen(
            solid=jnp.asarray(values), voxel_nm=self.voxel_nm, periodic=self.periodic
        )
        return phase_fractions(specimen, self.phases)


def _parts(low: np.ndarray, slices: int, per_slab: int, sublayers: int) -> tuple[list[_Part], int]:
    """Slabs from the deepest upwards, and the number of layers that a window of any of them has.

    The deepest slab takes what is left over, so that all others share one compiled program. None
    has a single slice: a loop of one step is unrolled by the compiler, which then rounds it
    differently.
    """
    per_slab = max(per_slab, 2)
    rest = slices % per_slab
    deepest = rest if rest > 1 else per_slab + rest
    stops = [slices, *range(slices - deepest, 0, -per_slab)]
    starts = [*stops[1:], 0]
    ranges = [(low[a * sublayers], low[b * sublayers]) for a, b in zip(starts, stops, strict=True)]
    count = max(int(bottom - top) + 1 for top, bottom in ranges)
    parts = [
        _Part(start=a, stop=b, top=int(bottom) + 1 - count)
        for a, b, (_, bottom) in zip(starts, stops, ranges, strict=True)
    ]
    return parts, count


@functools.partial(jax.jit, static_argnames=("voxel_z_nm", "sublayers", "below"))
def _plan(thickness_nm, geometry, *, voxel_z_nm, sublayers, below):
    """The cuts, and their borders in layers."""
    cuts = plan_cuts(thickness_nm, geometry, sublayers=sublayers, below=below)
    return cuts, cuts.border_nm / voxel_z_nm


_chords = jax.jit(chords_nm)


@functools.partial(jax.jit, static_argnames="periodic")
def _count_surfaces(phases, *, periodic):
    return surface_counts(phases, periodic=periodic)


def _mean_layers(phases, beneath, border, low, first, slices: int):
    """Averages over the sub-layers ``(slice, phase, sublayer, y, x)``, and the sum above them."""
    mean, deeper = jax.vmap(average_window, in_axes=(0, 0, None, None, None))(
        phases, beneath, border, low, first
    )
    count, layers, *lateral = mean.shape
    mean = mean.reshape(count, slices, layers // slices, *lateral)
    return jnp.moveaxis(mean, 1, 0), deeper


@functools.partial(jax.jit, static_argnames=("slices", "periodic"))
def _measure(phases, beneath, border, low, first, offset_px, *, slices, periodic):
    mean, deeper = _mean_layers(phases, beneath, border, low, first, slices)
    deepest = lean_layers(mean[-1, :, -1:], offset_px[-1, -1:], periodic=periodic)[:, 0]
    return slice_shares(mean, offset_px, periodic=periodic), deepest, deeper


@functools.partial(jax.jit, static_argnames=("slices", "periodic"))
def _deepest(phases, beneath, border, low, first, offset_px, *, slices, periodic):
    mean, _ = _mean_layers(phases, beneath, border, low, first, slices)
    return lean_layers(mean[-1, :, -1:], offset_px[-1, -1:], periodic=periodic)[:, 0]


@functools.partial(jax.jit, static_argnames=("slices", "periodic"))
def _render(
    scene, phases, beneath, border, low, first, cuts, milling, imaged, texture, instrument,
    *, slices, periodic,
):  # fmt: skip
    mean, deeper = _mean_layers(phases, beneath, border, low, first, slices)
    scene, grey = image_slices(
        scene, mean, cuts, milling, imaged, texture, instrument, periodic=periodic
    )
    return scene, deeper, grey


def expected_slabs(
    volume: VolumeLike,
    instrument: Instrument,
    milling: Milling | None = None,
    *,
    voxel_nm: float | tuple[float, float, float],
    num_slices: int,
    slab_slices: int = 32,
    periodic: bool = False,
    sublayers: int = 3,
    below_slices: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Slab]:
    """`fibsim.expected_stack` of a volume that is read slab by slab; the deepest slab comes first.

    Peak memory is that of one slab, about ``(40 + 30 channels) bytes x pixels x slab_slices``,
    whatever the depth of the volume. The volume is read twice: its mean chords are needed first.
    The images are those of `fibsim.expected_stack` to the bit where one volume fits both.

    Args:
        volume: see `VolumeLike`; a NumPy array or memory map, or an object that reads a file.
        instrument: the microscope.
        milling: true thickness, drift and shading of this run; faultless if not given.
        voxel_nm: size of the volume's voxels (z, y, x).
        num_slices: faces to image.
        slab_slices: slices per slab; the deepest may have one more, and none has a single one.
        periodic: whether opposite borders fit together.
        sublayers, below_slices: as in `fibsim.expected_stack`.
        progress: called with (slices done, all slices), those below the last face included.

    Raises:
        InputError: a volume of another shape, type or range than expected, lateral voxels that
            differ from the pixel, too shallow, or numbers of slices below 1.
    """
    from fibsim.simulate import check_request

    voxel_nm = voxel_size(voxel_nm)
    shape = tuple(volume.shape)
    check_request(shape, voxel_nm, instrument, num_slices, sublayers)
    if slab_slices < 1:
        raise InputError(f"slab_slices is {slab_slices}, expected at least 1.")
    if milling is None:
        milling = nominal_milling(instrument, (num_slices, *shape[-2:]))
    source = _Source(
        volume=volume, voxel_nm=voxel_nm, periodic=periodic, phases=instrument.num_phases
    )
    return _slabs(
        source, instrument, milling, num_slices, slab_slices, sublayers, below_slices, progress
    )


def _slabs(source, instrument, milling, num_slices, slab_slices, sublayers, below, progress):
    geometry = instrument.geometry
    cuts, border = _plan(
        milling.thickness_nm,
        geometry,
        voxel_z_nm=source.voxel_nm[0],
        sublayers=sublayers,
        below=slices_of_steps(below),
    )
    low = np.clip(np.floor(np.asarray(border)).astype(np.int32), 0, source.depth - 1)
    slices = num_slices + below
    parts, count = _parts(low, slices, slab_slices, sublayers)
    periodic = source.periodic
    rows_of_milling = with_slices_below(milling, below)
    imaged = np.arange(slices) < num_slices

    def arguments(part: _Part):
        rows = slice(part.start * sublayers, part.stop * sublayers + 1)
        here = slice(part.start, part.stop)
        return border[rows], low[rows], np.int32(part.top), cuts.offset_px[here]

    def sum_beneath() -> Array:
        """Of all layers that no slab reads."""
        total = jnp.zeros(
            (source.phases, *source.volume.shape[-2:]), instrument.geometry.pixel_nm.dtype
        )
        stop = source.depth
        bottom = parts[0].top + count
        while stop > bottom:
            start = max(stop - count, bottom)
            total = _add_layers(source.window(start, stop - start), total)
            stop = start
        return total

    # First pass: what all slices must know of the whole.
    surfaces, fractions = [], []
    for top in range(0, source.depth, count):
        window = source.window(top, min(count, source.depth - top))
        found = _count_surfaces(window, periodic=periodic)
        surfaces.append(np.asarray(found[0]))
        fractions.append(np.asarray(found[1]))
    chord, period = _chords(
        jnp.concatenate(surfaces), jnp.concatenate(fractions), geometry.pixel_nm
    )
    bottom = sum_beneath()
    shares = jnp.ones(1, border.dtype)
    deepest = None
    if source.phases > 1:
        beneath, found = bottom, []
        for part in parts:
            window = source.window(part.top, count)
            each, last, beneath = _measure(
                window, beneath, *arguments(part), slices=part.stop - part.start, periodic=periodic
            )
            deepest = last if deepest is None else deepest
            found.insert(0, each)
        shares = jax.jit(mean_shares)(jnp.concatenate(found))
    else:
        part = parts[0]
        window = source.window(part.top, count)
        deepest = _deepest(
            window, bottom, *arguments(part), slices=part.stop - part.start, periodic=periodic
        )
    texture = Texture(chord_nm=chord, period_nm=period, shares=shares)

    scene, beneath = jax.jit(first_scene)(deepest, instrument), bottom
    for part in parts:
        here = slice(part.start, part.stop)
        border_here, low_here, first, _ = arguments(part)
        own = dataclasses.replace(
            jax.tree.map(lambda leaf, rows=here: leaf[rows], cuts), border_nm=border_here
        )
        scene, beneath, grey = _render(
            scene,
            source.window(part.top, count),
            beneath,
            border_here,
            low_here,
            first,
            own,
            jax.tree.map(lambda leaf, rows=here: leaf[rows], rows_of_milling),
            imaged[here],
            texture,
            instrument,
            slices=part.stop - part.start,
            periodic=periodic,
        )
        recorded = min(part.stop, num_slices) - part.start
        if progress is not None:
            progress(slices - part.start, slices)
        if recorded > 0:
            images = np.moveaxis(np.asarray(grey[:recorded]), 1, 0)
            yield Slab(first=part.start, images=images)


@jax.jit
def _add_layers(window, total):
    def add(total, layer):
        return total + layer, None

    return jax.lax.scan(add, total, jnp.moveaxis(window, 1, 0), reverse=True)[0]
