"""Which of the electrons that leave the specimen a detector counts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fibsim.errors import InputError

__all__ = ["KINDS", "Detector", "Windows", "detector", "detector_windows"]

KINDS = ("SE", "BSE", "transmitted")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detector:
    """Electrons of one kind within windows of energy, angle and depth.

    Attributes:
        kind: ``"SE"`` (secondaries), ``"BSE"`` (beam electrons that come back above 50 eV) or
            ``"transmitted"`` (beam electrons that leave below); with fast secondaries, these too.
        energy: lowest and highest energy as a fraction of the beam's (secondaries have none).
        angle_deg: smallest and largest angle to the column's axis, 0 = back up the beam.
        depth_nm: counts only electrons that never went deeper below the face.
    """

    kind: str
    energy: tuple[float, float] = (0.0, 1.0)
    angle_deg: tuple[float, float] = (0.0, 180.0)
    depth_nm: float = float("inf")


# In-lens and energy-selective detectors collect what leaves near the axis (Reimer 1998,
# doi 10.1007/978-3-540-38967-5); windows of real ones vary, so these are starting points.
_NAMED = {
    "SE": Detector(kind="SE"),
    "BSE": Detector(kind="BSE"),
    "InLens": Detector(kind="SE", angle_deg=(0.0, 45.0)),
    "ESB": Detector(kind="BSE", energy=(0.8, 1.0), angle_deg=(0.0, 30.0)),
    "BSE-high-angle": Detector(kind="BSE", angle_deg=(0.0, 30.0)),
    "BSE-low-angle": Detector(kind="BSE", angle_deg=(30.0, 90.0)),
    "transmitted": Detector(kind="transmitted"),
}


def detector(name: str) -> Detector:
    """A detector by name: SE, BSE, InLens, ESB, BSE-high-angle, BSE-low-angle, transmitted.

    Raises:
        InputError: the name is unknown.
    """
    if name not in _NAMED:
        raise InputError(f"detector {name!r} is unknown; expected one of {', '.join(_NAMED)}.")
    return _NAMED[name]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
    """Detectors as arrays for the kernel; energies in keV, angles as cosines."""

    kind: Int[Array, " detector"]
    energy_low: Float[Array, " detector"]
    energy_high: Float[Array, " detector"]
    cos_low: Float[Array, " detector"]
    cos_high: Float[Array, " detector"]
    depth_nm: Float[Array, " detector"]

    def counts(self, kind: Array | int, energy: Array, cosine: Array, depth: Array) -> Array:
        """1 for every (detector, lane) whose electron is counted."""
        column = (slice(None), None)
        return (
            (self.kind[column] == kind)
            & (energy >= self.energy_low[column])
            & (energy <= self.energy_high[column])
            & (cosine >= self.cos_low[column])
            & (cosine <= self.cos_high[column])
            & (depth <= self.depth_nm[column])
        ).astype(jnp.float32)


def detector_windows(detectors: tuple[Detector, ...], beam_kev: float) -> Windows:
    """Arrays of the given detectors at a beam energy.

    Raises:
        InputError: none given, unknown kind, or an empty window.
    """
    if not detectors:
        raise InputError("no detector was given; give at least one.")
    for d in detectors:
        if d.kind not in KINDS:
            raise InputError(f"detector kind {d.kind!r} is unknown; expected one of {KINDS}.")
        if not d.energy[0] < d.energy[1] or not d.angle_deg[0] < d.angle_deg[1]:
            raise InputError(f"{d} has an empty window; give (low, high) with low below high.")

    def column(values):
        return jnp.asarray(np.asarray(list(values), np.float32))

    se = [d.kind == "SE" for d in detectors]
    # A little slack keeps electrons that lost nothing, or fly exactly along the axis.
    return Windows(
        kind=jnp.asarray([KINDS.index(d.kind) for d in detectors]),
        energy_low=column(
            0 if s else d.energy[0] * beam_kev * 0.99999 for s, d in zip(se, detectors, strict=True)
        ),
        energy_high=column(
            np.inf if s else d.energy[1] * beam_kev * 1.00001
            for s, d in zip(se, detectors, strict=True)
        ),
        cos_low=column(np.cos(np.deg2rad(d.angle_deg[1])) - 1e-6 for d in detectors),
        cos_high=column(np.cos(np.deg2rad(d.angle_deg[0])) + 1e-6 for d in detectors),
        depth_nm=column(d.depth_nm for d in detectors),
    )
