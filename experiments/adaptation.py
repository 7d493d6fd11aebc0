"""What does each step of the adaptation to a recorded stack bring, and what do others' bring?

Claim: without labels the adaptation takes 61 % off the error of a network trained for the textbook
instrument, nearly all of it by the fit: drawing training stacks around the fitted instrument
instead of from it costs some of that, which a round of alternation or the refinement of the volume
brings back. Histogram matching and Fourier domain adaptation make the randomised textbook network
worse.

Command: ``python experiments/adaptation.py OUT STACK --truth TRUTH [--tilt-deg 38]`` (10 to 20
minutes) with OUT a ``fibnet reconstruct`` of STACK whose stage fit is finished. The truth is
read for the scores alone.

Measured on the independent Monte Carlo's nanoporous gold (network tiny, 600 steps, one seed; truth
of experiments/face_fractions.py; two cores shared with other work)::

    trained for                    error  porosity (true 0.648)  seconds
    defaults                      0.0298     0.660                    102
    defaults, randomised          0.0253     0.657                     78
    - histogram matching          0.0281     0.657                     17
    - Fourier domain adaptation   0.0289     0.656                     87
    fitted                        0.0117     0.656                     68
    fitted, randomised            0.0127     0.654                     70
    - one round of alternation    0.0117     0.651                    248
    - refined                     0.0116     0.652                    162

Before fits looked for uneven slices the last four were 0.0189, 0.0170, 0.0118 and 0.0139 (a solid
fraction of 0.333, now 0.337, true 0.352). With means over slices instead of below layers, and
priors of the refits around the fit, all eight were 0.0267, 0.0234, 0.0249, 0.0295, 0.0161, 0.0150,
0.0126 and 0.0134; with earlier laws 0.0331, 0.0245, 0.0258, 0.0289, 0.0231, 0.0213, 0.0154 and
0.0182.

The refinement starts from the network without the round. The default specimen (35 % solid) happens
to be near this one (35.2 %); its ligaments are 50 nm thick, those of the stack 33. One stack and
one seed: differences of 0.001 mean nothing.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from networks import DATA, hidden, one_minus_dice, parsed, scaled_to, trained, training_parser

from fibnet.alternate import AlternationSettings, alternate
from fibnet.data import Source, draw_stack, draw_training_stack, source_from_file
from fibnet.presets import PRESETS
from fibnet.refine import VolumeRefinement, regress_and_refine
from fibnet.segment import predict
from fibnet.segmenter import Segmenter
from fibsim.fit import grey_levels
from fibsim.instrument_file import load_instrument
from fibsim.io import read_stack, read_volume
from fibsim.presets import make_instrument
from fibsim.specimens import KINDS
from fibsim.stack import Stack

# Side of the square of low frequencies whose amplitudes are exchanged, over the image's.
_LOW_FREQUENCIES = 0.05


def textbook(fitted: Source) -> Source:
    """Default instrument and specimen for the voltages, detectors, grid and tilt of the fitted.

    Nothing of the recorded images is in it but, where the user did not state it, the tilt.
    """
    instrument = fitted.instrument
    default = make_instrument(
        beam_kev=np.asarray(instrument.beam_kev).tolist(),
        detectors=instrument.detectors,
        pixel_nm=fitted.pixel_nm,
        slice_nm=fitted.slice_nm,
        tilt_deg=float(instrument.geometry.tilt_deg),
        solid=instrument.solid,
        other_phases=instrument.other_phases,
    )
    specimen = {name: jnp.asarray(v, float) for name, v in KINDS["waves"].parameters.items()}
    return dataclasses.replace(
        fitted, instrument=default, specimen=specimen, kind="waves", ground=None
    )


def with_histogram_of(images: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Every channel with the grey value distribution of the reference's."""
    from skimage.exposure import match_histograms

    return np.stack([match_histograms(a, b) for a, b in zip(images, reference, strict=True)])


