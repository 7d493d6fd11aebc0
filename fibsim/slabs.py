"""Stacks of volumes that do not fit in memory, slab by slab from the deepest slice upwards.

A slab needs of all that lies below it one `fibsim.chain.Scene` and the sum of the layers there.
What must be known of the whole specimen beforehand (`fibsim.layers.Texture`) is gathered in a
first pass. Every slab runs the scan that `fibsim.expected_stack` runs over all slices, and gives
the same bits.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

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
    mean_shares,
    slice_shares,
    surface_counts,
)
from fibsim.milling import Milling, nominal_milling
from fibsim.resample import average_window
from fibsim.simulate import (
    Sample,
    add_noise,
    check_request,
    coefficients_of,
    draw_run,
    face_layers,
    interpolate_faces,
    plan_layers,
)
from fibsim.specimens.specimen import voxel_size
from fibsim.volume_source import Source, VolumeLike

__all__ = ["SampledSlab", "Slab", "VolumeLike", "expected_slabs", "sample_slabs"]


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
class SampledSlab:
    """A recording of consecutive faces.

    Attributes:
        first: number of the first of them.
        sample: what is recorded of them, their truth and their faults; see `fibsim.Sample`.
    """

    first: int
    sample: Sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Part:
    """Slices ``start..stop`` and the window of layers that they need."""

    start: int
    stop: int
    top: int


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
    return slice_shares(mean, offset_px, periodic=periodic), deeper


@functools.partial(jax.jit, static_argnames=("slices", "periodic"))
def _first_scene(phases, beneath, border, low, first, offset_px, coefficients, *, slices, periodic):
    mean, _ = _mean_layers(phases, beneath, border, low, first, slices)
    return first_scene(mean, offset_px, coefficients, periodic=periodic)


@functools.partial(jax.jit, static_argnames=("slices", "periodic"))
def _render(
    scene, phases, beneath, border, low, first, cuts, milling, imaged, texture, coefficients,
    instrument, *, slices, periodic,
):  # fmt: skip
    mean, deeper = _mean_layers(phases, beneath, border, low, first, slices)
    scene, grey = image_slices(
        scene, mean, cuts, milling, imaged, texture, coefficients, instrument, periodic=periodic
    )
    return scene, deeper, grey


def _source(volume, instrument, voxel_nm, periodic, num_slices, slab_slices, sublayers) -> Source:
    """The volume to read, after all checks."""
    voxel_nm = voxel_size(voxel_nm)
    check_request(tuple(volume.shape), voxel_nm, instrument, num_slices, sublayers)
    if slab_slices < 1:
        raise InputError(f"slab_slices is {slab_slices}, expected at least 1.")
    return Source(volume=volume, voxel_nm=voxel_nm, periodic=periodic, phases=instrument.num_phases)


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
    source = _source(volume, instrument, voxel_nm, periodic, num_slices, slab_slices, sublayers)
    if milling is None:
        milling = nominal_milling(instrument, (num_slices, *volume.shape[-2:]))
    return _slabs(
        source, instrument, milling, num_slices, slab_slices, sublayers, below_slices, progress
    )


def _slabs(source, instrument, milling, num_slices, slab_slices, sublayers, below, progress):
    geometry = instrument.geometry
    cuts, border = plan_layers(
        milling.thickness_nm,
        geometry,
        voxel_z_nm=source.voxel_nm[0],
        sublayers=sublayers,
        below=below,
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
    if source.phases > 1:
        beneath, found = bottom, []
        for part in parts:
            window = source.window(part.top, count)
            each, beneath = _measure(
                window, beneath, *arguments(part), slices=part.stop - part.start, periodic=periodic
            )
            found.insert(0, each)
        shares = jax.jit(mean_shares)(jnp.concatenate(found))
    texture = Texture(chord_nm=chord, period_nm=period, shares=shares)

    coefficients, part = coefficients_of(instrument), parts[0]
    scene = _first_scene(
        source.window(part.top, count), bottom, *arguments(part), coefficients,
        slices=part.stop - part.start, periodic=periodic,
    )  # fmt: skip
    beneath = bottom
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
            coefficients,
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


def sample_slabs(
    volume: VolumeLike,
    instrument: Instrument,
    *,
    key: jax.Array,
    voxel_nm: float | tuple[float, float, float],
    num_slices: int,
    slab_slices: int = 32,
    periodic: bool = False,
    sublayers: int = 3,
    below_slices: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[SampledSlab]:
    """`fibsim.sample_stack` of a volume that is read slab by slab; the deepest slab comes first.

    Faults are drawn once for the run, and the noise of a slice depends on ``key`` and on the
    slice's number: images, expected images, truth and faults are those of `fibsim.sample_stack`
    to the bit, whatever the size of the slabs. Memory, arguments and errors as for
    `expected_slabs`; ``key`` is a typed JAX key.
    """
    source = _source(volume, instrument, voxel_nm, periodic, num_slices, slab_slices, sublayers)
    milling, key_noise = draw_run(instrument, (num_slices, *volume.shape[-2:]), key=key)
    slabs = _slabs(
        source, instrument, milling, num_slices, slab_slices, sublayers, below_slices, progress
    )
    return _recorded(slabs, source, instrument, milling, key_noise)


def _recorded(slabs, source, instrument, milling, key_noise):
    upper, weight = face_layers(
        milling.thickness_nm, voxel_z_nm=source.voxel_nm[0], layers=source.depth
    )
    upper = np.asarray(upper)
    for slab in slabs:
        rows = slice(slab.first, slab.first + slab.images.shape[1])
        faults = jax.tree.map(lambda leaf, rows=rows: leaf[rows], milling)
        both = (
            np.concatenate([source.fractions(int(layer), 1) for layer in layers], axis=-3)
            for layers in (upper[rows], np.minimum(upper[rows] + 1, source.depth - 1))
        )
        solid = interpolate_faces(
            *both, weight[rows], faults, instrument.geometry.pixel_nm, periodic=source.periodic
        )
        sample = Sample(
            images=add_noise(slab.images, instrument, key=key_noise, first=slab.first),
            expected=slab.images,
            solid=solid,
            milling=faults,
        )
        yield SampledSlab(first=slab.first, sample=sample)
