"""Random recordings of a kind of specimen, as a fit and a training draw them."""

from collections.abc import Mapping

import jax

from fibsim.instrument import Instrument
from fibsim.layers import slices_of_steps
from fibsim.simulate import Sample, sample_stack
from fibsim.specimens import KINDS, draw
from fibsim.specimens.specimen import Specimen

__all__ = ["draw_sample", "slices_below"]


def slices_below(specimen: Mapping[str, float], slice_nm: float) -> int:
    """Steps that a simulation needs below its last face: five times the largest feature deep.

    Less deep, pores would end in darkness too early: at 5 kV in gold the mean grey value of the
    last face is then off by 0.2 of the contrast at three features, 0.05 at five. Between 4 steps
    (4 slices) and 14 (44 slices), see `fibsim.layers.slices_of_steps`.
    """
    largest = max((float(v) for name, v in specimen.items() if name.endswith("_nm")), default=0.0)
    needed = 5 * largest / slice_nm
    return next((n for n in range(4, 14) if sum(slices_of_steps(n)) >= needed), 14)


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
) -> Sample:
    """Draw a random periodic specimen of a kind and record it; traceable in all parameters.

    Args:
        shape: (slice, y, x) of the stack.
        slice_nm, pixel_nm: the grid, static (equal to the instrument's nominal geometry).
    """
    key_specimen, key_stack = jax.random.split(key)
    layers = (shape[0] + sum(slices_of_steps(below_slices))) * sublayers
    voxel_nm = (slice_nm / sublayers, pixel_nm, pixel_nm)
    # A stack is a small window of a large specimen, whose own fraction fluctuates.
    window = {"exact": False} if "exact" in KINDS[kind].options else {}
    solid = draw(
        kind,
        key=key_specimen,
        shape=(layers, *shape[1:]),
        voxel_nm=voxel_nm,
        **specimen,
        **window,
    )
    return sample_stack(
        Specimen(solid=solid, voxel_nm=voxel_nm, periodic=True),
        instrument,
        key=key_stack,
        num_slices=shape[0],
        sublayers=sublayers,
        below_slices=below_slices,
    )
