"""Which specimen generator resembles the stack: short fits of several, the closest one wins."""

import dataclasses
from collections.abc import Callable, Sequence

import jax

from fibsim.fit.optimise import FitResult, FitSettings, fit_instrument
from fibsim.stack import Stack

__all__ = ["AUTOMATIC_KINDS", "fit_best_kind"]

AUTOMATIC_KINDS = ("waves", "hierarchical")
"""Tried when nothing states the specimen: one and two levels of nanoporous structure."""

_TRIAL_STEPS = 40
# In trials: so long a fit gains nothing by one.
_LONG = 4
# Of the learning rate, which a trial has brought to its end once; with half of it the first steps
# led away by as much as twenty others led back.
_GOING_ON = 0.25


def fit_best_kind(
    stack: Stack,
    *,
    key: jax.Array,
    settings: FitSettings,
    kinds: Sequence[str] | None = None,
    progress: Callable[[str, int, int, str], None] | None = None,
) -> FitResult:
    """Fit with the kind that the stack names, else with the best of ``kinds``.

    Every kind is fitted for 40 steps; the fit with the smallest held-out distance then goes on to
    its full length, or begins anew at its own pace if it is four times as long as a trial. One kind
    (or a fit no longer than a trial) needs no trial.

    Args:
        kinds: candidates; those of `AUTOMATIC_KINDS` if not given.
        progress: called with (kind, step, steps, text).

    Raises:
        InputError: as `fit_instrument`.
    """
    if stack.specimen is not None:
        kinds = (stack.specimen,)
    kinds = tuple(kinds or AUTOMATIC_KINDS)

    def run(kind: str, how: FitSettings, going_on: FitResult | None = None) -> FitResult:
        def report(step: int, steps: int, text: str) -> None:
            if progress is not None:
                progress(kind, step, steps, text)

        return fit_instrument(
            stack, key=key, kind=kind, settings=how, going_on=going_on, progress=report
        )

    if len(kinds) == 1 or settings.steps <= _TRIAL_STEPS:
        return run(kinds[0], settings)
    trial = dataclasses.replace(settings, steps=_TRIAL_STEPS, refine=None, find_ground=False)
    best = min((run(kind, trial) for kind in kinds), key=lambda fit: fit.fitted_distance)
    if settings.steps >= _LONG * _TRIAL_STEPS:
        return run(best.kind, settings)
    rest = dataclasses.replace(
        settings,
        steps=settings.steps - _TRIAL_STEPS,
        learning_rate=_GOING_ON * settings.learning_rate,
    )
    return run(best.kind, rest, best)