def fourier_drawn(recorded: np.ndarray, side: int) -> Callable:
    """Training stacks whose low frequencies have the amplitudes of recorded images.

    Fourier domain adaptation (Yang & Soatto 2020, doi 10.1109/CVPR42600.2020.00414): of every
    simulated image the amplitudes of the lowest frequencies, mean included, are replaced by those
    of a recorded one; its phases stay.
    """
    low = jnp.abs(jnp.fft.fftfreq(side)) <= _LOW_FREQUENCIES / 2
    low = low[:, None] & low[None, :]
    target = jnp.asarray(recorded, jnp.float32)
    top, left = (n - side for n in target.shape[2:])

    def draw(
        source: Source, data, *, key: jax.Array
    ) -> tuple[Float[Array, "channel slice y x"], Float[Array, "slice y x"]]:
        images, solid = draw_training_stack(source, data, key=key)
        key_slice, key_y, key_x = jax.random.split(jax.random.fold_in(key, 2), 3)
        index = jax.random.randint(key_slice, (data.slices,), 0, target.shape[1])
        corner = (
            jax.random.randint(key_y, (), 0, top + 1),
            jax.random.randint(key_x, (), 0, left + 1),
        )
        style = jax.lax.dynamic_slice_in_dim(target[:, index], corner[0], side, 2)
        style = jax.lax.dynamic_slice_in_dim(style, corner[1], side, 3)
        own, other = jnp.fft.fft2(images), jnp.fft.fft2(style)
        amplitude = jnp.where(low, jnp.abs(other), jnp.abs(own))
        mixed = jnp.fft.ifft2(amplitude * jnp.exp(1j * jnp.angle(own))).real
        return jnp.round(mixed), solid

    return draw


def segmentations(
    options: argparse.Namespace, stack: Stack
) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """Name and expected solid fraction of every way to go."""
    grey = grey_levels(stack)
    content = load_instrument(options.out / "instrument.yaml")
    start = load_instrument(options.out / "instrument_start.yaml")
    fitted = source_from_file(options.out / "instrument.yaml")
    default = textbook(fitted)

    networks: dict[str, Segmenter] = {}
    volumes: dict[str, np.ndarray] = {}

    def learned(name: str, source: Source, draw: Callable) -> tuple[str, Callable[[], np.ndarray]]:
        def work() -> np.ndarray:
            networks[name] = segmenter = trained(source, options, draw=draw)
            images = grey if source is fitted else scaled_to(grey, segmenter)
            volumes[name] = predict(segmenter, images, fraction=True)
            return volumes[name]

        return name, work

    def histograms() -> np.ndarray:
        drawn = [images for images, _ in hidden(default, 16)]
        matched = with_histogram_of(grey, np.concatenate(drawn, 1))
        return predict(networks["defaults, randomised"], matched)

    def alternated() -> np.ndarray:
        steps = max(options.steps // 2, 1)
        how = AlternationSettings(
            rounds=1,
            train=dataclasses.replace(PRESETS["standard"].retrain, steps=steps),
            data=DATA,
            regression=PRESETS["standard"].regression,
        )
        with TemporaryDirectory() as folder:
            segmenter, _, rounds = alternate(
                stack,
                Path(folder),
                segmenter=networks["fitted, randomised"],
                content=content,
                prior=start.instrument,
                settings=how,
                seed=options.seed,
                progress=lambda name: lambda done, total, text: None,
            )
        print(f"  the round's network was {'' if rounds[-1]['kept'] else 'not '}kept")
        return predict(segmenter, grey)

    def refined() -> np.ndarray:
        probability, facts = regress_and_refine(
            stack,
            volumes["fitted, randomised"],
            content,
            prior=start.instrument,
            regression=PRESETS["standard"].regression,
            settings=VolumeRefinement(),
            seed=options.seed,
        )
        if facts is not None:
            print(f"  interfaces moved by {facts['level_px']:.3f} pixels")
        return probability

    yield learned("defaults", default, draw_stack)
    yield learned("defaults, randomised", default, draw_training_stack)
    yield "- histogram matching", histograms
    matching = fourier_drawn(grey, DATA.side_px)
    yield learned("- Fourier domain adaptation", default, matching)
    yield learned("fitted", fitted, draw_stack)
    yield learned("fitted, randomised", fitted, draw_training_stack)
    yield "- one round of alternation", alternated
    yield "- refined", refined


def main() -> None:
    parser = training_parser(__doc__)
    parser.add_argument("out", type=Path, help="reconstruction of the stack, fitted")
    parser.add_argument("stack", type=Path)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--tilt-deg", type=float)
    options = parsed(parser)
    known = {} if options.tilt_deg is None else {"tilt_deg": options.tilt_deg}
    stack, truth = read_stack(options.stack, overrides=known), read_volume(options.truth)
    print(f"{'trained for':28s}   error  porosity (true {1 - truth.mean():.3f})  seconds")
    for name, work in segmentations(options, stack):
        started = time.perf_counter()
        label = work() > 0.5
        seconds = time.perf_counter() - started
        wrong, porosity = one_minus_dice(label, truth), 1 - label.mean()
        print(f"{name:28s}  {wrong:.4f}  {porosity:8.3f}  {seconds:21.0f}", flush=True)


if __name__ == "__main__":
    main()
