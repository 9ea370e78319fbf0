"""A copy is asked behind the caller's back: nobody waits for it, and nothing remembers it."""

import asyncio

import msgspec
import numpy as np
import pytest
from servables import Declaring

from salver.features.releases.shadow import Shadowing
from salver.words.errors import InvalidInput, ModelFailed, NotReady
from salver.words.events import Shadowed
from salver.words.messages import ANYBODY, Call, InferRequest, InferResponse, ModelId, Signature, Timing
from salver.words.releases import Shadow, Split
from salver.words.tensor import tensor

SHADOW = Shadow(most_inflight=2)
SPLIT = Split("r1", "m", stable="1", canary="2", weight=0.0, salt="s", shadow=SHADOW)
CALL = Call("test", 0.0, request_id="q1", unit="ada")


def response(*values, **more):
    outputs = (tensor("y", np.array(values, np.float32)),)
    return InferResponse("m", "1", outputs, timing=Timing(inference=0.01), **more)


def request(**parameters):
    return InferRequest("m", (tensor("x", np.zeros((1, 1))),), "1", parameters=parameters, trace="span")


class Canary(Declaring):
    """Lessor, lease and servable in one."""

    id = ModelId("m", "2")
    signature = Signature((), ())

    def __init__(self, answer=None):
        self.answer = answer or response(1, 2)
        self.gate = asyncio.Event()
        self.gate.set()
        self.seen = []
        self.events = []
        self.leases = 0
        self.clock = 0.0
        self.shadowing = Shadowing(self, self.events.append, lambda: self.clock, patience=0.2)

    def acquire(self, name, version=""):
        assert (name, version) == ("m", "2")
        if isinstance(self.answer, NotReady):
            raise self.answer
        self.leases += 1
        return self

    def other(self, name, version, is_wanted):
        return None

    def release(self):
        self.leases -= 1

    @property
    def servable(self):
        return self

    async def infer(self, request, deadline=None, sender=None, standing=ANYBODY):
        self.seen.append((request, deadline, standing))
        await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def offer(self, *pieces, asked=None, split=SPLIT):
        self.shadowing.offer(split, asked or request(), pieces or (response(1, 2),), CALL)

    async def over(self):
        for tasks in list(self.shadowing._under_way.values()):
            await asyncio.gather(*tasks)
        assert self.leases == 0
        return self.shadowing.report("r1")


async def test_a_copy_has_its_own_version_and_goes_behind_the_canarys_callers():
    canary = Canary()
    canary.offer(asked=request(user="ada", timeout=1, priority=1, tenant="t"))
    assert canary.seen == []  # not on the caller's time
    report = await canary.over()
    ((asked, deadline, standing),) = canary.seen
    assert (asked.model, asked.version) == ("m", "2")
    assert asked.trace not in ("", "span")
    assert (asked.parameters, deadline, standing.service) == ({"user": "ada"}, 0.2, "bulk")
    assert (report.asked, report.agreed) == (1, 1)
    (event,) = canary.events
    assert event == Shadowed("m", "2", "r1", "ada", "q1", "ok", 0.01, 0.01, True, 0.0)


async def test_answers_that_differ_are_counted_with_examples():
    canary = Canary(response(1, 3))
    canary.offer()
    report = await canary.over()
    assert (report.agreed, report.differed) == (0, 1)
    assert (report.examples[0].request_id, report.examples[0].what) == ("q1", "'y' differs by 0.5")
    assert not canary.events[0].agrees


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ModelFailed("boom"), "model_failed"),
        (InvalidInput("it has other inputs"), "invalid_input"),
        (NotReady("it is loading"), "not_ready"),
        (ZeroDivisionError(), "internal"),
    ],
)
async def test_its_errors_are_counted_and_nobodys(error, outcome, caplog):
    canary = Canary(error)
    canary.offer()
    report = await canary.over()
    assert report.failed == {outcome: 1}
    assert (canary.events[0].outcome, canary.events[0].agrees) == (outcome, False)
    assert ("ZeroDivisionError" in caplog.text) == (outcome == "internal")


async def test_as_many_are_under_way_as_may_be_and_the_rest_is_dropped():
    canary = Canary()
    canary.gate.clear()
    for _ in range(5):
        if canary.shadowing.has_room(SPLIT):
            canary.offer()
    await asyncio.sleep(0)
    assert len(canary.seen) == 2
    canary.gate.set()
    report = await canary.over()
    assert (report.asked, report.dropped) == (2, 3)
    assert canary.shadowing.has_room(SPLIT)


async def test_switched_off_all_are_dropped():
    canary = Canary()
    canary.shadowing.switch(False)
    assert not canary.shadowing.has_room(SPLIT)
    canary.shadowing.switch(True)
    canary.offer()
    report = await canary.over()
    assert (report.asked, report.dropped) == (1, 1)


async def test_one_that_hangs_gives_its_place_back_after_a_while():
    canary = Canary()
    canary.gate.clear()
    canary.offer()
    report = await canary.over()
    assert report.failed == {"deadline_exceeded": 1}


