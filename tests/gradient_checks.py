"""Gradients of the forward model against central differences, in float64; run by test_gradients.

A process of its own, because float64 is a switch of the whole process.
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np

from fibsim.instrument import leaves_by_name, replace_by_name
from fibsim.milling import Milling
from fibsim.noise import log_likelihood, noise_variance
from fibsim.presets import make_instrument
from fibsim.simulate import expected_stack
from fibsim.specimens import Specimen

BOUND = 1e-4
SLICES, SIDE, SUBLAYERS, BELOW = 3, 12, 2, 2
SHAPE = (2, SLICES, SIDE, SIDE)


def instrument():
    """Two channels, a BSE among them, and no special values anywhere."""
    base = make_instrument(
        beam_kev=[1.3, 4.1], detectors=["SE", "BSE"], pixel_nm=3.7, slice_nm=9.1, tilt_deg=33.7
    )
    return replace_by_name(
        base,
        {
            "detector.se_fraction": jnp.asarray([0.9, 0.15]),
            "interaction.edge_gain": jnp.asarray(0.4),
        },
    )


def specimen(rng):
    solid = rng.uniform(0.2, 0.8, (2 * (SLICES + BELOW), SIDE, SIDE))
    return Specimen(solid=jnp.asarray(solid), voxel_nm=(4.3, 3.7, 3.7), periodic=True)


def milling(rng):
    return Milling(
        thickness_nm=jnp.asarray(rng.uniform(7.0, 11.0, SLICES)),
        drift_nm=jnp.asarray(rng.uniform(-3.0, 3.0, (SLICES, 2))),
        brightness=jnp.asarray(rng.uniform(0.9, 1.1, SLICES)),
        curtain=jnp.asarray(rng.uniform(0.9, 1.1, (SLICES, SIDE))),
        line=jnp.asarray(rng.normal(0, 2, (SLICES, SIDE))),
    )


def compare(name: str, function, value, gradient, rng) -> float:
    """Relative error of ``gradient . direction`` against a central difference."""
    direction = jnp.asarray(rng.normal(size=np.shape(value)))
    exact = float(jnp.sum(gradient * direction))
    step = 1e-5 * max(float(jnp.max(jnp.abs(value))), 1e-2)
    difference = float(
        (function(value + step * direction) - function(value - step * direction)) / (2 * step)
    )
    error = abs(exact - difference) / max(abs(difference), abs(exact), 1e-12)
    print(f"{name:32s} {exact: .8e} {difference: .8e} {error:.1e}")
    return error


def check_expected(rng) -> dict[str, float]:
    scope, scene, run = instrument(), specimen(rng), milling(rng)
    weights = jnp.asarray(rng.normal(size=SHAPE))

    @jax.jit
    def functional(scope, solid, run):
        images = expected_stack(
            dataclasses.replace(scene, solid=solid),
            scope,
            run,
            num_slices=SLICES,
            sublayers=SUBLAYERS,
            below_slices=BELOW,
        )
        return jnp.sum(weights * images)

    parts = (scope, scene.solid, run)
    gradients = jax.jit(jax.grad(functional, argnums=(0, 1, 2)))(*parts)
    errors = {}
    names = leaves_by_name(scope)
    for name, leaf in leaves_by_name(gradients[0]).items():
        if name.startswith(("noise.", "faults.")):
            errors[name] = float(jnp.max(jnp.abs(leaf)))  # they do not enter: exactly zero
            continue
        errors[name] = compare(
            name,
            lambda v, n=name: functional(replace_by_name(scope, {n: v}), scene.solid, run),
            names[name],
            leaf,
            rng,
        )
        if not np.any(np.asarray(leaf)):
            errors[name] = np.inf  # a parameter that does nothing
    errors["solid"] = compare(
        "solid", lambda v: functional(scope, v, run), scene.solid, gradients[1], rng
    )
    for i in rng.integers(0, scene.solid.size, 6):
        place = np.unravel_index(i, scene.solid.shape)
        unit = jnp.zeros_like(scene.solid).at[place].set(1.0)
        step = 1e-5
        difference = float(
            functional(scope, scene.solid + step * unit, run)
            - functional(scope, scene.solid - step * unit, run)
        ) / (2 * step)
        exact = float(gradients[1][place])
        scale = float(jnp.sqrt(jnp.mean(gradients[1] ** 2)))
        errors[f"solid{place}"] = abs(exact - difference) / max(abs(exact), 0.01 * scale)
    for field in dataclasses.fields(Milling):
        errors[f"milling.{field.name}"] = compare(
            f"milling.{field.name}",
            lambda v, n=field.name: functional(
                scope, scene.solid, dataclasses.replace(run, **{n: v})
            ),
            getattr(run, field.name),
            getattr(gradients[2], field.name),
            rng,
        )
    return errors


def check_likelihood(rng) -> dict[str, float]:
    mean = jnp.asarray(rng.uniform(20, 240, 200))
    grey = jnp.asarray(np.clip(rng.normal(mean, 20), 0, 255))  # some saturated

    def total(values):
        variance = noise_variance(
            mean,
            gain=values["gain"],
            offset=values["offset"],
            dose_electrons=values["dose"],
            read_grey=values["read"],
        )
        return jnp.sum(log_likelihood(grey, mean, variance, jnp.asarray(255.0)))

    values = {"gain": 80.0, "offset": 11.3, "dose": 43.0, "read": 7.1}
    values = {k: jnp.asarray(v) for k, v in values.items()}
    gradient = jax.grad(total)(values)
    return {
        f"likelihood.{k}": compare(
            f"likelihood.{k}", lambda v, k=k: total(values | {k: v}), values[k], gradient[k], rng
        )
        for k in values
    }


def main() -> int:
    if not jax.config.jax_enable_x64:
        print("run with JAX_ENABLE_X64=1")
        return 2
    rng = np.random.default_rng(7)
    errors = check_expected(rng) | check_likelihood(rng)
    bad = {k: v for k, v in errors.items() if not v < BOUND}
    print(f"{len(errors)} gradients, worst relative error {max(errors.values()):.1e}")
    for name, error in bad.items():
        print(f"WRONG: {name} {error:.2e}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
