"""Quotas of keys on one server, each by a slice that the ledger has granted.

A server may use what it was granted, and nothing else: so a quota holds on all servers together, also while
one cannot reach the ledger. What is left of a slice goes back when the server stops. Requests and rows are
counted before they run. Tokens and compute seconds are known only afterwards: what runs when a quota ends
goes beyond it, and is taken from the next slice.

Its clock and the ledger are those of its :class:`Shell`.
"""

from collections.abc import Awaitable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec

from salver.features.access.quota_rules import Period, QuotaRule, period_of
from salver.words.errors import QuotaExceeded, QuotaUnsettled, RateLimited, ReachedLimit
from salver.words.messages import LimitState

#: Seconds after which the ledger is asked again about a quota that had nothing left, or that it did not tell.
ASK_AGAIN_S: Final = 5.0
#: Slices into which what is left is divided, for each server.
_SHARES: Final = 8


class SliceGrant(msgspec.Struct, frozen=True):
    """Answer of the ledger.

    Attributes:
        count: Whole grant of this server in the period.
        is_last: There is nothing left for another.
        left: What all servers together have not used, as far as is known.
    """

    count: int
    is_last: bool
    left: int


class SliceRequest(msgspec.Struct, frozen=True):
    """Question to the ledger.

    Attributes:
        used: What this server has used.
        least: What it needs at once, beyond that.
    """

    key: str
    rule: QuotaRule
    period: Period
    used: int
    least: int


class Counts(Protocol):
    """Memory of counts, which a killed process leaves behind."""

    def __getitem__(self, at: int, /) -> int:
        """Return the count at a place."""
        ...

    def __setitem__(self, at: int, count: int, /) -> None:
        """Replace the count at a place."""
        ...


class Slice:
    """Part of one quota in one period that this server may use.

    Args:
        counts: Memory that has the count of what is used, at ``at``.

    Attributes:
        per_request, per_row: What a request takes before it runs.
        used: What this server has used.
        granted: What it may use.
        retry_at: Unix seconds until which the ledger is not asked again.
        is_reached: The ledger has told what there is.
        asking: The question that is under way; None = none is.
        refill_at: Count from which on the next slice is asked for.
        wanted: What those need who wait for the question that is under way.
        elsewhere: What was left for other servers and later slices, when the ledger told last.
    """

    __slots__ = (
        "asking", "at", "counts", "elsewhere", "granted", "is_reached", "per_request", "per_row", "period",
        "refill_at", "retry_at", "rule", "used", "wanted",
    )  # fmt: skip

    def __init__(self, rule: QuotaRule, period: Period, counts: Counts, at: int) -> None:
        self.rule = rule
        self.period = period
        self.per_request = int(rule.unit == "requests")
        self.per_row = int(rule.unit == "rows")
        self.counts = counts
        self.at = at
        #: The count in that memory, which takes longer to read.
        self.used = counts[at]
        self.granted = self.refill_at = self.used
        self.retry_at = 0.0
        self.is_reached = True
        self.asking: Awaitable[None] | None = None
        self.wanted = 0
        self.elsewhere = rule.most

    def __repr__(self) -> str:
        return f"<Slice of {self.rule} in {self.period.name}: {self.used} of {self.granted}>"

    @property
    def left(self) -> int:
        """Return how much it may still use; below 0 = it owes that much."""
        return self.granted - self.used

    def settle(self, granted: SliceGrant | None, now: float) -> None:
        """Take the ledger's answer; None = it cannot be reached."""
        self.asking = None
        self.is_reached = granted is not None
        if granted is None:
            self.retry_at = now + ASK_AGAIN_S
            return
        self.refill_at = granted.count - (granted.count - self.granted) // 2
        self.granted = granted.count
        self.elsewhere = max(0, granted.left)
        self.retry_at = now + ASK_AGAIN_S if granted.is_last else 0.0


