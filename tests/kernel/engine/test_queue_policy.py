"""Queue policies: who may wait how long, who is refused, and who goes behind (TR-C8, TR-S2)."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import PATIENCE_S

from salver.backends.protocol import Traits
from salver.kernel.engine.batcher import Batcher
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.inorder import in_order
from salver.kernel.engine.schedule import Schedule
from salver.kernel.engine.thread import ThreadRunner
from salver.kernel.engine.waiting import QueuedRequest
from salver.words.artifacts import Batching, ModelConfig, Priorities, Queue, QueuePolicy
from salver.words.errors import DeadlineExceeded, Overloaded, WaitedTooLong
from salver.words.messages import InferRequest, InferResponse, ModelId, Signature, Standing, TensorSpec
from salver.words.tensor import DataType, tensor

DELAY = QueuePolicy(timeout_ms=100, timeout_action="delay")
#: The policies of the recorded model ``prio``.
PRIO = Queue(
    max_size=2,
    timeout_ms=5000,
    allow_timeout_override=True,
    levels={
        1: QueuePolicy(max_size=2, allow_timeout_override=True),
        3: QueuePolicy(max_size=1, timeout_ms=100, timeout_action="delay"),
    },
)


def schedule(queue: Queue, levels: int = 3, max_rows: int = 8) -> Schedule:
    config = ModelConfig(
        batching=Batching(max_rows=max_rows), priorities=Priorities(levels, min(2, levels)), queue=queue
    )
    return Schedule(config, slots=1)


def join(
    plan: Schedule,
    name: object,
    now: float = 0.0,
    level: int = 0,
    timeout: float = 0.0,
    deadline: float | None = None,
    rows: int = 1,
    key: str = "a",
) -> float:
    """A request comes; returns when it is refused if it has not begun."""
    waiting = QueuedRequest(name, rows, key, now, deadline)
    plan.targets.place(waiting, Standing(priority=level))
    until = plan.targets.limit_wait(waiting, timeout)
    plan.admit(waiting)
    return until


def names(batcher: Batcher, now: float) -> list[object]:
    return [w.payload for w in batcher.take(now).members]


@pytest.mark.clause("TR-C8")
@pytest.mark.parametrize(
    ("level", "timeout", "until"),
    [
        (0, 0.0, 5.0),  # the model's default
        (0, 0.1, 0.1),  # shortened
        (0, 9.0, 5.0),  # never made longer
        (1, 0.1, float("inf")),  # no default to shorten
        (3, 0.001, float("inf")),  # no override; and it is delayed, not refused
        (9, 0.1, 0.1),  # a level that there is not is the default level
    ],
)
def test_a_requests_timeout_only_shortens_a_default_that_allows_it(
    level: int, timeout: float, until: float
) -> None:
    assert join(schedule(PRIO), "x", level=level, timeout=timeout) == until


@pytest.mark.clause("TR-C8")
def test_each_level_has_a_size_of_its_own() -> None:
    plan = schedule(PRIO)
    join(plan, "low", level=3)
    for name in ("a", "b"):
        join(plan, name, level=1)
        join(plan, name, level=2)
    for level in (1, 2, 3):
        with pytest.raises(Overloaded, match=r"^Exceeds maximum queue size$"):
            join(plan, "one too many", level=level)
    assert plan.batcher.depth == 5


@pytest.mark.clause("TR-C8")
def test_a_delayed_request_still_takes_its_place_in_the_size() -> None:
    plan = schedule(PRIO, max_rows=1)
    join(plan, "late", level=3)
    join(plan, "first", level=1)
    assert names(plan.batcher, 1.0) == ["first"]
    with pytest.raises(Overloaded):
        join(plan, "another", 1.0, level=3)
    assert names(plan.batcher, 2.0) == ["late"]


@pytest.mark.clause("TR-S2")
def test_who_waited_too_long_goes_behind_the_others_of_its_level() -> None:
    plan = schedule(Queue(timeout_ms=100, timeout_action="delay"), levels=1, max_rows=2)
    for name, now in (("old", 0.0), ("older", 0.01), ("new", 0.2), ("newer", 0.21)):
        join(plan, name, now)
    assert names(plan.batcher, 0.25) == ["new", "newer"]
    join(plan, "newest", 0.26)
    assert names(plan.batcher, 0.27) == ["newest", "old"]
    assert names(plan.batcher, 9.0) == ["older"]
    assert plan.batcher.depth == 0


@pytest.mark.clause("TR-S2")
def test_a_delayed_request_stays_before_lower_levels() -> None:
    plan = schedule(Queue(levels={1: DELAY}), levels=2, max_rows=1)
    join(plan, "high", level=1)
    join(plan, "low", level=2)
    assert names(plan.batcher, 1.0) == ["high"]


def test_a_delayed_request_keeps_its_callers_own_deadline() -> None:
    plan = schedule(Queue(timeout_ms=100, timeout_action="delay"), levels=1)
    assert join(plan, "x", deadline=2.0) == float("inf")
    batch = plan.batcher.take(3.0)
    assert [w.payload for w in batch.expired] == ["x"] and not batch.members and plan.batcher.depth == 0


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("offer"),
            st.integers(1, 3),  # level
            st.integers(1, 4),  # rows
            st.sampled_from("ab"),  # key
            st.sampled_from([None, 0.2, 3.0]),  # the caller's own deadline
        ),
        st.tuples(st.just("take"), st.sampled_from([0.0, 0.05, 0.2, 1.0])),
        st.tuples(st.just("discard"), st.integers(0, 40)),
    ),
    max_size=60,
)


@pytest.mark.clause("TR-C8")
@settings(max_examples=200)
@given(STEPS, st.integers(1, 5))
def test_nothing_is_lost_or_doubled_and_only_deadlines_end_the_delayed(
    steps: list[tuple[object, ...]], max_rows: int
) -> None:
    plan = schedule(Queue(max_size=9, levels={2: DELAY, 3: QueuePolicy(timeout_ms=100)}), max_rows=max_rows)
    batcher, now = plan.batcher, 0.0
    inside: dict[int, QueuedRequest] = {}
    fates: Counter[int] = Counter()
    levels: Counter[int] = Counter()

    def take() -> None:
        batch = batcher.take(now)
        assert len({w.key for w in batch.members}) <= 1
        assert batch.rows == sum(w.rows for w in batch.members)
        fresh = [w.payload for w in batch.members if w.level == 1]
        assert fresh == sorted(fresh)
        for waiting in batch.members:
            late_ok = waiting.level == 2 and waiting.then == 0.0
            assert waiting.deadline is None or waiting.deadline > now or late_ok
        for waiting in batch.expired:
            assert waiting.deadline is not None and waiting.deadline <= now
        for waiting in (*batch.members, *batch.expired):
            fates[waiting.payload] += 1
            levels[waiting.level] -= 1
            del inside[waiting.payload]

    for number, step in enumerate(steps):
        if step[0] == "offer":
            _, level, rows, key, left = step
            deadline = None if left is None else now + left  # type: ignore[operator]
            waiting = QueuedRequest(number, rows, key, now, deadline)  # type: ignore[arg-type]
            plan.targets.place(waiting, Standing(priority=level))  # type: ignore[arg-type]
            plan.targets.limit_wait(waiting, 0.0)
            if level == 1 and levels[1] == 9:
                with pytest.raises(Overloaded):
                    plan.admit(waiting)
                continue
            plan.admit(waiting)
            inside[number] = waiting
            levels[waiting.level] += 1
        elif step[0] == "take":
            now += step[1]  # type: ignore[operator]
            take()
        elif step[1] in inside:
            gone = inside.pop(step[1])  # type: ignore[arg-type]
            assert batcher.discard(gone) and not batcher.discard(gone)
            levels[gone.level] -= 1
        assert batcher.depth == len(inside) == len(list(batcher))
        assert batcher.rows_waiting == sum(w.rows for w in inside.values())
    while inside:
        before = len(inside)
        take()
        assert len(inside) < before
    assert set(fates.values()) <= {1}


# -- in the engine ----------------------------------------------------------------------------------


class Held:
    """Answers one more than it is asked; waits at a gate."""

    signature = Signature(
        (TensorSpec("x", DataType.INT32, (-1, 1)),), (TensorSpec("y", DataType.INT32, (-1, 1)),), batched=True
    )

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.seen: list[list[int]] = []

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
        self.gate.wait(PATIENCE_S)
        self.seen.append(inputs["x"].ravel().tolist())
        return {"y": inputs["x"] + 1}

    def close(self) -> None:
        pass


def asked(value: int, timeout: int = 0) -> InferRequest:
    parameters = {"timeout": timeout} if timeout else {}
    return InferRequest("m", (tensor("x", np.array([[value]], "i4")),), parameters=parameters)


async def start(
    queue: Queue, max_rows: int = 64, clock: Callable[[], float] | None = None
) -> tuple[Held, Engine, "asyncio.Task[InferResponse]"]:
    """An engine whose only instance is busy with the request 0."""
    model = Held()
    engine = Engine(
        ModelId("m", "1"),
        ThreadRunner([model], Traits(), slots=1),
        ModelConfig(batching=Batching(max_rows=max_rows), queue=queue),
        clock=clock or asyncio.get_running_loop().time,
        emit=lambda _: None,
    )
    blocker = asyncio.create_task(engine.infer(asked(0)))
    while not engine.running:
        await asyncio.sleep(0)
    return model, engine, blocker


@pytest.mark.clause("TR-R23")
async def test_time_to_wait_is_over_and_the_run_under_way_goes_on() -> None:
    model, engine, blocker = await start(Queue(timeout_ms=20, allow_timeout_override=True))
    with pytest.raises(WaitedTooLong, match="Request timeout expired"):
        await engine.infer(asked(1, timeout=1000))
    with pytest.raises(WaitedTooLong, match="Request timeout expired"):
        await engine.infer(asked(2))
    with pytest.raises(DeadlineExceeded) as caught:  # the caller's own is sooner
        await engine.infer(asked(3), asyncio.get_running_loop().time() + 0.001)
    assert caught.type is DeadlineExceeded
    assert engine.queued == 0 and not blocker.done()  # its own 20 ms are over, too
    model.gate.set()
    assert (await blocker).outputs[0].array.tolist() == [[1]]
    await engine.close()
    assert model.seen == [[0]]


@pytest.mark.clause("TR-R23")
async def test_without_a_default_a_requests_timeout_is_ignored() -> None:
    model, engine, blocker = await start(Queue(allow_timeout_override=True))
    other = asyncio.create_task(engine.infer(asked(1, timeout=1)))
    for value in range(2, 4):  # and others come and go meanwhile
        with pytest.raises(DeadlineExceeded):
            await engine.infer(asked(value), asyncio.get_running_loop().time() + 0.01)
    assert not other.done()
    model.gate.set()
    await blocker
    assert (await other).outputs[0].array.tolist() == [[2]]
    await engine.close()


@pytest.mark.clause("TR-C8")
async def test_the_delayed_run_last() -> None:
    queue = Queue(timeout_ms=20, timeout_action="delay", allow_timeout_override=True)
    now = 0.0
    model, engine, blocker = await start(queue, 1, lambda: now)
    late = asyncio.create_task(engine.infer(asked(1, timeout=1)))
    await asyncio.sleep(0)
    now = 0.01
    fresh = asyncio.create_task(engine.infer(asked(2)))
    await asyncio.sleep(0)
    assert engine.queued == 2
    model.gate.set()
    await asyncio.gather(blocker, late, fresh)
    await engine.close()
    assert model.seen == [[0], [2], [1]]


@pytest.mark.clause("TR-R30")
async def test_the_full_queue_names_the_request() -> None:
    model, engine, blocker = await start(Queue(max_size=1))
    waits = asyncio.create_task(engine.infer(asked(1)))
    while not engine.queued:
        await asyncio.sleep(0)
    with pytest.raises(Overloaded) as caught:
        await engine.infer(asked(2))
    assert (str(caught.value), caught.value.about) == ("Exceeds maximum queue size", "")
    model.gate.set()
    await asyncio.gather(blocker, waits)
    await engine.close()


@pytest.mark.clause("TR-S2")
async def test_who_is_found_too_late_is_told_so_as_well() -> None:
    now = 0.0
    model, engine, blocker = await start(Queue(timeout_ms=20), 1, lambda: now)
    late = asyncio.create_task(engine.infer(asked(1)))
    await asyncio.sleep(0)
    now = 1.0  # ahead of the loop's own timer
    model.gate.set()
    await blocker
    with pytest.raises(WaitedTooLong, match="Request timeout expired"):
        await late
    await engine.close()
    assert model.seen == [[0]]


@pytest.mark.clause("TR-S1")
async def test_one_queue_of_which_instances_take_by_themselves() -> None:
    model = Held()
    engine = Engine(
        ModelId("m", "1"),
        ThreadRunner([model], Traits(), slots=3),
        ModelConfig(batching=Batching(max_rows=1)),
        clock=asyncio.get_running_loop().time,
        emit=lambda _: None,
    )
    asking = [asyncio.create_task(engine.infer(asked(value))) for value in range(7)]
    while engine.running < 3:
        await asyncio.sleep(0)
    assert engine.queued == 4
    model.gate.set()
    answers = await asyncio.gather(*asking)
    await engine.close()
    assert [answer.outputs[0].array.tolist() for answer in answers] == [[[value + 1]] for value in range(7)]
    assert sorted(value for run in model.seen for value in run) == list(range(7))


# -- preserve_ordering ------------------------------------------------------------------------------


@pytest.mark.clause("TR-C8")
@settings(max_examples=100)
@given(st.permutations(range(6)), st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)))
def test_answers_go_out_in_the_order_of_their_requests(
    done: list[int], fail: set[int], cancel: set[int]
) -> None:
    async def main() -> None:
        futures = [asyncio.get_running_loop().create_future() for _ in done]
        seen: list[int] = []

        async def ask(number: int) -> int:
            return await futures[number]  # type: ignore[no-any-return]

        ordered = in_order(ask)

        async def caller(number: int) -> None:
            seen.append(await ordered(number))

        tasks = [asyncio.create_task(caller(number)) for number in range(len(done))]
        await asyncio.sleep(0)
        for number in done:
            if number in cancel:
                tasks[number].cancel()
            elif number in fail:
                futures[number].set_exception(DeadlineExceeded("late"))
            else:
                futures[number].set_result(number)
            await asyncio.sleep(0)
        await asyncio.wait(tasks, timeout=PATIENCE_S)
        assert all(task.done() for task in tasks)
        ended = [t for t in tasks if not t.cancelled() and t.exception() is not None]
        assert len(ended) == len(fail - cancel)
        assert seen == [number for number in range(len(done)) if number not in fail | cancel]

    asyncio.run(main())
