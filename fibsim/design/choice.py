"""The expected error of every choice of channels, and the best of them."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float

from fibsim.design.candidates import Candidate, recording
from fibsim.design.examples import Examples, draw_examples
from fibsim.errors import InputError
from fibsim.instrument import Instrument
from fibsim.specimens import KINDS
from fibsim.stack import channels_of

__all__ = ["Choice", "Design", "DesignSettings", "check_choices", "rank_choices"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DesignSettings:
    """How much is simulated and learnt.

    Attributes:
        train_stacks, test_stacks: simulated stacks, each with a specimen of its own.
        slices, side_px: their size.
        pixels: judged or learnt from, per stack.
        trees: boosting rounds of the classifier.
    """

    train_stacks: int = 16
    test_stacks: int = 16
    slices: int = 9
    side_px: int = 96
    pixels: int = 2000
    trees: int = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """Some channels, recorded with a total exposure that they share alike.

    Attributes:
        channels: what is recorded.
        exposure: summed over channels, in units of the fitted dose of one image.
        error: expected share of pixels taken for the wrong phase.
        standard_error: of it, from the scatter between simulated specimens.
        behind: how much more than the best choice of the same exposure, and the standard error
            of that difference (on the same specimens, so smaller than that of the error).
    """

    channels: tuple[Candidate, ...]
    exposure: float
    error: float
    standard_error: float
    behind: tuple[float, float] = (0.0, 0.0)

    @property
    def as_good(self) -> bool:
        """Whether it cannot be told from the best (two standard errors)."""
        return self.behind[0] <= 2 * self.behind[1]

    def __str__(self) -> str:
        return " + ".join(map(str, self.channels))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """All choices, by exposure and then by error.

    Attributes:
        choices: every one that was tried.
        candidates: channels that they are made of.
        recorded: the channels that the instrument was fitted to.
    """

    choices: tuple[Choice, ...]
    candidates: tuple[Candidate, ...]
    recorded: tuple[Candidate, ...]

    @property
    def exposures(self) -> list[float]:
        return list(dict.fromkeys(choice.exposure for choice in self.choices))

    def at(self, exposure: float, number: int | None = None) -> list[Choice]:
        """Choices of an exposure, of ``number`` channels if given, the best first."""
        return [
            c for c in self.choices if c.exposure == exposure and number in (None, len(c.channels))
        ]


class _Judge:
    """Errors of choices on examples; features of an exposure are made once."""

    def __init__(self, train: Examples, test: Examples, key: jax.Array, settings: DesignSettings):
        self.train, self.test, self.settings = train, test, settings
        self.keys = jax.random.split(key)
        self.features: dict[float, tuple[np.ndarray, np.ndarray]] = {}

    def errors(self, chosen: Sequence[int], exposure: float) -> Float[np.ndarray, " stack"]:
        """Share of wrong pixels in every test stack."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        share = exposure / len(chosen)
        if share not in self.features:
            self.features[share] = tuple(
                examples.features(share, key=key)
                for examples, key in zip((self.train, self.test), self.keys, strict=True)
            )
        model = HistGradientBoostingClassifier(
            max_iter=self.settings.trees,
            learning_rate=0.15,
            max_leaf_nodes=15,
            early_stopping=False,
            random_state=0,
        )
        seen, unseen = (
            np.concatenate([features[c] for c in chosen], axis=-1)
            for features in self.features[share]
        )
        model.fit(seen.reshape(-1, seen.shape[-1]), self.train.solid.ravel())
        guess = model.predict(unseen.reshape(-1, unseen.shape[-1]))
        return np.mean(guess.reshape(self.test.solid.shape) != self.test.solid, axis=1)


def _ranked(
    errors: Mapping[tuple[int, ...], np.ndarray], candidates: Sequence[Candidate], exposure: float
) -> list[Choice]:
    best = min(errors, key=lambda chosen: errors[chosen].mean())
    count = len(errors[best])
    out = []
    for chosen, found in errors.items():
        apart = found - errors[best]
        out.append(
            Choice(
                channels=tuple(candidates[c] for c in chosen),
                exposure=exposure,
                error=float(found.mean()),
                standard_error=float(found.std(ddof=1) / np.sqrt(count)),
                behind=(float(apart.mean()), float(apart.std(ddof=1) / np.sqrt(count))),
            )
        )
    return sorted(out, key=lambda choice: choice.error)


