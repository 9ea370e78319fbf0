"""Choice of the instance for each attempt of a request, and what is learned from its end.

Pure: instances, policy, ejection and budget of one model. The shell is
:mod:`~salver.features.routing.engine`.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Final, Literal, Protocol

from salver.features.routing.budget import RetryBudget
from salver.features.routing.health import EjectionConfig, failed, succeeded
from salver.features.routing.instances import Instance
from salver.features.routing.levels import level_shares
from salver.features.routing.ports import Policy
from salver.words.messages import ModelId

#: Below this share of available instances, ejections do not count (Envoy's panic threshold).
PANIC: Final = 0.5
#: A failure counts as so many times the last answer's latency: one that is quick must not look fast.
_FAILURE: Final = 10.0
#: How an attempt ended: with an answer; with an error that only says that the instance works; with a
#: failure of the instance; without an answer by the caller's deadline; because the caller had gone.
Outcome = Literal["answered", "refused", "failed", "late", "left"]


class Router:
    """Choice among the instances of one model.

    Args:
        draw: Returns a random number between 0 and 1, for the choice of a level.

    Attributes:
        most: Most requests under way at an instance; 0 = no limit.
        ejected: Instances that were ejected, since the start.
        retries: Attempts after the first ones failed.
        hedges: Attempts beside ones that take long.
        note: What is lacking, for people; empty = nothing is.
    """

    note = ""

    def __init__(
        self,
        instances: Sequence[Instance],
        policy: Policy,
        ejection: EjectionConfig,
        budget: RetryBudget,
        draw: Callable[[], float],
        most: int = 0,
    ) -> None:
        self._draw = draw
        self.most = most
        self.instances = list(instances)
        self.budget = budget
        self.ejected = 0
        self.retries = self.hedges = 0
        self._policy = policy
        self._ejection = ejection

    def __repr__(self) -> str:
        return f"<Router of {len(self.instances)} instances, {self.budget!r}>"

    def choose(self, key: str, tried: Collection[str], now: float, group: str = "") -> Instance | None:
        """Return the instance for an attempt; None = none is left.

        Args:
            tried: URLs that failed in earlier attempts of the request.
            group: Group of which it has to be; empty = any.
        """
        own = self._of(group)
        there = [each for each in own if not (each.is_draining or each.unfit)]
        if any(each.level for each in there):
            there = self._level(there, now)
        fit = [each for each in there if each.is_available(now)]
        if len(fit) < PANIC * len(there):
            fit = there

        def can_take(each: Instance) -> bool:
            return each.url not in tried and (not self.most or each.load.pending < self.most)

        left = list(filter(can_take, fit))
        if not left:
            left = [each for each in own if each.is_available(now) and can_take(each)]
        for each in left:
            # Half-open. By its latency it would not be chosen for a long time.
            if each.is_ejected and each.is_available(now):
                return each
        return self._policy.choose(left, key, now) if left else None

    def is_full(self, group: str = "") -> bool:
        """Return whether an instance would get a request, were there not a limit of those under way."""
        there = (each for each in self._of(group) if not (each.is_draining or each.unfit))
        return any(0 < self.most <= each.load.pending for each in there)

    def _of(self, group: str) -> list[Instance]:
        """Return the instances of a group; all without one."""
        if not group:
            return self.instances
        return [each for each in self.instances if each.group == group]

    def _level(self, there: Sequence[Instance], now: float) -> list[Instance]:
        """Return the instances of the level that is drawn."""
        levels = sorted({each.level for each in there})
        of = [[each for each in there if each.level == level] for level in levels]
        shares = level_shares([(sum(each.is_available(now) for each in some), len(some)) for some in of])
        drawn = self._draw()
        for some, share in zip(of, shares, strict=True):
            drawn -= share
            if drawn < 0:
                return some
        return of[0]

    def begin(self, instance: Instance) -> int:
        """Record the beginning of an attempt; return how many are under way there with it."""
        instance.load.pending += 1
        return instance.load.pending

    def end(self, instance: Instance, outcome: Outcome, seconds: float, under_way: int, now: float) -> None:
        """Record the end of an attempt.

        Args:
            seconds: How long it took.
            under_way: What :meth:`begin` returned.
        """
        load = instance.load
        load.pending -= 1
        if outcome == "failed":
            load.failed += 1
            self._policy.answered(instance, max(seconds, _FAILURE * load.answer_s), under_way, now)
            self.ejected += failed(instance, self.instances, self._ejection, now)
        elif outcome == "late":
            self._policy.answered(instance, seconds, under_way, now)
        elif outcome != "left":
            load.answered += 1
            was_ejected = instance.is_ejected
            succeeded(instance, now)
            if was_ejected and not instance.is_ejected:
                load.latency = 0.0  # of the time in which it failed
                instance.joined_at = now
            if outcome == "answered":
                load.answer_s = seconds
                self._policy.answered(instance, seconds, under_way, now)


class Routed(Protocol):
    """Model with instances, as it is shown.

    Attributes:
        policy: Name of its balancing policy.
        router: Chooses among its instances.
    """

    id: ModelId
    policy: str
    router: Router
