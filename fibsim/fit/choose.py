"""Which specimen generator resembles the stack, told from its milled faces before any fit."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from fibsim.errors import InputError
from fibsim.fit.doubts import FEW_SLICES
from fibsim.fit.first_guess import bright_faces, grey_levels
from fibsim.fit.ground import slices_above_ground
from fibsim.fit.optimise import FitResult, FitSettings, fit_instrument
from fibsim.fit.resemble import Resemblance, resembling_kinds
from fibsim.fit.start import check_fittable, shallowest
from fibsim.material_file import named_material
from fibsim.materials import DEFAULT_SOLID
from fibsim.specimens import KINDS
from fibsim.stack import Stack

__all__ = ["fit_best_kind", "kinds_of_faces", "simplest", "usual_kind"]


def usual_kind(stack: Stack) -> str:
    """Pores of one level in a metal, as dealloying leaves them; grains in any other solid, as
    ceramics are sintered and electrodes pressed from them."""
    return "waves" if named_material(stack.material or DEFAULT_SOLID).kind == "metal" else "spheres"


def kinds_of_faces(stack: Stack, kinds: Sequence[str] = tuple(KINDS)) -> list[Resemblance]:
    """How well every kind of specimen resembles what is brightest in a stack, the closest first.

    A threshold finds milled faces only roughly, but how far and how evenly they reach tells one
    level of pores from two, and both from grains. No kind if the stack is too small or too even.
    Two-dimensional images do not tell: of three of a ceramic made of grains, none was closest to
    grains.
    """
    grey = grey_levels(stack)
    faces = bright_faces(shallowest(grey[:, : slices_above_ground(grey)], stack))
    try:
        return resembling_kinds(faces, stack.voxel_nm, kinds=kinds)
    except InputError:
        return []


def simplest(kinds: Sequence[Resemblance]) -> Resemblance:
    """The closest of some kinds, or one of fewer parameters that is as close, but for half of what
    chance makes: two levels of one size are as one level. Two draws of one kind tell chance only
    roughly, so that the median of all kinds is taken."""
    slack = float(np.median([kind.chance for kind in kinds])) / 2
    close = [kind for kind in kinds if kind.distance <= kinds[0].distance + slack]
    return min(close, key=lambda kind: len(kind.parameters))


def fit_best_kind(
    stack: Stack,
    *,
    key: jax.Array,
    settings: FitSettings,
    kinds: Sequence[str] | None = None,
    progress: Callable[[str, int, int, str], None] | None = None,
) -> FitResult:
    """Fit with the kind that the stack names, else with the `simplest` that resembles it.

    Args:
        kinds: candidates; if not given, all of `fibsim.specimens.KINDS`, but `usual_kind` alone of
            fewer than four slices, which do not tell kinds apart.
        progress: called with (kind, step, steps, text).

    Raises:
        InputError: as `fit_instrument`.
    """
    check_fittable(stack)
    if stack.specimen is not None:
        kinds = (stack.specimen,)
    elif stack.num_slices < FEW_SLICES:
        kinds = kinds or (usual_kind(stack),)
    kinds = tuple(kinds or KINDS)
    # Of few slices the faces tell sizes, too, that nothing else may.
    asked = len(kinds) > 1 or stack.num_slices < FEW_SLICES
    found = kinds_of_faces(stack, kinds) if asked else []
    chosen = simplest(found) if found else None
    kind = chosen.kind if chosen else kinds[0]

    def report(step: int, steps: int, text: str) -> None:
        if progress is not None:
            progress(kind, step, steps, text)

    fit = fit_instrument(
        stack,
        key=key,
        kind=kind,
        specimen=chosen.parameters if chosen else None,
        settings=settings,
        progress=report,
    )
    return dataclasses.replace(fit, kinds=tuple(found) if len(kinds) > 1 else ())
