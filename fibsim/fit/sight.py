"""Which pixels of a segmented stack see only what is known of it.

A leaning beam that looks down an open pore leaves the field of view at its side. What lies there is
unknown, and an image of the volume made up instead (`fibsim.fit.faces` repeats its border) is
wrong. (It also leaves a stack at its end, where whole slices do not count,
`fibsim.fit.regress.slice_weights`: pixels whose beam met solid above the last face were explained
less well than others, since walls and floors beyond light them, too.)
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float

from fibsim.instrument import Instrument

__all__ = ["Sight", "sight_of"]


@dataclasses.dataclass(frozen=True)
class Sight:
    """Where the beam of a pixel goes.

    Attributes:
        lean: by how many pixels towards +y it has moved one nominal slice deeper.
        seen: slices below a face that its image is made of.
    """

    lean: float
    seen: int

    @property
    def drop(self) -> int:
        """Pixels towards +y over all that is seen."""
        return int(math.copysign(math.ceil(abs(self.lean) * self.seen), self.lean))

    def ends(
        self, solid: Bool[np.ndarray, "face y x"], num_slices: int
    ) -> Bool[np.ndarray, "slice y x"]:
        """Whether the beam of a pixel meets solid before it leaves at a side.

        From pixel y of face k it passes face k + d at ``y + d lean``.

        Args:
            solid: the known faces, from the first one imaged on.
            num_slices: so many faces are imaged.
        """
        faces, rows, columns = solid.shape
        out = np.zeros((num_slices, rows, columns), bool)
        for deeper in range(min(self.seen + 1, faces)):
            place = np.rint(np.arange(rows) + deeper * self.lean).astype(int)
            inside = (place >= 0) & (place < rows)
            last = min(num_slices, faces - deeper)
            hit = solid[deeper : deeper + last][:, np.clip(place, 0, rows - 1)]
            out[:last] |= hit & inside[:, None]
        return out

    def weights(
        self, solid: Bool[np.ndarray, "face y x"], of_slice: Float[np.ndarray, " slice"]
    ) -> Float[np.ndarray, "slice y x"]:
        """Weight of every pixel: that of its slice, or 0 where its beam leaves at a side.

        Args:
            solid: the known faces, from the first one imaged on.
            of_slice: weights of the slices imaged.
        """
        rows = solid.shape[1]
        end = np.arange(rows) + self.drop
        stays = (end >= 0) & (end < rows)
        inside = stays[:, None] | self.ends(solid, len(of_slice))
        return (of_slice[:, None, None] * inside).astype(np.float32)


def sight_of(instrument: Instrument, seen: int) -> Sight:
    """That of an instrument whose images are made of so many slices below a face."""
    geometry = instrument.geometry
    slope = math.tan(math.radians(float(geometry.tilt_deg)))
    return Sight(lean=slope * float(geometry.slice_nm) / float(geometry.pixel_nm), seen=seen)
