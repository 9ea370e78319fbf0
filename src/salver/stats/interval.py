"""Intervals and estimates, as returned by the statistics. Pure."""

from typing import NamedTuple


class Interval(NamedTuple):
    """Lower and upper bound; infinite if too little is known."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A value with bounds that cover the true one."""

    value: float
    low: float
    high: float
