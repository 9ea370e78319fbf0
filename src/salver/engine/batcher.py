"""When does a queue become a batch, and of whom?

A bounded FIFO of :class:`Waiting` requests and the rule that turns it into batches. Pure:
the time is an argument, nothing is awaited, the payload is never looked at. The shell that
drives it is ``engine.py``; the simulator drives the very same object.

The rule, for one (max rows, max delay) policy:

* delay 0 (drain-the-queue): whatever waits when an instance is idle, up to ``max_rows``;
* delay T: once ``max_rows`` wait, or a preferred size is reached, or the oldest waited T.

Requests share a batch only if their ``key`` (datatypes and shapes but for axis 0) is equal.
Order: a batch holds requests in the order in which they came, and no request overtakes an
earlier one of the same sender, also when they differ in key.
"""

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Any

import msgspec

from salver.artifacts import Batching
from salver.errors import Overloaded


class Waiting:
    """A request in the queue.

    Attributes:
        payload: Whatever the caller wants back with the batch.
        rows: Extent of axis 0; at least 1.
        key: Equal keys may share a batch.
        sender: Keeps its order; None = no order asked for.
        arrived, deadline: Seconds; ``deadline`` None = never.
        is_live: False once it is taken, dropped or given up.
    """

    __slots__ = ("arrived", "deadline", "is_live", "key", "payload", "rows", "sender")

    def __init__(
        self,
        payload: Any,
        rows: int,
        key: Hashable,
        arrived: float,
        deadline: float | None = None,
        sender: Hashable = None,
    ) -> None:
        self.payload = payload
        self.rows = rows
        self.key = key
        self.arrived = arrived
        self.deadline = deadline
        self.sender = sender
        self.is_live = True

    def __repr__(self) -> str:
        return f"<Waiting {self.rows} rows since {self.arrived:.6f}{'' if self.is_live else ', done'}>"


class Batch(msgspec.Struct, frozen=True):
    """What to run now, why it closed, and who waited too long.

    Attributes:
        reason: ``full``, ``preferred``, ``time`` or ``drain``.
        expired: Taken out because their deadline is past; never to be executed.
    """

    members: list[Waiting]
    rows: int
    reason: str
    expired: list[Waiting]


class Batcher:
    """The queue and the rule of one model version."""

    __slots__ = ("_delay", "_largest", "_preferred", "_queue", "depth", "max_queue", "rows_waiting")

    def __init__(self, policy: Batching) -> None:
        self._largest = policy.max_rows if policy.enabled else 1
        self._delay = policy.max_delay_ms / 1e3 if policy.enabled else 0.0
        self._preferred = sorted(p for p in policy.preferred_rows if 0 < p <= self._largest)
        self._queue: deque[Waiting] = deque()
        self.max_queue = policy.max_queue
        self.depth = 0  # live requests
        self.rows_waiting = 0  # their rows

    def __repr__(self) -> str:
        return f"<Batcher {self.depth} queued, {self.rows_waiting} rows>"

    def __iter__(self) -> Iterator[Waiting]:
        """Those that wait, oldest first."""
        return (w for w in self._queue if w.is_live)

    def offer(self, waiting: Waiting) -> None:
        """Join the queue.

        Raises:
            Overloaded: it is full; nothing was changed.
        """
        if self.depth >= self.max_queue:
            raise Overloaded(
                "Exceeds maximum queue size", fix=f"{self.depth} requests are waiting; retry later."
            )
        self._queue.append(waiting)
        self.depth += 1
        self.rows_waiting += waiting.rows

    def discard(self, waiting: Waiting) -> bool:
        """Give up one that still waits; False if it had already left the queue."""
        if not waiting.is_live:
            return False
        self._leave(waiting)
        # Dead entries go when they reach the head, or all at once when they outnumber the living.
        if len(self._queue) > 2 * self.depth + 16:
            self._queue = deque(w for w in self._queue if w.is_live)
        return True

    def due(self, now: float) -> float | None:
        """When a batch may be taken: a time not after ``now`` means at once; None = nobody waits."""
        if not self.depth:
            return None
        if not self._delay or self._closes_early():
            return now
        return self._head().arrived + self._delay

    def take(self, now: float) -> Batch:
        """The next batch (possibly empty, when all that waited has expired)."""
        expired: list[Waiting] = []
        members: list[Waiting] = []
        limit, reason = self._limit(now)
        rows = 0
        skipped: list[Waiting] = []  # of another key, or behind one of those from the same sender
        blocked: set[Hashable] = set()
        queue = self._queue
        while queue:
            waiting = queue[0]
            if not waiting.is_live:
                queue.popleft()
                continue
            if waiting.deadline is not None and waiting.deadline <= now:
                queue.popleft()
                self._leave(waiting)
                expired.append(waiting)
                continue
            if members:
                if waiting.key != members[0].key or (blocked and waiting.sender in blocked):
                    queue.popleft()
                    skipped.append(waiting)
                    if waiting.sender is not None:
                        blocked.add(waiting.sender)
                    continue
                if rows + waiting.rows > limit:
                    break
            queue.popleft()
            self._leave(waiting)
            members.append(waiting)
            rows += waiting.rows
            if rows >= limit:
                break
        if skipped:
            queue.extendleft(reversed(skipped))
        return Batch(members, rows, "full" if rows >= self._largest else reason, expired)

    def _limit(self, now: float) -> tuple[int, str]:
        if self._preferred and self.rows_waiting < self._largest:
            fitting = [p for p in self._preferred if p <= self.rows_waiting]
            if fitting:
                return fitting[-1], "preferred"
        return self._largest, "time" if self._delay else "drain"

    def _closes_early(self) -> bool:
        if self._preferred and self.rows_waiting >= self._preferred[-1]:
            return True
        return self.rows_waiting >= self._largest

    def _head(self) -> Waiting:
        while not self._queue[0].is_live:
            self._queue.popleft()
        return self._queue[0]

    def _leave(self, waiting: Waiting) -> None:
        waiting.is_live = False
        self.depth -= 1
        self.rows_waiting -= waiting.rows
