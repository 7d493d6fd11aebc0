"""Moments of simulated crops, whose parts are kept while what they depend on stays.

A slope of `fibsim.fit.refine` moves one unknown. Of some fifty, two thirds are of detector, noise
and shading, which need the electrons that leave the faces but not how they got out, and most of
the others leave the specimen as it is. So a simulation is three programs (`Problem.draw`, ``emit``
and ``record``), and what the first two made last is kept.
"""

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fibsim.fit.moments import Gauges, stack_moments
from fibsim.fit.problem import Problem
from fibsim.fit.unknowns import SPECIMEN_PREFIX, Unknown, apply_unknowns
from fibsim.instrument import Instrument
from fibsim.threads import map_in_threads

__all__ = ["MomentSimulator"]

# What `Problem.record` alone depends on.
_RECORDING = (
    "detector.",
    "noise.",
    "faults.flicker_sd",
    "faults.curtain_sd",
    "faults.line_grey",
)
# Crops that are kept: as many as a slope needs, and those of the other side of its quotient.
_KEPT = 4


class _Kept:
    """The last few results of a function, by name."""

    def __init__(self, most: int):
        self._most = most
        self._values: OrderedDict[Hashable, jax.Array] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: Hashable, make: Callable[[], jax.Array]) -> jax.Array:
        with self._lock:
            if name in self._values:
                self._values.move_to_end(name)
                return self._values[name]
        made = make()
        with self._lock:
            self._values[name] = made
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        return made


def _name(free: Mapping[str, jax.Array], wanted: Callable[[str], bool]) -> bytes:
    return b"".join(np.asarray(v).tobytes() for name, v in sorted(free.items()) if wanted(name))


class MomentSimulator:
    """Free variables and keys -> moments of one simulated crop per key.

    Attributes:
        problem: the crops.
        instrument, specimen: whose values hold but for the unknowns.
        unknowns: of the free variables.
        gauges: of the moments.
        whole: whether grey values are whole numbers.
    """

    def __init__(
        self,
        problem: Problem,
        instrument: Instrument,
        specimen: Mapping[str, jax.Array],
        unknowns: Mapping[str, Unknown],
        gauges: Gauges,
        *,
        whole: bool,
    ):
        self.problem = problem
        self.instrument = instrument
        self.specimen = specimen
        self.unknowns = unknowns
        self.gauges = gauges
        self.whole = whole
        self._solids, self._emissions = _Kept(_KEPT), _Kept(_KEPT)

    def __call__(
        self, free: Mapping[str, jax.Array], keys: jax.Array
    ) -> Float[np.ndarray, "key moment"]:
        instrument, specimen = apply_unknowns(free, self.instrument, self.specimen, self.unknowns)
        of_specimen = _name(free, lambda name: name.startswith(SPECIMEN_PREFIX))
        of_emission = _name(free, lambda name: not name.startswith(_RECORDING))

        def one(key):
            drawn = np.asarray(jax.random.key_data(key)).tobytes()

            def solid():
                make = functools.partial(self.problem.draw, specimen, key)
                return self._solids.get((of_specimen, drawn), make)

            def emission():
                return self.problem.emit(instrument, solid(), key)

            faces = self._emissions.get((of_emission, drawn), emission)
            images = self.problem.record(instrument, faces, key)
            return np.asarray(
                stack_moments(jnp.round(images) if self.whole else images, self.gauges)
            )

        return np.stack(map_in_threads(one, keys))
