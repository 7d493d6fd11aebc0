"""Which voltages to record, and how long: the expected error of a segmentation of each choice."""

from fibsim.design.candidates import Candidate as Candidate
from fibsim.design.candidates import recording as recording
from fibsim.design.choice import Choice as Choice
from fibsim.design.choice import Design as Design
from fibsim.design.choice import DesignSettings as DesignSettings
from fibsim.design.choice import check_choices as check_choices
from fibsim.design.choice import rank_choices as rank_choices

__all__ = [
    "Candidate",
    "Choice",
    "Design",
    "DesignSettings",
    "check_choices",
    "rank_choices",
    "recording",
]
