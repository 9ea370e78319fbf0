"""Charge of one run to the limits that apply to it.

A run is checked before it is decoded, and charged when its rows are known: by all limits, or by none. Tokens
are charged when they are known, which is after they were made: they count against later runs.
"""

from collections.abc import Callable
from typing import Protocol

from salver.features.access.limits import Limits, refusal
from salver.features.access.ports import Account
from salver.features.access.run_usage import RunUsage
from salver.words.errors import RateLimited, SalverError


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


class RunCharge(RunUsage):
    """Charge of one run, from its beginning to its end.

    Args:
        limits: Those that apply, the narrowest first.
        tenant: Tenant of the run, which its parameters may change.
        ticks: Returns monotonic nanoseconds.

    Attributes:
        is_checked: It was accepted with one row in this turn of the event loop, so that nothing has changed.
    """

    __slots__ = (
        *("_holdings", "_is_decided", "_limits", "_model", "_quotas", "_tenant", "_ticks", "_tokens"),
        *("counts_tokens", "is_checked"),
    )
    has_limits = True

    def __init__(
        self,
        holdings: Holdings,
        limits: tuple[Limits, ...],
        model: str,
        tenant: str,
        ticks: Callable[[], int],
    ) -> None:
        account = holdings.account
        super().__init__(None if account is None else account.meter, model)
        self._holdings = holdings
        self._quotas = None if account is None else account.quotas
        self._limits = limits
        self._model = model
        self._tenant = tenant
        self._ticks = ticks
        self._is_decided = self.is_checked = False
        #: Tokens that are charged; those of the answer are one more with each piece, until they are counted.
        self._tokens = 0
        self.counts_tokens = account is not None
        for each in limits:
            each.running += 1
            self.counts_tokens |= each.counts_tokens

    def weigh(self, rows: int, tenant: str) -> bool:
        """See :class:`~salver.words.messages.Charge`."""
        if tenant != self._tenant:
            self._move(tenant)
        self._rows = rows
        self._is_decided = True
        limits, now = self._limits, 0
        if limits:
            now = self._ticks()
            if rows > 1 or not self.is_checked:
                refused = refusal(limits, now, rows, own=1)
                if refused is not None:
                    raise self._holdings.recorded(refused, self._model)
        if self._quotas is not None:
            try:
                if not self._quotas.take(rows):
                    return False
            except RateLimited as error:
                raise self._holdings.recorded(error, self._model) from None
        for each in limits:
            each.take(now, rows)
        return True

    async def settle(self) -> None:
        """See :class:`~salver.words.messages.Charge`."""
        if self._quotas is not None:
            try:
                await self._quotas.settle(self._rows)
            except RateLimited as error:
                raise self._holdings.recorded(error, self._model) from None
        now = self._ticks()
        for each in self._limits:
            each.take(now, self._rows)

    def add(self, tokens: tuple[int, int] | None) -> None:
        """See :class:`~salver.words.messages.Charge`."""
        super().add(tokens)
        charged = self._tokens
        known = charged + 1 if tokens is None else sum(tokens)
        if known <= charged:
            return
        self._tokens = known
        if self._quotas is not None:
            self._quotas.spend(tokens=known - charged)
        # The first token was charged with the run.
        more = known - max(charged, 1)
        if more > 0 and self._limits:
            now = self._ticks()
            for each in self._limits:
                each.take_tokens(now, more)

    def leave(self, *, has_begun: bool = True) -> None:
        """End the run, once. One that failed before it was weighed counts as a request with one row.

        Args:
            has_begun: Otherwise the run begins in another way, which counts it.
        """
        if self._is_over:
            return
        super().leave(has_begun=has_begun)
        if has_begun and not self._is_decided:
            now = self._ticks()
            for each in self._limits:
                each.take(now)
        for each in self._limits:
            each.running -= 1
        if self._quotas is not None and has_begun:
            self._quotas.spend(requests=0 if self._is_decided else 1, micros=self._micros)

    def _move(self, tenant: str) -> None:
        """Count the run for the tenant that its parameters name."""
        for each in self._limits:
            each.running -= 1
        self._tenant = tenant
        self._limits = self._holdings.limits(self._model, tenant)
        self.is_checked = False
        self.counts_tokens = self._meter is not None
        for each in self._limits:
            each.running += 1
            self.counts_tokens |= each.counts_tokens
