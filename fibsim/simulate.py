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
from fibsim.instrument import Instrument
from fibsim.layers import lean_layers, phase_shares, plan_cuts, slices_of_steps, texture_of
from fibsim.milling import Milling, displace, nominal_milling, sample_milling
from fibsim.noise import noise_variance, sample_grey
from fibsim.resample import average_depth, sample_depth
from fibsim.specimens.specimen import Specimen, phase_fractions

__all__ = [
    "Sample",
    "add_noise",
    "check_request",
    "default_sublayers",
    "expected_stack",
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
        solid: solid fraction at every imaged face, on the images' grid; ``(slice, y, x)``, or
            with the phases of the specimen first.
        milling: the faults that were drawn.
    """

    images: Float[Array, "channel slice y x"]
    expected: Float[Array, "channel slice y x"]
    solid: Float[Array, "*phase slice y x"]
    milling: Milling


def default_sublayers(slice_nm: float, pixel_nm: float) -> int:
    """Sub-layers per slice: no thicker than a pixel is wide, 2 to 8 of them."""
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
    check_request(specimen.solid.shape, specimen.voxel_nm, instrument, num_slices, sublayers)
    if milling is None:
        milling = nominal_milling(instrument, (num_slices, *specimen.solid.shape[-2:]))
    sizes = dict(num_slices=num_slices, sublayers=sublayers, below_slices=below_slices)
    # Apart, as in slabs: in one program the compiler would round the texture's numbers differently.
    texture = _texture(specimen, instrument, milling, **sizes)
    return _expected_stack(specimen, instrument, milling, texture, **sizes)


_SIZES = ("num_slices", "sublayers", "below_slices")


def _cut(specimen, instrument, milling, *, num_slices, sublayers, below_slices):
    """The specimen's phases, cuts, and means over sub-layers ``(slice, phase, sublayer, y, x)``."""
    phases = phase_fractions(specimen, instrument.num_phases)
    cuts = plan_cuts(
        milling.thickness_nm,
        instrument.geometry,
        sublayers=sublayers,
        below=slices_of_steps(below_slices),
    )
    borders = cuts.border_nm / specimen.voxel_nm[0]
    mean = jax.vmap(average_depth, in_axes=(0, None))(phases, borders)
    count, _, *lateral = mean.shape
    slices = num_slices + below_slices
    return phases, cuts, jnp.moveaxis(mean.reshape(count, slices, sublayers, *lateral), 1, 0)


@functools.partial(jax.jit, static_argnames=_SIZES)
def _texture(specimen, instrument, milling, **sizes):
    phases, cuts, mean = _cut(specimen, instrument, milling, **sizes)
    shares = phase_shares(mean, cuts.offset_px, periodic=specimen.periodic)
    return texture_of(phases, shares, instrument.geometry, periodic=specimen.periodic)


@functools.partial(jax.jit, static_argnames=_SIZES)
def _expected_stack(specimen, instrument, milling, texture, *, num_slices, sublayers, below_slices):
    _, cuts, mean = _cut(
        specimen,
        instrument,
        milling,
        num_slices=num_slices,
        sublayers=sublayers,
        below_slices=below_slices,
    )
    periodic = specimen.periodic
    deepest = lean_layers(mean[-1, :, -1:], cuts.offset_px[-1, -1:], periodic=periodic)[:, 0]
    _, grey = image_slices(
        first_scene(deepest, instrument),
        mean,
        cuts,
        with_slices_below(milling, below_slices),
        jnp.arange(num_slices + below_slices) < num_slices,
        texture,
        instrument,
        periodic=periodic,
    )
    return jnp.moveaxis(grey[:num_slices], 1, 0)


def add_noise(
    expected: Float[Array, "channel slice y x"], instrument: Instrument, *, key: jax.Array
) -> Array:
    """Draw noisy, saturated grey values around the expected ones (see `fibsim.noise`)."""
    each = [None] * 3

    def spread(leaf):
        return leaf[(slice(None), *each)]

    detector, noise = instrument.detector, instrument.noise
    variance = noise_variance(
        expected,
        gain=spread(detector.gain),
        offset=spread(detector.offset),
        dose_electrons=spread(noise.dose_electrons),
        read_grey=spread(noise.read_grey),
        gamma=spread(detector.gamma),
    )
    return sample_grey(expected, variance, spread(noise.white_level), key=key)


def true_faces(
    specimen: Specimen, instrument: Instrument, milling: Milling
) -> Float[Array, "*phase slice y x"]:
    """The specimen's fractions at every imaged face, displaced as the images are."""
    face = jnp.cumsum(milling.thickness_nm) - milling.thickness_nm

    def faces(fraction):
        seen = sample_depth(fraction, face / specimen.voxel_nm[0] - 0.5)
        pixel_nm, periodic = instrument.geometry.pixel_nm, specimen.periodic
        return jnp.clip(displace(seen, milling, pixel_nm, periodic=periodic), 0.0, 1.0)

    return jax.vmap(faces)(specimen.solid) if specimen.solid.ndim == 4 else faces(specimen.solid)


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

    Arguments and errors as for `expected_stack`; ``key`` is a typed JAX key.
    """
    check_request(specimen.solid.shape, specimen.voxel_nm, instrument, num_slices, sublayers)
    return _sample_stack(
        specimen,
        instrument,
        key=key,
        num_slices=num_slices,
        sublayers=sublayers,
        below_slices=below_slices,
    )


@functools.partial(jax.jit, static_argnames=("num_slices", "sublayers", "below_slices"))
def _sample_stack(specimen, instrument, *, key, num_slices, sublayers, below_slices):
    key_milling, key_noise = jax.random.split(key)
    shape = (num_slices, *specimen.solid.shape[-2:])
    milling = sample_milling(instrument, shape, key=key_milling)
    sizes = dict(num_slices=num_slices, sublayers=sublayers, below_slices=below_slices)
    texture = _texture(specimen, instrument, milling, **sizes)
    expected = _expected_stack(specimen, instrument, milling, texture, **sizes)
    return Sample(
        images=add_noise(expected, instrument, key=key_noise),
        expected=expected,
        solid=true_faces(specimen, instrument, milling),
        milling=milling,
    )
