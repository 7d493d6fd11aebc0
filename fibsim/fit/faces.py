"""A stack imaged from a segmentation of itself: solid at the imaged faces, and between them.

A segmentation knows the solid at every imaged face, on that image's own grid. What lies between
two faces is interpolated in a field whose zero is the interface, so that the slice may be as thick
as it is: the field belongs to the faces and not to depths. Walls stay sharp since that field is the
signed distance to the interface of the slice (shape-based interpolation, Raya & Udupa 1990,
doi 10.1109/42.52980); with the probability itself they would fade from one slice to the next. Where
a feature ends between two faces, distances in the plane say too little: the rarer phase, whose
distances are smaller, would end too soon. So they count up to the slice's thickness only, which no
distance to the interface exceeds there, and a bulge is added between faces, such that as much is
solid midway as at the faces.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fibsim.chain import first_scene, image_slices
from fibsim.instrument import Instrument
from fibsim.interaction import channel_coefficients
from fibsim.layers import (
    Texture,
    chords_nm,
    phase_shares,
    plan_cuts,
    slices_of_steps,
    sublayer_borders,
)
from fibsim.milling import Milling
from fibsim.resample import shift_lateral

__all__ = [
    "bulge_at",
    "bulge_midway",
    "central_part",
    "expected_faces",
    "face_count",
    "face_surfaces",
    "fill_slices",
    "level_field",
    "mirrored",
]

# Faces and pixels that stand for a large volume, and what a bulge never exceeds (pixels, logits).
_ENOUGH, _LARGEST_BULGE = (49, 512, 512), 4.0


def level_field(
    probability: Float[np.ndarray, "slice y x"], *, reach_px: float = np.inf
) -> Float[np.ndarray, "slice y x"]:
    """Distance in pixels to the interface of the slice, positive in the solid.

    In pixels that the interface crosses it is ``p - 1/2``, since a calibrated probability is the
    fraction expected there. A slice without interface is as far from one as it is wide. The solid
    fraction of a pixel is ``clip(1/2 + field, 0, 1)``.

    Args:
        reach_px: distances are cut off at this, the slice's thickness in pixels where what lies
            between slices is interpolated, at 1 at least.
    """
    probability = np.asarray(probability, np.float32)
    from scipy.ndimage import distance_transform_edt

    out = np.empty_like(probability)
    for k, image in enumerate(probability):
        solid = image > 0.5
        if solid.all() or not solid.any():
            out[k] = np.where(solid, 1, -1) * max(image.shape)
            continue
        inside, outside = distance_transform_edt(solid), distance_transform_edt(~solid)
        distance = inside - outside
        crossed = np.clip(image - 0.5, -0.5, 0.5)
        # Neighbours across the interface are at distance 1 and -1: it runs half a pixel away.
        out[k] = np.where(np.abs(distance) > 1, distance - np.sign(distance) / 2, crossed)
    reach = max(reach_px, 1.0)
    return np.clip(out, -reach, reach)


def _solid(field: Array, logit: bool) -> Array:
    """Solid fraction where the field is known."""
    return jax.nn.sigmoid(field) if logit else jnp.clip(0.5 + field, 0.0, 1.0)


def central_part(
    volume: Float[np.ndarray, "face y x"], most: tuple[int, int, int] = _ENOUGH
) -> Float[np.ndarray, "face y x"]:
    """The middle of a large volume: so many faces and pixels at most."""
    firsts = [max(n - m, 0) // 2 for n, m in zip(volume.shape, most, strict=True)]
    return volume[tuple(slice(f, f + m) for f, m in zip(firsts, most, strict=True))]


def bulge_at(depth: Array) -> Array:
    """Share of a bulge between two faces: 0 at both (depths 0 and 1), 1 midway."""
    return 4 * depth * (1 - depth)


def bulge_midway(field: Float[np.ndarray, "face y x"], *, logit: bool = False) -> float:
    """What `fill_slices` is to add midway between faces so that as much is solid there as at them.

    From the `central_part` of the field; 0 for a single face, 4 (pixels, or logits) at most.
    """
    from scipy.optimize import brentq

    field = jnp.asarray(central_part(field))
    if len(field) < 2:
        return 0.0
    midway = (field[1:] + field[:-1]) / 2

    def solid(field: Array) -> float:
        return float(jnp.mean(_solid(field, logit)))

    at_faces = (solid(field[1:]) + solid(field[:-1])) / 2

    def excess(bulge: float) -> float:
        return solid(midway + bulge) - at_faces

    without = excess(0.0)
    if without == 0:
        return 0.0
    largest = float(np.copysign(_LARGEST_BULGE, -without))
    reached = without * excess(largest) <= 0
    return brentq(excess, 0.0, largest, xtol=1e-7) if reached else largest


def mirrored(index: np.ndarray, count: int) -> np.ndarray:
    """Indices into ``count`` items, reflected at both ends as often as it takes."""
    if count == 1:
        return np.zeros_like(index)
    turn = np.abs(index) % (2 * count - 2)
    return np.minimum(turn, 2 * count - 2 - turn)


def face_surfaces(
    probability: Float[np.ndarray, "slice y x"],
) -> tuple[Float[np.ndarray, " slice"], Float[np.ndarray, " slice"]]:
    """``<|s(x + 1) - s(x)|>`` and ``<s>`` of every slice, s being 1 where p > 1/2: what
    `fibsim.layers.chords_nm` needs of the whole volume."""
    pairs = [(np.abs(np.diff(s, axis=1)).mean(), s.mean()) for s in _labels(probability)]
    surfaces, fraction = np.asarray(pairs, np.float32).T
    return surfaces, fraction


def _labels(probability):
    return ((np.asarray(image) > 0.5).astype(np.float32) for image in probability)


def fill_slices(
    field: Float[Array, "face y x"],
    sublayers: int,
    *,
    bulge: Array | float = 0.0,
    logit: bool = False,
) -> Float[Array, "face-1 sublayer y x"]:
    """Solid fraction of the sub-layers between consecutive faces.

    The field at their middles, the face's own in the first one, which is what a face shows::

        f(t) = (1 - t) f_k + t f_k+1 + 4 t (1 - t) bulge

    With ``logit`` the field is the logit of the solid fraction instead of a `level_field`: walls of
    certain voxels are as sharp, and every voxel has a gradient.
    """
    middle = sum(sublayer_borders(sublayers)) / 2
    t = jnp.asarray(middle - middle[0], field.dtype)[:, None, None]
    between = (1 - t) * field[:-1, None] + t * field[1:, None] + bulge_at(t) * bulge
    return _solid(between, logit)


def _shares_of_step(slices: int, sublayers: int) -> Float[np.ndarray, "sublayer fine"]:
    """What every sub-layer of a step consists of: shares of the sub-layers of its slices."""
    top, bottom = sublayer_borders(sublayers)
    first = np.arange(slices)[:, None]
    upper, lower = (np.ravel(first + border) for border in (top, bottom))
    common = np.minimum(lower, slices * bottom[:, None]) - np.maximum(upper, slices * top[:, None])
    return np.maximum(common, 0.0) / (slices * (bottom - top))[:, None]


def _thicker(
    solid: Float[Array, "slice sublayer y x"], steps: tuple[int, ...]
) -> Float[Array, "step sublayer y x"]:
    """Means over the sub-layers of steps of one or more slices each, one after the other."""
    sublayers, first, joined = solid.shape[1], 0, []
    for step in steps:
        part = solid[first : first + step].reshape(step * sublayers, *solid.shape[2:])
        if step > 1:
            shares = jnp.asarray(_shares_of_step(step, sublayers), solid.dtype)
            part = jnp.tensordot(shares, part, 1)
        joined.append(part)
        first += step
    return jnp.stack(joined)


def face_count(num_slices: int, below_slices: int) -> int:
    """How many faces `expected_faces` takes: of what is imaged, of what is below, and one more."""
    return num_slices + sum(slices_of_steps(below_slices)) + 1


def expected_faces(
    field: Float[Array, "face y x"],
    instrument: Instrument,
    milling: Milling,
    *,
    num_slices: int,
    below_slices: int,
    sublayers: int,
    surfaces: tuple[Array, Array],
    bulge: Array | float = 0.0,
    logit: bool = False,
) -> Float[Array, "channel slice y x"]:
    """Expected grey values of a stack whose faces are known; traceable.

    As `fibsim.simulate.expected_stack`, with three differences: between two faces lies what the
    field says, whatever the thickness of the slice; image k shows the field of face k where it
    lies, so that drift displaces only what is seen deeper, from other faces; chords are those of
    the whole volume.

    Args:
        field: `level_field` at the imaged faces, at those of the slices below them, and at the
            last one's lower side (`face_count`).
        instrument: one material, or one and what fills the pores.
        milling: a row for every face; of the last one only the drift counts.
        num_slices: the first so many faces are imaged.
        below_slices: steps below them, of 1, 1, 1, 1, 2, 2, 3, 3 ... slices each
            (`fibsim.layers.slices_of_steps`).
        sublayers: layers per slice.
        surfaces: `face_surfaces` of the whole volume.
        bulge: `bulge_midway` of the whole volume's field.
        logit: the field is that of `fill_slices` with ``logit``.
    """
    geometry = instrument.geometry

    def undrift(inputs):
        image, drift = inputs
        image = shift_lateral(image, drift[0] / geometry.pixel_nm, axis=0, periodic=False)
        return shift_lateral(image, drift[1] / geometry.pixel_nm, axis=1, periodic=False)

    steps = (1,) * num_slices + slices_of_steps(below_slices)
    firsts = np.cumsum((0, *steps))
    undrifted = jax.lax.map(undrift, (field, milling.drift_nm))
    solid = _thicker(fill_slices(undrifted, sublayers, bulge=bulge, logit=logit), steps)
    phases = [solid] if instrument.num_phases == 1 else [solid, 1 - solid]
    mean = jnp.stack(phases, axis=1)
    rows = jax.tree.map(lambda leaf: leaf[firsts[:-1]], milling)
    of_step = np.repeat(np.arange(len(steps)), steps)
    thickness = jax.ops.segment_sum(milling.thickness_nm[:-1], of_step, len(steps))
    cuts = plan_cuts(thickness, geometry, sublayers=sublayers, below=())
    chord, period = chords_nm(*surfaces, geometry.pixel_nm)
    texture = Texture(
        chord_nm=chord,
        period_nm=period,
        shares=phase_shares(mean, cuts.offset_px, periodic=False),
    )
    coefficients = channel_coefficients(instrument)
    _, grey = image_slices(
        first_scene(mean, cuts.offset_px, coefficients, periodic=False),
        mean,
        cuts,
        rows,
        jnp.arange(len(mean)) < num_slices,
        texture,
        coefficients,
        instrument,
        periodic=False,
    )
    return jnp.moveaxis(grey[:num_slices], 1, 0)
