"""Tree of queues for tenants and priorities.

Leaves are FIFO *lanes*, one for each tenant and level; :class:`RoundRobin` shares a batch fairly among its
children (deficit round robin, Shreedhar and Varghese 1996: a child that is always waiting gets its weighted
share of rows up to one request and one quantum); :class:`Strict` serves the higher level first, within a
bound. A batch holds requests of one key only. Pure: it knows rows and levels, no time except its argument,
and no payload.
"""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Protocol

from salver.kernel.engine.waiting import QueuedRequest


class BatchBuilder:
    """A batch under construction.

    Attributes:
        limit: Maximum rows; the first request is added regardless of its size.
        from_newest: Take the latest arrivals of each lane.
        expired: Requests whose deadline has passed.
        is_full: Nothing more fits.
    """

    __slots__ = ("expired", "from_newest", "is_full", "key", "limit", "members", "now", "rows")

    def __init__(self, now: float, limit: int, from_newest: bool = False) -> None:
        self.now = now
        self.limit = limit
        self.from_newest = from_newest
        self.members: list[QueuedRequest] = []
        self.rows = 0
        self.key: Hashable = None
        self.expired: list[QueuedRequest] = []
        self.is_full = False

    def add(self, waiting: QueuedRequest) -> None:
        """Add a request."""
        if not self.members:
            self.key = waiting.key
        self.members.append(waiting)
        self.rows += waiting.rows
        self.is_full = self.rows >= self.limit


class QueueNode(Protocol):
    """A queue, or several combined into one."""

    @property
    def depth(self) -> int:
        """Return the number of waiting requests."""
        ...

    def head(self) -> QueuedRequest | None:
        """Return the most urgent request: the earliest target, then the earliest arrival."""
        ...

    def fill(self, batch: BatchBuilder, allowance: float) -> int:
        """Move requests of up to ``allowance`` rows into the batch; return the number of rows."""
        ...

    def lanes(self) -> Iterator["Lane"]:
        """Return the leaves with waiting requests."""
        ...


class Lane:
    """Requests of one tenant and level, in order of arrival.

    Attributes:
        is_linked: Its parent still has it in the round.
    """

    __slots__ = ("depth", "is_linked", "queue")

    def __init__(self) -> None:
        self.queue: deque[QueuedRequest] = deque()
        self.depth = 0
        self.is_linked = True

    def __repr__(self) -> str:
        return f"<Lane {self.depth} queued>"

    def add(self, waiting: QueuedRequest) -> None:
        """Append a request."""
        waiting.lane = self
        self.queue.append(waiting)
        self.depth += 1

    def remove(self, waiting: QueuedRequest) -> None:
        """Mark a request as removed; the entry is dropped at an end of the queue or in bulk."""
        waiting.is_live = False
        self.depth -= 1
        if len(self.queue) > 2 * self.depth + 16:
            self.queue = deque(w for w in self.queue if w.is_live)

    def head(self) -> QueuedRequest | None:
        """Return the oldest request."""
        queue = self.queue
        while queue:
            if queue[0].is_live:
                return queue[0]
            queue.popleft()
        return None

    def lanes(self) -> Iterator["Lane"]:
        """Return this lane."""
        if self.depth:
            yield self

    def __iter__(self) -> Iterator[QueuedRequest]:
        """Iterate over waiting requests in serving order."""
        return _live(self.queue)

    def newest(self) -> Iterator[QueuedRequest]:
        """Iterate from the latest arrival to the oldest."""
        return _live(reversed(self.queue))

    def fill(self, batch: BatchBuilder, allowance: float) -> int:
        """See :class:`QueueNode`. Requests of another key stay, and so do later ones of their senders."""
        queue = self.queue
        newest = batch.from_newest
        end = -1 if newest else 0
        pop = queue.pop if newest else queue.popleft
        skipped: list[QueuedRequest] = []
        blocked: set[Hashable] = set()
        taken = 0
        while queue:
            waiting = queue[end]
            # Removed requests are dropped lazily, when they reach an end of the queue.
            if not waiting.is_live:
                pop()
                continue
            if waiting.deadline is not None and waiting.deadline <= batch.now:
                pop()
                self._expire(waiting, batch)
                continue
            if batch.members:
                # Once a sender's request is skipped, its later ones must not overtake it.
                if waiting.key != batch.key or (blocked and waiting.sender in blocked):
                    pop()
                    skipped.append(waiting)
                    if waiting.sender is not None:
                        blocked.add(waiting.sender)
                    continue
                if batch.rows + waiting.rows > batch.limit:
                    batch.is_full = True
                    break
            if taken + waiting.rows > allowance:
                break
            pop()
            waiting.is_live = False
            self.depth -= 1
            batch.add(waiting)
            taken += waiting.rows
            if batch.is_full:
                break
        # Put skipped requests back in their original order, at the end from which they were taken.
        if skipped:
            skipped.reverse()
            if newest:
                queue.extend(skipped)
            else:
                queue.extendleft(skipped)
        return taken

    def _expire(self, waiting: QueuedRequest, batch: BatchBuilder) -> None:
        waiting.is_live = False
        self.depth -= 1
        batch.expired.append(waiting)


