"""Speed of the forward model: voxels per second per channel, forward and gradient.

Command: ``python benchmarks/render.py``. Times are medians over repeats in this very run, and are
printed as ratios to a copy of the same number of bytes, the least that any pass over the volume
must do. Compilation is timed apart.
"""

import statistics
import time

import jax
import jax.numpy as jnp

from fibsim.presets import make_instrument
from fibsim.simulate import expected_stack
from fibsim.specimens import make

REPEATS = 5
SUBLAYERS = 3


def median_seconds(function, *args) -> float:
    """Median wall time of a call whose result is waited for."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    instrument = make_instrument(beam_kev=[1.0, 2.0, 5.0])
    print("stack          copy ms  forward ms   x copy  Mvoxel/s/channel  grad/forward  compile s")
    for slices, side in ((16, 64), (24, 128), (48, 128), (48, 256)):
        layers = (slices + 6) * SUBLAYERS
        specimen = make(
            "waves",
            key=jax.random.key(0),
            shape=(layers, side, side),
            voxel_nm=(10.0 / SUBLAYERS, 4.0, 4.0),
            ligament_nm=35.0,
        )

        def forward(i, s, slices=slices):
            return expected_stack(s, i, num_slices=slices, sublayers=SUBLAYERS, below_slices=6)

        gradient = jax.jit(
            jax.grad(lambda i, s, f=forward: jnp.sum(f(i, s) ** 2), argnums=(0, 1), allow_int=True)
        )
        started = time.perf_counter()
        jax.block_until_ready(forward(instrument, specimen))
        jax.block_until_ready(gradient(instrument, specimen))
        compiled = time.perf_counter() - started
        copy = jax.jit(lambda v: v + 1.0)
        three = jnp.broadcast_to(specimen.solid, (3, *specimen.solid.shape)) + 0.0
        jax.block_until_ready(copy(three))
        t_copy = median_seconds(copy, three)
        t_forward = median_seconds(forward, instrument, specimen)
        t_gradient = median_seconds(gradient, instrument, specimen)
        rate = layers * side * side * 3 / t_forward / 1e6
        print(
            f"{slices:3d} x {side:3d}^2 {t_copy * 1e3:10.1f} {t_forward * 1e3:11.1f} "
            f"{t_forward / t_copy:8.1f} {rate:17.1f} {t_gradient / t_forward:13.1f} "
            f"{compiled:10.1f}"
        )


if __name__ == "__main__":
    main()
