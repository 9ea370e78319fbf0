"""What models in host processes ask of the server: answers, order, bounds, and nothing is left behind."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Literal

import numpy as np
import pytest
from host_backends import ASK_CODES
from host_processes import MANIFEST, at_once, nothing_left, recovery
from waiting import auntil

from salver.backends.callbacks import ModelCommand, Series
from salver.backends.protocol import LoadOptions
from salver.kernel.engine import callback_server as desk
from salver.kernel.engine.callback_messages import WINDOW
from salver.kernel.engine.ports import CallTerms
from salver.kernel.engine.process import ProcessRunner
from salver.words.errors import HostDied, InvalidInput, NotFound
from salver.words.messages import InferRequest, InferResponse
from salver.words.tensor import Array, tensor


class World:
    """A server that answers each model by its name, and remembers."""

    def __init__(self) -> None:
        self.meters = self
        self.asked: list[InferRequest] = []
        self.terms: list[CallTerms] = []
        self.wishes: list[ModelCommand] = []
        self.hosts = self.under_way = self.cancelled = self.pieces = 0
        self.is_left = False
        self.opened = asyncio.Event()  # of those who wait
        self.number = 0.0

    def enter(self) -> "World":
        self.hosts += 1
        return self

    def leave(self) -> None:
        if self.hosts:
            self.hosts -= 1
        else:
            self.is_left = True

    async def infer(self, request: InferRequest, terms: CallTerms) -> InferResponse:
        self.asked.append(request)
        self.terms.append(terms)
        self.under_way += 1
        try:
            if request.model == "never":
                await asyncio.Event().wait()
            if request.model == "wait":
                await self.opened.wait()
            if request.model == "wrong":
                raise InvalidInput("too long", field="n", fix="Cut it.")
            await asyncio.sleep(0)
            return InferResponse(request.model, "1", request.inputs, parameters={"p": 2})
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1

    async def stream(
        self, request: InferRequest, terms: CallTerms, write: Callable[[InferResponse], Awaitable[None]]
    ) -> None:
        for number in range(100):
            await write(InferResponse(request.model, "1", (tensor("n", np.full(9, number)),)))
            self.pieces += 1

    async def manage(self, wish: ModelCommand) -> bool:
        self.wishes.append(wish)
        if wish.model == "refused":
            raise NotFound("no such model")
        return wish.kind == "is_ready"

    def open(self, series: Series) -> int:
        self.series = series
        return 7

    def change(self, handle: int, how: Literal["add", "set", "observe"], value: float) -> None:
        assert (handle, how) == (7, "add")
        self.number += value

    def value(self, handle: int) -> float:
        return self.number


@asynccontextmanager
async def asking(world: World) -> AsyncIterator[ProcessRunner]:
    runner = await ProcessRunner.start(
        "host_backends:Asking", MANIFEST, LoadOptions(), recovery=recovery(at_once), server=world
    )
    try:
        yield runner
    finally:
        await runner.close()


async def do(runner: ProcessRunner, what: str) -> float:
    outputs, _ = await runner.run({"x": np.array([[ASK_CODES[what], 0]], "f4")})
    return float(outputs["x"][0, 0])


async def pass_on(runner: ProcessRunner, array: Array) -> Array:
    """Through the model to the server, and back by the same road."""
    outputs, _ = await runner.run({"x": array})
    return outputs["x"]


@pytest.mark.clause("TR-S7")
async def test_what_was_asked_arrives_and_what_was_said_comes_back() -> None:
    world = World()
    async with asking(world) as runner:
        assert (await pass_on(runner, np.array([[2.5, 1]], "f4"))).tolist() == [[2.5, 1]]
    (request,) = world.asked
    assert (request.model, request.version, request.id, request.trace) == ("other", "3", "mark", "a trace")
    assert [output.name for output in request.outputs] == ["y"]
    assert request.parameters == {"k": 1}
    assert world.terms == [CallTerms(None, True)]
    assert world.hosts == 0 and world.is_left


@pytest.mark.clause("TR-S7")
async def test_every_kind_of_array_crosses_both_ways() -> None:
    given: list[Array] = [
        np.array([[b"", b"a\x00b"], ["ü".encode(), b"x" * 3_000_000]], dtype=object),
        np.empty((0, 4), dtype=object),
        np.array(3.5),
        np.array([True, False]),
        np.array([1, np.inf], "f2"),
        np.arange(3_000_000, dtype="i8"),
        np.empty((2, 0, 3), "f8"),
        np.arange(6, dtype="u1"),
    ]
    async with asking(World()) as runner:
        for array in given:
            back = await pass_on(runner, array)
            assert (back.dtype, back.shape, back.tolist()) == (array.dtype, array.shape, array.tolist())


@pytest.mark.clause("TR-S7")
@pytest.mark.parametrize(("what", "count"), [("ask_at_once", 100), ("ask_on_threads", 80)])
async def test_many_at_once_are_not_mixed_up(what: str, count: int) -> None:
    async with asking(World()) as runner:
        assert await do(runner, what) == count


@pytest.mark.clause("TR-S7")
async def test_requests_of_other_threads_are_not_what_the_run_waits_for() -> None:
    world = World()
    async with asking(world) as runner:
        await do(runner, "ask_on_threads")
    assert {terms.is_of_run for terms in world.terms} == {False}


@pytest.mark.clause("TR-S7")
async def test_pieces_come_as_they_are_used_up() -> None:
    world = World()
    async with asking(world) as runner:
        counting = asyncio.ensure_future(do(runner, "ask_for_pieces"))
        await auntil(lambda: world.pieces >= WINDOW)
        world.opened.set()
        assert await counting == 100


@pytest.mark.clause("TR-S7")
async def test_unused_pieces_are_waited_for() -> None:
    world = World()
    async with asking(world) as runner:
        counting = asyncio.ensure_future(do(runner, "ask_for_pieces"))
        await auntil(lambda: world.pieces >= WINDOW and bool(world.asked))
        for _ in range(50):
            await asyncio.sleep(0)
        assert world.pieces == WINDOW
        world.opened.set()
        await counting


@pytest.mark.clause("TR-S7")
async def test_what_nobody_wants_is_given_up() -> None:
    world = World()
    async with asking(world) as runner:
        giving_up = asyncio.ensure_future(do(runner, "ask_and_give_up"))
        await auntil(lambda: world.under_way == 2)
        world.opened.set()
        assert await giving_up == 1
        assert world.cancelled == 1


@pytest.mark.clause("TR-S7")
async def test_a_host_that_is_killed_takes_what_it_asked_with_it() -> None:
    world = World()
    async with nothing_left(), asking(world) as runner:
        pids = runner.pids
        dying = asyncio.ensure_future(do(runner, "ask_forever"))
        await auntil(lambda: world.under_way == 6)
        os.kill(pids[0], signal.SIGKILL)
        with pytest.raises(HostDied):
            await dying
        await auntil(lambda: world.under_way == 0)
        assert world.cancelled == 6
        await auntil(lambda: bool(runner.pids) and runner.pids != pids)
        assert (await pass_on(runner, np.array([[1, 2]], "f4"))).tolist() == [[1, 2]]
        assert world.hosts == 1 and not world.is_left


@pytest.mark.parametrize("what", ["forge_aside", "lie_aside"])
async def test_nonsense_beside_the_runs_ends_the_host(what: str) -> None:
    async with asking(World()) as runner:
        with pytest.raises(HostDied, match="SIGKILL: it broke the control protocol"):
            await do(runner, what)


@pytest.mark.clause("TR-S7")
async def test_too_many_are_refused_and_the_rest_goes_on() -> None:
    async with asking(World()) as runner:
        assert await do(runner, "ask_too_often") == 1


@pytest.mark.clause("TR-S7")
async def test_what_a_run_asks_for_inherits_its_deadline() -> None:
    world = World()
    async with asking(world) as runner:
        (host,) = [seat.host for seat in runner._seats]
        for deadlines, inherited in (((3.0, 5.0), 5.0), ((3.0, None), None), ((2.0,), 2.0)):
            host._inherit([InferRequest("m", (), deadline=deadline) for deadline in deadlines])
            await pass_on(runner, np.array([[1, 2]], "f4"))
            assert world.terms[-1] == CallTerms(inherited, True)
        await do(runner, "ask_on_threads")
        assert world.terms[-1] == CallTerms(None, False)


@pytest.mark.clause("TR-M8")
async def test_numbers_and_lines_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    async with asking(world) as runner:
        with caplog.at_level(logging.WARNING, "salver.kernel.engine.host"):
            assert await do(runner, "ask_for_numbers") == 6
    assert world.series == Series("n", "about", "counter", {"a": "b"})
    assert "[m:7] a warning of its own" in caplog.messages


@pytest.mark.clause("TR-S7")
async def test_models_are_loaded_and_looked_at() -> None:
    world = World()
    async with asking(world) as runner:
        assert await do(runner, "ask_to_manage") == 1
        assert await do(runner, "ask_for_refusal") == 1
    load, look, unload = world.wishes
    assert (load.kind, load.model, load.order.config) == ("load", "other", "{}")
    assert load.order.files == {"1/model.py": b"x" * 3_000_000, "1/empty": b""}
    assert look == ModelCommand("is_ready", "other", "2")
    assert unload == ModelCommand("unload", "refused", dependents=True)


@pytest.mark.clause("TR-S7")
async def test_a_model_that_would_wait_for_its_own_load_is_told_so() -> None:
    world = World()
    with pytest.raises(InvalidInput, match="model 'm' cannot load itself while it is being loaded"):
        await ProcessRunner.start("host_backends:LoadsItself", MANIFEST, LoadOptions(), server=world)
    assert world.is_left and not world.wishes


@pytest.mark.clause("TR-A2")
async def test_a_model_says_whether_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asking(World()) as runner:
        assert runner.has_opinion and await runner.is_ready()
        await do(runner, "fall_ill")
        monkeypatch.setattr(desk, "_PROBE_S", 0.05)
        assert not await runner.is_ready()
        assert not await runner.is_ready()  # while the first question still hangs
