"""Between which values does a number lie? The words in which the statistics answer. Pure."""

from typing import NamedTuple


class Interval(NamedTuple):
    """Lower and upper bound; infinite where too little is known."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A value, and bounds that cover the true one."""

    value: float
    low: float
    high: float
