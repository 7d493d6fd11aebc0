import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from fibnet import metrics
from fibsim.errors import InputError

VOXEL = (10.0, 4.0, 4.0)


@pytest.fixture
def pair():
    rng = np.random.default_rng(3)
    truth = rng.random((6, 16, 17)) < 0.4
    return truth ^ (rng.random(truth.shape) < 0.1), truth


def test_overlap_by_hand():
    truth = np.zeros((1, 2, 4), bool)
    truth[0, 0] = True
    pred = np.zeros_like(truth)
    pred[0, :, :3] = True
    # 3 voxels in common, 6 predicted, 4 true, 7 in the union.
    assert metrics.dice(pred, truth) == pytest.approx(6 / 10)
    assert metrics.iou(pred, truth) == pytest.approx(3 / 7)
    assert metrics.iou(~pred, ~truth) == pytest.approx(1 / 5)
    assert metrics.misplaced_pore_fraction(pred, truth) == pytest.approx(3 / 4)
    assert metrics.misplaced_voxel_fraction(pred, truth) == pytest.approx(4 / 8)


def test_dice_and_iou_agree(pair):
    iou = metrics.iou(*pair)
    assert metrics.dice(*pair) == pytest.approx(2 * iou / (1 + iou))


@pytest.mark.parametrize("tolerance_nm", [3.9, 4.0, 8.0, 10.0])
def test_boundary_against_scipy(pair, tolerance_nm):
    pred, truth = pair

    def surface(solid):
        padded = np.pad(solid, 1, mode="edge")
        found = np.zeros_like(solid)
        for axis in range(3):
            for shift in (-1, 1):
                found |= solid & ~np.roll(padded, shift, axis)[1:-1, 1:-1, 1:-1]
        return found

    ours, theirs = surface(pred), surface(truth)
    precision = np.mean(distance_transform_edt(~theirs, VOXEL)[ours] <= tolerance_nm + 1e-3)
    recall = np.mean(distance_transform_edt(~ours, VOXEL)[theirs] <= tolerance_nm + 1e-3)
    found = metrics.boundary_f_score(pred, truth, VOXEL, tolerance_nm)
    assert found.precision == pytest.approx(precision)
    assert found.recall == pytest.approx(recall)
    assert found.f_score == pytest.approx(2 * precision * recall / (precision + recall))


def test_boundary_tolerance_is_physical():
    truth = np.zeros((12, 24, 24), bool)
    truth[:, :, :12] = True
    shifted = np.roll(truth, 0, axis=2)
    shifted[:, :, 12:15] = True
    # Three pixels of 4 nm: beyond the default of two pixels, within 12 nm.
    assert metrics.boundary_f_score(shifted, truth, VOXEL).f_score == 0
    assert metrics.boundary_f_score(shifted, truth, VOXEL, 12.0).f_score == 1
    deep = np.zeros_like(truth)
    deep[:6] = True
    deeper = np.zeros_like(truth)
    deeper[:7] = True
    assert metrics.boundary_f_score(deeper, deep, VOXEL, 9.9).f_score == 0
    assert metrics.boundary_f_score(deeper, deep, VOXEL, 10.0).f_score == 1


@pytest.mark.parametrize("solid", [True, False])
def test_one_phase_agrees_with_itself(solid):
    volume = np.full((3, 4, 5), solid)
    found = metrics.scores(volume, volume, VOXEL, volume.astype(float))
    for name, value in found.items():
        assert value == (1.0 if name in metrics.HIGHER_IS_BETTER else 0.0), name


def test_one_phase_against_the_other():
    solid = np.ones((3, 4, 5), bool)
    found = metrics.scores(solid, ~solid, VOXEL, solid.astype(float))
    assert found["dice"] == found["iou_solid"] == found["iou_pore"] == 0
    assert found["misplaced_pore_fraction"] == found["misplaced_voxel_fraction"] == 1
    assert found["porosity_error"] == -1
    assert found["expected_calibration_error"] == 1
    # Nothing was pore, so no pore can have been lost.
    assert metrics.misplaced_pore_fraction(~solid, solid) == 0


def test_boundary_missing_on_one_side(pair):
    _, truth = pair
    assert metrics.boundary_f_score(np.ones_like(truth), truth, VOXEL) == (0, 0, 0)


def test_scores_cover_the_labels_and_are_plain(pair):
    found = metrics.scores(*pair, VOXEL, np.full(pair[0].shape, 0.5))
    assert list(found) == list(metrics.METRIC_LABELS)
    assert all(type(value) is float for value in found.values())
    assert "expected_calibration_error" not in metrics.scores(*pair, VOXEL)


def test_calibration_of_honest_and_of_overconfident_probabilities():
    rng = np.random.default_rng(0)
    probability = rng.random((20, 60, 60))
    truth = rng.random(probability.shape) < probability
    assert metrics.expected_calibration_error(probability, truth) < 0.01
    # Pushing every probability to 0 or 1 leaves an error of mean min(p, 1 - p) = 1/4.
    hard = (probability > 0.5).astype(float)
    assert metrics.expected_calibration_error(hard, truth) == pytest.approx(0.25, abs=0.01)


def test_calibration_by_hand():
    probability = np.array([[[0.0, 0.2, 0.2, 1.0]]])
    truth = np.array([[[False, True, False, True]]])
    mean, observed, count = metrics.reliability(probability, truth, bins=2)
    assert count.tolist() == [3, 1]
    np.testing.assert_allclose(mean, [0.4 / 3, 1.0])
    np.testing.assert_allclose(observed, [1 / 3, 1.0])
    expected = 3 / 4 * (1 / 3 - 0.4 / 3)
    assert metrics.expected_calibration_error(probability, truth, 2) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("pred", "truth", "message"),
    [
        (np.zeros((2, 3, 4)), np.zeros((2, 3, 5)), "shape"),
        (np.zeros((3, 4)), np.zeros((3, 4)), "(z, y, x)"),
        (np.full((1, 3, 4), 0.3), np.zeros((1, 3, 4)), "threshold"),
    ],
)
def test_bad_labels_are_refused(pred, truth, message):
    with pytest.raises(InputError) as error:
        metrics.scores(pred, truth, VOXEL)
    assert message in str(error.value)


def test_bad_numbers_are_refused(pair):
    with pytest.raises(InputError, match="Voxel size"):
        metrics.boundary_f_score(*pair, (10.0, 4.0))
    with pytest.raises(InputError, match="Tolerance"):
        metrics.boundary_f_score(*pair, VOXEL, 0.0)
    with pytest.raises(InputError, match="not logits"):
        metrics.expected_calibration_error(np.full(pair[0].shape, 1.2), pair[1])
    with pytest.raises(InputError, match="bins"):
        metrics.reliability(np.full(pair[0].shape, 0.2), pair[1], bins=0)
