"""Which of two voltages sees deeper, told from the images alone, and statements that this denies.

Light of what lies beneath a face reaches a beam of high energy before the face is milled. So the
images of the deeper channel, ``a``, resemble the next slices of the other, ``b``, more than these
resemble the next slices of ``a``. With ``u`` the local contrast of unit variance, the share of the
likeness that goes one way only is ::

    A = sum_ksd w_ks(d) [R_ab(d) - R_ba(d)] / sum_ksd w_ks(d) [R_ab(d) + R_ba(d)],
    R_ab(d) = <u_a,k(r) u_b,k+s(r + d)>_r,

``s`` being one to three slices, and ``w_ks`` the part of the bracket below, about the displacement
``d`` where it is largest, that exceeds half of that: so neither drift nor lean has to be known.
Contrast, brightness, noise (which two slices do not share) and blur leave A at 0 where both see
equally deep. Its error is the scatter between blocks of four slices and a quarter of the image.
"""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Complex, Float

from fibsim.electrons import kanaya_okayama_range_nm
from fibsim.material_file import named_material
from fibsim.materials import DEFAULT_SOLID
from fibsim.stack import Stack

__all__ = ["DepthOrder", "depth_order_warnings", "depth_orders"]

# Local contrast: a difference of Gaussians, standard deviations in pixels.
_FINE_PX, _COARSE_PX = 1.0, 6.0
_STEPS = (1, 2, 3)
_REACH_PX = 8
_BLOCK = 4  # slices whose values are far from independent
_TILES = 2  # along y and along x
# What is looked at of a large stack: enough for errors far below any A that matters.
_MOST_SLICES, _MOST_PX = 24, 512
_FEWEST_SLICES, _FEWEST_PX = 8, 48
# Voltages nearer to each other than this factor see nearly equally deep. Where even the lower one
# sees through many slices (polymers from 2 keV on), it may resemble the next ones more
# (experiments/depth_order.py).
_APART = 1.2
_DEEPEST_SLICES = 6.0
# Errors come of few blocks, so they must be exceeded by far.
_SURE = 6.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DepthOrder:
    """Which of two channels of one detector sees deeper.

    Attributes:
        lower, higher: indices of the channel of lower and of higher stated voltage.
        share: A of the module's docstring, positive if ``higher`` sees deeper as it should.
        error: its standard error.
    """

    lower: int
    higher: int
    share: float
    error: float

    @property
    def sure(self) -> bool:
        """Whether the images tell the two apart, one way or the other."""
        return abs(self.share) > _SURE * self.error

    @property
    def denied(self) -> bool:
        """Whether the channel of lower stated voltage sees deeper."""
        return self.sure and self.share < 0


