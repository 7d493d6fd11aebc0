"""The work behind ``fibnet train``, ``fibnet pretrain`` and ``fibnet segment``."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from fibnet.channels import channel_input
from fibnet.data import other_kinds, source_from_file
from fibnet.presets import NETWORKS, PRESETS, PRETRAINING, PRETRAINING_DATA
from fibnet.pretrain import pretrain
from fibnet.segment import expected_cost, predict_blocks
from fibnet.segmenter import Segmenter, load_segmenter, save_segmenter
from fibnet.stages import WorkFolder
from fibnet.start import load_start, network_folder, start_identity
from fibnet.train import TrainSettings, train
from fibnet.training_log import check_tensorboard, recorded
from fibsim import io
from fibsim.errors import InputError
from fibsim.fit import first_instrument, grey_scale, on_grey_scale
from fibsim.memory import gigabytes
from fibsim.stack import Stack

__all__ = [
    "pretrain_to_folder",
    "segment_to_folder",
    "segmenter_for",
    "train_to_folder",
]


# Of a stack of any size so many slices tell its mean and deviation.
_SLICES_FOR_GREY = 48


def train_to_folder(
    instrument: Path,
    out: Path,
    *,
    preset: str,
    window: int | None,
    start: Path | None,
    changes: dict[str, Any],
    tensorboard: bool,
    seed: int,
    progress: Callable[[str], Callable[[int, int, str], None]],
    announce: Callable[[str], None],
) -> None:
    """Do ``fibnet train``; see its help for the arguments.

    Raises:
        InputError: bad numbers, a bad instrument file, a start of another architecture, or a
            folder of another training.
    """
    chosen = PRESETS[preset]
    network = NETWORKS[chosen.network]
    window = network.window if window is None else window
    if window < 1 or window % 2 == 0:
        raise InputError(f"--window is {window}, expected an odd number of slices.")
    source = source_from_file(instrument)
    config = dataclasses.replace(network, window=window)
    begin = load_start(start, config)
    settings = _changed(chosen.train if begin is None else chosen.from_start, changes)
    identity = {
        "instrument": Path(instrument).read_text(),
        "network": json.dumps(dataclasses.asdict(config)),
        "training": json.dumps(dataclasses.asdict(settings)),
        "start": start_identity(begin),
        "seed": seed,
    }
    learn = functools.partial(
        train,
        source,
        config,
        seed=seed,
        settings=settings,
        data=chosen.data,
        others=other_kinds(source),
        start=begin,
    )
    work = _train_in(out, identity, "train", learn, tensorboard, progress, announce)
    announce(f"network in {work / 'model'}")


def _train_in(
    out: Path,
    identity: dict,
    stage: str,
    learn: Callable[..., Segmenter],
    tensorboard: bool,
    progress: Callable[[str], Callable[[int, int, str], None]],
    announce: Callable[[str], None],
) -> Path:
    """Train in a work folder, or go on there, and leave the network in ``model``; the folder."""
    if tensorboard:
        check_tensorboard()
    work = WorkFolder(out, identity)

    def do() -> None:
        show = progress(stage)
        folder = work.path / "training"
        with recorded(folder, tensorboard=tensorboard) as record:
            segmenter = learn(
                folder=folder,
                progress=lambda step, total, loss: show(step, total, f"loss {loss:.3f}"),
                record=record,
            )
        save_segmenter(work.path / "model", segmenter)

    work.run(stage, do, announce)
    return work.path


def _changed(settings: TrainSettings, changes: dict[str, Any]) -> TrainSettings:
    for name in ("steps", "stacks"):
        if changes.get(name, 1) < 1:
            raise InputError(f"--{name} is {changes[name]}, expected at least 1.")
    return dataclasses.replace(settings, **changes)


def pretrain_to_folder(
    out: Path,
    *,
    network: str,
    changes: dict[str, Any],
    tensorboard: bool,
    seed: int,
    progress: Callable[[str], Callable[[int, int, str], None]],
    announce: Callable[[str], None],
) -> None:
    """Do ``fibnet pretrain``; see its help for the arguments.

    Raises:
        InputError: bad numbers, or a folder of another training.
    """
    config, settings = NETWORKS[network], _changed(PRETRAINING, changes)
    identity = {
        "network": json.dumps(dataclasses.asdict(config)),
        "training": json.dumps(dataclasses.asdict(settings)),
        "seed": seed,
    }
    learn = functools.partial(pretrain, config, seed=seed, settings=settings, data=PRETRAINING_DATA)
    work = _train_in(out, identity, "pretrain", learn, tensorboard, progress, announce)
    announce(f"general network in {work / 'model'}")


def segmenter_for(segmenter: Segmenter, stack: Stack) -> Segmenter:
    """The network for the channels of a stack, which may be some of those it was trained for.

    A general network takes any: their grey values are brought to mean 0 and deviation 1, and they
    are taken for those of the textbook instrument.

    Raises:
        InputError: a channel of the stack is of another detector than all that the network was
            trained for, or over 5 % off in energy; or two would be taken for the same.
    """
    if segmenter.channels is None:
        every = max(stack.num_slices // _SLICES_FOR_GREY, 1)
        grey = on_grey_scale(stack.images[:, ::every], grey_scale(stack.images))
        return dataclasses.replace(
            segmenter,
            channels=channel_input([jnp.asarray(grey)], first_instrument(stack)),
            beam_kev=tuple(c.beam_kev for c in stack.channels),
            detectors=tuple(c.detector for c in stack.channels),
        )
    known = list(zip(segmenter.beam_kev, segmenter.detectors, strict=True))
    wanted = [(c.beam_kev, c.detector) for c in stack.channels]
    chosen = [
        next(
            (i for i, k in enumerate(known) if k[1] == w[1] and abs(w[0] / k[0] - 1) < 0.05),
            None,
        )
        for w in wanted
    ]
    if None in chosen or len(set(chosen)) < len(chosen):
        raise InputError(
            f"the stack has the channels {_text(wanted)} but the network was trained for "
            f"{_text(known)}; train one for this stack or choose among its channels with "
            "--channels."
        )
    return segmenter.select([i for i in chosen if i is not None])


def _text(channels: list) -> str:
    return ", ".join(f"{e:g} keV {d}" for e, d in channels)


def segment_to_folder(
    stack: Stack,
    model: Path,
    out: Path,
    *,
    tile_px: int,
    progress: Callable[[int, int, str], None],
    announce: Callable[[str], None],
) -> None:
    """Do ``fibnet segment``; see its help for the arguments.

    Raises:
        InputError: no network, channels that do not fit, or a place that cannot be written.
    """
    if tile_px < 32:
        raise InputError(f"--tile-px is {tile_px}, expected at least 32.")
    segmenter = segmenter_for(load_segmenter(network_folder(model)), stack)
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {out}: {error.strerror}; choose another place.") from error
    shape = stack.images.shape
    seconds, memory = expected_cost(segmenter, shape, tile_px=tile_px)
    announce(
        f"{shape[1]} slices of {shape[2]} x {shape[3]} pixels: about {_duration(seconds)} and "
        f"{gigabytes(memory)} beside the stack"
    )
    solid = 0
    with (
        _writer(out / "probability.tif", stack, np.float32) as write_probability,
        _writer(out / "label.tif", stack, np.uint8) as write_label,
    ):
        for first, probability in predict_blocks(
            segmenter,
            stack.images,
            scale=grey_scale(stack.images),
            tile_px=tile_px,
            progress=lambda done, total: progress(done, total, "tiles"),
        ):
            label = (probability > 0.5).astype(np.uint8)
            write_probability(first, probability)
            write_label(first, label)
            solid += int(label.sum())
    porosity = 1 - solid / np.prod(shape[1:])
    announce(f"porosity {porosity:.4f}; wrote probability.tif and label.tif in {out}")


def _writer(path: Path, stack: Stack, dtype):
    return io.volume_writer(path, stack.images.shape[1:], dtype, voxel_nm=stack.voxel_nm)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
