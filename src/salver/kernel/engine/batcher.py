"""When does a queue become a batch, and of whom?

A bounded queue of :class:`~salver.kernel.engine.waiting.Waiting` requests, a rule that says how large the
next
batch is (``rules.py``) and lanes that say who is in it (``lanes.py``). Pure: the time is an argument,
nothing is awaited, the payload is never looked at. The shell that drives it is ``engine.py``; the
simulator drives the very same object.

Three services: *urgent* requests go at once, in batches of their own; *normal* ones as the rule says;
*bulk* when nobody else waits and an instance can be spared. Requests share a batch only if their ``key``
(datatypes and shapes but for axis 0) is equal. Within a lane a batch holds requests in the order in which
they came, and no request overtakes an earlier one of the same sender, also when they differ in key.
"""

import math
from collections.abc import Callable, Iterator

from salver.kernel.engine.lanes import DelayingLane, Filling, Lane, RoundRobin, Strict, newest
from salver.kernel.engine.refusals import full, so_many
from salver.kernel.engine.rules import Rule, Window
from salver.kernel.engine.waiting import BULK, URGENT, Batch, Waiting
from salver.words.artifacts import Batching, Fairness, ModelConfig, Queue
from salver.words.errors import Refusal

_UNBOUNDED = float("inf")
_URGENT, _NORMAL, _BULK = 0, 1, 2  # parts of the queue
_DEFAULT = ModelConfig()
_NO_QUEUE = Queue()


