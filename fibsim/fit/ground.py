"""Whether a stack comes near dense ground, which slices see it, and how deep it lies.

Light from the floor of the pores reaches the faces above it through many slices, so the darkest
parts of the images brighten towards the stack's end. A fit whose specimens go on for ever would
take that for something else - thinner walls, more light from below - so it keeps to the slices that
do not see the ground, and the ground's depth is found afterwards: from a simulation with ground,
the darkness of a face against its height above it, laid over what was recorded.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from fibsim.threads import map_in_threads

__all__ = ["dark_levels", "ground_depth", "slices_above_ground"]

_QUANTILES = (0.05, 0.1, 0.15, 0.2)
_SMOOTH = 3  # slices
_FEWEST = 16  # slices; fewer have no middle to compare their end with
# The end must be brighter by so much of the contrast, and by so many standard deviations of the
# slices above it; what is brighter by more than the smaller numbers is left out with it.
_SEEN, _SEEN_SD = 0.06, 5.0
_FAINT, _FAINT_SD = 0.01, 1.5
# Contrast of a face that still shows pores, relative to that of the stack.
_PORES_LEFT = 0.3


def dark_levels(grey: Float[np.ndarray, "channel slice y x"]) -> Float[np.ndarray, "channel slice"]:
    """Grey value of every slice's dark parts, in units of the channel's contrast: the mean of its
    quantiles 0.05 to 0.2 over the distance of the channel's quantiles 0.05 and 0.95."""
    return _dark(grey) / _contrast(grey)[:, None]


def _dark(grey: np.ndarray) -> np.ndarray:
    flat = grey.reshape(*grey.shape[:2], -1)
    return np.quantile(flat, _QUANTILES, axis=2).mean(0)


def _contrast(grey: np.ndarray) -> np.ndarray:
    low, high = np.quantile(grey.reshape(len(grey), -1), (0.05, 0.95), axis=1)
    return np.maximum(high - low, 1e-6)


def slices_above_ground(grey: Float[np.ndarray, "channel slice y x"]) -> int:
    """How many slices, from the first on, do not see ground; all if the end looks like the rest.

    The dark parts of the last slices must be brighter in every channel, by 6 % of the contrast and
    by 5 standard deviations of what slices in the first half differ by.
    """
    slices = grey.shape[1]
    if slices < _FEWEST:
        return slices
    dark = dark_levels(grey)
    above = slice(slices // 8, slices // 2)
    # Against the whole stack's change of brightness: in the darkest channel.
    rise = np.min(dark - np.median(dark[:, above], axis=1, keepdims=True), axis=0)
    smooth = np.convolve(
        np.pad(rise, _SMOOTH // 2, mode="edge"), np.ones(_SMOOTH) / _SMOOTH, "valid"
    )
    spread = float(np.std(smooth[above]))
    if np.median(smooth[-_SMOOTH:]) < max(_SEEN, _SEEN_SD * spread):
        return slices
    faint = smooth > max(_FAINT, _FAINT_SD * spread)
    stop = slices
    while stop > slices // 3 and faint[stop - 1]:
        stop -= 1
    return stop


def _shallowest(grey: np.ndarray, above: int) -> float:
    """Least depth of the ground in slices: half a slice below the last face if that shows pores."""
    left = _contrast(grey[:, -1:]) / _contrast(grey)
    return grey.shape[1] - 0.5 if left.min() > _PORES_LEFT else above + 1.0


def ground_depth(
    grey: Float[np.ndarray, "channel slice y x"],
    above: int,
    simulate: Callable[[float, int], Float[np.ndarray, "channel slice y x"]],
    *,
    slice_nm: float,
    repeats: int = 4,
) -> float:
    """Depth of the ground below the first face in nm, of a stack whose end sees it.

    The depth g whose rise of the dark levels is nearest to the recorded one, in the sum of squares
    over channels and slices::

        D_c(k) - <D_c>_{k < above} = Q_c(g - k slice_nm)

    Q is that rise in simulated stacks against the height above the ground, relative to faces far
    above it.

    Where the last face still shows pores, the ground lies below it.

    Args:
        above: slices that do not see the ground, `slices_above_ground`.
        simulate: (depth of the ground below the first face in nm or infinite, seed) -> recording.
        repeats: simulations of every height, since few pores are seen at a time.
    """
    dark = dark_levels(grey)
    recorded = dark - dark[:, :above].mean(1, keepdims=True)
    contrast = _contrast(grey)[:, None]

    def simulated(depth_nm: float, seed: int) -> np.ndarray:
        return _dark(simulate(depth_nm, seed)) / contrast

    def rise(seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Heights above the ground, and by how much dark levels rise there in a specimen."""
        # The same specimen with and without ground: what differs is the ground alone.
        without = simulated(np.inf, seed)
        run = without.shape[1]
        needed = -(-grey.shape[1] // run) + 1
        depths = slice_nm * run * (np.arange(needed) + 1.0)
        rises = [simulated(float(depth), seed) - without for depth in depths]
        heights = [depth - slice_nm * np.arange(run) for depth in depths]
        return np.concatenate(heights), np.concatenate(rises, axis=1)

    drawn = map_in_threads(rise, range(repeats))
    heights = np.concatenate([height for height, _ in drawn])
    rises = np.concatenate([own for _, own in drawn], axis=1)
    steps = np.unique(heights)
    mean = np.stack([rises[:, heights == h].mean(1) for h in steps], axis=1)

    depths = slice_nm * np.arange(_shallowest(grey, above), 2 * grey.shape[1], 0.1)
    misfit = []
    for depth in depths:
        height = depth - slice_nm * np.arange(grey.shape[1])
        expected = np.stack([np.interp(height, steps, row, right=0.0) for row in mean])
        expected = expected - expected[:, :above].mean(1, keepdims=True)
        misfit.append(float(np.sum((recorded - expected) ** 2)))
    return float(depths[int(np.argmin(misfit))])
