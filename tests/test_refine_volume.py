"""Refinement: tiles cover the stack once, a volume is mended where the stack says so."""

import dataclasses

import numpy as np
import pytest

from fibnet import refine
from fibnet.refine import (
    VolumeRefinement,
    _parts,
    _tiles,
    advance,
    refine_volume,
    regress_and_refine,
)
from fibnet.twin import Refit
from fibsim.fit import ChannelResidual, RegressionResult, RegressionSettings
from fibsim.fit.regress import slice_weights
from fibsim.fit.sight import Sight
from fibsim.instrument_file import InstrumentFile
from fibsim.milling import nominal_milling
from fibsim.presets import make_instrument
from fibsim.simulate_command import record
from fibsim.stack import virtual_stack

SLICES, SIDE, BELOW = 8, 40, 3

pytestmark = pytest.mark.usefixtures("compiled_fast")


@pytest.mark.parametrize("size", [10, 64, 65, 200])
@pytest.mark.parametrize(("before", "after"), [(8, 8), (8, 20), (20, 8)])
def test_parts_explain_every_pixel_once_and_are_alike(size, before, after):
    parts = _parts(size, 32, before, after)
    count = np.zeros(size)
    for whole, inside in parts:
        assert 0 <= whole.start and whole.stop <= size
        count[whole][inside] += 1
        assert inside.start >= min(before, whole.start + inside.start)
        beyond = size - whole.start - inside.stop
        assert whole.stop - whole.start - inside.stop >= min(after, beyond)
    np.testing.assert_array_equal(count, 1)
    assert len({w.stop - w.start for w, _ in parts}) == 1


def test_tiles_explain_every_slice_that_counts_once():
    """As they count in one piece: 9 pixels before the end the beam leaves unless it is stopped."""
    how = VolumeRefinement(tile_px=16, margin_px=4, tile_slices=5)
    weights, sight = slice_weights(12, 3), Sight(lean=3.0, seen=3)
    solid = np.random.default_rng(0).random((12, 40, 30)) < 0.3
    total = np.zeros(solid.shape)
    for tile in _tiles(solid, weights, 3, np.inf, sight, how):
        assert tile.rows.max() < 12 and len(tile.rows) == tile.count + 4
        assert tile.y.stop - tile.y.start == 16 + 4 + 9
        total[tile.rows[: tile.count], tile.y, tile.x] += tile.weight
    np.testing.assert_array_equal(total, sight.weights(solid, weights))
    assert np.all(total[:9, :31] == 1) and 0.2 < total[:9, 31:].mean() < 0.9
    assert not total[9:].any()


@pytest.fixture(scope="module")
def problem():
    """A stack, its truth, and a network's volume that is unsure where it is wrong."""
    instrument = make_instrument(beam_kev=[1.0, 5.0], tilt_deg=38.0)
    sample = record(
        instrument,
        kind="waves",
        parameters={"solid_fraction": 0.4, "ligament_nm": 40.0},
        slices=SLICES,
        side=SIDE,
        seed=4,
    )
    stack, truth = virtual_stack(sample.images, instrument), np.asarray(sample.solid)
    wrong = np.zeros(truth.shape, bool)
    for k, y, x in np.random.default_rng(0).integers((0, 4, 4), (4, SIDE - 4, SIDE - 4), (6, 3)):
        wrong[k, y - 3 : y + 4, x - 3 : x + 4] = True
    probability = np.where(wrong, 0.5 + 0.2 * (0.5 - truth), 0.5 + 0.9 * (truth - 0.5))
    residual = ChannelResidual(
        chi2=np.ones(2), explained=np.ones(2), noise_share=np.ones(2), outliers=np.zeros(2),
        misfit_grey=np.full(2, 4.0),
    )  # fmt: skip
    regression = RegressionResult(
        instrument=instrument,
        milling=nominal_milling(instrument, truth.shape),
        start=residual,
        fitted=residual,
        moved={},
        level_px=0.0,
        weights=slice_weights(SLICES, BELOW),
        below_slices=BELOW,
        loss=np.zeros(1),
    )
    return stack, truth > 0.5, probability.astype(np.float32), wrong, regression


