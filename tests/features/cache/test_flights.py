"""Single-flight: one computation for all who ask at the same time, whoever leaves and whatever fails."""

import asyncio
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.features.cache.cached import CachedModel
from salver.features.cache.caching import Caching
from salver.features.cache.flights import Flights
from salver.features.cache.local import LocalCache
from salver.words.errors import Cancelled, DeadlineExceeded, ModelFailed, Overloaded
from salver.words.messages import InferRequest, InferResponse, ModelId
from salver.words.tensor import tensor


class World:
    """Flights with a hand-driven loop and hand-driven computations."""

    def __init__(self):
        self.turns, self.running, self.started, self.stopped = [], [], 0, 0
        self.flights = Flights(self.turns.append)
        self.heard = {}
        self.leaves = {}

    def join(self, number, key):
        def start(done):
            self.started += 1
            entry = (key, number, done)
            self.running.append(entry)

            def stop():
                self.stopped += 1
                self.running.remove(entry)

            return stop

        self.heard[number] = []
        self.leaves[number], _ = self.flights.join(key, start, self.heard[number].append)

    def settle(self):
        while self.turns:
            self.turns.pop(0)()


DOES = st.lists(
    st.tuples(st.sampled_from(["join", "join", "leave", "answer", "fail", "own", "turn"]), st.integers(0, 5)),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(DOES)
def test_any_interleaving_answers_everybody_once_and_computes_a_key_once_at_a_time(does):
    world, number, gone, keys = World(), 0, set(), {}
    for what, which in does:
        if what == "join":
            number += 1
            keys[number] = which % 2
            world.join(number, which % 2)
        elif what == "leave" and number:
            one = which % number + 1
            if not world.heard[one]:
                gone.add(one)
            world.leaves[one]()
        elif what == "turn" and world.turns:
            world.turns.pop(0)()
        elif world.running and what in ("answer", "fail", "own"):
            _, _, done = entry = world.running[which % len(world.running)]
            world.running.remove(entry)
            done({"answer": "x", "fail": ModelFailed("no"), "own": Overloaded("full")}[what])
        running = [key for key, _, _ in world.running]
        assert len(running) == len(set(running))
    world.settle()
    while world.running:  # whoever still waits is answered in the end
        _, _, done = world.running.pop()
        done("x")
        world.settle()
    for one, heard in world.heard.items():
        assert len(heard) == (0 if one in gone else 1)
    assert not len(world.flights)


def test_a_failure_of_the_model_is_everybodys_and_of_a_caller_its_own():
    world = World()
    for number in (1, 2, 3):
        world.join(number, "k")
    late = DeadlineExceeded("late")
    world.running.pop()[2](late)
    world.settle()
    assert (world.heard[1], world.heard[2], world.started) == ([late], [], 2)
    wrong = ModelFailed("no")
    world.running.pop()[2](wrong)
    world.settle()
    assert (world.heard[2], world.heard[3], world.started) == ([wrong], [wrong], 2)


def test_the_run_goes_on_without_the_one_who_started_it_and_ends_without_all():
    world = World()
    for number in (1, 2):
        world.join(number, "k")
    world.leaves[1]()
    assert world.stopped == 0
    world.leaves[2]()
    assert (world.stopped, len(world.flights)) == (1, 0)


def test_what_cannot_be_started_is_a_failure():
    flights, heard = Flights(lambda call: call()), []

    def start(done):
        raise ModelFailed("no")

    flights.join("k", start, heard.append)
    assert [str(each) for each in heard] == ["no"]


ID = ModelId("m", "1")


def ask(value, id=""):
    return InferRequest("m", (tensor("x", np.array([value])),), id=id)


def front(infer, cache=None, post=None):
    caching = Caching(cache or LocalCache(1 << 16), asyncio.get_running_loop().time)
    return caching, CachedModel(caching, infer, ID, "f", sees_parameters=False, post=post)


class Gate:
    """A model that answers when it is told to, and counts its runs."""

    def __init__(self):
        self.runs, self.cancelled, self.open = 0, 0, asyncio.Event()

    async def infer(self, request, deadline=None, sender=None, standing=None):
        self.runs += 1
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return InferResponse("m", "1", (tensor("y", request.inputs[0].array * 2),), request.id)

    def post(self, request, deadline, told, standing=None):
        task = asyncio.get_running_loop().create_task(self.infer(request))
        task.add_done_callback(lambda done: done.cancelled() or told(done.result(), None))
        return task.cancel


@pytest.mark.parametrize("is_posted", [False, True])
@pytest.mark.parametrize("seed", range(5))
async def test_a_thousand_equal_requests_run_once_though_callers_leave_at_any_await(seed, is_posted):
    gate, chance = Gate(), random.Random(seed)
    caching, model = front(gate.infer, post=gate.post if is_posted else None)
    tasks = [asyncio.create_task(model.infer(ask(3, str(number)))) for number in range(1000)]
    leaving = {0, *chance.sample(range(1000), 300)}
    for number in leaving:
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        tasks[number].cancel()
    await asyncio.sleep(0)
    gate.open.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    for number, answer in enumerate(answers):
        if number in leaving:
            assert isinstance(answer, asyncio.CancelledError)
        else:
            assert (answer.id, answer.outputs[0].array.tolist()) == (str(number), [6])
    assert (gate.runs, gate.cancelled) == (1, 0)
    use = caching.use()
    assert use.hits + use.misses in (699, 700)  # the first may have left
    assert not len(caching.flights)


async def test_when_all_leave_the_model_is_stopped_and_the_next_one_starts_again():
    gate = Gate()
    _, model = front(gate.infer)
    tasks = [asyncio.create_task(model.infer(ask(1))) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)
    assert (gate.runs, gate.cancelled) == (1, 1)
    gate.open.set()
    assert (await model.infer(ask(1))).timing.cache == "miss"
    assert gate.runs == 2


async def test_a_follower_waits_no_longer_than_its_own_deadline():
    gate = Gate()
    caching, model = front(gate.infer)
    leader = asyncio.create_task(model.infer(ask(1)))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded):
        await model.infer(ask(1), deadline=caching.now())
    gate.open.set()
    assert (await leader).timing.cache == "miss"
    assert gate.runs == 1


