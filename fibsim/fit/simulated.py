"""Random recordings of a kind of specimen, as a fit and a training draw them."""

from collections.abc import Mapping

import jax

from fibsim.errors import InputError
from fibsim.instrument import Instrument
from fibsim.instrument_file import InstrumentFile
from fibsim.layers import grid_below, slices_of_steps
from fibsim.simulate import Sample, sample_stack
from fibsim.specimens import KINDS, draw, on_ground
from fibsim.specimens.specimen import Specimen

__all__ = ["check_drawable", "draw_sample", "draw_specimen", "slices_below"]


def slices_below(specimen: Mapping[str, float], slice_nm: float) -> int:
    """Steps that a simulation needs below its last face: five times the largest feature deep.

    Less deep, pores would end in darkness too early: at 5 kV in gold the mean grey value of the
    last face is then off by 0.2 of the contrast at three features, 0.05 at five. Between 4 steps
    (4 slices) and 14 (44 slices), see `fibsim.layers.slices_of_steps`.
    """
    largest = max((float(v) for name, v in specimen.items() if name.endswith("_nm")), default=0.0)
    needed = 5 * largest / slice_nm
    return next((n for n in range(4, 14) if sum(slices_of_steps(n)) >= needed), 14)


def check_drawable(content: InstrumentFile, name: str) -> None:
    """Whether an instrument file says what specimen to draw.

    Raises:
        InputError: it does not, or names a kind or parameter that does not exist.
    """
    if content.kind not in KINDS:
        raise InputError(
            f"{name} names the specimen kind {content.kind!r}, expected one of {', '.join(KINDS)}; "
            "add a section 'specimen: {kind: ..., ...}' or let fibsim fit write the file."
        )
    known = KINDS[content.kind].parameters
    for parameter in content.specimen:
        if parameter not in known:
            raise InputError(
                f"{name} gives specimen {content.kind} the parameter {parameter!r}, expected "
                f"{', '.join(known)}; correct its specimen section."
            )


def draw_specimen(
    kind: str,
    parameters: Mapping[str, jax.Array],
    *,
    key: jax.Array,
    shape: tuple[int, int, int],
    voxel_nm: tuple[float, float, float],
) -> jax.Array:
    """Solid fraction of a random periodic specimen; traceable in its parameters.

    A stack is a small window of a large specimen, so its own solid fraction fluctuates.
    """
    window = {"exact": False} if "exact" in KINDS[kind].options else {}
    return draw(kind, key=key, shape=shape, voxel_nm=voxel_nm, **parameters, **window)


def draw_sample(
    instrument: Instrument,
    specimen: Mapping[str, jax.Array],
    *,
    key: jax.Array,
    kind: str,
    shape: tuple[int, int, int],
    slice_nm: float,
    pixel_nm: float,
    sublayers: int,
    below_slices: int,
    ground_nm: jax.Array | None = None,
) -> Sample:
    """Draw a random periodic specimen of a kind and record it; traceable in all parameters.

    Args:
        shape: (slice, y, x) of the stack.
        slice_nm, pixel_nm: the grid, static (equal to the instrument's nominal geometry).
        ground_nm: depth of dense ground below the first face; none, or infinite, for a specimen
            that goes on.
    """
    key_specimen, key_stack = jax.random.split(key)
    grid, voxel_nm = grid_below(
        shape,
        slice_nm=slice_nm,
        pixel_nm=pixel_nm,
        sublayers=sublayers,
        below_slices=below_slices,
    )
    solid = draw_specimen(kind, specimen, key=key_specimen, shape=grid, voxel_nm=voxel_nm)
    solid = on_ground(solid, ground_nm, layer_nm=voxel_nm[0])
    return sample_stack(
        Specimen(solid=solid, voxel_nm=voxel_nm, periodic=True),
        instrument,
        key=key_stack,
        num_slices=shape[0],
        sublayers=sublayers,
        below_slices=below_slices,
    )
