"""The second stage of a fit: moments of the whole stack, and simulations that are to match them."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fibsim.fit.crops import crop_grid
from fibsim.fit.moments import make_gauges, moment_names, moment_tolerances, stack_moments
from fibsim.fit.problem import Problem
from fibsim.fit.refine import Refinement, RefineSettings, refine
from fibsim.fit.staged import MomentSimulator
from fibsim.fit.unknowns import Unknown
from fibsim.instrument import Instrument

__all__ = ["FEWEST_PIXELS", "MomentStage", "crop_shape", "prepare_moments"]

# As many independent crops of the stack as possible, yet of several features; about so many slices.
_SLICES, _SIDE_PX, _MOST_CROPS = 16, 128, 32

FEWEST_PIXELS = 16 * _SIDE_PX**2
"""Of an image, where too few slices show a tilt: moments of three single images of a quarter led
away from each."""


def crop_shape(slices: int, y: int, x: int) -> tuple[int, int, int]:
    """Of the crops whose moments are taken; the slices are shared out among them."""
    side = min(_SIDE_PX, y, x) // 2 * 2
    return slices // max(round(slices / _SLICES), 1), side, side


@dataclasses.dataclass(frozen=True, kw_only=True)
class MomentStage:
    """What `refine` is to match, and by what.

    Attributes:
        simulate: of crops like the recorded ones.
        recorded: moments, the mean over crops of the stack.
        crops: how many those are.
        tolerance: what a good model may miss of each moment.
        names: of the moments.
    """

    simulate: MomentSimulator
    recorded: Float[np.ndarray, " moment"]
    crops: int
    tolerance: Float[np.ndarray, " moment"]
    names: list[str]

    def match(
        self,
        free: Mapping[str, jax.Array],
        *,
        origin: Mapping[str, jax.Array],
        key: jax.Array,
        settings: RefineSettings,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> Refinement:
        """Gauss-Newton steps from the free variables given; see `refine`."""
        return refine(
            self.simulate,
            self.recorded,
            crops=self.crops,
            tolerance=self.tolerance,
            start=free,
            origin=origin,
            unknowns=self.simulate.unknowns,
            key=key,
            settings=settings,
            progress=progress,
        )


def prepare_moments(
    problem: Problem,
    grey: Float[np.ndarray, "channel slice y x"],
    instrument: Instrument,
    specimen: Mapping[str, jax.Array],
    unknowns: Mapping[str, Unknown],
    free: Mapping[str, jax.Array],
    *,
    key: jax.Array,
    whole: bool,
) -> MomentStage:
    """Moments of the recorded grey values, and their simulator, compiled.

    Args:
        problem: whose grid and kind of specimen are simulated, in crops of another shape.
        instrument, specimen: whose values hold but for the unknowns.
        free: any free variables, with which a first crop is simulated.
        key: of the filters among the moments.
        whole: whether the recorded grey values are whole numbers.
    """
    shape = crop_shape(*grey.shape[1:])
    crops = crop_grid(grey, shape, _MOST_CROPS, seed=0)
    # A few crops stand for all where quantiles are taken, of a stack of any size.
    gauges = make_gauges(
        np.concatenate(list(crops[:4]), axis=1),
        slice_nm=problem.slice_nm,
        pixel_nm=problem.pixel_nm,
        key=key,
    )
    wide = dataclasses.replace(problem, shape=shape)
    simulate = MomentSimulator(wide, instrument, specimen, unknowns, gauges, whole=whole)
    simulate(free, key[None])  # compiles it
    recorded = [stack_moments(jnp.asarray(crop), gauges) for crop in crops]
    of_channels = (grey.shape[0], *shape)
    return MomentStage(
        simulate=simulate,
        recorded=np.mean([np.asarray(moments) for moments in recorded], 0),
        crops=len(crops),
        tolerance=moment_tolerances(of_channels, gauges),
        names=moment_names(of_channels, gauges),
    )