@pytest.mark.parametrize("error", [ModelFailed("no"), RuntimeError("no")])
async def test_a_failure_is_shared_once_and_not_kept(error):
    runs, opened = [], asyncio.Event()

    async def infer(request, deadline=None, sender=None, standing=None):
        runs.append(request)
        await opened.wait()
        raise error

    _, model = front(infer)
    tasks = [asyncio.create_task(model.infer(ask(1))) for _ in range(100)]
    await asyncio.sleep(0)
    opened.set()
    assert await asyncio.gather(*tasks, return_exceptions=True) == [error] * 100
    assert len(runs) == 1
    with pytest.raises(type(error)):
        await model.infer(ask(1))
    assert len(runs) == 2


async def test_the_deadline_of_the_one_who_started_is_not_that_of_the_others():
    runs = []

    async def infer(request, deadline=None, sender=None, standing=None):
        runs.append(deadline)
        await asyncio.sleep(0)
        if deadline is not None:
            raise DeadlineExceeded("late")
        return InferResponse("m", "1", (), request.id)

    caching, model = front(infer)
    hurried = asyncio.create_task(model.infer(ask(1), deadline=caching.now() + 60))
    patient = asyncio.create_task(model.infer(ask(1, "patient")))
    with pytest.raises(DeadlineExceeded):
        await hurried
    assert (await patient).id == "patient"
    assert [deadline is None for deadline in runs] == [False, True]


async def test_a_posted_request_that_is_given_up_hears_nothing():
    gate, heard = Gate(), []
    _, model = front(gate.infer, post=gate.post)
    give_up = model.post(ask(1), None, lambda said, others: heard.append(said))
    model.post(ask(1), None, lambda said, others: heard.append(said))
    give_up()
    gate.open.set()
    while not heard:
        await asyncio.sleep(0)
    model.post(ask(1, "again"), None, lambda said, others: heard.append(said))
    assert [(said.id, said.timing.cache) for said in heard] == [("", "hit"), ("again", "hit")]
    assert gate.runs == 1


async def test_a_run_that_is_cancelled_from_inside_is_its_callers_failure():
    async def infer(request, deadline=None, sender=None, standing=None):
        raise asyncio.CancelledError

    _, model = front(infer)
    with pytest.raises(Cancelled):
        await model.infer(ask(1))
