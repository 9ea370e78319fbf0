"""Scheduling of sequences, whose requests must run in order, one at a time.

A sequence takes a slot, which is a place on one instance, when it starts, and keeps it until it ends;
sequences without a slot wait in a backlog in order of their start. An instance runs the requests at the front
of its sequences together, at most one of each. Pure: the time is an argument, the payload is the caller's.

* ``direct``: a slot is a row of the instance's runs. A run has the rows of all its slots that are taken, or
  only of those with a request if empty rows mean nothing to the model.
* ``oldest``: a run has the requests that have been ready longest, up to its maximum rows.

A sequence ends with its END, after too long without requests, when one of its requests is cancelled before it
ran (a gap would be worse than an end), or when the instance with its state is lost.
"""

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Any

import msgspec

from salver.kernel.engine.refusals import full, so_many
from salver.words.artifacts import Sequences
from salver.words.errors import InvalidInput

_MOST_ENDS = 1024


class Turn:
    """One request of a sequence.

    Attributes:
        payload: The caller's object.
        starts, ends: It is the first, or the last, request of its sequence.
        arrived: Time of arrival.
        is_taken: It is running or has run.
        sequence: Its sequence.
    """

    __slots__ = ("arrived", "ends", "is_taken", "payload", "sequence", "starts")

    def __init__(self, payload: Any, sequence: "Sequence", starts: bool, ends: bool, arrived: float) -> None:
        self.payload = payload
        self.sequence = sequence
        self.starts = starts
        self.ends = ends
        self.arrived = arrived
        self.is_taken = False


class Sequence:
    """An active sequence, or one that waits for a slot.

    Attributes:
        id: The caller's id.
        slot: Index of its instance, and of its slot there; None = waiting for one.
        turns: Waiting requests, in order.
        state: State stored by the caller.
    """

    __slots__ = ("id", "idle_since", "is_running", "is_shut", "slot", "state", "turns")

    def __init__(self, id: int | str) -> None:
        self.id = id
        self.slot: tuple[int, int] | None = None
        self.turns: deque[Turn] = deque()
        self.state: Any = None
        self.is_running = False
        self.is_shut = False  # the next request must be a START
        self.idle_since = 0.0


class Register:
    """Register of the versions in which a model's sequences are active, and of reasons for early ends."""

    def __init__(self) -> None:
        self._homes: dict[int | str, object] = {}
        self._whys: OrderedDict[int | str, str] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Register of {len(self._homes)} sequences>"

    def begin(self, id: int | str, home: object) -> None:
        """Record the start of a sequence, possibly a restart elsewhere."""
        self._homes[id] = home
        self._whys.pop(id, None)

    def is_at(self, id: int | str, home: object) -> bool:
        """Return whether the sequence last started there."""
        return self._homes.get(id) is home

    def end(self, id: int | str, home: object) -> None:
        """Record the end of a sequence there."""
        if self._homes.get(id) is home:
            del self._homes[id]

    def explain(self, id: int | str, why: str) -> None:
        """Record why a sequence ended without END; the oldest reasons are dropped."""
        self._whys[id] = why
        if len(self._whys) > _MOST_ENDS:
            self._whys.popitem(last=False)

    def why(self, id: int | str) -> str:
        """Return the reason; empty = unknown."""
        return self._whys.get(id, "")


class SequenceBatch(msgspec.Struct, frozen=True):
    """Requests that run together.

    Attributes:
        turns: One request per row; None = an empty row.
        reason: Why they run now, as in :class:`~salver.words.messages.Timing`.
    """

    turns: tuple[Turn | None, ...]
    reason: str


def _one_key(turn: Turn) -> Hashable:
    return None


