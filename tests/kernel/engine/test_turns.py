"""Resources that models share: never more is held than there is, and turns are by weight (TR-S9)."""

import asyncio
import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.backends.protocol import Traits
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.thread import ThreadRunner
from salver.kernel.engine.turns import PoolMember, ResourcePool, ResourceTurn
from salver.words.artifacts import ModelConfig, RateLimit
from salver.words.errors import LoadFailed
from salver.words.messages import InferRequest, ModelId, Signature, TensorSpec
from salver.words.tensor import Array, DataType, tensor


class Asker:
    """A model that always has more to run; begins a run whenever it may."""

    def __init__(self, pool: ResourcePool, limits: list[RateLimit], slots: int = 1) -> None:
        self.turns: PoolMember = pool.join(limits, slots, self.begin)
        self.running: list[ResourceTurn] = []
        self.begun = 0

    def begin(self) -> None:
        while any(not turn.is_out for turn in self.turns.instances):
            turn = self.turns.enter()
            if turn is None:
                return
            self.running.append(turn)
            self.begun += 1

    def end(self, index: int = 0) -> None:
        self.turns.leave(self.running.pop(index), wants_more=True)
        self.begin()


@pytest.mark.clause("TR-S9")
@pytest.mark.parametrize("priorities", [(1, 1), (1, 2), (2, 1), (1, 3), (1, 2, 4)])
def test_turns_are_in_inverse_proportion_to_priority(priorities: tuple[int, ...]) -> None:
    pool = ResourcePool({"r": 1})
    askers = [Asker(pool, [RateLimit(1, {"r": 1}, priority)]) for priority in priorities]
    for asker in askers:
        asker.begin()
    for _ in range(240):
        (running,) = [asker for asker in askers if asker.running]
        running.end()
    share = sum(1 / p for p in priorities)
    for asker, priority in zip(askers, priorities, strict=True):
        assert asker.begun == pytest.approx(240 / priority / share, abs=2)


@pytest.mark.clause("TR-S9")
def test_who_needs_much_is_not_starved_by_those_who_need_little() -> None:
    pool = ResourcePool({"r": 4})
    small = [Asker(pool, [RateLimit(1, {"r": 1})]) for _ in range(4)]
    large = Asker(pool, [RateLimit(1, {"r": 4})])
    for asker in (*small, large):
        asker.begin()
    for _ in range(100):
        running = next(asker for asker in (*small, large) if asker.running)
        running.end()
    assert large.begun > 10


@pytest.mark.clause("TR-S9")
def test_other_resources_are_not_waited_for() -> None:
    pool = ResourcePool({"a": 1, "b": 1})
    first, second, other = (Asker(pool, [RateLimit(1, {name: 1})]) for name in "aab")
    for asker in (first, second, other):
        asker.begin()
    assert [asker.begun for asker in (first, second, other)] == [1, 0, 1]


@pytest.mark.clause("TR-F12")
def test_a_resource_without_a_count_has_what_the_neediest_instance_takes() -> None:
    pool = ResourcePool({})
    large, small = (Asker(pool, [RateLimit(1, {"r": count})]) for count in (3, 2))
    large.begin()
    small.begin()
    assert (large.begun, small.begun) == (1, 0)
    large.turns.leave(large.running.pop())
    assert small.begun == 1
    large.turns.close()
    small.turns.leave(small.running.pop())
    assert pool.join([RateLimit(1, {"r": 5})], 1, lambda: None).enter() is not None


@pytest.mark.clause("TR-S9")
def test_more_than_there_is_is_told_at_load_in_tritons_words() -> None:
    with pytest.raises(
        LoadFailed,
        match='Resource count for "r" is limited to 3 which will prevent scheduling of one or more model '
        "instances, the minimum required count is 4",
    ):
        ResourcePool({"r": 3}).join([RateLimit(1, {"r": 4})], 1, lambda: None)


@pytest.mark.clause("TR-C11")
def test_groups_have_needs_of_their_own_and_the_rest_none() -> None:
    pool = ResourcePool({"r": 2})
    asker = Asker(pool, [RateLimit(1, {"r": 2}), RateLimit(2, {"r": 1})], slots=4)
    asker.begin()
    assert sorted(sum(turn.needs.values()) for turn in asker.running) == [0, 2]


