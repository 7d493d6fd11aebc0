"""The network's convolution and its gradient by matrix products: the same numbers as XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fibnet.convolution import convolve, kernel_gradient

pytestmark = pytest.mark.usefixtures("compiled_fast")

CASES = [(1, (2, 5, 7), 3, 4), (3, (2, 6, 5), 4, 3), (3, (3, 1, 2), 2, 2), (5, (1, 9, 6), 2, 5)]


def arrays(size, shape, inputs, outputs, dtype=None):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (*shape, inputs), dtype)
    kernel = jax.random.normal(keys[1], (size, size, inputs, outputs), dtype)
    return x, kernel, jax.random.normal(keys[2], (*shape, outputs), dtype)


def by_hand(x, kernel):
    """Sum over shifted images."""
    radius = len(kernel) // 2
    padded = np.pad(x, ((0, 0), (radius, radius), (radius, radius), (0, 0)))
    rows, columns = x.shape[1:3]
    return sum(
        padded[:, i : i + rows, j : j + columns] @ kernel[i, j]
        for i in range(len(kernel))
        for j in range(len(kernel))
    )


@pytest.mark.parametrize("case", CASES)
def test_convolution_is_a_sum_of_shifted_images(enable_x64, case):
    x, kernel, _ = arrays(*case)
    np.testing.assert_allclose(convolve(x, kernel), by_hand(x, np.asarray(kernel)), rtol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_finite_differences(enable_x64, case):
    """The convolution is linear in either argument: one difference of any length is exact."""
    x, kernel, slope = arrays(*case)

    def loss(x, kernel):
        return jnp.sum(slope * convolve(x, kernel))

    in_x, in_kernel = jax.grad(loss, argnums=(0, 1))(x, kernel)
    assert in_x.shape == x.shape and in_kernel.shape == kernel.shape
    for seed in range(3):
        way = arrays(*case)[:2]
        way = [jax.random.normal(jax.random.key(9 + seed), v.shape) for v in way]
        moved = loss(x + way[0], kernel) - loss(x - way[0], kernel)
        assert float(jnp.sum(in_x * way[0])) == pytest.approx(float(moved) / 2, rel=1e-9)
        moved = loss(x, kernel + way[1]) - loss(x, kernel - way[1])
        assert float(jnp.sum(in_kernel * way[1])) == pytest.approx(float(moved) / 2, rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_matrix_products_equal_the_transposed_convolution(case):
    """Of `kernel_gradient` itself, whatever the device takes, in single precision."""
    x, kernel, slope = arrays(*case, dtype=jnp.float32)
    _, pull = jax.vjp(lambda k: _xla(x, k), kernel)
    expected = pull(slope)[0]
    found = kernel_gradient(x, slope, case[0])
    np.testing.assert_allclose(found, expected, atol=1e-5 * float(jnp.abs(expected).max()))


def _xla(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
