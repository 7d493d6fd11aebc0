"""What a fit simulates: crops of one size and kind of specimen, and how far they are from real."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from fibsim.fit.crops import random_crop
from fibsim.fit.simulated import draw_sample, draw_specimen
from fibsim.fit.start import unshaded
from fibsim.fit.statistics import patch_filters, patch_responses, sliced_wasserstein
from fibsim.layers import grid_below
from fibsim.recording import record_emission
from fibsim.simulate import Sample, add_noise, draw_run, emitted_stack
from fibsim.specimens.specimen import Specimen
from fibsim.threads import map_in_threads

__all__ = ["Problem", "patch_distance"]

_HELD_OUT_PAIRS = 8


@functools.partial(jax.jit, static_argnums=2)
def patch_distance(real: jax.Array, other: jax.Array, depth: int, key: jax.Array) -> jax.Array:
    """Mean sliced Wasserstein distance of the patches of two crops ``(channel, slice, y, x)``.

    Args:
        depth: slices in a patch, static.
        key: of the random filters.
    """
    filters = patch_filters(key=key, channels=real.shape[0], depth=depth)
    responses = (patch_responses(crop, filters) for crop in (real, other))
    return jnp.mean(sliced_wasserstein(*responses))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """The static side of a fit's simulations, so that jit sees only arrays.

    Compared by value, and of nothing that compiles the same: a second fit of a kind to a stack, or
    one of other length, compiles nothing.

    Attributes:
        kind: of specimen.
        sublayers, below_slices: as for `fibsim.expected_stack`.
        shape: of a crop, (slice, y, x).
        slice_nm, pixel_nm: its grid.
    """

    kind: str
    sublayers: int
    below_slices: int
    shape: tuple[int, int, int]
    slice_nm: float
    pixel_nm: float

    @property
    def depth(self) -> int:
        """Slices in a patch."""
        return min(3, self.shape[0])

    def distance(self, real: jax.Array, simulated: jax.Array, key: jax.Array) -> jax.Array:
        return patch_distance(real, simulated, self.depth, key)

    @functools.partial(jax.jit, static_argnums=0)
    def simulate(self, instrument, specimen, key, ground_nm=np.inf) -> Sample:
        return draw_sample(
            instrument, specimen, key=key, ground_nm=ground_nm, **dataclasses.asdict(self)
        )

    def bare(self, instrument, specimen, key) -> np.ndarray:
        """What `simulate` expects without noise, flicker, curtains and lines."""
        return np.asarray(self.simulate(unshaded(instrument), specimen, key).expected)

    @property
    def _grid(self):
        """Layers and pixels of a specimen, and their size."""
        return grid_below(
            self.shape,
            slice_nm=self.slice_nm,
            pixel_nm=self.pixel_nm,
            sublayers=self.sublayers,
            below_slices=self.below_slices,
        )

    # The same in three programs, of which each needs less of the unknowns; see
    # `fibsim.fit.staged`.

    @functools.partial(jax.jit, static_argnums=0)
    def draw(self, specimen, key) -> jax.Array:
        """The specimen of `simulate`."""
        key_specimen, _ = jax.random.split(key)
        grid, voxel_nm = self._grid
        return draw_specimen(self.kind, specimen, key=key_specimen, shape=grid, voxel_nm=voxel_nm)

    @functools.partial(jax.jit, static_argnums=0)
    def emit(self, instrument, solid, key) -> jax.Array:
        """The electrons that leave its faces."""
        _, key_stack = jax.random.split(key)
        milling, _ = draw_run(instrument, self.shape, key=key_stack)
        return emitted_stack(
            Specimen(solid=solid, voxel_nm=self._grid[1], periodic=True),
            instrument,
            milling,
            num_slices=self.shape[0],
            sublayers=self.sublayers,
            below_slices=self.below_slices,
        )

    @functools.partial(jax.jit, static_argnums=0)
    def record(self, instrument, emission, key) -> jax.Array:
        """The images that a detector makes of them."""
        _, key_stack = jax.random.split(key)
        milling, key_noise = draw_run(instrument, self.shape, key=key_stack)
        expected = record_emission(emission, instrument, milling, periodic=True)
        return add_noise(expected, instrument, key=key_noise)

    def held_out_distance(self, instrument, specimen, held, starts, key) -> float:
        """Mean over pairs of held-out crops and simulations, with keys of their own."""

        def distance(one: jax.Array) -> float:
            crop, filters, sample = jax.random.split(one, 3)
            real = random_crop(held, starts, self.shape, crop)
            simulated = self.simulate(instrument, specimen, sample).images
            return float(self.distance(real, simulated, filters))

        return float(np.mean(map_in_threads(distance, jax.random.split(key, _HELD_OUT_PAIRS))))

    def real_distance(self, fitted, fitted_starts, held, held_starts, key) -> float:
        """The same between crops of the fitted and of the held-out part."""

        def distance(one: jax.Array) -> float:
            a, b, filters = jax.random.split(one, 3)
            real = random_crop(held, held_starts, self.shape, a)
            other = random_crop(fitted, fitted_starts, self.shape, b)
            return float(self.distance(real, other, filters))

        return float(np.mean(map_in_threads(distance, jax.random.split(key, _HELD_OUT_PAIRS))))
