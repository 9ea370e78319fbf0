"""Resources shared by models, and the order in which instances get them (TR-S9).

Resources are named counts with a meaning chosen by the owner. An instance holds what it needs while it runs;
a run that cannot get it waits, and the instance with the fewest runs, weighted by priority, goes first. Pure:
waiting models are woken by a callback. A pool knows names and counts, and no model.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from salver.words.artifacts import RateLimit
from salver.words.errors import LoadFailed

_FREE = RateLimit()


class ResourceTurn:
    """Resource needs and run count of one instance.

    Attributes:
        runs: Number of runs started.
        is_out: It is running.
    """

    __slots__ = ("is_out", "needs", "priority", "runs")

    def __init__(self, limit: RateLimit) -> None:
        self.needs = {name: count for name, count in limit.resources.items() if count}
        self.priority = max(1, limit.priority)
        self.runs = 0
        self.is_out = False

    @property
    def score(self) -> int:
        """Return the sort key, smallest first: priority 2 gets half as many turns as 1."""
        return self.runs * self.priority


class ResourcePool:
    """Pool of resources with their current holders.

    Args:
        limits: Size of each resource; the size of others is the largest need of an instance.

    >>> pool = ResourcePool({"memory": 4})
    >>> one, two = (pool.join([RateLimit(1, {"memory": 3})], 1, lambda: None) for _ in range(2))
    >>> turn = one.enter()
    >>> two.enter() is None
    True
    >>> one.leave(turn)
    >>> two.enter() is None
    False
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._limits = dict(limits)
        self._held: dict[str, int] = {}
        self._members: list[PoolMember] = []
        self._waiting: dict[PoolMember, None] = {}

    def __repr__(self) -> str:
        return f"<Pool {self._held} of {self._limits}, {len(self._waiting)} wait>"

    def join(self, limits: Sequence[RateLimit], slots: int, wake: Callable[[], None]) -> "PoolMember":
        """Add a model's instances.

        Args:
            limits: Needs of consecutive groups of instances; the remaining instances need nothing.
            slots: Number of instances.
            wake: Called when a waiting run may try again.

        Raises:
            LoadFailed: an instance needs more than the pool has.
        """
        for limit in limits:
            for name, count in limit.resources.items():
                if count > self._limits.get(name, count):
                    raise LoadFailed(
                        f'Resource count for "{name}" is limited to {self._limits[name]} which will prevent '
                        f"scheduling of one or more model instances, the minimum required count is {count}",
                        fix=f"Start with --rate-limit-resource={name}:{count}, or let it need less.",
                    )
        each = [limit for limit in limits for _ in range(limit.count)]
        instances = [ResourceTurn(limit) for limit in (each + [_FREE] * slots)[:slots]]
        least = min((turn.score for member in self._members for turn in member.instances), default=0)
        for turn in instances:  # newcomers need not catch up with the runs of others
            turn.runs = least // turn.priority
        turns = PoolMember(self, instances, wake)
        self._members.append(turns)
        return turns

    # Called by members.

    def take(self, member: "PoolMember") -> ResourceTurn | None:
        """Return an instance of the member with all its resources, or None if it must wait."""
        # Those that wait and have had fewer turns come first, even if this one would fit at once.
        rivals = [rival for rival in self._waiting if rival is not member and rival.score <= member.score]
        for turn in sorted((t for t in member.instances if not t.is_out), key=_score):
            if self._fits(turn) and not any(rival.wants(turn.needs) for rival in rivals):
                self._waiting.pop(member, None)
                for name, count in turn.needs.items():
                    self._held[name] = self._held.get(name, 0) + count
                turn.is_out = True
                turn.runs += 1
                return turn
        # Its place in the line stays: the order decides between members with equal scores.
        self._waiting.setdefault(member)
        return None

    def give_back(self, turn: ResourceTurn, member: "PoolMember", wants_more: bool) -> None:
        """Return an instance's resources and wake waiting members, this one included if it wants more."""
        turn.is_out = False
        if wants_more:
            self._waiting.setdefault(member)
        for name, count in turn.needs.items():
            self._held[name] -= count
        # Without needs nothing has become free that anybody could be waiting for.
        if turn.needs:
            self._wake()

    def drop(self, member: "PoolMember") -> None:
        """Remove a member."""
        self._waiting.pop(member, None)
        self._members.remove(member)
        self._wake()

    def _fits(self, turn: ResourceTurn) -> bool:
        return all(self._held.get(name, 0) + count <= self._most(name) for name, count in turn.needs.items())

    def _most(self, name: str) -> int:
        if name in self._limits:
            return self._limits[name]
        return max((t.needs.get(name, 0) for m in self._members for t in m.instances), default=0)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for member in sorted(waiting, key=_score):
            member.wake()


class PoolMember:
    """Instances of one model in a pool."""

    def __init__(
        self, pool: ResourcePool, instances: Sequence[ResourceTurn], wake: Callable[[], None]
    ) -> None:
        self.instances = instances
        self.wake = wake
        self._pool = pool

    @property
    def score(self) -> float:
        """Return the score of the instance that would run next."""
        return min((turn.score for turn in self.instances if not turn.is_out), default=math.inf)

    def wants(self, needs: Mapping[str, int]) -> bool:
        """Return whether an idle instance needs the same resources."""
        return any(not turn.is_out and not turn.needs.keys().isdisjoint(needs) for turn in self.instances)

    def enter(self) -> ResourceTurn | None:
        """Acquire an instance with its resources; None = wait for ``wake``."""
        return self._pool.take(self)

    def leave(self, turn: ResourceTurn, wants_more: bool = False) -> None:
        """Release an instance.

        Args:
            wants_more: Another run waits for the instance.
        """
        self._pool.give_back(turn, self, wants_more)

    def close(self) -> None:
        """Remove an unloaded model from the pool, after its runs have ended."""
        self._pool.drop(self)


def _score(candidate: ResourceTurn | PoolMember) -> float:
    return candidate.score
