"""Asking from within: the same door, records in and out, errors raised."""

import numpy as np
import pytest
from servables import Declaring

from salver.kernel.serving.bus import Bus
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.exchange import RequestPath
from salver.kernel.serving.inner import ALONE, Inner
from salver.words.errors import Cancelled, InvalidInput, ModelFailed, NotReady
from salver.words.messages import Call, InferRequest, InferResponse, ModelId, Signature
from salver.words.tensor import tensor

CALL = Call("ensemble", 100.0, deadline=101.0, parent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
REQUEST = InferRequest("m", (tensor("x", np.zeros((3, 1))),), id="r")


class World(Declaring):
    """Lessor, lease and a servable that answers with what it is told to."""

    id = ModelId("m", "7")
    signature = Signature((), (), batched=True)

    def __init__(self, *pieces):
        self.pieces, self.leases, self.events, self.deadline = pieces, 0, [], None

    def other(self, name, version, is_wanted):
        return None

    def acquire(self, name, version=""):
        self.leases += 1
        return self

    def release(self):
        self.leases -= 1

    @property
    def servable(self):
        return self

    def observe(self, events):
        self.events += events

    async def infer(self, request, deadline=None, sender=None, standing=None):
        self.deadline, self.sender, self.request = deadline, sender, request
        if isinstance(self.pieces[0], Exception):
            raise self.pieces[0]
        return self.pieces[0]


class Pieces(World):
    async def stream(self, request, deadline=None, standing=None):
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece


def inner_of(world):
    bus = Bus([world])
    door = DataPlane(RequestPath(world, bus.emit, lambda: 100.5, lambda: "id"))
    return Inner(lambda: door), bus


def answer(value, **fields):
    return InferResponse("m", "7", (tensor("y", np.array([value])),), **fields)


async def test_an_answer_comes_as_the_record_it_is_and_is_announced_with_its_parent():
    said = answer(1)
    world = World(said)
    inner, bus = inner_of(world)
    assert await inner.infer(REQUEST, CALL) is said
    bus.flush()
    (served,) = world.events
    assert (served.protocol, served.parent, served.rows, served.first) == ("ensemble", CALL.parent, 3, 0)
    assert world.deadline == 101.0
    assert world.leases == 0


async def test_an_error_is_raised_as_itself():
    world = World(InvalidInput("no", field="x"))
    inner, _ = inner_of(world)
    with pytest.raises(InvalidInput, match="no") as caught:
        await inner.infer(REQUEST, CALL)
    assert caught.value.field == "x"
    assert world.leases == 0


async def test_pieces_come_one_by_one_and_a_late_error_is_a_piece():
    world = Pieces(answer(1), answer(2), ModelFailed("broke"))
    inner, bus = inner_of(world)
    got = []

    async def write(piece):
        got.append(piece.error or int(piece.outputs[0].array[0]))

    await inner.stream(REQUEST, CALL, write)
    assert got[:2] == [1, 2]
    assert isinstance(got[2], ModelFailed)
    bus.flush()
    (served,) = world.events
    assert (served.outcome, served.first) == ("model_failed", 0.5)


async def test_an_early_error_is_raised_and_a_reader_that_leaves_ends_it():
    async def leave(piece):
        raise Cancelled("enough")

    inner, _ = inner_of(Pieces(InvalidInput("no")))
    with pytest.raises(InvalidInput):
        await inner.stream(REQUEST, CALL, leave)
    world = Pieces(answer(1), answer(2))
    inner, _ = inner_of(world)
    await inner.stream(REQUEST, CALL, leave)
    assert world.leases == 0


async def test_outside_a_server_there_is_nobody_to_ask():
    with pytest.raises(NotReady, match=r"cannot be asked here. Serve them together"):
        await ALONE.infer(REQUEST, CALL)


async def test_versions_that_are_held_stay_the_same_until_they_are_released():
    first, second = World(answer(1)), World(answer(2))
    inner, _ = inner_of(first)
    held = inner.hold([("m", ""), ("m", ""), ("m", "7")])
    assert first.leases == 2
    first.acquire = second.acquire  # a new version is the newest from now on
    assert int((await held.infer(REQUEST, CALL, "me")).outputs[0].array[0]) == 1
    assert first.sender == "me"
    again = inner.hold([("m", "")])
    assert int((await again.infer(REQUEST, CALL)).outputs[0].array[0]) == 2
    assert (held.signature("m"), held.capabilities("m", "7").is_decoupled) == (first.signature, False)
    held.release()
    held.release()
    assert first.leases == 0


async def test_where_one_of_several_does_not_answer_none_is_held():
    world = World()

    def acquire(name, version=""):
        if name == "other":
            raise NotReady("loading")
        return World.acquire(world, name, version)

    world.acquire = acquire
    inner, _ = inner_of(world)
    with pytest.raises(NotReady, match="loading"):
        inner.hold([("m", ""), ("other", "")])
    assert world.leases == 0


async def test_a_model_that_asks_others_is_told_the_span_that_its_request_is():
    world = World(answer(1))
    world.asks_others = True
    bus = Bus([world])
    door = DataPlane(RequestPath(world, bus.emit, lambda: 100.5, lambda: "0123456789abcdef"))
    call = Call("oip-http", 100.0, request_id="r7")
    await Inner(lambda: door).infer(REQUEST, call)
    span = f"00-{'0123456789abcdef' * 2}-0123456789abcdef-00"
    assert (world.request.trace, world.request.request_id, call.traceparent) == (span, "r7", span)
    bus.flush()
    assert world.events[0].traceparent == span
    call = Call("oip-http", 100.0, traceparent=CALL.parent)
    await Inner(lambda: door).infer(REQUEST, call)
    assert world.request.trace == CALL.parent
