"""Requests whose asker is called back: told once, announced once, and their leases come back."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from servables import Declaring
from waiting import auntil

from salver.kernel.serving.bus import Bus
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.exchange import RequestPath
from salver.words.errors import Cancelled, HandlerFailed, InvalidInput, NotFound, Overloaded, SalverError
from salver.words.events import Served
from salver.words.messages import Call, InferRequest, InferResponse, ModelId, Signature, Timing
from salver.words.tensor import tensor

TIMING = Timing(1, 2, 3, 4)


def piece(text: str, *, is_last: bool = False) -> InferResponse:
    return InferResponse("m", "7", (), text, timing=TIMING, is_last=is_last)


class World(Declaring):
    """Lessor, lease, servable and codec in one."""

    protocol = "test"
    signature = Signature((), (), batched=True)
    id = ModelId("m", "7")
    stream: Any = staticmethod(print)  # it may answer in pieces, so the time to the first one counts

    def __init__(self, fails: dict[str, Exception] | None = None) -> None:
        self.fails = fails or {}
        self.leases = 0
        self.given_up = 0
        self.told: Any = None
        self.deadline: float | None = None
        self.events: list[Served] = []
        self.replies: list[str] = []
        self.write_all: Any = None
        self.bus = Bus((self,))
        self.door: DataPlane[bytes, str] = DataPlane(
            RequestPath(self, self.bus.emit, lambda: 100.0, lambda: "00ff")
        )  # type: ignore[arg-type]

    def _maybe(self, place: str) -> None:
        if place in self.fails:
            raise self.fails[place]

    def acquire(self, name: str, version: str = "") -> "World":
        self._maybe("acquire")
        self.leases += 1
        return self

    def release(self) -> None:
        self.leases -= 1

    @property
    def servable(self) -> "World":
        return self

    def decode(self, body: bytes, signature: Signature) -> InferRequest:
        self._maybe("decode")
        return InferRequest("m", (tensor("x", np.zeros((3, 1))),), parameters={"timeout": 1_000_000})

    def post(
        self, request: InferRequest, deadline: float | None, told: Any, standing: Any
    ) -> Callable[[], None]:
        self._maybe("post")
        self.told, self.deadline = told, deadline
        return self.give_up

    def foresee(self, call: Call) -> None:
        assert call.arrival == 99.0
        self._maybe("foresee")

    def give_up(self) -> None:
        self.given_up += 1

    def encode(self, request: InferRequest, response: InferResponse) -> str:
        self._maybe("encode")
        return response.id

    def fault(self, error: SalverError) -> str:
        return f"fault: {error}"

    def observe(self, events: Any) -> None:
        self.events.extend(events)

    def tell(self, reply: str | None, write_all: Any) -> None:
        if reply is not None:
            self.replies.append(reply)
        self.write_all = write_all

    def weigh(self, body: bytes) -> int:
        return len(body)

    def begin(self, body: bytes = b"", *, is_large: bool = False) -> Callable[[], None] | None:
        call = self.call = Call("test", 99.0, None, "rid", "tp", is_large=is_large)
        return self.door.post(self, body, "m", "", call, self.tell, takes_pieces=True)  # type: ignore[arg-type]

    def outcomes(self) -> list[str]:
        assert self.leases == 0
        self.bus.flush()
        return [event.outcome for event in self.events]


async def test_what_is_foreseen_to_be_late_is_refused_undecoded() -> None:
    world = World({"decode": AssertionError(), "foresee": Overloaded("no", why="objective")})
    assert world.begin() is not None
    assert world.replies == ["fault: no"] and world.outcomes() == ["overloaded"]
    assert world.events[0].why == "objective" and world.events[0].rows == 0


@pytest.mark.parametrize(
    ("body", "takes_forms", "is_posted"), [(b"", False, True), (b"x", False, False), (b"", True, False)]
)
async def test_a_large_body_is_read_at_once_only_if_its_layout_is_known(
    body: bytes, takes_forms: bool, is_posted: bool
) -> None:
    world = World()
    world.signature = Signature((), (), True, takes_forms=takes_forms)
    assert (world.begin(body, is_large=True) is not None) == is_posted
    assert world.leases == is_posted


async def test_those_that_are_refused_alike_are_counted_together() -> None:
    error, counted = Overloaded("no", why="objective"), list[tuple[int, float]]()
    error.recur = lambda count, now: counted.append((count, now))
    world = World({"foresee": error})
    assert world.begin() is not None and world.call.alike is not None
    assert [world.call.alike.new_id() for _ in range(3)] == ["00ff"] * 3
    assert world.call.alike.close() == 3 and counted == [(3, 100.0)]
    assert world.outcomes() == ["overloaded"] * 4
    assert [(event.why, event.request_id) for event in world.events[1:]] == [("objective", "00ff")] * 3


async def test_a_whole_answer() -> None:
    world = World()
    give_up = world.begin()
    assert give_up is not None and world.leases == 1 and world.deadline == 100.0
    world.told(piece("good", is_last=True), None)
    assert world.replies == ["good"] and world.outcomes() == ["ok"]
    (event,) = world.events
    assert (event.model, event.version, event.protocol, event.rows) == ("m", "7", "test", 3)
    assert (event.latency, event.first, event.timing, event.request_id) == (1.0, 1.0, TIMING, "rid")
    give_up()  # too late
    assert world.outcomes() == ["ok"] and world.given_up == 0


class LongWorld(World):
    """World whose answers take long to encode."""

    def takes_long(self, response: InferResponse) -> bool:
        return True

    def encode(self, request: InferRequest, response: InferResponse) -> str:
        return f"{super().encode(request, response)} {threading.current_thread() is threading.main_thread()}"


async def test_a_long_answer_is_encoded_on_a_thread() -> None:
    world = LongWorld()
    world.begin()
    world.told(piece("good", is_last=True), None)
    await auntil(lambda: world.replies)
    assert world.replies == ["good False"] and world.outcomes() == ["ok"]


async def test_a_long_answer_that_cannot_be_encoded() -> None:
    world = LongWorld({"encode": InvalidInput("bad")})
    world.begin()
    world.told(piece("good", is_last=True), None)
    await auntil(lambda: world.replies)
    assert world.replies == ["fault: bad"] and world.outcomes() == ["invalid_input"]


async def test_who_leaves_while_a_long_answer_is_encoded() -> None:
    world = LongWorld()
    give_up = world.begin()
    assert give_up is not None
    world.told(piece("good", is_last=True), None)
    give_up()
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)
    assert world.replies == [] and world.outcomes() == ["cancelled"]


@pytest.mark.parametrize("place", ["decode", "post", "encode"])
async def test_errors_have_the_protocols_form(place: str) -> None:
    world = World({place: InvalidInput("bad")})
    world.begin()
    if place == "encode":
        world.told(piece("good", is_last=True), None)
    assert world.replies == ["fault: bad"] and world.outcomes() == ["invalid_input"]


async def test_the_models_own_errors_and_its_refusals() -> None:
    world = World()
    world.begin()
    world.told(HandlerFailed("boom"), None)
    assert world.replies == ["fault: boom"] and world.outcomes() == ["model_failed"]
    world = World({"post": Overloaded("full")})
    world.begin()
    assert world.replies == ["fault: full"] and world.outcomes() == ["overloaded"]


async def test_a_defect_is_an_incident(caplog: pytest.LogCaptureFixture) -> None:
    world = World({"encode": ZeroDivisionError("secret")})
    world.begin()
    world.told(piece("good", is_last=True), None)
    assert "incident 00ff" in world.replies[0] and "secret" not in world.replies[0]
    assert world.outcomes() == ["internal"] and "ZeroDivisionError" in caplog.text


async def test_who_leaves_gives_it_up_once() -> None:
    world = World()
    give_up = world.begin()
    assert give_up is not None
    give_up()
    give_up()
    assert world.given_up == 1 and world.replies == [] and world.outcomes() == ["cancelled"]


async def test_what_is_nothing_for_it_has_not_begun() -> None:
    world = World({"acquire": NotFound("no 'm'")})
    assert world.begin() is None
    other = World()
    other.post = None  # type: ignore[method-assign,assignment]
    assert other.begin() is None
    assert world.outcomes() == other.outcomes() == []


async def others(*pieces: InferResponse | Exception) -> AsyncGenerator[InferResponse, None]:
    for each in pieces:
        await asyncio.sleep(0)
        if isinstance(each, Exception):
            raise each
        yield each


def writer(world: World, breaks_at: str = "") -> Callable[[str], Awaitable[None]]:
    async def write(reply: str) -> None:
        if reply == breaks_at:
            raise Cancelled("the caller went away")
        world.replies.append(reply)

    return write


async def test_pieces_are_written_by_who_was_told() -> None:
    world = World()
    world.begin()
    world.told(piece("a"), others(piece("b"), piece("c", is_last=True)))
    assert world.replies == [] and world.leases == 1
    await world.write_all(writer(world))
    assert world.replies == ["a", "b", "c"] and world.outcomes() == ["ok"] and world.given_up == 0
    assert world.events[0].timing == TIMING


async def test_an_error_after_the_first_piece_is_written_too() -> None:
    world = World()
    world.begin()
    world.told(piece("a"), others(piece("b"), HandlerFailed("boom")))
    await world.write_all(writer(world))
    assert world.replies == ["a", "b", "fault: boom"] and world.outcomes() == ["model_failed"]


@pytest.mark.parametrize("at", ["a", "b"])
async def test_a_reader_who_has_gone_ends_the_pieces(at: str) -> None:
    world = World()
    world.begin()
    world.told(piece("a"), others(piece("b"), piece("c", is_last=True)))
    await world.write_all(writer(world, at))
    assert world.given_up == 1 and world.outcomes() == ["cancelled"]


async def test_a_task_that_is_cancelled_gives_it_up() -> None:
    async def never() -> AsyncGenerator[InferResponse, None]:
        await asyncio.Event().wait()
        yield piece("b")

    world = World()
    world.begin()
    world.told(piece("a"), never())
    task = asyncio.create_task(world.write_all(writer(world)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.given_up == 1 and world.outcomes() == ["cancelled"]
