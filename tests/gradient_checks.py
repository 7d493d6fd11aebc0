"""Automatic gradients against central differences, in double precision.

Run by `test_gradients.py` in a process of its own, since double precision is a switch of the
whole process: ``JAX_ENABLE_X64=1 python gradient_checks.py``. Prints one line per check and
exits with status 1 if any failed.
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np

import fibsim
from fibsim.fit import (
    RegressionSettings,
    default_unknowns,
    expected_faces,
    robust_loss,
    start_point,
)
from fibsim.fit.robust import Crop, Known, RunPrior, SliceMilling, regression_objective
from fibsim.instrument import leaves_by_name, replace_by_name
from fibsim.materials import material
from fibsim.milling import Milling, nominal_milling
from fibsim.noise import log_likelihood, noise_skewness, noise_variance
from fibsim.specimens import Specimen, make_specimen

TOLERANCE = 1e-4
SHAPE, SLICES = (12, 24, 24), 3
UNUSED = ("noise.", "faults.")
# No value is special: no layer's centre falls on a voxel's centre, no shift on a whole pixel.
GEOMETRY = {"geometry.tilt_deg": 33.7, "geometry.slice_nm": 9.7, "geometry.pixel_nm": 4.1}
VOXEL_NM = (5.3, 4.1, 4.1)


def solid_fraction(rng):
    z, y, x = np.meshgrid(*(np.arange(n) * 2 * np.pi / n for n in SHAPE), indexing="ij")
    field = np.zeros(SHAPE)
    for kz, ky, kx in ((1, 2, 1), (1, 1, -2), (0, 2, 2), (1, -2, 1), (1, 0, 3)):
        field += np.cos(kz * z + ky * y + kx * x + rng.uniform(0, 6))
    return 1 / (1 + np.exp(-2 * field))


def typed(tree):
    """Every number as an array that its moved neighbours are alike: one program serves all."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, float)), tree)


def instrument(rng):
    base = fibsim.make_instrument(beam_kev=(1.3, 4.7), detectors=("SE", "BSE"))
    values = {}
    stated = ("detector.gamma", "detector.astigmatism", "detector.astigmatism_diagonal")
    for path, leaf in leaves_by_name(base).items():
        if path in stated:
            continue
        wobble = 1 + 0.07 * rng.uniform(-1, 1, leaf.shape)
        values[path] = jnp.asarray(GEOMETRY.get(path, leaf * wobble))
    values["detector.se_fraction"] = jnp.asarray([0.83, 0.12])
    values["detector.gamma"] = jnp.asarray([1.11, 0.87])
    values["detector.astigmatism"] = jnp.asarray([0.21, -0.13])
    values["detector.astigmatism_diagonal"] = jnp.asarray([-0.17, 0.24])
    return typed(replace_by_name(base, values))


def milling(rng):
    return Milling(
        thickness_nm=jnp.asarray([8.3, 11.9, 9.1]),
        drift_nm=jnp.asarray(rng.uniform(0.7, 3.1, (SLICES, 2))),
        brightness=jnp.asarray(rng.uniform(0.9, 1.1, SLICES)),
        curtain=jnp.asarray(rng.uniform(0.9, 1.1, (SLICES, SHAPE[2]))),
        line=jnp.asarray(rng.normal(size=(SLICES, SHAPE[1]))),
    )


# Horizons are maxima over neighbours, so the model is smooth only in pieces: a long step crosses
# some of their borders, a short one drowns a weak slope in rounding. One of them must agree.
STEPS = (1e-5, 1e-4, 1e-6, 1e-7)


def central_difference(value, leaf, index, relative_step):
    """Slope of ``value`` of one component of ``leaf``."""
    leaf = np.array(leaf, float)
    step = relative_step * max(abs(leaf[index]), 0.1)
    sides = []
    for sign in (1, -1):
        moved = leaf.copy()
        moved[index] += sign * step
        sides.append(float(value(jnp.asarray(moved))))
    return (sides[0] - sides[1]) / (2 * step)


def check(name, value, leaf, gradient, indices):
    """Compare components; a vanishing slope would prove nothing and counts as a failure.

    A component's error is relative to its slope, or to a hundredth of the steepest one's: the
    rounding of the function's value is the same for all.
    """
    found = np.asarray([float(gradient[index]) for index in indices])
    worst = np.inf
    for step in STEPS:
        slopes = np.asarray([central_difference(value, leaf, index, step) for index in indices])
        scale = np.maximum(np.abs(slopes), 0.01 * np.abs(slopes).max())
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = np.abs(found - slopes) / scale
        worst = min(worst, np.max(np.where(np.isfinite(errors) & (slopes != 0), errors, np.inf)))
        if worst < TOLERANCE:
            break
    good = bool(worst < TOLERANCE)
    print(f"{'ok' if good else 'WRONG'}  {name}: {worst:.1e}")
    return good


