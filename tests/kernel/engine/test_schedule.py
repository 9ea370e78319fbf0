"""A model version's promises: whose target is what, who is refused and how, and what a bad law does."""

import math
from typing import Any

import numpy as np
import pytest
from exact_overload import CAPACITY, LARGEST, LAW, poisson_at, service
from scheduled import drive

from salver.kernel.engine.outlook import Outlook
from salver.kernel.engine.schedule import Schedule, policy_of
from salver.kernel.engine.waiting import BULK, URGENT, Batch, QueuedRequest
from salver.stats.batch_law import BatchLaw, LiveLaw
from salver.stats.shape_laws import ShapeLaws
from salver.words.artifacts import Batching, Bulk, Limit, ModelConfig, Objective, Policy, Priorities
from salver.words.errors import DeadlineExceeded, Overloaded
from salver.words.messages import ANYBODY, Standing


def schedule(slots: int = 1, known: BatchLaw | None = LAW, **config: object) -> Schedule:
    config.setdefault("batching", Batching(max_rows=LARGEST, max_queue=1000))
    return Schedule(ModelConfig(**config), slots, ShapeLaws(LiveLaw(known)))  # type: ignore[arg-type]


def waiting(now: float = 0.0, deadline: float | None = None, rows: int = 1) -> QueuedRequest:
    return QueuedRequest(None, rows, None, now, deadline)


def placed(
    plan: Schedule,
    now: float = 0.0,
    deadline: float | None = None,
    standing: Standing = ANYBODY,
    brings_deadline: bool = True,
) -> QueuedRequest:
    item = waiting(now, deadline)
    plan.targets.place(item, standing, brings_deadline)
    return item


def run(plan: Schedule, now: float, seconds: float, rows: int = 1) -> None:
    """One run that began then and took so long."""
    plan.started(Batch([waiting(now)], rows, "drain", []), now)
    plan.ended(rows, now, now + seconds)


def strained(plan: Schedule, now: float) -> Schedule:
    """All of its capacity has been asked for, for a while."""
    for step in range(2000):
        plan.passed(1, now + (step - 2000) / CAPACITY)
    return plan


def replied(plan: Schedule, now: float, latency: float, excess: float) -> None:
    """One answer, so long after it was asked for and after it was planned."""
    item = placed(plan, now - latency)
    item.planned = now - excess
    plan.targets.replied(item, now)


