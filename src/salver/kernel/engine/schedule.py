"""Queue, batching rule, promise and limits of one model version.

Combines, from the configuration: queue, rule, batch law, admission outlook and adaptive limit. Pure: the
engine and the tests report events with their times.
"""

import math
from typing import NamedTuple

from salver.kernel.engine.batcher import Batcher
from salver.kernel.engine.outlook import Outlook, Rate
from salver.kernel.engine.reserve import MOST_SHARE, Reserve
from salver.kernel.engine.rules import Aimd, DropThenDrain, HalfFloor, NewestFeasible, Rule, Switching, Window
from salver.kernel.engine.waiting import BULK, URGENT, Batch, QueuedRequest
from salver.lazy import lazy_imports
from salver.stats.batch_law import BatchLaw
from salver.stats.shape_laws import ShapeLaws
from salver.words.artifacts import ModelConfig
from salver.words.errors import DeadlineExceeded, Overloaded, SalverError
from salver.words.messages import ANYBODY, Insight, Standing

with lazy_imports():
    from salver.kernel.engine.learned import LearnedRule
    from salver.kernel.engine.limit import Limit


#: Averaging time of the arrival rate, in promises, with minimum and maximum.
_RATE_MEMORY, _LEAST_MEMORY_S, _MOST_MEMORY_S = 10.0, 0.25, 2.0
_EASY, _SATURATED = 0.6, 0.9  # loads: below, and from which, a late request takes another's place
#: When everything has been rejected for this long, an idle instance tries one request, because only runs
#: correct a law; then it pauses for this multiple of the run.
_TRY_S, _TRY_PAUSE = 1.0, 4.0
_NOMINAL_S = 0.1  # promise assumed if only callers set deadlines
#: Batches of the rows ahead that may still be given up, as a request is refused by its head: those that are
#: let in and given up later have been decoded, at two to four times the cost.
_HEAD_SLACK = 0.5
_QUIET_S = 10.0  # time without urgent requests before batches are prepared ahead again
_SERVICES = {"urgent": URGENT, "bulk": BULK}


class PriorKnowledge(NamedTuple):
    """Prior knowledge of a model, from before its first request.

    Attributes:
        laws: Batch laws, updated by live runs; None = unknown.
        rule: Rule of the policy ``learned``.
    """

    laws: ShapeLaws | None = None
    rule: Rule | None = None


NOTHING_KNOWN = PriorKnowledge()


