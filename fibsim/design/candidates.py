"""Channels that an instrument could record, from those that it was fitted to."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from fibsim.errors import InputError
from fibsim.fit.unknowns import default_unknowns, from_free, to_free
from fibsim.instrument import Instrument, leaves_by_name, replace_by_name, validate_instrument

__all__ = ["Candidate", "recording"]


@dataclasses.dataclass(frozen=True, order=True)
class Candidate:
    """A channel that might be recorded.

    Attributes:
        beam_kev: beam energy in keV.
        detector: ``"SE"`` or ``"BSE"``.
    """

    beam_kev: float
    detector: str

    def __str__(self) -> str:
        return f"{self.beam_kev:g} kV {self.detector}"


def recording(instrument: Instrument, candidates: Sequence[Candidate]) -> Instrument:
    """The same microscope with other channels.

    What belongs to a channel (gain, probe, dose ...) is interpolated over the logarithm of the
    beam energy between the fitted channels of the same detector, in the space in which a fit
    looks for it (`fibsim.fit.unknowns`), and held beyond the last. The physics of a new voltage
    comes from the material's tables, not from interpolation.

    Raises:
        InputError: a detector that the instrument does not have, or a beam energy outside the
            material's table.
    """
    unknowns = default_unknowns(tilt_known=True)
    known_kev = np.log(np.asarray(instrument.beam_kev, float))
    rows = []
    for one in candidates:
        same = [i for i, name in enumerate(instrument.detectors) if name == one.detector]
        if not same:
            raise InputError(
                f"the instrument has no {one.detector} channel, only "
                f"{', '.join(dict.fromkeys(instrument.detectors))}; fit one that was recorded with "
                "this detector, or leave it out."
            )
        order = sorted(same, key=lambda i: known_kev[i])
        at = np.interp(np.log(one.beam_kev), known_kev[order], np.arange(len(order)))
        weight = np.zeros(len(known_kev))
        low = min(int(at), len(order) - 1)
        weight[order[low]] = 1 - (at - low)
        if at > low:
            weight[order[low + 1]] = at - low
        rows.append(weight)
    weights = jnp.asarray(np.stack(rows))
    changed = {}
    for name, leaf in leaves_by_name(instrument).items():
        if not name.startswith(("detector.", "noise.")):
            continue
        # A fraction of exactly 0 or 1 or no noise at all has no place in the free space.
        free = name in unknowns and bool(jnp.all(leaf > 0)) and not name.endswith("fraction")
        changed[name] = (
            from_free(weights @ to_free(leaf, unknowns[name]), unknowns[name])
            if free
            else weights @ leaf
        )
    other = dataclasses.replace(
        instrument,
        beam_kev=jnp.asarray([one.beam_kev for one in candidates], float),
        detectors=tuple(one.detector for one in candidates),
    )
    other = replace_by_name(other, changed)
    validate_instrument(other)
    return other
