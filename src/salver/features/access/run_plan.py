"""Limits, quotas and counts of the runs of one caller for one model.

A run is checked before it is decoded, and charged when its rows are known: by all limits, or by none; at
once where nothing depends on them. A run whose answer is delivered whole has the plan itself as its charge;
others need one of their own (charge.py). What each request runs through is written for speed
(benchmarks/prices.py).
"""

from collections.abc import Callable, Iterator

from salver.encoding.bodies import HttpReply
from salver.features.access.gcra import Cell
from salver.features.access.limits import Limits, refusal, strictest
from salver.features.access.ports import Account, compute_seconds
from salver.features.access.run_usage import size_of
from salver.words.errors import RateLimited, SalverError
from salver.words.messages import LimitState, Timing


class RunPlan:
    """Limits, quotas and counts of the runs of one caller for one model.

    Implements :class:`~salver.words.messages.Charge` for all runs whose tenant is known by their heads.

    Args:
        generation: See :class:`~salver.features.access.limit_book.LimitBook`.
        ticks: Returns monotonic nanoseconds.
        record: Records a refusal and returns it.
        has_tenant: The tenant cannot change when the request's parameters are known.

    Attributes:
        is_free: There are none.
        is_limited: There are limits or quotas.
        is_early: Runs are charged before they are decoded.
        crowds: Those that limit requests at once.
        cells: Limits of units that are charged before.
        is_shared: It can be the charge of runs.
        meter: Meter of the caller; None = nothing is counted.
        charges_tokens: Tokens of answers are counted.
    """

    __slots__ = (
        "cells", "charges_tokens", "crowds", "generation", "has_limits", "is_early", "is_free", "is_limited",
        "is_shared", "limits", "meter", "model", "quotas", "record", "tenant", "ticks",
    )  # fmt: skip
    #: Runs that are answered token by token have a charge of their own.
    counts_tokens = False

    def __init__(
        self,
        model: str,
        tenant: str,
        limits: tuple[Limits, ...],
        generation: int,
        account: Account | None,
        ticks: Callable[[], int],
        record: Callable[[SalverError, str], SalverError],
        *,
        has_tenant: bool,
    ) -> None:
        self.model = model
        self.tenant = tenant
        self.limits = limits
        self.generation = generation
        self.ticks = ticks
        self.record = record
        self.meter = None if account is None else account.meter
        self.quotas = None if account is None else account.quotas
        self.is_limited = bool(limits) or self.quotas is not None
        self.is_shared = has_tenant
        self.is_free = has_tenant and not self.is_limited
        self.is_early = has_tenant and self.quotas is None and not any(each.counts_rows for each in limits)
        self.has_limits = not self.is_early
        self.crowds = tuple([each for each in limits if each.at_once])
        self.cells = tuple([cell for each in limits for cell in each.cells if self.is_early])
        self.charges_tokens = account is not None or any(each.counts_tokens for each in limits)

    def enter(self) -> RateLimited | None:
        """Count a run that begins; return why it is refused; None = it is accepted."""
        now = self.ticks()
        if not self.is_early:
            refused = refusal(self.limits, now) if self.limits else None
            if refused is None and self.quotas is not None:
                refused = self.quotas.refusal(is_trial=False)
            if refused is not None:
                return refused
        # Written out, as it is the path of most requests (benchmarks/prices.py).
        for each in self.crowds:
            if each.running >= each.at_once:
                return strictest(self.limits, now)
        for cell in self.cells:
            at = cell.before = cell.free_at
            if at < now:
                at = now
            at += cell.period
            if at - now > cell.burst_ns:
                self._undo(cell)
                return strictest(self.limits, now)
            cell.free_at = at
        for each in self.crowds:
            each.running += 1
        return None

    def _undo(self, until: Cell | None = None) -> None:
        """Take back what was charged just now to the limits before one, or to all."""
        for cell in self.cells:
            if cell is until:
                break
            cell.free_at = cell.before

    def weigh(self, rows: int, tenant: str) -> bool:
        """See :class:`~salver.words.messages.Charge`."""
        if self.is_early:
            return True
        refused = refusal(self.limits, self.ticks(), rows, own=1) if self.limits else None
        if refused is not None:
            raise self.record(refused, self.model)
        if self.quotas is not None:
            try:
                if not self.quotas.take(rows):
                    return False
            except RateLimited as error:
                raise self.record(error, self.model) from None
        if self.limits:
            self.take(rows)
        return True

    def take(self, rows: int = 1) -> None:
        """Charge a run to the limits, even beyond them."""
        now = self.ticks()
        for each in self.limits:
            each.take(now, rows)

    async def settle(self) -> None:
        """See :class:`~salver.words.messages.Charge`."""

    def states(self) -> Iterator[LimitState]:
        """See :class:`~salver.words.messages.Charge`."""
        for each in self.limits:
            yield from each.states(self.ticks())
        if self.quotas is not None:
            yield from self.quotas.states()

    def add(self, tokens: tuple[int, int] | None) -> None:
        """See :class:`~salver.words.messages.Charge`."""

    def end(
        self, model: str, rows: int, timing: Timing, received: int, reply: object, is_weighed: bool, /
    ) -> None:
        """See :class:`~salver.words.messages.Charge`."""
        if self.meter is not None:
            sent = len(reply.body) if type(reply) is HttpReply else size_of(reply)
            self.meter.record(model, rows, received, sent, timing)
        for each in self.crowds:
            each.running -= 1
        if self.has_limits:
            self.end_late(rows, timing, is_charged=is_weighed)

    def end_late(self, rows: int, timing: Timing, *, is_charged: bool) -> None:
        """Charge what is known at the end of a run that is not charged at once.

        Args:
            is_charged: Otherwise it failed before it was weighed, and counts as a request with one row.
        """
        if not is_charged:
            self.take()
        if self.quotas is not None:
            micros = round(compute_seconds(timing, rows) * 1e6)
            self.quotas.spend(requests=0 if is_charged else 1, micros=micros)

    def leave(self, *, has_begun: bool = True) -> None:
        """Take a run back that begins in another way, which counts it."""
        for each in self.crowds:
            each.running -= 1
        if not has_begun:
            self._undo()
