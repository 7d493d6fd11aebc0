"""Simulated pixels to learn and to be judged on: what each channel shows around them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import gaussian_filter

from fibsim.fit import draw_sample, slices_below
from fibsim.instrument import Instrument
from fibsim.simulate import add_noise, default_sublayers

__all__ = ["Examples", "draw_examples"]

# In-plane Gaussians (s.d. in pixels) of the pixel's own slice and of the next ones.
_OWN_PX = (0.0, 1.0, 2.0, 4.0)
_NEXT_PX = 1.0
# How far to look up and down along y, where the leaning beam carries deep structure.
_ALONG_Y = (-6, -3, 3, 6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples:
    """Stacks of all candidate channels without noise, and pixels of them.

    Attributes:
        expected: ``(stack, channel, slice, y, x)``.
        solid: whether the pixels are solid; ``(stack, pixel)``.
        place: index of the pixels in the inner slices of their stack; ``(stack, pixel)``.
        instrument: of the candidate channels.
    """

    expected: Float[np.ndarray, "stack channel slice y x"]
    solid: Bool[np.ndarray, "stack pixel"]
    place: np.ndarray
    instrument: Instrument

    def features(
        self, exposure: float, *, key: jax.Array
    ) -> Float[np.ndarray, "channel stack pixel feature"]:
        """What each channel shows around the pixels, at ``exposure`` times the dose.

        The noise of a channel is that of its counts; the amplifier's falls with the root of the
        exposure, as when frames are averaged.
        """
        noise = self.instrument.noise
        scaled = dataclasses.replace(
            self.instrument,
            noise=dataclasses.replace(
                noise,
                dose_electrons=noise.dose_electrons * exposure,
                read_grey=noise.read_grey / np.sqrt(exposure),
            ),
        )
        found = []
        for number, (stack, place) in enumerate(zip(self.expected, self.place, strict=True)):
            own = jax.random.fold_in(key, number)
            images = np.asarray(_noisy(jnp.asarray(stack), scaled, own))
            found.append([_seen(image)[:, place].T for image in images])
        return np.moveaxis(np.asarray(found, np.float32), 0, 1)


_draw = jax.jit(
    draw_sample,
    static_argnames=("kind", "shape", "slice_nm", "pixel_nm", "sublayers", "below_slices"),
)


@jax.jit
def _noisy(expected, instrument, key):
    # Not cut off: contrast and brightness would be set to avoid it.
    return add_noise(expected, instrument, key=key, saturated=False)


def _seen(images: Float[np.ndarray, "slice y x"]) -> Float[np.ndarray, "feature inner_pixel"]:
    """Features of all pixels of the slices that have one above and two below."""
    inner = slice(1, -2)
    blurred = gaussian_filter(images, (0, _NEXT_PX, _NEXT_PX), mode="wrap")
    wide = gaussian_filter(images, (0, 2.0, 2.0), mode="wrap")[inner]
    maps = [
        gaussian_filter(images[inner], (0, s, s), mode="wrap") if s else images[inner]
        for s in _OWN_PX
    ]
    maps += [blurred[:-3], blurred[2:-1], blurred[3:]]
    maps += [np.roll(wide, -shift, axis=1) for shift in _ALONG_Y]
    return np.stack([m.ravel() for m in maps])


def draw_examples(
    instrument: Instrument,
    kind: str,
    specimen: dict[str, float],
    *,
    key: jax.Array,
    stacks: int,
    slices: int,
    side_px: int,
    pixels: int,
) -> Examples:
    """Simulate random specimens of a kind and choose pixels of them.

    Args:
        instrument: with all candidate channels.
        stacks, slices, side_px: number and size of what is simulated; three slices of each are
            not judged.
        pixels: per stack.
    """
    slice_nm = round(float(instrument.geometry.slice_nm), 6)
    pixel_nm = round(float(instrument.geometry.pixel_nm), 6)
    parameters = {name: jnp.asarray(value, float) for name, value in specimen.items()}

    size = dict(
        kind=kind,
        shape=(slices, side_px, side_px),
        slice_nm=slice_nm,
        pixel_nm=pixel_nm,
        sublayers=default_sublayers(slice_nm, pixel_nm),
        below_slices=slices_below(specimen, slice_nm),
    )
    key_stacks, key_pixels = jax.random.split(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key_pixels)))
    expected, solid, place = [], [], []
    for own in jax.random.split(key_stacks, stacks):
        sample = _draw(instrument, parameters, key=own, **size)
        images, truth = np.asarray(sample.expected), np.asarray(sample.solid)
        label = truth[1:-2].ravel() > 0.5
        at = rng.choice(len(label), min(pixels, len(label)), replace=False)
        expected.append(images)
        place.append(at)
        solid.append(label[at])
    return Examples(
        expected=np.stack(expected),
        solid=np.stack(solid),
        place=np.stack(place),
        instrument=instrument,
    )
