"""How much memory a recording takes, and whether it is made whole or in slabs."""

import dataclasses
import math
import os
from pathlib import Path

from fibsim.layers import voxels_per_slice

__all__ = ["FEWEST_SLICES", "Recording", "gigabytes", "memory_bound", "memory_bytes"]

# Measured (docs/performance.md): of the interpreter, JAX, the compiler and what is read of a file
# at once; and per pixel: whatever is recorded, of every layer of the specimen and phase, of every
# sub-layer and phase, of every slice and channel, and of what a scene keeps of every channel.
_BASE_BYTES, _PIXEL_BYTES = 0.8e9, 850
_LAYER_BYTES, _SUBLAYER_BYTES, _IMAGE_BYTES, _SCENE_BYTES = 8, 7, 8, 80
# Slices of a slab: more are no faster, and `fibsim.slabs` makes none of one.
_MOST_SLICES, FEWEST_SLICES = 32, 2
# What a container may use; of the second version of cgroups and of the first.
_CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def memory_bytes() -> float | None:
    """Memory of the machine or of the container that this runs in; ``None`` if unknown."""
    found = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE"))
    for path in _CONTAINER_LIMITS:
        try:
            found.append(float(path.read_text()))
        except (OSError, ValueError):  # no container, or no limit
            continue
    return min(found, default=None)


def memory_bound() -> float:
    """What a recording that is made whole may take: half the memory, and no more than what an
    accelerator gives; 4 GB where nothing is known."""
    import jax

    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)
    bound = min((memory_bytes() or math.inf) / 2, limit)
    return bound if math.isfinite(bound) else 4e9


def gigabytes(size: float) -> str:
    """A number of bytes as a reader of a command wants it."""
    return f"about {size / 1e9:.2g} GB" if size < 10e9 else f"about {size / 1e9:.0f} GB"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recording:
    """Sizes of a recording that decide what memory it takes.

    Attributes:
        specimen: shape of the specimen, ``(z, y, x)`` or ``(phase, z, y, x)``, with
            `fibsim.layers.voxels_per_slice` layers a slice.
        phases, channels: of the instrument.
        slices, below: imaged, and below the last one.
        sublayers: per slice.
        held_bytes: what of the specimen is in memory also where it is recorded in slabs.
    """

    specimen: tuple[int, ...]
    phases: int
    channels: int
    slices: int
    below: int
    sublayers: int
    held_bytes: float = 0.0

    def _bytes(self, layers: int, slices: int) -> float:
        *_, y, x = self.specimen
        per_pixel = (
            _PIXEL_BYTES
            + self.phases * (_LAYER_BYTES * layers + _SUBLAYER_BYTES * self.sublayers * slices)
            + self.channels * (_IMAGE_BYTES * slices + _SCENE_BYTES)
        )
        return _BASE_BYTES + per_pixel * y * x

    def whole_bytes(self) -> float:
        """About the peak memory of a process that runs `fibsim.sample_stack`."""
        return self._bytes(self.specimen[-3], self.slices + self.below)

    def slab_bytes(self, slab_slices: int) -> float:
        """About the peak memory of a process that runs `fibsim.sample_slabs` on a file."""
        slices = min(max(slab_slices, FEWEST_SLICES), self.slices + self.below)
        layers = slices * voxels_per_slice(self.sublayers)
        return self.held_bytes + self._bytes(layers, slices)

    def slab_slices_within(self, bound: float) -> int:
        """Slices of the largest slab that takes no more than ``bound`` bytes, 32 at most and 2 at
        least; 0 if the whole does not take more either."""
        if self.whole_bytes() <= bound:
            return 0
        sizes = range(_MOST_SLICES, FEWEST_SLICES, -1)
        return next((n for n in sizes if self.slab_bytes(n) <= bound), FEWEST_SLICES)
