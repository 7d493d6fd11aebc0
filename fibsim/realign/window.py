"""One window of slices: thickness and displacement of highest likelihood, with their errors."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy.fft import dct
from scipy.optimize import minimize

from fibsim.realign.channels import factors
from fibsim.realign.covariance import first_covariance, update_covariance
from fibsim.realign.drift import DriftSize, slowness
from fibsim.realign.likelihood import depth_terms
from fibsim.realign.tiles import FOLDS, Tiles, cut_tiles, mode_phases

__all__ = ["STEPS", "Solution", "Unknowns", "solve_window"]

EM = 1
_ROUNDS, _MIXING_ROUNDS = 7, 2
STEPS = _ROUNDS + 2
"""How often `solve_window` reports."""
# While the solution is sought: relative s.d. of the thickness, and how much wider than the
# likelihood says errors are taken to be.
_THICKNESS_SD, _WIDENING = 0.2, 3.0
# What neighbouring tiles have in common, their scatter does not show. On simulated twins the
# variance of errors was this factor times that power of the slowness larger; thickness, then drift.
_COMMON = ((2.0, 0.0), (2.0, 0.3), (2.0, 0.3))
# So wide that they only matter where the images say nothing.
_LOOSE_THICKNESS, _LOOSE_DRIFT = 1.0, 2 * (DriftSize(sd_px=30.0, step_px=0.0),)
# The first and the last slice have neighbours on one side, and come out too thick: on twins by
# this part of nominal, which counts as error.
_END_ERROR = 0.2


@dataclasses.dataclass(frozen=True)
class Unknowns:
    """The vector of unknowns of ``slices`` slices: thickness anomalies, then y, then x.

    A thickness anomaly is ``thickness / nominal - 1`` between a slice and the next; displacements
    are in pixels. Not determined by images, and zero by convention: the mean of each of the
    three, and the trend of y (a constant drift looks as the lean of the beam does).
    """

    slices: int

    @property
    def size(self) -> int:
        return 3 * self.slices - 1

    @property
    def blocks(self) -> tuple[slice, slice, slice]:
        n = self.slices
        return slice(0, n - 1), slice(n - 1, 2 * n - 1), slice(2 * n - 1, 3 * n - 1)

    def to_depths(self) -> Float[np.ndarray, "three_n size"]:
        """Matrix to depth (mean zero), y and x of every slice."""
        n = self.slices
        depth = np.tri(n, n - 1, -1)
        out = np.zeros((3 * n, self.size))
        out[:n, : n - 1] = depth - depth.mean(0)
        out[n:, n - 1 :] = np.eye(2 * n)
        return out

    def free(self) -> Float[np.ndarray, "size free"]:
        """Orthonormal basis of what images can determine."""
        fixed = np.zeros((4, self.size))
        for row, block in enumerate(self.blocks):
            fixed[row, block] = 1.0
        fixed[3, self.blocks[1]] = np.arange(self.slices) - (self.slices - 1) / 2
        return np.linalg.svd(fixed)[2][4:].T

    def split(self, vector: Float[np.ndarray, " size"]) -> tuple[np.ndarray, np.ndarray]:
        """Thickness anomalies ``(slice - 1,)`` and displacements ``(slice, 2)``."""
        thickness, y, x = (vector[block] for block in self.blocks)
        return thickness, np.stack([y, x], axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solution:
    """What a window of slices says of its unknowns, without prior.

    Attributes:
        value: estimate, in the form of `Unknowns`.
        covariance: of its error, zero along what images cannot determine.
    """

    value: Float[np.ndarray, " size"]
    covariance: Float[np.ndarray, "size size"]


@dataclasses.dataclass(frozen=True)
class _Terms:
    """Score of every tile and information, about ``Unknowns``."""

    score: np.ndarray
    information: np.ndarray


class _Likelihood:
    """The likelihood of one cut into tiles; the covariance follows the point of evaluation."""

    def __init__(self, tiles: Tiles, offsets_px: np.ndarray, lean_px: float):
        self.tiles, self.offsets, self.lean = tiles, offsets_px, lean_px
        self.unknowns = Unknowns(tiles.value.shape[1])
        self.mixed: np.ndarray | None = None
        fold = tiles.fold
        masks = [fold == number for number in range(FOLDS)]
        self.folds = [(own, tiles.part(own), tiles.part(~own)) for own in masks]

    def terms(self, vector: np.ndarray, *, mix: bool) -> _Terms:
        """At a point; ``mix`` looks for the mixtures of the channels anew."""
        thickness, shift = self.unknowns.split(vector)
        z = np.concatenate([[0.0], np.cumsum(1 + thickness)])
        phase = mode_phases(self.tiles, shift - self.offsets)[:, None, :]
        if mix or self.mixed is None:
            self.mixed = factors(self.tiles.value * phase, self.tiles) * phase.conj()
        score = information = np.zeros(())
        for own, ours, others in self.folds:
            for channel in self.mixed:
                value = channel * phase
                rest = value[..., ~own]
                covariance = first_covariance(rest, others, self.lean)
                covariance = update_covariance(covariance, rest, others, z, steps=EM)
                one = depth_terms(value[..., own], ours, covariance, z)
                score, information = score + one[0], information + one[1]
        linear = self.unknowns.to_depths()
        size = len(linear)
        information = linear.T @ information.reshape(size, size) @ linear
        return _Terms(score.reshape(-1, size) @ linear, information)


def _prior(unknowns: Unknowns, thickness: float, drift: Sequence[DriftSize]) -> np.ndarray:
    """Inverse covariance of independent anomalies and of displacements of these sizes."""
    out = np.zeros((unknowns.size, unknowns.size))
    first, *others = unknowns.blocks
    out[first, first] = np.eye(unknowns.slices - 1) / thickness**2
    for block, size in zip(others, drift, strict=True):
        out[block, block] = np.linalg.inv(size.covariance(unknowns.slices))
    return out


def _widening(terms: _Terms, unknowns: Unknowns) -> np.ndarray:
    """How much wider than the likelihood says errors are, from the scatter between tiles.

    The likelihood is that of a Gaussian specimen with one covariance. Real ones hold fewer
    independent features and differ from place to place, most of all over many slices. Per
    unknown, cosine mode by cosine mode, the variance between tiles over the expected one is
    fitted by a power of ``1 / (2 - 2 cos(pi m / n))``, the modes of a random walk.

    Returns:
        The matrix that widens errors.
    """
    basis = unknowns.free()
    tiles = len(terms.score)
    out = np.zeros((unknowns.size, unknowns.size))
    inverse = np.linalg.inv(basis.T @ terms.information @ basis / tiles)
    covariance = basis @ inverse @ basis.T
    deviation = (terms.score - terms.score.mean(0)) @ covariance
    for block, (factor, power) in zip(unknowns.blocks, _COMMON, strict=True):
        count = block.stop - block.start
        cosine = np.asarray(dct(np.eye(count), norm="ortho", axis=0))
        expected = np.einsum("mk,kl,ml->m", cosine, covariance[block, block], cosine)
        found = ((deviation[:, block] @ cosine.T) ** 2).sum(0) / (tiles - 1)
        slow = np.log(slowness(count))
        used = expected > 1e-6 * expected.max()
        ratio = found[used] / expected[used]

        def misfit(law, ratio=ratio, slow=slow[used]):
            log_share = law[0] + law[1] * slow
            return np.sum(log_share + ratio * np.exp(-log_share))

        law = minimize(misfit, (0.0, 0.5), method="Nelder-Mead").x
        share = factor * np.maximum(np.exp(law[0] + (max(law[1], 0.0) + power) * slow), 1.0)
        out[block, block] = cosine.T @ (np.sqrt(share)[:, None] * cosine)
    return out


def solve_window(
    images: Float[np.ndarray, "channel slice y x"],
    start_px: Float[np.ndarray, "slice 2"],
    drift: Sequence[DriftSize],
    lean_px: float,
    channel_px: Float[np.ndarray, "channel slice 2"],
    progress: Callable[[], None] = lambda: None,
) -> Solution:
    """Look for the most likely thickness and displacements of slices.

    Newton's method with the expected information, the covariance estimated anew at every step.
    Large tiles give the estimate, small ones the scatter that its error is judged by.

    Args:
        images: features (`fibsim.realign.features`).
        start_px: displacements to start from.
        drift: their size along y and x, to keep the way to the solution short.
        lean_px: displacement per nominal slice of what lies deep.
        channel_px: displacement of each channel beside that.
        progress: called `STEPS` times.
    """
    offsets = np.rint(start_px).astype(int)
    unknowns = Unknowns(images.shape[1])
    basis = unknowns.free()
    loose = _prior(unknowns, _LOOSE_THICKNESS, _LOOSE_DRIFT)
    vector = np.concatenate([np.zeros(unknowns.slices - 1), *start_px.T])
    prior = _prior(unknowns, _THICKNESS_SD, drift)
    whole = _Likelihood(cut_tiles(images, offsets, channel_px), offsets, lean_px)
    for turn in range(_ROUNDS):
        terms = whole.terms(vector, mix=turn < _MIXING_ROUNDS)
        slope = terms.score.sum(0) / _WIDENING**2 - prior @ vector
        bend = basis.T @ (terms.information / _WIDENING**2 + prior) @ basis
        step = basis @ np.linalg.solve(bend, basis.T @ slope)
        largest = np.abs(step[unknowns.blocks[0]]).max()
        vector = vector + step * min(1.0, 0.5 / largest if largest else 1.0)
        progress()
    terms = whole.terms(vector, mix=False)
    progress()
    inverse = np.linalg.inv(basis.T @ (terms.information + loose) @ basis)
    covariance = basis @ inverse @ basis.T
    value = basis @ (basis.T @ vector) + covariance @ (terms.score.sum(0) - loose @ vector)
    parts = _Likelihood(cut_tiles(images, offsets, channel_px, halves=2), offsets, lean_px)
    project = basis @ basis.T
    wide = _widening(parts.terms(vector, mix=True), unknowns)
    progress()
    covariance = wide @ covariance @ wide.T
    for end in (unknowns.blocks[0].start, unknowns.blocks[0].stop - 1):
        covariance[end, end] += _END_ERROR**2
    return Solution(value=value, covariance=project @ covariance @ project)