def check_choices(
    instrument: Instrument,
    kind: str | None,
    candidates: Sequence[Candidate],
    *,
    exposures: Sequence[float],
    most: int,
) -> None:
    """Refuse, before any long work, what cannot be ranked.

    Raises:
        InputError: see `rank_choices`.
    """
    if kind not in KINDS:
        raise InputError(
            f"the specimen kind is {kind!r}, expected one of {', '.join(KINDS)}; give an "
            "instrument file that fibsim fit wrote."
        )
    if len(set(candidates)) != len(candidates) or not candidates:
        raise InputError(
            f"the candidate channels are {', '.join(map(str, candidates)) or 'none'}; expected "
            "at least one, each once."
        )
    if not exposures or any(not 0 < e < float("inf") for e in exposures):
        raise InputError(f"exposures are {list(exposures)}, expected numbers above 0.")
    if most < 1:
        raise InputError(f"at most {most} channels were asked for, expected at least 1.")
    recording(instrument, candidates)


def _check_settings(settings: DesignSettings) -> None:
    if settings.slices < 4 or min(settings.train_stacks, settings.test_stacks) < 2:
        raise InputError(
            f"{settings.slices} slices and {settings.train_stacks} + {settings.test_stacks} "
            "stacks were asked for; expected at least 4 slices and 2 stacks of either sort."
        )


def rank_choices(
    instrument: Instrument,
    kind: str,
    specimen: Mapping[str, float],
    candidates: Sequence[Candidate],
    *,
    key: jax.Array,
    exposures: Sequence[float] = (1.0,),
    most: int = 3,
    settings: DesignSettings | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Design:
    """Rank choices of channels by the expected error of a segmentation.

    Random specimens are simulated in all candidate channels. For every choice gradient-boosted
    trees learn solid or pore from the grey values around a pixel (several widths, the slices above
    and below, along the lean), at the noise of the exposure that each channel then gets, and are
    judged on other specimens. All single channels and all pairs are tried, the best pair with each
    third channel, and so on, and the recorded channels. A network that sees more makes fewer
    errors; what this ranks is what the channels tell.

    Args:
        instrument: fitted; see `fibsim.design.recording` for channels that it did not record.
        kind, specimen: generator and its parameters.
        candidates: channels that could be recorded.
        exposures: total exposures to compare at, in units of the fitted dose of one image; a
            choice shares it alike among its channels.
        most: channels of a choice.
        progress: called with (choices done, choices, text).

    Raises:
        InputError: values out of range, or as `fibsim.design.recording`.
    """
    settings = settings or DesignSettings()
    # Energies are stored as float32.
    recorded = tuple(Candidate(round(c.beam_kev, 4), c.detector) for c in channels_of(instrument))
    candidates = tuple(candidates)
    _check_settings(settings)
    check_choices(instrument, kind, candidates, exposures=exposures, most=most)
    known = (*candidates, *(c for c in dict.fromkeys(recorded) if c not in candidates))
    offered = recording(instrument, known)
    key_train, key_test, key_noise = jax.random.split(key, 3)
    size = dict(slices=settings.slices, side_px=settings.side_px, pixels=settings.pixels)
    train, test = (
        draw_examples(offered, kind, dict(specimen), key=own, stacks=stacks, **size)
        for own, stacks in ((key_train, settings.train_stacks), (key_test, settings.test_stacks))
    )
    judge = _Judge(train, test, key_noise, settings)
    all_of_them = range(len(candidates))
    first = [
        chosen
        for number in range(1, min(most, 2) + 1)
        for chosen in itertools.combinations(all_of_them, number)
    ]
    own = tuple(sorted({known.index(c) for c in recorded}))
    later = sum(max(len(candidates) - n + 1, 0) for n in range(3, most + 1))
    total = len(exposures) * (len({*first, own}) + later)
    done = 0
    choices: list[Choice] = []
    for exposure in exposures:
        errors: dict[tuple[int, ...], np.ndarray] = {}

        def judge_all(sets, exposure=exposure, errors=errors):
            nonlocal done
            for chosen in sets:
                if chosen in errors:
                    continue
                errors[chosen] = judge.errors(chosen, exposure)
                done += 1
                if progress is not None:
                    named = " + ".join(str(known[c]) for c in chosen)
                    progress(min(done, total), total, named)

        judge_all([*first, own])
        for number in range(3, min(most, len(candidates)) + 1):
            of_last = [chosen for chosen in errors if len(chosen) == number - 1 and chosen != own]
            best = min(of_last, key=lambda chosen: errors[chosen].mean())
            judge_all(tuple(sorted((*best, c))) for c in all_of_them if c not in best)
        choices += _ranked(errors, known, exposure)
    return Design(choices=tuple(choices), candidates=candidates, recorded=recorded)
