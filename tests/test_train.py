"""Training, checkpoints and inference: resume is exact, tiles equal the whole, networks reload."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import logit

from fibnet import devices
from fibnet.calibration import best_temperature, label_probability
from fibnet.channels import CONDITIONS, ChannelInput, channel_conditions, normalised
from fibnet.checkpoint import all_steps, latest_step
from fibnet.data import (
    SimulatedData,
    Source,
    draw_training_stack,
    of_kind,
    other_kinds,
    randomise,
    source_from_file,
)
from fibnet.learner import Learner, draw_present
from fibnet.losses import segmentation_loss, soft_dice
from fibnet.metrics import expected_calibration_error
from fibnet.model import ModelConfig, count_parameters, make_model, neighbours, stack_windows
from fibnet.segment import _cut, expected_cost, predict, predict_blocks
from fibnet.segmenter import graph_of, load_segmenter, save_segmenter
from fibnet.train import TrainSettings, paces, train
from fibnet.training_log import CURVE, LOG, recorded, training_section
from fibsim.errors import InputError
from fibsim.fit import grey_scale, on_grey_scale
from fibsim.instrument import leaves_by_name
from fibsim.instrument_file import InstrumentFile, save_instrument
from fibsim.interaction import face_signal
from fibsim.presets import make_instrument

DATA = SimulatedData(slices=4, side_px=32, sublayers=2, below_slices=2)
CONFIG = ModelConfig(window=3, widths=(4, 8), fold=2)
VOLUME = dataclasses.replace(CONFIG, volume=True)
LOOK = jax.random.normal(jax.random.key(9), (2, len(CONDITIONS)))
BOTH = jnp.ones(2)

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


def test_what_a_fit_left_as_assumed_is_drawn_as_widely(source):
    """Faces stay as bright and as noisy all the same."""
    sd = {"interaction.se_escape_nm": jnp.asarray(0.5), "geometry.tilt_deg": jnp.asarray(2.0)}
    sd["detector.gamma"] = jnp.asarray(0.1)

    def drawn(instrument, key):
        moved, _ = randomise(instrument, source.specimen, key=key, sd=sd)
        signal, detector, noise = face_signal(moved), moved.detector, moved.noise
        bright = detector.gain * signal**detector.gamma
        noisy = (detector.gamma * bright) ** 2 / (signal * noise.dose_electrons)
        return leaves_by_name(moved), bright, noisy

    keys = jax.random.split(jax.random.key(1), 400)
    steep = dataclasses.replace(source.instrument.geometry, tilt_deg=jnp.asarray(70.0))
    steep = dataclasses.replace(source.instrument, geometry=steep)
    drawn_many = jax.jit(jax.vmap(drawn, in_axes=(None, 0)))
    leaves, bright, noisy = drawn_many(source.instrument, keys)
    before = leaves_by_name(source.instrument)
    escape = np.log(leaves["interaction.se_escape_nm"] / before["interaction.se_escape_nm"])
    assert np.std(escape) == pytest.approx(0.5, rel=0.1)
    tilts = leaves["geometry.tilt_deg"] - before["geometry.tilt_deg"]
    assert np.std(tilts) == pytest.approx(20.0, rel=0.1)
    # What else moves gain and dose is a twentieth, and three twentieths.
    assert np.all(np.std(np.log(bright), axis=0) < 0.06)
    assert np.all(np.std(np.log(noisy), axis=0) < 0.2)
    level = 0.6 * source.instrument.noise.white_level
    np.testing.assert_allclose(np.mean(bright, axis=0), level, rtol=0.02)
    # As far as an instrument may be tilted.
    assert np.max(drawn_many(steep, keys)[0]["geometry.tilt_deg"]) == 80.0


def test_an_instrument_file_says_what_is_drawn_widely(tmp_path, source):
    content = InstrumentFile(
        instrument=source.instrument,
        kind="waves",
        specimen={"solid_fraction": 0.4, "ligament_nm": 20.0},
        undetermined=("interaction.range_scale", "geometry.tilt_deg"),
    )
    path = tmp_path / "instrument.yaml"
    save_instrument(path, content)
    found = source_from_file(path).sd
    # The range more widely than its prior, a fifth: voltages are not always as stated.
    assert {name: float(value) for name, value in found.items()} == {
        "interaction.range_scale": pytest.approx(0.6),
        "geometry.tilt_deg": pytest.approx(2.0),
    }
    save_instrument(path, dataclasses.replace(content, undetermined=("geometry.pixel_nm",)))
    with pytest.raises(InputError, match=r"'geometry.pixel_nm' as undetermined, expected some of"):
        source_from_file(path)


def test_at_no_spread_training_stacks_are_of_the_source_itself(source):
    """Faults too: those of the fitted instrument, where training draws others."""
    faults = dataclasses.replace(source.instrument.faults, thickness_sd=jnp.asarray(0.07))
    instrument = dataclasses.replace(source.instrument, faults=faults)
    moved, specimen = randomise(instrument, source.specimen, key=jax.random.key(0), spread=0.0)
    before, after = leaves_by_name(instrument), leaves_by_name(moved)
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    assert float(specimen["ligament_nm"]) == pytest.approx(20.0, rel=1e-5)


def test_other_kinds_are_as_solid_and_as_fine(source):
    found = other_kinds(source)
    assert [other.kind for other in found] == ["spheres", "fibres"]
    for other in found:
        assert float(other.specimen["solid_fraction"]) == pytest.approx(0.4)
        assert other.instrument is source.instrument and other.slice_nm == source.slice_nm
        assert of_kind(other, "waves").specimen["ligament_nm"] == pytest.approx(20.0)
    # Of two levels the finer one's size, and what is left of both.
    levels = dict(upper_fraction=0.5, upper_ligament_nm=80.0, lower_fraction=0.6,
                  lower_ligament_nm=20.0)  # fmt: skip
    both = dataclasses.replace(source, kind="hierarchical", specimen=levels)
    waves = of_kind(both, "waves").specimen
    assert float(waves["solid_fraction"]) == pytest.approx(0.3)
    assert float(waves["ligament_nm"]) == pytest.approx(2.5 * min(80 / 10, 20 / 2))


def test_a_share_of_the_steps_is_of_other_kinds(source, tmp_path, monkeypatch):
    """And validation and grey values are not."""
    drawn = []

    def draw(source, keys, **_):
        drawn.append(source.kind)
        images = 100 + 20 * jax.random.normal(keys[0], (len(keys), 2, 4, 32, 32))
        return images, (images[:, 0] > 100).astype(float)

    monkeypatch.setattr("fibnet.train.draw_batch", draw)
    settings = TrainSettings(steps=12, other_kinds=0.5)
    for _ in range(2):
        train(
            source,
            CONFIG,
            folder=tmp_path / str(len(drawn)),
            seed=3,
            settings=settings,
            data=DATA,
            others=other_kinds(source),
        )
    first, second = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
    assert first == second and first[:10] == ["waves"] * 10
    assert {"waves", "spheres", "fibres"} == set(first[10:]) and len(first) == 22
    assert 3 <= first[10:].count("waves") <= 9


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


@pytest.mark.parametrize("config", [CONFIG, VOLUME])
def test_parameter_count_follows_the_architecture(config):
    # by hand for widths (4, 8), fold 2 and windows of 3: 16 kernels of 12 -> 4, head 4 -> 4
    conv = lambda i, o, k: i * o * k * k + o  # noqa: E731
    block = lambda w: 2 * w + conv(w * (3 if config.volume else 1), w, 3) + conv(w, w, 3)  # noqa: E731
    stem = conv(5, 32, 1) + conv(64, 16, 1) + conv(32, 4, 1) + 16 * 12 * 4 * 9
    expected = stem + block(4) + block(8) + conv(4, 8, 1) + conv(8, 4, 3)
    expected += block(4) + conv(4, 4, 1)
    assert count_parameters(make_model(config, seed=0)) == expected


@pytest.mark.parametrize("config", [CONFIG, VOLUME])
def test_nothing_beyond_the_receptive_radius_reaches_a_pixel(config):
    model = make_model(config, seed=0)
    size = 2 * (config.receptive_radius // config.divisor + 2) * config.divisor
    mid, slices = size // 2, 13
    x = jax.random.normal(jax.random.key(0), (2, slices, size, size))

    def of_middle(x):
        return model(stack_windows(x, config.window), LOOK, BOTH)[slices // 2, mid, mid]

    influence = np.abs(np.asarray(jax.jit(jax.grad(of_middle))(x)))
    rows = np.nonzero(influence.sum((0, 1, 3)))[0]
    assert rows.min() >= mid - config.receptive_radius
    assert rows.max() <= mid + config.receptive_radius
    assert rows.max() - rows.min() > 8  # the test is empty if nothing reaches at all
    reached = np.nonzero(influence.sum((0, 2, 3)))[0]
    assert slices // 2 - reached.min() == reached.max() - slices // 2 == config.slice_radius


def test_leaving_a_channel_out_is_having_none_of_it():
    """And the order of channels does not count: one network for any set of them."""
    model = make_model(CONFIG, seed=0)
    images = jax.random.normal(jax.random.key(0), (3, 4, 16, 16))
    look = jax.random.normal(jax.random.key(1), (3, len(CONDITIONS)))

    @jax.jit
    def one_program(index, present):
        return model(stack_windows(images[index], 3), look[index], present)

    def logits(chosen, present):
        return one_program(jnp.asarray(chosen), jnp.asarray(present))

    masked = logits([0, 1, 2], [1.0, 0.0, 1.0])
    np.testing.assert_allclose(masked, logits([0, 2], [1.0, 1.0]), atol=2e-5)
    np.testing.assert_allclose(masked, logits([2, 0], [1.0, 1.0]), atol=2e-5)
    assert np.abs(masked - logits([0, 1, 2], [1.0, 1.0, 1.0])).max() > 1e-3


def test_any_number_of_channels_may_be_left_out_but_not_all():
    keys = jax.random.split(jax.random.key(0), 2000)
    drawn = np.asarray(jax.vmap(lambda k: draw_present(k, 3, 0.6))(keys)).astype(int)
    number = drawn.sum(1)
    share = [np.mean(number == n) for n in range(4)]
    # 0.6 of the draws leave out one or two of three, each half of the time
    np.testing.assert_allclose(share, [0, 0.3, 0.3, 0.4], atol=0.04)
    np.testing.assert_allclose(drawn[number == 1].mean(0), 1 / 3, atol=0.06)
    assert jax.vmap(lambda k: draw_present(k, 1, 1.0))(keys).min() == 1


def test_conditions_are_what_they_say():
    instrument = make_instrument(
        beam_kev=[2.0, 4.0], detectors=["SE", "BSE"], pixel_nm=4.0, slice_nm=20.0, tilt_deg=38.0
    )
    found = np.asarray(channel_conditions(instrument))
    # Kanaya-Okayama in gold at 2 keV: 0.0276 * 196.967 * 2^1.67 / (79^0.889 * 19.3) um = 18.4 nm
    np.testing.assert_allclose(found[0], [0, 0.9, np.log2(0.46) / 2, 1, 1], atol=0.01)
    np.testing.assert_allclose(found[1] - found[0], [1, -1.9, 1.67 / 2, 0, 0], atol=1e-4)


def test_slices_may_be_seen_alone():
    images = jnp.arange(3, dtype=float).reshape(1, 3, 1, 1)
    out = stack_windows(images, 3, alone=True)[:, 0, 0]
    np.testing.assert_array_equal(out, [[0, 0, 0], [1, 1, 1], [2, 2, 2]])


def test_neighbours_stop_at_the_slices_that_exist():
    above, below = neighbours(5, 1, 3)
    np.testing.assert_array_equal(above, [1, 1, 1, 2, 3])
    np.testing.assert_array_equal(below, [1, 2, 3, 3, 3])


def test_temperature_finds_how_sure_a_network_may_be():
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, 200_000)
    solid = rng.random(honest.size) < 1 / (1 + np.exp(-honest))
    for factor in (0.7, 1.0, 1.6):
        logit, truth = (jnp.asarray(v, jnp.float32) for v in (factor * honest, solid))
        assert best_temperature([logit], [truth]) == pytest.approx(factor, rel=0.03)


def test_fractions_and_labels_have_temperatures_of_their_own():
    """A wall across the pixel, its place known with an error of 0.2 pixels."""
    rng = np.random.default_rng(0)
    place = rng.uniform(-1, 1, 200_000)
    solid = np.clip(place + 0.2 * rng.normal(size=place.size) + 0.5, 0, 1)
    label = (solid > 0.5).astype(np.float32)
    logits = [jnp.asarray(3 * place, jnp.float32)]
    of_fraction, of_label = (best_temperature(logits, [v]) for v in (solid, label))
    assert of_label < 0.7 * of_fraction
    fraction = np.asarray(jax.nn.sigmoid(logits[0] / of_fraction))
    probability = label_probability(fraction, of_fraction, of_label)
    np.testing.assert_array_equal(probability > 0.5, fraction > 0.5)

    def error(probability):
        whole = probability[None, None], label[None, None] > 0
        return expected_calibration_error(*whole)

    assert error(probability) < 0.02 < 0.05 < error(fraction)


def test_label_probability_keeps_what_is_certain():
    certain = np.array([0.0, 0.5, 1.0], np.float32)
    np.testing.assert_array_equal(label_probability(certain, 1.0, 0.6), certain)


def test_networks_give_fractions_and_probabilities(trained):
    segmenter, _ = trained
    images = np.random.default_rng(1).uniform(0, 255, (2, 2, 32, 32)).astype(np.float32)
    two = dataclasses.replace(segmenter, temperature=1.3, label_temperature=0.6)
    fraction, probability = predict(two, images, fraction=True), predict(two, images)
    np.testing.assert_allclose(label_probability(fraction, 1.3, 0.6), probability, atol=1e-5)
    assert np.abs(probability - fraction).max() > 1e-3


def test_loss_falls_and_log_is_complete(trained):
    _, folder = trained
    lines = [json.loads(s) for s in (folder / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in lines] == list(range(1, 11))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert [e["step"] for e in lines if "dice" in e] == [4, 8, 10]
    assert all_steps(folder) == [8, 10]


def test_log_is_drawn_while_it_grows_and_goes_to_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    lines = [
        {"step": i, "loss": 1 / i} | ({"dice": 0.9} if i % 4 == 0 else {}) for i in (1, 2, 3, 4)
    ]
    with recorded(tmp_path, tensorboard=True) as record:
        for number, line in enumerate(lines, 1):
            text = "".join(json.dumps(one) + "\n" for one in lines[:number])
            (tmp_path / LOG).write_text(text)
            record(line)
            assert (tmp_path / CURVE).exists() == (number == 4)
    assert (tmp_path / CURVE).read_bytes().startswith(b"\x89PNG")
    section = training_section(tmp_path)
    np.testing.assert_allclose(section.loss, [1, 1 / 2, 1 / 3, 1 / 4])
    assert list(section.val_steps) == [4] and list(section.val_dice) == [0.9]
    (events,) = tmp_path.glob("events.out.tfevents.*")
    written = events.read_bytes()
    assert written.count(b"loss") == 4 and written.count(b"dice") == 1
    assert b"step" not in written


def test_rates_rise_to_their_peak_and_fall_to_zero():
    settings = TrainSettings(steps=100, learning_rate=0.02, vector_rate=0.001, ema=0.9)
    pace = paces(settings)
    rates = np.asarray([pace(i).learning_rate for i in range(100)])
    assert rates[0] == 0 and rates.argmax() == 5 and rates.max() == pytest.approx(0.02)
    assert np.all(np.diff(rates[5:]) < 0) and rates[-1] < 2e-5
    # Half way down the cosine.
    assert rates[5 + 47] == pytest.approx(0.01, rel=0.05)
    assert pace(5).vector_rate == pytest.approx(0.001) and pace(5).ema == pytest.approx(0.9)
    assert float(paces(TrainSettings(steps=1))(0).learning_rate) >= 0


def test_a_training_of_another_pace_compiles_nothing(trained):
    """Trainings of one architecture share the program of a step."""
    images = jnp.zeros((2, *(DATA.slices, DATA.side_px, DATA.side_px)))
    channels = trained[0].channels
    batch = devices.stacked([(images, images[0], channels)])
    key = jax.random.key(0)

    def one_step(settings):
        learner = Learner(CONFIG)
        return learner.step(learner.fresh(0), batch, key, paces(settings)(2))

    first, _ = one_step(_settings(10))
    number = Learner.step._cache_size()
    other = TrainSettings(steps=77, learning_rate=0.5, ema=0.5, channel_dropping=0.9)
    second, _ = one_step(other)
    assert Learner.step._cache_size() == number
    moved = [
        np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True)
    ]
    assert max(moved) > 0


def test_a_step_depends_on_its_stacks_and_not_on_the_devices(source, tmp_path, monkeypatch):
    """Two stacks a step, one on each of two devices or both on one: the same network."""
    if jax.device_count() % 2:
        pytest.skip("there is one device of this kind")
    settings = TrainSettings(steps=3, stacks=2, checkpoint_every=2, validate_every=3)
    assert devices.stack_devices(2) == 2 and devices.stack_devices(3) == 1

    def weights(name, settings):
        folder = tmp_path / name
        found = train(source, CONFIG, folder=folder, seed=3, settings=settings, data=DATA)
        return jax.tree.leaves(found.params), (folder / "log.jsonl").read_text().splitlines()

    two, log = weights("two", settings)
    assert {leaf.devices() == {jax.devices()[0]} for leaf in two} == {True}
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert devices.stack_devices(2) == 1
    one, other_log = weights("one", settings)
    for a, b in zip(two, one, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)
    np.testing.assert_allclose(*(json.loads(x[-1])["dice"] for x in (log, other_log)), atol=2e-3)
    # It is no training on one stack a step.
    alone, _ = weights("alone", dataclasses.replace(settings, stacks=1))
    assert max(np.abs(a - b).max() for a, b in zip(one, alone, strict=True)) > 0.002


def test_the_gradient_of_half_precision_is_that_of_single_but_for_rounding():
    params = nnx.split(make_model(VOLUME, seed=0))[1]
    images = 100 + 30 * jax.random.normal(jax.random.key(0), (2, 4, 32, 32))
    labelled = (
        images,
        (images[0] > 100).astype(float),
        ChannelInput(mean=jnp.full(2, 100.0), sd=jnp.full(2, 30.0), conditions=LOOK),
    )
    pace = paces(TrainSettings())(1)

    @functools.partial(jax.jit, static_argnums=0)
    def slope(precision):
        learner = Learner(VOLUME, precision=precision)
        return jax.value_and_grad(learner._loss)(params, labelled, jax.random.key(1), pace)

    (loss, exact), (rough_loss, rough) = slope("float32"), slope("bfloat16")
    assert float(rough_loss) == pytest.approx(float(loss), rel=0.02) and rough_loss != loss
    for a, b in zip(*map(jax.tree.leaves, (exact, rough)), strict=True):
        assert b.dtype == jnp.float32
        assert np.linalg.norm(a - b) <= 0.08 * np.linalg.norm(a) + 1e-6


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


@pytest.mark.parametrize("volume", [False, True])
@pytest.mark.parametrize("shape", [(1, 30, 30), (5, 130, 94)])
def test_tiles_equal_the_whole(trained, shape, volume):
    segmenter, _ = trained
    if volume:
        params = nnx.split(make_model(VOLUME, seed=2))[1]
        segmenter = dataclasses.replace(segmenter, config=VOLUME, params=params)
    images = np.random.default_rng(0).uniform(0, 255, (2, *shape)).astype(np.float32)
    whole = predict(segmenter, images, tile_px=128)
    tiled = predict(segmenter, images, tile_px=16, slices_at_once=2)
    assert whole.shape == shape
    np.testing.assert_allclose(tiled, whole, atol=1e-4)
    assert whole.std() > 1e-3  # a constant would pass trivially
    if volume:
        config, channels = segmenter.config, segmenter.channels
        model = nnx.merge(graph_of(config)[0], segmenter.params)
        height, width = (-n % config.divisor for n in shape[1:])
        padded = jnp.pad(normalised(images, channels), ((0, 0), (0, 0), (0, height), (0, width)))
        inside = tuple(
            slice(config.receptive_radius, n - config.receptive_radius) for n in shape[1:]
        )

        @jax.jit
        def whole_logit(padded):
            return model(stack_windows(padded, config.window), channels.conditions, BOTH)

        logit = whole_logit(padded)
        expected = jax.nn.sigmoid(logit / segmenter.label_temperature)[:, *inside]
        np.testing.assert_allclose(whole[:, *inside], expected, atol=1e-4)


def test_a_mirrored_network_takes_a_stack_and_its_mirror_image_alike(trained):
    segmenter, _ = trained
    both = dataclasses.replace(segmenter, config=dataclasses.replace(CONFIG, mirrored=True))
    images = np.random.default_rng(4).uniform(0, 255, (2, 5, 64, 72)).astype(np.float32)
    once = predict(segmenter, images)
    again = predict(segmenter, images[..., ::-1])[..., ::-1]
    assert np.abs(once - again).max() > 1e-3
    found = predict(both, images)
    np.testing.assert_allclose(logit(found), (logit(once) + logit(again)) / 2, atol=1e-4)
    np.testing.assert_allclose(predict(both, images[..., ::-1])[..., ::-1], found, atol=1e-5)
    tiled = predict(both, images, tile_px=16, slices_at_once=2)
    np.testing.assert_allclose(tiled, found, atol=1e-4)
    # Temperatures are those of what it is used for; what it learns is the same.
    labelled = images, jnp.zeros(images.shape[1:]), segmenter.channels
    seen = [Learner(s.config).validate(s.params, labelled)[2] for s in (segmenter, both)]
    for logits, probability in zip(seen, (once, found), strict=True):
        expected = segmenter.label_temperature * logit(probability)
        np.testing.assert_allclose(logits, expected, atol=1e-3)
    batch = devices.stacked([labelled])
    losses = [
        float(one.step(one.fresh(0), batch, jax.random.key(0), paces(_settings(4))(2))[1])
        for one in map(Learner, (segmenter.config, both.config))
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("size", [1, 17, 60, 61, 64, 100, 131])
@pytest.mark.parametrize(("tile", "margin", "divisor"), [(16, 12, 4), (20, 20, 4), (8, 0, 2)])
def test_pieces_cover_an_axis_once_and_see_a_margin(size, tile, margin, divisor):
    window, pieces = _cut(size, tile, margin, divisor)
    padded = -(-size // divisor) * divisor
    assert window % divisor == 0 and window <= max(padded, tile + divisor + 2 * margin)
    kept = [i for p in pieces for i in range(p.first, p.last)]
    assert kept == list(range(size))
    for piece in pieces:
        assert piece.window % divisor == 0 and 0 <= piece.window <= padded - window
        assert piece.window == 0 or piece.first - piece.window >= margin
        end = piece.window + window
        assert end == padded or end - piece.last >= margin


def test_recorded_values_are_scaled_a_few_slices_at_a_time(trained):
    segmenter, _ = trained
    recorded = np.random.default_rng(3).integers(0, 60000, (2, 6, 32, 32)).astype(np.uint16)
    scale = grey_scale(recorded)
    blocks = list(predict_blocks(segmenter, recorded, scale=scale, slices_at_once=4))
    assert [(first, len(block)) for first, block in blocks] == [(0, 4), (4, 2)]
    whole = predict(segmenter, on_grey_scale(recorded, scale), slices_at_once=4)
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), whole)
    assert whole.std() > 1e-3


def test_cost_is_foreseen_before_a_stack_is_segmented(trained):
    """Time by groups of slices; memory by the piece, whatever the number of slices."""
    segmenter, _ = trained
    seconds, memory = expected_cost(segmenter, (2, 8, 64, 64))
    long, same = expected_cost(segmenter, (2, 8000, 64, 64))
    assert 0 < seconds and 100 * seconds < long
    assert memory == same > 2 * 11 * 64 * 64 * 4
    # Cut into tiles, a large image takes less at once.
    assert (
        expected_cost(segmenter, (2, 8, 400, 400), tile_px=64)[1]
        < (expected_cost(segmenter, (2, 8, 400, 400), tile_px=400)[1])
    )


def test_a_network_serves_some_of_its_channels(trained):
    segmenter, _ = trained
    images = np.random.default_rng(2).uniform(0, 255, (2, 3, 32, 32)).astype(np.float32)
    one = predict(segmenter.select([1]), images[1:])
    swapped = predict(segmenter.select([1, 0]), images[::-1])
    both = predict(segmenter, images)
    np.testing.assert_allclose(swapped, both, atol=1e-4)
    assert one.shape == both.shape and np.abs(one - both).max() > 1e-3


def test_segmenter_reloads_exactly(trained, tmp_path):
    segmenter, _ = trained
    save_segmenter(tmp_path, segmenter)
    again = load_segmenter(tmp_path)
    assert again.config == segmenter.config and again.beam_kev == (1.0, 5.0)
    assert again.temperature == segmenter.temperature
    assert again.label_temperature == segmenter.label_temperature
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
    assert model(jnp.zeros((1, 8, 8, 6)), LOOK, BOTH).shape == (1, 8, 8)
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(abstract))
