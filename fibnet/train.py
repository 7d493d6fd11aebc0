"""Train a segmenter on endless simulated stacks, with exact resume.

Every stack is drawn from a key of its own number, so step n is the same whether the run was broken
before it or not. The stacks of step n + 1 are simulated while the network learns from those of
step n. Those of one step are shared out among the machine's devices (`fibnet.devices`).
"""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from fibnet.calibration import best_temperature
from fibnet.channels import channel_input
from fibnet.checkpoint import latest_step, load_checkpoint, prune, save_checkpoint
from fibnet.data import SimulatedData, Source, deep_enough, draw_training_stack
from fibnet.devices import (
    each_own,
    held_by_all,
    shared_out,
    stack_devices,
    stacked,
    unstacked,
)
from fibnet.learner import Labelled, Learner, Pace, Precision, mean_weights
from fibnet.model import ModelConfig
from fibnet.segmenter import Segmenter
from fibnet.training_log import LOG, Record

__all__ = ["TrainSettings", "draw_batch", "paces", "run_training", "train"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Length and pace of a training.

    Attributes:
        steps: optimiser steps, one simulated stack each.
        learning_rate: peak of Muon's, reached after 5 % of the steps, then a cosine to zero.
        vector_rate: the same of Adam's, for what is no convolution: biases, scales, the head.
        ema: decay of the running mean of the weights that is used in the end.
        channel_dropping: share of the steps that leave out some channels, so that the network
            also serves fewer.
        slices_alone: share of the steps that show every slice without its neighbours.
        other_kinds: share of the steps whose specimens are of another kind than the fitted one
            (`fibnet.data.other_kinds`).
        stacks: simulated stacks of a step; its gradient is their mean. As many devices as divide
            this number, if there are, take one part each.
        precision: of the network's arithmetic in training; weights, their updates and the
            simulation are of single precision anyway. bfloat16 is for large networks on
            accelerators and slow on CPUs.
        checkpoint_every, validate_every: in steps.
    """

    steps: int = 600
    stacks: int = 1
    precision: Precision = "float32"
    learning_rate: float = 0.015
    vector_rate: float = 3e-3
    ema: float = 0.98
    channel_dropping: float = 0.1
    slices_alone: float = 0.03
    other_kinds: float = 0.0
    checkpoint_every: int = 50
    validate_every: int = 50


Draw = Callable[..., tuple[Array, Array]]
"""``(source, data, *, key) -> (images, solid)``, traceable, as `draw_training_stack`."""


def paces(settings: TrainSettings) -> Callable[[int], Pace]:
    """Step -> its pace; rates rise over 5 % of the steps and fall on a cosine to zero."""
    steps = settings.steps
    warm = max(steps // 20, 1)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1.0, warm, max(steps, warm + 1))
    share = np.asarray(schedule(jnp.arange(steps)), np.float32)

    def pace(step: int) -> Pace:
        return Pace(
            learning_rate=share[step] * np.float32(settings.learning_rate),
            vector_rate=share[step] * np.float32(settings.vector_rate),
            ema=np.float32(settings.ema),
            channel_dropping=np.float32(settings.channel_dropping),
            slices_alone=np.float32(settings.slices_alone),
        )

    return pace


def run_training(
    batch_of: Callable[[np.ndarray], Labelled],
    validation: Sequence[Labelled],
    config: ModelConfig,
    *,
    folder: Path,
    seed: int,
    settings: TrainSettings,
    start: Any = None,
    progress: Callable[[int, int, float], None] | None = None,
    record: Record | None = None,
) -> tuple[Any, float, float]:
    """Train, or go on where a broken run of the same arguments stopped.

    Writes checkpoints (``step_*``, the last two are kept) and ``log.jsonl`` (one line per step;
    validation lines carry ``dice``) into ``folder``.

    Args:
        batch_of: numbers of stacks, from 0 on -> what is learned from, along a new first axis of
            every array; a function of the numbers alone, so that a resumed run sees the same.
        validation: what the loss and Dice of validation lines and the temperatures are of.
        seed: decides weights and which channels are left out.
        start: weights to go on from.
        progress: called with (step, steps, loss).
        record: called with every line of the log.

    Returns:
        The weights (their running mean), and the temperatures that calibrate them, of the solid
        fraction and of the label (`fibnet.segmenter.Segmenter`).
    """
    devices = stack_devices(settings.stacks)
    learner = Learner(config, precision=settings.precision, devices=devices)
    pace = paces(settings)
    key = jax.random.key(seed)

    def batch(step: int) -> Labelled:
        numbers = np.arange(step * settings.stacks, (step + 1) * settings.stacks)
        return shared_out(batch_of(numbers), devices)

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = learner.fresh(seed, start)
    first = latest_step(folder) or 0
    if first:
        state = load_checkpoint(folder, first, state)
    state = held_by_all(state, devices)
    log_path = folder / LOG
    lines = _kept_lines(log_path, first)
    with log_path.open("w") as log:
        log.writelines(lines)
        at_hand = batch(first) if first < settings.steps else None
        for i in range(first, settings.steps):
            started = time.perf_counter()
            state, loss = learner.step(state, at_hand, jax.random.fold_in(key, i), pace(i))
            if i + 1 < settings.steps:
                # Dispatched before the loss is waited for: simulation overlaps learning.
                at_hand = batch(i + 1)
            done = i + 1
            entry = {"step": done, "loss": float(loss)}
            entry["seconds"] = time.perf_counter() - started
            if done % settings.validate_every == 0 or done == settings.steps:
                mean = mean_weights(state)
                found = [learner.validate(mean, v)[:2] for v in validation]
                entry["validation_loss"] = float(np.mean([float(s[0]) for s in found]))
                entry["dice"] = float(np.mean([float(s[1]) for s in found]))
            log.write(json.dumps(entry) + "\n")
            log.flush()
            if record is not None:
                record(entry)
            if done % settings.checkpoint_every == 0 or done == settings.steps:
                save_checkpoint(folder, done, state, {"steps": settings.steps})
                prune(folder, keep=2)
            if progress is not None:
                progress(done, settings.steps, entry["loss"])
    weights = mean_weights(state)
    logits = [learner.validate(weights, v)[2] for v in validation]
    solids = [solid for _, solid, _ in validation]
    labels = [(solid > 0.5).astype(solid.dtype) for solid in solids]
    return weights, best_temperature(logits, solids), best_temperature(logits, labels)


@functools.partial(jax.jit, static_argnames=("draw", "data", "apart"))
def draw_batch(
    source, keys: jax.Array, *, draw: Draw, data: SimulatedData, apart: bool = False
) -> tuple[Float[Array, "stack channel slice y x"], Float[Array, "stack slice y x"]]:
    """Stacks and their solid, half of them mirrored.

    Args:
        keys: one for each stack.
        apart: whether ``source`` holds one source for each along a first axis of its arrays.
    """

    def one(source, key: jax.Array):
        images, solid = draw(source, data, key=key)
        # The generator is statistically symmetric under x -> -x whatever the tilt.
        flip = jax.random.bernoulli(jax.random.fold_in(key, 1))
        return tuple(jnp.where(flip, v[..., ::-1], v) for v in (images, solid))

    def own(source, keys: jax.Array):
        if len(keys) > 1:
            return jax.vmap(one, in_axes=(0 if apart else None, 0))(source, keys)
        # Without the slices at traced positions that vmap makes gathers of, slow on CPUs.
        source = jax.tree.map(lambda leaf: leaf[0], source) if apart else source
        return jax.tree.map(lambda leaf: leaf[None], one(source, keys[0]))

    devices = stack_devices(len(keys))
    return each_own(own, source, keys, own=(apart, True), devices=devices)


def train(
    source,
    config: ModelConfig,
    *,
    folder: Path,
    seed: int,
    settings: TrainSettings,
    data: SimulatedData,
    others: Sequence[Source] = (),
    draw: Draw = draw_training_stack,
    start: Segmenter | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    record: Record | None = None,
) -> Segmenter:
    """Train for one instrument, or go on where a broken run of the same arguments stopped.

    Args:
        source: what to simulate: a `Source`, or whatever else ``draw`` takes that has its
            ``instrument``, ``specimen`` and ``slice_nm``.
        config: architecture.
        folder: for checkpoints and log, see `run_training`.
        seed: decides weights and data; the same seed gives the same network.
        others: what else to simulate, in ``settings.other_kinds`` of the steps. Grey-value
            constants and validation are of ``source``.
        draw: draws a stack; `fibnet.data.draw_training_stack` if not given.
        start: network of the same architecture to go on from, with its grey-value constants if
            it was trained for these channels.
        progress: called with (step, steps, loss).
        record: called with every line of the log.
    """
    data = deep_enough(data, source)
    key_data, key_validation, key_grey = jax.random.split(jax.random.key(seed), 3)

    stacks = settings.stacks

    def drawn(keys: Array, source=source) -> tuple[Array, Array]:
        return draw_batch(source, keys, draw=draw, data=data)

    def source_of(first: int):
        """What the stacks of a step from this number on are drawn from."""
        rng = np.random.default_rng([seed, first])
        if others and rng.random() < settings.other_kinds:
            return others[int(rng.integers(len(others)))]
        return source

    def some(keys: Array) -> list[tuple[Array, Array]]:
        """As many stacks as keys, by the program that training runs."""
        number = -(-len(keys) // stacks) * stacks
        filled = jnp.resize(keys, number).reshape(-1, stacks)
        return [one for part in filled for one in unstacked(drawn(part))][: len(keys)]

    instrument = source.instrument
    beam_kev = tuple(float(e) for e in instrument.beam_kev)
    if start is not None and (start.beam_kev, start.detectors) == (beam_kev, instrument.detectors):
        channels = start.channels
    else:
        drawn_now = [images for images, _ in some(jax.random.split(key_grey, 4))]
        channels = channel_input(drawn_now, instrument)
    alike = stacked([channels] * stacks)
    numbered = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    params, temperature, label_temperature = run_training(
        lambda numbers: (*drawn(numbered(key_data, numbers), source_of(numbers[0])), alike),
        [(*one, channels) for one in some(numbered(key_validation, jnp.arange(6)))],
        config,
        folder=folder,
        seed=seed,
        settings=settings,
        start=None if start is None else start.params,
        progress=progress,
        record=record,
    )
    return Segmenter(
        config=config,
        params=params,
        channels=channels,
        beam_kev=beam_kev,
        detectors=instrument.detectors,
        temperature=temperature,
        label_temperature=label_temperature,
    )


def _kept_lines(path: Path, steps: int) -> list[str]:
    """Log lines up to a step; what a killed run wrote past its last checkpoint is redone."""
    if not steps or not path.exists():
        return []
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= steps:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            break  # a line cut off by the kill
    return kept
