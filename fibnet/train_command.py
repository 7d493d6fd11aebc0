"""The work behind ``fibnet train`` and ``fibnet segment``."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fibnet.data import source_from_file
from fibnet.model import ModelConfig
from fibnet.segment import predict
from fibnet.segmenter import Segmenter, load_segmenter, save_segmenter
from fibnet.stages import WorkFolder
from fibnet.train import PRESETS, train
from fibsim import io
from fibsim.errors import InputError
from fibsim.fit import grey_levels
from fibsim.stack import Stack

__all__ = ["check_channels", "segment_to_folder", "train_to_folder"]


def train_to_folder(
    instrument: Path,
    out: Path,
    *,
    preset: str,
    steps: int | None,
    window: int | None,
    seed: int,
    progress: Callable[[int, int, str], None],
    announce: Callable[[str], None],
) -> None:
    """Do ``fibnet train``; see its help for the arguments.

    Raises:
        InputError: bad numbers, a bad instrument file, or a folder of another training.
    """
    chosen = PRESETS[preset]
    window = chosen.window if window is None else window
    if window < 1 or window % 2 == 0:
        raise InputError(f"--window is {window}, expected an odd number of slices.")
    if steps is not None and steps < 1:
        raise InputError(f"--steps is {steps}, expected at least 1.")
    source = source_from_file(instrument)
    settings = chosen.train if steps is None else dataclasses.replace(chosen.train, steps=steps)
    config = ModelConfig(
        channels=len(source.instrument.detectors),
        window=window,
        widths=chosen.widths,
        blocks=chosen.blocks,
        fold=chosen.fold,
    )
    identity = {
        "instrument": Path(instrument).read_text(),
        "network": json.dumps(dataclasses.asdict(config)),
        "training": json.dumps(dataclasses.asdict(settings)),
        "seed": seed,
    }
    work = WorkFolder(out, identity)

    def do() -> None:
        segmenter = train(
            source,
            config,
            folder=work.path / "training",
            seed=seed,
            settings=settings,
            data=chosen.data,
            progress=lambda step, total, loss: progress(step, total, f"loss {loss:.3f}"),
        )
        save_segmenter(work.path / "model", segmenter)

    work.run("train", do, announce)
    announce(f"network in {work.path / 'model'}")


def check_channels(segmenter: Segmenter, stack: Stack) -> None:
    """A network is good for the channels it was trained for.

    Raises:
        InputError: the stack's channels differ in number, detector, or by over 5 % in energy.
    """
    expected = list(zip(segmenter.beam_kev, segmenter.detectors, strict=True))
    found = [(c.beam_kev, c.detector) for c in stack.channels]
    good = len(expected) == len(found) and all(
        a[1] == b[1] and abs(a[0] / b[0] - 1) < 0.05 for a, b in zip(found, expected, strict=True)
    )
    if not good:
        raise InputError(
            f"the stack has the channels {_text(found)} but the network was trained for "
            f"{_text(expected)}; train one for this stack or choose its channels with --channels."
        )


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
    folder = Path(model)
    segmenter = load_segmenter(folder / "model" if (folder / "model").is_dir() else folder)
    check_channels(segmenter, stack)
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {out}: {error.strerror}; choose another place.") from error
    probability = predict(
        segmenter,
        grey_levels(stack),
        tile_px=tile_px,
        progress=lambda done, total: progress(done, total, "tiles"),
    )
    label = (probability > 0.5).astype(np.uint8)
    io.write_volume(out / "probability.tif", probability, voxel_nm=stack.voxel_nm)
    io.write_volume(out / "label.tif", label, voxel_nm=stack.voxel_nm)
    announce(f"porosity {1 - label.mean():.4f}; wrote probability.tif and label.tif in {out}")
