"""Stage two of the fit: a stack imaged from its own segmentation, and the instrument refitted."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fibsim
from fibsim.errors import InputError
from fibsim.fit import RegressionSettings, Unknown, regress_instrument, stack_residual
from fibsim.fit.faces import (
    _thicker,
    bulge_midway,
    central_part,
    expected_faces,
    face_surfaces,
    fill_slices,
    level_field,
    mirrored,
)
from fibsim.fit.regress import slice_weights
from fibsim.instrument import replace_by_name
from fibsim.layers import sublayer_borders
from fibsim.milling import nominal_milling
from fibsim.noise import channel_noise
from fibsim.presets import make_instrument
from fibsim.realign import MillingEstimate
from fibsim.simulate_command import record
from fibsim.specimens import Ground, draw, make_specimen, on_ground
from fibsim.stack import virtual_stack

# Weak priors, since what the data say is tested; they are centred on a wrong start.
SETTINGS = RegressionSettings(
    prior_weight=5e-4,
    steps=40,
    slice_steps=2,
    crop_px=36,
    margin_px=6,
    crop_slices=4,
    sublayers=2,
    below_slices=3,
    level_px=0.5,
)
FREE = {
    "detector.gain": Unknown(transform="log", prior_sd=3.0),
    "detector.offset": Unknown(transform="linear", prior_sd=3.0, scale=20.0),
    "interaction.range_scale": Unknown(transform="log", prior_sd=0.3),
    "noise.dose_electrons": Unknown(transform="log", prior_sd=2.0),
    "noise.read_grey": Unknown(transform="size", prior_sd=2.0),
}

pytestmark = pytest.mark.usefixtures("compiled_fast")


@pytest.fixture(scope="module")
def instrument():
    return make_instrument(beam_kev=[1.0, 5.0], tilt_deg=38.0)


def waves(instrument, *, seed, **sizes):
    """A stack with faults of these sizes, its truth and its run."""
    faults = {name: jnp.asarray(size) for name, size in sizes.items()}
    faults = dataclasses.replace(instrument.faults, **faults)
    sample = record(
        dataclasses.replace(instrument, faults=faults),
        kind="waves",
        parameters={"solid_fraction": 0.4, "ligament_nm": 30.0},
        slices=12,
        side=48,
        seed=seed,
    )
    stack = virtual_stack(sample.images, instrument)
    return stack, np.asarray(sample.solid), sample.milling


@pytest.fixture(scope="module")
def recorded(instrument):
    """A stack whose brightness flickers, its truth and its run."""
    return waves(instrument, seed=2, flicker_sd=0.05)


def test_level_field_is_a_distance_that_keeps_the_interface():
    """Of a disc of 10.3 pixels: distances to it, and its area to a thousandth."""
    y, x = np.mgrid[:40, :40] - 19.5
    radius = np.hypot(y, x)
    disc = np.clip(10.3 - radius + 0.5, 0, 1).astype(np.float32)
    field = level_field(np.stack([disc, np.ones_like(disc), np.zeros_like(disc)]))
    np.testing.assert_allclose(field[0], 10.3 - radius, atol=0.75)
    solid = np.clip(0.5 + field, 0, 1)
    assert solid[0].sum() == pytest.approx(disc.sum(), rel=1e-3)
    assert np.all(solid[1] == 1) and np.all(solid[2] == 0)


def test_walls_between_faces_stay_sharp():
    """A wall that leans by 4 pixels per slice lies in between half way down."""
    x = np.arange(24)
    faces = np.stack([np.tile(x < edge, (6, 1)) for edge in (8, 12)]).astype(np.float32)
    by_level, by_fraction = (
        np.asarray(fill_slices(jnp.asarray(field), 2))[0, 1, 0]
        for field in (level_field(faces), faces - np.float32(0.5))
    )
    np.testing.assert_allclose(by_level, x < 10, atol=1e-6)
    np.testing.assert_allclose(by_fraction, (x < 8) + 0.5 * ((x >= 8) & (x < 12)))


@pytest.fixture(scope="module")
def fine():
    """Gold, 33 % solid, of 2 nm layers and 4 nm pixels: 24 slices of 10 nm, ``(slice, layer)``."""
    solid = draw(
        "waves",
        key=jax.random.key(3),
        shape=(125, 64, 64),
        voxel_nm=(2.0, 4.0, 4.0),
        solid_fraction=0.33,
        ligament_nm=32.0,
    )
    return np.asarray(solid).reshape(25, 5, 64, 64)


@pytest.mark.parametrize(("logit", "lost", "better"), [(False, 0.008, 0.97), (True, 0.003, 1.0)])
def test_as_much_is_solid_between_faces_as_at_them(fine, logit, lost, better):
    """The rarer phase ended too soon there, and the volume is nearer to the truth with a bulge."""
    faces = fine[:, 0]
    field = level_field(faces, reach_px=2.5)
    if logit:
        field = np.log(np.clip(faces, 2e-3, 1 - 2e-3) / (1 - np.clip(faces, 2e-3, 1 - 2e-3)))
    bulges = {"none": 0.0, "found": bulge_midway(field, logit=logit)}
    # Five sub-layers, the fourth of which has its middle near the middle of the slice.
    filled = {
        name: np.asarray(fill_slices(jnp.asarray(field), 5, bulge=value, logit=logit))
        for name, value in bulges.items()
    }
    middle = sum(sublayer_borders(5)) / 2
    of_layer = ((middle - middle[0]) * 5 + 0.5).astype(int)
    truth = fine[:-1, of_layer]
    missing = {n: faces.mean() - v[:, 3].mean() for n, v in filled.items()}
    assert missing["none"] > lost and abs(missing["found"]) < 0.002
    error = {n: np.mean((v - truth) ** 2) for n, v in filled.items()}
    assert error["found"] < better * error["none"]
    # Of the pores the same with the other sign, and at the faces nothing changes.
    assert bulge_midway(-field, logit=logit) == pytest.approx(-bulges["found"], abs=1e-3)
    np.testing.assert_array_equal(filled["found"][:, 0], filled["none"][:, 0])
    assert bulge_midway(field[:1], logit=logit) == 0.0
    assert bulge_midway(np.full_like(field, 2.0), logit=logit) == 0.0


def test_the_middle_stands_for_a_large_volume():
    z, y, x = np.ogrid[:60, :600, :20]
    part = central_part(z * 10000 + y * 20 + x)
    assert part.shape == (49, 512, 20)
    assert part[0, 0, 0] == 5 * 10000 + 44 * 20 and part[-1, -1, -1] == 53 * 10000 + 555 * 20 + 19


def test_distances_count_up_to_the_reach(fine):
    far, near = level_field(fine[:3, 0]), level_field(fine[:3, 0], reach_px=2.5)
    assert np.abs(far).max() > 4
    np.testing.assert_array_equal(near, np.clip(far, -2.5, 2.5))
    # What tells a pixel's fraction stays, however thin slices are.
    solid = np.clip(0.5 + level_field(fine[:3, 0], reach_px=0.1), 0, 1)
    np.testing.assert_allclose(solid, np.clip(0.5 + far, 0, 1))


def test_steps_hold_what_their_slices_hold():
    """Means over the depths of each sub-layer, from many samples; a step of one slice as it is."""
    steps, sublayers = (1, 2, 3), 3
    solid = np.random.default_rng(0).uniform(size=(sum(steps), sublayers, 1, 1))
    found = np.asarray(_thicker(jnp.asarray(solid), steps))[..., 0, 0]
    np.testing.assert_allclose(found[0], solid[0, :, 0, 0], rtol=1e-6)
    _, bottom = sublayer_borders(sublayers)
    depth = (np.arange(60000) + 0.5) / 60000
    for first, step, mean in zip((1, 3), steps[1:], found[1:], strict=True):
        slices, inside = np.divmod(step * depth, 1.0)
        which = np.searchsorted(bottom, inside)
        here = solid[first + slices.astype(int), which, 0, 0]
        layer = np.searchsorted(bottom, depth)
        wanted = np.bincount(layer, here) / np.bincount(layer)
        np.testing.assert_allclose(mean, wanted, atol=1e-3)


def test_mirrored_turns_at_both_ends():
    np.testing.assert_array_equal(mirrored(np.arange(-2, 9), 4), [2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2])
    np.testing.assert_array_equal(mirrored(np.arange(3), 1), [0, 0, 0])


def test_slices_without_known_ground_do_not_count():
    np.testing.assert_array_equal(slice_weights(10, 3), [1] * 7 + [0] * 3)
    np.testing.assert_allclose(slice_weights(4, 3), [1, 1, 2 / 3, 1 / 3])


def test_pixels_that_look_out_at_a_side_do_not_count(recorded, instrument):
    """Down an open pore at the lower border, 8 slices deep and 16 pixels further."""
    stack, truth, _ = recorded
    volume = truth.copy()
    volume[:, 26:] = 0
    settings = dataclasses.replace(SETTINGS, below_slices=6)

    def explained(rows):
        images = stack.images.copy()
        images[:, :, rows] += 40
        changed = dataclasses.replace(stack, images=images)
        return stack_residual(changed, volume, instrument, settings=settings).explained

    as_recorded = explained(slice(0))
    # 6 pixels of margin do not count in any case.
    np.testing.assert_array_equal(explained(slice(32, 42)), as_recorded)
    assert np.all(np.abs(explained(slice(27, 32)) - as_recorded) > 1e-3)


def test_ground_below_a_volume_explains_what_shines_up_from_it(instrument):
    solid = draw(
        "waves",
        key=jax.random.key(8),
        shape=(48, 48, 48),
        voxel_nm=(5.0, 4.0, 4.0),
        solid_fraction=0.25,
        ligament_nm=30.0,
    )
    ground = Ground(depth_nm=jnp.asarray(90.0), stack_nm=jnp.asarray(80.0))
    specimen = make_specimen(on_ground(solid, ground.depth_nm, layer_nm=5.0), voxel_nm=(5, 4, 4))
    sample = fibsim.sample_stack(
        specimen, instrument, key=jax.random.key(9), num_slices=8, sublayers=2, below_slices=4
    )
    stack, truth = virtual_stack(sample.images, instrument), np.asarray(sample.solid)
    settings = dataclasses.replace(SETTINGS, below_slices=6)
    without, on = (
        stack_residual(stack, truth, instrument, ground=g, settings=settings)
        for g in (None, ground)
    )
    assert np.all(on.explained > without.explained + 0.1)
    assert np.all(on.explained > 0.75)


def test_faces_are_imaged_as_the_volume_that_they_are_cut_from(instrument):
    """Against `expected_stack`, on faces and layers of the same solid fraction."""
    rng = np.random.default_rng(0)
    sublayers, slices = 2, 5
    # Constant from face to face, so that nothing is left to interpolation.
    solid = np.repeat(rng.uniform(0.1, 0.9, (1, 32, 32)), 14, 0).astype(np.float32)
    specimen = make_specimen(np.repeat(solid[:13], 2, 0), voxel_nm=(5.0, 4.0, 4.0))
    # Six steps, the last two of two slices each.
    sizes = dict(num_slices=slices, sublayers=sublayers, below_slices=6)
    wanted = fibsim.expected_stack(specimen, instrument, **sizes)
    # The chords that the specimen itself has, which are not those of a label.
    surfaces = np.abs(np.diff(solid, axis=2)).mean((1, 2)), solid.mean((1, 2))
    found = jax.jit(expected_faces, static_argnames=tuple(sizes))(
        jnp.asarray(solid - np.float32(0.5)),
        instrument,
        nominal_milling(instrument, solid.shape),
        surfaces=tuple(jnp.asarray(v) for v in surfaces),
        **sizes,
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=0.05)
    assert np.std(wanted) > 5


def test_gain_and_range_come_back_and_flicker_is_seen(recorded, instrument):
    stack, truth, milling = recorded
    wrong = replace_by_name(
        instrument,
        {
            "detector.gain": instrument.detector.gain * jnp.asarray([0.7, 1.3]),
            "interaction.range_scale": instrument.interaction.range_scale * 1.6,
            "noise.dose_electrons": instrument.noise.dose_electrons * jnp.asarray([4.0, 2.0]),
        },
    )
    steps = []
    result = regress_instrument(
        stack,
        truth,
        wrong,
        unknowns=FREE,
        settings=SETTINGS,
        optimiser=optax.adam(optax.cosine_decay_schedule(0.08, 40, 0.05)),
        progress=lambda step, total, loss: steps.append((step, total)),
    )
    assert steps == [(i, 46) for i in range(1, 47)] and result.loss.shape == (46,)
    gain = np.asarray(result.instrument.detector.gain / instrument.detector.gain)
    np.testing.assert_allclose(gain, 1.0, atol=0.12)
    assert abs(np.log(float(result.instrument.interaction.range_scale))) < 0.25
    # The sum of both kinds is what shows, of pores that shine and of faces.
    grey = instrument.detector.offset + jnp.outer(jnp.asarray([0.5, 1.0]), gain) * 100
    noise = [
        np.asarray(channel_noise(grey.T[..., None, None], one)[0])
        for one in (instrument, result.instrument)
    ]
    np.testing.assert_allclose(noise[1], noise[0], rtol=0.15)
    # Not chi^2: each is in units of its own noise, which is fitted, too.
    assert np.all(result.fitted.explained > 0.9)
    assert np.all(result.fitted.misfit_grey < result.start.misfit_grey)
    counted = result.weights > 0
    pair = np.asarray(milling.brightness)[counted], np.asarray(result.milling.brightness)[counted]
    assert np.corrcoef(*pair)[0, 1] > 0.8
    again = stack_residual(
        stack,
        truth,
        result.instrument,
        milling=result.milling,
        level_px=result.level_px,
        settings=SETTINGS,
    )
    np.testing.assert_allclose(again.chi2, result.fitted.chi2, rtol=1e-3)


def test_noise_is_measured_unless_it_is_held(recorded, instrument, monkeypatch):
    """By default; of unknowns that are given without it, it stays as it was."""
    stack, truth, _ = recorded
    dose = instrument.noise.dose_electrons * jnp.asarray([4.0, 2.0])
    wrong = replace_by_name(instrument, {"noise.dose_electrons": dose})
    free = {name: u for name, u in FREE.items() if not name.startswith("noise.")}
    monkeypatch.setattr("fibsim.fit.regress.regression_unknowns", lambda *, tilt_known: free)
    settings = dataclasses.replace(SETTINGS, steps=4, slice_steps=0)
    by_default = regress_instrument(stack, truth, wrong, settings=settings)
    held = regress_instrument(stack, truth, wrong, unknowns=free, settings=settings)
    np.testing.assert_array_equal(held.instrument.noise.dose_electrons, dose)
    grey = jnp.asarray([80.0, 140.0])

    def noise(one):
        return np.asarray(channel_noise(jnp.stack([grey, grey])[..., None, None], one)[0])

    np.testing.assert_allclose(noise(by_default.instrument), noise(instrument), rtol=0.2)
    assert np.all(noise(held.instrument) < 0.75 * noise(instrument))
    np.testing.assert_allclose(by_default.instrument.detector.gain, held.instrument.detector.gain)


def test_interfaces_that_lie_too_far_inside_are_moved_out(recorded, instrument):
    """Of a truth that is eroded by four tenths of a pixel all around."""
    stack, truth, _ = recorded
    eroded = np.clip(0.5 + level_field(truth) - 0.4, 0, 1).astype(np.float32)
    optimiser = optax.adam(optax.cosine_decay_schedule(0.1, 40, 0.05))
    found = [
        regress_instrument(
            stack, volume, instrument, unknowns=FREE, settings=SETTINGS, optimiser=optimiser
        ).level_px
        for volume in (truth, eroded)
    ]
    assert abs(found[0]) < 0.12
    assert found[1] - found[0] == pytest.approx(0.4, abs=0.12)


def estimate_of(thickness_nm, *, se_nm):
    """As `estimate_milling` would return of a run whose thickness is known that well."""
    slices = len(thickness_nm)
    return MillingEstimate(
        thickness_nm=np.asarray(thickness_nm),
        thickness_se_nm=np.full(slices, se_nm),
        drift_nm=np.zeros((slices, 2)),
        drift_se_nm=np.full((slices, 2), 0.5),
        drift_sd_nm=np.zeros(2),
        channel_drift_nm=np.zeros((2, slices, 2)),
        channel_drift_se_nm=np.zeros(2),
        brightness=np.ones((2, slices)),
        jitter=0.3,
        jitter_range=(0.2, 0.4),
        slice_nm=10.0,
        pixel_nm=4.0,
        tilt_deg=38.0,
    )


def test_what_is_known_of_the_slices_is_where_they_start_and_stay(instrument):
    """Slices uneven by 30 %, known to 1 nm: they explain more from the start, and are found."""
    stack, truth, milling = waves(instrument, seed=4, thickness_sd=0.3)
    thickness = np.asarray(milling.thickness_nm)[:12]
    known = estimate_of(thickness + np.random.default_rng(0).normal(size=12), se_nm=1.0)
    with_it, without = (
        regress_instrument(stack, truth, instrument, run=run, unknowns=FREE, settings=SETTINGS)
        for run in (known, None)
    )
    assert np.all(with_it.start.explained > without.start.explained + 0.01)
    assert np.all(with_it.fitted.explained > without.fitted.explained)
    counted = with_it.weights > 0
    wrong = [
        np.std((np.asarray(result.milling.thickness_nm) - thickness)[counted])
        for result in (with_it, without)
    ]
    assert wrong[0] < 1.2 and wrong[0] < 0.6 * wrong[1]


def test_a_wrong_volume_explains_less(recorded, instrument):
    stack, truth, _ = recorded
    right = stack_residual(stack, truth, instrument, settings=SETTINGS)
    wrong = stack_residual(stack, truth[:, :, ::-1], instrument, settings=SETTINGS)
    assert np.all(right.explained > 0.8) and np.all(wrong.explained < 0.2)
    assert np.all(right.misfit_grey < 0.5 * wrong.misfit_grey)


def test_face_surfaces_counts_steps_of_the_label():
    volume = np.zeros((2, 4, 5))
    volume[0, :, 2:] = 0.8
    surfaces, fraction = face_surfaces(volume)
    np.testing.assert_allclose(surfaces, [0.25, 0.0])
    np.testing.assert_allclose(fraction, [0.6, 0.0], rtol=1e-6)


def test_bad_input_is_named(recorded, instrument):
    stack, truth, _ = recorded
    with pytest.raises(InputError, match="segmentation of this stack"):
        regress_instrument(stack, truth[:-1], instrument)
    with pytest.raises(InputError, match=r"0\.0 % solid"):
        regress_instrument(stack, 0 * truth, instrument)
    with pytest.raises(InputError, match="1 channels but the stack 2"):
        regress_instrument(stack, truth, make_instrument(beam_kev=[1.0]))
    with pytest.raises(InputError, match="11 slices but the stack 12"):
        regress_instrument(stack, truth, instrument, run=estimate_of(np.ones(11), se_nm=1.0))
    single = dataclasses.replace(stack, images=stack.images[:, :1])
    with pytest.raises(InputError, match="single slice"):
        regress_instrument(single, truth[:1], instrument)
