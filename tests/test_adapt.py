"""The alternation: volumes as specimens, and rounds that go on."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fibnet import alternate as rounds_of
from fibnet import twin as twin_of
from fibnet.adapt import AdaptedSource, cut_volume, draw_adapted_stack, volume_to_draw
from fibnet.alternate import AlternationSettings, alternate
from fibnet.calibration import label_probability
from fibnet.data import SimulatedData, Source, draw_training_stack
from fibnet.model import ModelConfig
from fibnet.pipeline import _Job, reconstruct
from fibnet.presets import PRESETS
from fibnet.reporting import _adaptation_section
from fibnet.segmenter import load_segmenter, save_segmenter
from fibnet.stages import WorkFolder
from fibnet.train import TrainSettings, train
from fibsim.fit import RegressionSettings, regress_instrument, regression_unknowns
from fibsim.fit.resemble import Resemblance
from fibsim.instrument import leaves_by_name, replace_by_name
from fibsim.instrument_file import InstrumentFile, load_instrument, save_instrument
from fibsim.io import read_volume
from fibsim.presets import make_instrument
from fibsim.simulate_command import record
from fibsim.specimens import make
from fibsim.stack import virtual_stack

DATA = SimulatedData(slices=4, side_px=32, sublayers=2, below_slices=2)
VOXEL = (10.0, 4.0, 4.0)
SPECIMEN = {"solid_fraction": 0.4, "ligament_nm": 24.0}

pytestmark = pytest.mark.usefixtures("compiled_fast")


@pytest.fixture(scope="module")
def truth():
    drawn = make("waves", key=jax.random.key(3), shape=(16, 64, 64), voxel_nm=VOXEL, **SPECIMEN)
    return np.asarray(drawn.solid)


@pytest.fixture(scope="module")
def source():
    return Source(
        instrument=make_instrument(beam_kev=[1.0, 5.0]),
        specimen={k: jnp.asarray(v) for k, v in SPECIMEN.items()},
        kind="waves",
        slice_nm=10.0,
        pixel_nm=4.0,
    )


def test_cut_volumes_vary_around_the_volume(truth):
    """Fraction within the shift and chance, walls of one voxel, no two alike; pieces as small as
    the volume and larger ones."""
    volume = volume_to_draw(truth, slice_nm=10.0, pixel_nm=4.0)
    cut = jax.jit(cut_volume, static_argnames=("shape", "layer_nm", "imaged_nm"))
    for shape, imaged_nm in (((30, 32, 32), 100.0), ((60, 80, 80), 200.0)):
        parts = [cut(volume, key=jax.random.key(i), shape=shape, layer_nm=5.0, imaged_nm=imaged_nm)
                 for i in range(12)]  # fmt: skip
        means = np.asarray([p.mean() for p in parts])
        assert np.all(np.abs(means - truth.mean()) < 0.05 + 0.15)
        assert abs(means.mean() - truth.mean()) < 0.06 and means.std() > 0.01
        partial = np.mean([(np.asarray(p) > 0.02) & (np.asarray(p) < 0.98) for p in parts])
        own = np.mean((truth > 0.02) & (truth < 0.98))
        assert partial < 1.3 * own


def test_a_cut_without_change_is_the_volume_itself(truth, monkeypatch):
    monkeypatch.setattr("fibnet.adapt._LARGEST_SCALE", 1.0 + 1e-9)
    volume = volume_to_draw(truth, slice_nm=10.0, pixel_nm=4.0)
    volume = dataclasses.replace(volume, levels=jnp.zeros(3))
    part = cut_volume(
        volume, key=jax.random.key(0), shape=(20, 63, 63), layer_nm=10.0, imaged_nm=150.0
    )
    # Layer i lies in the middle between faces i and i + 1; past the last the volume is mirrored.
    label = np.asarray(part) > 0.5
    faces = (truth > 0.5)[:, :63, :63]
    both = faces[:15] == faces[1:]
    agree = (label[:15] == faces[:15]) | ~both
    assert agree.mean() > 0.97
    np.testing.assert_allclose(part[15 + np.arange(4)], part[14 - np.arange(4)], atol=1e-4)
    # As much is solid midway as at the faces; without the bulge the rarer phase is less.
    flat = dataclasses.replace(volume, bulge=jnp.zeros(()))
    plain = cut_volume(
        flat, key=jax.random.key(0), shape=(20, 63, 63), layer_nm=10.0, imaged_nm=150.0
    )
    at_faces = jnp.clip(0.5 + volume.field, 0, 1)[:, :63, :63].mean()
    missing = [float(at_faces - p[:15].mean()) for p in (part, plain)]
    assert abs(missing[0]) < 0.003 and missing[1] > 0.006


def test_half_of_the_stacks_come_from_the_volume(source, truth):
    """With a volume that is solid only, stacks from it are told from those of the generator."""
    dense = np.ones_like(truth)
    dense[:, :2] = 0.0
    dense[:, :, :2] = 0.0
    volume = volume_to_draw(dense, slice_nm=10.0, pixel_nm=4.0)
    draw = jax.jit(draw_adapted_stack, static_argnums=1)
    for share, low, high in ((0.5, 4, 16), (1.0, 20, 20), (0.0, 0, 0)):
        adapted = AdaptedSource(source=source, volume=volume, share=jnp.asarray(share))
        stacks = [draw(adapted, DATA, key=jax.random.key(i)) for i in range(20)]
        dense_ones = sum(float(solid.mean()) > 0.8 for _, solid in stacks)
        assert low <= dense_ones <= high
    images, solid = stacks[0]
    assert images.shape == (2, 4, 32, 32) and solid.shape == (4, 32, 32)
    np.testing.assert_array_equal(images, np.round(images))


@pytest.fixture(scope="module")
def problem(source):
    """A stack, a barely trained network, and settings of a few steps."""
    sample = record(
        source.instrument, kind="waves", parameters=SPECIMEN, slices=10, side=64, seed=1
    )
    stack = virtual_stack(sample.images, source.instrument)
    stack = dataclasses.replace(stack, specimen="waves")
    settings = AlternationSettings(
        rounds=2,
        train=TrainSettings(
            steps=6, learning_rate=5e-3, ema=0.8, checkpoint_every=2, validate_every=6
        ),
        data=DATA,
        regression=RegressionSettings(
            steps=4, slice_steps=1, crop_px=36, margin_px=6, crop_slices=4, sublayers=2,
            below_slices=3, score_crops=3,
        ),
        settled=0.0,
    )  # fmt: skip
    content = InstrumentFile(instrument=source.instrument, kind="waves", specimen=dict(SPECIMEN))
    return stack, content, settings


@pytest.fixture(scope="module")
def segmenter(source, tmp_path_factory):
    config = ModelConfig(window=3, widths=(4, 8), fold=2)
    how = TrainSettings(steps=40, learning_rate=2e-2, ema=0.9)
    folder = tmp_path_factory.mktemp("first")
    return train(source, config, folder=folder, seed=0, settings=how, data=DATA)


def quiet(name):
    return lambda done, total, text: None


def rounds(problem, segmenter, folder, progress=quiet, prior=None):
    stack, content, settings = problem
    return alternate(
        stack,
        folder,
        segmenter=segmenter,
        content=content,
        prior=prior or content.instrument,
        settings=settings,
        seed=0,
        progress=progress,
    )


def test_rounds_go_on_where_they_were_broken(problem, segmenter, tmp_path):
    """Broken in the training of the second round and once more after it, to the same result."""
    content, run = problem[1], functools.partial(rounds, problem, segmenter)
    whole, final, records = run(tmp_path / "whole")
    assert 1 <= len(records) <= 2
    for name in ("chi2", "explained"):
        assert len(records[0]["refitted"][name]) == 2
    assert records[0]["unknowns"]["detector.gain"]["before"] == pytest.approx(
        np.asarray(content.instrument.detector.gain).tolist()
    )
    assert records[0]["kind"] == final.kind == "waves"
    assert records[0]["kept"] == (
        records[0]["unexplained_after"] <= 1.15 * records[0]["unexplained_before"]
    )

    class Stop(Exception):
        pass

    def stopping(name):
        def show(done, total, text):
            if name == "retrain" and done == 5:
                raise Stop

        return show

    broken = tmp_path / "broken"
    with pytest.raises(Stop):
        run(broken, stopping)
    assert not (broken / "round_1" / "round.json").exists()
    regressed = (broken / "round_1" / "regression.json").stat().st_mtime_ns
    again, _, same = run(broken)
    assert (broken / "round_1" / "regression.json").stat().st_mtime_ns == regressed
    assert json.dumps(same) == json.dumps(records)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_network_that_explains_less_is_not_kept(problem, segmenter, tmp_path, monkeypatch):
    stack = problem[0]
    good = rounds_of._segment(segmenter, stack.images.astype(np.float32), quiet)
    calls = []

    def segment(*_):
        calls.append(1)
        # The second segmentation is of a mirrored specimen.
        return good if len(calls) == 1 else good[:, :, ::-1].copy()

    monkeypatch.setattr(rounds_of, "_segment", segment)
    last, _, records = rounds(problem, segmenter, tmp_path)
    assert len(records) == 1 and not records[0]["kept"]
    assert last is segmenter


def test_refits_have_the_priors_given_and_the_slices_as_seen(
    problem, segmenter, tmp_path, monkeypatch
):
    """Of the recorded stack and of its twin, whose bias is taken away."""
    stack, content, settings = problem
    known = leaves_by_name(content.instrument)["interaction.se_escape_nm"]
    prior = replace_by_name(content.instrument, {"interaction.se_escape_nm": 1.3 * known})
    seen, results = [], []

    def regress(*args, **kwargs):
        seen.append((args[0], args[2], kwargs["prior"], kwargs["run"]))
        results.append(regress_instrument(*args, **(kwargs | {"run": None})))
        return results[-1]

    for module in (rounds_of, twin_of):
        monkeypatch.setattr(
            module, "run_as_seen", lambda stack, tilt_deg, progress: (stack, tilt_deg)
        )
    monkeypatch.setattr(twin_of, "regress_instrument", regress)
    assumed = dataclasses.replace(
        content,
        undetermined=("interaction.range_scale", "geometry.tilt_deg"),
        standard_errors={"detector.gain": np.full(2, 3.0), "faults.drift_nm": np.asarray(0.1)},
    )
    problem = stack, assumed, dataclasses.replace(settings, rounds=1)
    _, last, (record,) = rounds(problem, segmenter, tmp_path, prior=prior)
    # The tilt is none of a refit's unknowns here.
    assert last.undetermined == ("geometry.tilt_deg",)
    assert set(last.standard_errors) == {"faults.drift_nm"}  # of numbers that it leaves
    assert len(seen) == 2
    for images, start, centre, run in seen:
        assert run[0] is images and run[1] == float(content.instrument.geometry.tilt_deg)
        assert leaves_by_name(start)["interaction.se_escape_nm"] == known
        assert leaves_by_name(centre)["interaction.se_escape_nm"] == pytest.approx(1.3 * known)
    assert seen[0][0] is stack and seen[1][0].images.shape == stack.images.shape

    real, twin = (np.asarray(result.instrument.detector.gain) for result in results)
    np.testing.assert_allclose(last.instrument.detector.gain, real**2 / twin, rtol=1e-4)
    np.testing.assert_allclose(
        load_instrument(tmp_path / "round_1" / "regressed.yaml").instrument.detector.gain,
        real,
        rtol=1e-4,
    )
    assert record["twin_level_px"] == pytest.approx(results[1].level_px)
    assert record["level_px"] == pytest.approx(results[0].level_px - results[1].level_px)
    bias = record["unknowns"]["detector.gain"]["bias_sd"]
    sd = regression_unknowns(tilt_known=True)["detector.gain"].prior_sd
    np.testing.assert_allclose(bias, np.log(twin / real) / sd, atol=1e-4)


def test_a_twin_of_one_phase_says_nothing(problem, segmenter, monkeypatch):
    stack, content, settings = problem
    dense = stack.images.astype(np.float32), np.ones(stack.images.shape[1:], np.float32)
    monkeypatch.setattr(twin_of, "drawn_stacks", lambda *args, **kwargs: iter([dense]))
    result = twin_of.refit(
        stack,
        rounds_of._segment(segmenter, stack.images.astype(np.float32), quiet),
        content,
        prior=content.instrument,
        run=None,
        settings=settings.regression,
        seed=0,
        progress=quiet(""),
    )
    assert result.instrument is result.found.instrument and not result.bias
    assert result.level_px == result.found.level_px


def test_training_goes_on_from_a_network(source, segmenter, tmp_path):
    """With a step of zero length the network stays what it was."""
    how = TrainSettings(steps=2, learning_rate=0.0, vector_rate=0.0)
    again = train(
        source,
        segmenter.config,
        folder=tmp_path,
        seed=5,
        settings=how,
        data=DATA,
        draw=draw_training_stack,
        start=segmenter,
    )
    np.testing.assert_array_equal(again.channels.mean, segmenter.channels.mean)
    for a, b in zip(jax.tree.leaves(again.params), jax.tree.leaves(segmenter.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_the_stage_leaves_what_later_stages_use(problem, segmenter, tmp_path, monkeypatch):
    """Broken at its very end too: what fit and train left is kept beside what replaces it."""
    stack, content, settings = problem
    quick = dataclasses.replace(
        PRESETS["quick"], retrain=settings.train, data=DATA, regression=settings.regression
    )
    monkeypatch.setitem(PRESETS, "quick", quick)

    other = replace_by_name(content.instrument, {"interaction.se_escape_nm": jnp.asarray(0.9)})
    begin = dataclasses.replace(content, instrument=other)
    centres = []

    def fit(job):
        save_instrument(job.out / "instrument.yaml", content)
        save_instrument(job.out / "instrument_start.yaml", begin)

    def regress(*args, prior, **kwargs):
        centres.append(leaves_by_name(prior)["interaction.se_escape_nm"])
        return regress_instrument(*args, prior=prior, **kwargs)

    monkeypatch.setattr(twin_of, "regress_instrument", regress)

    def first(job):
        save_segmenter(job.out / "model", segmenter)

    monkeypatch.setattr(_Job, "fit", fit)
    monkeypatch.setattr(_Job, "train", first)

    def run():
        return reconstruct(
            stack,
            tmp_path,
            preset="quick",
            rounds=1,
            stages=("fit", "train", "adapt", "segment"),
            announce=lambda line: None,
        )

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fibnet.pipeline.save_segmenter", killed)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert run() is None
    np.testing.assert_allclose(centres, 0.9, rtol=1e-5)
    records = json.loads((tmp_path / "adapt.json").read_text())
    assert len(records) == 1
    folder = tmp_path / "adapt" / ("round_1" if records[0]["kept"] else "start")
    kept, used = load_segmenter(folder / "model"), load_segmenter(tmp_path / "model")
    for a, b in zip(jax.tree.leaves(kept.params), jax.tree.leaves(used.params), strict=True):
        np.testing.assert_array_equal(a, b)
    last = folder if records[0]["kept"] else tmp_path / "adapt"
    fraction = read_volume(last / "fraction.tif")
    np.testing.assert_array_equal(read_volume(tmp_path / "network_fraction.tif"), fraction)
    np.testing.assert_array_equal(
        read_volume(tmp_path / "probability.tif"),
        label_probability(fraction, used.temperature, used.label_temperature),
    )
    gain = load_instrument(tmp_path / "instrument.yaml").instrument.detector.gain
    np.testing.assert_allclose(gain, records[0]["unknowns"]["detector.gain"]["after"], rtol=1e-5)
    begun = load_instrument(tmp_path / "adapt" / "start" / "instrument.yaml").instrument
    np.testing.assert_allclose(begun.detector.gain, content.instrument.detector.gain, rtol=1e-5)

    section = _adaptation_section(records, ["1kV", "5kV"])
    assert len(section.residuals) == 2 and len(section.rounds) == 1
    assert section.kinds[0][0] == "waves"
    moves = [abs(row[-1]) for row in section.unknowns]
    assert moves == sorted(moves, reverse=True) and moves[0] > 0


def test_errors_of_the_fits_specimen_go_with_it(problem, truth, tmp_path, monkeypatch):
    """The volume has another kind, or other numbers, than what the fit stated them for."""
    stack, content, _ = problem
    levels = {"upper_fraction": 0.6, "upper_ligament_nm": 90.0}
    levels |= {"lower_fraction": 0.7, "lower_ligament_nm": 30.0}
    errors = {f"specimen.{name}": np.asarray(0.1) for name in levels}
    errors["detector.gain"] = np.full(2, 3.0)
    of_fit = dataclasses.replace(
        content, kind="hierarchical", specimen=levels, standard_errors=errors
    )
    for kind, specimen in (("waves", SPECIMEN), ("hierarchical", levels)):
        found = Resemblance(kind=kind, parameters=specimen, distance=0.05, chance=0.03)
        monkeypatch.setattr(rounds_of, "resembling_kinds", lambda *_, f=found, **__: [f])
        here = tmp_path / kind
        here.mkdir()
        chosen = rounds_of._generator(stack, truth, here, of_fit, 0, lambda name: None)
        assert chosen.kind == kind and set(chosen.specimen) == set(specimen)
        assert set(chosen.standard_errors) == {"detector.gain"}


def test_a_volume_of_one_phase_ends_the_rounds(problem, segmenter, tmp_path, monkeypatch):
    stack, content, _ = problem
    empty = np.zeros(stack.images.shape[1:], np.float32)
    monkeypatch.setattr(rounds_of, "_segment", lambda *_: empty)
    last, same, records = rounds(problem, segmenter, tmp_path)
    assert records == [] and last is segmenter and same is content


def test_the_first_training_is_shorter_only_where_a_round_follows(problem, segmenter, tmp_path):
    """Of a single slice, of which nothing below is known, none does."""
    stack, preset = problem[0], PRESETS["standard"]
    one = dataclasses.replace(stack, images=stack.images[:, :1])

    def steps(stack, rounds, start=None):
        folder = WorkFolder(tmp_path, {})
        return _Job(stack, preset, "", rounds, 0, start, None, folder, quiet).training.steps

    assert steps(stack, 1) == preset.first_steps < preset.train.steps
    assert steps(stack, 0) == steps(one, 0) == steps(one, 1) == preset.train.steps
    assert steps(stack, 1, segmenter) == preset.from_start.steps
