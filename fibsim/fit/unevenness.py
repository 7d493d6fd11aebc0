"""How unevenly a stack was milled: the sizes of its faults, so that simulated stacks have them."""

import dataclasses

import numpy as np
from jaxtyping import Float

from fibsim.errors import InputError
from fibsim.fit.faces import central_part
from fibsim.realign import MillingEstimate, estimate_milling

__all__ = ["Unevenness", "unevenness"]

# The middle of a large stack stands for it, so that the cost does not grow with the stack.
_MOST = (64, 256, 256)
# Half of a central 95 % in standard deviations.
_NORMAL_95 = 1.96


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unevenness:
    """Sizes of milling faults, without the part of the estimate that is error.

    Attributes:
        values: by name as in `fibsim.instrument.MillingFaults`, with ``faults.`` before it.
        errors: their standard errors.
        found: whether the thickness varies more than errors of its estimate do.
    """

    values: dict[str, float]
    errors: dict[str, float]
    found: bool


def _drift(estimate: MillingEstimate) -> tuple[float, float]:
    """Standard deviation of the displacements, over both axes, and its error, in nm.

    A variance that is left of ``s^2`` after an error of ``e^2`` has been taken away is known to
    ``s^2 sqrt(2 / n)``, n being the number of displacements.
    """
    size = float(np.sqrt(np.mean(np.square(estimate.drift_sd_nm))))
    seen = size**2 + float(np.mean(estimate.drift_se_nm**2))
    of_variance = seen * np.sqrt(2 / estimate.drift_nm.size)
    return size, float(of_variance / max(2 * size, np.sqrt(of_variance)))


def unevenness(
    grey: Float[np.ndarray, "channel slice y x"],
    *,
    slice_nm: float,
    pixel_nm: float,
    tilt_deg: float | None,
) -> Unevenness | None:
    """Jitter of the thickness and drift of a stack, by `fibsim.estimate_milling`.

    None of a stack that is too small to tell, that has a slice of one grey value, or whose slices
    have nothing in common. What the images show of a walk from slice to slice counts as
    independent displacements, which differ between neighbours as much.
    """
    part = np.stack([central_part(channel, _MOST) for channel in grey])
    grid = dict(slice_nm=slice_nm, pixel_nm=pixel_nm, tilt_deg=tilt_deg)
    try:
        estimate = estimate_milling(part, **grid)
    except InputError:
        return None
    low, high = estimate.jitter_range
    drift_nm, drift_error = _drift(estimate)
    return Unevenness(
        values={"faults.thickness_sd": estimate.jitter, "faults.drift_nm": drift_nm},
        errors={
            "faults.thickness_sd": (high - low) / (2 * _NORMAL_95),
            "faults.drift_nm": drift_error,
        },
        found=low > 0,
    )
