"""Is a simulator of the instrument needed? Against what is in use, on hidden stacks.

Claim: thresholds, clustering and watersheds take shining pores for solid (Dice 0.70 to 0.77 on
simulated stacks), and so does a U-Net taught by synthetic data that know no shine-through (0.76).
The same network taught by the fitted simulator has 0.957 (worst of six stacks 0.924); a random
forest on its data 0.902.

Command: ``python experiments/baselines.py OUT/instrument.yaml [--stack DATA --truth TRUTH]``
(three minutes on one core).

Measured on the instrument after a round of the independent Monte Carlo's nanoporous gold (network
tiny, 600 steps; truth of experiments/face_fractions.py; seconds are those of the recorded and six
simulated stacks)::

    Dice                        simulated  worst   recorded  seconds
    Otsu, SE 1 kV                  0.7724  0.696     0.8404        0
    Otsu, SE 2 kV                  0.7505  0.680     0.8098        0
    Otsu, SE 5 kV                  0.6984  0.633     0.7632        0
    k-means                        0.7464  0.670     0.8109        1
    watershed                      0.7301  0.640     0.7754        0
    random forest, simulated       0.9022  0.822     0.9621       44
    U-Net, generic synthetic       0.7550  0.677     0.8143        1
    U-Net, fitted simulator        0.9565  0.924     0.9873        0
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from networks import (
    channel_names,
    hidden,
    instrument_parser,
    one_minus_dice,
    parsed,
    recorded,
    scaled_to,
    trained,
)

from fibnet.baselines import kmeans, otsu, random_forest, watershed
from fibnet.data import Source, draw_training_stack, source_from_file
from fibnet.segment import predict
from fibsim.detector import probe_blur


def draw_generic(
    source: Source, data, *, key: jax.Array
) -> tuple[Float[Array, "channel slice y x"], Float[Array, "slice y x"]]:
    """What synthetic data is without a model of the instrument: bright solid, dark pores, blur
    and noise of random strength; specimens are those of the fitted source."""
    key_stack, key_numbers, key_noise = jax.random.split(key, 3)
    images, solid = draw_training_stack(source, data, key=key_stack)
    channels = len(images)
    levels = jax.random.uniform(key_numbers, (4, channels))
    pore, step = 30 + 60 * levels[0], 50 + 80 * levels[1]
    width, noise = 0.3 + 1.2 * levels[2], 4 + 20 * levels[3]
    blurred = jax.vmap(lambda sd: probe_blur(solid, sd, 1.0, periodic=False))(width)
    grey = pore[:, None, None, None] + step[:, None, None, None] * blurred
    grey = grey + noise[:, None, None, None] * jax.random.normal(key_noise, images.shape)
    return jnp.round(jnp.clip(grey, 0, 255)), solid


def methods(source: Source, options: argparse.Namespace) -> dict[str, Callable]:
    """Name -> images to label; what needs training is trained here."""
    names = channel_names(source)
    drawn = hidden(source, 4, seed=2000)
    generic = trained(source, options, draw=draw_generic)
    fitted = trained(source, options)
    found: dict[str, Callable] = {
        f"Otsu, {name}": lambda images, name=name: otsu(images, names)[name] for name in names
    }
    return found | {
        "k-means": kmeans,
        "watershed": watershed,
        "random forest, simulated": lambda images: random_forest(
            [i for i, _ in drawn], [s for _, s in drawn], images
        ),
        "U-Net, generic synthetic": lambda images: (
            predict(generic, scaled_to(images, generic)) > 0.5
        ),
        "U-Net, fitted simulator": lambda images: predict(fitted, images) > 0.5,
    }


def main() -> None:
    options = parsed(instrument_parser(__doc__, stacks=6))
    source = source_from_file(options.instrument)
    stacks, seen = hidden(source, options.stacks), recorded(options)
    print(f"{'Dice':26s}  simulated  worst   recorded  seconds")
    for name, method in methods(source, options).items():
        started = time.perf_counter()
        found = [1 - one_minus_dice(method(images), solid) for images, solid in stacks]
        cells = f"{np.mean(found):9.4f}  {min(found):.3f}"
        if seen is not None:
            cells += f"  {1 - one_minus_dice(method(seen[0]), seen[1]):9.4f}"
        print(f"{name:26s}  {cells}  {time.perf_counter() - started:7.0f}", flush=True)


if __name__ == "__main__":
    main()
