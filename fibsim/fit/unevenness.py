"""How unevenly a stack was milled: its slices for a regression, the sizes of its faults for
simulated stacks."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from fibsim.errors import InputError
from fibsim.fit.faces import central_part
from fibsim.realign import MillingEstimate, estimate_milling
from fibsim.stack import Stack

__all__ = ["Unevenness", "run_as_seen", "unevenness"]

# The middle of a large stack stands for it, so that the cost does not grow with the stack.
_SLICES, _PIXELS = 64, (256, 256)
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


def _estimated(grey, most: tuple[int, int, int], grid: dict) -> MillingEstimate | None:
    part = np.stack([central_part(channel, most) for channel in grey])
    try:
        return estimate_milling(part, **grid)
    except InputError:
        return None


def run_as_seen(
    stack: Stack,
    *,
    tilt_deg: float | None,
    progress: Callable[[int, int, str], None] | None = None,
) -> MillingEstimate | None:
    """`fibsim.estimate_milling` of every slice, by the middle of large images.

    None of a stack that is too small to tell, that has a slice of one grey value, or whose slices
    have nothing in common. ``progress`` is called with (done, total, text).
    """
    grid = dict(slice_nm=stack.slice_nm, pixel_nm=stack.pixel_nm, tilt_deg=tilt_deg)
    grid["progress"] = progress
    return _estimated(stack.images, (stack.num_slices, *_PIXELS), grid)


def unevenness(
    grey: Float[np.ndarray, "channel slice y x"],
    *,
    slice_nm: float,
    pixel_nm: float,
    tilt_deg: float | None,
) -> Unevenness | None:
    """Jitter of the thickness and drift of a stack, by `fibsim.estimate_milling`.

    None where `run_as_seen` is. What the images show of a walk from slice to slice counts as
    independent displacements, which differ between neighbours as much.
    """
    grid = dict(slice_nm=slice_nm, pixel_nm=pixel_nm, tilt_deg=tilt_deg)
    estimate = _estimated(grey, (_SLICES, *_PIXELS), grid)
    if estimate is None:
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
