"""Roofline bound on a model's rate on a machine (Williams, Waterman, Patterson 2009).

For a batch: a run takes at least as long as its arithmetic at the peak rate, and at least as long as moving
its bytes. Pure: the cost of a graph and the ceilings of a machine are arguments; counting and measuring are
elsewhere.
"""

import math

import msgspec

from salver.backends.protocol import Cost


class Ceilings(msgspec.Struct, frozen=True):
    """Peak performance of a machine, all its cores together.

    Attributes:
        flops_per_s: Peak rate of arithmetic.
        bytes_per_s: Bandwidth of the memory or cache where the weights lie.
        int8_ops_per_s: Peak rate of products of 8-bit integers; 0 = ``flops_per_s``.
    """

    flops_per_s: float
    bytes_per_s: float
    int8_ops_per_s: float = 0.0

    @property
    def ridge(self) -> float:
        """Return the floating-point operations per byte from which arithmetic is the bound."""
        return self.flops_per_s / self.bytes_per_s

    def arithmetic_s(self, cost: Cost) -> float:
        """Return the seconds of a row's arithmetic at the peak."""
        int8_ops_per_s = self.int8_ops_per_s or self.flops_per_s
        return cost.flops_a_row / self.flops_per_s + cost.int8_ops_a_row / int8_ops_per_s


class RooflineBound(msgspec.Struct, frozen=True):
    """Upper bound at a batch size.

    Attributes:
        rate: Rows per second over all cores; inf if the cost is unknown.
        by: Limiting resource, ``arithmetic`` or ``memory``.
    """

    rate: float
    by: str


def bound(cost: Cost, ceilings: Ceilings, rows: float) -> RooflineBound:
    """Return the maximum rows per second in batches of this size.

    >>> weights = Cost(flops_a_row=2e6, weight_bytes=4e6)
    >>> core = Ceilings(flops_per_s=116e9, bytes_per_s=25e9)
    >>> bound(weights, core, 1).by, bound(weights, core, 16).by
    ('memory', 'arithmetic')
    """
    arithmetic = ceilings.arithmetic_s(cost) * rows
    memory = (cost.weight_bytes + cost.bytes_a_row * rows) / ceilings.bytes_per_s
    seconds = max(arithmetic, memory)
    return RooflineBound(
        rows / seconds if seconds > 0 else math.inf, "memory" if memory > arithmetic else "arithmetic"
    )


def knee(cost: Cost, ceilings: Ceilings) -> float:
    """Return the rows from which larger batches do not help; inf = never or unknown.

    For a layer of fp32 weights, two operations per four bytes, this is twice the ridge.

    >>> round(knee(Cost(flops_a_row=2e6, weight_bytes=4e6), Ceilings(116e9, 25e9)), 1)
    9.3
    """
    left = ceilings.arithmetic_s(cost) - cost.bytes_a_row / ceilings.bytes_per_s
    if left > 0:
        return cost.weight_bytes / ceilings.bytes_per_s / left
    return math.inf


__all__ = ["Ceilings", "Cost", "RooflineBound", "bound", "knee"]
