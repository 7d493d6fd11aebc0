"""Training, checkpoints and inference: resume is exact, tiles equal the whole, networks reload."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fibnet.checkpoint import all_steps, latest_step
from fibnet.data import SimulatedData, Source, draw_training_stack, randomise
from fibnet.losses import segmentation_loss, soft_dice
from fibnet.model import ModelConfig, count_parameters, make_model, stack_windows
from fibnet.segment import predict
from fibnet.segmenter import graph_of, load_segmenter, save_segmenter
from fibnet.train import TrainSettings, train
from fibsim.errors import InputError
from fibsim.instrument import leaves_by_name
from fibsim.presets import make_instrument

DATA = SimulatedData(slices=4, side_px=32, sublayers=2, below_slices=2)
CONFIG = ModelConfig(channels=2, window=3, widths=(4, 8), fold=2)

pytestmark = pytest.mark.usefixtures("compiled_fast")


@pytest.fixture(scope="module")
def source():
    return Source(
        instrument=make_instrument(beam_kev=[1.0, 5.0]),
        specimen={"solid_fraction": jnp.asarray(0.4), "ligament_nm": jnp.asarray(20.0)},
        kind="waves",
        slice_nm=10.0,
        pixel_nm=4.0,
    )


def _settings(steps):
    return TrainSettings(steps=steps, checkpoint_every=4, validate_every=4, learning_rate=1e-2)


@pytest.fixture(scope="module")
def trained(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    return train(source, CONFIG, folder=folder, seed=3, settings=_settings(10), data=DATA), folder


def test_randomise_moves_every_unknown_and_keeps_fractions_inside(source):
    moved, specimen = randomise(source.instrument, source.specimen, key=jax.random.key(0))
    before, after = leaves_by_name(source.instrument), leaves_by_name(moved)
    for name in ("interaction.range_scale", "detector.gain", "geometry.tilt_deg"):
        assert not np.allclose(before[name], after[name])
    assert np.all((after["detector.se_fraction"] > 0) & (after["detector.se_fraction"] < 1))
    assert 0 < specimen["solid_fraction"] < 1
    # What is not unknown stays.
    for name in ("beam_kev", "solid.atomic_number", "geometry.pixel_nm"):
        np.testing.assert_array_equal(before[name], after[name])


def test_training_stacks_are_whole_grey_values_of_mixed_phases(source):
    images, solid = draw_training_stack(source, DATA, key=jax.random.key(1))
    assert images.shape == (2, 4, 32, 32) and solid.shape == (4, 32, 32)
    np.testing.assert_array_equal(images, np.round(images))
    assert images.min() >= 0 and images.max() <= 255
    assert 0.1 < solid.mean() < 0.9


def test_stack_windows_repeats_the_ends_and_orders_slices_first():
    images = jnp.arange(2 * 3, dtype=float).reshape(2, 3, 1, 1)  # value = 3 channel + slice
    out = stack_windows(images, 3)[:, 0, 0]
    np.testing.assert_array_equal(out[0], [0, 3, 0, 3, 1, 4])
    np.testing.assert_array_equal(out[2], [1, 4, 2, 5, 2, 5])


def test_soft_dice_and_loss_limits():
    solid = jnp.asarray([0.0, 1.0, 1.0, 0.0])
    assert float(soft_dice(solid, solid)) == pytest.approx(1.0)
    assert float(segmentation_loss(40 * solid - 20, solid)) < 1e-6
    assert float(segmentation_loss(jnp.zeros(4), solid)) == pytest.approx(np.log(2), rel=1e-6)


def test_parameter_count_follows_the_architecture():
    # by hand for widths (4, 8), fold 2 and 6 inputs: stem 24 -> 4, head 4 -> 4
    model = make_model(CONFIG, seed=0)
    conv = lambda i, o, k: i * o * k * k + o  # noqa: E731
    block = lambda w: 2 * w + 2 * conv(w, w, 3)  # noqa: E731
    expected = conv(24, 4, 3) + block(4) + block(8) + conv(4, 8, 1) + conv(8, 4, 3)
    expected += block(4) + conv(4, 4, 1)
    assert count_parameters(model) == expected


def test_nothing_beyond_the_receptive_radius_reaches_a_pixel():
    model = make_model(CONFIG, seed=0)
    size = 2 * (CONFIG.receptive_radius // CONFIG.divisor + 2) * CONFIG.divisor
    mid = size // 2
    x = jax.random.normal(jax.random.key(0), (1, size, size, 6))
    influence = jax.grad(lambda x: model(x)[0, mid, mid])(x)
    rows = np.nonzero(np.abs(np.asarray(influence)).sum((0, 2, 3)))[0]
    assert rows.min() >= mid - CONFIG.receptive_radius
    assert rows.max() <= mid + CONFIG.receptive_radius
    assert rows.max() - rows.min() > 8  # the test is empty if nothing reaches at all


def test_loss_falls_and_log_is_complete(trained):
    _, folder = trained
    lines = [json.loads(s) for s in (folder / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in lines] == list(range(1, 11))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert [e["step"] for e in lines if "dice" in e] == [4, 8, 10]
    assert all_steps(folder) == [8, 10]


def test_resume_equals_the_unbroken_run(source, trained, tmp_path):
    whole, folder = trained

    class Stop(Exception):
        pass

    def stop(step, steps, loss):
        if step == 6:  # two steps past the last checkpoint
            raise Stop

    with pytest.raises(Stop):
        train(
            source,
            CONFIG,
            folder=tmp_path,
            seed=3,
            settings=_settings(10),
            data=DATA,
            progress=stop,
        )
    assert latest_step(tmp_path) == 4
    again = train(source, CONFIG, folder=tmp_path, seed=3, settings=_settings(10), data=DATA)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(a, b)
    losses = [
        [json.loads(s)["loss"] for s in (f / "log.jsonl").read_text().splitlines()]
        for f in (folder, tmp_path)
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("shape", [(1, 30, 30), (5, 70, 50)])
def test_tiles_equal_the_whole(trained, shape):
    segmenter, _ = trained
    images = np.random.default_rng(0).uniform(0, 255, (2, *shape)).astype(np.float32)
    whole = predict(segmenter, images, tile_px=128)
    tiled = predict(segmenter, images, tile_px=16, slices_at_once=2)
    assert whole.shape == shape
    np.testing.assert_allclose(tiled, whole, atol=1e-4)
    assert whole.std() > 1e-3  # a constant would pass trivially


def test_segmenter_reloads_exactly(trained, tmp_path):
    segmenter, _ = trained
    save_segmenter(tmp_path, segmenter)
    again = load_segmenter(tmp_path)
    assert again.config == segmenter.config and again.beam_kev == (1.0, 5.0)
    images = np.random.default_rng(1).uniform(0, 255, (2, 2, 32, 32)).astype(np.float32)
    np.testing.assert_array_equal(predict(segmenter, images), predict(again, images))


def test_bad_folders_are_named(trained, tmp_path):
    with pytest.raises(InputError, match="no trained network"):
        load_segmenter(tmp_path)
    _, folder = trained
    with pytest.raises(InputError, match="not a finished network"):
        load_segmenter(folder)


def test_a_network_of_another_architecture_is_refused(trained, tmp_path):
    segmenter, _ = trained
    other = dataclasses.replace(segmenter, config=dataclasses.replace(CONFIG, widths=(4, 12)))
    save_segmenter(tmp_path, other)
    with pytest.raises(InputError, match="train again"):
        load_segmenter(tmp_path)


def test_graph_needs_no_weights():
    graph, abstract = graph_of(CONFIG)
    model = nnx.merge(graph, nnx.split(make_model(CONFIG, seed=1))[1])
    assert model(jnp.zeros((1, 8, 8, 6))).shape == (1, 8, 8)
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(abstract))
