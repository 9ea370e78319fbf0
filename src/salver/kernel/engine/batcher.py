"""Request queue of a model version and the formation of batches.

A bounded queue of :class:`~salver.kernel.engine.waiting.QueuedRequest` requests, a rule that chooses the size
of the next batch (``rules.py``) and lanes that choose its members (``lanes.py``). Pure: the time is an
argument, nothing is awaited, the payload is never read. ``engine.py`` is the shell around it; the simulator
drives the same object.

Three services: *urgent* requests run immediately, in batches of their own; *normal* ones as the rule decides;
*bulk* when nothing else waits and an instance can be spared. Requests share a batch only if their ``key``
(datatypes, and shapes without axis 0) is equal. Within a lane a batch holds requests in order of arrival, and
no request overtakes an earlier one of the same sender, even if their keys differ.
"""

import math
from collections.abc import Callable, Iterator

from salver.kernel.engine.lanes import BatchBuilder, DelayingLane, Lane, RoundRobin, Strict, newest
from salver.kernel.engine.refusals import full, so_many
from salver.kernel.engine.rules import Rule, Window
from salver.kernel.engine.waiting import BULK, URGENT, Batch, QueuedRequest
from salver.words.artifacts import Batching, Fairness, ModelConfig, Queue
from salver.words.errors import Refusal

_UNBOUNDED = float("inf")
_DEFAULT = ModelConfig()
_NO_QUEUE = Queue()


class _Part:
    """Requests of one service in the queue.

    Args:
        flow: Their lanes.
        of_level: Returns the lanes of a level.
        before: Counts the requests that are likely to run before one of a level and a tenant.

    Attributes:
        depth: Number of requests.
        rows: Number of their rows.
    """

    __slots__ = ("before", "depth", "flow", "of_level", "rows")

    def __init__(
        self,
        flow: RoundRobin | Strict,
        of_level: Callable[[int], RoundRobin],
        before: Callable[[int, str], float],
    ) -> None:
        self.flow = flow
        self.of_level = of_level
        self.before = before
        self.depth = self.rows = 0