class FillRule:
    """Rule that says when a run is due, and how many requests are in it.

    Args:
        rows: Maximum rows of a run.
    """

    def __init__(self, rows: int, config: Sequences) -> None:
        self._is_direct = config.strategy == "direct"
        self._rows = rows
        self._delay = config.max_delay_ms / 1e3 if config.min_fill or not self._is_direct else 0.0
        # Direct: a share of the rows ends the wait; oldest: any preferred size does.
        self._fills = (math.ceil(config.min_fill * rows),) if self._is_direct else config.preferred_rows

    def due(self, ready: int, now: float, since: float) -> float:
        """Return when the next run is due.

        Args:
            ready: Number of requests that may run.
            since: Time since which the first of them may.
        """
        if self.size(ready, now, since)[0]:
            return now
        return since + self._delay

    def size(self, ready: int, now: float, since: float) -> tuple[int, str]:
        """Return the number of requests to run now and the reason; 0 = the run is not due yet."""
        if ready >= self._rows:
            return self._rows, "full"
        if not self._delay:
            return ready, "drain"
        if now >= since + self._delay:
            return ready, "time"
        if self._is_direct:
            if ready >= self._fills[0]:
                return ready, "preferred"
            return 0, ""
        size = max((n for n in self._fills if n <= ready), default=0)
        return size, "preferred"


