"""The demonstration: a two-voltage stack that fibsim makes itself, taken through the main job."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fibnet.pipeline import Reconstruction, reconstruct
from fibsim import io
from fibsim.presets import make_instrument
from fibsim.simulate_command import record
from fibsim.stack_folder import write_sample

__all__ = ["run_demo"]

_SLICES, _SIDE = 24, 112


def run_demo(
    out: str | Path,
    *,
    seed: int = 0,
    progress: Callable[[str], Callable[[int, int, str], None]] | None = None,
    announce: Callable[[str], None] = print,
) -> Reconstruction:
    """Simulate ``out/stack`` unless it is there, and reconstruct it in ``out/reconstruction``.

    Nanoporous gold, 35 nm ligaments, 36 % solid, at 1 and 5 kV on a 52-degree machine. The truth
    is used for scores only.

    Raises:
        InputError: as `fibnet.pipeline.reconstruct`.
    """
    out = Path(out)
    folder = out / "stack"
    if not (folder / "stack.yaml").exists():
        announce(f"simulating a two-voltage stack in {folder}")
        instrument = make_instrument(beam_kev=[1.0, 5.0])
        sample = record(
            instrument,
            kind="waves",
            parameters={"solid_fraction": 0.36, "ligament_nm": 35.0},
            slices=_SLICES,
            side=_SIDE,
            seed=seed,
        )
        write_sample(folder, sample, instrument)
    stack = io.read_stack(folder)
    truth = io.read_volume(folder / "truth.tif") > 0
    result = reconstruct(
        stack,
        out / "reconstruction",
        preset="quick",
        seed=seed,
        truth=np.asarray(truth),
        progress=progress,
        announce=announce,
    )
    if result is None:  # all stages were asked for
        raise RuntimeError("the reconstruction ended without a report")
    return result
