"""The work behind ``fibnet evaluate``: a table of scores beside the baselines."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fibnet.labels import read_label, solid_of
from fibnet.metrics import scores
from fibsim import io
from fibsim.errors import InputError

__all__ = ["evaluate_table"]


def evaluate_table(label: Path, truth: Path, stack: Path | None, overrides: Mapping) -> str:
    """Text table of every score, one column per method.

    Raises:
        InputError: unreadable files, files of more than two phases, or volumes of different
            shapes.
    """
    volume, true = io.read_volume(label), read_label(truth)
    if volume.shape != true.shape:
        raise InputError(
            f"{label} has shape {volume.shape} but the truth {true.shape}; give volumes of the "
            "same stack."
        )
    is_probability = np.issubdtype(volume.dtype, np.floating)
    methods = {"result": solid_of(volume, str(label))}
    voxel = (1.0, 1.0, 1.0)
    if stack is not None:
        from fibnet.baselines import all_baselines
        from fibsim.fit.first_guess import grey_levels

        read = io.read_stack(stack, overrides=overrides)
        if read.images.shape[1:] != true.shape:
            raise InputError(
                f"the stack has shape {read.images.shape[1:]} but the truth {true.shape}; give "
                "the truth of this stack."
            )
        voxel = read.voxel_nm
        methods |= all_baselines(grey_levels(read), [c.name for c in read.channels])
    columns = {
        name: scores(v, true, voxel, probability=volume if is_probability and i == 0 else None)
        for i, (name, v) in enumerate(methods.items())
    }
    width = max(len(m) for m in columns) + 2
    lines = ["".ljust(30) + "".join(m.rjust(width) for m in columns)]
    for metric in columns["result"]:
        values = (c.get(metric) for c in columns.values())
        cells = "".join(("" if v is None else f"{v:.4f}").rjust(width) for v in values)
        lines.append(metric.ljust(30) + cells)
    return "\n".join(lines)