class Batcher:
    """Queue and batching rule of one model version.

    Args:
        config: Batching, priorities, queue policies and fairness.
        rule: Batching rule; None = a window of ``(max_rows, max_delay_ms)``.
        bulk_rows: Returns the maximum rows of a bulk batch, called each time; None = ``max_rows``.

    Attributes:
        most_rows: Maximum rows of a batch now; a larger request is a batch of its own.
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
        self._largest = self.most_rows = policy.largest_run
        self._rule = rule or Window(policy)
        self._bulk_rows = bulk_rows or (lambda: self._largest)
        self._levels = config.priorities.levels
        self._urgent = _one_level(_tenants(config.fairness))
        self._normal = _priorities(config)
        self._bulk = _one_level(_tenants(config.fairness))
        self._queue = config.queue
        self._usual: Lane | None = None  # lane of requests without tenant and level
        self._fair = config.fairness.enabled
        self._given_up: list[QueuedRequest] = []
        self.depth = 0  # number of waiting requests
        self.max_queue = policy.max_queue
        self._most_rows = policy.max_queue_rows or math.inf
        self.bound: Refusal = "queue_full"  # source of ``max_queue``: configuration or adaptive limit

    def __repr__(self) -> str:
        return f"<Batcher {self.depth} queued, {self.rows_waiting} rows>"

    def __iter__(self) -> Iterator[QueuedRequest]:
        """Iterate over waiting requests, the oldest of each lane first."""
        for part in (self._urgent, self._normal, self._bulk):
            for lane in part.flow.lanes():
                yield from lane

    @property
    def rows_waiting(self) -> int:
        """Return the rows of all waiting requests."""
        return self._urgent.rows + self._normal.rows + self._bulk.rows

    # What a rule sees: the normal service (rules.Line).

    @property
    def rows(self) -> int:
        """Return the waiting rows of the normal service."""
        return self._normal.rows

    def head(self) -> QueuedRequest | None:
        """See :class:`~salver.kernel.engine.rules.QueueView`."""
        return self._normal.flow.head()

    def newest(self) -> Iterator[QueuedRequest]:
        """See :class:`~salver.kernel.engine.rules.QueueView`."""
        return newest(self._normal.flow)

    def give_up(self, waiting: QueuedRequest) -> None:
        """See :class:`~salver.kernel.engine.rules.QueueView`."""
        self._remove(waiting)
        self._given_up.append(waiting)

    # Called by the engine and the simulator.

    def ahead(self, waiting: QueuedRequest) -> float:
        """Return the rows that are likely to run before a request that arrives now.

        These are the rows of its tenant and of higher levels, and those of others that fairness lets pass,
        estimated from requests of average size.
        """
        part = self._part(waiting)
        first = 0
        if part is not self._urgent:
            first = self._urgent.rows if part is self._normal else self._urgent.rows + self._normal.rows
        if not part.depth:
            return first
        tenant = waiting.tenant if self._fair else ""
        # The lanes count requests; scale them by the average rows of a waiting request.
        before = part.before(waiting.level, tenant)
        return first + before * part.rows / part.depth

    def offer(self, waiting: QueuedRequest) -> QueuedRequest | None:
        """Add a request to the queue.

        Returns:
            The request evicted from a full queue: the latest of a lower level or of the tenant with the
                longest queue.

        Raises:
            Overloaded: the queue is full and no request can be evicted, or its level is full; nothing was
                changed.
        """
        evicted = None
        level = waiting.level
        waiting.ahead = rows = self._urgent.rows + self._normal.rows
        rows += self._bulk.rows
        if level == BULK:
            waiting.ahead = rows
        lane = self._usual
        # An empty lane may have left the round robin, which unlinks it.
        if lane is None or not lane.is_linked or waiting.tenant or level != 1 or self._levels > 1:
            lane = self._lane(waiting)
        if self._queue is not None and URGENT < level < BULK:
            most = self._queue.of(waiting.level).max_size
            if most and self._normal.of_level(waiting.level).depth >= most:
                raise full()
        # An empty queue accepts a request of any size.
        if self.depth and rows + waiting.rows > self._most_rows:
            raise full(so_many(self.depth))
        if self.depth >= self.max_queue:
            evicted = self._evict(waiting, lane)
        lane.add(waiting)
        part = self._part(waiting)
        self.depth += 1
        part.depth += 1
        part.rows += waiting.rows
        if part is self._normal:
            self._rule.arrived(waiting.rows, waiting.arrived)
        return evicted

    def discard(self, waiting: QueuedRequest) -> bool:
        """Remove a waiting request; return False if it had already left the queue."""
        if not waiting.is_live:
            return False
        self._remove(waiting)
        return True

    def due(self, now: float, spare: bool = True) -> float | None:
        """Return when a batch may be taken (a time up to ``now`` = immediately), or None if nothing waits.

        Args:
            spare: An idle instance can be spared for bulk work.
        """
        if self._urgent.depth:
            return now
        if self._normal.depth:
            return self._rule.due(self, now)
        if self._bulk.depth and spare:
            return now
        return None

    def take(self, now: float, spare: bool = True) -> Batch:
        """Take the next batch; it is empty if all waiting requests have expired or were given up."""
        batch = BatchBuilder(now, self.most_rows)
        reason = "urgent"
        if self._urgent.depth:
            self._fill(batch, self._urgent)
        # Urgent requests never share a batch with others.
        if self._normal.depth and not batch.members:
            batch.limit, reason, batch.from_newest = self._rule.choose(self, now)
            if batch.limit:
                if batch.limit > self.most_rows:
                    batch.limit = self.most_rows
                self._fill(batch, self._normal)
                if batch.from_newest:
                    # Replies go out in order of arrival, whatever the order of selection.
                    batch.members.sort(key=_arrival)
            if batch.rows >= self.most_rows:
                reason = "full"
        # Bulk work runs only if nothing else waits, so that it never delays an answer by a whole run.
        elif self._bulk.depth and spare and not batch.members:
            reason = "bulk"
            batch.limit = max(1, self._bulk_rows())
            if self.most_rows < self._largest:  # else bulk runs may be larger than others
                batch.limit = min(batch.limit, self.most_rows)
            self._fill(batch, self._bulk)
        given_up = self._given_up
        if given_up:
            self._given_up = []
        return Batch(batch.members, batch.rows, reason, batch.expired, given_up)

    def ran(self, rows: int, seconds: float, now: float) -> None:
        """Report a finished run to the rule, which may learn from it."""
        self._rule.ran(rows, seconds, now)

    # -- internals -----------------------------------------------------------------------------

    def _part(self, waiting: QueuedRequest) -> _Part:
        if URGENT < waiting.level < BULK:
            return self._normal
        return self._bulk if waiting.level else self._urgent

    def _fill(self, batch: BatchBuilder, part: _Part) -> None:
        part.flow.fill(batch, _UNBOUNDED)
        # Expired requests have left the lanes as well, so the counters must include them.
        gone = len(batch.members)
        rows = batch.rows
        for waiting in batch.expired:
            if self._part(waiting) is part:
                gone += 1
                rows += waiting.rows
        self.depth -= gone
        part.depth -= gone
        part.rows -= rows

    def _remove(self, waiting: QueuedRequest) -> None:
        waiting.lane.remove(waiting)
        part = self._part(waiting)
        self.depth -= 1
        part.depth -= 1
        part.rows -= waiting.rows

    def _lane(self, waiting: QueuedRequest) -> Lane:
        level = waiting.level
        if level == URGENT:
            part = self._urgent
        elif level == BULK:
            part = self._bulk
        else:
            part = self._normal
            waiting.level = level = min(max(level, 1), self._levels)
        lane = part.of_level(level).child(waiting.tenant if self._fair else "")
        assert isinstance(lane, Lane)
        if self._levels == 1 and level == 1 and not (waiting.tenant and self._fair):
            # Most requests have no tenant and no priority: skip the lookup for them.
            self._usual = lane
        return lane

    def _evict(self, waiting: QueuedRequest, lane: Lane) -> QueuedRequest:
        """Evict a request from the lowest waiting level, from its longest lane."""
        victims: list[Lane] = []
        lowest = -1
        for part in (self._urgent, self._normal, self._bulk):
            for other in part.flow.lanes():
                level = next(w for w in other.newest()).level
                if level > lowest:
                    victims, lowest = [], level
                if level == lowest:
                    victims.append(other)
        longest = max(victims, key=lambda other: other.depth)
        # Evict only a lower level, or a tenant that would still hold more than the newcomer's.
        if lowest < waiting.level or (lowest == waiting.level and longest.depth <= lane.depth + 1):
            raise full(so_many(self.depth), self.bound)
        evicted = next(longest.newest())
        self._remove(evicted)
        return evicted


def _arrival(waiting: QueuedRequest) -> float:
    return waiting.arrived


def _tenants(fairness: Fairness, lane: Callable[[], Lane] = Lane) -> RoundRobin:
    """Return a round-robin queue of the tenants' lanes."""
    weights = fairness.weights
    return RoundRobin(lambda name: lane(), lambda name: weights.get(str(name), 1.0), fairness.max_tenants)


def _one_level(flow: RoundRobin) -> _Part:
    return _Part(flow, lambda level: flow, lambda level, tenant: flow.before(tenant))


def _priorities(config: ModelConfig) -> _Part:
    """Return the part of the normal service."""
    priorities, queue = config.priorities, config.queue or _NO_QUEUE
    levels = {
        level: _tenants(config.fairness, DelayingLane if queue.of(level).timeout_action == "delay" else Lane)
        for level in range(1, priorities.levels + 1)
    }
    if priorities.levels == 1:
        return _one_level(levels[1])
    if priorities.mode == "strict":
        strict = Strict(priorities.max_passes)
        for level in levels.values():
            strict.add_level(level)
        return _Part(strict, levels.__getitem__, strict.before)
    weights = priorities.weights or tuple(2.0**-n for n in range(priorities.levels))
    shared = RoundRobin(lambda level: levels[int(str(level))], lambda level: weights[int(str(level)) - 1])

    def of(level: int) -> RoundRobin:
        shared.child(level)  # rejoin the round if it was empty
        return levels[level]

    return _Part(shared, of, lambda level, tenant: shared.before(level, levels[level].before(tenant)))