class DelayingLane(Lane):
    """Lane whose requests move behind the others when their time to wait is over (Triton's DELAY)."""

    __slots__ = ("_late",)

    def __init__(self) -> None:
        super().__init__()
        self._late: deque[QueuedRequest] = deque()

    def remove(self, waiting: QueuedRequest) -> None:
        """See :class:`Lane`."""
        super().remove(waiting)
        if len(self._late) > 2 * self.depth + 16:
            self._late = deque(w for w in self._late if w.is_live)

    def head(self) -> QueuedRequest | None:
        """See :class:`Lane`."""
        return super().head() or next(_live(self._late), None)

    def __iter__(self) -> Iterator[QueuedRequest]:
        """See :class:`Lane`."""
        return _live(itertools.chain(self.queue, self._late))

    def newest(self) -> Iterator[QueuedRequest]:
        """See :class:`Lane`."""
        return _live(itertools.chain(reversed(self.queue), reversed(self._late)))

    def fill(self, batch: BatchBuilder, allowance: float) -> int:
        """See :class:`QueueNode`. Delayed requests are served when no others are left."""
        taken = super().fill(batch, allowance)
        if self._late and not batch.is_full and super().head() is None:
            # Serve the late ones with the same code by swapping the queues.
            fresh, self.queue = self.queue, self._late
            taken += super().fill(batch, allowance - taken)
            self.queue = fresh
        return taken

    def _expire(self, waiting: QueuedRequest, batch: BatchBuilder) -> None:
        if waiting.then:
            waiting.deadline, waiting.then = waiting.then, 0.0
            self._late.append(waiting)
        else:
            super()._expire(waiting, batch)


class _Turn:
    """A child's state in the round."""

    __slots__ = ("credit", "flow", "is_open", "name", "weight")

    def __init__(self, name: Hashable, flow: QueueNode, weight: float) -> None:
        self.name = name
        self.flow = flow
        self.weight = weight
        self.credit = 0.0
        self.is_open = False


