"""The refit of the instrument to a segmented stack, less what it gets wrong on a twin.

`fibsim.fit.bias` says why and how; here the twin is drawn. It tells as well by how much interfaces
seem to be displaced that are not.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fibnet.adapt import has_both_phases
from fibnet.data import draw_training_stack, drawn_stacks, size_like, source_of
from fibsim.fit import (
    RegressionResult,
    RegressionSettings,
    grey_levels,
    regress_instrument,
    regression_unknowns,
    run_as_seen,
    without_bias,
)
from fibsim.fit.start import tilt_is_held
from fibsim.instrument import Instrument
from fibsim.instrument_file import InstrumentFile
from fibsim.realign import MillingEstimate
from fibsim.stack import Stack, virtual_stack

__all__ = ["Refit", "refit"]

_TWIN = 10_000  # added to the seed: a specimen of its own


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refit:
    """What is known of an instrument after a stack was segmented.

    Attributes:
        found: by the regression on the stack. What lies between faces is interpolated there, and
            with this instrument images of such a volume are most like the recorded ones.
        instrument: found less the bias, for specimens as they are.
        level_px: by how many pixels all interfaces should lie further out of the solid, less what
            the twin's seem to be displaced by.
        bias: unknown -> how far off the regression was on the twin, in standard deviations of its
            prior; empty without a twin.
        twin_level_px: displacement found of the twin's interfaces.
    """

    found: RegressionResult
    instrument: Instrument
    level_px: float
    bias: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    twin_level_px: float = 0.0


def refit(
    stack: Stack,
    fraction: Float[np.ndarray, "slice y x"],
    content: InstrumentFile,
    *,
    prior: Instrument,
    run: MillingEstimate | None,
    settings: RegressionSettings,
    seed: int,
    progress: Callable[[int, int, str], None],
) -> Refit:
    """Regress the instrument on a segmented stack, and on a twin of what that found.

    The twin is a random specimen of the size of the stack, at most 48 x 128 x 128. Drawn without
    pores or without solid it says nothing, and the instrument stays as found.

    Args:
        fraction: solid fractions of ``stack``, the network's.
        content: the instrument where both regressions start, the specimen's kind and parameters,
            of which the twin is drawn, and its ground.
        prior: centre of the priors.
        run: the stack's slices as far as they are known (`fibsim.fit.run_as_seen`); the twin's are
            looked for here.
        progress: called with (done, total, text).

    Raises:
        InputError: as `fibsim.fit.regress_instrument`.
    """

    def regress(stack, fraction, run, ground, text):
        return regress_instrument(
            stack,
            fraction,
            content.instrument,
            prior=prior,
            run=run,
            ground=ground,
            settings=settings,
            seed=seed,
            progress=lambda step, steps, loss: progress(step, steps, f"{text}, loss {loss:.3f}"),
        )

    found = regress(stack, fraction, run, content.ground, "refit")
    size = size_like(stack.images.shape[1:])
    # The twin stands on the ground if it is as deep as the stack.
    ground = content.ground if size.slices == stack.num_slices else None
    twins = dataclasses.replace(content, instrument=found.instrument, ground=ground)
    source = dataclasses.replace(source_of(twins), spread=jnp.zeros(()))
    ((images, solid),) = drawn_stacks(
        source, size, draw=draw_training_stack, seed=_TWIN + seed, number=1
    )
    if not has_both_phases(solid):
        return Refit(found=found, instrument=found.instrument, level_px=found.level_px)
    # An unknown tilt is unknown of the twin as well.
    twin = dataclasses.replace(virtual_stack(images, found.instrument), tilt_deg=stack.tilt_deg)
    tilt_deg = float(content.instrument.geometry.tilt_deg)
    run = run_as_seen(twin, tilt_deg=tilt_deg, progress=progress)
    again = regress(twin, solid, run, ground, "refit of a twin")
    instrument, bias = without_bias(
        found.instrument,
        again.instrument,
        regression_unknowns(tilt_known=tilt_is_held(stack)),
        grey=grey_levels(stack),
    )
    return Refit(
        found=found,
        instrument=instrument,
        level_px=found.level_px - again.level_px,
        bias=bias,
        twin_level_px=again.level_px,
    )
