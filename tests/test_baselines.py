import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from fibnet import baselines
from fibnet.metrics import dice
from fibsim.errors import InputError

NAMES = ["1kV", "2kV"]


def two_phase(seed, shape=(6, 48, 48), noise=8.0):
    """Bright solid, dark pores, Gaussian noise; the second channel noisier and offset."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=shape), (1, 3, 3))
    truth = field > np.quantile(field, 0.6)
    clean = np.where(truth, 150.0, 90.0)
    images = np.stack([clean, 0.5 * clean + 40])
    noise_sd = np.array([noise, 1.5 * noise]).reshape(2, 1, 1, 1)
    return (images + noise_sd * rng.normal(size=images.shape)).astype(np.float32), truth


@pytest.fixture(scope="module")
def recording():
    return two_phase(0)


def test_otsu_threshold_by_hand():
    images = np.array([0.0, 0.0, 1.0, 10.0, 11.0, 11.0]).reshape(1, 1, 2, 3)
    label = baselines.otsu(images, ["only"])["only"]
    assert label.tolist() == [[[False, False, False], [True, True, True]]]
    assert label.dtype == bool


def test_otsu_is_per_channel_and_whole_stack(recording):
    images, truth = recording
    labels = baselines.otsu(images, NAMES)
    assert list(labels) == NAMES
    assert dice(labels["1kV"], truth) > 0.98 > dice(labels["2kV"], truth) > 0.8
    # One threshold for the stack: a slice that is all pore stays pore.
    images = images.copy()
    images[:, 2] = 90.0
    assert not baselines.otsu(images, NAMES)["1kV"][2].any()


def test_kmeans_joins_the_channels(recording):
    images, truth = two_phase(1, noise=22.0)
    # The second channel as good as the first: their noise averages out.
    noise = np.random.default_rng(9).normal(scale=22.0, size=truth.shape)
    images[1] = np.where(truth, 150.0, 90.0) + noise
    joined = dice(baselines.kmeans(images, seed=0), truth)
    single = baselines.otsu(images, NAMES)
    assert joined > max(dice(label, truth) for label in single.values())
    images, truth = recording
    assert dice(baselines.kmeans(images), truth) > 0.98
    # Whatever the order in which the clusters are found, the brighter one is solid.
    for seed in range(4):
        assert dice(baselines.kmeans(images, seed), truth) > 0.98


def test_watershed_finds_the_phases():
    images, truth = two_phase(2)
    assert dice(baselines.watershed(images), truth) > 0.85


def test_forest_learns_what_a_threshold_cannot():
    """Solid told apart by texture alone: equal mean grey value, different noise."""
    rng = np.random.default_rng(5)

    def textured(seed):
        _, truth = two_phase(seed)
        noise = rng.normal(size=(2, *truth.shape))
        return (100 + noise * np.where(truth, 30.0, 4.0)).astype(np.float32), truth

    stacks, labels = zip(*(textured(seed) for seed in (10, 11)), strict=True)
    images, truth = textured(12)
    label = baselines.random_forest(stacks, labels, images, seed=1)
    assert dice(label, truth) > 0.75
    assert dice(baselines.otsu(images, NAMES)["1kV"], truth) < 0.6


def test_forest_takes_one_stack_and_is_repeatable(recording):
    images, truth = recording
    train_images, train_labels = two_phase(20)
    one = baselines.random_forest(train_images, train_labels.astype(np.float32), images, seed=4)
    other = baselines.random_forest([train_images], [train_labels], images, seed=4)
    np.testing.assert_array_equal(one, other)
    assert dice(one, truth) > 0.97


def test_forest_draws_no_more_than_its_share(monkeypatch):
    monkeypatch.setattr(baselines, "FIT_VOXELS", 100)
    images, truth = two_phase(3, shape=(7, 32, 32))
    features, solid = baselines._draw_training(images, truth, 100, np.random.default_rng(0))
    assert features.shape == (100, 12)
    assert solid.shape == (100,)
    assert baselines._subset(1000, np.random.default_rng(0)).size == 100
    assert dice(baselines.kmeans(images), truth) > 0.97


def test_features_of_a_slice():
    images, _ = two_phase(4)
    features = baselines._slice_features(images, 0).reshape(48, 48, 2, 6)
    np.testing.assert_array_equal(features[..., 1, 0], images[1, 0])
    # There is no slice before the first: it stands in for itself.
    np.testing.assert_array_equal(features[..., 1, 4], images[1, 0])
    np.testing.assert_array_equal(features[..., 1, 5], images[1, 1])
    np.testing.assert_allclose(features[..., 0, 2], gaussian_filter(images[0, 0], 3.0))


def test_all_baselines(recording):
    images, truth = recording
    train_images, train_labels = two_phase(30)
    labels = baselines.all_baselines(
        images, NAMES, train_images=train_images, train_labels=train_labels, seed=0
    )
    assert list(labels) == ["Otsu 1kV", "Otsu 2kV", "k-means", "watershed", "random forest"]
    for name, label in labels.items():
        assert label.shape == truth.shape and label.dtype == bool, name
    assert "random forest" not in baselines.all_baselines(images, NAMES)


def test_single_slice_single_channel():
    images, truth = two_phase(6, shape=(1, 64, 64))
    train_images, train_labels = two_phase(7, shape=(1, 64, 64))
    labels = baselines.all_baselines(
        images[:1], ["only"], train_images=train_images[:1], train_labels=train_labels
    )
    for name, label in labels.items():
        assert label.shape == (1, 64, 64)
        assert dice(label, truth) > 0.8, name


def test_constant_images_hold_no_solid():
    for label in baselines.all_baselines(np.full((2, 2, 8, 8), 7.0), NAMES).values():
        assert not label.any()


def test_bad_input_is_refused(recording):
    images, truth = recording
    with pytest.raises(InputError, match="channel, slice, y, x"):
        baselines.kmeans(images[0])
    with pytest.raises(InputError, match="not finite"):
        baselines.watershed(np.full((1, 2, 8, 8), np.nan))
    with pytest.raises(InputError, match="one distinct name"):
        baselines.otsu(images, ["1kV", "1kV"])
    with pytest.raises(InputError, match="Training images of shapes"):
        baselines.random_forest(images[:1], truth, images)
    with pytest.raises(InputError, match="single phase"):
        baselines.random_forest(images, np.ones_like(truth), images)
    with pytest.raises(InputError, match="both or neither"):
        baselines.all_baselines(images, NAMES, train_images=images)
