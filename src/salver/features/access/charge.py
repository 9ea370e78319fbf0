"""Charge of one run to the limits that apply to it.

A run is checked before it is decoded, and charged when its rows are known: by all limits, or by none. Tokens
are charged when they are known, which is after they were made: they count against later runs.
"""

from collections.abc import Callable
from typing import Protocol

from salver.features.access.limits import Limits, refusal
from salver.words.errors import SalverError


class Holdings(Protocol):
    """Limits of a grant (key_table.py)."""

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
        counts_tokens: One of the limits is of tokens.
    """

    __slots__ = (
        "_holdings",
        "_is_decided",
        "_limits",
        "_model",
        "_tenant",
        "_ticks",
        "_tokens",
        "counts_tokens",
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
        self.counts_tokens = False
        for each in limits:
            each.running += 1
            self.counts_tokens |= each.counts_tokens

    def weigh(self, rows: int, tenant: str) -> None:
        """See :class:`~salver.words.messages.Charge`."""
        if tenant != self._tenant:
            self._move(tenant)
        now = self._ticks()
        self._is_decided = True
        refused = refusal(self._limits, now, rows, own=1)
        if refused is not None:
            raise self._holdings.recorded(refused, self._model)
        for each in self._limits:
            each.take(now, rows)

    def add(self, tokens: tuple[int, int] | None) -> None:
        """See :class:`~salver.words.messages.Charge`."""
        if not self.counts_tokens:
            return
        known = self._tokens + 1 if tokens is None else sum(tokens)
        # The first token was charged with the run.
        more = known - max(self._tokens, 1)
        self._tokens = max(known, self._tokens)
        if more > 0:
            now = self._ticks()
            for each in self._limits:
                each.take_tokens(now, more)

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

    def _move(self, tenant: str) -> None:
        """Count the run for the tenant that its parameters name."""
        for each in self._limits:
            each.running -= 1
        self._tenant = tenant
        self._limits = self._holdings.limits(self._model, tenant)
        self.counts_tokens = False
        for each in self._limits:
            each.running += 1
            self.counts_tokens |= each.counts_tokens