def check_tree(prefix, tree, value, gradient, limit):
    """Every leaf of a pytree; up to ``limit`` components of each, spread over it."""
    good, slopes = [], leaves_by_name(gradient)
    for path, leaf in leaves_by_name(tree).items():
        if path.startswith(UNUSED):
            zero = bool(np.all(np.asarray(slopes[path]) == 0))
            print(f"{'ok' if zero else 'WRONG'}  {prefix}{path}: not used, gradient zero")
            good.append(zero)
            continue
        flat = np.linspace(0, leaf.size - 1, min(leaf.size, limit)).astype(int)
        indices = [np.unravel_index(i, leaf.shape) for i in flat]

        def moved(new, path=path):
            return value(replace_by_name(tree, {path: new}))

        good.append(check(prefix + path, moved, leaf, slopes[path], indices))
    return good


def check_stack():
    """A random linear functional of the expected stack: instrument, milling and specimen."""
    rng = np.random.default_rng(3)
    solid, lens, run = solid_fraction(rng), instrument(rng), milling(rng)
    specimen = make_specimen(solid, voxel_nm=VOXEL_NM, periodic=True)
    weights = jnp.asarray(rng.normal(size=(2, SLICES, *SHAPE[1:])))

    def functional(solid, lens, run):
        images = fibsim.expected_stack(
            dataclasses.replace(specimen, solid=solid),
            lens,
            run,
            num_slices=SLICES,
            sublayers=2,
            below_slices=2,
        )
        return jnp.sum(weights * images)

    value = jax.jit(functional)
    gradient = jax.jit(jax.grad(functional, argnums=(0, 1, 2)))(specimen.solid, lens, run)
    # The five slices that are looked through end above the specimen's last layers.
    inside = np.argwhere((solid[:9] > 0.2) & (solid[:9] < 0.8))
    voxels = [tuple(i) for i in inside[rng.choice(len(inside), 8, replace=False)]]
    good = [
        check("solid", lambda s: value(s, lens, run), specimen.solid, gradient[0], voxels),
    ]
    good += check_tree("", lens, lambda new: value(specimen.solid, new, run), gradient[1], 2)
    good += check_tree(
        "milling.", run, lambda new: value(specimen.solid, lens, new), gradient[2], 6
    )
    return good


def check_phases():
    """A specimen of gold, resin and open pore: its fractions and the second material."""
    rng = np.random.default_rng(5)
    share = rng.uniform(0.2, 0.8, SHAPE)
    phases = jnp.asarray(solid_fraction(rng) * np.stack([share, 1 - share]))
    lens = instrument(rng)
    lens = dataclasses.replace(lens, other_phases=(typed(material("resin")),))
    weights = jnp.asarray(rng.normal(size=(2, SLICES, *SHAPE[1:])))

    def functional(phases, other):
        images = fibsim.expected_stack(
            Specimen(solid=phases, voxel_nm=VOXEL_NM, periodic=True),
            dataclasses.replace(lens, other_phases=(other,)),
            num_slices=SLICES,
            sublayers=2,
            below_slices=2,
        )
        return jnp.sum(weights * images)

    value, other = jax.jit(functional), lens.other_phases[0]
    gradient = jax.jit(jax.grad(functional, argnums=(0, 1)))(phases, other)
    voxels = [(p, *rng.integers(0, (9, *SHAPE[1:]))) for p in (0, 1, 0, 1)]
    good = [check("phases", lambda new: value(new, other), phases, gradient[0], voxels)]
    return good + check_tree("resin.", other, lambda new: value(phases, new), gradient[1], 1)


