"""Charge of one run to the limits and quotas that apply to it.

A run is checked before it is decoded, and charged when its rows are known: by all limits, or by none; at
once where nothing depends on them. Tokens are charged when they are known, which is after they were made:
they count against later runs. What each request runs through is written for speed (benchmarks/prices.py).
"""

from collections.abc import Callable
from typing import Protocol

from salver.features.access.limits import Limits, refusal
from salver.features.access.ports import Account, compute_seconds
from salver.features.access.run_usage import RunUsage
from salver.words.errors import RateLimited, SalverError


class Planner(Protocol):
    """Grant that makes plans (key_table.py)."""

    def plan(self, model: str, tenant: str) -> "RunPlan":
        """Return what runs of a model cost for a tenant."""
        ...

    def recorded(self, refusal: SalverError, model: str) -> SalverError:
        """Record a refusal and return it."""
        ...


class RunPlan:
    """Limits and quotas of the runs of one grant for one model.

    Args:
        generation: See :class:`~salver.features.access.limit_book.LimitBook`.
        ticks: Returns monotonic nanoseconds.
        has_tenant: The tenant cannot change when the request's parameters are known.

    Attributes:
        is_free: There are none.
        is_early: Runs are charged before they are decoded.
        meter: Meter of the caller; None = nothing is counted.
        counts_tokens: Tokens of answers are counted.
    """

    __slots__ = (
        "counts_tokens", "generation", "is_early", "is_free", "limits", "meter", "model", "quotas", "tenant",
        "ticks",
    )  # fmt: skip

    def __init__(
        self,
        model: str,
        tenant: str,
        limits: tuple[Limits, ...],
        generation: int,
        account: Account | None,
        ticks: Callable[[], int],
        *,
        has_tenant: bool,
    ) -> None:
        self.model = model
        self.tenant = tenant
        self.limits = limits
        self.generation = generation
        self.ticks = ticks
        self.meter = None if account is None else account.meter
        self.quotas = None if account is None else account.quotas
        self.is_free = not limits and self.quotas is None and has_tenant
        self.is_early = has_tenant and self.quotas is None and not any(each.counts_rows for each in limits)
        self.counts_tokens = account is not None or any(each.counts_tokens for each in limits)

    def begin(self) -> RateLimited | None:
        """Count a run that begins, and is charged later; return why it is refused; None = it is accepted."""
        if (refused := refusal(self.limits, self.ticks())) is not None:
            return refused
        if self.quotas is not None and (refused := self.quotas.refusal(is_trial=False)) is not None:
            return refused
        for each in self.limits:
            each.running += 1
        return None


class RunCharge(RunUsage):
    """Charge of one run, from its beginning to its end.

    Args:
        plan: It has counted the run already.
    """

    __slots__ = ("_is_decided", "_plan", "_planner", "_spent", "_tokens", "counts_tokens", "has_limits")

    def __init__(self, planner: Planner, plan: RunPlan) -> None:
        super().__init__(plan.meter, plan.model)
        self._planner = planner
        self._plan = plan
        self._is_decided = plan.is_early
        self.has_limits = not plan.is_early
        self.counts_tokens = plan.counts_tokens
        #: Tokens that are charged; those of the answer are one more with each piece, until they are counted.
        self._tokens = self._spent = 0

    def weigh(self, rows: int, tenant: str) -> bool:
        """See :class:`~salver.words.messages.Charge`."""
        plan = self._plan
        if plan.is_early:
            return True
        self._rows = rows
        if tenant != plan.tenant:
            plan = self._move(tenant)
        self._is_decided = True
        now = plan.ticks()
        refused = refusal(plan.limits, now, rows, own=1)
        if refused is not None:
            raise self._planner.recorded(refused, plan.model)
        is_settled = True
        if plan.quotas is not None:
            try:
                is_settled = plan.quotas.take(rows)
            except RateLimited as error:
                raise self._planner.recorded(error, plan.model) from None
        # Also of a run that waits for its quotas, as others may pass it.
        for each in plan.limits:
            each.take(now, rows)
        return is_settled

    async def settle(self) -> None:
        """See :class:`~salver.words.messages.Charge`."""
        plan = self._plan
        if plan.quotas is None:
            return
        try:
            await plan.quotas.settle(self._rows)
        except RateLimited as error:
            raise self._planner.recorded(error, plan.model) from None

    def add(self, tokens: tuple[int, int] | None) -> None:
        """See :class:`~salver.words.messages.Charge`."""
        super().add(tokens)
        plan, charged = self._plan, self._tokens
        known = charged + 1 if tokens is None else sum(tokens)
        # An answer that nobody counts has a token with each piece after the first.
        spent = known if tokens is not None else charged
        if plan.quotas is not None and spent > self._spent:
            plan.quotas.spend(tokens=spent - self._spent)
            self._spent = spent
        if known <= charged:
            return
        self._tokens = known
        # The first token was charged with the run.
        more = known - max(charged, 1)
        if more > 0 and plan.limits:
            now = plan.ticks()
            for each in plan.limits:
                each.take_tokens(now, more)

    def leave(self, *, has_begun: bool = True) -> None:
        """End the run, once. One that failed before it was weighed counts as a request with one row.

        Args:
            has_begun: Otherwise the run begins in another way, which counts it.
        """
        if self._is_over:
            return
        self._is_over = True
        plan = self._plan
        if has_begun and plan.meter is not None:
            plan.meter.record(self._served, (self._rows, self.received, self.sent, self._timing))
        for each in plan.limits:
            each.running -= 1
        if not has_begun:
            if plan.is_early:
                for each in plan.limits:
                    each.undo()
            return
        if not self._is_decided:
            now = plan.ticks()
            for each in plan.limits:
                each.take(now)
        if plan.quotas is not None:
            micros = round(compute_seconds(self._timing, self._rows) * 1e6)
            plan.quotas.spend(requests=0 if self._is_decided else 1, micros=micros)

    def _move(self, tenant: str) -> RunPlan:
        """Count the run for the tenant that its parameters name."""
        before, plan = self._plan, self._planner.plan(self._plan.model, tenant)
        for each in before.limits:
            each.running -= 1
        for each in plan.limits:
            each.running += 1
        self._plan, self.counts_tokens = plan, plan.counts_tokens
        return plan
