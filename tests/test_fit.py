"""First guesses, the patch statistics, and a short label-free fit that must get closer."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fibsim.errors import InputError
from fibsim.fit import (
    FitSettings,
    RefineSettings,
    check_fittable,
    default_unknowns,
    draw_sample,
    fit_best_kind,
    fit_instrument,
    grey_levels,
    instrument_file_of,
    optimise,
    patch_distance,
    specimen_unknowns,
    standard_errors,
    statements,
    table_of_unknowns,
)
from fibsim.fit.choose import simplest
from fibsim.fit.descent import limited_adam
from fibsim.fit.doubts import image_warnings, likely_swapped, likely_tilt
from fibsim.fit.first_guess import guess_tilt_deg
from fibsim.fit.resemble import Resemblance
from fibsim.fit.sharpness import OF_EDGES, probe_widths
from fibsim.fit.start import tilt_is_held
from fibsim.fit.statistics import patch_filters, patch_responses, sliced_wasserstein
from fibsim.fit.unevenness import Unevenness
from fibsim.fit.unknowns import (
    apply_unknowns,
    from_free,
    log_prior,
    natural_error,
    start_point,
)
from fibsim.instrument import MillingFaults, leaves_by_name
from fibsim.presets import make_instrument
from fibsim.simulate_command import record
from fibsim.stack import Channel, Stack, virtual_stack

UNEVEN = Unevenness(
    values={"faults.thickness_sd": 0.13, "faults.drift_nm": 0.7},
    errors={"faults.thickness_sd": 0.02, "faults.drift_nm": 0.1},
    found=True,
)


@pytest.fixture(scope="module")
def stack(compiling_fast):
    instrument = make_instrument(beam_kev=[1.0, 5.0], tilt_deg=38.0)
    with compiling_fast():
        sample = record(
            instrument,
            kind="waves",
            parameters={"solid_fraction": 0.36, "ligament_nm": 30.0},
            slices=20,
            side=64,
            seed=5,
        )
    images = np.round(np.asarray(sample.images)).astype(np.uint8)
    return Stack(
        images=images,
        channels=(Channel(beam_kev=1.0, name="1kV"), Channel(beam_kev=5.0, name="5kV")),
        pixel_nm=4.0,
        slice_nm=10.0,
    )


def test_grey_levels_share_one_scale(stack):
    np.testing.assert_array_equal(grey_levels(stack), stack.images.astype(np.float32))
    wide = dataclasses.replace(stack, images=stack.images.astype(np.uint16) * 257)
    np.testing.assert_allclose(grey_levels(wide), stack.images, rtol=1e-5)
    floats = dataclasses.replace(stack, images=stack.images / 100.0 - 1.0)
    assert grey_levels(floats).min() == 0 and grey_levels(floats).max() == pytest.approx(255)


def test_tilt_is_seen_in_the_images_with_its_sign(stack):
    grey = grey_levels(stack)
    assert 20 < guess_tilt_deg(grey, 4.0, 10.0) < 50
    assert -50 < guess_tilt_deg(grey[:, :, ::-1], 4.0, 10.0) < -20


def test_sliced_wasserstein_limits():
    rng = np.random.default_rng(0)
    a = jnp.asarray(rng.normal(size=(5000, 3)), jnp.float32)
    assert float(sliced_wasserstein(a, a[::-1]).max()) < 1e-6
    # a shift by s moves every quantile by s; a stretch by f moves them by |f - 1| E|x|
    np.testing.assert_allclose(sliced_wasserstein(a, a + 0.5), 0.5 / a.std(0), rtol=1e-4)
    stretched = sliced_wasserstein(a - a.mean(0), 1.5 * (a - a.mean(0)))
    np.testing.assert_allclose(stretched, 0.5 * np.sqrt(2 / np.pi), rtol=0.03)


def test_sliced_wasserstein_gradient_pulls_towards_the_own_rank():
    real = jnp.asarray([[0.0], [1.0], [2.0], [3.0]])
    simulated = jnp.asarray([[5.0], [-1.0], [1.5], [2.5]])
    gradient = jax.grad(lambda s: sliced_wasserstein(real, s).sum())(simulated)
    assert np.all(np.sign(gradient[:, 0]) == [1, -1, 1, 1])


def test_patch_responses_are_projections():
    filters = patch_filters(key=jax.random.key(0), channels=2, depth=2, size=5, num_random=4)
    np.testing.assert_allclose(jnp.sum(filters**2, axis=(1, 2, 3, 4)), 1.0, rtol=1e-5)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 9, 9)), jnp.float32)
    out = patch_responses(images, filters, stride=2)
    assert out.shape == (2 * 3 * 3, filters.shape[0])
    by_hand = jnp.einsum("cdyx,fcdyx->f", images[:, 1:3, 2:7, 4:9], filters)
    np.testing.assert_allclose(out[9 + 1 * 3 + 2], by_hand, atol=1e-5)


def test_free_space_round_trip_and_prior():
    instrument = make_instrument(beam_kev=[1.0, 5.0])
    sizes = {field.name: jnp.asarray(0.01) for field in dataclasses.fields(instrument.faults)}
    instrument = dataclasses.replace(instrument, faults=MillingFaults(**sizes))
    unknowns = default_unknowns(tilt_known=False)
    free = start_point(instrument, {}, unknowns)
    again, _ = apply_unknowns(free, instrument, {}, unknowns)
    for name, leaf in leaves_by_name(instrument).items():
        np.testing.assert_allclose(leaves_by_name(again)[name], leaf, rtol=1e-4, err_msg=name)
    assert float(log_prior(free, free, unknowns)) == 0.0
    moved = {k: v + 0.1 for k, v in free.items()}
    assert float(log_prior(moved, free, unknowns)) < 0.0
    assert "geometry.tilt_deg" not in default_unknowns(tilt_known=True)
    for name, unknown in unknowns.items():
        if name == "faults.line_grey":
            continue  # so small that a size has no slope
        step = 1e-2
        ends = [np.asarray(from_free(free[name] + sign * step, unknown)) for sign in (1, -1)]
        error = np.asarray(natural_error(free[name], step, unknown))
        np.testing.assert_allclose(error, (ends[0] - ends[1]) / 2, rtol=0.03, err_msg=name)


@pytest.mark.usefixtures("compiled_fast_once")
def test_short_fit_gets_closer_than_the_default(stack, monkeypatch):
    """From an instrument of half the gain and another tilt."""
    start = make_instrument(beam_kev=[1.0, 5.0], tilt_deg=20.0)
    half = dataclasses.replace(start.detector, gain=start.detector.gain / 2)
    start = dataclasses.replace(start, detector=half)
    settings = FitSettings(
        steps=12, crop_px=48, crop_slices=4, sublayers=2, below_slices=3, refine=None
    )
    steps = []
    fit = fit_instrument(
        stack,
        key=jax.random.key(0),
        settings=settings,
        start=start,
        progress=lambda step, total, text: steps.append(step),
    )
    assert steps == list(range(1, 13)) and fit.loss.shape == (12,)
    assert fit.fitted_distance < 0.5 * fit.default_distance
    assert 0.2 < fit.specimen["solid_fraction"] < 0.6
    # The same once more, by an optimiser and a distance that are handed in.
    again = fit_instrument(
        stack,
        key=jax.random.key(0),
        settings=dataclasses.replace(settings, steps=3),
        start=start,
        optimiser=limited_adam(settings.learning_rate, 12),
        distance=lambda real, simulated, key: patch_distance(real, simulated, 3, key),
    )
    np.testing.assert_array_equal(fit.loss[:3], again.loss)
    # A start that is given keeps its faults; else they are looked for.
    assert fit.unevenness is None and float(fit.instrument.faults.thickness_sd) == 0
    monkeypatch.setattr("fibsim.fit.optimise.unevenness", lambda *_, **__: UNEVEN)
    uneven = fit_instrument(
        stack, key=jax.random.key(0), settings=dataclasses.replace(settings, steps=0)
    )
    leaves = leaves_by_name(uneven.instrument)
    for name, value in UNEVEN.values.items():
        assert float(leaves[name]) == pytest.approx(value)
        assert float(standard_errors(uneven)[name]) == UNEVEN.errors[name]
    (said,) = (line for line in statements(uneven) if "unevenly" in line)
    assert "by 13 +- 2 % rms, and drift by 0.7 +- 0.1 nm;" in said
    at_rest = dataclasses.replace(UNEVEN, values=UNEVEN.values | {"faults.drift_nm": 0.004})
    (said,) = (
        line
        for line in statements(dataclasses.replace(uneven, unevenness=at_rest))
        if "unevenly" in line
    )
    assert "by 13 +- 2 % rms; simulated" in said

    # Moments whose steps lead away are not followed.
    def stray(free, **kwargs):
        moved = {**free, "detector.gain": free["detector.gain"] + 1.5}
        return types.SimpleNamespace(free=moved)

    stage = types.SimpleNamespace(match=stray, names=["anything"])
    monkeypatch.setattr("fibsim.fit.optimise.prepare_moments", lambda *_, **__: stage)
    kept = fit_instrument(
        stack,
        key=jax.random.key(0),
        settings=dataclasses.replace(settings, steps=3, refine=RefineSettings()),
        start=start,
    )
    assert kept.refinement is None and kept.fitted_distance == kept.descent_distance
    assert kept.converged is False and fit.converged is None
    assert "led away from the stack" in kept.warnings[-1]
    assert not standard_errors(kept)


KINDS_OF_STACKS = {
    "waves": {"solid_fraction": 0.4, "ligament_nm": 30.0},
    "hierarchical": {
        "upper_fraction": 0.5,
        "upper_ligament_nm": 110.0,
        "lower_fraction": 0.5,
        "lower_ligament_nm": 24.0,
    },
    "spheres": {"solid_fraction": 0.6, "radius_nm": 30.0, "radius_sd": 0.4},
}


@dataclasses.dataclass
class Fit:
    """What a fit returns, as far as the choice of a kind sees it."""

    kinds: tuple = ()


@pytest.mark.parametrize("kind", KINDS_OF_STACKS)
def test_the_kind_is_told_from_the_faces_of_a_stack(kind, monkeypatch):
    """Through shine, noise and a threshold; the fit starts from what was found."""
    lens = make_instrument(beam_kev=(1.0, 5.0), tilt_deg=38.0)
    parameters = {name: jnp.asarray(value) for name, value in KINDS_OF_STACKS[kind].items()}
    drawn = draw_sample(
        lens, parameters, key=jax.random.key(3), kind=kind, shape=(16, 128, 128),
        slice_nm=10.0, pixel_nm=4.0, sublayers=3, below_slices=8,
    )  # fmt: skip
    given = {}
    monkeypatch.setattr(
        "fibsim.fit.choose.fit_instrument", lambda _, **how: given.update(how) or Fit()
    )
    recorded = virtual_stack(drawn.images, lens)
    kinds = tuple(KINDS_OF_STACKS)
    fit = fit_best_kind(recorded, key=jax.random.key(0), settings=FitSettings(), kinds=kinds)
    assert given["kind"] == kind
    lengths = [name for name in parameters if name.endswith("_nm")]
    found = [given["specimen"][name] for name in lengths]
    assert found == pytest.approx([float(parameters[name]) for name in lengths], rel=0.4)
    assert [k.distance for k in fit.kinds] == sorted(k.distance for k in fit.kinds)


def test_the_simplest_of_kinds_that_are_alike_is_chosen():
    one, two, far = (
        Resemblance(kind=kind, parameters=dict.fromkeys(range(number), 1.0), distance=d, chance=c)
        for kind, number, d, c in (("a", 2, 0.05, 0.01), ("b", 4, 0.04, 0.03), ("c", 1, 0.06, 0.1))
    )
    assert simplest([two, one, far]).kind == "a"
    assert simplest([dataclasses.replace(two, chance=0.01), one, far]).kind == "b"
    # That two draws of the closest happened to be alike does not make it the better one.
    lucky = dataclasses.replace(two, chance=0.001)
    assert simplest([lucky, dataclasses.replace(one, chance=0.03), far]).kind == "a"


def test_a_stated_kind_is_fitted(stack, monkeypatch):
    asked = []

    def fit(stack, *, kind, specimen, **_):
        asked.append((kind, specimen))
        return Fit()

    monkeypatch.setattr("fibsim.fit.choose.fit_instrument", fit)
    how = dict(key=jax.random.key(0), settings=FitSettings())
    fit_best_kind(dataclasses.replace(stack, specimen="fibres"), **how)
    fit_best_kind(stack, kinds=("gyroid",), **how)
    with monkeypatch.context() as patch:  # as of a stack too small to draw on

        def refuse(*_, **__):
            raise InputError("no kind can be drawn")

        patch.setattr("fibsim.fit.choose.resembling_kinds", refuse)
        fit_best_kind(stack, kinds=("spheres", "waves"), **how)
    kinds = [kind for kind, specimen in asked if specimen is None]
    assert kinds == ["fibres", "gyroid", "spheres"] and len(asked) == 3
    # A single slice does not tell the kind, but how large its features are.
    for material, usual in (("Au", "waves"), ("ZrO2", "spheres")):
        single = dataclasses.replace(stack, images=stack.images[:, :1], material=material)
        assert fit_best_kind(single, **how).kinds == ()
        kind, specimen = asked.pop()
        assert kind == usual
        lengths = [value for name, value in specimen.items() if name.endswith("_nm")]
        assert len(lengths) == 1 and 12 < lengths[0] < 60


@pytest.mark.usefixtures("compiled_fast_once")
def test_a_single_small_image_has_no_moments_matched(stack, monkeypatch):
    one = dataclasses.replace(stack, images=stack.images[:, :1], tilt_deg=0.0)
    settings = FitSettings(steps=0, crop_px=32, sublayers=2, below_slices=2)
    start = make_instrument(beam_kev=[1.0, 5.0], tilt_deg=0.0)
    fit = fit_instrument(one, key=jax.random.key(0), start=start, settings=settings)
    assert fit.refinement is None and fit.converged is None and not standard_errors(fit)
    assert fit.warnings[-1].endswith("how electrons interact is as assumed.")
    assert "specimen.ligament_nm" in fit.unknowns
    # Patches do not show how large features are: what is told of that stays.
    told = {"solid_fraction": 0.4, "ligament_nm": 27.5}
    short = dataclasses.replace(settings, steps=2)
    fit = fit_instrument(one, key=jax.random.key(0), start=start, specimen=told, settings=short)
    assert fit.specimen["ligament_nm"] == 27.5 and fit.specimen["solid_fraction"] != 0.4
    assert "specimen.ligament_nm" not in fit.unknowns
    assert "sizes are held" in fit.warnings[-1] and "probe" not in fit.warnings[-1]
    # Without a start the probe is told by edges, and stays as it is; priors weigh more.
    weights, descend = [], optimise._descend
    monkeypatch.setattr(
        optimise, "_descend", lambda o, *rest: weights.append(o.prior_weight) or descend(o, *rest)
    )
    fit = fit_instrument(one, key=jax.random.key(0), settings=settings)
    assert weights == [settings.prior_weight_of_few] != [settings.prior_weight]
    widths = probe_widths(fit.instrument.detector)[:, 0]
    said = "the probe is held as the sharpest edges tell it, at {:.1f} nm along y and {:.1f} nm"
    assert said.format(*widths) in fit.warnings[-1]
    # How electrons interact is as assumed, the tilt as stated.
    assert set(fit.undetermined) == {
        *(name for name in fit.unknowns if name.startswith("interaction.")),
        "detector.se_fraction",
        "detector.gamma",
        "noise.bunching",
    }
    assert instrument_file_of(fit).undetermined == fit.undetermined
    said = [sentence for sentence in (*fit.warnings, *statements(fit)) if "errors" in sentence]
    assert said == ["No errors were computed, since the fit ended with its descent."]
    # What was found is listed all the same, without errors.
    gain, offset = (
        next(line.split() for line in table_of_unknowns(fit) if line.startswith(f"detector.{name}"))
        for name in ("gain[1]", "offset[0]")
    )
    assert float(gain[1]) == pytest.approx(float(fit.instrument.detector.gain[1]), rel=1e-3)
    assert gain[2:] == ["grey/yield"] and offset[2:] == ["grey"]
    assert not any(name in fit.unknowns for name in OF_EDGES)
    probes = (each.detector.probe_nm for each in (fit.start_instrument, fit.instrument))
    np.testing.assert_array_equal(*probes)
    assert np.all(fit.instrument.detector.probe_nm >= 0.25 * one.pixel_nm)


def test_moments_state_errors_that_hold(stack):
    """Five unknowns, the rest known, without a descent; the tilt starts many errors off."""
    start = make_instrument(beam_kev=[1.0, 5.0], tilt_deg=30.0)
    specimen = {"solid_fraction": 0.36, "ligament_nm": 30.0}
    table = default_unknowns(tilt_known=False) | specimen_unknowns(specimen)
    names = ("detector.gain", "geometry.tilt_deg")
    free = {name: table[name] for name in (*names, *(f"specimen.{name}" for name in specimen))}
    steps = RefineSettings(rounds=5, steps=3, simulations=16, slope_simulations=2)
    fit = fit_instrument(
        stack,
        key=jax.random.key(0),
        start=start,
        unknowns=free,
        settings=FitSettings(
            steps=0, crop_px=48, crop_slices=4, sublayers=2, below_slices=9, refine=steps
        ),
    )
    assert fit.refinement.converged
    errors = standard_errors(fit)
    assert set(errors) == set(free) and errors["detector.gain"].shape == (2,)
    truth = make_instrument(beam_kev=[1.0, 5.0], tilt_deg=38.0)
    for name in names:
        deviation = leaves_by_name(fit.instrument)[name] - leaves_by_name(truth)[name]
        assert np.all(np.abs(deviation) < 4 * errors[name]), name
        assert np.all(errors[name] < 0.25 * np.abs(leaves_by_name(truth)[name])), name
    for name, value in specimen.items():
        assert abs(fit.specimen[name] - value) < 4 * errors[f"specimen.{name}"], name
    lines = table_of_unknowns(fit)
    assert len(lines) == 1 + 5 and "detector.gain[1]" in lines[2]
    milled = table_of_unknowns(dataclasses.replace(fit, unevenness=UNEVEN))
    assert milled[:-2] == lines
    assert milled[-2].split() == ["faults.thickness_sd", "0.13", "0.02", "100", "%"]
    assert milled[-1].split() == ["faults.drift_nm", "0.7", "0.1", "nm", "100", "%"]
    assert all(sentence.endswith((".", "each.")) for sentence in statements(fit))


def test_suspicious_stacks_are_named(stack):
    images = stack.images.copy()
    images[1] = images[0]
    with pytest.raises(InputError, match="1kV and 5kV hold the same images"):
        check_fittable(dataclasses.replace(stack, images=images))
    images[1] = 17
    with pytest.raises(InputError, match="5kV holds the grey value 17 everywhere"):
        check_fittable(dataclasses.replace(stack, images=images))
    images[1] = np.where(stack.images[1] > stack.images[1].mean(), 255, stack.images[1])
    (said,) = image_warnings(dataclasses.replace(stack, images=images))
    assert "channel 5kV is white (255)" in said
    images[1] = np.where(stack.images[1] > np.quantile(stack.images[1], 0.2), 255, stack.images[1])
    with pytest.raises(InputError, match="of channel 5kV is black or white"):
        check_fittable(dataclasses.replace(stack, images=images))
    few = dataclasses.replace(stack, images=stack.images[:, :3])
    assert "3 slices" in image_warnings(few)[0]
    assert tilt_is_held(few) and not tilt_is_held(stack)
    assert tilt_is_held(dataclasses.replace(stack, tilt_deg=38.0))
    assert image_warnings(stack) == []


def test_other_statements_are_suggested_only_if_far_better(stack):
    assert "swapped" in likely_swapped({(0, 1): 0.1}, 0.2, stack)[0]
    assert likely_swapped({(0, 1): 0.197}, 0.2, stack) == likely_swapped({}, 0.2, stack) == []
    assert "tilt of -38 degrees" in likely_tilt({-38.0: 0.1, 0.0: 0.15}, 0.2, 38.0)[0]
    assert likely_tilt({-38.0: 0.3}, 0.2, 38.0) == []


def test_bad_input_is_named(stack):
    with pytest.raises(InputError, match="unknown"):
        fit_instrument(stack, key=jax.random.key(0), kind="foam")
    small = dataclasses.replace(stack, images=stack.images[:, :, :16, :16])
    with pytest.raises(InputError, match="at least 64"):
        fit_instrument(small, key=jax.random.key(0))
