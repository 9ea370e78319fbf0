"""Limits of one holder: a key, a tenant, a model, or the server.

Each may limit requests, rows and tokens in a time, and requests at once. A run is accepted by all limits that
apply to it, or refused by the strictest. Pure: time is an argument.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Final, Literal

import msgspec

from salver.features.access.gcra import Cell, parse_rate
from salver.features.access.quota_rules import parse_quotas
from salver.words.errors import InvalidInput, RateLimited, ReachedLimit
from salver.words.messages import LimitState

#: Whose limits they are, the narrowest first.
Holder = Literal["key", "tenant", "model", "server"]
_NS = 1e9
#: Time after which to try again while too many requests run: nobody knows when one ends.
_SOON: Final = 1_000_000_000
#: Wait of a request that asks for more than a whole burst.
_NEVER: Final = 1 << 62
_UNITS: Final = ("requests", "rows", "tokens")
_AT_ONCE: Final = "concurrent-requests"
_RUN_ALREADY: Final[dict[Holder, str]] = {
    "key": "with this key",
    "tenant": "of this tenant",
    "model": "for this model",
    "server": "of this server",
}


class LimitRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits as they stand in the file.

    Attributes:
        requests: Rate of requests, as ``50/s+100``; empty = no limit.
        at_once: Most requests that run at a time; 0 = no limit.
        rows: Rate of rows, the same way.
        tokens: Rate of tokens, of prompts and answers together.
        quotas: Quotas of a key, as ``10000/day`` or ``1e6 tokens/month``.
    """

    requests: str = ""
    at_once: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    rows: str = ""
    tokens: str = ""
    quotas: tuple[str, ...] = ()


class Limits:
    """Limits of one holder, and what is used of them.

    Attributes:
        at_once: Most requests that run at a time; 0 = no limit.
        running: Requests that run.
        cells: Limits of units in a time.
        counts_rows, counts_tokens: One of them is of rows, or of tokens.

    Raises:
        InvalidInput: the rules are wrong.
    """

    __slots__ = (
        "_full", "_reached", "_units", "at_once", "cells", "counts_rows", "counts_tokens", "holder", "rules",
        "running",
    )  # fmt: skip

    def __init__(self, rules: LimitRules, holder: Holder = "key") -> None:
        if rules == LimitRules():
            raise InvalidInput(
                "limits that limit nothing", field="limits", fix="Give requests, rows, tokens or at_once."
            )
        if rules.quotas and holder != "key":
            raise InvalidInput(f"a {holder} has no quotas", field="limits", fix="Give them to its keys.")
        parse_quotas(rules.quotas)
        self.rules = rules
        self.holder: Holder = holder
        texts = {unit: text for unit in _UNITS if (text := getattr(rules, unit))}
        rates = {unit: parse_rate(text, unit) for unit, text in texts.items()}
        self._units = tuple(texts)
        self.cells = tuple(Cell(rate, has_units=unit == "rows") for unit, rate in rates.items())
        # Made once, as refusals must cost less than answers (benchmarks/refusals.py); the last is of at_once.
        self._full = [f"this {holder} has its limit of {text} {unit}" for unit, text in texts.items()]
        self._full.append(f"{rules.at_once} requests {_RUN_ALREADY[holder]} run already")
        self._reached = [
            ReachedLimit(f"{holder}-{unit}", rate.burst, rate.window_s, unit) for unit, rate in rates.items()
        ]
        self._reached.append(ReachedLimit(f"{holder}-{_AT_ONCE}", rules.at_once))
        self.counts_rows = bool(rules.rows)
        self.counts_tokens = bool(rules.tokens)
        self.at_once = rules.at_once
        self.running = 0

    def __repr__(self) -> str:
        return f"<Limits of a {self.holder}: {self.rules}, {self.running} running>"

    def wait(self, now: int, rows: int = 1, own: int = 0) -> tuple[int, int]:
        """Return the nanoseconds until a run is accepted, and the place of the limit that says so.

        Args:
            now: Monotonic nanoseconds.
            own: 1 if the run is counted in ``running`` already.

        Returns:
            0 = now; the place is one in ``cells``, or -1 for the requests at once.
        """
        longest, place = 0, -1
        if self.at_once and self.running - own >= self.at_once:
            longest = _SOON
        for index, cell in enumerate(self.cells):
            count = rows if cell.has_units else 1
            wait = _NEVER if count > cell.burst > 0 else cell.wait(now, count)
            if wait > longest:
                longest, place = wait, index
        return longest, place

    def refusal_at(self, wait: int, place: int) -> RateLimited:
        """Return the error for what :meth:`wait` returned."""
        limit = self._reached[place]
        if wait < _NEVER:
            return RateLimited(self._full[place], limit=limit, retry_after=wait / _NS)
        text = f"a request of this {self.holder} has at most {limit.quota} {limit.unit}"
        return RateLimited(text, limit=limit, is_final=True)

    def states(self, now: int) -> Iterator[LimitState]:
        """Return each limit with what is left of it.

        Args:
            now: Monotonic nanoseconds.
        """
        for limit, cell in zip(self._reached, self.cells, strict=False):
            yield LimitState(limit.name, limit.quota, limit.window_s, cell.left(now))
        if most := self.at_once:
            yield LimitState(self._reached[-1].name, most, 0, max(0, most - self.running))

    def take(self, now: int, rows: int = 1) -> None:
        """Charge a run: a request with its rows, and a token, until more are known of."""
        for cell in self.cells:
            cell.take(now, rows if cell.has_units else 1)

    def take_tokens(self, now: int, count: int) -> None:
        """Charge tokens that are known only now, even beyond the limit: later runs wait for it."""
        if self.counts_tokens:
            self.cells[-1].take(now, count)  # the last of the units

    def is_idle(self, now: int) -> bool:
        """Return whether new limits of the same rules would be the same."""
        return not self.running and all(cell.is_full(now) for cell in self.cells)


def refusal(several: Sequence[Limits], now: int, rows: int = 1, own: int = 0) -> RateLimited | None:
    """Return why a run is refused by limits that apply together; None = it is accepted by all.

    The longest wait is told; of equal ones, that of the narrowest holder.

    Args:
        several: The narrowest first.
        now: Monotonic nanoseconds.
        own: 1 if the run is counted in ``running`` already.
    """
    for limits in several:  # most are accepted
        if limits.at_once and limits.running - own >= limits.at_once:
            break
        for cell in limits.cells:
            at = cell.free_at
            count = rows if cell.has_units else 1
            if (at if at > now else now) + cell.period * count - now > cell.burst_ns:
                break
        else:
            continue
        break
    else:
        return None
    return strictest(several, now, rows, own)


def strictest(several: Sequence[Limits], now: int, rows: int = 1, own: int = 0) -> RateLimited | None:
    """Return why a run is refused, as :func:`refusal` does, which is fast where it is accepted."""
    longest, strictest, at = 0, None, -1
    for limits in several:
        wait, place = limits.wait(now, rows, own)
        if wait > longest:
            longest, strictest, at = wait, limits, place
    return None if strictest is None else strictest.refusal_at(longest, at)
