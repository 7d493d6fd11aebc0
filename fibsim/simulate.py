"""The whole chain in one jitted call: specimen + instrument -> image stack."""

import dataclasses
import functools
import math

import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Float

from fibsim.chain import first_scene, image_slices, with_slices_below
from fibsim.errors import InputError
from fibsim.instrument import Geometry, Instrument
from fibsim.interaction import channel_coefficients
from fibsim.layers import Cuts, phase_shares, plan_cuts, slices_of_steps, texture_of
from fibsim.milling import Milling, displace, nominal_milling, sample_milling
from fibsim.noise import channel_noise, sample_grey, unsaturated_grey
from fibsim.resample import average_depth, depth_weights, map_slices
from fibsim.specimens.specimen import Specimen, phase_fractions

__all__ = [
    "Sample",
    "add_noise",
    "check_request",
    "coefficients_of",
    "default_sublayers",
    "draw_run",
    "emitted_stack",
    "expected_stack",
    "face_layers",
    "interpolate_faces",
    "plan_layers",
    "sample_stack",
    "true_faces",
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """A simulated recording with its truth.

    Attributes:
        images: noisy grey values; ``(channel, slice, y, x)``.
        expected: the same without noise.
        solid: solid fraction of the voxels under every imaged face, on the images' grid;
            ``(slice, y, x)``, or with the phases of the specimen first.
        milling: the faults that were drawn.
    """

    images: Float[Array, "channel slice y x"]
    expected: Float[Array, "channel slice y x"]
    solid: Float[Array, "*phase slice y x"]
    milling: Milling


def default_sublayers(slice_nm: float, pixel_nm: float) -> int:
    """Sub-layers per slice: no thicker than a pixel is wide on average, 2 to 8 of them."""
    return int(min(max(math.ceil(slice_nm / pixel_nm - 1e-6), 2), 8))


def check_request(
    shape: tuple[int, ...],
    voxel_nm: tuple[float, float, float],
    instrument: Instrument,
    num_slices: int,
    sublayers: int,
) -> None:
    """Whether slices of a specimen of this shape can be imaged.

    Raises:
        InputError: they cannot; see `expected_stack`.
    """
    if len(shape) not in (3, 4):
        raise InputError(f"specimen has shape {shape}, expected (z, y, x) or (phase, z, y, x).")
    empty = jnp.zeros((*shape[:-3], 1, 1, 1))
    phase_fractions(Specimen(solid=empty, voxel_nm=voxel_nm), instrument.num_phases)
    if num_slices < 1 or sublayers < 1:
        raise InputError(
            f"num_slices={num_slices} and sublayers={sublayers} must both be at least 1."
        )
    geometry = instrument.geometry
    if any(isinstance(v, jax.core.Tracer) for v in (geometry.pixel_nm, geometry.slice_nm)):
        return  # inside a transformation: values are unknown, the caller's check holds
    pixel, depth = float(geometry.pixel_nm), shape[-3] * voxel_nm[0]
    if any(abs(v / pixel - 1) > 1e-3 for v in voxel_nm[1:]):
        raise InputError(
            f"specimen voxels are {voxel_nm[1:]} nm wide but the pixel is {pixel:g} nm; "
            "resample the specimen with fibsim.specimens.resample first."
        )
    needed = num_slices * float(geometry.slice_nm)
    if depth < needed * (1 - 1e-3):
        raise InputError(
            f"specimen is {depth:g} nm deep but {num_slices} slices need {needed:g} nm; "
            "ask for fewer slices or give a deeper specimen."
        )


def expected_stack(
    specimen: Specimen,
    instrument: Instrument,
    milling: Milling | None = None,
    *,
    num_slices: int,
    sublayers: int = 3,
    below_slices: int = 8,
) -> Float[Array, "channel slice y x"]:
    """Expected grey values (no noise, no saturation) of every channel and slice.

    Jitted: ``num_slices``, ``sublayers``, ``below_slices`` and the specimen's grid are static.
    Differentiable with respect to the instrument's leaves, the milling and ``specimen.solid``.
    For a batch use `jax.vmap`.

    Args:
        specimen: solid fraction or fractions of the instrument's phases, its lateral voxels as
            wide as the instrument's pixels, its top layer the first milled face.
        instrument: the microscope.
        milling: true thickness, drift and shading of this run; faultless if not given.
        num_slices: faces to image.
        sublayers: layers per slice in which the specimen is seen.
        below_slices: steps below the last face in which the specimen still shines through, of 1,
            1, 1, 1, 2, 2, 3, 3 ... nominal slices (`fibsim.layers.slices_of_steps`): 8 reach 14
            slices deep. Where the specimen ends earlier its last layer goes on.

    Raises:
        InputError: lateral voxel size differs from the pixel, the specimen is too shallow, or
            its phases are not those of the instrument.
    """
    return _laid_slices(
        specimen, instrument, milling, num_slices, sublayers, below_slices, recorded=True
    )


def emitted_stack(
    specimen: Specimen,
    instrument: Instrument,
    milling: Milling,
    *,
    num_slices: int,
    sublayers: int = 3,
    below_slices: int = 8,
) -> Float[Array, "slice channel 2 y x"]:
    """Backscattered and secondary electrons per beam electron that leave every face.

    The first part of `expected_stack`, which `fibsim.recording.record_emission` turns into its
    grey values: detector, probe, drift, shading and lines play no part. Arguments and errors as
    there.
    """
    return _laid_slices(
        specimen, instrument, milling, num_slices, sublayers, below_slices, recorded=False
    )


def _laid_slices(specimen, instrument, milling, num_slices, sublayers, below_slices, *, recorded):
    check_request(specimen.solid.shape, specimen.voxel_nm, instrument, num_slices, sublayers)
    if milling is None:
        milling = nominal_milling(instrument, (num_slices, *specimen.solid.shape[-2:]))
    # Apart, as in slabs: in one program the compiler would round these numbers differently.
    cuts, border = plan_layers(
        milling.thickness_nm,
        instrument.geometry,
        voxel_z_nm=specimen.voxel_nm[0],
        sublayers=sublayers,
        below=below_slices,
    )
    texture = _texture(specimen, instrument, cuts, border)
    coefficients = coefficients_of(instrument)
    return _image_slices(
        specimen, instrument, milling, cuts, border, texture, coefficients,
        num_slices=num_slices, recorded=recorded,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("voxel_z_nm", "sublayers", "below"))
def plan_layers(
    thickness_nm: Float[Array, " slice"],
    geometry: Geometry,
    *,
    voxel_z_nm: float,
    sublayers: int,
    below: int,
) -> tuple[Cuts, Float[Array, " border"]]:
    """`plan_cuts`, and its borders in layers of the specimen."""
    steps = slices_of_steps(below)
    cuts = plan_cuts(thickness_nm, geometry, sublayers=sublayers, below=steps)
    return cuts, cuts.border_nm / voxel_z_nm


coefficients_of = jax.jit(channel_coefficients)


def _cut(specimen, instrument, cuts, border):
    """The specimen's phases, and means over sub-layers ``(slice, phase, sublayer, y, x)``."""
    phases = phase_fractions(specimen, instrument.num_phases)
    mean = jax.vmap(average_depth, in_axes=(0, None))(phases, border)
    count, _, *lateral = mean.shape
    return phases, jnp.moveaxis(mean.reshape(count, *cuts.height_nm.shape, *lateral), 1, 0)


@jax.jit
def _texture(specimen, instrument, cuts, border):
    phases, mean = _cut(specimen, instrument, cuts, border)
    shares = phase_shares(mean, cuts.offset_px, periodic=specimen.periodic)
    return texture_of(phases, shares, instrument.geometry, periodic=specimen.periodic)


@functools.partial(jax.jit, static_argnames=("num_slices", "recorded"))
def _image_slices(
    specimen, instrument, milling, cuts, border, texture, coefficients, *, num_slices, recorded
):
    _, mean = _cut(specimen, instrument, cuts, border)
    slices = len(mean)
    _, images = image_slices(
        first_scene(mean, cuts.offset_px, coefficients, periodic=specimen.periodic),
        mean,
        cuts,
        with_slices_below(milling, slices - num_slices),
        jnp.arange(slices) < num_slices,
        texture,
        coefficients,
        instrument,
        periodic=specimen.periodic,
        recorded=recorded,
    )
    images = images[:num_slices]
    return jnp.moveaxis(images, 1, 0) if recorded else images


@functools.partial(jax.jit, static_argnames="saturated")
def add_noise(
    expected: Float[Array, "channel slice y x"],
    instrument: Instrument,
    *,
    key: jax.Array,
    first: int | Array = 0,
    saturated: bool = True,
) -> Array:
    """Draw noisy grey values around the expected ones (see `fibsim.noise`), cut off at black and
    white if ``saturated``.

    The noise of a slice depends on the key and on the slice's number in the run alone: slabs of a
    run, of which ``first`` is the number of the first slice, get the noise of the whole to the bit.
    """
    white = instrument.noise.white_level[:, None, None]

    def one(inputs):
        number, mean = inputs
        own = jax.random.fold_in(key, number)
        variance, skewness = channel_noise(mean, instrument)
        if not saturated:
            return unsaturated_grey(mean, variance, skewness, key=own)
        return sample_grey(mean, variance, white, skewness, key=own)

    by_slice = jnp.moveaxis(expected, 1, 0)
    numbers = first + jnp.arange(len(by_slice), dtype=jnp.int32)
    return jnp.moveaxis(map_slices(one, (numbers, by_slice)), 0, 1)


@functools.partial(jax.jit, static_argnames=("voxel_z_nm", "layers"))
def face_layers(
    thickness_nm: Float[Array, " slice"], *, voxel_z_nm: float, layers: int
) -> tuple[Array, Array]:
    """Which layers of a specimen lie under every imaged face; see `depth_weights`.

    The layer of one voxel that begins at the face: what was milled away above it is not seen.
    """
    face = jnp.cumsum(thickness_nm) - thickness_nm
    return depth_weights(face / voxel_z_nm, layers)


@functools.partial(jax.jit, static_argnames="periodic")
def interpolate_faces(
    upper: Float[Array, "*phase slice y x"],
    lower: Float[Array, "*phase slice y x"],
    weight: Float[Array, " slice"],
    milling: Milling,
    pixel_nm: Float[Array, ""],
    *,
    periodic: bool,
) -> Float[Array, "*phase slice y x"]:
    """Fractions at faces between two layers each (`face_layers`), displaced as the images are."""

    def between(inputs):
        above, below, t = inputs
        return (1 - t) * above + t * below

    def faces(upper, lower):
        seen = map_slices(between, (upper, lower, weight))
        return jnp.clip(displace(seen, milling, pixel_nm, periodic=periodic), 0.0, 1.0)

    return jax.vmap(faces)(upper, lower) if upper.ndim == 4 else faces(upper, lower)


def true_faces(
    specimen: Specimen, instrument: Instrument, milling: Milling
) -> Float[Array, "*phase slice y x"]:
    """The specimen's fractions in the voxels under every face, displaced as the images are."""
    layers = specimen.solid.shape[-3]
    upper, weight = face_layers(
        milling.thickness_nm, voxel_z_nm=specimen.voxel_nm[0], layers=layers
    )
    both = (
        jnp.take(specimen.solid, index, axis=-3, mode="clip")
        for index in (upper, jnp.minimum(upper + 1, layers - 1))
    )
    pixel_nm = instrument.geometry.pixel_nm
    return interpolate_faces(*both, weight, milling, pixel_nm, periodic=specimen.periodic)


@functools.partial(jax.jit, static_argnames="shape")
def draw_run(
    instrument: Instrument, shape: tuple[int, int, int], *, key: jax.Array
) -> tuple[Milling, jax.Array]:
    """The faults of one recording of ``shape = (slice, y, x)``, and the key of its noise."""
    key_milling, key_noise = jax.random.split(key)
    return sample_milling(instrument, shape, key=key_milling), key_noise


def sample_stack(
    specimen: Specimen,
    instrument: Instrument,
    *,
    key: jax.Array,
    num_slices: int,
    sublayers: int = 3,
    below_slices: int = 8,
) -> Sample:
    """Draw one recording: milling faults, expected stack, noise, and the exact truth.

    Arguments and errors as for `expected_stack`; ``key`` is a typed JAX key. Each part is a
    program of its own, the one that `fibsim.sample_slabs` runs for its slabs.
    """
    check_request(specimen.solid.shape, specimen.voxel_nm, instrument, num_slices, sublayers)
    shape = (num_slices, *specimen.solid.shape[-2:])
    milling, key_noise = draw_run(instrument, shape, key=key)
    sizes = dict(num_slices=num_slices, sublayers=sublayers, below_slices=below_slices)
    expected = expected_stack(specimen, instrument, milling, **sizes)
    return Sample(
        images=add_noise(expected, instrument, key=key_noise),
        expected=expected,
        solid=true_faces(specimen, instrument, milling),
        milling=milling,
    )