async def test_sequences_are_not_copied():
    canary = Canary()
    canary.offer(asked=request(sequence_id=7))
    report = await canary.over()
    assert (report.asked, report.skipped, canary.seen) == (0, {"sequence": 1}, [])
    canary.offer(asked=request(sequence_id=0))  # of none
    assert (await canary.over()).agreed == 1


async def test_kept_answers_are_neither_asked_nor_made():
    canary = Canary()
    asked = []

    async def uncached(*given):
        asked.append(given)
        return response(1, 2)

    canary.uncached = uncached
    canary.offer()
    await canary.over()
    assert (len(asked), canary.seen) == (1, [])


class Speaker(Canary):
    """Answers in pieces."""

    gives_parts = True
    last = None

    async def stream(self, request, deadline=None, standing=ANYBODY):
        yield response(1)
        if self.last is not None:
            yield InferResponse("m", "2", (), error=self.last)
        yield response(2)


async def test_answers_in_pieces_are_compared_whole():
    canary = Speaker()
    canary.offer(response(1), response(2))
    assert (await canary.over()).agreed == 1
    canary.last = ModelFailed("half way")
    canary.offer(response(1), response(2))
    assert (await canary.over()).failed == {"model_failed": 1}


async def test_of_any_number_of_responses_the_number_counts_and_all_of_them_are_compared():
    canary = Speaker()
    canary.gives_parts = False
    canary.offer()
    report = await canary.over()
    assert (report.differed, report.notes) == (1, {"there are 2 responses, not 1": 1})
    canary.offer(response(1), response(2))
    assert (await canary.over()).agreed == 1
    canary.offer(response(1), response(3))
    assert (await canary.over()).differed == 2
    at_all = msgspec.structs.replace(SPLIT, shadow=Shadow(compare="length", tolerance=0.5))
    canary.offer(split=at_all)
    canary.offer(response(1), split=at_all)
    assert (await canary.over()).agreed == 2


async def test_a_version_that_says_nothing_differs():
    canary = Speaker()

    async def nothing(request, deadline=None, standing=ANYBODY):
        for piece in ():
            yield piece

    canary.stream = nothing
    canary.offer()
    assert (await canary.over()).notes == {"there is no response": 1}


@pytest.mark.parametrize("pieces", [None, (), (InferResponse("m", "1", (), error=ModelFailed("no")),)])
async def test_what_cannot_be_compared_is_not_asked_and_counted(pieces):
    canary = Canary()
    canary.shadowing.offer(SPLIT, request(), pieces, CALL)
    report = await canary.over()
    assert (canary.seen, report.skipped) == ([], {"too_large" if pieces is None else "no_answer": 1})


async def test_memory_of_copies_under_way_is_bounded(monkeypatch):
    monkeypatch.setattr("salver.features.releases.shadow._MOST_BYTES", 100)
    canary = Canary()
    canary.gate.clear()
    canary.offer(response(*range(100)))
    canary.offer(response(*range(15)))
    canary.offer(response(*range(15)))
    await asyncio.sleep(0)
    assert len(canary.seen) == 1
    canary.gate.set()
    report = await canary.over()
    assert (report.skipped, report.dropped) == ({"too_large": 1}, 1)
    canary.offer(response(*range(15)))
    assert (await canary.over()).asked == 2


async def test_an_answer_that_began_when_there_was_room_finds_none():
    canary = Canary()
    canary.gate.clear()
    for _ in range(3):
        canary.offer()
    await asyncio.sleep(0)
    assert len(canary.seen) == 2
    canary.gate.set()
    assert (await canary.over()).dropped == 1


async def test_an_answer_of_endless_pieces_is_given_up(monkeypatch):
    monkeypatch.setattr("salver.features.releases.experiments.answers.MOST_BYTES", 10_000)
    canary = Speaker()
    asked = []

    async def endless(request, deadline=None, standing=ANYBODY):
        while True:
            asked.append(1)
            yield response(1)

    canary.stream = endless
    canary.offer()
    report = await canary.over()
    assert (report.notes, len(asked)) == ({"the answer is too large to be looked at": 1}, 10)


async def test_what_is_asked_in_the_service_of_a_copy_is_known_by_its_trace_as_long_as_it_lasts():
    canary = Canary()
    carried = {}
    canary.shadowing.join(carried)
    canary.gate.clear()
    canary.offer()
    await asyncio.sleep(0)
    assert carried == {canary.seen[0][0].trace: {"copy": "true"}}
    canary.gate.set()
    await canary.over()
    assert carried == {}


async def test_large_answers_are_compared_on_another_thread():
    canary = Canary(response(*range(20_000)))
    canary.offer(response(*range(20_000)))
    assert (await canary.over()).agreed == 1


async def test_when_a_release_is_over_its_copies_are_given_up():
    canary = Canary()
    canary.gate.clear()
    canary.offer()
    await asyncio.sleep(0)
    canary.shadowing.forget("r1")
    await asyncio.sleep(0)
    assert canary.shadowing.report("r1") is None
    canary.offer()
    await asyncio.sleep(0)
    await canary.shadowing.close()
    assert (canary.leases, canary.events) == (0, [])
