"""What a milling estimate says, in sentences."""

import numpy as np

from fibsim.realign.estimate import MillingEstimate

__all__ = ["findings"]

# A slice is worth a look if it lies further out than this many standard deviations of the rest.
_STRANGE = 4.0


def _outliers(values: np.ndarray) -> np.ndarray:
    """Indices further from the median than ``_STRANGE`` robust standard deviations."""
    deviation = np.abs(values - np.median(values))
    spread = np.median(deviation) / 0.6745
    return np.nonzero(deviation > max(_STRANGE * spread, 1e-9))[0]


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def findings(estimate: MillingEstimate) -> list[str]:
    """Sizes of the faults with their errors, and the slices that are worth a look."""
    nominal, pixel = estimate.slice_nm, estimate.pixel_nm
    low, high = (100 * v for v in estimate.jitter_range)
    error = 100 * _rms(estimate.thickness_se_nm[:-1]) / nominal
    size = f"thickness jitter {100 * estimate.jitter:.1f} % of {nominal:g} nm (95 %: {low:.0f} to "
    size += f"{high:.0f} %; errors not counted)"
    if low == 0:
        size += ", which may be none"
    lines = [f"{size}; the thickness of a slice is known to {error:.1f} %"]
    drift, drift_error = estimate.drift_nm / pixel, estimate.drift_se_nm / pixel
    lines.append(
        f"drift {_rms(drift[:, 0]):.2f} pixels rms along y and {_rms(drift[:, 1]):.2f} along x, "
        f"known to {_rms(drift_error[:, 0]):.2f} and {_rms(drift_error[:, 1]):.2f}; its mean and "
        "its trend along y cannot be told from images"
    )
    if len(estimate.channel_drift_nm) > 1:
        between, known = (
            _rms(values) / pixel
            for values in (estimate.channel_drift_nm, estimate.channel_drift_se_nm)
        )
        lines.append(f"drift between channels {between:.3f} pixels rms, known to {known:.3f}")
    flicker = 100 * (estimate.brightness - 1).std(axis=1)
    lines.append(
        f"brightness flicker {', '.join(f'{v:.1f}' for v in flicker)} % per channel, of which "
        "what the slices show makes about 1"
    )
    for k in _outliers(estimate.thickness_nm[:-1]):
        lines.append(
            f"look at slices {k} and {k + 1}: {estimate.thickness_nm[k]:.1f} nm lie between them"
        )
    jumps = np.linalg.norm(np.diff(drift, axis=0), axis=1)
    for k in _outliers(jumps):
        if jumps[k] > max(1.0, np.median(jumps)):
            lines.append(f"look at slice {k + 1}: displaced by {jumps[k]:.1f} pixels at once")
    return lines
