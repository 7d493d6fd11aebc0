"""Instruments with textbook values: where every fit and every first simulation starts."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from fibsim.errors import InputError
from fibsim.instrument import (
    DetectorResponse,
    Geometry,
    Instrument,
    Interaction,
    MillingFaults,
    Noise,
    validate_instrument,
)
from fibsim.interaction import face_signal
from fibsim.material_file import named_material
from fibsim.materials import DEFAULT_SOLID, Material, se_escape_nm

__all__ = ["PRESETS", "make_instrument", "preset"]

# Escape depth in the recurrence over the attenuation length of secondaries: many leave obliquely.
# It and the numbers of `Interaction` below are calibrated on our own Monte Carlo
# (experiments/specimen_fidelity.py).
_ESCAPE = 0.72


def make_instrument(
    *,
    beam_kev: Sequence[float],
    detectors: Sequence[str] | str | None = None,
    pixel_nm: float = 4.0,
    slice_nm: float = 10.0,
    tilt_deg: float = 38.0,
    solid: str | Material = DEFAULT_SOLID,
    other_phases: Sequence[str | Material] = (),
    white_level: float = 255.0,
) -> Instrument:
    """An instrument with textbook values, the start of every fit.

    ``tilt_deg`` is 38 on a machine whose beams stand 52 degrees apart, 36 for 54 degrees, 0 for
    an orthogonal one. Gain and offset put bulk solid at 70 % and darkness at 10 % of white.

    Args:
        beam_kev: beam energies, 1 to 8 of them, 0.1 to 30 keV.
        detectors: ``"SE"`` or ``"BSE"`` per channel, or one for all; SE if not given.
        solid: material of the solid: by name, by the path of an ``.npz`` that ``fibsim calibrate``
            wrote, or as `Material`.
        other_phases: materials beside it, see `Instrument`; ``("resin",)`` is a specimen whose
            pores are infiltrated.

    Raises:
        InputError: a value is outside its range (see `validate_instrument`), or a material is
            unknown, its file bad or made for other beam energies.
    """
    try:
        energies = np.atleast_1d(np.asarray(beam_kev, float))
    except (TypeError, ValueError) as error:
        raise InputError(f"beam_kev is {beam_kev!r}, expected numbers in keV.") from error
    if detectors is None or isinstance(detectors, str):
        detectors = (detectors or "SE",) * len(energies)
    names = tuple(detectors)
    if len(names) != len(energies):
        raise InputError(
            f"{len(energies)} beam energies but {len(names)} detectors were given; "
            "give one detector per energy."
        )

    def scalar(value):
        return jnp.asarray(value, float)

    def each(value):
        return jnp.full(len(energies), value, float)

    def known(phase: str | Material) -> Material:
        return named_material(phase) if isinstance(phase, str) else phase

    solid = known(solid)
    se_fraction = jnp.asarray([0.95 if n == "SE" else 0.0 for n in names], float)
    instrument = Instrument(
        beam_kev=jnp.asarray(energies, float),
        detectors=names,
        geometry=Geometry(
            pixel_nm=scalar(pixel_nm), slice_nm=scalar(slice_nm), tilt_deg=scalar(tilt_deg)
        ),
        solid=solid,
        other_phases=tuple(known(phase) for phase in other_phases),
        interaction=Interaction(
            range_scale=scalar(0.77),
            se_escape_nm=scalar(_ESCAPE * se_escape_nm(solid)),
            se_by_bse=scalar(2.8),
            edge_gain=scalar(0.34),
            se_incidence=scalar(0.54),
            bse_incidence=scalar(0.063),
            bse_facing=scalar(0.6),
            wall_emission=scalar(0.96),
            wall_reflection=scalar(1.1),
            wall_transparency=scalar(0.16),
            return_depth=scalar(0.48),
            lateral_exit=scalar(0.34),
        ),
        detector=DetectorResponse(
            se_fraction=se_fraction,
            gain=each(1.0),
            offset=each(0.1 * white_level),
            probe_nm=each(1.5),
            gamma=each(1.0),
            astigmatism=each(0.0),
            astigmatism_diagonal=each(0.0),
        ),
        noise=Noise(
            dose_electrons=each(60.0),
            read_grey=each(2.0),
            bunching=1.0 + 0.5 * se_fraction,
            white_level=each(white_level),
        ),
        faults=MillingFaults(
            thickness_sd=scalar(0.0),
            drift_nm=scalar(0.0),
            flicker_sd=scalar(0.0),
            curtain_sd=scalar(0.0),
            line_grey=scalar(0.0),
        ),
    )
    validate_instrument(instrument)
    gain = 0.6 * white_level / face_signal(instrument)
    detector = dataclasses.replace(instrument.detector, gain=gain)
    return dataclasses.replace(instrument, detector=detector)


# name -> what differs from `make_instrument`'s defaults. The tilt is 90 degrees minus the angle
# between the two columns, because the milled face contains the ion beam.
PRESETS: dict[str, dict] = {
    "tilted52": dict(tilt_deg=38.0),
    "tilted54": dict(tilt_deg=36.0),
    "orthogonal": dict(tilt_deg=0.0),
}


def preset(name: str, **changes) -> Instrument:
    """One of `PRESETS`, with any argument of `make_instrument` changed.

    Raises:
        InputError: the name is not a preset.
    """
    if name not in PRESETS:
        raise InputError(f"instrument preset {name!r} is unknown; expected one of {list(PRESETS)}.")
    return make_instrument(**{"beam_kev": (1.0, 2.0, 5.0), **PRESETS[name], **changes})
