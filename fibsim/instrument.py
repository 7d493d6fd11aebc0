"""The instrument: every number that turns a specimen into grey values, as one pytree.

Array leaves are physical parameters with their unit in the name; they can all be fitted, and a
gradient with respect to an `Instrument` is again an `Instrument`. Detector names, and the label
of the material, are static. A channel is a (voltage, detector) pair; leaves marked
``(channel,)`` have one value for each.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Float

from fibsim.errors import InputError
from fibsim.io.table_file import QUANTITIES, check_columns
from fibsim.materials import Material, check_kind

__all__ = [
    "DETECTORS",
    "DetectorResponse",
    "Geometry",
    "Instrument",
    "Interaction",
    "MillingFaults",
    "Noise",
    "allowed_range",
    "leaves_by_name",
    "replace_by_name",
    "select_channels",
    "validate_instrument",
]

DETECTORS = ("SE", "BSE")


def _static(**kwargs):
    return dataclasses.field(metadata=dict(static=True), **kwargs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where the faces lie and how the beam meets them.

    Attributes:
        pixel_nm: side of a square pixel.
        slice_nm: nominal slice thickness.
        tilt_deg: angle between beam and slice normal; positive when the beam leans towards +y as
            it goes deeper (36-38 on a 54/52 degree FIB-SEM, 0 on an orthogonal one).
    """

    pixel_nm: Float[Array, ""]
    slice_nm: Float[Array, ""]
    tilt_deg: Float[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Interaction:
    """How strongly the laws of `fibsim.interaction` act (1 = as the law says).

    Attributes:
        range_scale: multiplies the backscatter depth at every voltage.
        se_escape_nm: escape depth of secondary electrons (0.5-1.5 nm in metals, several nm in
            insulators; Seiler 1983, doi 10.1063/1.332840).
        se_by_bse: secondaries that an outgoing backscattered electron releases, relative to
            those of a beam electron (2 to 6; Reimer 1998, doi 10.1007/978-3-540-38967-5).
        edge_gain: extra emission of solid beside a pore.
        se_incidence, bse_incidence: how much more a pore's walls emit where the beam strikes
            them obliquely, in exponents of flat bulk.
        bse_facing: extra backscatter beside a wall that faces away from a tilted beam, and half
            as large a share of the secondaries.
        wall_emission: emission of a pore's wall relative to a milled face struck at the same
            angle; below 1 for rough walls.
        wall_reflection: how much of the backscatter that meets a wall goes on from there, in
            backscatter coefficients of bulk struck at 51 degrees (secant 1.6).
        wall_transparency: how much solid may stand around the way out, in half transmissions of
            the beam, for half of the electrons that walls do not reflect to pass through them.
        return_depth: depth, in mean ways through a pore, in which the ways out of a network of
            pores that bend around overhangs become fewer by a factor e.
        lateral_exit: share of the attenuation in a solid that happens in what is around, since
            backscattered electrons leave sideways as well as back along the beam.
    """

    range_scale: Float[Array, ""]
    se_escape_nm: Float[Array, ""]
    se_by_bse: Float[Array, ""]
    edge_gain: Float[Array, ""]
    se_incidence: Float[Array, ""]
    bse_incidence: Float[Array, ""]
    bse_facing: Float[Array, ""]
    wall_emission: Float[Array, ""]
    wall_reflection: Float[Array, ""]
    wall_transparency: Float[Array, ""]
    return_depth: Float[Array, ""]
    lateral_exit: Float[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorResponse:
    """From emitted electrons to grey value.

    Attributes:
        se_fraction: weight of secondaries in the signal, the rest is backscatter; (channel,).
        gain: grey values at one emitted electron per beam electron; (channel,).
        offset: grey value of darkness; (channel,).
        probe_nm: standard deviation of the Gaussian probe; (channel,).
        gamma: exponent of the signal in the grey value (`fibsim.detector.grey_value`), 1 for a
            linear detector; (channel,).
        astigmatism: how much more the probe's variance is along x than on average, relative;
            (channel,).
        astigmatism_diagonal: the same along the diagonal y = x; (channel,).
    """

    se_fraction: Float[Array, " channel"]
    gain: Float[Array, " channel"]
    offset: Float[Array, " channel"]
    probe_nm: Float[Array, " channel"]
    gamma: Float[Array, " channel"]
    astigmatism: Float[Array, " channel"]
    astigmatism_diagonal: Float[Array, " channel"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """Counting and amplifier noise.

    Attributes:
        dose_electrons: effective beam electrons per pixel (beam electrons divided by the excess
            variance of emission and detection); (channel,).
        read_grey: standard deviation of the amplifier in grey values; (channel,).
        bunching: how skew counting noise is, ``<k^3> <k> / <k^2>^2`` of the k electrons that a
            beam electron yields: 1 for Poisson statistics, 1.5 for secondaries; (channel,).
        white_level: grey value of saturation (255 for 8 bit); (channel,).
    """

    dose_electrons: Float[Array, " channel"]
    read_grey: Float[Array, " channel"]
    bunching: Float[Array, " channel"]
    white_level: Float[Array, " channel"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class MillingFaults:
    """Size of the faults of `fibsim.milling`, drawn anew for every stack.

    Attributes:
        thickness_sd: standard deviation of the slice thickness, relative to nominal.
        drift_nm: standard deviation of each image's displacement, in y and in x.
        flicker_sd: relative standard deviation of a slice's brightness.
        curtain_sd: relative standard deviation of the brightness of a curtain (columns along y).
        line_grey: standard deviation of the offset of a scan line, in grey values.
    """

    thickness_sd: Float[Array, ""]
    drift_nm: Float[Array, ""]
    flicker_sd: Float[Array, ""]
    curtain_sd: Float[Array, ""]
    line_grey: Float[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Instrument:
    """A FIB-SEM, set up for one recording.

    Attributes:
        beam_kev: beam energy; (channel,).
        solid: material of the specimen's solid, the phase that is looked for.
        other_phases: materials of the specimen's further phases. The only one of a specimen that
            is given as one solid fraction fills the pores, as resin does.
        detectors: ``"SE"`` or ``"BSE"`` for each channel, static.
    """

    beam_kev: Float[Array, " channel"]
    geometry: Geometry
    solid: Material
    interaction: Interaction
    detector: DetectorResponse
    noise: Noise
    faults: MillingFaults
    other_phases: tuple[Material, ...] = ()
    detectors: tuple[str, ...] = _static(default=("SE",))

    @property
    def num_phases(self) -> int:
        return 1 + len(self.other_phases)

    @property
    def num_channels(self) -> int:
        return len(self.detectors)


# path -> (lowest, highest allowed value); what is not listed need only be finite.
_RANGES = {
    "beam_kev": (0.1, 30.0),
    "geometry.pixel_nm": (0.1, 1000.0),
    "geometry.slice_nm": (0.5, 10000.0),
    "geometry.tilt_deg": (-80.0, 80.0),
    "solid.atomic_number": (1.0, 100.0),
    "solid.atomic_weight": (1.0, 260.0),
    "solid.density_g_cm3": (0.01, 25.0),
    "interaction.range_scale": (1e-3, 100.0),
    "interaction.se_escape_nm": (1e-2, 100.0),
    "interaction.se_by_bse": (0.0, 50.0),
    "interaction.edge_gain": (0.0, 20.0),
    "interaction.se_incidence": (0.0, 5.0),
    "interaction.bse_incidence": (0.0, 5.0),
    "interaction.bse_facing": (-20.0, 20.0),
    "interaction.wall_emission": (0.0, 5.0),
    "interaction.wall_reflection": (0.0, 10.0),
    "interaction.wall_transparency": (1e-2, 1000.0),
    "interaction.return_depth": (1e-2, 1000.0),
    "interaction.lateral_exit": (0.0, 1.0),
    "detector.se_fraction": (0.0, 1.0),
    "detector.probe_nm": (0.0, 1000.0),
    "detector.gamma": (0.6, 1.8),
    "detector.astigmatism": (-0.7, 0.7),
    "detector.astigmatism_diagonal": (-0.7, 0.7),
    "noise.dose_electrons": (1e-3, 1e9),
    "noise.read_grey": (0.0, 1e5),
    "noise.bunching": (0.0, 100.0),
    "noise.white_level": (1.0, 1e6),
    "faults.thickness_sd": (0.0, 1.0),
    "faults.drift_nm": (0.0, 1e4),
    "faults.flicker_sd": (0.0, 1.0),
    "faults.curtain_sd": (0.0, 1.0),
    "faults.line_grey": (0.0, 1e4),
}


# Nominal energies are rounded: within this of a table's ends its end values hold.
_ENERGY_SLACK = 0.02


def _check_phase(phase: Material, beam_kev: np.ndarray) -> None:
    """The kind of a solid and, if it has one, its table, which the beam energies must lie in."""
    check_kind(phase.kind, phase.name)
    if phase.table is None:
        return
    names = ("energy_kev", *QUANTITIES)
    columns = {name: np.asarray(getattr(phase.table, name)) for name in names}
    check_columns(columns, f"the interaction table of {phase.name}")
    low, high = columns["energy_kev"][0], columns["energy_kev"][-1]
    for kev in beam_kev:
        if not low * (1 - _ENERGY_SLACK) <= kev <= high * (1 + _ENERGY_SLACK):
            covered = f"only {low:g}" if low == high else f"{low:g} to {high:g}"
            raise InputError(
                f"a beam energy is {kev:g} keV but the interaction table of {phase.name} holds "
                f"{covered} keV; calibrate at energies that enclose it (fibsim calibrate "
                "--energies), or leave the channel out."
            )


def allowed_range(path: str) -> tuple[float, float]:
    """Lowest and highest allowed value of a leaf; infinite where it need only be finite.

    >>> allowed_range("detector.astigmatism")
    (-0.7, 0.7)
    """
    kind = "solid." + path.rpartition(".")[2] if path.startswith("other_phases.") else path
    return _RANGES.get(kind, (-np.inf, np.inf))


def validate_instrument(instrument: Instrument) -> None:
    """Check shapes and ranges of concrete values, and that tables cover the beam energies.

    Raises:
        InputError: naming the parameter, the value found and the range expected.
    """
    channels = len(instrument.detectors)
    if instrument.num_phases > 8:
        raise InputError(
            f"the instrument has {instrument.num_phases} phases; at most 8 are possible."
        )
    if not 1 <= channels <= 8:
        raise InputError(f"the instrument has {channels} channels; 1 to 8 are possible.")
    for name in instrument.detectors:
        if name not in DETECTORS:
            raise InputError(f"detector {name!r} is unknown; expected one of {DETECTORS}.")
    for path, value in leaves_by_name(instrument).items():
        if ".table." in path:
            continue
        array = np.asarray(value)
        per_channel = path == "beam_kev" or path.startswith(("detector.", "noise."))
        expected = (channels,) if per_channel else ()
        if array.shape != expected:
            raise InputError(
                f"instrument parameter {path} has shape {array.shape}, expected {expected}; "
                "give one number per channel where there are channels, else one number."
            )
        low, high = allowed_range(path)
        if not np.all(np.isfinite(array)) or np.any(array < low) or np.any(array > high):
            raise InputError(
                f"instrument parameter {path} is {array.tolist()}, expected {low:g} to {high:g}."
            )
    for phase in (instrument.solid, *instrument.other_phases):
        _check_phase(phase, np.asarray(instrument.beam_kev))


def _path_name(path) -> str:
    return ".".join(str(entry.idx if hasattr(entry, "idx") else entry.name) for entry in path)


def select_channels(instrument: Instrument, channels: Sequence[int]) -> Instrument:
    """The same instrument recording some of its channels, or all in another order.

    Args:
        channels: indices of the channels to record, counted from 0.

    Raises:
        InputError: no channel is named, or one that the instrument does not have.
    """
    indices = [int(c) for c in channels]
    wrong = [c for c in indices if not 0 <= c < instrument.num_channels]
    if not indices or wrong:
        raise InputError(
            f"channels {indices} were asked for, expected some of 0 to "
            f"{instrument.num_channels - 1}."
        )
    index = np.asarray(indices)
    return dataclasses.replace(
        instrument,
        beam_kev=instrument.beam_kev[index],
        detector=jax.tree.map(lambda leaf: leaf[index], instrument.detector),
        noise=jax.tree.map(lambda leaf: leaf[index], instrument.noise),
        detectors=tuple(instrument.detectors[c] for c in indices),
    )


def leaves_by_name(tree) -> dict[str, Array]:
    """Flatten a pytree of dataclasses to ``{"geometry.tilt_deg": leaf, ...}``.

    Items of tuples are counted: ``"other_phases.0.density_g_cm3"``.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_path_name(path): leaf for path, leaf in flat}


def replace_by_name(tree, values: dict[str, Array]):
    """The same pytree with the leaves named in ``values`` replaced."""
    flat, treedef = jax.tree_util.tree_flatten_with_path(tree)
    leaves = [values.get(_path_name(path), leaf) for path, leaf in flat]
    return jax.tree_util.tree_unflatten(treedef, leaves)
