"""Train a segmenter on endless simulated stacks, with exact resume.

Every step draws its own stack from ``fold_in(key, step)``, so step n is the same whether the run
was broken before it or not. The stack of step n + 1 is simulated while the network learns from
that of step n.
"""

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array

from fibnet.checkpoint import latest_step, load_checkpoint, prune, save_checkpoint
from fibnet.data import SimulatedData, deep_enough, draw_training_stack, grey_statistics
from fibnet.losses import segmentation_loss, soft_dice
from fibnet.model import ModelConfig, UNet, make_model, stack_windows
from fibnet.segmenter import Segmenter, graph_of, normalised
from fibsim.fit import RefineSettings, RegressionSettings
from fibsim.fit.choose import AUTOMATIC_KINDS

__all__ = ["PRESETS", "Preset", "TrainSettings", "train"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Length and pace of a training.

    Attributes:
        steps: optimiser steps, one simulated stack each.
        learning_rate: peak of AdamW, reached after 5 % of the steps, then a cosine to zero.
        ema: decay of the running mean of the weights that is used in the end.
        checkpoint_every, validate_every: in steps.
    """

    steps: int = 600
    learning_rate: float = 3e-3
    ema: float = 0.98
    checkpoint_every: int = 50
    validate_every: int = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """A named compromise of time and quality.

    Attributes:
        widths, blocks, fold, window: architecture, see `ModelConfig`.
        train, data: training, where no alternation follows.
        rounds: most rounds of the alternation with the segmenter (`fibnet.alternate`).
        first_steps: steps of the training before it, instead of those of ``train``.
        retrain: training in each of its rounds.
        regression: refit of the instrument in each of its rounds.
        fit_steps: optimiser steps of the instrument's fit.
        refine: its Gauss-Newton steps after these; None for none, and no errors.
        kinds: specimen generators tried when the stack names none.
        description: for the help text.
    """

    widths: tuple[int, ...]
    blocks: int
    fold: int
    window: int
    train: TrainSettings
    data: SimulatedData
    rounds: int
    first_steps: int
    retrain: TrainSettings
    fit_steps: int
    refine: RefineSettings | None
    kinds: tuple[str, ...]
    description: str
    regression: RegressionSettings = dataclasses.field(default_factory=RegressionSettings)


PRESETS: dict[str, Preset] = {
    "quick": Preset(
        widths=(16, 32, 32),
        blocks=1,
        fold=2,
        window=5,
        train=TrainSettings(steps=300, learning_rate=6e-3, ema=0.97),
        data=SimulatedData(slices=8, side_px=64),
        fit_steps=40,
        refine=RefineSettings(rounds=2, simulations=24),
        rounds=0,
        first_steps=300,
        retrain=TrainSettings(steps=150, learning_rate=2e-3, ema=0.97),
        kinds=("waves",),
        description="a first look, some minutes on 2 CPU cores",
    ),
    "standard": Preset(
        widths=(32, 64, 64),
        blocks=1,
        fold=2,
        window=7,
        train=TrainSettings(steps=2000, ema=0.99, checkpoint_every=200, validate_every=200),
        data=SimulatedData(slices=12, side_px=80),
        fit_steps=80,
        refine=RefineSettings(),
        rounds=0,
        first_steps=1200,
        retrain=TrainSettings(
            steps=700, learning_rate=1.5e-3, ema=0.99, checkpoint_every=100, validate_every=100
        ),
        kinds=AUTOMATIC_KINDS,
        description="a volume to publish, at most 25 minutes on 2 CPU cores",
    ),
    "best": Preset(
        widths=(32, 64, 128, 128),
        blocks=2,
        fold=1,
        window=9,
        train=TrainSettings(
            steps=12000, learning_rate=2e-3, ema=0.998, checkpoint_every=500, validate_every=500
        ),
        data=SimulatedData(slices=16, side_px=128),
        rounds=1,
        first_steps=8000,
        retrain=TrainSettings(
            steps=3000, learning_rate=1e-3, ema=0.998, checkpoint_every=500, validate_every=500
        ),
        fit_steps=500,
        refine=RefineSettings(rounds=8, simulations=80, slope_simulations=4),
        kinds=AUTOMATIC_KINDS,
        description="no time limit; for a GPU or a night",
    ),
}


Draw = Callable[..., tuple[Array, Array]]
"""``(source, data, *, key) -> (images, solid)``, traceable, as `draw_training_stack`."""


def _logits(config: ModelConfig, params, images, mean, sd) -> Array:
    model: UNet = nnx.merge(graph_of(config)[0], params)
    return model(stack_windows(normalised(images, mean, sd), config.window))


@dataclasses.dataclass(frozen=True)
class _Trainer:
    """Jitted functions of one training; the loop itself is `train`.

    Compared by value, so that a second training of the same kind compiles nothing.
    """

    config: ModelConfig
    settings: TrainSettings
    data: SimulatedData
    draw_stack: Draw = draw_training_stack

    @property
    def optimiser(self) -> optax.GradientTransformation:
        steps = self.settings.steps
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, self.settings.learning_rate, max(steps // 20, 1), steps
        )
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-4))

    @functools.partial(jax.jit, static_argnums=0)
    def draw(self, source, key: jax.Array):
        images, solid = self.draw_stack(source, self.data, key=key)
        # The generator is statistically symmetric under x -> -x whatever the tilt.
        flip = jax.random.bernoulli(jax.random.fold_in(key, 1))
        images, solid = (jnp.where(flip, v[..., ::-1], v) for v in (images, solid))
        return images, solid

    @functools.partial(jax.jit, static_argnums=0)
    def step(self, state, images, solid, mean, sd):
        def loss_of(params):
            logit = _logits(self.config, params, images, mean, sd)
            return segmentation_loss(logit, solid)

        loss, gradient = jax.value_and_grad(loss_of)(state["params"])
        update, optimiser = self.optimiser.update(gradient, state["optimiser"], state["params"])
        params = optax.apply_updates(state["params"], update)
        decay = self.settings.ema
        ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state["ema"], params)
        # An average that starts at the random first weights must be freed of them.
        weight = decay * state["ema_weight"] + (1 - decay)
        return dict(params=params, optimiser=optimiser, ema=ema, ema_weight=weight), loss

    @functools.partial(jax.jit, static_argnums=0)
    def validate(self, params, images, solid, mean, sd):
        logit = _logits(self.config, params, images, mean, sd)
        hard = (logit > 0).astype(logit.dtype), (solid > 0.5).astype(logit.dtype)
        return segmentation_loss(logit, solid), soft_dice(*hard)

    def fresh(self, seed: int, params=None):
        """The state before the first step, from given or from random weights."""
        if params is None:
            params = nnx.split(make_model(self.config, seed=seed))[1]
        return dict(
            params=params,
            optimiser=self.optimiser.init(params),
            ema=jax.tree.map(jnp.zeros_like, params),
            ema_weight=jnp.zeros(()),
        )


def _mean_weights(state):
    return jax.tree.map(lambda e: e / jnp.maximum(state["ema_weight"], 1e-8), state["ema"])


def train(
    source,
    config: ModelConfig,
    *,
    folder: Path,
    seed: int,
    settings: TrainSettings,
    data: SimulatedData,
    draw: Draw = draw_training_stack,
    start: Segmenter | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Segmenter:
    """Train, or go on where a broken run of the same arguments stopped.

    Writes checkpoints (``step_*``, the last two are kept) and ``log.jsonl`` (one line per step;
    validation lines carry ``dice``) into ``folder``.

    Args:
        source: what to simulate: a `Source`, or whatever else ``draw`` takes that has its
            ``instrument``, ``specimen`` and ``slice_nm``.
        config: architecture.
        seed: decides weights and data; the same seed gives the same network.
        draw: draws a stack; `fibnet.data.draw_training_stack` if not given.
        start: network of the same architecture to go on from, with its grey-value constants.
        progress: called with (step, steps, loss).
    """
    data = deep_enough(data, source)
    trainer = _Trainer(config, settings, data, draw)
    key_data, key_validation, key_grey = jax.random.split(jax.random.key(seed), 3)
    if start is None:
        few = [trainer.draw(source, k)[0] for k in jax.random.split(key_grey, 4)]
        mean, sd = grey_statistics(few)
    else:
        mean, sd = start.mean, start.sd
    validation = [trainer.draw(source, jax.random.fold_in(key_validation, i)) for i in range(6)]

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = trainer.fresh(seed, None if start is None else start.params)
    first = latest_step(folder) or 0
    if first:
        state = load_checkpoint(folder, first, state)
    log_path = folder / "log.jsonl"
    lines = _kept_lines(log_path, first)
    with log_path.open("w") as log:
        log.writelines(lines)
        batch = trainer.draw(source, jax.random.fold_in(key_data, first))
        for i in range(first, settings.steps):
            started = time.perf_counter()
            following = trainer.draw(source, jax.random.fold_in(key_data, i + 1))
            state, loss = trainer.step(state, *batch, mean, sd)
            batch = following
            done = i + 1
            entry = dict(step=done, loss=float(loss), seconds=time.perf_counter() - started)
            if done % settings.validate_every == 0 or done == settings.steps:
                scores = [trainer.validate(_mean_weights(state), *v, mean, sd) for v in validation]
                entry["validation_loss"] = float(np.mean([s[0] for s in scores]))
                entry["dice"] = float(np.mean([s[1] for s in scores]))
            log.write(json.dumps(entry) + "\n")
            log.flush()
            if done % settings.checkpoint_every == 0 or done == settings.steps:
                save_checkpoint(folder, done, state, {"steps": settings.steps})
                prune(folder, keep=2)
            if progress is not None:
                progress(done, settings.steps, entry["loss"])
    return Segmenter(
        config=config,
        params=_mean_weights(state),
        mean=mean,
        sd=sd,
        beam_kev=tuple(float(e) for e in source.instrument.beam_kev),
        detectors=source.instrument.detectors,
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
