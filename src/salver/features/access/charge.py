"""Charge of one run to the limits that apply to it.

A run is checked before it is decoded, and charged when its rows are known: by all limits, or by none. Tokens
are charged when they are known, which is after they were made: they count against later runs.
"""

from collections.abc import Callable
from typing import Protocol

from salver.features.access.limits import Limits, refusal
from salver.features.access.ports import Account
from salver.words.errors import RateLimited, SalverError
from salver.words.messages import Timing


class Holdings(Protocol):
    """Limits of a grant (key_table.py)."""

    @property
    def account(self) -> Account | None:
        """Account of its key; None = nothing is counted."""
        ...

    def limits(self, model: str, tenant: str) -> tuple[Limits, ...]:
        """Return the limits that apply to a run together, the narrowest first."""
        ...

    def recorded(self, refusal: SalverError, model: str) -> SalverError:
        """Record a refusal and return it."""
        ...


class RunCharge:
    """Charge of one run, from its beginning to its end.

    Args:
        limits: Those that apply, the narrowest first.
        tenant: Tenant of the run, which its parameters may change.
        ticks: Returns monotonic nanoseconds.

    Attributes:
        counts_tokens, received, sent: See :class:`~salver.words.messages.Charge`.
    """

    __slots__ = (
        *("_counted", "_holdings", "_is_decided", "_limits", "_micros", "_model", "_rows", "_served"),
        *("_tenant", "_ticks", "_tokens", "counts_tokens", "received", "sent"),
    )

    def __init__(
        self,
        holdings: Holdings,
        limits: tuple[Limits, ...],
        model: str,
        tenant: str,
        ticks: Callable[[], int],
    ) -> None:
        self._holdings = holdings
        self._limits = limits
        self._model = model
        self._tenant = tenant
        self._ticks = ticks
        self._is_decided = False
        #: Tokens that are charged; those of the answer are one more with each piece, until they are counted.
        self._tokens = 0
        #: Tokens of the prompt and of the answer that the meter has.
        self._counted = (0, 0)
        self._served = model
        self._rows = self._micros = self.received = self.sent = 0
        self.counts_tokens = holdings.account is not None
        for each in limits:
            each.running += 1
            self.counts_tokens |= each.counts_tokens

    def weigh(self, rows: int, tenant: str) -> bool:
        """See :class:`~salver.words.messages.Charge`."""
        if tenant != self._tenant:
            self._move(tenant)
        self._rows = rows
        now = self._ticks() if self._limits else 0
        self._is_decided = True
        refused = refusal(self._limits, now, rows, own=1)
        if refused is not None:
            raise self._holdings.recorded(refused, self._model)
        account = self._holdings.account
        if account is not None and account.quotas is not None:
            try:
                if not account.quotas.take(rows):
                    return False
            except RateLimited as error:
                raise self._holdings.recorded(error, self._model) from None
        for each in self._limits:
            each.take(now, rows)
        return True

    async def settle(self) -> None:
        """See :class:`~salver.words.messages.Charge`."""
        account = self._holdings.account
        if account is None or account.quotas is None:
            return
        try:
            await account.quotas.settle(self._rows)
        except RateLimited as error:
            raise self._holdings.recorded(error, self._model) from None
        now = self._ticks()
        for each in self._limits:
            each.take(now, self._rows)

    def add(self, tokens: tuple[int, int] | None) -> None:
        """See :class:`~salver.words.messages.Charge`."""
        if not self.counts_tokens:
            return
        account = self._holdings.account
        if account is not None and tokens is not None:
            before, self._counted = self._counted, tokens
            account.meter.add_tokens(self._served, tokens[0] - before[0], tokens[1] - before[1])
        charged = self._tokens
        known = charged + 1 if tokens is None else sum(tokens)
        if known <= charged:
            return
        self._tokens = known
        if account is not None and account.quotas is not None:
            account.quotas.spend(tokens=known - charged)
        # The first token was charged with the run.
        more = known - max(charged, 1)
        if more > 0 and self._limits:
            now = self._ticks()
            for each in self._limits:
                each.take_tokens(now, more)

    def end(self, model: str, timing: Timing) -> None:
        """See :class:`~salver.words.messages.Charge`."""
        self._served = model
        if timing.inference:
            share = self._rows / timing.batch_rows if timing.batch_rows > self._rows else 1.0
            self._micros = round(timing.inference * share * 1e6)

    def leave(self, *, has_begun: bool = True) -> None:
        """End the run. One that failed before it was weighed counts as a request with one row.

        Args:
            has_begun: Otherwise the run begins in another way, which counts it.
        """
        if has_begun and not self._is_decided:
            now = self._ticks()
            for each in self._limits:
                each.take(now)
        for each in self._limits:
            each.running -= 1
        account = self._holdings.account
        if account is None or not has_begun:
            return
        account.meter.record(self._served, (self._rows, self.received, self.sent, self._micros))
        if account.quotas is not None:
            account.quotas.spend(requests=0 if self._is_decided else 1, micros=self._micros)

    def _move(self, tenant: str) -> None:
        """Count the run for the tenant that its parameters name."""
        for each in self._limits:
            each.running -= 1
        self._tenant = tenant
        self._limits = self._holdings.limits(self._model, tenant)
        self.counts_tokens = self._holdings.account is not None
        for each in self._limits:
            each.running += 1
            self.counts_tokens |= each.counts_tokens
