"""Charge of one run to the limits and quotas that apply to it.

It is charged as its plan says (run_plan.py). Tokens are charged when they are known, which is after they were
made: they count against later runs.
"""

from collections.abc import Iterator
from typing import Protocol

from salver.features.access.run_plan import RunPlan
from salver.features.access.run_usage import RunUsage
from salver.words.errors import RateLimited, SalverError
from salver.words.messages import LimitState


class Planner(Protocol):
    """Grant that makes plans (key_table.py)."""

    def plan(self, model: str, tenant: str) -> RunPlan:
        """Return what runs of a model cost for a tenant."""
        ...

    def recorded(self, refusal: SalverError, model: str) -> SalverError:
        """Record a refusal and return it."""
        ...


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
        self.counts_tokens = plan.charges_tokens
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
        if plan.weigh(rows, tenant):
            return True
        plan.take(rows)  # now, as others may pass it while it waits for its quotas
        return False

    async def settle(self) -> None:
        """See :class:`~salver.words.messages.Charge`."""
        plan = self._plan
        if plan.quotas is None:
            return
        try:
            await plan.quotas.settle(self._rows)
        except RateLimited as error:
            raise self._planner.recorded(error, plan.model) from None

    def states(self) -> Iterator[LimitState]:
        """See :class:`~salver.words.messages.Charge`."""
        return self._plan.states()

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
        """End the run, once.

        Args:
            has_begun: Otherwise the run begins in another way, which counts it.
        """
        if self._is_over:
            return
        super().leave(has_begun=has_begun)
        plan = self._plan
        plan.leave(has_begun=has_begun)
        if has_begun and self.has_limits:
            plan.end_late(self._rows, self._timing, is_charged=self._is_decided)

    def _move(self, tenant: str) -> RunPlan:
        """Count the run for the tenant that its parameters name."""
        before, plan = self._plan, self._planner.plan(self._plan.model, tenant)
        for each in before.crowds:
            each.running -= 1
        for each in plan.crowds:
            each.running += 1
        self._plan, self.counts_tokens = plan, plan.charges_tokens
        return plan
