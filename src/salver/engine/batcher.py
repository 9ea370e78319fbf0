"""When does a queue become a batch, and of whom?

A bounded queue of :class:`~salver.engine.waiting.Waiting` requests, a rule that says how large the next
batch is (``rules.py``) and lanes that say who is in it (``lanes.py``). Pure: the time is an argument,
nothing is awaited, the payload is never looked at. The shell that drives it is ``engine.py``; the
simulator drives the very same object.

Three services: *urgent* requests go at once, in batches of their own; *normal* ones as the rule says;
*bulk* when nobody else waits and an instance can be spared. Requests share a batch only if their ``key``
(datatypes and shapes but for axis 0) is equal. Within a lane a batch holds requests in the order in which
they came, and no request overtakes an earlier one of the same sender, also when they differ in key.
"""

from collections.abc import Callable, Hashable, Iterator

from salver.artifacts import Batching, Fairness, ModelConfig, Priorities
from salver.engine.lanes import Filling, Flow, Lane, RoundRobin, Strict, newest
from salver.engine.rules import Rule, Window
from salver.engine.waiting import BULK, URGENT, Batch, Waiting
from salver.errors import Overloaded

_UNBOUNDED = float("inf")
_DEFAULT = ModelConfig()


class Batcher:
    """The queue and the rule of one model version.

    Args:
        config: Batching, priorities and fairness.
        rule: None = the one of ``(max_rows, max_delay_ms)``.
        bulk_rows: Most rows of a bulk batch, asked each time; None = ``max_rows``.
    """

    def __init__(
        self,
        config: ModelConfig | Batching = _DEFAULT,
        rule: Rule | None = None,
        bulk_rows: Callable[[], int] | None = None,
    ) -> None:
        if isinstance(config, Batching):
            config = ModelConfig(batching=config)
        policy = config.batching
        self._largest = policy.max_rows if policy.enabled else 1
        self._rule = rule or Window(policy)
        self._bulk_rows = bulk_rows or (lambda: self._largest)
        self._levels = config.priorities.levels
        self._urgent = _tenants(config.fairness)
        self._normal, self._by_level = _priorities(config.priorities, config.fairness)
        self._bulk = _tenants(config.fairness)
        self._parts = (self._urgent, self._normal, self._bulk)
        self._fair = config.fairness.enabled
        self._given_up: list[Waiting] = []
        self.max_queue = policy.max_queue

    def __repr__(self) -> str:
        return f"<Batcher {self.depth} queued, {self.rows_waiting} rows>"

    def __iter__(self) -> Iterator[Waiting]:
        """Those that wait; of each lane the oldest first."""
        for part in self._parts:
            for lane in part.lanes():
                yield from (w for w in lane.queue if w.is_live)

    @property
    def depth(self) -> int:
        """Requests that wait."""
        return self._urgent.depth + self._normal.depth + self._bulk.depth

    @property
    def rows_waiting(self) -> int:
        """Their rows."""
        return self._urgent.rows + self._normal.rows + self._bulk.rows

    # What a rule sees: the normal service (rules.Line).

    @property
    def rows(self) -> int:
        """Rows of the normal service that wait."""
        return self._normal.rows

    def head(self) -> Waiting | None:
        """See :class:`~salver.engine.rules.Line`."""
        return self._normal.head()

    def newest(self) -> Iterator[Waiting]:
        """See :class:`~salver.engine.rules.Line`."""
        return newest(self._normal)

    def give_up(self, waiting: Waiting) -> None:
        """See :class:`~salver.engine.rules.Line`."""
        waiting.lane.remove(waiting)
        self._given_up.append(waiting)

    # What the engine and the simulator do.

    def ahead(self, level: int) -> int:
        """Rows that wait and go before a request that comes now at that level."""
        if level == URGENT:
            return self._urgent.rows
        return self._urgent.rows + self._normal.rows + (self._bulk.rows if level == BULK else 0)

    def offer(self, waiting: Waiting) -> Waiting | None:
        """Join the queue.

        Returns:
            Who had to make room in a full queue: the latest of a lower level, or of the tenant with the
            longest queue.

        Raises:
            Overloaded: it is full, and there is nobody to make room; nothing was changed.
        """
        evicted = None
        lane = self._lane(waiting)
        waiting.ahead = self.ahead(waiting.level)
        if self._urgent.depth + self._normal.depth + self._bulk.depth >= self.max_queue:
            evicted = self._evict(waiting, lane)
        lane.add(waiting)
        if URGENT < waiting.level < BULK:
            self._rule.arrived(waiting.rows, waiting.arrived)
        return evicted

    def discard(self, waiting: Waiting) -> bool:
        """Give up one that still waits; False if it had already left the queue."""
        if not waiting.is_live:
            return False
        waiting.lane.remove(waiting)
        return True

    def due(self, now: float, spare: bool = True) -> float | None:
        """When a batch may be taken: a time not after ``now`` means at once; None = nobody to serve.

        Args:
            spare: An idle instance can be spared for bulk work.
        """
        if self._urgent.depth:
            return now
        if self._normal.depth:
            return self._rule.due(self, now)
        return now if self._bulk.depth and spare else None

    def take(self, now: float, spare: bool = True) -> Batch:
        """The next batch (possibly empty, when all that waited has expired or was given up)."""
        batch = Filling(now, self._largest)
        reason = "urgent"
        if self._urgent.depth:
            self._urgent.fill(batch, _UNBOUNDED)
        if not batch.members and self._normal.depth:
            batch.limit, reason, batch.from_newest = self._rule.choose(self, now)
            if batch.limit:
                self._normal.fill(batch, _UNBOUNDED)
                if batch.from_newest:
                    batch.members.sort(key=_arrival)
        elif not batch.members and self._bulk.depth and spare:
            reason = "bulk"
            batch.limit = max(1, self._bulk_rows())
            self._bulk.fill(batch, _UNBOUNDED)
        given_up = self._given_up
        if given_up:
            self._given_up = []
        if batch.rows >= self._largest and reason not in ("urgent", "bulk"):
            reason = "full"
        return Batch(batch.members, batch.rows, reason, batch.expired, given_up)

    def ran(self, rows: int, seconds: float, now: float) -> None:
        """A run has ended; the rule may learn from it."""
        self._rule.ran(rows, seconds, now)

    # -- inside --------------------------------------------------------------------------------

    def _lane(self, waiting: Waiting) -> Lane:
        level = waiting.level
        if level == URGENT:
            flow: RoundRobin = self._urgent
        elif level == BULK:
            flow = self._bulk
        else:
            waiting.level = level = min(max(level, 1), self._levels)
            flow = self._by_level(level)
        lane = flow.child(waiting.tenant if self._fair else "")
        assert isinstance(lane, Lane)
        return lane

    def _evict(self, waiting: Waiting, lane: Lane) -> Waiting:
        """Room for one: from the lowest level that waits, of the longest lane there."""
        victims: list[Lane] = []
        lowest = -1
        for part in self._parts:
            for other in part.lanes():
                level = next(w for w in other.newest()).level
                if level > lowest:
                    victims, lowest = [], level
                if level == lowest:
                    victims.append(other)
        longest = max(victims, key=lambda other: other.depth)
        if lowest < waiting.level or (lowest == waiting.level and longest.depth <= lane.depth + 1):
            raise Overloaded(
                "Exceeds maximum queue size", fix=f"{self.depth} requests are waiting; retry later."
            )
        evicted = next(longest.newest())
        longest.remove(evicted)
        return evicted


