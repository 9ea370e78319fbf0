"""Queue, batching rule, promise and limits of one model version.

Combines, from the configuration: queue, rule, batch law, admission outlook and adaptive limit. Pure: the
engine and the tests report events with their times.
"""

import functools
import math
from typing import TYPE_CHECKING, NamedTuple

from salver.kernel.engine.batcher import Batcher
from salver.kernel.engine.outlook import SATURATED, Load, Outlook
from salver.kernel.engine.rules import Aimd, DropThenDrain, HalfFloor, NewestFeasible, Rule, Switching, Window
from salver.kernel.engine.targets import Targets
from salver.kernel.engine.waiting import BULK, Batch, QueuedRequest
from salver.stats.batch_law import BatchLaw
from salver.stats.shape_laws import ShapeLaws
from salver.words.artifacts import Bulk, ModelConfig
from salver.words.errors import DeadlineExceeded, Overloaded, SalverError
from salver.words.messages import ANYBODY, Insight

if TYPE_CHECKING:
    from salver.kernel.engine.limit import Limit


#: Averaging time of the arrival rate, in promises, with minimum and maximum.
_RATE_MEMORY, _LEAST_MEMORY_S, _MOST_MEMORY_S = 10.0, 0.25, 2.0
#: When everything has been rejected for this long, an idle instance tries one request, because only runs
#: correct a law; then it pauses for this multiple of the run.
_TRY_S, _TRY_PAUSE = 1.0, 4.0
#: Batches of the rows ahead that may still be given up, as a request is refused by its head: those that are
#: let in and given up later have been decoded, at two to four times the cost.
_HEAD_SLACK = 0.5
#: Share by which the batches ahead may take longer than the law says: reading and decoding go on beside them.
_HEAD_MARGIN = 0.25
#: Seconds from the head of a small request to its admission.
_AT_ONCE_S = 1e-4
_QUIET_S = 10.0  # time without urgent requests before batches are prepared ahead again


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
        load: Rate of arrivals, batch laws and capacity.
        targets: Levels and target times of requests.
        policy: Name of the rule.
        foresees: Requests may be refused before they are decoded (:meth:`foresee`).
        is_timed: Requests may have a time by which they must be answered, or the rate is needed.
        waits: The rule may let requests wait although an instance is idle.
    """

    def __init__(
        self, config: ModelConfig, slots: int, laws: ShapeLaws | None = None, learned: Rule | None = None
    ) -> None:
        promise = (config.objective.latency_p99_ms or config.objective.deadline_ms or math.inf) / 1e3
        memory = min(max(_LEAST_MEMORY_S, _RATE_MEMORY * promise), _MOST_MEMORY_S)
        is_scaled = config.instances.max_count > 0
        if is_scaled:
            memory = _LEAST_MEMORY_S  # the scaler averages by itself, and must see a step of load at once
        self.load = Load(laws or ShapeLaws(), slots, config.batching.largest_run, memory)
        self.targets = Targets(config, promise, self.load)
        self._outlook = Outlook(self.load)
        self._refused: SalverError = Overloaded("")  # the last one that was foreseen
        self._refused_age = math.inf  # seconds since that request came
        self._asked = QueuedRequest(None, 1, None, 0.0, None)  # stands for one that is not decoded yet
        self.targets.place(self._asked, ANYBODY)
        self._foreseen = math.inf  # target of the last request that passed, until one is admitted
        self._try_at = math.inf  # set while all requests are rejected, even with no run and no queue
        self.policy = policy_of(config)
        self.waits = self.policy in ("window", "learned")
        self.foresees = promise < math.inf and config.priorities.levels == 1
        has_promise = self.policy not in ("drain", "window", "learned") or promise < math.inf
        self.is_timed = has_promise or is_scaled  # by the rate
        self._chosen = learned or self._rule(config)
        bulk_rows = functools.partial(_bulk_rows, config.bulk, promise, self.load)
        self.batcher = Batcher(config, self._chosen, bulk_rows)
        self._may_look_ahead = not self.waits and config.priorities.levels == 1
        self._limit = _limit_of(config) if config.limit.target_delay_ms else None

    def __repr__(self) -> str:
        return f"<Schedule {self.policy}, {self.batcher.depth} queued>"

    def admit(self, waiting: QueuedRequest) -> QueuedRequest | None:
        """Add a request to the queue; return the request evicted for it, if any.

        Raises:
            Overloaded: the queue is full, or the objective cannot be met.
            DeadlineExceeded: the request's own deadline cannot be met.
        """
        now = waiting.arrived
        if self.is_timed and waiting.level != BULK:
            # Rejected requests count too: the rate is the offered load.
            self.load.rate.add(waiting.rows, now)
            if waiting.target < math.inf:
                if self._was_foreseen(waiting) or not self._is_hopeless(waiting, now):
                    self._try_at = math.inf
                elif self._is_worth_a_try(now):
                    # The one that is tried must not be given up in the queue.
                    waiting.target = math.inf
                else:
                    raise self.refusal(waiting, now)
        self._foreseen = math.inf
        return self.batcher.offer(waiting)

    def _was_foreseen(self, waiting: QueuedRequest) -> bool:
        """Return whether the request is the one that :meth:`foresee` has just let pass, or as good."""
        return waiting.rows == 1 and not waiting.size and 0 <= waiting.target - self._foreseen < _AT_ONCE_S

    def _is_hopeless(self, waiting: QueuedRequest, now: float) -> bool:
        law = self.load.laws.of(waiting.size).law()
        ahead = self.batcher.ahead(waiting)
        return self._outlook.is_hopeless(waiting.rows, ahead, now, waiting.target, law)

    def foresee(self, came: float, now: float, deadline: float | None) -> None:
        """Refuse a request that has not been decoded yet, if it is certain to be refused as one row.

        Args:
            came: When it came.
            deadline: The caller's own; None = none.

        Raises:
            Overloaded, DeadlineExceeded: as of :meth:`admit`.
        """
        if now - came >= self._refused_age and deadline is None:  # as old as one that was too old
            self.load.rate.add(1, now)
            raise self._refused.with_traceback(None)  # which keeps frames alive, and the bodies in them
        waiting = self._asked  # the same one each time, as it is asked of each request
        waiting.arrived, waiting.deadline = now, deadline
        waiting.due = waiting.target = math.inf
        self.targets.limit(waiting, deadline is not None, came)
        self._foreseen = math.inf
        if now < waiting.target:
            if not (self._outlook.is_busy or self.batcher.depth):
                return  # it may be worth a try
            ahead = self.batcher.ahead(waiting)
            if not self._outlook.is_hopeless(
                1, ahead, now, waiting.target, slack=_HEAD_SLACK, margin=_HEAD_MARGIN
            ):
                self._foreseen = waiting.target
                return
        if waiting.target < math.inf:
            self.load.rate.add(1, now)
            refusal = self.refusal(waiting, now)
            if deadline is None and isinstance(refusal, Overloaded):
                refusal.recur = self.load.rate.add
                if now >= waiting.target:
                    self._refused, self._refused_age = refusal, now - came
            raise refusal

    def passed(self, rows: int, now: float) -> None:
        """Record rows that arrived and were answered inline."""
        if self.is_timed:
            self.load.rate.add(rows, now)

    def refusal(self, waiting: QueuedRequest, now: float) -> SalverError:
        """Return the error for a request that cannot be answered in time."""
        load = self.load
        full = load.law().seconds(load.largest)
        # Time to work off the queue in full batches on all slots.
        backlog = self.batcher.rows / load.largest * full / load.slots
        if waiting.deadline is not None and waiting.due >= waiting.deadline - 1e-9:
            left = max(0.0, waiting.deadline - now)
            return DeadlineExceeded(
                f"the deadline cannot be met: {left * 1e3:.0f} ms are left, "
                f"and {self.batcher.depth} requests wait"
            )
        return Overloaded(
            f"the objective of {self.targets.promise * 1e3:g} ms cannot be met: "
            f"{self.batcher.depth} requests wait",
            fix="Retry later.",
            retry_after=max(full, backlog),
            why="objective",
        )

    # -- events from the engine ----------------------------------------------------------------

    def started(self, batch: Batch, now: float) -> None:
        """Record a batch that starts now, or is planned to."""
        self._refused_age = math.inf
        self.load.size = batch.members[0].size
        if self.is_timed:
            law = self.load.law()
            self._outlook.started(batch.rows, now, law)
            planned = now + law.seconds(batch.rows)
            for waiting in batch.members:
                waiting.planned = planned
        if self._limit is not None and batch.reason != "bulk":  # which waits by design
            delay = now - max([w.arrived for w in batch.members])
            self._limit.dispatched(delay, self.batcher.depth + len(batch.members), now)
            self.batcher.max_queue = self._limit.value
            self.batcher.bound = "limit" if self._limit.is_reduced else "queue_full"

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
            self.load.laws.of(size).observe(rows, now - began)
        if self.is_timed:
            self._outlook.ended(began)
            if self._try_at < math.inf:
                self._try_at = now + _TRY_PAUSE * (now - began)
        if ok:
            self.batcher.ran(rows, now - began, now)

    def looks_ahead(self, now: float) -> bool:
        """Return whether the next batch may be prepared just before an instance becomes idle.

        Yes if a full batch waits or the load exceeds the capacity, so that late arrivals do not wait longer
        for it; no if more urgent requests may arrive, which would.
        """
        if not self._may_look_ahead or now - self.targets.urgent_at < _QUIET_S:
            return False
        return self.batcher.rows >= self.load.largest or (self.is_timed and self.load.at(now) > SATURATED)

    def insight(self, now: float) -> Insight:
        """Return figures for operators."""
        law = self.load.laws.known(self.load.size).law()
        limit = 0
        if self._limit is not None:
            limit = self._limit.value
        rule = self.policy
        if isinstance(self._chosen, Switching):
            rule = self._chosen.in_force
        if rule == "learned":
            from salver.kernel.engine.learned import LearnedRule

            if isinstance(self._chosen, LearnedRule) and self._chosen.mode == "greedy":
                rule = "drain"
        return Insight(self.load.at(now, law), law.a, law.t0, self.targets.reserve.seconds, rule, limit)

    # -- internals -----------------------------------------------------------------------------

    def _rule(self, config: ModelConfig) -> Rule:
        largest = self.load.largest
        match self.policy:
            case "half-floor":
                return HalfFloor(self._law_of_head, largest)
            case "newest-feasible":
                return NewestFeasible(self._law_of_head, largest)
            case "drop-then-drain":
                return DropThenDrain(self._law_of_head, largest)
            case "auto":
                return Switching(self._law_of_head, largest, self.load.at)
            case "aimd":
                return Aimd(largest, min(self.targets.promise, config.timeout_ms / 1e3 or math.inf) / 2)
            case _:
                return Window(config.batching)

    def _law_of_head(self) -> BatchLaw:
        """Return the law of the next request, whose batch has the same shapes."""
        if not self.load.size:
            return self.load.laws.usual.law()
        head = self.batcher.head()
        return self.load.laws.of(head.size if head is not None else self.load.size).law()

    def _is_worth_a_try(self, now: float) -> bool:
        """Return whether to try a single request on an idle model that rejects everything.

        Otherwise a law distorted by one slow moment would never be corrected.
        """
        if self._outlook.is_busy or self.batcher.depth:
            return False
        if self._try_at == math.inf:
            self._try_at = now + _TRY_S
        return now >= self._try_at


def _limit_of(config: ModelConfig) -> "Limit":
    from salver.kernel.engine.limit import Limit

    return Limit(config.limit, config.batching.max_queue)


def _bulk_rows(bulk: Bulk, promise: float, load: Load) -> int:
    """Return the maximum rows of a bulk batch."""
    rows = bulk.max_rows or load.largest
    seconds = bulk.max_run_ms / 1e3 or promise / 2
    if seconds < math.inf:
        rows = min(rows, load.law().rows_within(seconds))
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