def check_regression():
    """The robust objective of a segmented stack: every unknown, slice and misfit."""
    rng = np.random.default_rng(6)
    lens = instrument(rng)
    unknowns = default_unknowns(tilt_known=False)
    how = RegressionSettings(below_slices=2, sublayers=2, margin_px=3, prior_weight=0.01)
    free = {
        "unknowns": start_point(lens, {}, unknowns),
        "slices": SliceMilling(
            thickness=jnp.asarray([0.4, -0.7, 0.3, 0.9, -0.2]),
            drift=jnp.asarray(rng.uniform(0.2, 0.8, (5, 2))),
            brightness=jnp.asarray(rng.normal(size=5)),
        ),
        "misfit": jnp.asarray([1.3, 2.1]),
        "level": jnp.asarray(0.02),
    }
    free = typed(free)
    # A field that nowhere reaches a full or an empty pixel, whose slope is not continuous.
    field = 0.9 * (solid_fraction(rng)[:6] - 0.5)
    crop = Crop(
        field=jnp.asarray(field),
        rows=np.asarray([0, 1, 2, 3, 4, 3]),
        grey=jnp.asarray(rng.uniform(20, 200, (2, SLICES, *SHAPE[1:]))),
        weight=jnp.asarray(rng.uniform(size=(SLICES, *SHAPE[1:]))),
    )
    known = Known(
        instrument=lens,
        origin={k: v + 0.1 for k, v in free["unknowns"].items()},
        misfit=free["misfit"] - 0.2,
        surfaces=(jnp.full(6, 0.3), jnp.full(6, 0.5)),
        bulge=jnp.asarray(0.15),
        run=RunPrior(
            thickness=jnp.asarray(rng.uniform(0.8, 1.2, 5)),
            thickness_sd=jnp.asarray(rng.uniform(0.05, 0.2, 5)),
            drift=jnp.asarray(rng.uniform(-0.2, 0.2, (5, 2))),
            drift_sd=jnp.asarray(rng.uniform(0.5, 1.0, (5, 2))),
        ),
    )
    model = (tuple(unknowns.items()), how)
    value = jax.jit(lambda free: regression_objective(free, known, crop, model))
    gradient = jax.jit(jax.grad(value))(free)
    good = []
    for part, limit in (("unknowns", 1), ("misfit", 2), ("level", 1)):
        leaves = free[part] if part == "unknowns" else {part: free[part]}
        slopes = gradient[part] if part == "unknowns" else {part: gradient[part]}
        for name, leaf in leaves.items():
            flat = [np.unravel_index(i, leaf.shape) for i in range(min(leaf.size, limit))]

            def moved(new, part=part, name=name):
                changed = {**free[part], name: new} if part == "unknowns" else new
                return value({**free, part: changed})

            good.append(check(f"regression, {name}", moved, leaf, slopes[name], flat))
    for name, leaf in leaves_by_name(free["slices"]).items():

        def moved(new, name=name):
            return value({**free, "slices": replace_by_name(free["slices"], {name: new})})

        rows = [(0,), (2,)] if leaf.ndim == 1 else [(1, 0), (3, 1)]
        good.append(
            check(f"regression, {name}", moved, leaf, getattr(gradient["slices"], name), rows)
        )
    return good


def check_refinement():
    """The robust loss of a volume between whose faces the logit is interpolated."""
    rng = np.random.default_rng(8)
    lens = instrument(rng)
    # Five steps below, the last one of two slices.
    logit = jnp.asarray(rng.normal(size=(SLICES + 7, *SHAPE[1:])))
    grey = jnp.asarray(rng.uniform(20, 200, (2, SLICES, *SHAPE[1:])))
    run = nominal_milling(lens, logit.shape)
    surfaces = (jnp.full(len(logit), 0.3), jnp.full(len(logit), 0.5))

    def functional(logit):
        expected = expected_faces(
            logit, lens, run, num_slices=SLICES, below_slices=5, sublayers=2, surfaces=surfaces,
            bulge=0.4, logit=True,
        )  # fmt: skip
        return jnp.sum(robust_loss(grey, expected, lens, jnp.asarray([5.0, 8.0])))

    value, gradient = jax.jit(functional), jax.jit(jax.grad(functional))(logit)
    # Of imaged faces, of one below them, and of two that bound the thicker step and lie in it.
    voxels = [(face, *rng.integers(0, SHAPE[1:])) for face in (0, 1, 2, 4, 7, 8)]
    return [check("refinement, logit", value, logit, gradient, voxels)]


def check_likelihood():
    """The likelihood of recorded grey values, black and white pixels among them."""
    rng = np.random.default_rng(4)
    signal = jnp.asarray(rng.uniform(0, 1.6, 200))
    grey = jnp.asarray(np.clip(rng.normal(120, 90, 200), 0, 255))
    values = dict(
        gain=131.0, offset=19.0, dose_electrons=23.0, read_grey=4.3, gamma=0.9, bunching=1.4
    )
    values = {name: jnp.asarray(value) for name, value in values.items()}

    @jax.jit
    def likelihood(values):
        mean = values["offset"] + values["gain"] * signal
        values = dict(values)
        read, bunching = values.pop("read_grey"), values.pop("bunching")
        variance = noise_variance(mean, read_grey=read, **values)
        skewness = noise_skewness(mean, variance, bunching=bunching, **values)
        return jnp.sum(log_likelihood(grey, mean, variance, 255.0, skewness))

    gradient = jax.grad(likelihood)(values)
    return [
        check(
            f"likelihood, {name}",
            lambda new, name=name: likelihood({**values, name: new}),
            values[name],
            gradient[name],
            [()],
        )
        for name in values
    ]


def main() -> int:
    if not jax.config.jax_enable_x64:
        print("set JAX_ENABLE_X64=1: single precision cannot resolve these differences")
        return 2
    good = check_stack() + check_phases() + check_regression() + check_likelihood()
    good += check_refinement()
    print(f"{sum(good)} of {len(good)} gradients agree within {TOLERANCE:g}")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