def _arrival(waiting: Waiting) -> float:
    return waiting.arrived


def _tenants(fairness: Fairness, above: "tuple[RoundRobin | Strict, ...]" = ()) -> RoundRobin:
    """Lanes of tenants that share."""

    def make(name: Hashable) -> Flow:
        return Lane((root, *above))

    root = RoundRobin(make, lambda name: fairness.weights.get(str(name), 1.0), fairness.max_tenants)
    return root


def _priorities(
    priorities: Priorities, fairness: Fairness
) -> tuple[RoundRobin | Strict, Callable[[int], RoundRobin]]:
    """The tree of the normal service, and its part for a level."""
    if priorities.levels == 1:
        only = _tenants(fairness)
        return only, lambda level: only
    levels: dict[int, RoundRobin] = {}
    if priorities.mode == "strict":
        root: RoundRobin | Strict = (strict := Strict(priorities.max_passes))
        for level in range(1, priorities.levels + 1):
            levels[level] = _tenants(fairness, (root,))
            strict.add_level(levels[level])
        return root, levels.__getitem__
    weights = priorities.weights or tuple(2.0**-n for n in range(priorities.levels))
    shared = RoundRobin(lambda level: levels[int(str(level))], lambda level: weights[int(str(level)) - 1])
    for level in range(1, priorities.levels + 1):
        levels[level] = _tenants(fairness, (shared,))

    def of(level: int) -> RoundRobin:
        shared.child(level)  # back into the round, if it was empty
        return levels[level]

    return shared, of
