"""Images and volume fractions moved by parts of a pixel."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from fibsim.resample import shift_fractions, shift_lateral

SIZE = 24
SHIFTS = (-3.7, -0.5, 0.13, 0.5, 0.86, 2.0)


def moved(shift, values, shift_px, axis=0, periodic=True):
    """``values`` is one image."""
    axis = axis - 2
    return np.asarray(shift(jnp.asarray(values)[None], shift_px, axis=axis, periodic=periodic))[0]


def walls(at: float, rising: bool) -> np.ndarray:
    """Means over pixels of a wall whose border lies at ``at``; the other lies far away."""
    upper = np.clip(np.arange(1, SIZE + 1) - at, 0, 1) - np.clip(
        np.arange(1, SIZE + 1) - 20.25, 0, 1
    )
    return np.tile((upper if rising else 1 - upper)[:, None], (1, 3))


@pytest.mark.parametrize("shift_px", SHIFTS)
def test_images_of_cubics_are_moved_exactly(shift_px):
    """Keys' six-pixel kernel is of fourth order: its error begins with the fourth power."""
    y = np.arange(SIZE)[:, None] - 11.0

    def cubic(y):
        return 3 - y + 0.2 * y**2 - 0.01 * y**3

    there = moved(shift_lateral, cubic(y), shift_px, periodic=False)
    np.testing.assert_allclose(there[8:-8], cubic(y + shift_px)[8:-8], rtol=2e-5, atol=2e-5)


def test_images_moved_by_half_a_pixel_keep_their_detail():
    """A wave of n pixels keeps ``sum of weights cos(2 pi (k - 1/2) / n)``."""
    near, middle, far = 7 / 12, -3 / 32, 1 / 96
    for n in (12, 6, 4, 3):
        angle = np.pi / n
        kept = 2 * (near * np.cos(angle) + middle * np.cos(3 * angle) + far * np.cos(5 * angle))
        y = np.arange(SIZE)[:, None]
        wave = moved(shift_lateral, np.cos(2 * np.pi * y / n), 0.5)
        np.testing.assert_allclose(wave, kept * np.cos(2 * np.pi * (y + 0.5) / n), atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shift", [shift_lateral, shift_fractions])
def test_whole_pixels_are_moved_exactly(shift, axis):
    values = np.random.default_rng(0).uniform(size=(SIZE, SIZE)).astype(np.float32)
    np.testing.assert_array_equal(moved(shift, values, 5.0, axis), np.roll(values, -5, axis))
    held = np.take(values, np.minimum(np.arange(SIZE) + 5, SIZE - 1), axis)
    np.testing.assert_array_equal(moved(shift, values, 5.0, axis, periodic=False), held)


@pytest.mark.parametrize("rising", [True, False])
@pytest.mark.parametrize("shift_px", SHIFTS)
def test_fractions_of_walls_are_moved_exactly(shift_px, rising):
    """What lies in displaced pixels is the same wall cut by them, wherever its borders lie in
    them; a cubic convolution misses it by a twentieth."""
    for at in (8.0, 8.3, 8.5, 8.9):
        there = moved(shift_fractions, walls(at, rising), shift_px)
        edge = np.clip(np.arange(1, SIZE + 1) + shift_px - at, 0, 1)
        expected = edge if rising else 1 - edge
        np.testing.assert_allclose(there[4:13, 0], expected[4:13], atol=1e-6)
        if shift_px % 1:
            blurred = moved(shift_lateral, walls(at, rising), shift_px)
            assert np.abs(blurred[4:13, 0] - expected[4:13]).max() > 0.03


@pytest.mark.parametrize("shift_px", SHIFTS)
def test_fractions_are_conserved_and_stay_fractions(shift_px):
    rng = np.random.default_rng(1)
    for fraction in (rng.uniform(size=(SIZE, SIZE)), rng.uniform(size=(SIZE, SIZE)) > 0.5):
        fraction = fraction.astype(np.float32)
        there = moved(shift_fractions, fraction, shift_px)
        np.testing.assert_allclose(there.sum(0), fraction.sum(0), rtol=1e-5)
        assert there.min() >= -1e-6 and there.max() <= 1 + 1e-6


@pytest.mark.parametrize("shift_px", SHIFTS)
def test_phases_share_what_they_fill(shift_px):
    """Dense phases stay dense, an even mixture moves as one phase does."""
    rng = np.random.default_rng(3)
    filled = np.clip(rng.normal(0.5, 1, (SIZE, SIZE)), 0, 1).astype(np.float32)
    one = moved(shift_fractions, filled, shift_px)

    def phases(*each):
        return np.asarray(shift_fractions(jnp.stack(each), shift_px, axis=-2, periodic=True))

    np.testing.assert_allclose(phases(filled, 1 - filled)[0], one, atol=1e-6)
    np.testing.assert_allclose(phases(filled, 1 - filled).sum(0), 1, atol=1e-6)
    mixed = phases(0.2 * filled, 0.3 * filled, 0.5 * filled)
    np.testing.assert_allclose(mixed, np.multiply.outer([0.2, 0.3, 0.5], one), atol=1e-6)
    three = rng.dirichlet((0.3, 0.3, 0.3, 0.3), (SIZE, SIZE)).astype(np.float32)
    there = phases(*np.moveaxis(three[..., :3], -1, 0))
    np.testing.assert_allclose(there.sum((0, 1)), three[..., :3].sum((0, 2)), rtol=1e-5)
    assert there.min() >= -1e-6 and there.sum(0).max() <= 1 + 1e-6


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("shift", [shift_lateral, shift_fractions])
def test_gradients_are_those_of_differences(enable_x64, shift, periodic):
    rng = np.random.default_rng(2)
    values, weights = rng.uniform(size=(2, 2, 8, 5))
    values = values / 2

    def total(values, shift_px):
        return jnp.sum(weights * shift(values, shift_px, axis=-2, periodic=periodic))

    for shift_px in (-1.3, 0.42):
        check_grads(total, (values, shift_px), order=1, modes=("rev",), eps=1e-7, rtol=1e-5)
