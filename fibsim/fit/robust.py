"""The objective of the regression on a segmented stack: robust likelihood and priors of a crop.

The recorded value g, expected value m and noise variance v(m) of `fibsim.noise` enter a Student-t
likelihood::

    -log p = (nu + 1) / 2 log(1 + r^2 / nu) + log(v + s^2) / 2,    r^2 = (g - m)^2 / (v + s^2)

with nu = 4, so that wrongly segmented pixels, whose residuals are tens of grey values, pull little
(Lange, Little & Taylor 1989, doi 10.1080/01621459.1989.10478852). The misfit s of each channel is
what the model leaves beyond noise; it is fitted along, so that a channel that cannot be explained
weighs less.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fibsim.fit.faces import expected_faces
from fibsim.fit.unknowns import Unknown, apply_unknowns, log_prior
from fibsim.instrument import Instrument
from fibsim.milling import THINNEST, Milling, nominal_milling
from fibsim.noise import channel_noise

__all__ = [
    "Crop",
    "Known",
    "RegressionSettings",
    "RunPrior",
    "SliceMilling",
    "expected_crop",
    "in_prior_sd",
    "regression_objective",
    "robust_loss",
    "run_of",
    "without_margin",
]

_DEGREES = 4.0
# Prior of the logarithm of a channel's misfit around its start.
_MISFIT_SD = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegressionSettings:
    """How long and on how much of the stack a regression runs.

    Attributes:
        steps: optimiser steps on random crops.
        learning_rate: of Adam in the free space, falling to a tenth on a cosine.
        slice_steps: further steps for the numbers of each block of slices.
        slice_rate: their learning rate, in standard deviations of the numbers' priors.
        crop_px: side of the crops whose residuals count.
        margin_px: rendered around them, since light and shade come from outside.
        crop_slices: their depth in slices.
        sublayers: simulated layers per slice.
        below_slices: steps rendered below a crop (`fibsim.layers.slices_of_steps`), and known
            slices that a slice needs below it to count fully; from the volume's chords if None.
        prior_weight: weight of the log prior beside the mean log likelihood of a grey value: one
            over the number of grey values of a crop that count as independent.
        thickness_sd, drift_px, brightness_sd: priors of each slice's own numbers (relative,
            pixels, relative) around a faultless run, unless more is known of it (`RunPrior`).
        level_px: prior of the displacement of all interfaces (pixels): about what networks' volumes
            lay off, and what refits to true volumes found (docs/segmentation.md, Refinement).
        score_crops: crops on which residuals are measured, spread over the stack.
    """

    steps: int = 150
    learning_rate: float = 0.03
    slice_steps: int = 8
    slice_rate: float = 0.15
    crop_px: int = 64
    margin_px: int = 10
    crop_slices: int = 8
    sublayers: int = 3
    below_slices: int | None = None
    prior_weight: float = 3e-3
    thickness_sd: float = 0.15
    drift_px: float = 1.0
    brightness_sd: float = 0.03
    level_px: float = 0.1
    score_crops: int = 12


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SliceMilling:
    """Each slice's own numbers in standard deviations of their priors, the regression's free space.

    Attributes:
        thickness: of the slice's thickness; ``(slice,)``.
        drift: of its displacement (y, x); ``(slice, 2)``.
        brightness: of its brightness from 1; ``(slice,)``.
    """

    thickness: Float[Array, " slice"]
    drift: Float[Array, "slice 2"]
    brightness: Float[Array, " slice"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class RunPrior:
    """Centre and standard deviation of the priors of each slice's thickness and drift.

    Attributes:
        thickness, thickness_sd: in nominal thicknesses; ``(slice,)``.
        drift, drift_sd: (y, x) in pixels; ``(slice, 2)``.
    """

    thickness: Float[Array, " slice"]
    thickness_sd: Float[Array, " slice"]
    drift: Float[Array, "slice 2"]
    drift_sd: Float[Array, "slice 2"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Crop:
    """A part of the stack: level field at its faces and below, and what was recorded.

    Attributes:
        field: ``(face, y, x)``, as `fibsim.fit.faces.expected_faces` takes it.
        rows: index of each face in the stack; ``(face,)``.
        grey: ``(channel, slice, y, x)``.
        weight: of each pixel (`fibsim.fit.sight`), ``(slice, y, x)``.
    """

    field: Array
    rows: Array
    grey: Array
    weight: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
    """What a regression takes as given, beside a crop.

    Attributes:
        instrument: whose leaves hold but for the unknowns.
        origin: centre of the unknowns' priors, in the free space.
        misfit: centre of the misfits' (log grey values); ``(channel,)``.
        surfaces: `fibsim.fit.faces.face_surfaces` of the volume.
        bulge: `fibsim.fit.faces.bulge_midway` of its field.
        run: what is known of the whole stack's slices.
    """

    instrument: Instrument
    origin: dict[str, Array]
    misfit: Float[Array, " channel"]
    surfaces: tuple[Array, Array]
    bulge: Float[Array, ""]
    run: RunPrior


Model = tuple[tuple[tuple[str, Unknown], ...], RegressionSettings]
"""The static side of a regression: the unknowns as pairs, and the settings."""


def run_of(
    slices: SliceMilling,
    prior: RunPrior,
    instrument: Instrument,
    width: tuple[int, int],
    how: RegressionSettings,
) -> Milling:
    """The run that a `SliceMilling` stands for; ``width`` is the images' (y, x)."""
    geometry = instrument.geometry
    stretch = jnp.maximum(prior.thickness + prior.thickness_sd * slices.thickness, THINNEST)
    return dataclasses.replace(
        nominal_milling(instrument, (slices.brightness.shape[0], *width)),
        thickness_nm=geometry.slice_nm * stretch,
        drift_nm=geometry.pixel_nm * (prior.drift + prior.drift_sd * slices.drift),
        brightness=1 + how.brightness_sd * slices.brightness,
    )


