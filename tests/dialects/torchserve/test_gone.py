"""A process that dies while it has nothing to do costs no request, however late its death is known."""

import asyncio
import os
import select
import signal
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from handler_worlds import World, asking, failure, kill, said, world_of
from host_engines import HostEngineRig, heard, host_engine

from salver.dialects.torchserve.engine.form_host import FormHost
from salver.words.errors import HandlerFailed, HostGone, NotReady

T = TypeVar("T")


async def before(pids: Sequence[int], asking: Coroutine[None, None, T], has_begun: Callable[[], bool]) -> T:
    """Kill workers before they get work, without the event loop knowing."""
    for pid in pids:
        fd = os.pidfd_open(pid)
        kill(pid)
        select.select([fd], [], [])
        os.close(fd)
    return await asking


async def unread(pids: Sequence[int], asking: Coroutine[None, None, T], has_begun: Callable[[], bool]) -> T:
    """Kill workers after they got work, before they have read it."""
    for pid in pids:
        stop(pid)
    asked = asyncio.ensure_future(asking)
    async with asyncio.timeout(60):
        while not has_begun():
            await asyncio.sleep(0.001)
    for pid in pids:
        kill(pid)
    return await asked


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        os.sched_yield()


DEATHS = pytest.mark.parametrize("death", [before, unread])


def pids_of(world: World) -> list[int]:
    return [status.pid for status in world.engine.workers()]


async def all_of(world: World, *texts: str) -> list[str]:
    return await asyncio.gather(*map(world.ask, texts))


@pytest.mark.clause("TS-B7")
@DEATHS
@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize(("least", "victims"), [(1, 1), (2, 1), (2, 2)])
async def test_another_worker_runs_what_one_that_died_idle_has_not_seen(
    death: Any, shares: bool, least: int, victims: int
) -> None:
    async with world_of(least=least, shares=shares) as world:
        pids = pids_of(world)[:victims]
        assert await death(pids, all_of(world, "a", "b", "c"), lambda: bool(world.engine.running)) == [*"abc"]
        assert [event.ok for event in world.ran] == [True] * 3, "what nobody has seen has not run"


@pytest.mark.clause("TS-B7")
@DEATHS
@pytest.mark.parametrize("texts", [["batch"] * 3, ["x" * (3 << 20)]])
async def test_whole_batches_and_large_bodies_too(death: Any, texts: list[str]) -> None:
    async with world_of(batch_size=len(texts), max_batch_delay_ms=60_000) as world:
        answers = await death(pids_of(world), all_of(world, *texts), lambda: bool(world.engine.running))
        assert answers == (["3"] * 3 if len(texts) == 3 else texts)


@pytest.mark.clause("TS-B7", "TS-B6")
@DEATHS
async def test_a_sequence_ends_with_its_worker(death: Any) -> None:
    async with world_of(is_stateful=True) as world:
        mine = ("s", False, False)
        assert await world.ask("add 1", sequence=mine) == "1"
        failed = failure(world.ask("add 1", sequence=mine))
        error = await death(pids_of(world), failed, lambda: bool(world.engine.running))
        assert (type(error), error.message) == (HandlerFailed, "Worker died.")


@pytest.mark.clause("TS-B7", "TS-B5")
async def test_no_other_worker_goes_on_with_steps() -> None:
    async with world_of(least=2, is_continuous=True, batch_size=2, max_batch_delay_ms=0) as world:
        pieces = world.engine.stream(asking("count 1000000"))
        assert said(await anext(pieces)) == "999999 "
        for pid in pids_of(world):
            stop(pid)
            kill(pid)
        with pytest.raises(HandlerFailed, match="Worker died"):
            async for _ in pieces:
                pass


@pytest.mark.clause("TS-B7")
async def test_a_request_goes_to_as_many_others_as_there_are_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[FormHost] = []

    def handle(host: FormHost, *_: object) -> None:
        asked.append(host)
        raise HostGone("as if")

    async with world_of(least=2) as world:
        monkeypatch.setattr(FormHost, "handle", handle)
        assert (await failure(world.ask("x"))).message == "Worker died."
        assert len(asked) == 1 + 2


@DEATHS
async def test_another_host_runs_a_batch_that_one_has_not_seen(death: Any, tmp_path: Path) -> None:
    async with host_engine(tmp_path, slots=2) as talk:
        answers = await death(talk.runner.pids[:1], words(talk), lambda: bool(talk.engine.running))
        assert answers == [[b"%d" % n] for n in range(9)]
        assert all(event.ok for event in talk.events)


async def test_without_another_host_they_are_told_that_it_starts_again(tmp_path: Path) -> None:
    async with host_engine(tmp_path) as talk:
        with pytest.raises(NotReady, match="'talk' died and is restarting"):
            await before(talk.runner.pids, words(talk), lambda: bool(talk.engine.running))


async def test_without_another_host_what_was_handed_over_waits_until_it_has_started(tmp_path: Path) -> None:
    async with host_engine(tmp_path) as talk:
        answers = await unread(talk.runner.pids, words(talk), lambda: bool(talk.engine.running))
        assert answers == [[b"%d" % n] for n in range(9)]
        assert all(event.ok for event in talk.events)


async def words(talk: HostEngineRig) -> list[list[bytes]]:
    return [heard(answer) for answer in await asyncio.gather(*(talk.ask(b"%d" % n) for n in range(9)))]
