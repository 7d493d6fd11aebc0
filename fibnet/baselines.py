"""Segmentations to beat: thresholds, clustering, watershed and a random forest.

Images are ``(channel, slice, y, x)`` grey values; labels are boolean ``(slice, y, x)``, 1 = solid.
None of these methods knows that a pore shows what lies behind it, except the random forest,
which is trained on the same simulated stacks as the network.
"""

from collections.abc import Sequence

import numpy as np

from fibsim.errors import InputError
from fibsim.threads import map_in_threads

__all__ = ["all_baselines", "kmeans", "otsu", "random_forest", "watershed"]

FIT_VOXELS = 100_000
"""Voxels drawn at random to fit the clustering or the forest: more changes nothing visible."""


def otsu(images: np.ndarray, channel_names: Sequence[str]) -> dict[str, np.ndarray]:
    """Threshold of each channel by itself (Otsu 1979, doi:10.1109/TSMC.1979.4310076).

    One threshold for the whole stack maximises the variance between the classes; brighter is
    solid. A channel of one grey value has no solid.

    Args:
        images: grey values ``(channel, slice, y, x)``.
        channel_names: one per channel, the keys of the result.

    Raises:
        InputError: the images are not finite ``(channel, slice, y, x)``, or the names do not
            match the channels.
    """
    from skimage.filters import threshold_otsu

    images = _checked(images)
    names = _checked_names(channel_names, images.shape[0])
    return {
        name: channel > threshold_otsu(channel.ravel())
        for name, channel in zip(names, images, strict=True)
    }


def kmeans(images: np.ndarray, seed: int = 0) -> np.ndarray:
    """Two clusters of the voxels' channel vectors; the brighter is solid.

    k-means on channels scaled to unit variance, so that no channel weighs more for its contrast.

    Args:
        images: grey values ``(channel, slice, y, x)``.
        seed: of the sub-sample and the starting centres.

    Returns:
        Boolean label ``(slice, y, x)``; all pore where the images have one grey value.

    Raises:
        InputError: as in `otsu`.
    """
    from sklearn.cluster import KMeans

    images = _standardised(_checked(images))
    vectors = images.reshape(images.shape[0], -1).T
    sample = _subset(vectors.shape[0], np.random.default_rng(seed))
    if np.ptp(vectors[sample], axis=0).max() == 0:
        return np.zeros(images.shape[1:], bool)
    model = KMeans(n_clusters=2, random_state=seed).fit(vectors[sample])
    bright = int(np.argmax(model.cluster_centers_.sum(axis=1)))
    return np.equal(model.predict(vectors), bright).reshape(images.shape[1:])


def watershed(images: np.ndarray) -> np.ndarray:
    """Seeded watershed on the gradient of the mean channel.

    The channels are scaled to unit variance, averaged and lightly blurred; three classes by the
    multi-level Otsu threshold give pore seeds (darkest) and solid seeds (brightest), and the
    middle class is flooded along the gradient in three dimensions, slice faces included
    (Beucher and Meyer 1993; seeds as usual for FIB-SEM volumes).

    Args:
        images: grey values ``(channel, slice, y, x)``.

    Returns:
        Boolean label ``(slice, y, x)``; plain Otsu where there are fewer than three grey values.

    Raises:
        InputError: as in `otsu`.
    """
    from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude
    from skimage.filters import threshold_multiotsu
    from skimage.segmentation import watershed as flood

    images = _checked(images)
    mean = _standardised(images).mean(axis=0)
    if np.unique(mean).size < 3:
        return otsu(mean[None], ["mean"])["mean"]
    smooth = np.stack([gaussian_filter(image, 1.0) for image in mean])
    gradient = np.stack([gaussian_gradient_magnitude(image, 1.0) for image in mean])
    low, high = threshold_multiotsu(smooth, classes=3)
    seeds = np.where(smooth < low, 1, np.where(smooth > high, 2, 0)).astype(np.int8)
    return flood(gradient, seeds) == 2


def random_forest(
    train_images: Sequence[np.ndarray] | np.ndarray,
    train_labels: Sequence[np.ndarray] | np.ndarray,
    images: np.ndarray,
    seed: int = 0,
) -> np.ndarray:
    """Random forest (Breiman 2001, doi:10.1023/A:1010933404324) on local grey-value features.

    Features of a voxel, per channel: its grey value, the in-plane Gaussian blurs of 1 and 3
    pixels, the in-plane gradient magnitude at 1 pixel, and the grey values of the slices before
    and after (at an end of the stack the slice itself). 50 trees of depth 16 on at most 100,000
    voxels. Grey values are used as they are: the training images must be on the scale of the
    images.

    Args:
        train_images: simulated stacks, a sequence of ``(channel, slice, y, x)``, a single one, or
            an array with a leading stack axis.
        train_labels: their labels ``(slice, y, x)``; a solid fraction is cut at 0.5.
        images: the stack to segment, ``(channel, slice, y, x)``.
        seed: of the sub-sample and the forest.

    Returns:
        Boolean label ``(slice, y, x)``.

    Raises:
        InputError: as in `otsu`; training stacks and labels that do not match each other or the
            number of channels; or training labels of a single phase.
    """
    from sklearn.ensemble import RandomForestClassifier

    images = _checked(images)
    stacks, labels = _checked_training(train_images, train_labels, images.shape[0])
    rng = np.random.default_rng(seed)
    share = FIT_VOXELS // len(stacks)
    drawn = [
        _draw_training(stack, label, share, rng)
        for stack, label in zip(stacks, labels, strict=True)
    ]
    target = np.concatenate([solid for _, solid in drawn])
    if target.all() or not target.any():
        raise InputError(
            "The training labels hold a single phase; simulate training stacks with both solid "
            "and pores."
        )
    forest = RandomForestClassifier(
        n_estimators=50,
        max_depth=16,
        min_samples_leaf=2,
        # Half the voxels a tree: a third off the time at the same accuracy.
        max_samples=0.5,
        n_jobs=-1,
        random_state=seed,
    )
    forest.fit(np.concatenate([features for features, _ in drawn]), target)
    # Threads that share the trees add votes in the order in which they finish, and rounding then
    # decides ties anew in every run. Each slice is voted on by one thread instead.
    forest.n_jobs = 1

    def segment(z: int) -> np.ndarray:
        return forest.predict(_slice_features(images, z)).reshape(images.shape[2:])

    return np.stack(map_in_threads(segment, range(images.shape[1]))).astype(bool)


