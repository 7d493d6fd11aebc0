"""Dense ground below a specimen: drawn, seen in a stack, found, and kept in instrument files."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tifffile

from fibnet.data import SimulatedData, Source, draw_stack, draw_training_stack
from fibsim.cli import main
from fibsim.errors import InputError
from fibsim.fit.ground import _shallowest, dark_levels, ground_depth, slices_above_ground
from fibsim.instrument_file import InstrumentFile, load_instrument, save_instrument
from fibsim.presets import make_instrument
from fibsim.specimens import Ground, on_ground, part_on_ground

SLICE_NM = 10.0
LAYER_NM = 3.0
GROUND = Ground(depth_nm=jnp.asarray(508.0), stack_nm=jnp.asarray(480.0))


def test_layers_below_the_depth_are_dense_and_the_one_that_it_cuts_in_part():
    solid = jnp.full((6, 2, 2), 0.4)
    found = on_ground(solid, jnp.asarray(10.0), layer_nm=LAYER_NM)[:, 0, 0]
    np.testing.assert_allclose(found, [0.4, 0.4, 0.4, 0.4 + 0.6 * 2 / 3, 1.0, 1.0], rtol=1e-6)


@pytest.mark.parametrize("depth", [np.inf, 18.0, 1e6])
def test_ground_below_the_specimen_changes_nothing(depth):
    solid = jax.random.uniform(jax.random.key(0), (6, 3, 3))
    np.testing.assert_array_equal(on_ground(solid, depth, layer_nm=LAYER_NM), solid)


def test_gradients_of_ground_are_those_of_finite_differences(enable_x64):
    solid = jax.random.uniform(jax.random.key(1), (6, 3, 3), dtype=float)
    weight = jax.random.normal(jax.random.key(2), solid.shape, dtype=float)

    def total(solid, depth):
        return jnp.sum(weight * on_ground(solid, depth, layer_nm=LAYER_NM))

    depth, half = jnp.asarray(10.0), 1e-5
    to_solid, to_depth = jax.grad(total, argnums=(0, 1))(solid, depth)
    difference = (total(solid, depth + half) - total(solid, depth - half)) / (2 * half)
    np.testing.assert_allclose(to_depth, difference, rtol=1e-7)
    way = jax.random.normal(jax.random.key(3), solid.shape, dtype=float)
    ends = [total(solid + s * half * way, depth) for s in (1, -1)]
    np.testing.assert_allclose(jnp.sum(to_solid * way), (ends[0] - ends[1]) / (2 * half), rtol=1e-7)


def _images(rise, *, seed=0, slices=48, channels=2):
    """Bright solid, dark pores that brighten by ``rise`` (slice,), pattern changing with depth."""
    rng = np.random.default_rng(seed)
    solid = rng.random((slices, 48, 48)) < 0.4
    dark = 40 + 120 * np.asarray(rise)[:, None, None]
    images = np.where(solid, 160.0, dark) + 3 * rng.standard_normal((channels, *solid.shape))
    return images * np.linspace(1.0, 0.8, channels)[:, None, None, None]


def _glow(height_nm):
    return 0.5 * np.exp(-np.maximum(height_nm, 0) / 40.0)


def _rise(depth_nm, slices=48):
    return _glow(depth_nm - SLICE_NM * np.arange(slices))


def test_slices_that_see_ground_are_left_out_and_those_of_other_stacks_are_not():
    assert slices_above_ground(_images(np.zeros(48))) == 48
    stop = slices_above_ground(_images(_rise(500.0)))
    # 2 % of the contrast is left 130 nm above the ground.
    assert 34 <= stop <= 39
    # A slow brightening of everything, or a channel alone, is something else.
    assert slices_above_ground(_images(np.zeros(48)) + np.linspace(0, 5, 48)[:, None, None]) == 48
    alone = _images(_rise(500.0))
    alone[0] = _images(np.zeros(48))[0]
    assert slices_above_ground(alone) == 48
    # Too few slices to say.
    assert slices_above_ground(_images(_rise(100.0, 12), slices=12)) == 12


def test_slices_seeing_ground_are_found_however_brightness_flickers():
    flicker = 1 + 0.01 * np.random.default_rng(5).standard_normal(48)[:, None, None]
    assert slices_above_ground(_images(np.zeros(48)) * flicker) == 48
    assert 33 <= slices_above_ground(_images(_rise(500.0)) * flicker) <= 41


@pytest.mark.parametrize("depth", [487.0, 520.0])
def test_depth_of_ground_is_found(depth):
    recorded = _images(_rise(depth))
    above = slices_above_ground(recorded)

    def simulate(depth_nm, seed):
        return _images(_rise(depth_nm, 16), seed=100 + seed, slices=16)

    assert ground_depth(recorded, above, simulate, slice_nm=SLICE_NM) == pytest.approx(depth, abs=3)


def test_ground_lies_below_a_last_face_that_shows_pores():
    """Even if simulated floors are as dark as real ones only where the face nearly touches them."""
    recorded = _images(_rise(520.0))

    def simulate(depth_nm, seed):
        return _images(0.3 * _rise(depth_nm, 16), seed=100 + seed, slices=16)

    found = ground_depth(recorded, slices_above_ground(recorded), simulate, slice_nm=SLICE_NM)
    assert found >= 475.0
    # A last face in the ground shows none, and the ground may lie above it.
    ends = recorded.copy()
    ends[:, -1] = 160.0
    assert _shallowest(ends, 30) == 31.0 and _shallowest(recorded, 30) == 47.5


def test_dark_levels_do_not_depend_on_gain():
    images = _images(np.zeros(8), slices=8, channels=1)
    shift = dark_levels(3 * images + 7) - 7 / np.ptp(np.quantile(3 * images + 7, (0.05, 0.95)))
    np.testing.assert_allclose(shift, dark_levels(images), rtol=1e-6)


def test_parts_of_a_stack_stand_at_random_heights_above_its_ground():
    depths = [float(part_on_ground(GROUND, 120.0, key=jax.random.key(i))) for i in range(200)]
    assert min(depths) >= 508 - 360 and max(depths) <= 508
    assert abs(np.mean(depths) - 328) < 30
    assert float(part_on_ground(GROUND, 480.0, key=jax.random.key(0))) == 508


@pytest.mark.usefixtures("compiled_fast")
def test_training_stacks_reach_into_the_ground_and_see_it():
    source = Source(
        instrument=make_instrument(beam_kev=[2.0]),
        specimen={"solid_fraction": jnp.asarray(0.3), "ligament_nm": jnp.asarray(20.0)},
        kind="waves",
        slice_nm=SLICE_NM,
        pixel_nm=4.0,
        ground=Ground(depth_nm=jnp.asarray(30.0), stack_nm=jnp.asarray(40.0)),
    )
    data = SimulatedData(slices=4, side_px=32, sublayers=2, below_slices=2)
    key = jax.random.key(4)
    images, solid = draw_stack(source, data, key=key)
    assert solid[3].min() > 0.4 and solid[:2].max() <= 1 and solid[:2].mean() < 0.5
    deep = dataclasses.replace(source, ground=dataclasses.replace(GROUND, stack_nm=40.0))
    without, open_solid = draw_stack(deep, data, key=key)
    np.testing.assert_array_equal(solid[:3], open_solid[:3])
    pores = np.asarray(open_solid[2] < 0.1)
    assert np.mean(images[0, 2][pores]) > np.mean(without[0, 2][pores]) + 10
    drawn, _ = draw_training_stack(source, data, key=key)
    assert np.all(np.isfinite(drawn))


def test_an_instrument_file_keeps_the_ground(tmp_path):
    path = tmp_path / "instrument.yaml"
    instrument = make_instrument(beam_kev=[1.0, 2.0])
    save_instrument(path, InstrumentFile(instrument=instrument, ground=GROUND))
    found = load_instrument(path).ground
    assert float(found.depth_nm) == 508 and float(found.stack_nm) == 480
    save_instrument(path, InstrumentFile(instrument=instrument))
    assert load_instrument(path).ground is None


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("ground: 5", "ground is 5"),
        ("ground: {depth_nm: 5.0}", "ground lacks 'stack_nm'"),
        ("ground: {depth_nm: -5.0, stack_nm: 3.0}", "ground.depth_nm is -5"),
        ("ground: {depth_nm: .inf, stack_nm: 3.0}", "ground.depth_nm is inf"),
        ("ground: {depth: 5.0, stack_nm: 3.0}", "did you mean 'ground.depth_nm'"),
    ],
)
def test_a_bad_ground_is_named(tmp_path, section, words):
    path = tmp_path / "instrument.yaml"
    path.write_text(f"fibsim_instrument: 1\nbeam_kev: [1.0]\n{section}\n")
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        load_instrument(path)


@pytest.mark.usefixtures("compiled_fast")
def test_simulated_stacks_rest_on_the_ground_that_is_asked_for(tmp_path, capsys):
    sizes = ["--slices", "4", "--side", "32"]
    one, two = tmp_path / "one", tmp_path / "two"
    asked = ["simulate", *sizes, "--beam-kev", "2", "--ground-nm", "25"]
    assert main([*asked, "-o", str(one)]) == 0
    assert np.all(tifffile.imread(one / "truth.tif")[3] == 1)
    assert float(load_instrument(one / "instrument.yaml").ground.stack_nm) == 40
    # What an instrument file says of it counts as well.
    again = ["simulate", str(one / "instrument.yaml"), *sizes]
    assert main([*again, "-o", str(two)]) == 0
    np.testing.assert_array_equal(*(tifffile.imread(f / "truth.tif") for f in (one, two)))
    three = tmp_path / "three"
    assert main([*again, "--ground-nm", "inf", "-o", str(three)]) == 0
    assert not np.all(tifffile.imread(three / "truth.tif")[3] == 1)
    assert load_instrument(three / "instrument.yaml").ground is None


@pytest.mark.parametrize("depth", ["0", "-3", "nan"])
def test_a_senseless_depth_is_refused(tmp_path, capsys, depth):
    out = tmp_path / "out"
    assert main(["simulate", "--ground-nm", depth, "-o", str(out)]) == 2
    assert "--ground-nm is" in capsys.readouterr().err and not out.exists()