def _tiles(images: np.ndarray) -> Float[np.ndarray, "tile slice y x"]:
    """Local contrast of the tiles of the middle of a channel, unit variance per image."""
    from scipy.ndimage import gaussian_filter

    slices = images.shape[0]
    first = max(slices - _MOST_SLICES, 0) // 2
    cut = [slice(first, first + _MOST_SLICES)]
    for size in images.shape[1:]:
        side = min(size, _MOST_PX) // _TILES * _TILES
        start = (size - side) // 2
        cut.append(slice(start, start + side))
    grey = images[tuple(cut)].astype(np.float32)
    grey = gaussian_filter(grey, (0, _FINE_PX, _FINE_PX)) - gaussian_filter(
        grey, (0, _COARSE_PX, _COARSE_PX)
    )
    y, x = (size // _TILES for size in grey.shape[1:])
    parts = grey.reshape(-1, _TILES, y, _TILES, x).transpose(1, 3, 0, 2, 4)
    parts = parts.reshape(_TILES**2, -1, y, x)
    parts = parts - parts.mean((-2, -1), keepdims=True)
    return parts / np.maximum(parts.std((-2, -1), keepdims=True), 1e-6)


def _ways(
    one: Complex[np.ndarray, "tile slice y f"],
    other: Complex[np.ndarray, "tile slice y f"],
    sides: tuple[int, int],
    step: int,
) -> tuple[Float[np.ndarray, "tile pair"], Float[np.ndarray, "tile pair"]]:
    """Weighted difference and sum of ``one`` before ``other`` and ``other`` before ``one``."""

    def correlation(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        product = np.conj(before[:, :-step]) * after[:, step:]
        return np.fft.irfft2(product, sides) / np.prod(sides)

    ahead, behind = correlation(one, other), correlation(other, one)
    both = ahead + behind
    tiles, pairs = both.shape[:2]
    top = np.unravel_index(both.reshape(tiles, pairs, -1).argmax(-1), sides)
    reach = np.arange(-_REACH_PX, _REACH_PX + 1)
    rows, columns = ((t[..., None] + reach) % size for t, size in zip(top, sides, strict=True))
    near = (
        np.arange(tiles)[:, None, None, None],
        np.arange(pairs)[:, None, None],
        rows[..., :, None],
        columns[..., None, :],
    )
    alike = both[near]
    weight = np.maximum(alike - 0.5 * alike.max((-2, -1), keepdims=True), 0)
    one_way = weight * (ahead - behind)[near]
    return one_way.sum((-2, -1)), (weight * alike).sum((-2, -1))


def _share(higher: np.ndarray, lower: np.ndarray) -> tuple[float, float]:
    """A of the channel ``higher`` before the other, and its error; from their tiles."""
    sides = higher.shape[2:]
    spectra = np.fft.rfft2(higher), np.fft.rfft2(lower)
    tiles, slices = higher.shape[:2]
    one_way, both = np.zeros((tiles, slices)), np.zeros((tiles, slices))
    for step in _STEPS:
        for total, part in zip((one_way, both), _ways(*spectra, sides, step), strict=True):
            total[:, : slices - step] += part
    starts = np.arange(0, slices - 1, _BLOCK)
    if len(starts) > 1 and slices - 1 - starts[-1] < _BLOCK // 2:
        starts = starts[:-1]  # what is too short joins the block before
    one_way, both = (np.add.reduceat(v, starts, axis=1).ravel() for v in (one_way, both))
    if not both.sum() > 0:  # nothing to be seen in one of them
        return 0.0, np.inf
    share = float(one_way.sum() / both.sum())
    scatter = np.sum((one_way - share * both) ** 2) * len(both) / (len(both) - 1)
    return share, float(np.sqrt(scatter) / both.sum())


def depth_orders(stack: Stack) -> list[DepthOrder]:
    """Which sees deeper, of every pair of channels of one detector that the images can tell of.

    Pairs whose voltages differ by less than a fifth are left out, and those whose lower one has a
    range (Kanaya & Okayama 1972) of six slices and more; the stack's material is taken for gold
    where nothing states it. Stacks of fewer than 8 slices or images smaller than 48 pixels tell
    nothing. Of large ones the middle 24 slices of 512 x 512 pixels are looked at.
    """
    sizes = stack.images.shape[1:]
    if sizes[0] < _FEWEST_SLICES or min(sizes[1:]) < _FEWEST_PX:
        return []
    solid = named_material(stack.material or DEFAULT_SOLID)
    pairs = []
    for pair in itertools.permutations(range(stack.num_channels), 2):
        lower, higher = (stack.channels[i] for i in pair)
        apart = higher.beam_kev > _APART * lower.beam_kev
        if apart and lower.detector == higher.detector:
            range_nm = float(kanaya_okayama_range_nm(np.float32(lower.beam_kev), solid))
            if range_nm < _DEEPEST_SLICES * stack.slice_nm:
                pairs.append(pair)
    seen = {i: _tiles(stack.images[i]) for i in sorted({i for pair in pairs for i in pair})}
    found = []
    for lower, higher in pairs:
        share, error = _share(seen[higher], seen[lower])
        found.append(DepthOrder(lower=lower, higher=higher, share=share, error=error))
    return found


def depth_order_warnings(stack: Stack, orders: list[DepthOrder] | None = None) -> list[str]:
    """A sentence if the images deny what is stated of voltages, or the order of the slices.

    Args:
        orders: `depth_orders` of the stack, if they are known already.
    """
    sure = [o for o in (depth_orders(stack) if orders is None else orders) if o.sure]
    denied = [o for o in sure if o.denied]
    if not denied:
        return []
    if len(denied) < len(sure):
        pairs = " and in ".join(_pair(stack, order) for order in denied)
        check = ": their voltages look swapped; check which is which."
    else:
        pairs = _pair(stack, max(denied, key=lambda order: abs(order.share)))
        # What turns every pair round may be the slices as well.
        check = (
            (", and likewise in every other pair: " if len(denied) > 1 else ": ")
            + "either the voltages are stated the wrong way round, or the slices are not in the "
            "order of milling, first to last; check both."
        )
    return [
        f"more of the slices to come is seen in {pairs}, as only a higher voltage should{check}"
    ]


def _pair(stack: Stack, order: DepthOrder) -> str:
    lower, higher = (stack.channels[i] for i in (order.lower, order.higher))
    return f"{lower.label} ({lower.beam_kev:g} kV) than in {higher.label} ({higher.beam_kev:g} kV)"
