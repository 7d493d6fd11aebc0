"""Milling recovered from the recorded images alone: no labels, no fitted instrument."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from fibsim.errors import InputError, counted
from fibsim.realign.brightness import relative_brightness
from fibsim.realign.channels import channel_displacements
from fibsim.realign.coarse import coarse_displacements, displacement_sizes, likeness
from fibsim.realign.drift import without_lean
from fibsim.realign.features import bin_pixels, binning_for, bright_contrast, local_contrast
from fibsim.realign.posterior import combine
from fibsim.realign.tiles import cut_tiles
from fibsim.realign.window import STEPS, Unknowns, solve_window

__all__ = ["MillingEstimate", "check_images", "estimate_milling"]

_FEWEST_SLICES, _SMALLEST_SIDE = 8, 48
# Longer stacks are solved in windows of this many slices, which share some with the next.
_WINDOW, _SHARED = 64, 12
# Noise has 0.8 to 1.22 (8 slices of 48 pixels, the least), recordings as small 1.4 and more.
_LEAST_LIKENESS = 1.3
_NOTHING_TO_FOLLOW = (
    "the images show no structure that could be followed from slice to slice; give consecutive "
    "slices of a specimen, of more than noise."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MillingEstimate:
    """Where the faces of a stack lie, as its images tell.

    The conventions are those of `fibsim.Milling`: ``thickness_nm[k]`` lies between face k and
    face k + 1 (nothing is known of the last one, which is nominal), and a scene displaced by +d
    shows at ``y + d`` what was at y.

    What images cannot tell is fixed by convention: the mean thickness is nominal, the mean drift
    is zero, and so is the trend of the drift along y, since a constant drift per slice looks as
    the lean of a tilted beam does.

    Attributes:
        thickness_nm, thickness_se_nm: estimate and standard error; ``(slice,)``.
        drift_nm, drift_se_nm: displacement (y, x) of each image; ``(slice, 2)``.
        drift_sd_nm: standard deviation (y, x) of independent displacements that differ from slice
            to slice as much as those of the run, without the estimate's error; ``(2,)``.
        channel_drift_nm: displacement of each channel beside that, against the mean over
            channels and over slices; ``(channel, slice, 2)``.
        channel_drift_se_nm: its standard error along y and x; the same for all.
        brightness: factor on the signal against its smooth trend; ``(channel, slice)``.
        jitter: standard deviation of the thickness over nominal, without the estimate's error.
        jitter_range: its central 95 %.
        slice_nm, pixel_nm: nominal voxel.
        tilt_deg: between beam and slice normal, as given or as guessed from the images.
    """

    thickness_nm: Float[np.ndarray, " slice"]
    thickness_se_nm: Float[np.ndarray, " slice"]
    drift_nm: Float[np.ndarray, "slice 2"]
    drift_se_nm: Float[np.ndarray, "slice 2"]
    drift_sd_nm: Float[np.ndarray, " 2"]
    channel_drift_nm: Float[np.ndarray, "channel slice 2"]
    channel_drift_se_nm: Float[np.ndarray, " 2"]
    brightness: Float[np.ndarray, "channel slice"]
    jitter: float
    jitter_range: tuple[float, float]
    slice_nm: float
    pixel_nm: float
    tilt_deg: float

    @property
    def position_nm(self) -> Float[np.ndarray, " slice"]:
        """Depth of every face below the first."""
        return np.concatenate([[0.0], np.cumsum(self.thickness_nm[:-1])])


def check_images(
    images: np.ndarray,
    *,
    slice_nm: float,
    pixel_nm: float,
    tilt_deg: float | None = None,
    channels: Sequence[str] = (),
) -> None:
    """Raise an `InputError` if `estimate_milling` could do nothing with a stack.

    Arguments as there; ``channels`` are names to call the channels by.
    """
    if images.ndim != 4:
        raise InputError(f"images have shape {images.shape}, expected (channel, slice, y, x).")
    _, slices, y, x = images.shape
    if slices < _FEWEST_SLICES:
        raise InputError(
            f"the stack has {counted(slices, 'slice')}; at least {_FEWEST_SLICES} are needed to "
            "tell how alike slices should be."
        )
    if min(y, x) < _SMALLEST_SIDE:
        raise InputError(
            f"the images have {x} x {y} pixels; at least {_SMALLEST_SIDE} along either side are "
            "needed to compare structure from slice to slice."
        )
    for name, value in (("slice_nm", slice_nm), ("pixel_nm", pixel_nm)):
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}, expected a positive length in nm.")
    if tilt_deg is not None and not -80 <= tilt_deg <= 80:
        raise InputError(f"tilt_deg is {tilt_deg}, expected -80 to 80 degrees.")
    if not np.issubdtype(images.dtype, np.number) or np.iscomplexobj(images):
        raise InputError(f"images have dtype {images.dtype}, expected real numbers.")
    for c, channel in enumerate(images):
        name = (channels[c] if channels else "") or f"number {c}"
        if not np.all(np.isfinite(channel)):
            raise InputError(
                f"channel {name} holds values that are not finite; replace them by numbers first."
            )
        flat = np.nonzero(np.ptp(channel.reshape(slices, -1), axis=1) == 0)[0]
        if len(flat):
            raise InputError(
                f"slice {flat[0]} of channel {name} has one grey value everywhere; leave the "
                "channel or the slice out."
            )


def _windows(slices: int) -> list[tuple[int, int]]:
    """First slice and end of every window, all of about equal length."""
    count = max(math.ceil((slices - _SHARED) / (_WINDOW - _SHARED)), 1)
    edges = np.linspace(0, slices - _SHARED, count + 1).round().astype(int)
    return [(int(a), int(b) + _SHARED) for a, b in itertools.pairwise(edges)]


# Matrices of a window's slices, thousands of them: BLAS threads would spend their time waiting for
# each other, most of all beside another program.
@threadpool_limits.wrap(limits=1, user_api="blas")
def estimate_milling(
    images: Float[np.ndarray, "channel slice y x"],
    *,
    slice_nm: float,
    pixel_nm: float,
    tilt_deg: float | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> MillingEstimate:
    """Estimate the thickness, drift and brightness of every slice from a recorded stack.

    Slices at depths z_k, displaced by d_k, are taken for a Gaussian process along z in every
    bin of spatial frequencies q, of one covariance for the whole window of slices:

        <u_j(q) u_k(q)*> = exp(-i q (d_j - d_k)) K_q(z_j - z_k)

    K comes from the stack's own power spectrum along z: how alike slices are at a distance, and
    how what lies deep moves with the lean of the beam (Sporring et al. 2014,
    Ambegoda et al. 2017, arXiv:2002.00228, and Hanslovsky, Bogovic & Saalfeld 2017, doi
    10.1093/bioinformatics/btw794, do so with one curve of correlation over distance; here there
    is one for every spatial frequency, with its phase). Depths and displacements are those of
    highest likelihood (`fibsim.realign.window`), shrunk by the share of error in them
    (`fibsim.realign.posterior`). What is compared is the local contrast of the brighter half of an
    image (`fibsim.realign.features`); standard errors follow from the scatter between its parts.

    Args:
        images: grey values of any scale, slice 0 milled first.
        slice_nm: nominal thickness, the mean of the result.
        pixel_nm: side of a pixel.
        tilt_deg: angle between beam and slice normal; guessed from the images if not given.
        progress: called with (done, total, text) as the work goes on.

    Raises:
        InputError: fewer than 8 slices or 48 pixels, a constant slice, values out of range, or
            images that have nothing in common.
    """
    images = np.asarray(images)
    check_images(images, slice_nm=slice_nm, pixel_nm=pixel_nm, tilt_deg=tilt_deg)
    try:
        return _estimate(images, slice_nm, pixel_nm, tilt_deg, progress)
    except np.linalg.LinAlgError as error:
        raise InputError(_NOTHING_TO_FOLLOW) from error


def _estimate(
    images: np.ndarray,
    slice_nm: float,
    pixel_nm: float,
    tilt_deg: float | None,
    progress: Callable[[int, int, str], None] | None,
) -> MillingEstimate:
    from fibsim.fit.first_guess import guess_feature_nm, guess_tilt_deg

    count, slices = images.shape[:2]
    if tilt_deg is None:
        tilt_deg = guess_tilt_deg(images.astype(np.float32), pixel_nm, slice_nm)
    factor = binning_for(guess_feature_nm(images[:1].astype(np.float32), pixel_nm) / pixel_nm)
    factor = min(factor, min(images.shape[2:]) // _SMALLEST_SIDE)
    binned = [bin_pixels(channel.astype(np.float32), factor) for channel in images]
    pixel = factor * pixel_nm
    lean_px = slice_nm * math.tan(math.radians(tilt_deg)) / pixel

    everything = np.stack([local_contrast(channel) for channel in binned])
    channel_px, channel_error = np.zeros((count, slices, 2)), np.zeros(2)
    if count > 1:
        tiles = cut_tiles(everything, np.zeros((slices, 2), int), halves=2)
        channel_px, channel_error = channel_displacements(everything, tiles)
    if likeness(everything) < _LEAST_LIKENESS:
        raise InputError(_NOTHING_TO_FOLLOW)
    coarse_px = coarse_displacements(everything)
    start_px, size = displacement_sizes(coarse_px)
    bright = np.stack([bright_contrast(channel) for channel in binned])
    solutions = []
    windows = _windows(slices)
    total = STEPS * len(windows)
    done = itertools.count(1)
    for first, end in windows:
        part = slice(first, end)

        def report(text=f"slices {first} to {end - 1}"):
            if progress is not None:
                progress(next(done), total, text)

        local = without_lean(start_px[part])
        solution = solve_window(
            bright[:, part], local, size, lean_px, channel_px[:, part], progress=report
        )
        solutions.append((first, solution))
    found = combine(solutions, slices)
    unknowns = Unknowns(slices)
    thickness, drift = unknowns.split(found.value)
    thickness_se, drift_se = unknowns.split(found.error)
    return MillingEstimate(
        thickness_nm=slice_nm * np.append(1 + thickness, 1.0),
        thickness_se_nm=slice_nm * np.append(thickness_se, found.jitter),
        drift_nm=pixel * drift,
        drift_se_nm=pixel * drift_se,
        drift_sd_nm=pixel * np.asarray([size.local_px for size in found.drift]),
        channel_drift_nm=pixel * channel_px,
        channel_drift_se_nm=pixel * channel_error,
        brightness=relative_brightness(images),
        jitter=found.jitter,
        jitter_range=found.jitter_range,
        slice_nm=float(slice_nm),
        pixel_nm=float(pixel_nm),
        tilt_deg=float(tilt_deg),
    )