def granted_of(request: SliceRequest, mine: int, others: int, servers: int) -> SliceGrant:
    """Decide how much a server is granted. Pure.

    What it has used already is granted in any case. Slices get smaller as the quota does, so that little is
    left over on servers that need it no more.

    Args:
        mine: Grant of the server so far.
        others: Grants of all others together, with what has ended.
        servers: Number of servers that use quotas now.
    """
    free = max(0, request.rule.most - others)
    base = max(request.used, min(mine, free))
    left = max(0, free - base)
    more = min(left, max(request.least, left // (_SHARES * max(1, servers))))
    return SliceGrant(base + more, more == left, left - more)


class Shell(Protocol):
    """Clock, memory and ledger of one server's quotas."""

    def now(self) -> float:
        """Return Unix seconds."""
        ...

    def open(self, key: str, rule: QuotaRule, period: Period) -> Slice:
        """Return the slice of a period, which has no grant yet."""
        ...

    def close(self, key: str, slice: Slice) -> None:
        """Give back what is left of a slice whose period is over."""
        ...

    def ask(self, request: SliceRequest, slice: Slice) -> Awaitable[None]:
        """Ask the ledger for more, in the background; return what ends when ``slice.settle`` was called."""
        ...


class KeyQuotas:
    """Quotas of one key on this server. Implements :class:`~salver.features.access.ports.Quotas`."""

    __slots__ = ("_before", "_ends", "_key", "_seconds", "_shell", "_slices")

    def __init__(self, key: str, rules: Sequence[QuotaRule], shell: Shell) -> None:
        self._key = key
        self._shell = shell
        self._slices: list[Slice] = []
        #: Those of requests and rows, which are counted before; and those of compute seconds.
        self._before: tuple[Slice, ...] = ()
        self._seconds: tuple[Slice, ...] = ()
        self._ends = 0.0  # Unix seconds at which the first period is over
        self.change(rules)

    def __repr__(self) -> str:
        return f"<KeyQuotas {self._key}: {self._slices}>"

    def change(self, rules: Sequence[QuotaRule]) -> None:
        """Replace the rules; what is used stays."""
        before = {slice.rule.name: slice for slice in self._slices}
        now, slices = self._shell.now(), []
        for rule in rules:
            slice = before.pop(rule.name, None)
            if slice is None:
                slice = self._shell.open(self._key, rule, period_of(rule.span, now))
            elif slice.rule != rule:
                slice.rule, slice.retry_at = rule, 0.0
                slice.granted = min(slice.granted, max(rule.most, slice.used))
            slices.append(slice)
        for slice in before.values():
            self._shell.close(self._key, slice)
        self._slices = slices
        self._sort()

    def _sort(self) -> None:
        """Prepare what each request asks (benchmarks/prices.py)."""
        self._before = tuple([each for each in self._slices if each.rule.unit in ("requests", "rows")])
        self._seconds = tuple([each for each in self._slices if each.rule.unit == "compute-seconds"])
        self._ends = min([each.period.ends for each in self._slices], default=0.0)

    def refusal(self, *, is_trial: bool) -> RateLimited | None:
        """See :class:`~salver.features.access.ports.Quotas`."""
        now = self._shell.now()
        if now < self._ends:
            for slice in self._slices:
                if slice.granted <= slice.used:
                    break
            else:  # most are accepted
                return None
        for index, slice in enumerate(self._slices):
            if now >= slice.period.ends:
                slice = self._renew(index, now)
            if slice.granted > slice.used:
                continue
            if now < slice.retry_at:
                return self._refused(slice, now)
            if not is_trial:
                unsettled = QuotaUnsettled("it is not known yet what is left of this key's quota")
                unsettled.settled = self._ask(slice, 1)
                return unsettled
        return None

    def take(self, rows: int) -> bool:
        """See :class:`~salver.features.access.ports.Quotas`."""
        for slice in self._before:
            needed = rows if slice.per_row else 1
            if slice.used + needed > slice.granted and needed:
                now = self._shell.now()
                if now < slice.retry_at:
                    raise self._refused(slice, now, rows)
                return False
        for slice in self._before:  # as _use(), written out for each request
            used = slice.used + (rows if slice.per_row else 1)
            slice.used = slice.counts[slice.at] = used
            if used > slice.refill_at:
                self._refill(slice)
        return True

    async def settle(self, rows: int) -> None:
        """See :class:`~salver.features.access.ports.Quotas`."""
        while not self.take(rows):
            for slice in self._slices:
                needed = slice.per_request + slice.per_row * rows
                if needed and slice.left < needed:
                    await self._ask(slice, needed - max(0, slice.left))
                    break

    def spend(self, *, requests: int = 0, tokens: int = 0, micros: int = 0) -> None:
        """See :class:`~salver.features.access.ports.Quotas`."""
        if micros:
            for slice in self._seconds:
                self._use(slice, micros)
        if not (requests or tokens):
            return
        for slice in self._slices:
            if slice.per_request and requests:
                self._use(slice, requests)
            elif slice.rule.unit == "tokens" and tokens:
                self._use(slice, tokens)

    def _use(self, slice: Slice, count: int) -> None:
        """Count what is used."""
        used = slice.used + count
        slice.used = slice.counts[slice.at] = used
        if used > slice.refill_at:
            self._refill(slice)

    def _refill(self, slice: Slice) -> None:
        """Ask for the next slice in the background, as half of this one is used."""
        if slice.asking is None and self._shell.now() >= slice.retry_at:
            self._ask(slice, 1)

    def states(self) -> Iterator[LimitState]:
        """See :class:`~salver.features.access.ports.Quotas`."""
        now = self._shell.now()
        for index, slice in enumerate(self._slices):
            if now >= slice.period.ends:
                slice = self._renew(index, now)
            rule, period = slice.rule, slice.period
            left = max(0, min(rule.most, slice.left + slice.elsewhere))
            yield LimitState(rule.limit_name, rule.amount, period.seconds, rule.shown(left), period.ends)

    def slices(self) -> Sequence[Slice]:
        """Return the slices."""
        return self._slices

    def _renew(self, index: int, now: float) -> Slice:
        """Replace a slice whose period is over."""
        old = self._slices[index]
        self._shell.close(self._key, old)
        new = self._slices[index] = self._shell.open(self._key, old.rule, period_of(old.rule.span, now))
        self._sort()
        return new

    def _ask(self, slice: Slice, least: int) -> Awaitable[None]:
        if slice.asking is None:
            request = SliceRequest(self._key, slice.rule, slice.period, slice.used, max(least, slice.wanted))
            slice.wanted = 0
            slice.asking = self._shell.ask(request, slice)
        else:
            slice.wanted += least
        return slice.asking

    def _refused(self, slice: Slice, now: float, rows: int = 0) -> RateLimited:
        rule, period = slice.rule, slice.period
        if not slice.is_reached:
            return RateLimited(
                f"what is left of this key's quota of {rule} is not known now",
                retry_after=max(1.0, slice.retry_at - now),
            )
        limit = ReachedLimit(rule.limit_name, int(rule.amount), period.seconds, rule.unit)
        what = "has used its quota"
        if rows and slice.left > 0:
            what = f"has {slice.left} rows left of its quota"
        return QuotaExceeded(
            f"this key {what} of {rule}; it is renewed at {_utc(period.ends)}",
            limit=limit,
            retry_after=period.ends - now,
        )


def _utc(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