class SequenceScheduler:
    """Slots, backlog and queues of one model version.

    Args:
        model: Name for messages.
        instances: Number of instances.
        rows: Maximum rows of a run, and slots of each instance unless configured otherwise.
        config: Strategy and limits.
        max_queue: Maximum number of waiting requests.
        key: Requests with equal keys can be stacked.
    """

    def __init__(
        self,
        model: str,
        instances: int,
        rows: int,
        config: Sequences,
        max_queue: int,
        key: Callable[[Turn], Hashable] = _one_key,
    ) -> None:
        self._model = model
        self._config = config
        self._max_queue = max_queue
        self._key = key
        is_direct = config.strategy == "direct"
        self._has_empty_rows = is_direct and any(c.kind == "ready" for c in config.controls)
        self._idle = config.idle_ms / 1e3
        self._rule = FillRule(rows, config)
        slots = rows if is_direct else config.candidates or rows
        self._slots: list[list[Sequence | None]] = [[None] * slots for _ in range(instances)]
        # A heap in this order fills the first slot of each instance before the second: it spreads the load.
        self._free = [(place, instance) for place in range(slots) for instance in range(instances)]
        self._by_id: dict[int | str, Sequence] = {}
        self._backlog: OrderedDict[Sequence, None] = OrderedDict()
        #: By instance: sequences whose first request may run, in order of becoming ready.
        self._ready: list[OrderedDict[Sequence, float]] = [OrderedDict() for _ in range(instances)]
        self._quiet: OrderedDict[Sequence, None] = OrderedDict()  # idle sequences with a slot
        self.register = Register()
        self.queued = 0

    def __repr__(self) -> str:
        return f"<SequenceScheduler {self._model}, {self.live} in slots, {self.waiting} waiting>"

    @property
    def live(self) -> int:
        """Return the number of sequences with a slot."""
        return sum(map(len, self._slots)) - len(self._free)

    @property
    def waiting(self) -> int:
        """Return the number of sequences in the backlog."""
        return len(self._backlog)

    @property
    def is_empty(self) -> bool:
        """Return whether no sequence is active or waiting."""
        return not self._by_id

    def knows(self, id: int | str) -> bool:
        """Return whether a request without START would continue a sequence here."""
        sequence = self._by_id.get(id)
        return sequence is not None and not sequence.is_shut and self.register.is_at(id, self)

    def offer(self, id: int | str, payload: Any, starts: bool, ends: bool, now: float) -> Turn:
        """Add a request.

        Raises:
            InvalidInput: its sequence is not active, and it does not start one.
            Overloaded: the queue is full.
        """
        sequence = self._by_id.get(id)
        if not starts and (sequence is None or sequence.is_shut):
            raise InvalidInput(
                f"inference request for sequence {id} to model '{self._model}' must specify the START flag "
                "on the first request of the sequence",
                fix=self.register.why(id),
            )
        # After the START check: a sequence that is not active is the caller's error at any load.
        if self.queued >= self._max_queue:
            raise full(so_many(self.queued))
        if sequence is None:
            sequence = self._by_id[id] = Sequence(id)
            self._backlog[sequence] = None
        # A START in an active sequence restarts it in its slot, behind its pending requests.
        if starts:
            self.register.begin(id, self)
        sequence.is_shut = ends
        turn = Turn(payload, sequence, starts, ends, now)
        sequence.turns.append(turn)
        self.queued += 1
        self._quiet.pop(sequence, None)
        self._fill(now)
        self._wake(sequence, now)
        return turn

    def due(self, instance: int, now: float) -> float | None:
        """Return when the next run of an idle instance is due; None = nothing to run."""
        ready = self._ready[instance]
        if not ready:
            return None
        return self._rule.due(len(ready), now, next(iter(ready.values())))

    def take(self, instance: int, now: float) -> SequenceBatch:
        """Take the requests that the instance runs now; a run must be due."""
        ready = self._ready[instance]
        size, reason = self._rule.size(len(ready), now, next(iter(ready.values())))
        key = self._key(next(iter(ready)).turns[0])
        # The oldest ready sequence decides the key, so that none waits forever for its shape.
        company = [s for s in ready if self._key(s.turns[0]) == key][:size]
        for sequence in company:
            del ready[sequence]
        rows: list[Turn | None] = [self._begin(sequence) for sequence in company]
        if self._has_empty_rows:
            rows = self._in_their_rows(instance, company, rows)
        return SequenceBatch(tuple(rows), reason)

    def done(self, turn: Turn, now: float) -> None:
        """Record that a request has run, successfully or not."""
        sequence = turn.sequence
        sequence.is_running = False
        if turn.ends:
            sequence.state = None
            self._leave(sequence, now)
        else:
            self._wake(sequence, now)

    def again(self, turn: Turn, now: float) -> None:
        """Requeue a request that the model wants to run again, as the next one of its sequence."""
        sequence = turn.sequence
        sequence.is_running = False
        turn.is_taken = turn.starts = False
        # At the front: later requests of the sequence build on what this one will leave.
        sequence.turns.appendleft(turn)
        self.queued += 1
        self._wake(sequence, now)

    def withdraw(self, turn: Turn, why: str, now: float) -> list[Turn]:
        """Remove a waiting request, together with those of its sequence that follow.

        Returns:
            The following requests, up to the next START.
        """
        if turn.is_taken:
            return []
        sequence = turn.sequence
        turns = list(sequence.turns)
        first = turns.index(turn)
        # Later requests depend on the withdrawn one, up to the next START.
        after = next((i for i in range(first + 1, len(turns)) if turns[i].starts), len(turns))
        gone = turns[first:after]
        sequence.turns = deque(turns[:first] + turns[after:])
        self._drop(gone)
        if after == len(turns):
            # The client does not know of the gap yet: refuse to continue the sequence without a START.
            sequence.is_shut = True
            self.register.explain(sequence.id, why)
        if sequence.slot is not None and not sequence.turns:
            self._ready[sequence.slot[0]].pop(sequence, None)
        self._wake(sequence, now)
        return gone[1:]

    def lose(self, instance: int, why: str, now: float) -> list[Turn]:
        """Drop the sequences of an instance that lost its state; return their unanswerable requests."""
        gone: list[Turn] = []
        for sequence in [s for s in self._slots[instance] if s is not None]:
            turns = list(sequence.turns)
            start = next((i for i, turn in enumerate(turns) if turn.starts), len(turns))
            gone += turns[:start]
            sequence.turns = deque(turns[start:])
            # Nothing that waits starts it anew, so the next request must.
            if not sequence.turns:
                sequence.is_shut = True
                self.register.explain(sequence.id, why)
                self._ready[instance].pop(sequence, None)
            self._wake(sequence, now)
        self._drop(gone)
        return gone

    def reap(self, now: float) -> list[Sequence]:
        """End sequences without requests for too long."""
        over = []
        # In order of becoming idle, so the first that has time left ends the search.
        while self._quiet:
            sequence = next(iter(self._quiet))
            if sequence.idle_since + self._idle > now:
                break
            self.register.explain(
                sequence.id, f"Nothing was heard of it for {self._config.idle_ms:g} ms, which ended it."
            )
            self._leave(sequence, now)
            over.append(sequence)
        return over

    def shut(self, why: str, now: float) -> None:
        """Let every sequence end after its pending requests."""
        for sequence in [s for s in self._by_id.values() if not s.is_shut]:
            sequence.is_shut = True
            self.register.explain(sequence.id, why)
            self._wake(sequence, now)

    def next_reap(self) -> float | None:
        """Return when the next sequence ends if it gets no request; None = none."""
        if self._quiet:
            return next(iter(self._quiet)).idle_since + self._idle
        return None

    def clear(self) -> list[Turn]:
        """End every sequence; return the waiting requests."""
        gone = [turn for sequence in self._by_id.values() for turn in sequence.turns]
        self._drop(gone)
        for ready in self._ready:
            ready.clear()
        for sequence in list(self._by_id.values()):
            self._forget(sequence)
        self._backlog.clear()
        self._quiet.clear()
        return gone

    def _begin(self, sequence: Sequence) -> Turn:
        turn = sequence.turns.popleft()
        turn.is_taken = sequence.is_running = True
        self.queued -= 1
        return turn

    def _in_their_rows(
        self, instance: int, company: list[Sequence], turns: list[Turn | None]
    ) -> list[Turn | None]:
        """Return each request in the row of its slot, up to the last slot in use."""
        slots = self._slots[instance]
        rows: list[Turn | None] = [None] * (1 + max(i for i, s in enumerate(slots) if s is not None))
        for sequence, turn in zip(company, turns, strict=True):
            assert sequence.slot is not None
            rows[sequence.slot[1]] = turn
        return rows

    def _wake(self, sequence: Sequence, now: float) -> None:
        """Update the queues for a sequence without an active run."""
        if sequence.is_running:
            return
        if sequence.slot is None:
            if not sequence.turns:
                self._backlog.pop(sequence, None)
                self._forget(sequence)
        elif sequence.turns:
            # setdefault keeps the time at which it became ready, from which the wait counts.
            self._ready[sequence.slot[0]].setdefault(sequence, now)
        elif sequence.is_shut:
            self._leave(sequence, now)
        else:
            sequence.idle_since = now
            self._quiet[sequence] = None
            self._quiet.move_to_end(sequence)

    def _leave(self, sequence: Sequence, now: float) -> None:
        """Free a sequence's slot; its remaining requests wait for another like a new sequence."""
        assert sequence.slot is not None
        instance, place = sequence.slot
        self._slots[instance][place] = None
        heapq.heappush(self._free, (place, instance))
        self._quiet.pop(sequence, None)
        sequence.slot = None
        # Behind those that already wait: it has had its slot.
        if sequence.turns:
            self._backlog[sequence] = None
        else:
            self._forget(sequence)
        self._fill(now)

    def _forget(self, sequence: Sequence) -> None:
        self._by_id.pop(sequence.id, None)
        self.register.end(sequence.id, self)

    def _fill(self, now: float) -> None:
        """Give free slots to waiting sequences."""
        while self._free and self._backlog:
            sequence, _ = self._backlog.popitem(last=False)
            place, instance = heapq.heappop(self._free)
            sequence.slot = instance, place
            self._slots[instance][place] = sequence
            self._wake(sequence, now)

    def _drop(self, turns: list[Turn]) -> None:
        self.queued -= len(turns)
        for turn in turns:
            turn.is_taken = True
