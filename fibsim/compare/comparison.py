"""A recorded and a simulated stack: a classifier's held-out AUC, and what gives one away."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float

from fibsim.compare.auc import Auc, Scored, mean_auc, numbered, placements
from fibsim.compare.logistic import logistic_logits, table_of
from fibsim.compare.network import TrainSettings, network_logits, train_network
from fibsim.compare.patches import (
    Patches,
    Side,
    check_size,
    cut_into_folds,
    held_out,
    outside,
    random_patches,
)
from fibsim.compare.statistics import Statistic, patch_statistics
from fibsim.errors import InputError
from fibsim.fit.first_guess import WHITE, grey_levels
from fibsim.stack import Stack

__all__ = ["Comparison", "Examples", "StatisticGap", "check_comparable", "compare_stacks"]

_TOLERANCE = 0.05
_SHOWN = 5
# Of a side's patches in memory, 1 GiB; reached by patches of 100 pixels in eight channels.
_MOST_VALUES = 2**28


@dataclasses.dataclass(frozen=True, kw_only=True)
class StatisticGap:
    """How one statistic of patches differs.

    Attributes:
        name: channels and statistic, for example ``"1kV: noise"``.
        auc: of the statistic alone, above 0.5 where the simulation's is higher. The interval is
            so wide that those of all statistics hold at once with 95 % confidence (Bonferroni).
        real, simulated: medians over the patches, or means where the medians are equal.
        ratio: whether the difference makes sense in per cent.
        unit: ``"grey"`` (on the scale of 0 to 255), ``"px"``, ``"%"`` or empty.
    """

    name: str
    auc: Auc
    real: float
    simulated: float
    ratio: bool
    unit: str

    @property
    def strength(self) -> float:
        """AUC whatever the direction, 0.5 to 1."""
        return max(self.auc.value, 1 - self.auc.value)

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0.5."""
        return self.auc.low > 0.5 or self.auc.high < 0.5

    def sentence(self) -> str:
        """For example ``1kV: noise 4.1 grey, real 5.3, 23 % too low; AUC 0.91``."""
        unit = f" {self.unit}" if self.unit else ""
        word = "high" if self.auc.value > 0.5 else "low"
        size = "too " + word
        # Rank and median may disagree in sign where distributions differ in shape.
        change = self.simulated / self.real - 1 if self.ratio and self.real > 0 else 0.0
        if abs(change) >= 0.01 and (change > 0) == (word == "high"):
            size = f"{100 * abs(change):.0f} % too {word}"
        low, high = self.auc.low, self.auc.high
        if word == "low":
            low, high = 1 - high, 1 - low
        return (
            f"{self.name} {self.simulated:.3g}{unit}, real {self.real:.3g}, {size}; "
            f"AUC {self.strength:.2f} ({low:.2f} to {high:.2f})"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples:
    """Some patches of one side, with how sure the classifier is.

    Attributes:
        grey: ``(patch, channel, slice, y, x)``, 0 to 255.
        corner: first voxel ``(z, y, x)`` of each; of several stacks, counted on along z.
        outranked: share of the other side's patches in the same fold that score on their own
            side of it: 1 = told apart from every one of them, 0.5 = not at all.
    """

    grey: Float[np.ndarray, "patch channel slice y x"]
    corner: np.ndarray
    outranked: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """How well a simulation imitates a recording.

    Attributes:
        auc: held-out AUC of the classifier, averaged over folds: the probability that a random
            simulated patch looks more simulated to it than a random real one. 0.5 = they cannot
            be told apart, 1 = always.
        interval: its 95 % confidence interval.
        auc_by_fold: of each fold.
        auc_by_view: of the parts of the classifier alone: ``"network"``, the convolutional network
            on the pixels, and ``"statistics"``, logistic regression on the named statistics.
        auc_by_channel: channel name -> AUC of logistic regression on the statistics of that
            channel alone, to be seen beside the view ``"statistics"``; empty for one channel.
        auc_by_statistic: every statistic on its own, the most telling first.
        patches: examples, of each side the ``"most tell-tale"`` and the ``"least tell-tale"``
            first, under keys such as ``"real, most tell-tale"``.
        channel_names: of the real stack.
        patch_size: (slices, pixels) of a patch.
        numbers: held-out patches (real, simulated).
    """

    auc: float
    interval: tuple[float, float]
    auc_by_fold: tuple[float, ...]
    auc_by_view: dict[str, Auc]
    auc_by_channel: dict[str, Auc]
    auc_by_statistic: tuple[StatisticGap, ...]
    patches: dict[str, Examples]
    channel_names: tuple[str, ...]
    patch_size: tuple[int, int]
    numbers: tuple[int, int]


def _named(channels) -> str:
    return ", ".join(f"{c.beam_kev:g} kV {c.detector}" for c in channels)


def check_comparable(
    real: Stack, simulated: Stack | Sequence[Stack], *, patch: int, depth: int
) -> None:
    """Refuse, before any long work, stacks that say something else or are too small.

    Raises:
        InputError: different channels, pixels or slices that differ by more than 5 %, a patch
            that is too small, too few slices, or images smaller than a patch.
    """
    if patch < 8 or depth < 1:
        raise InputError(
            f"a patch of {patch} pixels and {depth} slices was asked for; expected at least 8 "
            "pixels (--patch) and 1 slice (--depth)."
        )
    several = _listed(simulated)
    if len({one.images.shape[2:] for one in several}) != 1:
        raise InputError("expected at least one simulated stack, all with images of one size.")
    for one in several:
        _check_facts(real, one)
        if one.num_slices < depth:
            check_size(one.images.shape, patch, depth, "a simulated stack")
    channels, _, *size = several[0].images.shape
    total = channels, sum(one.num_slices for one in several), *size
    check_size(real.images.shape, patch, depth, "the real stack")
    check_size(total, patch, depth, "the simulated stack")


def _listed(simulated: Stack | Sequence[Stack]) -> list[Stack]:
    return [simulated] if isinstance(simulated, Stack) else list(simulated)


def _check_facts(real: Stack, simulated: Stack) -> None:
    a, b = real.channels, simulated.channels
    if len(a) != len(b) or any(
        abs(p.beam_kev / q.beam_kev - 1) > _TOLERANCE or p.detector != q.detector
        for p, q in zip(a, b, strict=True)
    ):
        raise InputError(
            f"the real stack has the channels {_named(a)}, the simulated one {_named(b)}, expected "
            "the same; leave out what one lacks with --channels or simulate the others."
        )
    for what in ("pixel_nm", "slice_nm"):
        p, q = getattr(real, what), getattr(simulated, what)
        if abs(q / p - 1) > _TOLERANCE:
            raise InputError(
                f"{what} is {p:g} in the real stack and {q:g} in the simulated one, expected a "
                f"difference of {100 * _TOLERANCE:g} % at most; simulate at the real one's."
            )


def _common_scale(real: Stack, simulated: Sequence[Stack]) -> tuple[np.ndarray, np.ndarray]:
    """Grey values of both as float32 on one scale; the simulated stacks one after the other.

    Unsigned integers by the range of their type. If neither are, both by the real stack's range.
    """
    stacks = [real, *simulated]
    if any(np.issubdtype(s.images.dtype, np.unsignedinteger) for s in stacks):
        grey = [grey_levels(s) for s in stacks]
    else:
        # Differences of signed integers may leave their type.
        low, high = (
            f(real.images, axis=(1, 2, 3), keepdims=True).astype(float) for f in (np.min, np.max)
        )
        factor = WHITE / np.maximum(high - low, 1e-12)
        grey = [((s.images - low) * factor).astype(np.float32) for s in stacks]
    return grey[0], np.concatenate(grey[1:], axis=1)


def _generator(key: jax.Array) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


@dataclasses.dataclass
class _Sampled:
    """Patches of one side and their statistics."""

    side: Side
    pool: Patches
    tests: list[Patches]
    pool_statistics: list[Statistic]
    test_statistics: list[list[Statistic]]

    @classmethod
    def of(
        cls, side: Side, names: Sequence[str], number: int, rng: np.random.Generator
    ) -> "_Sampled":
        values = side.images.shape[0] * side.depth * side.patch**2
        pool = random_patches(side, min(number, _MOST_VALUES // values), rng)
        tests = [held_out(side, fold, rng) for fold in range(side.folds)]
        known = [patch_statistics(patches.grey, names) for patches in (pool, *tests)]
        return cls(side, pool, tests, known[0], known[1:])

    def scored(self, fold: int, score: np.ndarray) -> Scored:
        test = self.tests[fold]
        return Scored(score, test.column, test.corner[:, 0])


Scores = list[tuple[np.ndarray, np.ndarray]]
"""Log odds of the held-out patches of each fold, real and simulated."""


def _auc(real: _Sampled, simulated: _Sampled, scores: Scores) -> Auc:
    return mean_auc(
        [simulated.scored(fold, s) for fold, (_, s) in enumerate(scores)],
        [real.scored(fold, r) for fold, (r, _) in enumerate(scores)],
        retrained=True,
    )


def _by_statistics(real: _Sampled, simulated: _Sampled, allowed: Sequence[int]) -> Scores:
    """Logistic regression on the statistics of the allowed channels alone."""
    columns = [i for i, one in enumerate(real.pool_statistics) if set(one.channels) <= set(allowed)]

    def table(statistics: list[Statistic]) -> np.ndarray:
        return table_of([statistics[i] for i in columns])

    both = (real, simulated)
    pools = [table(one.pool_statistics) for one in both]
    found = []
    for fold in range(real.side.folds):
        train = [
            rows[outside(one.side, fold, one.pool.corner)]
            for rows, one in zip(pools, both, strict=True)
        ]
        tests = [table(one.test_statistics[fold]) for one in both]
        found.append(tuple(logistic_logits(*train, tests)))
    return found


def _by_network(
    real: _Sampled,
    simulated: _Sampled,
    *,
    key: jax.Array,
    settings: TrainSettings,
    progress: Callable[[], None],
) -> Scores:
    """The convolutional network on all channels."""
    mean, sd = (
        f(real.side.images, axis=(1, 2, 3))[:, None, None, None].astype(np.float32)
        for f in (np.mean, np.std)
    )

    def standard(patches: np.ndarray) -> np.ndarray:
        return (patches - mean) / np.maximum(sd, 1e-3)

    both = (real, simulated)
    found = []
    for fold in range(real.side.folds):
        pools = [standard(s.pool.grey[outside(s.side, fold, s.pool.corner)]) for s in both]
        network = train_network(
            *pools, key=jax.random.fold_in(key, fold), settings=settings, progress=progress
        )
        found.append(tuple(network_logits(network, standard(s.tests[fold].grey)) for s in both))
    return found


def _gaps(real: _Sampled, simulated: _Sampled) -> tuple[StatisticGap, ...]:
    """Every statistic's AUC over all held-out patches, the most telling first."""

    def where(one: _Sampled) -> tuple[np.ndarray, np.ndarray]:
        fold = np.repeat(np.arange(len(one.tests)), [len(p.column) for p in one.tests])
        column = numbered(fold, np.concatenate([p.column for p in one.tests]))
        return column, np.concatenate([p.corner[:, 0] for p in one.tests])

    places = where(real), where(simulated)
    found, number = [], len(real.pool_statistics)
    for i, kind in enumerate(real.pool_statistics):
        sides = []
        for one, place in zip((real, simulated), places, strict=True):
            value = np.concatenate([fold[i].value for fold in one.test_statistics])
            known = np.isfinite(value)
            sides.append(Scored(value[known], *(label[known] for label in place)))
        r, s = sides
        if min(len(r.score), len(s.score)) < 2:
            continue
        middle = np.median if np.median(r.score) != np.median(s.score) else np.mean
        found.append(
            StatisticGap(
                name=kind.name,
                auc=mean_auc([s], [r], level=1 - 0.05 / number),
                real=float(middle(r.score)),
                simulated=float(middle(s.score)),
                ratio=kind.ratio,
                unit=kind.unit,
            )
        )
    return tuple(sorted(found, key=lambda gap: -gap.strength))


def _examples(
    side: list[Patches], score: list[np.ndarray], outranked: list[np.ndarray]
) -> Examples:
    """The patches of the highest scores, one of each column of tissue."""
    # Logits of different classifiers have no common scale: each fold's are standardised.
    standard = np.concatenate([(s - np.median(s)) / (s.std() + 1e-6) for s in score])
    where = [(fold, i) for fold, s in enumerate(score) for i in range(len(s))]
    sure = np.concatenate(outranked)
    chosen, seen = [], set()
    for index in np.lexsort((-standard, -sure)):
        fold, i = where[index]
        place = fold, side[fold].column[i]
        if place not in seen and len(chosen) < _SHOWN:
            chosen.append((fold, i))
            seen.add(place)
    return Examples(
        grey=np.stack([side[fold].grey[i] for fold, i in chosen]),
        corner=np.stack([side[fold].corner[i] for fold, i in chosen]),
        outranked=np.array([outranked[fold][i] for fold, i in chosen]),
    )


def _all_examples(real: _Sampled, simulated: _Sampled, scores: Scores) -> dict[str, Examples]:
    real_sure = [1 - placements(r, s) for r, s in scores]
    simulated_sure = [placements(s, r) for r, s in scores]

    def least(side, score, sure):
        wrong = _examples(side, [-s for s in score], [1 - s for s in sure])
        return dataclasses.replace(wrong, outranked=1 - wrong.outranked)

    # Of both sides, the higher the more like their own.
    away, towards = [-r for r, _ in scores], [s for _, s in scores]
    return {
        "real, most tell-tale": _examples(real.tests, away, real_sure),
        "simulated, most tell-tale": _examples(simulated.tests, towards, simulated_sure),
        "real, least tell-tale": least(real.tests, away, real_sure),
        "simulated, least tell-tale": least(simulated.tests, towards, simulated_sure),
    }


def compare_stacks(
    real: Stack,
    simulated: Stack | Sequence[Stack],
    *,
    key: jax.Array,
    patch: int = 32,
    depth: int = 3,
    settings: TrainSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Train a classifier to tell simulated from real patches, and see how well it does.

    Two are trained, and their log odds added: a convolutional network on the pixels, and logistic
    regression on the named statistics of `fibsim.compare.statistics`, which sees at once what the
    network must learn (a difference of 5 % in noise) and not what nobody thought of. Grey values
    are standardised by the real stack's mean and standard deviation per channel, so that offsets
    remain visible.

    Every block of slices (of columns, if there are few slices) is held out once, with a guard
    around it (`fibsim.compare.patches`). The interval counts patches of one column of tissue and
    of one slice as dependent, and includes what another training set would have changed
    (`fibsim.compare.auc`).

    Args:
        real: the recorded stack.
        simulated: one stack, or several of independent specimens (`draw_stacks`).
        key: decides patches, weights and batches; the same key gives the same result.
        patch, depth: size of a patch in pixels and slices.
        settings: of the training.
        progress: called with (step, steps) of the network's training.

    Raises:
        InputError: as `check_comparable`.
    """
    settings = settings or TrainSettings()
    several = _listed(simulated)
    check_comparable(real, several, patch=patch, depth=depth)
    grey, other = _common_scale(real, several)
    runs = np.repeat(np.arange(len(several)), [one.num_slices for one in several])
    sides = cut_into_folds(
        (grey, np.zeros(real.num_slices, int)), (other, runs), patch=patch, depth=depth
    )
    names = tuple(channel.label for channel in real.channels)

    key_real, key_simulated, key_network = jax.random.split(key, 3)
    a, b = (
        _Sampled.of(side, names, settings.patches, _generator(one))
        for side, one in zip(sides, (key_real, key_simulated), strict=True)
    )
    done, steps = itertools.count(1), settings.steps * a.side.folds

    def advance() -> None:
        if progress is not None:
            progress(next(done), steps)

    channels = range(len(names))
    network = _by_network(a, b, key=key_network, settings=settings, progress=advance)
    statistics = _by_statistics(a, b, channels)
    # Only the order counts: the sum of the log odds is their mean.
    both = [(r + p, s + q) for (r, s), (p, q) in zip(network, statistics, strict=True)]
    auc = _auc(a, b, both)
    single = channels if len(names) > 1 else ()
    return Comparison(
        auc=auc.value,
        interval=(auc.low, auc.high),
        auc_by_fold=tuple(float(placements(s, r).mean()) for r, s in both),
        auc_by_view={
            "network": _auc(a, b, network),
            "statistics": _auc(a, b, statistics),
        },
        auc_by_channel={names[c]: _auc(a, b, _by_statistics(a, b, [c])) for c in single},
        auc_by_statistic=_gaps(a, b),
        patches=_all_examples(a, b, both),
        channel_names=names,
        patch_size=(depth, patch),
        numbers=tuple(sum(len(p.column) for p in one.tests) for one in (a, b)),
    )
