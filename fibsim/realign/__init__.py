"""Where the slices of a recorded stack really lie, and the stack with its slices put back."""

from fibsim.realign.estimate import MillingEstimate as MillingEstimate
from fibsim.realign.estimate import check_images as check_images
from fibsim.realign.estimate import estimate_milling as estimate_milling
from fibsim.realign.findings import findings as findings
from fibsim.realign.reposition import INTERPOLATIONS as INTERPOLATIONS
from fibsim.realign.reposition import reposition as reposition

__all__ = [
    "INTERPOLATIONS",
    "MillingEstimate",
    "check_images",
    "estimate_milling",
    "findings",
    "reposition",
]
