"""Where the slices of a recorded stack really lie, and the stack with its slices put back."""

from fibsim.realign.estimate import MillingEstimate as MillingEstimate
from fibsim.realign.estimate import estimate_milling as estimate_milling
from fibsim.realign.reposition import INTERPOLATIONS as INTERPOLATIONS
from fibsim.realign.reposition import reposition as reposition

__all__ = ["INTERPOLATIONS", "MillingEstimate", "estimate_milling", "reposition"]