class RoundRobin:
    """Children that share by weight; a child exists while it has waiting requests.

    Args:
        make: Creates the child of a name.
        weight: Rows that a child is credited per round.
        most: Maximum number of children; further names share the child ``None``.
    """

    def __init__(
        self,
        make: Callable[[Hashable], QueueNode],
        weight: Callable[[Hashable], float] = lambda name: 1.0,
        most: int = 1 << 30,
    ) -> None:
        self._make = make
        self._weight = weight
        self._most = most
        self._turns: dict[Hashable, _Turn] = {}
        self._ring: deque[_Turn] = deque()
        self._weights = 0.0  # requests of the children in the round

    def __repr__(self) -> str:
        return f"<RoundRobin {self.depth} queued in {len(self._ring)}>"

    @property
    def depth(self) -> int:
        """See :class:`QueueNode`."""
        return sum([turn.flow.depth for turn in self._ring])

    def child(self, name: Hashable) -> QueueNode:
        """Return the child of that name, creating it if necessary."""
        turn = self._turns.get(name)
        if turn is None:
            if len(self._turns) >= self._most and name is not None:
                self._sweep()
                if len(self._turns) >= self._most:
                    return self.child(None)
            turn = _Turn(name, self._make(name), self._weight(name))
            self._turns[name] = turn
            self._ring.append(turn)
            self._weights += turn.weight
        return turn.flow

    def before(self, name: Hashable, own: float | None = None) -> float:
        """Return the number of requests likely to run before one that joins that child now.

        Args:
            own: Requests of the child itself that count; None = all.
        """
        turn = self._turns.get(name)
        if own is None:
            own = turn.flow.depth if turn else 0
        if turn is not None and len(self._ring) == 1:
            return own
        weight = turn.weight if turn else self._weight(name)
        total = self._weights + (0 if turn else weight)
        return min(self.depth, (own + 1) * total / weight - 1)

    def head(self) -> QueuedRequest | None:
        """See :class:`QueueNode`."""
        if len(self._ring) == 1:
            return self._ring[0].flow.head()
        return _first([turn.flow for turn in self._ring])

    def lanes(self) -> Iterator[Lane]:
        """See :class:`QueueNode`."""
        for turn in self._ring:
            yield from turn.flow.lanes()

    def fill(self, batch: BatchBuilder, allowance: float) -> int:
        """See :class:`QueueNode`."""
        ring = self._ring
        if len(ring) == 1:
            return ring[0].flow.fill(batch, allowance)
        taken = 0
        in_vain = 0  # consecutive turns without a request taken
        while ring and not batch.is_full and taken < allowance:
            turn = ring[0]
            # An empty child leaves the round and loses its credit, as deficit round robin requires.
            if not turn.flow.depth:
                self._drop(turn)
                continue
            # A single child needs no credit.
            if len(ring) == 1:
                taken += turn.flow.fill(batch, allowance - taken)
                break
            # A turn that a full batch interrupted continues without new credit.
            if not turn.is_open:
                turn.is_open = True
                turn.credit += turn.weight
            left = allowance - taken
            got = turn.flow.fill(batch, min(turn.credit, left))
            turn.credit -= got
            taken += got
            if batch.is_full or (taken and taken >= allowance):
                break  # continues from here next time
            if turn.credit >= left - got and _next_rows(turn.flow, batch) < math.inf:
                break  # only the allowance stops it, so its turn is not over
            turn.is_open = False
            ring.rotate(-1)
            in_vain = 0 if got else in_vain + 1
            # No child could pay for its first request: advance all credits at once instead of looping.
            if in_vain >= len(ring):
                if not self._raise_credit(batch, allowance - taken):
                    break
                in_vain = 0
        return taken

    def _raise_credit(self, batch: BatchBuilder, allowance: float) -> bool:
        """Credit as many rounds as it takes until a child can pay; return False if none ever can."""
        rounds = math.inf
        for turn in self._ring:
            rows = _next_rows(turn.flow, batch)
            if rows <= allowance and rows < math.inf:
                rounds = min(rounds, math.ceil((rows - turn.credit) / turn.weight - 1e-9))
        if rounds == math.inf:
            return False
        for turn in self._ring:
            # One round less, because opening the next turn adds one more.
            turn.credit += turn.weight * max(0, rounds - 1)
        return True

    def _drop(self, turn: _Turn) -> None:
        self._ring.popleft()
        del self._turns[turn.name]
        self._weights = self._weights - turn.weight if self._ring else 0.0
        if isinstance(turn.flow, Lane):
            turn.flow.is_linked = False

    def _sweep(self) -> None:
        for turn in list(self._ring):
            if turn.flow.depth:
                self._ring.rotate(-1)
            else:
                self._drop(turn)