@pytest.mark.parametrize("pixels", [0.3, 1.2, -0.7])
def test_interfaces_advance_by_the_pixels_asked_for(pixels):
    """Of a disc whose logit falls by two a pixel: its radius, from its area."""
    y, x = np.mgrid[:60, :60] - 29.5
    disc = 1 / (1 + np.exp(-2 * (15.3 - np.hypot(y, x))))
    before, after = (
        np.sqrt(p.sum() / np.pi) for p in (disc, advance(disc[None].astype(np.float32), pixels)[0])
    )
    assert after - before == pytest.approx(pixels, abs=0.06 * abs(pixels) + 0.02)
    flat = np.full((1, 8, 8), 0.3, np.float32)
    np.testing.assert_allclose(advance(flat, pixels), flat, rtol=1e-5)
    assert advance(flat, 0.0) is flat


def _cross_entropy(probability, truth):
    return -np.log(np.clip(np.where(truth, probability, 1 - probability), 1e-4, 1))


def test_wrong_voxels_are_mended_and_the_others_stay(problem):
    stack, truth, probability, wrong, regression = problem
    how = VolumeRefinement(steps=10, damping=0.4, weight=0.5, sublayers=2)
    refined, losses = refine_volume(stack, probability, regression, settings=how)
    assert losses.shape == (11,) and losses[-1] < losses[0]
    before, after = (_cross_entropy(p, truth) for p in (probability, refined))
    # Single grey values are noisy and bottoms of pores bright: not every patch can be told.
    assert np.mean((probability > 0.5) == truth, where=wrong) < 0.1
    assert np.mean((refined > 0.5) == truth, where=wrong) > 0.4
    assert after[wrong].mean() < before[wrong].mean() - 0.1
    assert after[~wrong].mean() < before[~wrong].mean() + 0.01
    assert refined.shape == probability.shape and refined.dtype == np.float32

    # In tiles that overlap by their margins nearly the same comes out.
    tiled = dataclasses.replace(how, tile_px=20, margin_px=8, steps=2)
    parts, _ = refine_volume(stack, probability, regression, settings=tiled)
    whole, _ = refine_volume(
        stack, probability, regression, settings=dataclasses.replace(how, steps=2)
    )
    difference, change = np.abs(parts - whole), np.abs(whole - probability)
    assert difference.mean() < 0.1 * change.mean() and change.mean() > 0.01
    assert np.quantile(difference, 0.99) < 0.05


def test_of_one_phase_nothing_is_refined(problem):
    stack, truth, *_, regression = problem
    nearly_one = np.full(truth.shape, 0.9, np.float32)
    same, facts = regress_and_refine(
        stack,
        nearly_one,
        InstrumentFile(instrument=regression.instrument),
        prior=regression.instrument,
        regression=RegressionSettings(),
        settings=VolumeRefinement(),
        seed=0,
    )
    assert facts is None
    np.testing.assert_array_equal(same, nearly_one)


def test_refits_go_on_until_interfaces_rest(problem, monkeypatch):
    """Every refit sees the volume refined before, every refinement starts from the network's."""
    stack, _, probability, _, regression = problem
    levels, given, starts = iter([0.2, 0.1, 0.01, 0.3]), [], []
    centre = dataclasses.replace(regression.instrument)

    def refit(_, volume, *args, prior, run, **kwargs):
        given.append(volume)
        assert prior is centre and run == "run"
        # Not what the regression found counts, but what is left of it without its bias.
        found = dataclasses.replace(regression, level_px=5.0)
        return Refit(
            found=found,
            instrument=found.instrument,
            level_px=next(levels),
        )

    def refined(_, volume, *args, **kwargs):
        starts.append(volume)
        return 0.5 * volume, np.asarray([2.0, 1.0])

    monkeypatch.setattr(refine, "run_as_seen", lambda stack, tilt_deg, progress: "run")
    monkeypatch.setattr(refine, "refit", refit)
    monkeypatch.setattr(refine, "refine_volume", refined)
    result, facts = regress_and_refine(
        stack,
        probability,
        InstrumentFile(instrument=regression.instrument),
        prior=centre,
        regression=RegressionSettings(),
        settings=VolumeRefinement(rounds=4),
        seed=0,
    )
    assert len(given) == 3 and facts["level_px"] == pytest.approx(0.31)
    np.testing.assert_array_equal(given[1], 0.5 * starts[0])
    np.testing.assert_allclose(starts[2], advance(probability, 0.31), atol=1e-6)
    np.testing.assert_array_equal(result, 0.5 * starts[2])
    assert facts["kept"]


def test_without_weight_nothing_moves(problem):
    stack, _, probability, _, regression = problem
    how = VolumeRefinement(steps=1, weight=0.0, sublayers=2)
    same, _ = refine_volume(stack, probability, regression, settings=how)
    np.testing.assert_allclose(same, probability, atol=1e-5)
