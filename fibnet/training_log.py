"""The log of a training: read, drawn while it grows, and handed to TensorBoard if wanted."""

import contextlib
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from fibsim import io
from fibsim.errors import InputError

__all__ = ["CURVE", "LOG", "Record", "check_tensorboard", "recorded", "training_section"]

LOG = "log.jsonl"
CURVE = "curve.png"

Record = Callable[[dict[str, float]], None]
"""Takes a line of the log: numbers by name, ``step`` among them."""


def check_tensorboard() -> None:
    """Raise `InputError` if the extra is not installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise InputError(
            "--tensorboard needs the package tensorboardX, which is not installed; "
            'pip install "fibsim[tensorboard]", or leave the option out (log.jsonl has the same).'
        )


def training_section(folder: Path):
    """Losses and validations of the log in a training's folder, as the report shows them."""
    from fibnet.report.content import TrainingSection

    lines = [json.loads(s) for s in (Path(folder) / LOG).read_text().splitlines()]
    validated = [e for e in lines if "dice" in e]
    return TrainingSection(
        steps=np.asarray([e["step"] for e in lines]),
        loss=np.asarray([e["loss"] for e in lines]),
        val_steps=np.asarray([e["step"] for e in validated]),
        val_dice=np.asarray([e["dice"] for e in validated]),
    )


def _draw(folder: Path) -> None:
    from fibnet.report.curves import training_figure

    with io.atomic_path(folder / CURVE) as path:
        path.write_bytes(training_figure(training_section(folder)).png)


@contextlib.contextmanager
def recorded(folder: Path, *, tensorboard: bool = False) -> Iterator[Record]:
    """What a training calls with every line that it has logged in a folder.

    Draws ``curve.png`` anew at every validation. With ``tensorboard``, which needs the extra of
    that name, the numbers also go into an event file there; a resumed run begins another, and
    TensorBoard shows what it redid once.
    """
    with contextlib.ExitStack() as open_files:
        board = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            board = open_files.enter_context(SummaryWriter(str(folder), flush_secs=10))

        def record(line: dict[str, float]) -> None:
            if board is not None:
                for name, value in line.items():
                    if name != "step":
                        board.add_scalar(name, value, int(line["step"]))
            if "dice" in line:
                _draw(folder)

        yield record