def all_baselines(
    images: np.ndarray,
    channel_names: Sequence[str],
    *,
    train_images: Sequence[np.ndarray] | np.ndarray | None = None,
    train_labels: Sequence[np.ndarray] | np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Every baseline, in order of effort: method name -> label ``(slice, y, x)``.

    ``"Otsu <channel>"`` for every channel, ``"k-means"``, ``"watershed"`` and, where training
    stacks are given, ``"random forest"``.

    Args:
        images: grey values ``(channel, slice, y, x)``.
        channel_names: one per channel.
        train_images: simulated stacks for the random forest, or None to leave it out.
        train_labels: their labels.
        seed: of everything random.

    Raises:
        InputError: as in the single baselines, or training images without labels.
    """
    if (train_images is None) != (train_labels is None):
        raise InputError(
            "Only one of train_images and train_labels was given; give both or neither."
        )
    labels = {f"Otsu {name}": label for name, label in otsu(images, channel_names).items()}
    labels["k-means"] = kmeans(images, seed)
    labels["watershed"] = watershed(images)
    if train_images is not None and train_labels is not None:
        labels["random forest"] = random_forest(train_images, train_labels, images, seed)
    return labels


def _slice_features(stack: np.ndarray, z: int) -> np.ndarray:
    """Features of every voxel of slice ``z``, shape ``(y * x, feature)``."""
    from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude

    before, after = max(z - 1, 0), min(z + 1, stack.shape[1] - 1)
    features = []
    for channel in stack:
        image = channel[z]
        features += [
            image,
            gaussian_filter(image, 1.0),
            gaussian_filter(image, 3.0),
            gaussian_gradient_magnitude(image, 1.0),
            channel[before],
            channel[after],
        ]
    return np.stack(features, axis=-1).reshape(-1, len(features))


def _draw_training(
    stack: np.ndarray, label: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Features and phase of about ``count`` random voxels, spread evenly over the slices."""
    slices, per_slice = stack.shape[1], label[0].size
    drawn = []
    for z in range(slices):
        # Rounded sums of equal shares: few voxels over many slices still add up to ``count``.
        share = count * (z + 1) // slices - count * z // slices
        chosen = rng.choice(per_slice, min(share, per_slice), replace=False)
        drawn.append((_slice_features(stack, z)[chosen], label[z].ravel()[chosen]))
    features, solid = zip(*drawn, strict=True)
    return np.concatenate(features), np.concatenate(solid)


def _subset(size: int, rng: np.random.Generator) -> np.ndarray:
    if size <= FIT_VOXELS:
        return np.arange(size)
    return rng.choice(size, FIT_VOXELS, replace=False)


def _standardised(images: np.ndarray) -> np.ndarray:
    sd = images.std(axis=(1, 2, 3), keepdims=True)
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    return (images - mean) / np.where(sd > 0, sd, 1.0)


def _checked(images: np.ndarray, what: str = "Images") -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != 4 or images.size == 0:
        raise InputError(
            f"{what} of shape {images.shape} found; expected non-empty (channel, slice, y, x)."
        )
    images = images.astype(np.float32, copy=False)
    if not np.isfinite(images).all():
        raise InputError(f"{what} with values that are not finite found; mask or crop them.")
    return images


def _checked_names(names: Sequence[str], channels: int) -> list[str]:
    names = list(names)
    if len(names) != channels or len(set(names)) != channels:
        raise InputError(
            f"Channel names {names} found for {channels} channels; give one distinct name each."
        )
    return names


def _checked_training(
    train_images: Sequence[np.ndarray] | np.ndarray,
    train_labels: Sequence[np.ndarray] | np.ndarray,
    channels: int,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    if isinstance(train_images, np.ndarray) and train_images.ndim == 4:
        train_images, train_labels = [train_images], [np.asarray(train_labels)]
    stacks = [_checked(stack, "Training images") for stack in train_images]
    labels = [np.asarray(label) > 0.5 for label in train_labels]
    shapes = [(stack.shape[0], *stack.shape[1:]) for stack in stacks]
    wanted = [(channels, *label.shape) for label in labels]
    if not stacks or shapes != wanted:
        raise InputError(
            f"Training images of shapes {shapes} found for labels and channels {wanted}; give one "
            "label (slice, y, x) per stack and as many channels as the images have."
        )
    return stacks, labels
