"""The one door: leases come back, errors take the protocol's form, everything is announced once."""

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from servables import Declaring
from waiting import PATIENCE_S, auntil

from salver.kernel.serving.bus import Bus
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.exchange import RequestPath
from salver.words.errors import DeadlineExceeded, InvalidInput, ModelFailed, NotFound, Overloaded
from salver.words.messages import (
    ANYBODY,
    Call,
    InferRequest,
    InferResponse,
    ModelId,
    Signature,
    Standing,
    Timing,
)
from salver.words.tensor import tensor


class World(Declaring):
    """Lessor, lease, servable and codec in one, with a place to fail at."""

    protocol = "test"
    signature = Signature((), (), batched=True)
    id = ModelId("m", "7")

    def __init__(self, fail_at="", error=None):
        self.fail_at = fail_at
        self.error = error
        self.leases = 0
        self.deadline = None
        self.parameters = {}
        self.events = []
        self.now = 100.0

    def _maybe(self, place):
        if place == self.fail_at:
            raise self.error

    def other(self, name, version, is_wanted):
        return None

    def acquire(self, name, version=""):
        self._maybe("acquire")
        self.leases += 1
        return self

    def release(self):
        self.leases -= 1

    @property
    def servable(self):
        return self

    def decode(self, body, signature):
        self._maybe("decode")
        return InferRequest("m", (tensor("x", np.zeros((3, 1))),), parameters=self.parameters)

    async def infer(self, request, deadline=None, sender=None, standing=ANYBODY):
        assert self.leases == 1
        self.deadline = deadline
        self.standing = standing
        self._maybe("infer")
        if self.fail_at == "hang":
            await asyncio.Event().wait()
        return InferResponse("m", "7", (), timing=Timing(1, 2, 3, 4))

    def encode(self, request, response):
        self._maybe("encode")
        return "good"

    def fault(self, error):
        return f"fault: {error}"

    def observe(self, events):
        self.events.extend(events)


async def answer(world, call=None):
    bus = Bus((world,))
    door = DataPlane(RequestPath(world, bus.emit, lambda: world.now, lambda: "00ff"))
    call = call or Call("test", 99.0, None, "rid", "tp")
    try:
        return await door.infer(world, b"", "m", "", call)
    finally:
        assert world.leases == 0
        bus.flush()


async def test_good():
    world = World()
    assert await answer(world) == "good"
    (event,) = world.events
    assert (event.model, event.version, event.protocol, event.outcome) == ("m", "7", "test", "ok")
    assert (event.latency, event.timing, event.rows) == (1.0, Timing(1, 2, 3, 4), 3)
    assert (event.request_id, event.traceparent) == ("rid", "tp")


@pytest.mark.parametrize("place", ["decode", "infer", "encode"])
@pytest.mark.parametrize(
    ("error", "outcome"), [(InvalidInput("bad"), "invalid_input"), (ModelFailed("boom"), "model_failed")]
)
async def test_errors_of_ours(place, error, outcome):
    world = World(place, error)
    assert await answer(world) == f"fault: {error}"
    (event,) = world.events
    assert (event.model, event.outcome) == ("m", outcome)


async def test_an_unknown_model_never_becomes_a_label():
    world = World("acquire", NotFound("no 'm'"))
    assert await answer(world) == "fault: no 'm'"
    assert (world.events[0].model, world.events[0].outcome) == ("", "not_found")


async def test_a_defect_is_an_incident_with_an_id(caplog):
    world = World("infer", ZeroDivisionError("secret"))
    reply = await answer(world)
    assert "incident 00ff" in reply and "secret" not in reply
    assert "00ff" in caplog.text and "ZeroDivisionError" in caplog.text
    assert world.events[0].outcome == "internal"


async def test_a_cancelled_request_is_announced_and_its_lease_released():
    world = World("hang")
    task = asyncio.create_task(answer(world))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.events[0].outcome == "cancelled"


@pytest.mark.parametrize(
    ("deadline", "parameters", "seen"),
    [
        (None, {}, None),
        (120.0, {}, 120.0),
        (None, {"timeout": 2_000_000}, 101.0),
        (100.5, {"timeout": 2_000_000}, 100.5),
        (120.0, {"timeout": 2_000_000}, 101.0),
        (120.0, {"timeout": 0}, 120.0),
        (None, {"priority": 1}, None),
    ],
)
async def test_the_sooner_deadline_counts(deadline, parameters, seen):
    world = World()
    world.parameters = parameters
    assert await answer(world, Call("test", 99.0, deadline)) == "good"
    assert world.deadline == seen


