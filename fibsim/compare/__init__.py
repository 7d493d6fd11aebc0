"""How well a simulated stack imitates a recorded one: can a classifier tell them apart?"""

from fibsim.compare.auc import Auc as Auc
from fibsim.compare.comparison import Comparison as Comparison
from fibsim.compare.comparison import Examples as Examples
from fibsim.compare.comparison import StatisticGap as StatisticGap
from fibsim.compare.comparison import check_comparable as check_comparable
from fibsim.compare.comparison import compare_stacks as compare_stacks
from fibsim.compare.draw import draw_stacks as draw_stacks
from fibsim.compare.network import TrainSettings as TrainSettings

__all__ = [
    "Auc",
    "Comparison",
    "Examples",
    "StatisticGap",
    "TrainSettings",
    "check_comparable",
    "compare_stacks",
    "draw_stacks",
]
