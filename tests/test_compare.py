"""The comparison of two stacks: AUC and interval, folds, statistics, classifier, command."""

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from fibsim import io
from fibsim.cli import main
from fibsim.compare import TrainSettings, check_comparable, compare_stacks
from fibsim.compare.auc import Scored, independent_number, mean_auc, placements, score_interval
from fibsim.compare.draw import recorded_as
from fibsim.compare.patches import Side, cut_into_folds, held_out, outside, random_patches
from fibsim.compare.statistics import patch_statistics
from fibsim.errors import InputError
from fibsim.fit import grey_levels
from fibsim.instrument_file import InstrumentFile, save_instrument
from fibsim.presets import make_instrument
from fibsim.stack import Channel, Stack

SMALL = dict(patch=16, depth=2, settings=TrainSettings(patches=600, steps=40, batch=16))


def images(seed, *, slices=24, side=64, noise=5.0, brighter=0.0):
    """Two channels of a random blurred structure; not the simulator's, which takes longer."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(slices, side, side)), (1.5, 3, 3), mode="wrap")
    solid = 1 / (1 + np.exp(-6 * field / field.std()))
    clean = np.stack([60 + 120 * solid, 90 + 60 * gaussian_filter(solid, (1, 0, 0))]) + brighter
    return np.clip(np.round(clean + noise * rng.normal(size=clean.shape)), 0, 255).astype(np.uint8)


def stack(seed=0, **kwargs):
    channels = tuple(Channel(beam_kev=v, name=f"{v:g}kV") for v in (1.0, 5.0))
    return Stack(images=images(seed, **kwargs), channels=channels, pixel_nm=4.0, slice_nm=10.0)


# The AUC and its interval


def test_placements_are_shares_of_the_other_side():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 30), rng.integers(0, 6, 20)
    by_hand = (a[:, None] > b).mean(1) + 0.5 * (a[:, None] == b).mean(1)
    np.testing.assert_allclose(placements(a, b), by_hand)


def scored(score, columns, slices):
    """Folds of ``(fold, slice, column)`` scores."""
    z, x = (g.ravel() for g in np.meshgrid(np.arange(slices), np.arange(columns), indexing="ij"))
    return [Scored(s.ravel(), x, z + slices * k) for k, s in enumerate(score)]


@pytest.mark.parametrize(("column_sd", "slice_sd"), [(0.9, 0.0), (0.5, 0.6)])
def test_interval_covers_the_truth_under_dependence(column_sd, slice_sd):
    """And one that takes patches for independent does not."""
    rng, shape = np.random.default_rng(1), (4, 4, 16)
    rest = np.sqrt(1 - column_sd**2 - slice_sd**2)

    def draw(mean):
        columns = column_sd * rng.normal(size=(4, 1, 16))
        slices = slice_sd * rng.normal(size=(4, 4, 1))
        return mean + columns + slices + rest * rng.normal(size=shape)

    hits, naive = [], []
    for _ in range(120):
        a, b = draw(1.0), draw(0.0)
        found = mean_auc(scored(a, 16, 4), scored(b, 16, 4))
        hits.append(found.low <= 0.7602 <= found.high)  # Phi(1 / sqrt 2)
        alone = [
            [Scored(s.ravel(), np.arange(64), np.arange(64) + 64 * k) for k, s in enumerate(v)]
            for v in (a, b)
        ]
        too_narrow = mean_auc(*alone)
        naive.append(too_narrow.low <= 0.7602 <= too_narrow.high)
    assert 0.9 <= np.mean(hits)
    assert np.mean(naive) < np.mean(hits) - 0.03


def test_interval_limits():
    for auc in (0.5, 0.8, 0.99):
        low, high = score_interval(auc, 30)
        assert 0 < low < auc < high < 1
        narrow = score_interval(auc, 300)
        assert low < narrow[0] < auc < narrow[1] < high
    assert score_interval(1.0, 30)[0] < 0.95 and score_interval(1.0, 30)[1] == 1.0
    assert score_interval(0.5, 30)[0] == pytest.approx(1 - score_interval(0.5, 30)[1])


def test_number_of_independent_patches():
    """All told apart, or not: the dependence is seen."""
    rng = np.random.default_rng(0)
    alone = rng.normal(size=(4, 8, 60))
    columns = np.broadcast_to(alone[:, :1], alone.shape) + 1e-3 * rng.normal(size=alone.shape)
    slices = np.broadcast_to(alone[..., :1], alone.shape) + 1e-3 * rng.normal(size=alone.shape)
    for score, expected in ((alone, 1920), (columns, 240), (slices, 32)):
        number = independent_number(scored(score, 60, 8))
        assert number == pytest.approx(expected, rel=0.25)
        apart = mean_auc(scored(score + 100, 60, 8), scored(score, 60, 8))
        assert apart.value == 1.0 and apart.low == pytest.approx(score_interval(1.0, number)[0])
        retrained = mean_auc(scored(score + 100, 60, 8), scored(score, 60, 8), retrained=True)
        assert retrained.low < apart.low < 1.0


# Folds


@pytest.mark.parametrize("slices", [24, 6])
def test_held_out_blocks_are_guarded(slices):
    """Voxels number themselves, so that patches tell where they are from."""
    grey = np.arange(slices * 64 * 64, dtype=np.float64).reshape(1, slices, 64, 64)
    runs = np.zeros(slices, int)
    side, _ = cut_into_folds((grey, runs), (grey, runs), patch=16, depth=2)
    assert side.folds == 4 and side.along_x == (slices == 6)
    rng = np.random.default_rng(0)
    tested = np.zeros(grey.shape[1:], int)
    for fold in range(4):
        test = held_out(side, fold, rng)
        np.add.at(tested, np.unravel_index(test.grey.astype(int).ravel(), tested.shape), 1)
        place = np.unravel_index(test.grey.astype(int).ravel(), tested.shape)
        pool = random_patches(side, 400, rng)
        trained = pool.grey[outside(side, fold, pool.corner)]
        used = np.unravel_index(trained.astype(int).ravel(), tested.shape)
        axis, guard = (2, 8) if side.along_x else (0, 2)
        low, high = place[axis].min(), place[axis].max()
        assert np.all((used[axis] < low - guard + 1) | (used[axis] > high + guard - 1))
        assert len(np.unique(used[axis])) > 2 * guard
    assert np.all(tested == 1)


def test_no_patch_reaches_from_one_specimen_into_the_next():
    runs = np.repeat(np.arange(4), 6)
    grey = np.broadcast_to(runs[:, None, None], (1, 24, 32, 32)).astype(np.float32)
    side = Side(images=grey, run=runs, patch=16, depth=3)
    rng = np.random.default_rng(0)
    for patches in (random_patches(side, 100, rng), *(held_out(side, k, rng) for k in range(4))):
        assert len(patches.grey) and np.all(patches.grey.std((1, 2, 3, 4)) == 0)


# Statistics


def test_statistics_measure_what_they_say():
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.normal(size=(8, 3, 40, 40)), (0, 0, 3, 3), mode="wrap")
    smooth *= 20 / smooth.std()
    moved = np.stack([shift(s, (2, 0), mode="grid-wrap") for s in smooth[:, 0]])
    first = 128 + np.stack([smooth[:, 0], moved, np.roll(moved, 2, axis=-2)], axis=1)
    noisy = first + 4 * rng.normal(size=first.shape)
    grey = np.stack([noisy, 2 * first + 10], axis=1)
    found = {s.name: s for s in patch_statistics(grey, ["a", "b"])}
    np.testing.assert_allclose(found["a: mean"].value, first.mean((1, 2, 3)), atol=0.5)
    np.testing.assert_allclose(found["a: noise"].value, 4.0, rtol=0.15)
    assert np.all(found["b: noise"].value < 1.0)
    np.testing.assert_allclose(found["b: climb in y between slices"].value, 2.0, atol=0.3)
    np.testing.assert_allclose(
        found["b: contrast (s.d.)"].value, 2 * first.std((1, 2, 3)), rtol=1e-4
    )
    assert np.all(found["a and b: correlation"].value > 0.9)
    assert np.all(np.abs(found["a and b: correlation of fine detail"].value) < 0.8)


def test_bright_rims_and_stripes_are_seen():
    y, x = np.mgrid[:32, :32]
    disk = np.hypot(y - 16, x - 16) < 10
    rim = disk & (np.hypot(y - 16, x - 16) > 7.5)
    plain, rimmed = 50 + 100.0 * disk, 50 + 100.0 * disk + 40 * rim
    rows, columns = plain + 6 * (y % 2), plain + 6 * (x % 2)
    grey = np.stack([plain, rimmed, rows, columns])[:, None, None]
    found = {s.name: s.value for s in patch_statistics(grey, ["a"])}
    assert abs(found["a: brightness of rims"][0]) < 15 < 25 < found["a: brightness of rims"][1]
    assert found["a: rows (line noise)"].argmax() == 2
    assert found["a: columns (curtains)"].argmax() == 3
    assert not any("between slices" in name for name in found)  # of a single slice


# The comparison


@pytest.fixture(scope="module")
def same():
    return compare_stacks(stack(0), stack(1), key=jax.random.key(0), **SMALL)


@pytest.fixture(scope="module")
def noisier():
    return compare_stacks(stack(0), stack(1, noise=10.0), key=jax.random.key(0), **SMALL)


def test_two_stacks_of_one_kind_are_not_told_apart(same):
    assert same.interval[0] < 0.5 < same.interval[1]
    assert abs(same.auc - 0.5) < 0.2
    assert not any(gap.clear for gap in same.auc_by_statistic)


def test_a_gross_difference_is_found_and_named(noisier):
    assert noisier.auc > 0.9 and noisier.interval[0] > 0.7
    assert noisier.interval[0] < noisier.auc < noisier.interval[1] or noisier.auc == 1.0
    gap = next(g for g in noisier.auc_by_statistic if g.name == "1kV: noise")
    assert gap.clear and gap.auc.value > 0.95
    assert gap.simulated / gap.real == pytest.approx(2.0, abs=0.3)
    assert "% too high" in gap.sentence()
    strengths = [g.strength for g in noisier.auc_by_statistic]
    assert strengths == sorted(strengths, reverse=True)
    assert min(auc.value for auc in noisier.auc_by_channel.values()) > 0.8


def test_examples_are_patches_of_the_stacks(noisier):
    real, simulated = stack(0).images, stack(1, noise=10.0).images
    for kind, examples in noisier.patches.items():
        source = real if kind.startswith("real") else simulated
        for grey, (z, y, x) in zip(examples.grey, examples.corner, strict=True):
            np.testing.assert_array_equal(grey, source[:, z : z + 2, y : y + 16, x : x + 16])
    sure = {kind: examples.outranked.mean() for kind, examples in noisier.patches.items()}
    assert sure["real, most tell-tale"] >= sure["real, least tell-tale"]
    assert sure["simulated, most tell-tale"] >= sure["simulated, least tell-tale"]


def test_a_key_gives_one_result(same):
    again = compare_stacks(stack(0), stack(1), key=jax.random.key(0), **SMALL)
    assert again.auc == same.auc and again.auc_by_channel == same.auc_by_channel


def test_brightness_is_not_normalised_away_and_floats_share_a_scale(same):
    floats = [
        dataclasses.replace(s, images=s.images.astype(np.float32) / 7 - 3)
        for s in (stack(0), stack(1, brighter=25.0))
    ]
    found = compare_stacks(*floats, key=jax.random.key(0), **SMALL)
    assert found.auc > 0.9 and found.auc_by_statistic[0].auc.value > 0.9


def test_wide_signed_integers_do_not_overflow():
    signed = (images(3)[:, :4].astype(int) * 250 - 30000).astype(np.int16)
    wide = dataclasses.replace(stack(), images=signed)
    back = recorded_as(grey_levels(dataclasses.replace(wide, images=signed.astype(float))), signed)
    np.testing.assert_array_equal(back, signed)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_drawn_grey_values_become_what_was_recorded(dtype):
    recorded = images(3)[:, :4].astype(dtype) * (16 if dtype != np.uint8 else 1)
    as_stack = dataclasses.replace(stack(), images=recorded)
    back = recorded_as(grey_levels(as_stack), recorded)
    assert back.dtype == dtype
    np.testing.assert_allclose(back, recorded, rtol=1e-5, atol=1e-3)
    between = recorded_as(grey_levels(as_stack) + 0.013, recorded)
    if np.issubdtype(dtype, np.integer):
        assert set(np.unique(between - recorded.min()) % (16 if dtype != np.uint8 else 1)) == {0}


# What cannot be compared


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(images=images(0)[:1], channels=(Channel(beam_kev=1.0),)), "1 kV SE, 5 kV SE"),
        (dict(channels=(Channel(beam_kev=1.0), Channel(beam_kev=4.0))), "4 kV"),
        (dict(channels=(Channel(beam_kev=1.0), Channel(beam_kev=5.0, detector="BSE"))), "BSE"),
        (dict(pixel_nm=4.3), "pixel_nm is 4 in the real stack and 4.3"),
        (dict(slice_nm=12.0), "slice_nm"),
        (dict(images=images(0)[:, :, :12]), "smaller than the patches of 16"),
        (dict(images=images(0)[:, :1]), "fewer than the 2"),
        (dict(images=images(0)[:, :3, :, :20]), "too few to hold a part out"),
    ],
)
def test_stacks_that_do_not_match_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        check_comparable(stack(0), dataclasses.replace(stack(1), **change), patch=16, depth=2)


def test_several_small_stacks_are_enough_together():
    pieces = [dataclasses.replace(stack(1), images=images(1)[:, :3, :, :20])] * 4
    check_comparable(stack(0), pieces, patch=16, depth=2)
    with pytest.raises(InputError, match="one size"):
        check_comparable(stack(0), [*pieces, stack(0)], patch=16, depth=2)
    thin = dataclasses.replace(stack(1), images=images(1)[:, :1, :, :20])
    with pytest.raises(InputError, match="fewer than the 2"):
        check_comparable(stack(0), [*pieces, thin], patch=16, depth=2)


def test_slightly_different_pixels_and_few_slices_are_accepted():
    other = dataclasses.replace(stack(1), pixel_nm=4.1, images=images(1)[:, :6])
    check_comparable(stack(0), other, patch=16, depth=2)
    with pytest.raises(InputError, match="at least 8"):
        check_comparable(stack(0), other, patch=4, depth=2)


# The command


def write(folder, seed, **kwargs):
    made = stack(seed, **kwargs)
    io.write_stack(folder, made.images, made.channels, voxel_nm=made.voxel_nm)
    return folder


OPTIONS = ["--patch", "16", "--depth", "2", "--steps", "20"]


def test_command_compares_two_stacks(tmp_path, capsys):
    real, simulated = write(tmp_path / "r", 0), write(tmp_path / "s", 1, noise=10.0)
    out = tmp_path / "out"
    words = ["compare", str(real), str(simulated), "-o", str(out), *OPTIONS]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "the simulation can be told apart" in text and "noise" in text and "too high" in text
    facts = json.loads((out / "compare.json").read_text())
    low, high = facts["interval_95"]
    assert 0.7 < low <= facts["auc"] <= high <= 1
    assert f"held-out AUC {facts['auc']:.3f}" in text
    assert set(facts["auc_by_channel"]) == set(facts["channels"])
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in out.iterdir()) == ["compare.json", "compare.png"]
    assert main(words) == 2
    assert "not empty" in capsys.readouterr().err


def test_command_draws_stacks_of_an_instrument(tmp_path, capsys, monkeypatch):
    """Here without matplotlib."""
    real = write(tmp_path / "r", 0, side=48)
    instrument = InstrumentFile(
        instrument=make_instrument(beam_kev=[1.0, 5.0], tilt_deg=0.0),
        kind="waves",
        specimen={"solid_fraction": 0.4, "ligament_nm": 30.0},
    )
    file, out = tmp_path / "instrument.yaml", tmp_path / "out"
    save_instrument(file, instrument)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["compare", str(real), str(file), "-o", str(out), *OPTIONS]) == 0
    text = capsys.readouterr().out
    assert "drew 8 simulated stacks of 24 slices of 48 x 48 pixels" in text
    assert "the picture was left out" in text
    assert [p.name for p in out.iterdir()] == ["compare.json"]
    facts = json.loads((out / "compare.json").read_text())
    assert facts["simulated_stacks"] == 8 and facts["auc"] > 0.8


def test_command_names_what_is_wrong(tmp_path, capsys):
    real = write(tmp_path / "r", 0)
    bare = tmp_path / "bare.yaml"
    save_instrument(bare, InstrumentFile(instrument=make_instrument(beam_kev=[1.0, 5.0])))
    three = tmp_path / "three.yaml"
    save_instrument(
        three, InstrumentFile(instrument=make_instrument(beam_kev=[1.0, 2.0, 5.0]), kind="waves")
    )
    wrong = tmp_path / "wrong.yaml"
    save_instrument(
        wrong,
        InstrumentFile(
            instrument=make_instrument(beam_kev=[1.0, 5.0]), kind="waves", specimen={"size": 3.0}
        ),
    )
    for arguments, words in [
        ([str(real), str(bare)], "specimen kind None"),
        ([str(real), str(three)], "1 kV SE, 2 kV SE, 5 kV SE"),
        ([str(real), str(wrong)], "parameter 'size'"),
        ([str(real), str(tmp_path / "none")], "does not exist"),
        ([str(real), str(real), "--patch", "200"], "smaller than the patches"),
        ([str(real), str(real), "--steps", "0"], "--steps is 0"),
        ([str(real), str(real), "--pixel-nm", "5"], "pixel_nm is 5"),
        ([str(real), str(real), "--dept", "3"], "--depth"),
    ]:
        assert main(["compare", *arguments, "-o", str(tmp_path / "out")]) == 2
        text = capsys.readouterr().err
        assert words in text and text.startswith("error: ") and text.count("\n") == 1
    assert not (tmp_path / "out").exists()
    blocked = real / "1kV_SE.tif" / "out"
    assert main(["compare", str(real), str(real), "-o", str(blocked), *OPTIONS]) == 2
    assert "1kV_SE.tif" in capsys.readouterr().err