@pytest.mark.parametrize("timeout", [-1, 1.5, "soon", True])
async def test_a_senseless_timeout_is_refused(timeout):
    world = World()
    world.parameters = {"timeout": timeout}
    assert "parameter 'timeout' must be a whole number of microseconds" in await answer(world)


async def test_late_is_an_outcome():
    world = World("infer", DeadlineExceeded("Request timeout expired"))
    await answer(world)
    assert world.events[0].outcome == "deadline_exceeded"


async def test_who_asks_comes_from_the_headers_and_then_from_the_request():
    world = World()
    await answer(world)
    assert world.standing is ANYBODY
    world.parameters = {"binary_data_output": True}
    await answer(world, Call("test", 99.0, standing=Standing("acme", 2)))
    assert world.standing == Standing("acme", 2)
    world.parameters = {"priority": 1, "service_class": "urgent", "tenant": "not acme"}
    await answer(world, Call("test", 99.0, standing=Standing("acme", 2)))
    assert world.standing == Standing("acme", 1, "urgent")
    assert [event.tenant for event in world.events] == ["", "acme", "acme"]


async def test_parameters_raise_nothing_above_a_grant():
    """A step of an ensemble gets the standing and the parameters of the request, but no grant."""
    world, granted = World(), Standing("key's", 2)
    world.parameters = {"priority": 1, "service_class": "urgent", "tenant": "rival"}
    await answer(world, Call("test", 99.0, grant=SimpleNamespace(granted=granted)))
    bounded = Standing("key's", 2, "normal", granted)
    assert world.standing == bounded
    await answer(world, Call("ensemble", 99.0, standing=world.standing))
    assert world.standing == bounded


async def test_a_request_is_refused_by_its_head_and_announced():
    world = World("foresee", Overloaded("no", why="objective"))
    world.foresee = lambda call: world._maybe("foresee")
    bus = Bus((world,))
    door = DataPlane(RequestPath(world, bus.emit, lambda: world.now, lambda: "00ff"))
    call = Call("test", 99.0, None, "rid", "tp")
    with pytest.raises(Overloaded):
        door.foresee(world, "m", "", call)
    bus.flush()
    (event,) = world.events
    assert (event.outcome, event.why, event.latency, world.leases) == ("overloaded", "objective", 1.0, 0)
    world.fail_at = ""
    door.foresee(world, "m", "", call)
    world.fail_at, world.error = "acquire", NotFound("none")
    door.foresee(world, "m", "", call)  # which the answer tells
    bus.flush()
    assert world.leases == 0 and len(world.events) == 1


async def test_a_body_that_is_foreseen_to_be_late_is_not_decoded():
    world = World("decode", AssertionError())
    world.foresee = lambda call: (_ for _ in ()).throw(Overloaded("no", why="objective"))
    assert await answer(world) == "fault: no"


async def test_a_refusal_is_announced_with_its_size_and_its_reason():
    world = World("infer", Overloaded("no", why="limit"))
    await answer(world)
    (event,) = world.events
    assert (event.outcome, event.why, event.rows, event.size) == ("overloaded", "limit", 3, 24)


@pytest.mark.parametrize("error", [None, InvalidInput("no rows")])
async def test_others_are_answered_while_a_long_answer_is_written(error):
    class Long(World):
        def __init__(self, *args):
            super().__init__(*args)
            self.may_end = threading.Event()

        def takes_long(self, response):
            return True

        def encode(self, request, response):
            assert self.leases == 1
            assert self.may_end.wait(PATIENCE_S)  # what only somebody on the event loop does
            return super().encode(request, response)

    world = Long("encode" if error else "", error)
    writing = asyncio.ensure_future(answer(world))
    while not world.leases:
        await asyncio.sleep(0)
    world.may_end.set()
    assert await writing == (f"fault: {error}" if error else "good")
    assert [event.outcome for event in world.events] == [error.code.value if error else "ok"]


class Slow:
    def __init__(self):
        self.seen = []

    def observe(self, events):
        self.seen.append(list(events))
        raise RuntimeError("observer is broken")


async def test_a_broken_observer_harms_nobody(caplog):
    slow, world = Slow(), World()
    bus = Bus((slow, world), limit=5)
    for index in range(8):
        bus.emit(index)
    assert bus.dropped == 3
    assert world.events == []
    bus.flush()
    assert world.events == [0, 1, 2, 3, 4]
    assert slow.seen == [[0, 1, 2, 3, 4]]
    assert "5 events are not counted" in caplog.text


async def test_events_arrive_without_a_flush_and_many_arrive_early():
    world = World()
    bus = Bus((world,))
    for index in range(300):
        bus.emit(index)
    await asyncio.sleep(0)
    assert len(world.events) == 300
    bus.emit("one more")
    await auntil(lambda: len(world.events) == 301)
    assert world.events[-1] == "one more"
