"""Parameters, training speed, inference speed and memory of the network's sizes.

Command: ``python benchmarks/network.py [--networks tiny small ...] [--repeats 5] [--pytorch]
[--precision bfloat16]`` (a minute for the first two on 2 CPU cores, ten for all). The precision is
that of training. Three channels; a training step is of 12
slices of 80 x 80 pixels (the preset standard's), inference of a stack of 16 x 256 x 256. Times are
the least of the repeats. The reference in the same run is one matrix product of 1024 x 1024, so
that machines can be compared: its speed in GF/s is printed first. Compilation is not counted.

With ``--pytorch`` (``pip install torch``) the same network with the same weights runs in PyTorch in
turn with ours, on as many threads: a training step (forward, backward and update: Muon here, AdamW
there) and a forward pass of 4 slices of 256 x 256; the largest difference of their logits is
printed.
"""

import argparse
import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fibnet.channels import CONDITIONS, ChannelInput
from fibnet.devices import stacked
from fibnet.learner import Learner
from fibnet.model import ModelConfig, count_parameters, make_model, stack_windows
from fibnet.presets import NETWORKS
from fibnet.segment import predict
from fibnet.segmenter import Segmenter
from fibnet.train import TrainSettings, paces

CHANNELS, SLICES, SIDE = 3, 12, 80
STACK = (16, 256, 256)


def least(function: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest call, after one that compiles."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - started)
    return min(times)


def matrix_speed(repeats: int) -> float:
    """GF/s of a product of two 1024 x 1024 matrices."""
    a = jax.random.normal(jax.random.key(0), (1024, 1024))
    product = jax.jit(lambda x: x @ x)
    return 2 * 1024**3 / least(lambda: product(a), repeats) / 1e9


def channel_input() -> ChannelInput:
    ones = jnp.ones(CHANNELS)
    conditions = jax.random.normal(jax.random.key(1), (CHANNELS, len(CONDITIONS)))
    return ChannelInput(mean=0 * ones, sd=ones, conditions=conditions)


def training_step(config: ModelConfig, repeats: int, precision: str = "float32") -> float:
    """Seconds of one step without the simulation of its data."""
    learner, pace = Learner(config, precision=precision), paces(TrainSettings())(1)
    state = learner.fresh(0)
    images = jax.random.normal(jax.random.key(2), (CHANNELS, SLICES, SIDE, SIDE))
    batch = stacked([(images, (images[0] > 0).astype(float), channel_input())])
    return least(lambda: learner.step(state, batch, jax.random.key(3), pace), repeats)


def beside_pytorch(config: ModelConfig, repeats: int) -> str:
    """Times of a step and of a forward pass, ours and PyTorch's, as a line of the table."""
    import pytorch_network as theirs
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    conditions = channel_input().conditions
    model = make_model(config, seed=0)
    twin = theirs.torch_network(model, config, conditions)
    graph, params = nnx.split(model)
    forward = jax.jit(lambda p, w: nnx.merge(graph, p)(w, conditions, jnp.ones(CHANNELS)))

    def windows(slices, side):
        images = jax.random.normal(jax.random.key(2), (CHANNELS, slices, side, side))
        return images, stack_windows(images, config.window)

    images, batch = windows(SLICES, SIDE)
    apart = theirs.largest_difference(twin, batch, forward(params, batch))
    _, large = windows(4, 256)
    tensor = theirs.as_tensor(large)
    theirs_step = theirs.training_step(twin, batch, images[0] > 0)

    def theirs_forward():
        with torch.inference_mode():
            twin(tensor)

    # In turn, so that a busy machine is busy for both.
    pairs = [(training_step(config, repeats), least(theirs_step, repeats)) for _ in range(2)]
    passes = [
        (least(lambda: forward(params, large), repeats), least(theirs_forward, repeats))
        for _ in range(2)
    ]
    (step, their_step), (one, their_one) = (
        (min(a for a, _ in both), min(b for _, b in both)) for both in (pairs, passes)
    )
    return (
        f"{1e3 * step:7.0f} {1e3 * their_step:9.0f} {their_step / step:6.2f} "
        f"{1e3 * one:9.0f} {1e3 * their_one:9.0f} {their_one / one:6.2f} {apart:12.1e}"
    )


def inference(config: ModelConfig, repeats: int) -> float:
    """Seconds per million voxels."""
    segmenter = Segmenter(
        config=config,
        params=Learner(config).fresh(0)["params"],
        channels=channel_input(),
        beam_kev=(1.0, 2.0, 5.0),
        detectors=("SE",) * CHANNELS,
    )
    images = np.random.default_rng(0).normal(size=(CHANNELS, *STACK)).astype(np.float32)
    return least(lambda: predict(segmenter, images), repeats) / (np.prod(STACK) / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--pytorch", action="store_true")
    options = parser.parse_args()
    print(f"matrix product {matrix_speed(options.repeats):.0f} GF/s")
    print("network   parameters   step ms   s per million voxels")
    for name in options.networks:
        config = NETWORKS[name]
        number = count_parameters(make_model(config, seed=0))
        step = training_step(config, options.repeats, options.precision)
        each = inference(config, max(1, options.repeats // 2))
        print(f"{name:8s} {number:11d} {1e3 * step:9.0f} {each:10.2f}", flush=True)
    if options.pytorch:
        print("network  step ms   PyTorch  ratio forward ms  PyTorch  ratio   difference")
        for name in options.networks:
            print(f"{name:8s} {beside_pytorch(NETWORKS[name], options.repeats)}", flush=True)


if __name__ == "__main__":
    main()