class Schedule:
    """Queue and promises of one model version.

    Args:
        slots: Concurrent batches.
        laws: Batch laws to start from; None = unknown.
        learned: The rule of the policy ``learned``.

    Attributes:
        batcher: The queue.
        promise: Seconds within which requests must be answered; inf = no promise.
        foresees: Requests may be refused before they are decoded (:meth:`foresee`).
        is_timed: Requests may have a time by which they must be answered.
        waits: The rule may let requests wait although an instance is idle.
    """

    def __init__(
        self, config: ModelConfig, slots: int, laws: ShapeLaws | None = None, learned: Rule | None = None
    ) -> None:
        objective = config.objective
        wish = objective.latency_p99_ms or objective.deadline_ms
        self.promise = wish / 1e3 if wish else math.inf
        self._only_default = not objective.latency_p99_ms
        self._priorities = config.priorities
        self._queue = config.queue
        self.laws = laws or ShapeLaws()
        self._size = 0  # size of the rows of the last batch
        self._slots = slots
        self._largest = config.batching.largest_run
        self._rate = Rate(min(max(_LEAST_MEMORY_S, _RATE_MEMORY * self.promise), _MOST_MEMORY_S))
        self._reserve = Reserve(min(self.promise, _NOMINAL_S))
        self._urgent_at = -math.inf
        self._refused: SalverError = Overloaded("")  # the last one that was foreseen
        self._refused_age = math.inf  # seconds since that request came
        self._now = 0.0
        self._try_at = math.inf  # set while all requests are rejected, even with no run and no queue
        self.policy = policy_of(config)
        self.waits = self.policy in ("window", "learned")
        self.foresees = self.promise < math.inf and self._priorities.levels == 1
        self.is_timed = self.policy not in ("drain", "window", "learned") or self.promise < math.inf
        self._outlook = Outlook(self.law, slots, self._largest, self._rate)
        self._bulk_s = config.bulk.max_run_ms / 1e3 or (self.promise / 2)
        self._bulk_rows = config.bulk.max_rows or self._largest
        self._chosen = learned or self._rule(config)
        self.batcher = Batcher(config, self._chosen, self._most_bulk)
        self._most = config.batching.max_queue
        self._limit = Limit(config.limit, self._most) if config.limit.target_delay_ms else None

    def __repr__(self) -> str:
        return f"<Schedule {self.policy}, {self.batcher.depth} queued>"

    # -- from request to queue -----------------------------------------------------------------

    def place(
        self, waiting: QueuedRequest, standing: Standing, brings_deadline: bool = True, came: float = 0.0
    ) -> None:
        """Set the level, tenant and target of a request.

        Args:
            brings_deadline: Its deadline, if any, is the caller's own, not a default.
            came: When it came, if it waited before it was read; 0 = it did not.
        """
        waiting.tenant = standing.tenant
        levels = self._priorities.levels
        if standing.service == "normal":
            level = standing.priority
            # An unknown priority falls back to the model's default, else to the middle level.
            waiting.level = level if 0 < level <= levels else self._priorities.default or (levels + 1) // 2
        else:
            waiting.level = _SERVICES[standing.service]
            if waiting.level == URGENT:
                self._urgent_at = waiting.arrived
        if waiting.level == BULK:
            return  # no time limit
        deadline = waiting.deadline
        arrived = waiting.arrived
        due = math.inf if deadline is None else deadline
        if self.promise < math.inf and not (self._only_default and brings_deadline and deadline is not None):
            due = min(due, (came or arrived) + self.promise)
        if due < math.inf:
            waiting.due = due
            # Cap the margin, or a request with a short time limit would always count as hopeless.
            reserve = self._strain(arrived) * self._reserve.seconds
            waiting.target = due - min(reserve, MOST_SHARE * (due - arrived))

    def limit_wait(self, waiting: QueuedRequest, timeout: float) -> float:
        """Apply the model's queue policy, if any, to a request that has been placed.

        Args:
            timeout: Seconds that its caller wants to wait; 0 = not set.

        Returns:
            Time at which it is rejected if it has not started; inf = never.
        """
        if self._queue is None or not URGENT < waiting.level < BULK:
            return math.inf
        policy = self._queue.of(waiting.level)
        seconds = policy.timeout_ms / 1e3
        if policy.allow_timeout_override and timeout:
            seconds = min(seconds, timeout)
        if not seconds:
            return math.inf
        own = math.inf if waiting.deadline is None else waiting.deadline
        until = waiting.arrived + seconds
        # The caller's own deadline is stricter, and reports a different error.
        if until >= own:
            return math.inf
        waiting.deadline = until
        if policy.timeout_action == "delay":
            waiting.then = own
            return math.inf
        waiting.is_policed = True
        return until

    def admit(self, waiting: QueuedRequest) -> QueuedRequest | None:
        """Add a request to the queue; return the request evicted for it, if any.

        Raises:
            Overloaded: the queue is full, or the objective cannot be met.
            DeadlineExceeded: the request's own deadline cannot be met.
        """
        now = waiting.arrived
        if self.is_timed and waiting.level != BULK:
            self._now = now
            # Rejected requests count too: the rate is the offered load.
            self._rate.add(waiting.rows, now)
            if waiting.target < math.inf:
                ahead = self.batcher.ahead(waiting)
                law = self.laws.of(waiting.size).law()
                if self._outlook.is_hopeless(waiting.rows, ahead, now, waiting.target, law):
                    if not self._is_worth_a_try(now):
                        raise self.refusal(waiting)
                    # The one that is tried must not be given up in the queue.
                    waiting.target = math.inf
                else:
                    self._try_at = math.inf
        return self.batcher.offer(waiting)

    def foresee(self, came: float, now: float, deadline: float | None) -> None:
        """Refuse a request that has not been decoded yet, if it is certain to be refused as one row.

        Args:
            came: When it came.
            deadline: The caller's own; None = none.

        Raises:
            Overloaded, DeadlineExceeded: as of :meth:`admit`.
        """
        if now - came >= self._refused_age and deadline is None:  # as old as one that was too old
            self._rate.add(1, now)
            raise self._refused
        waiting = QueuedRequest(None, 1, None, now, deadline)
        self.place(waiting, ANYBODY, deadline is not None, came)
        if now < waiting.target:
            if not (self._outlook.is_busy or self.batcher.depth):
                return  # it may be worth a try
            ahead = self.batcher.ahead(waiting)
            if not self._outlook.is_hopeless(1, ahead, now, waiting.target, slack=_HEAD_SLACK):
                return
        if waiting.target < math.inf:
            self._now = now
            self._rate.add(1, now)
            refusal = self.refusal(waiting)
            if deadline is None and now >= waiting.target:
                self._refused, self._refused_age = refusal, now - came
            raise refusal

    def passed(self, rows: int, now: float) -> None:
        """Record rows that arrived and were answered inline."""
        if self.is_timed:
            self._rate.add(rows, now)

    def refusal(self, waiting: QueuedRequest) -> SalverError:
        """Return the error for a request that cannot be answered in time."""
        now = self._now
        law = self.law()
        # Time to work off the queue in full batches on all slots.
        backlog = self.batcher.rows / self._largest * law.seconds(self._largest) / self._slots
        if waiting.deadline is not None and waiting.due >= waiting.deadline - 1e-9:
            left = max(0.0, waiting.deadline - now)
            return DeadlineExceeded(
                f"the deadline cannot be met: {left * 1e3:.0f} ms are left, "
                f"and {self.batcher.depth} requests wait"
            )
        return Overloaded(
            f"the objective of {self.promise * 1e3:g} ms cannot be met: {self.batcher.depth} requests wait",
            fix="Retry later.",
            retry_after=max(law.seconds(self._largest), backlog),
            why="objective",
        )

    # -- events from the engine ----------------------------------------------------------------

    def started(self, batch: Batch, now: float) -> None:
        """Record a batch that starts now, or is planned to."""
        self._refused_age = math.inf
        self._size = batch.members[0].size
        if self.is_timed:
            law = self.law()
            self._outlook.started(batch.rows, now, law)
            planned = now + law.seconds(batch.rows)
            for waiting in batch.members:
                waiting.planned = planned
        if self._limit is not None and batch.reason != "bulk":  # which waits by design
            delay = now - max([w.arrived for w in batch.members])
            self._limit.dispatched(delay, self.batcher.depth + len(batch.members), now)
            self.batcher.max_queue = self._limit.value
            self.batcher.bound = "limit" if self._limit.value < self._most else "queue_full"

    def began(self, planned: float, now: float) -> None:
        """Record that a planned batch starts now."""
        if self.is_timed:
            self._outlook.began(planned, now)

    def ended(self, rows: int, began: float, now: float, ok: bool = True, size: int = 0) -> None:
        """Record the end of a run.

        Args:
            size: Size of its rows, as in :class:`~salver.kernel.engine.waiting.QueuedRequest`.
        """
        self._refused_age = math.inf
        if ok:
            self.laws.of(size).observe(rows, now - began)
        if self.is_timed:
            self._outlook.ended(began)
            if self._try_at < math.inf:
                self._try_at = now + _TRY_PAUSE * (now - began)
        if ok:
            self.batcher.ran(rows, now - began, now)

    def replied(self, waiting: QueuedRequest, now: float) -> None:
        """Record that the caller of a request has received its answer."""
        if waiting.due < math.inf:
            self._reserve.replied(now - waiting.planned, now - waiting.due, self._strain(now) >= 1.0)

    # -- queries -------------------------------------------------------------------------------

    def law(self) -> BatchLaw:
        """Return the batch law of rows such as those of the last batch."""
        return self.laws.of(self._size).law()

    def seconds(self, batch: Batch) -> float:
        """Return the expected seconds of a run."""
        return self.laws.of(batch.members[0].size).law().seconds(batch.rows)

    def looks_ahead(self, now: float) -> bool:
        """Return whether the next batch may be prepared just before an instance becomes idle.

        Yes if a full batch waits or the load exceeds the capacity, so that late arrivals do not wait longer
        for it; no if more urgent requests may arrive, which would.
        """
        if self.waits or self._priorities.levels > 1 or now - self._urgent_at < _QUIET_S:
            return False
        return self.batcher.rows >= self._largest or (self.is_timed and self.load(now) > _SATURATED)

    def resize(self, slots: int) -> None:
        """Set the number of concurrent batches."""
        self._slots = self._outlook.slots = slots

    def load(self, now: float, law: BatchLaw | None = None) -> float:
        """Return offered rows per second divided by the capacity of full batches."""
        seconds = (law or self.law()).seconds(self._largest)
        return self._rate.at(now) * seconds / (self._largest * self._slots)

    def insight(self, now: float) -> Insight:
        """Return figures for operators."""
        law = self.laws.known(self._size).law()
        limit = 0
        if self._limit is not None:
            limit = self._limit.value
        rule = self.policy
        if isinstance(self._chosen, Switching):
            rule = self._chosen.in_force
        if isinstance(self._chosen, LearnedRule) and self._chosen.mode == "greedy":
            rule = "drain"
        return Insight(self.load(now, law), law.a, law.t0, self._reserve.seconds, rule, limit)

    # -- internals -----------------------------------------------------------------------------

    def _rule(self, config: ModelConfig) -> Rule:
        largest = self._largest
        match self.policy:
            case "half-floor":
                return HalfFloor(self._law_of_head, largest)
            case "newest-feasible":
                return NewestFeasible(self._law_of_head, largest)
            case "drop-then-drain":
                return DropThenDrain(self._law_of_head, largest)
            case "auto":
                return Switching(self._law_of_head, largest, self.load)
            case "aimd":
                return Aimd(largest, min(self.promise, config.timeout_ms / 1e3 or math.inf) / 2)
            case _:
                return Window(config.batching)

    def _strain(self, now: float) -> float:
        """Return the fraction of the safety margin to apply.

        Zero while there is spare capacity: a late answer then delays no other request, and a rejection is no
        better. One from the load at which a late request takes another's place.
        """
        return min(max((self.load(now) - _EASY) / (_SATURATED - _EASY), 0.0), 1.0)

    def _law_of_head(self) -> BatchLaw:
        """Return the law of the next request, whose batch has the same shapes."""
        if not self._size:
            return self.laws.usual.law()
        head = self.batcher.head()
        return self.laws.of(head.size if head is not None else self._size).law()

    def _is_worth_a_try(self, now: float) -> bool:
        """Return whether to try a single request on an idle model that rejects everything.

        Otherwise a law distorted by one slow moment would never be corrected.
        """
        if self._outlook.is_busy or self.batcher.depth:
            return False
        if self._try_at == math.inf:
            self._try_at = now + _TRY_S
        return now >= self._try_at

    def _most_bulk(self) -> int:
        rows = self._bulk_rows
        if self._bulk_s < math.inf:
            rows = min(rows, self.law().rows_within(self._bulk_s))
        return rows


def policy_of(config: ModelConfig) -> str:
    """Return the name of the rule; ``auto`` is kept only if there is a promise."""
    policy = config.batching.policy
    if policy != "auto":
        return policy
    if config.objective.latency_p99_ms or config.objective.deadline_ms:
        return "auto"
    if config.batching.enabled and config.batching.max_delay_ms:
        return "window"
    return "drain"
