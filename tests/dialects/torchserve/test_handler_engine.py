"""Handlers on real workers: batches, pieces, sequences, steps, failures, and more or fewer workers."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop
from handler_worlds import World, asking, failure, held, said, world_of
from waiting import PATIENCE_S, auntil

from salver.dialects.torchserve.engine.fork_server import ForkServer
from salver.dialects.torchserve.engine.form_host import FormHost
from salver.words.errors import (
    DeadlineExceeded,
    HandlerFailed,
    NotReady,
    Overloaded,
    SalverError,
    WaitedTooLong,
)
from salver.words.messages import InferRequest
from salver.words.tensor import tensor


@pytest.mark.clause("TS-B2", "TS-Y1")
async def test_a_batch_is_filled_by_those_that_come_in_time() -> None:
    async with world_of(batch_size=4, max_batch_delay_ms=300) as world:
        assert await asyncio.gather(*(world.ask("batch") for _ in range(6))) == ["4"] * 4 + ["2"] * 2
        assert await world.ask("batch") == "1"
        assert [(ran.requests, ran.reason) for ran in world.ran] == [(4, "full"), (2, "time"), (1, "time")]


@pytest.mark.clause("TS-B2")
async def test_the_time_is_told_of() -> None:
    async with world_of(batch_size=2, max_batch_delay_ms=100) as world:
        response = await world.engine.infer(asking("x"))
        timing = response.timing
        assert (timing.batch_rows, timing.reason, response.model, response.version) == (1, "time", "h", "1.0")
        assert timing.formation >= 0.09 > timing.queue
        assert timing.inference > 0
        assert world.engine.insight().limit == 100


@pytest.mark.clause("TS-B1")
async def test_a_full_queue_refuses_and_what_waits_is_served() -> None:
    async with world_of(queue=1) as world:
        async with held(world) as (running,):
            waiting = asyncio.ensure_future(world.ask("x"))
            await asyncio.sleep(0)
            assert (world.engine.queued, world.engine.running) == (1, 1)
            assert isinstance(await failure(world.ask("y")), Overloaded)
        assert (await running, await waiting, await world.ask("z")) == ("held", "x", "z")


@pytest.mark.clause("TS-B3")
async def test_a_ticket_is_needed_while_the_worker_is_busy() -> None:
    async with world_of(needs_ticket=True) as world:
        async with held(world) as (running,):
            assert isinstance(await failure(world.ask("y")), Overloaded)
        assert await running == "held"
        assert await world.ask("y") == "y"


@pytest.mark.clause("TS-B4")
async def test_a_caller_is_told_when_its_time_is_over_and_its_request_is_not_run(
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    async with world_of(client_timeout_ms=1500) as world:
        assert await world.ask("sleep 0.01") == "slept"
        running = asyncio.ensure_future(failure(world.ask(f"hold {gate}")))
        waiting = asyncio.ensure_future(failure(world.ask("exit")))
        assert isinstance(await running, WaitedTooLong)
        assert isinstance(await waiting, WaitedTooLong)
        assert world.engine.queued == 0
        gate.unlink()
        await auntil(lambda: not world.engine.running)
        assert await world.ask("x") == "x"
        assert len(world.ran) == 3, "what was dropped has not run"


@pytest.mark.clause("TS-B4")
async def test_a_deadline_of_the_call_is_kept_too() -> None:
    async with world_of() as world:
        engine = world.engine
        late = engine.infer(asking("x"), deadline=engine.now() - 1)
        assert type(await failure(late)) is DeadlineExceeded
        soon = engine.infer(asking("sleep 0.3"), deadline=engine.now() + 0.05)
        assert type(await failure(soon)) is DeadlineExceeded


@pytest.mark.clause("TS-B1")
async def test_a_caller_that_goes_leaves_the_queue() -> None:
    async with world_of() as world:
        async with held(world) as (running,):
            going = asyncio.ensure_future(world.ask("exit"))
            await auntil(lambda: world.engine.queued == 1)
            going.cancel()
            await asyncio.wait([going])
            assert world.engine.queued == 0
        assert await running == "held"
        assert await world.ask("x") == "x"


@pytest.mark.clause("TS-R15")
async def test_pieces_come_as_they_are_sent_and_are_joined_for_those_who_want_one() -> None:
    async with world_of() as world:
        responses = [piece async for piece in world.engine.stream(asking("stream 3"))]
        assert [said(one) for one in responses] == ["0 ", "1 ", "2 ", "last"]
        assert [one.is_last for one in responses] == [False, False, False, True]
        assert await world.ask("stream 3") == "0 1 2 last"
        assert await world.pieces("x") == ["x"]
        assert await world.pieces("stream 200") == [f"{n} " for n in range(200)] + ["last"]
        await world.engine.stream(asking("stream 3")).aclose()
        pieces = world.engine.stream(asking("stream 3"))
        assert said(await anext(pieces)) == "0 "
        await pieces.aclose()
        assert await world.ask("x") == "x"


@pytest.mark.clause("TS-R15")
async def test_who_does_not_wait_is_called_with_the_answer_or_its_first_piece() -> None:
    async with world_of(queue=2) as world:
        told: asyncio.Queue[Any] = asyncio.Queue()

        def post(text: str) -> Callable[[], None]:
            return world.engine.post(asking(text), None, lambda first, more: told.put_nowait((first, more)))

        post("x")
        first, more = await told.get()
        assert (said(first), first.is_last, more) == ("x", True, None)
        post("stream 2")
        first, more = await told.get()
        assert [said(first)] + [said(piece) async for piece in more] == ["0 ", "1 ", "last"]
        post("raise no")
        error, more = await told.get()
        assert isinstance(error, SalverError) and more is None
        post("sleep 0.1")
        give_up = post("y")
        assert world.engine.queued == 1
        give_up()
        give_up()
        assert world.engine.queued == 0
        assert said((await told.get())[0]) == "slept" and told.empty()
        post("sleep 0.1")
        post("y")
        post("z")
        with pytest.raises(Overloaded):
            post("w")
    await asyncio.sleep(0)
    assert told.qsize() == 3  # those that waited were told that it closes


@pytest.mark.clause("TS-R12")
async def test_large_bodies_travel_both_ways_and_tensors_that_are_no_forms_too() -> None:
    async with world_of() as world:
        for size in (0, 1, 16 << 10, (16 << 10) + 1, 3 << 20):
            response = await world.engine.infer(asking("large " + str(size)))
            assert response.outputs[0].array.tobytes() == b"\x07" * size
            body = "e" * size
            assert await world.ask(body) == body
        inputs = (tensor("x", np.zeros((2, 3), np.float32)), tensor("words", ["a", "b"]))
        response = await world.engine.infer(InferRequest("h", inputs))
        assert said(response) == "x:FP32[2, 3],words:BYTES[2]"


@pytest.mark.clause("TS-R19")
async def test_failures_of_the_handler_have_their_status() -> None:
    async with world_of() as world:
        error = await failure(world.ask("fail 418"))
        assert isinstance(error, HandlerFailed)
        assert (error.status, error.message) == (418, "as you wish")
        assert "raised ValueError: no" in (await failure(world.ask("raise no"))).message
        with pytest.raises(HandlerFailed):
            await world.pieces("fail 507")


@pytest.mark.clause("TS-B7", "TS-R19")
@pytest.mark.parametrize("how", ["exit", "leave"])
async def test_a_worker_that_ends_fails_what_it_ran_and_comes_back(how: str) -> None:
    async with world_of() as world:
        before = await world.ask("pid")
        gone = asyncio.ensure_future(failure(world.ask(how)))
        after = await asyncio.gather(*(world.ask("pid") for _ in range(5)))
        error = await gone
        assert isinstance(error, HandlerFailed)
        assert (error.message, error.status) == ("Worker died.", 500)
        assert len(set(after)) == 1
        assert after[0] != before, "those that waited were run by the next one"
        assert [ran.ok for ran in world.ran] == [True, False, *[True] * 5]


@pytest.mark.clause("TS-B7")
async def test_a_worker_that_hangs_is_killed_and_comes_back() -> None:
    async with world_of(response_timeout_s=2) as world:
        error = await failure(world.ask("sleep 50"))
        assert isinstance(error, HandlerFailed)
        assert (error.message, error.status) == ("Worker died.", 500)
        assert await world.ask("x") == "x"
        assert await world.ask("sleep 1.1") == "slept"
        assert await world.ask("sleep 1.1") == "slept", "each run has its own time"


@pytest.mark.clause("TS-A9")
async def test_what_metrics_write_is_heard_with_the_workers_number() -> None:
    async with world_of() as world:
        assert await world.ask("metric Size.Count:1|#Level:Model") == "counted"
        assert world.heard == [(9000, ("Size.Count:1|#Level:Model",))]


@pytest.mark.clause("TS-M3")
async def test_workers_are_told_of() -> None:
    async with world_of(least=2) as world:
        statuses = world.engine.workers()
        assert [status.id for status in statuses] == [9000, 9001]
        assert {status.status for status in statuses} == {"READY"}
        assert all(status.pid > 0 and status.memory > 1 << 20 for status in statuses)
        assert await world.engine.metadata() == {"kind": "obedient"}
        assert await world.engine.is_ready()
        assert world.engine.is_healthy(time.monotonic())
        assert "2 workers" in repr(world.engine)


@pytest.mark.clause("TS-M2", "TS-B8")
async def test_scaling_up_and_down_under_load_loses_nothing() -> None:
    async with world_of(least=1, queue=1000) as world:
        engine = world.engine
        asked = [asyncio.ensure_future(world.ask(f"sleep 0.0{n % 3}")) for n in range(200)]
        for count in (3, 1, 2):
            engine.scale(count, count)
            assert await engine.settled() == count
            await engine.gone()
            assert len(engine.workers()) == count
        assert await asyncio.gather(*asked) == ["slept"] * 200
        assert [status.id for status in engine.workers()] == [9000, 9003]


@pytest.mark.clause("TS-M2")
async def test_without_workers_requests_are_refused_and_with_some_again_served() -> None:
    async with world_of(least=0) as world:
        assert await world.engine.settled() == 0
        assert isinstance(await failure(world.ask("x")), NotReady)
        assert isinstance(await failure(world.engine.metadata()), NotReady)
        assert await world.engine.is_ready(), "none is wanted"
        world.engine.scale(1, 1)
        assert not await world.engine.is_ready()
        assert await world.ask("x") == "x", "it waits for the worker"
        async with held(world) as (running,):
            waiting = asyncio.ensure_future(failure(world.ask("x")))
            await auntil(lambda: world.engine.queued == 1)
            world.engine.scale(0, 0)
            assert isinstance(await waiting, NotReady)
        assert await running == "held"
        assert isinstance(await failure(world.ask("x")), NotReady)


@pytest.mark.clause("TS-B7", "TS-R1")
async def test_a_handler_that_does_not_start_is_given_up_and_unhealthy() -> None:
    async with world_of(at_start="fail", max_retry_s=0) as world:
        assert await world.engine.settled() == 0
        assert not world.engine.is_healthy(time.monotonic() + 1)
        async with asyncio.timeout(PATIENCE_S):
            while not isinstance(error := await failure(world.ask("x")), NotReady):
                pass
        assert "it does not start" in error.message
        assert not await world.engine.is_ready()
        assert world.engine.workers()[0].pid == -1


@pytest.mark.clause("TS-B7")
async def test_a_start_that_takes_too_long_is_given_up() -> None:
    async with world_of(at_start="sleep", startup_timeout_s=1, max_retry_s=0) as world:
        assert await world.engine.settled() == 0
        error = await failure(world.ask("x"))
        assert "was not loaded within 1 s" in error.message


@pytest.mark.clause("TS-M1")
async def test_no_worker_starts_in_no_time() -> None:
    async with world_of(startup_timeout_s=0, max_retry_s=0) as world:
        assert await world.engine.settled() == 0
        error = await failure(world.ask("x"))
        assert "was not loaded within 0 s" in error.message
        assert world.engine.workers()[0].pid == -1


@pytest.mark.clause("TS-B7")
async def test_one_that_starts_at_the_third_time_serves(tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    stop.touch()
    async with world_of(at_start=f"without:{stop}") as world:
        asked = asyncio.ensure_future(world.ask("x"))
        await asyncio.sleep(0.5)
        stop.unlink()
        assert await asked == "x"
        assert world.engine.is_healthy(time.monotonic())


@pytest.mark.clause("TS-B6", "TS-Y3")
async def test_sequences_stay_with_what_their_worker_remembers() -> None:
    async with world_of(least=2, is_stateful=True, max_sequences=2, sequence_queue=9) as world:

        async def add(name: str, number: int, ends: bool = False) -> str:
            return await world.ask(f"add {number}", sequence=(name, False, ends))

        first, second = await asyncio.gather(add("a", 1), add("b", 10))
        assert (first, second) == ("1", "10")
        assert isinstance(await failure(add("c", 5)), Overloaded)
        assert await asyncio.gather(*(add("a", 1) for _ in range(5))) == ["2", "3", "4", "5", "6"]
        assert await add("a", 1, ends=True) == "7"
        assert await add("c", 5) == "5"
        assert world.engine.insight().sequences == 2
        assert await world.ask("add 3") == "3", "of no sequence"
        asked = [asking("add 1", sequence=(name, False, False)) for name in "abc"]
        assert [world.engine.knows(request) for request in asked] == [False, True, True]
        assert world.engine.capabilities.sequences and not world.engine.knows(asking("add 1"))
    async with world_of() as world:
        assert not world.engine.capabilities.sequences and not world.engine.knows(asked[1])


@pytest.mark.clause("TS-B6", "TS-B7")
async def test_what_waits_in_a_sequence_is_told_that_its_worker_died() -> None:
    async with world_of(is_stateful=True, sequence_queue=9) as world:
        mine = ("a", False, False)
        dying = asyncio.ensure_future(failure(world.ask("exit", sequence=mine)))
        waiting = asyncio.ensure_future(failure(world.ask("add 1", sequence=mine)))
        for error in (await dying, await waiting):
            assert isinstance(error, HandlerFailed)
            assert (error.message, error.status) == ("Worker died.", 500)
        assert await world.ask("add 1", sequence=mine) == "1"


@pytest.mark.clause("TS-B5")
async def test_steps_of_a_continuous_batch_give_pieces_and_take_in_who_comes() -> None:
    async with world_of(is_continuous=True, batch_size=2, max_batch_delay_ms=5) as world:
        assert await world.pieces("count 2") == ["1 ", "0 "]
        assert await world.pieces("count 1") == ["0 "], "one step is an answer, too"
        both = await asyncio.gather(world.pieces("count 4"), world.ask("count 3"), world.pieces("count 2"))
        assert both == [["3 ", "2 ", "1 ", "0 "], "2 1 0 ", ["1 ", "0 "]]
        assert max(ran.requests for ran in world.ran) == 2


@pytest.mark.clause("TS-B5")
async def test_who_leaves_takes_part_in_no_further_step() -> None:
    async with world_of(is_continuous=True, batch_size=2, max_batch_delay_ms=0) as world:
        pieces = world.engine.stream(asking("count 100000"))
        assert said(await anext(pieces)) == "99999 "
        assert await world.pieces("count 2") == ["1 ", "0 "]
        await pieces.aclose()
        await auntil(lambda: not world.engine.running)
        assert await world.pieces("count 1") == ["0 "]


@pytest.mark.clause("TS-B7")
async def test_close_refuses_what_waits_and_ends_what_runs() -> None:
    async with world_of() as world:
        async with held(world) as (running,):
            waiting = asyncio.ensure_future(failure(world.ask("x")))
            await auntil(lambda: world.engine.queued == 1)
            pid = world.engine.workers()[0].pid
            closing = asyncio.ensure_future(world.engine.close())
            assert isinstance(await waiting, NotReady)
            assert not closing.done()
        await closing
        assert await running == "held"
        assert isinstance(await failure(world.ask("x")), NotReady)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.clause("TS-Y1")
async def test_a_handler_that_answers_when_it_likes_has_several_open() -> None:
    async with world_of(at_start="async", is_async=True, batch_size=3) as world:
        engine = world.engine
        assert await world.ask("x") == "x done"
        assert await world.pieces("stream 3") == ["0 ", "1 ", "2 ", "stream done"]
        async with held(world, count=3) as asked:
            asked += [asyncio.create_task(world.ask("x")) for _ in range(2)]
            await auntil(lambda: (engine.running, engine.queued) == (3, 2))
        assert await asyncio.gather(*asked) == ["hold done"] * 3 + ["x done"] * 2
        assert (await failure(world.ask("nothing"))).message == "Prediction failed"
        pieces = engine.stream(asking("stream 1000"))
        assert said(await anext(pieces)) == "0 "
        await pieces.aclose()
        await auntil(lambda: not engine.running)
        assert ("Lines:1",) in [lines for _, lines in world.heard]


@pytest.mark.clause("TS-Y1", "TS-B7")
async def test_its_worker_may_die_or_say_nothing_for_too_long() -> None:
    async with world_of(at_start="async", is_async=True, batch_size=3, response_timeout_s=1) as world:
        both = [asyncio.ensure_future(failure(world.ask(what))) for what in ("sleep 30", "exit")]
        assert [(await one).message for one in both] == ["Worker died."] * 2
        assert (await failure(world.ask("sleep 30"))).message == "Worker died."
        assert await world.ask("x") == "x done"


@pytest.mark.clause("TS-B2")
def test_batches_fill_on_the_loop_that_serves() -> None:
    """A wait that is nearly over has a handle that does not say when, on uvloop."""

    async def asked() -> set[str]:
        async with world_of(batch_size=32, max_batch_delay_ms=2) as world:

            async def ask_on(chance: random.Random) -> set[str]:
                told = set()
                for _ in range(60):
                    told.add(await world.ask("x"))
                    await asyncio.sleep(chance.random() * 0.004)
                return told

            told = await asyncio.gather(*(ask_on(random.Random(n)) for n in range(20)))
            return set().union(*told)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(asked()) == {"x"}


@pytest.mark.clause("TS-B7")
async def test_a_defect_of_ours_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(self: ForkServer, gpu: int | None = None) -> FormHost:
        raise RuntimeError("by chance")

    monkeypatch.setattr(ForkServer, "launch", broken)
    world = World(max_retry_s=0)
    async with asyncio.timeout(PATIENCE_S):
        assert await world.engine.settled() == 0
    assert "worker 9000 cannot be started" in caplog.text
    assert "RuntimeError: by chance" in str(await failure(world.ask("x")))
    await world.engine.close()


@pytest.mark.clause("TS-Y1")
async def test_what_cannot_be_handed_over_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(self: FormHost, requests: object, found: object) -> None:
        raise RuntimeError("by chance")

    async with world_of(at_start="async", is_async=True, batch_size=2) as world:
        monkeypatch.setattr(FormHost, "stream", broken)
        async with asyncio.timeout(PATIENCE_S):
            assert str(await failure(world.ask("x"))) == "Prediction failed"


@pytest.mark.clause("TS-M2")
async def test_nothing_is_kept_of_workers_that_have_gone() -> None:
    async with world_of(max_batch_delay_ms=0) as world:
        for _ in range(3):
            world.engine.scale(2, 2)
            assert await world.engine.settled() == 2
            world.engine.scale(1, 1)
            await world.engine.gone()
        assert len(world.engine._idle_since) == 1