def test_rows_of_different_sizes_have_laws_of_their_own() -> None:
    """A row of 1,024 elements takes 20 ms and one of 64 takes 1 ms; each run beside 4 ms."""
    plan = schedule(objective=Objective(latency_p99_ms=50), known=None)

    def sized(size: int, now: float = 0.0) -> QueuedRequest:
        item = waiting(now)
        item.size, item.key = size, size
        plan.targets.place(item, ANYBODY)
        return item

    now = 0.0
    for step in range(400):
        size, rows = ((64, 1 + step % 8), (1024, 1 + step % 2))[step // 4 % 2]
        seconds = 0.004 + (0.001 if size == 64 else 0.020) * rows
        plan.started(Batch([sized(size, now)], rows, "drain", []), now)
        plan.ended(rows, now, now + seconds, size=size)
        now += seconds
    for size, a in ((64, 0.001), (1024, 0.020)):
        law = plan.load.laws.of(size).law()
        assert [law.seconds(n) for n in (1, 2)] == pytest.approx([0.004 + a, 0.004 + 2 * a], rel=0.05)
    for size, fit in ((1024, 2), (64, 20)):  # 50 ms allow two of the large, and any 20 of the small
        for _ in range(20):
            plan.batcher.offer(sized(size, now))
        batch = plan.batcher.take(now)
        assert (len(batch.members), {w.size for w in batch.members}) == (fit, {size})
        for left in list(plan.batcher):
            plan.batcher.discard(left)
    plan.started(Batch([sized(64, now)], 8, "drain", []), now)  # idle again in 12 ms
    plan.admit(sized(64, now))
    late = sized(1024, now)
    late.target = now + 0.030
    with pytest.raises(Overloaded):
        plan.admit(late)


def test_a_promise_counts_from_when_the_request_came() -> None:
    plan = schedule(objective=Objective(latency_p99_ms=50))
    late = waiting(1.0)
    plan.targets.place(late, ANYBODY, came=0.98)
    assert late.due == pytest.approx(1.03)
    assert placed(plan, 1.0).due == pytest.approx(1.05)


@pytest.mark.parametrize(
    ("came", "running", "waits", "is_refused"),
    [
        (1.0, 0, 0, False),  # at once
        (0.96, 0, 0, False),  # no run has shown yet that it is too late
        (0.94, 0, 0, True),  # its time is over
        (1.0, 8, 0, False),
        (0.965, 8, 0, True),  # the run ends in 12 ms, its own would 5 ms later
        (1.0, 8, 2 * LARGEST - 1, False),  # half of a run may be given up
        (1.0, 8, 2 * LARGEST, True),  # two runs of 36 ms are before its own
    ],
)
def test_a_request_is_refused_before_it_is_decoded_if_it_can_only_be_late(
    came: float, running: int, waits: int, is_refused: bool
) -> None:
    plan = schedule(objective=Objective(latency_p99_ms=50))
    if running:
        plan.started(Batch([waiting(1.0)], running, "drain", []), 1.0)
    for _ in range(waits):
        plan.batcher.offer(placed(plan, 1.0))
    before = plan.load.at(1.0)
    if is_refused:
        with pytest.raises(Overloaded) as refused:
            plan.foresee(came, 1.0, None)
        assert refused.value.why == "objective"
    else:
        plan.foresee(came, 1.0, None)
    assert (plan.load.at(1.0) > before) == is_refused  # who is not refused is counted when it is admitted


def test_only_a_refusal_for_age_alone_is_used_again() -> None:
    plan = schedule(objective=Objective(latency_p99_ms=50))
    plan.started(Batch([waiting(1.0)], 8, "drain", []), 1.0)
    with pytest.raises(Overloaded):
        plan.foresee(0.965, 1.005, None)  # the run ends too late for it
    plan.foresee(0.975, 1.015, None)  # and not for one that is as old by then
    with pytest.raises(Overloaded) as first:
        plan.foresee(0.95, 1.005, None)
    with pytest.raises(Overloaded) as second:
        plan.foresee(0.956, 1.011, None)
    assert second.value is first.value
    with pytest.raises(Overloaded) as third:
        plan.foresee(0.95, 1.012, None)
    assert len(third.traceback) == len(second.traceback)  # else all frames that have seen it would stay


def test_a_deadline_that_cannot_be_met_is_told_as_such_before_it_is_decoded() -> None:
    plan = schedule(objective=Objective(latency_p99_ms=50))
    plan.started(Batch([waiting(1.0)], 8, "drain", []), 1.0)
    with pytest.raises(DeadlineExceeded):
        plan.foresee(1.0, 1.0, 1.01)


def test_levels_and_models_without_a_promise_decide_when_the_request_is_known() -> None:
    assert schedule(objective=Objective(latency_p99_ms=50)).foresees
    assert not schedule(objective=Objective()).foresees
    assert not schedule(objective=Objective(latency_p99_ms=50), priorities=Priorities(levels=2)).foresees


def test_the_objective_and_the_callers_deadline_bound_the_target() -> None:
    plan = schedule(objective=Objective(latency_p99_ms=50))
    assert placed(plan, 1.0).target == pytest.approx(1.05)
    assert placed(plan, 1.0, deadline=1.02).target == pytest.approx(1.02)
    assert placed(plan, 1.0, deadline=9.0).target == pytest.approx(1.05)


def test_a_default_deadline_is_for_those_that_bring_none() -> None:
    plan = schedule(objective=Objective(deadline_ms=50))
    assert placed(plan, 1.0).target == pytest.approx(1.05)
    assert placed(plan, 1.0, deadline=9.0).target == 9.0
    assert placed(plan, 1.0, deadline=9.0, brings_deadline=False).target == pytest.approx(1.05)


def test_without_a_promise_only_deadlines_count_and_only_where_the_rule_knows_time() -> None:
    assert placed(schedule(batching=Batching(policy="half-floor"))).target == math.inf
    assert placed(schedule(batching=Batching(policy="half-floor")), deadline=2.0).target == 2.0
    assert not schedule().is_timed
    assert schedule(batching=Batching(policy="drop-then-drain")).is_timed


def test_levels_are_named_defaulted_and_bounded() -> None:
    plan = schedule(priorities=Priorities(levels=3))
    levels = [placed(plan, standing=Standing(priority=n)).level for n in (0, 1, 3, 9)]
    assert levels == [2, 1, 3, 2]  # one that there is not counts as none
    assert placed(schedule(priorities=Priorities(levels=3, default=3))).level == 3
    # A key bounds the level, by the model's default if it names none.
    for priority, expected in ((0, [2, 2, 3, 2]), (1, levels), (3, [3, 3, 3, 3]), (9, [3, 3, 3, 3])):
        granted = Standing(priority=priority)
        asked = [Standing(priority=n, granted=granted) for n in (0, 1, 3, 9)]
        assert [placed(plan, standing=each).level for each in asked] == expected
    assert placed(plan, standing=Standing(service="urgent")).level == URGENT
    bulk = placed(schedule(objective=Objective(latency_p99_ms=50)), standing=Standing("t", service="bulk"))
    assert (bulk.level, bulk.target, bulk.tenant) == (BULK, math.inf, "t")


@pytest.mark.parametrize(
    ("config", "policy"),
    [
        (ModelConfig(), "drain"),
        (ModelConfig(batching=Batching(max_delay_ms=5)), "window"),
        (ModelConfig(batching=Batching(enabled=False, max_delay_ms=5)), "drain"),
        (ModelConfig(objective=Objective(latency_p99_ms=5)), "auto"),
        (ModelConfig(objective=Objective(deadline_ms=5)), "auto"),
        (ModelConfig(objective=Objective(throughput=True)), "drain"),
        (ModelConfig(batching=Batching(policy="aimd"), objective=Objective(latency_p99_ms=5)), "aimd"),
    ],
)
def test_auto_stands_for_a_rule(config: ModelConfig, policy: str) -> None:
    assert policy_of(config) == policy


def test_a_refusal_says_whose_wish_it_was() -> None:
    plan = schedule(objective=Objective(latency_p99_ms=50))
    plan.started(Batch([waiting()], LARGEST, "full", []), 0.0)
    own = placed(plan, 0.001, deadline=0.04)
    with pytest.raises(DeadlineExceeded, match="39 ms are left, and 0 requests wait"):
        plan.admit(own)
    tight = schedule(objective=Objective(latency_p99_ms=38))
    tight.started(Batch([waiting()], LARGEST, "full", []), 0.0)
    with pytest.raises(Overloaded, match="the objective of 38 ms cannot be met") as caught:
        tight.admit(placed(tight, 0.0))
    assert caught.value.retry_after == pytest.approx(0.036)
    assert caught.value.why == "objective"


def test_bulk_work_is_never_refused_for_time_and_its_runs_are_bounded() -> None:
    plan = schedule(objective=Objective(latency_p99_ms=50), bulk=Bulk(max_rows=500))
    for _ in range(100):
        plan.admit(placed(plan, standing=Standing(service="bulk")))
    batch = plan.batcher.take(0.0)
    assert (batch.reason, batch.rows) == ("bulk", 21)  # half of the objective
    assert schedule(objective=Objective(latency_p99_ms=50)).load.at(0.0) == 0.0
    bounded = schedule(bulk=Bulk(max_rows=500, max_run_ms=34))
    for _ in range(100):
        bounded.admit(placed(bounded, standing=Standing(service="bulk")))
    assert bounded.batcher.take(0.0).rows == 30


def test_waiting_bulk_work_does_not_shrink_the_limit() -> None:
    plan = schedule(limit=Limit(10.0, 100.0))
    for step in range(200):
        old = waiting(0.0)
        plan.started(Batch([old], 1, "bulk", []), 1.0 + step * 0.01)
    assert plan.batcher.max_queue == 1000


@pytest.mark.parametrize("slow", [0.2, 0.08])
def test_a_slow_moment_does_not_lock_a_model_out(slow: float) -> None:
    """The first runs took longer than the objective: all is refused, and no run would tell otherwise."""
    plan = schedule(objective=Objective(latency_p99_ms=50), known=None)
    for step in range(80):
        run(plan, step * slow, slow)
    begin = 80 * slow
    rate = 0.4 * CAPACITY
    outcome = drive(plan, (begin + poisson_at(rate, int(10 * rate), 3)).tolist(), service)
    assert np.isnan(outcome.latency[outcome.arrivals < begin + 0.9]).all()  # it believes what it has seen
    assert outcome.part(outcome.arrivals > begin + 5.0).in_time(0.05) > 0.99


def test_a_reserve_does_not_forbid_what_the_law_allows_on_an_idle_model() -> None:
    plan = strained(schedule(objective=Objective(latency_p99_ms=15), known=LAW), 1.0)
    for _ in range(2000):
        replied(plan, now=1.0, latency=0.1, excess=0.09)
    assert placed(plan, 1.0).target == pytest.approx(1.01125)  # a quarter of the objective and no more
    assert plan.admit(placed(plan, 1.0)) is None
    assert plan.batcher.take(1.0).rows == 1


def test_an_impossible_deadline_is_refused_at_once_and_every_time_beside_possible_ones() -> None:
    plan = schedule(objective=Objective(latency_p99_ms=50))
    for step in range(500):
        now = step * 0.05
        with pytest.raises(DeadlineExceeded):
            plan.admit(placed(plan, now, deadline=now + 0.004))
        plan.admit(placed(plan, now))
        batch = plan.batcher.take(now)
        plan.started(batch, now)
        plan.ended(batch.rows, now, now + 0.005)


def test_the_time_of_replies_is_taken_off_the_target_where_there_is_no_capacity_to_spare() -> None:
    plan = schedule(objective=Objective(latency_p99_ms=50))
    for _ in range(2000):
        replied(plan, now=1.0, latency=0.02, excess=0.004)
    assert placed(plan, 1.0).target == pytest.approx(1.05)  # a refusal would be as bad as a late answer
    strained(plan, 1.0)
    later = 1.002  # the strain is computed once a millisecond
    assert placed(plan, later).target == pytest.approx(later + 0.044, abs=1e-4)  # 4 % for what is not seen


def test_a_request_that_has_just_been_foreseen_is_not_judged_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = schedule(objective=Objective(latency_p99_ms=50), known=LAW)
    judged: list[float] = []
    judge = Outlook.is_hopeless

    def noting(*given: Any, **more: Any) -> bool:
        judged.append(given[3])
        return judge(*given, **more)

    monkeypatch.setattr(Outlook, "is_hopeless", noting)
    plan.admit(placed(plan, 1.0))  # so that something waits
    judged.clear()
    plan.foresee(1.0, 1.0, None)
    plan.admit(placed(plan, 1.00001))
    assert len(judged) == 1
    plan.admit(placed(plan, 1.00002))
    assert len(judged) == 2, "another one"
    for now, rows, deadline in ((1.0, 2, None), (1.0, 1, 1.04), (1.001, 1, None)):
        judged.clear()
        plan.foresee(1.0, 1.0, None)
        item = placed(plan, now, deadline)
        item.rows = rows
        plan.admit(item)
        assert len(judged) == 2, "larger, in a hurry, or later"


def test_a_batch_is_made_ready_only_where_it_makes_nobody_wait_longer() -> None:
    plan = schedule(objective=Objective(latency_p99_ms=50))
    assert not plan.looks_ahead(0.0)
    for step in range(5000):
        plan.passed(1, step / CAPACITY)
    now = 5000 / CAPACITY
    assert plan.looks_ahead(now)  # all of the capacity is asked for
    placed(plan, now, standing=Standing(service="urgent"))
    assert not plan.looks_ahead(now + 9.0)
    idle = schedule()
    for _ in range(LARGEST - 1):
        idle.admit(placed(idle))
    assert not idle.looks_ahead(0.0)
    idle.admit(placed(idle))
    assert idle.looks_ahead(0.0)  # a full batch
    levels = schedule(priorities=Priorities(levels=2))
    for _ in range(LARGEST):
        levels.admit(placed(levels))
    assert not levels.looks_ahead(0.0)  # who is of a higher level may still come


@pytest.mark.parametrize("policy", ["auto", "half-floor", "newest-feasible", "drop-then-drain", "aimd"])
@pytest.mark.parametrize("slots", [1, 3])
def test_mixed_sizes_all_find_one_fate_and_none_is_begun_too_late(policy: Policy, slots: int) -> None:
    rng = np.random.default_rng(5)
    count = 4000
    rows = rng.integers(1, 9, count)
    arrivals = poisson_at(1.5 * slots * CAPACITY / 4.5, count, 6)
    plan = schedule(
        slots,
        objective=Objective(latency_p99_ms=50),
        batching=Batching(policy=policy, max_rows=LARGEST, max_queue=1 << 20),
    )
    outcome = drive(plan, arrivals.tolist(), service, slots=slots, rows=rows.tolist())
    fates = np.stack([outcome.latency, outcome.at_door, outcome.given_up])
    assert ((~np.isnan(fates)).sum(axis=0) == 1).all()
    answered = ~np.isnan(outcome.latency)
    assert rows[answered].sum() == sum(outcome.rows)
    assert max(outcome.rows) <= LARGEST
    if policy != "aimd":
        assert np.nanmax(outcome.latency) <= 0.05 * 1.02
        assert sum(outcome.rows) / arrivals[-1] >= 0.75 * slots * CAPACITY


def test_several_tenants_on_several_slots_lose_nobody() -> None:
    rng = np.random.default_rng(7)
    count = 5000
    standings = [
        Standing(f"t{rng.integers(0, 300)}", int(rng.integers(0, 4)), ("normal", "bulk", "urgent")[n])
        for n in rng.choice(3, count, p=[0.8, 0.15, 0.05])
    ]
    plan = schedule(
        2,
        objective=Objective(latency_p99_ms=100),
        priorities=Priorities(levels=3),
        batching=Batching(max_rows=LARGEST, max_queue=300),
    )
    outcome = drive(plan, poisson_at(3 * CAPACITY, count, 8).tolist(), service, slots=2, standings=standings)
    fates = np.stack([outcome.latency, outcome.at_door, outcome.given_up])
    assert ((~np.isnan(fates)).sum(axis=0) == 1).all()
    assert plan.batcher.depth == 0 and list(plan.batcher) == []
    urgent = outcome.part(np.array([s.service == "urgent" for s in standings]))
    assert urgent.in_time(0.1) == 1.0