def in_prior_sd(
    milling: Milling, prior: RunPrior, instrument: Instrument, how: RegressionSettings
) -> SliceMilling:
    """The inverse of `run_of`."""
    geometry = instrument.geometry
    return SliceMilling(
        thickness=(milling.thickness_nm / geometry.slice_nm - prior.thickness) / prior.thickness_sd,
        drift=(milling.drift_nm / geometry.pixel_nm - prior.drift) / prior.drift_sd,
        brightness=(milling.brightness - 1) / how.brightness_sd,
    )


def without_margin(images: Array, margin: int) -> Array:
    return images[..., margin:-margin, margin:-margin] if margin else images


def expected_crop(free, known: Known, crop: Crop, model: Model) -> tuple[Array, Array]:
    """Expected grey values of a crop without its margin, and the variance of their noise.

    ``free`` holds ``unknowns`` (name -> free variable), ``slices`` (`SliceMilling` of the whole
    stack), ``misfit`` (log of the misfit in grey values, ``(channel,)``) and ``level`` (by how
    much all interfaces lie further out of the solid, in standard deviations of its prior).
    """
    unknowns, how = model
    instrument, _ = apply_unknowns(free["unknowns"], known.instrument, {}, dict(unknowns))
    own, prior = jax.tree.map(lambda leaf: leaf[crop.rows], (free["slices"], known.run))
    expected = expected_faces(
        crop.field + how.level_px * free["level"],
        instrument,
        run_of(own, prior, instrument, crop.field.shape[1:], how),
        num_slices=crop.grey.shape[1],
        below_slices=how.below_slices,
        sublayers=how.sublayers,
        surfaces=known.surfaces,
        bulge=known.bulge,
    )
    return _seen(without_margin(expected, how.margin_px), instrument)


def _student(residual: Array, variance: Array) -> Array:
    """``-log p`` but for a constant, see the module's docstring."""
    return (_DEGREES + 1) / 2 * jnp.log1p(residual**2 / variance / _DEGREES) + jnp.log(variance) / 2


def _seen(expected: Array, instrument: Instrument) -> tuple[Array, Array]:
    """What a detector that saturates shows, and the variance of its noise."""
    white = instrument.noise.white_level[:, None, None, None]
    # Where both are black or white nothing is left to explain.
    return jnp.clip(expected, 0.0, white), channel_noise(expected, instrument)[0]


def robust_loss(
    grey: Float[Array, "channel slice y x"],
    expected: Float[Array, "channel slice y x"],
    instrument: Instrument,
    misfit_grey: Float[Array, " channel"],
) -> Float[Array, "channel slice y x"]:
    """``-log p`` of every grey value but for a constant, see the module's docstring. Traceable."""
    mean, variance = _seen(expected, instrument)
    return _student(grey - mean, variance + misfit_grey[:, None, None, None] ** 2)


def regression_objective(free, known: Known, crop: Crop, model: Model) -> Array:
    """Mean robust negative log likelihood of a grey value, minus the weighted log priors."""
    unknowns, how = model
    expected, variance = expected_crop(free, known, crop, model)
    total = variance + jnp.exp(2 * free["misfit"])[:, None, None, None]
    each = _student(without_margin(crop.grey, how.margin_px) - expected, total)
    weight = without_margin(crop.weight, how.margin_px)
    loss = jnp.sum(weight * jnp.mean(each, 0)) / jnp.maximum(jnp.sum(weight), 1e-6)

    prior = log_prior(free["unknowns"], known.origin, dict(unknowns))
    for leaf in jax.tree.leaves(free["slices"]):
        prior -= jnp.sum(leaf[crop.rows[: crop.grey.shape[1]]] ** 2) / 2
    prior -= free["level"] ** 2 / 2
    prior -= jnp.sum(((free["misfit"] - known.misfit) / _MISFIT_SD) ** 2) / 2
    return loss - how.prior_weight * prior