class Strict:
    """Levels, highest first. A level that is passed over too often sends one request ahead.

    Args:
        max_passes: Batches that may pass over a waiting level; 0 = no limit.
    """

    def __init__(self, max_passes: int) -> None:
        self.levels: list[RoundRobin] = []
        self._max_passes = max_passes
        self._passes: list[int] = []

    def __repr__(self) -> str:
        return f"<Strict {' > '.join(str(level.depth) for level in self.levels)}>"

    @property
    def depth(self) -> int:
        """See :class:`QueueNode`."""
        return sum([level.depth for level in self.levels])

    def add_level(self, level: RoundRobin) -> None:
        """Add the next lower level."""
        self.levels.append(level)
        self._passes.append(0)

    def before(self, level: int, tenant: Hashable) -> float:
        """Return the requests ahead, as :meth:`RoundRobin.before`, for a level from 1 on."""
        above = sum([flow.depth for flow in self.levels[: level - 1]])
        return above + self.levels[level - 1].before(tenant)

    def head(self) -> QueuedRequest | None:
        """See :class:`QueueNode`."""
        return _first(self.levels)

    def lanes(self) -> Iterator[Lane]:
        """See :class:`QueueNode`."""
        for level in self.levels:
            yield from level.lanes()

    def fill(self, batch: BatchBuilder, allowance: float) -> int:
        """See :class:`QueueNode`."""
        waited = [level.depth > 0 for level in self.levels]
        got = [0] * len(self.levels)
        if self._max_passes and not batch.members:
            # Longest-waiting level first, so that each has its bound even if their keys differ.
            index = max(range(len(waited)), key=lambda i: self._passes[i] if waited[i] else -1)
            if waited[index] and self._passes[index] >= self._max_passes:
                limit, batch.limit = batch.limit, 1  # one request, regardless of its size
                got[index] = self.levels[index].fill(batch, allowance)
                batch.limit = limit
                batch.is_full = batch.rows >= limit
        for index, level in enumerate(self.levels):
            if batch.is_full:
                break
            if level.depth:
                got[index] += level.fill(batch, allowance)
        for index in range(len(self.levels)):
            # A pass counts only if the level was waiting and got nothing.
            self._passes[index] = self._passes[index] + 1 if waited[index] and not got[index] else 0
        return sum(got)


def newest(flow: QueueNode) -> Iterator[QueuedRequest]:
    """Iterate over all requests from the latest arrival to the oldest."""
    lanes = list(flow.lanes())
    if len(lanes) == 1:
        return lanes[0].newest()
    return heapq.merge(*(lane.newest() for lane in lanes), key=lambda w: -w.arrived)


def _live(queue: Iterable[QueuedRequest]) -> Iterator[QueuedRequest]:
    """Iterate over the requests that have not been removed."""
    for waiting in queue:  # a generator expression would become a list where this is compiled
        if waiting.is_live:
            yield waiting


def _first(flows: Sequence[QueueNode]) -> QueuedRequest | None:
    found: QueuedRequest | None = None
    for flow in flows:
        if flow.depth:
            head = flow.head()
            if head is not None and (
                found is None or (head.target, head.arrived) < (found.target, found.arrived)
            ):
                found = head
    return found


def _next_rows(flow: QueueNode, batch: BatchBuilder) -> float:
    """Return the rows of the smallest request at a lane's front that this batch may hold; inf if none."""
    least = math.inf
    for lane in flow.lanes():
        for waiting in lane.newest() if batch.from_newest else lane:
            if not batch.members or waiting.key == batch.key:
                if not batch.members or batch.rows + waiting.rows <= batch.limit:
                    least = min(least, waiting.rows)
                break
    return least
