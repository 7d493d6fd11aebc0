"""A 2D convolution whose gradient in its kernel is fast on CPUs too.

XLA computes that gradient as a convolution with a kernel as large as the image, at 2 to 4 times
the cost of the forward pass on a CPU. Here it is three matrix products, see `kernel_gradient`;
docs/performance.md has the figures. Everything else is XLA's own.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["convolve", "kernel_gradient"]

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _xla(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_LAYOUT)


@jax.custom_vjp
def convolve(
    x: Float[Array, "batch y x input"], kernel: Float[Array, "size size input output"]
) -> Float[Array, "batch y x output"]:
    """Convolve (cross-correlate) images with an odd square kernel; zeros lie beyond their borders.

    ``out[b, y, x] = sum_ij kernel[i, j]^T x[b, y + i - r, x + j - r]`` with ``r = size // 2``.
    Reverse-mode differentiable.
    """
    return _xla(x, kernel)


def kernel_gradient(
    x: Float[Array, "batch y x input"], slope: Float[Array, "batch y x output"], size: int
) -> Float[Array, "size size input output"]:
    """Gradient of ``sum(slope * convolve(x, kernel))`` in the kernel, as ``size`` matrix products.

    ``dK[i, j] = sum_p x[p + (i - r, j - r)]^T slope[p]``. Moving the sum along y, a shift of ``x``
    by ``i`` is one of ``slope`` by ``-i``; so the ``size`` shifts of ``slope`` side by side, times
    one shift of ``x`` along x, give a whole column ``j`` of kernels. Beside all shifts of ``x``
    (im2col) this copies 2/3 less, and no product is wasted.
    """
    rows, columns, radius = *x.shape[1:3], size // 2
    inputs, outputs = x.shape[-1], slope.shape[-1]
    tall = jnp.pad(slope, ((0, 0), (radius, radius), (0, 0), (0, 0)))
    shifts = [tall[:, size - 1 - i : size - 1 - i + rows] for i in range(size)]
    slopes = jnp.concatenate(shifts, axis=-1).reshape(-1, size * outputs)
    wide = jnp.pad(x, ((0, 0), (0, 0), (radius, radius), (0, 0)))
    products = [
        jnp.einsum("pc,po->co", wide[:, :, j : j + columns].reshape(-1, inputs), slopes)
        for j in range(size)
    ]
    return jnp.stack(products).reshape(size, inputs, size, outputs).transpose(2, 0, 1, 3)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _xla(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    x, kernel = saved
    (in_x,) = jax.linear_transpose(lambda x: _xla(x, kernel), x)(slope)

    def xla_gradient(x: Array, slope: Array) -> Array:
        return jax.linear_transpose(lambda kernel: _xla(x, kernel), kernel)(slope)[0]

    def as_products(x: Array, slope: Array) -> Array:
        return kernel_gradient(x, slope, kernel.shape[0])

    return in_x, jax.lax.platform_dependent(x, slope, cpu=as_products, default=xla_gradient)


convolve.defvjp(_forward, _backward)