def test_who_comes_late_does_not_catch_up() -> None:
    pool = ResourcePool({"r": 1})
    old = Asker(pool, [RateLimit(1, {"r": 1})])
    old.begin()
    for _ in range(100):
        old.end()
    new = Asker(pool, [RateLimit(1, {"r": 1})])
    new.begin()
    for _ in range(20):
        (old if old.running else new).end()
    assert old.begun == pytest.approx(111, abs=2)


def test_who_leaves_while_waiting_holds_up_nobody() -> None:
    pool = ResourcePool({"r": 1})
    first, second, third = (Asker(pool, [RateLimit(1, {"r": 1})]) for _ in range(3))
    for asker in (first, second, third):
        asker.begin()
    second.turns.close()
    first.turns.leave(first.running.pop())
    assert (second.begun, third.begun) == (0, 1)


@pytest.mark.clause("TR-S9")
@settings(max_examples=150)
@given(
    st.lists(
        st.lists(
            st.builds(
                RateLimit,
                st.integers(1, 2),
                st.dictionaries(st.sampled_from("ab"), st.integers(0, 3)),
                st.integers(1, 3),
            ),
            max_size=2,
        ),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40),
)
def test_never_more_is_held_than_there_is_and_all_run_in_the_end(
    models: list[list[RateLimit]], steps: list[tuple[int, int]]
) -> None:
    limits = {"a": 3, "b": 4}
    pool = ResourcePool(limits)
    askers = [Asker(pool, groups, slots=2) for groups in models]

    def held() -> Counter[str]:
        found: Counter[str] = Counter()
        for asker in askers:
            for turn in asker.running:
                found.update(turn.needs)
        return found

    for asker in askers:
        asker.begin()
    ends = [*steps, *((index % len(askers), 0) for index in range(60 * len(askers)))]
    for index, which in ends:
        asker = askers[index % len(askers)]
        if asker.running:
            asker.end(which % len(asker.running))
        now = held()
        assert all(now[name] <= limits[name] for name in limits)
        assert any(asker.running for asker in askers)
    assert all(asker.begun for asker in askers)


# -- engines ----------------------------------------------------------------------------------------


class Counting:
    """Counts how many run at once, over all models that share the counter."""

    signature = Signature(
        (TensorSpec("x", DataType.FP32, (-1, 1)),), (TensorSpec("y", DataType.FP32, (-1, 1)),), batched=True
    )
    lock = threading.Lock()
    now = most = runs = 0

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        with Counting.lock:
            Counting.now += 1
            Counting.most = max(Counting.most, Counting.now)
            Counting.runs += 1
        with Counting.lock:
            Counting.now -= 1
        return {"y": inputs["x"] + 1}

    def close(self) -> None:
        pass


@pytest.mark.clause("TR-S9")
async def test_engines_that_share_one_slot_never_run_side_by_side() -> None:
    Counting.now = Counting.most = Counting.runs = 0
    pool = ResourcePool({"slot": 1})
    engines = []
    for name in ("a", "b", "c"):
        runner = ThreadRunner([Counting()], Traits(native=True), slots=2, name=name)
        loop = asyncio.get_running_loop()
        engine = Engine(ModelId(name, "1"), runner, ModelConfig(), clock=loop.time, emit=lambda _: None)
        engine.share(pool, [RateLimit(2, {"slot": 1})])
        engines.append(engine)

    async def ask(engine: Engine, value: int) -> float:
        given = tensor("x", np.array([[value]], "f4"))
        answer = await engine.infer(InferRequest(engine.id.name, (given,)), sender=None)
        return float(answer.outputs[0].array[0, 0])

    for _ in range(20):
        asked = [(engine, value) for value in range(4) for engine in engines]
        answers = await asyncio.gather(*(ask(engine, value) for engine, value in asked))
        assert answers == [value + 1 for _, value in asked]
    assert Counting.most == 1 and Counting.runs >= 60
    for engine in engines:
        await engine.close()
    assert "0 wait" in repr(pool)