class Batcher:
    """The queue and the rule of one model version.

    Args:
        config: Batching, priorities, queue policies and fairness.
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
        self._normal, self._by_level, self._before = _priorities(config)
        self._queue = config.queue
        self._bulk = _tenants(config.fairness)
        self._parts = (self._urgent, self._normal, self._bulk)
        self._depths = [0, 0, 0]  # of the parts; and their rows
        self._rows = [0, 0, 0]
        self._usual: Lane | None = None  # where requests go that name no tenant and no level
        self._fair = config.fairness.enabled
        self._given_up: list[Waiting] = []
        self.depth = 0  # requests that wait
        self.max_queue = policy.max_queue
        self._most_rows = policy.max_queue_rows or math.inf
        self.bound: Refusal = "queue_full"  # what set ``max_queue``: the owner, or the adaptive limit

    def __repr__(self) -> str:
        return f"<Batcher {self.depth} queued, {self.rows_waiting} rows>"

    def __iter__(self) -> Iterator[Waiting]:
        """Those that wait; of each lane the oldest first."""
        for part in self._parts:
            for lane in part.lanes():
                yield from lane

    @property
    def rows_waiting(self) -> int:
        """Rows of all that wait."""
        return sum(self._rows)

    # What a rule sees: the normal service (rules.Line).

    @property
    def rows(self) -> int:
        """Rows of the normal service that wait."""
        return self._rows[_NORMAL]

    def head(self) -> Waiting | None:
        """See :class:`~salver.kernel.engine.rules.Line`."""
        return self._normal.head()

    def newest(self) -> Iterator[Waiting]:
        """See :class:`~salver.kernel.engine.rules.Line`."""
        return newest(self._normal)

    def give_up(self, waiting: Waiting) -> None:
        """See :class:`~salver.kernel.engine.rules.Line`."""
        self._remove(waiting)
        self._given_up.append(waiting)

    # What the engine and the simulator do.

    def ahead(self, waiting: Waiting) -> float:
        """Rows that are likely to go before a request that comes now.

        Those of its tenant and of higher levels, and of others what fairness lets pass; estimated from
        requests of average size.
        """
        level = waiting.level
        part = _part(waiting)
        first = sum(self._rows[:part])
        if not self._depths[part]:
            return first
        tenant = waiting.tenant if self._fair else ""
        if part == _NORMAL:
            before = self._before(level, tenant)
        else:
            before = (self._bulk if part else self._urgent).before(tenant)
        return first + before * self._rows[part] / self._depths[part]

    def offer(self, waiting: Waiting) -> Waiting | None:
        """Join the queue.

        Returns:
            Who had to make room in a full queue: the latest of a lower level, or of the tenant with the
            longest queue.

        Raises:
            Overloaded: it is full, and there is nobody to make room, or as many wait at its level as may;
                nothing was changed.
        """
        evicted = None
        level = waiting.level
        urgent, normal, bulk = self._rows
        waiting.ahead = urgent + normal + bulk if level == BULK else urgent + normal
        lane = self._usual
        if lane is None or not lane.is_linked or waiting.tenant or level != 1 or self._levels > 1:
            lane = self._lane(waiting)
        if self._queue is not None and URGENT < level < BULK:
            most = self._queue.of(waiting.level).max_size
            if most and self._by_level(waiting.level).depth >= most:
                raise full()
        if self.depth and urgent + normal + bulk + waiting.rows > self._most_rows:
            raise full(so_many(self.depth))
        if self.depth >= self.max_queue:
            evicted = self._evict(waiting, lane)
        lane.add(waiting)
        part = _NORMAL if URGENT < level < BULK else _BULK if level else _URGENT
        self.depth += 1
        self._depths[part] += 1
        self._rows[part] += waiting.rows
        if part == _NORMAL:
            self._rule.arrived(waiting.rows, waiting.arrived)
        return evicted

    def discard(self, waiting: Waiting) -> bool:
        """Give up one that still waits; False if it had already left the queue."""
        if not waiting.is_live:
            return False
        self._remove(waiting)
        return True

    def due(self, now: float, spare: bool = True) -> float | None:
        """When a batch may be taken: a time not after ``now`` means at once; None = nobody to serve.

        Args:
            spare: An idle instance can be spared for bulk work.
        """
        urgent, normal, bulk = self._depths
        if urgent:
            return now
        if normal:
            return self._rule.due(self, now)
        return now if bulk and spare else None

    def take(self, now: float, spare: bool = True) -> Batch:
        """The next batch (possibly empty, when all that waited has expired or was given up)."""
        batch = Filling(now, self._largest)
        urgent, normal, bulk = self._depths
        reason = "urgent"
        if urgent:
            self._urgent.fill(batch, _UNBOUNDED)
            self._took(batch, _URGENT)
        if normal and not batch.members:
            batch.limit, reason, batch.from_newest = self._rule.choose(self, now)
            if batch.limit:
                self._normal.fill(batch, _UNBOUNDED)
                self._took(batch, _NORMAL)
                if batch.from_newest:
                    batch.members.sort(key=_arrival)
            if batch.rows >= self._largest:
                reason = "full"
        elif bulk and spare and not batch.members:
            reason = "bulk"
            batch.limit = max(1, self._bulk_rows())
            self._bulk.fill(batch, _UNBOUNDED)
            self._took(batch, _BULK)
        given_up = self._given_up
        if given_up:
            self._given_up = []
        return Batch(batch.members, batch.rows, reason, batch.expired, given_up)

    def ran(self, rows: int, seconds: float, now: float) -> None:
        """A run has ended; the rule may learn from it."""
        self._rule.ran(rows, seconds, now)

    # -- inside --------------------------------------------------------------------------------

    def _took(self, batch: Filling, part: int) -> None:
        gone = len(batch.members)
        rows = batch.rows
        for waiting in batch.expired:
            if _part(waiting) == part:
                gone += 1
                rows += waiting.rows
        self.depth -= gone
        self._depths[part] -= gone
        self._rows[part] -= rows

    def _remove(self, waiting: Waiting) -> None:
        waiting.lane.remove(waiting)
        part = _part(waiting)
        self.depth -= 1
        self._depths[part] -= 1
        self._rows[part] -= waiting.rows

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
        if self._levels == 1 and level == 1 and not (waiting.tenant and self._fair):
            self._usual = lane
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
            raise full(so_many(self.depth), self.bound)
        evicted = next(longest.newest())
        self._remove(evicted)
        return evicted


def _arrival(waiting: Waiting) -> float:
    return waiting.arrived


def _part(waiting: Waiting) -> int:
    level = waiting.level
    return _NORMAL if URGENT < level < BULK else _BULK if level else _URGENT


def _tenants(fairness: Fairness, lane: Callable[[], Lane] = Lane) -> RoundRobin:
    """Lanes of tenants that share."""
    weights = fairness.weights
    return RoundRobin(lambda name: lane(), lambda name: weights.get(str(name), 1.0), fairness.max_tenants)


_Before = Callable[[int, str], float]


def _priorities(config: ModelConfig) -> tuple[RoundRobin | Strict, Callable[[int], RoundRobin], _Before]:
    """The tree of the normal service, its part for a level, and who goes before a level's tenant."""
    priorities, queue = config.priorities, config.queue or _NO_QUEUE
    levels = {
        level: _tenants(config.fairness, DelayingLane if queue.of(level).timeout_action == "delay" else Lane)
        for level in range(1, priorities.levels + 1)
    }
    if priorities.levels == 1:
        only = levels[1]
        return only, lambda level: only, lambda level, tenant: only.before(tenant)
    if priorities.mode == "strict":
        strict = Strict(priorities.max_passes)
        for level in levels.values():
            strict.add_level(level)
        return strict, levels.__getitem__, strict.before
    weights = priorities.weights or tuple(2.0**-n for n in range(priorities.levels))
    shared = RoundRobin(lambda level: levels[int(str(level))], lambda level: weights[int(str(level)) - 1])

    def of(level: int) -> RoundRobin:
        shared.child(level)  # back into the round, if it was empty
        return levels[level]

    return shared, of, lambda level, tenant: shared.before(level, levels[level].before(tenant))
