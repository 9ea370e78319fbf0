"""Workers that share what their model holds: where that is safe, they come from one process."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from handler_worlds import World, all_there, failure, held, kill, world_of
from soaking import size
from waiting import auntil

from salver.dialects.torchserve.engine.sharing import exit_code_of


def fork_server_of(world: World) -> int:
    return world.engine._pool._fork_server.pid


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def pids_of(world: World) -> list[int]:
    return [status.pid for status in world.engine.workers()]


def lives(pid: int) -> bool:
    """Return whether a process exists and is no zombie of ours."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def is_there(pid: int) -> bool:
    """Or a zombie."""
    return Path(f"/proc/{pid}").exists()


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def started() -> subprocess.Popen[bytes]:
    paths = os.pathsep.join([str(Path(__file__).parents[2] / "support"), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}
    )


async def is_gone(pid: int) -> bool:
    return await auntil(lambda: not lives(pid))


async def each(world: World, text: str) -> list[str]:
    """Return the answers of both workers."""
    async with held(world):
        first = await world.ask(text)
    async with held(world):
        second = await world.ask(text)
    return [first, second]


@pytest.mark.clause("TS-B7")
async def test_workers_come_from_one_process_and_end_like_any_other() -> None:
    async with world_of(least=3, shares=True, max_retry_s=1e9) as world:
        server = fork_server_of(world)
        assert server > 0
        assert {parent_of(pid) for pid in pids_of(world)} == {server}
        assert all(os.getpgid(pid) == pid for pid in pids_of(world))
        for how, why in (("exit", "exit code 3"), ("leave", "exit code 4")):
            assert (await failure(world.ask(how))).message == "Worker died."
            assert await world.ask("x") == "x"
            assert why
        await all_there(world)
        victim = pids_of(world)[0]
        kill(victim)
        await all_there(world, victim)
        assert await is_gone(victim)
        assert not is_there(victim), "its parent has reaped it"
        assert fork_server_of(world) == server
        assert await asyncio.gather(*(world.ask(str(n)) for n in range(30))) == [str(n) for n in range(30)]
    assert await is_gone(server)


@pytest.mark.clause("TS-B7")
async def test_what_a_forked_worker_died_of_is_known(caplog: pytest.LogCaptureFixture) -> None:
    async with world_of(shares=True, max_retry_s=1e9) as world:
        for how in ("exit", "leave"):
            await failure(world.ask(how))
            assert await world.ask("x") == "x"
    assert "exit code 3" in caplog.text
    assert "exit code 4" in caplog.text
    assert exit_code_of(2**22 + 1) == -signal.SIGKILL


@pytest.mark.clause("TS-M2")
async def test_a_worker_that_is_given_up_while_it_is_forked_confuses_no_other() -> None:
    async with world_of(least=1, shares=True, max_batch_delay_ms=0) as world:
        server, engine = fork_server_of(world), world.engine
        assert server > 1
        os.kill(server, signal.SIGSTOP)
        try:
            engine.scale(2, 2)
            await asyncio.sleep(0.05)  # it has been told to fork
            engine.scale(1, 1)
            await asyncio.sleep(0.05)
            engine.scale(3, 3)
            await asyncio.sleep(0.05)
        finally:
            os.kill(server, signal.SIGCONT)
        assert await engine.settled() == 3
        await engine.gone()
        said = {pid async for pid in answering(world, 3)}
        assert said == set(pids_of(world)) and fork_server_of(world) == server


async def answering(world: World, count: int) -> AsyncIterator[int]:
    """Return the process ids that the workers report."""
    async with held(world, "who", count) as busy:
        pass
    for each in busy:
        yield int((await each).split()[0])


@pytest.mark.clause("TS-M2")
async def test_without_workers_nothing_holds_the_models_memory() -> None:
    async with world_of(shares=True) as world:
        server = fork_server_of(world)
        world.engine.scale(0, 0)
        await world.engine.gone()
        assert await is_gone(server)
        assert fork_server_of(world) == -1
        world.engine.scale(2, 2)
        assert await world.engine.settled() == 2
        assert await world.ask("x") == "x"
        assert {parent_of(pid) for pid in pids_of(world)} == {fork_server_of(world)}


@pytest.mark.clause("TS-B7")
async def test_when_the_process_dies_that_the_others_came_from_another_takes_its_place() -> None:
    async with world_of(least=2, shares=True, max_retry_s=1e9) as world:
        server, workers = fork_server_of(world), pids_of(world)
        kill(server)
        assert all(await asyncio.gather(*map(is_gone, workers))), "they go with it"
        await all_there(world, *workers)  # one whose death is not known yet would be asked
        assert await world.ask("x") == "x"
        assert fork_server_of(world) not in (server, -1)


@pytest.mark.clause("TS-B7")
@pytest.mark.parametrize(
    ("at_start", "why"),
    [("thread", "it has 2 threads"), ("socket", "socket:"), ("writes:{}/log", "it writes to")],
)
async def test_a_model_that_cannot_be_shared_is_loaded_by_each_worker(
    at_start: str, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with world_of(least=2, shares=True, at_start=at_start.format(tmp_path)) as world:
        assert "its workers share no memory: " in caplog.text
        assert why in caplog.text
        assert fork_server_of(world) == -1
        assert {parent_of(pid) for pid in pids_of(world)} == {os.getpid()}
        assert await world.ask("x") == "x"
        await failure(world.ask("exit"))
        assert await world.ask("x") == "x"


@pytest.mark.clause("TS-B7")
async def test_what_is_imported_is_shared_where_the_model_cannot_be(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with world_of(least=3, shares=True, at_start="imports", max_retry_s=1e9) as world:
        assert "its workers share imports but no model: it has 2 threads" in caplog.text
        parents = [parent_of(pid) for pid in pids_of(world)]
        assert sorted(map(parents.count, {os.getpid(), fork_server_of(world)})) == [1, 2]
        for _ in range(3):
            assert (await failure(world.ask("exit"))).message == "Worker died."
            assert await world.ask("x") == "x"
        await all_there(world)
        assert await asyncio.gather(*(world.ask(str(n)) for n in range(9))) == [str(n) for n in range(9)]


@pytest.mark.clause("TS-B7")
async def test_workers_read_a_file_that_was_opened_each_by_itself(tmp_path: Path) -> None:
    (tmp_path / "words").write_bytes(b"abcdefgh")
    async with world_of(least=2, shares=True, at_start=f"reads:{tmp_path / 'words'}") as world:
        assert fork_server_of(world) > 0
        assert await each(world, "read 3") == ["abc", "abc"]


@pytest.mark.clause("TS-B7")
async def test_chance_is_not_the_same_for_all_unless_somebody_has_seeded_it() -> None:
    async with world_of(least=2, shares=True) as world:
        first, second = await each(world, "chance")
        assert set(first.split()).isdisjoint(second.split())
    async with world_of(least=2, shares=True, at_start="seeded") as world:
        first, second = await each(world, "chance")
        assert first == second, "as if each had seeded it by itself"


@pytest.mark.clause("TS-B7")
async def test_what_is_cleaned_up_at_the_end_is_still_there_for_the_others(tmp_path: Path) -> None:
    async with world_of(least=2, shares=True, at_start=f"folder:{tmp_path}", max_retry_s=1e9) as world:
        assert await each(world, "folder") == ["True", "True"]
        await failure(world.ask("leave"))
        world.engine.scale(1, 1)
        await world.engine.gone()
        assert await world.ask("folder") == "True"
    assert os.listdir(tmp_path) == []  # noqa: PTH208


@pytest.mark.clause("TS-B7")
async def test_workers_have_their_threads_though_they_came_from_one_that_had_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("torch")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    async with world_of(shares=True, at_start="torch", threads=2) as world:
        assert fork_server_of(world) > 0
        assert await world.ask("threads") == "2 2"


SERVER = """
import asyncio
from handler_worlds import world_of

async def main():
    async with world_of(least=2, shares=True) as world:
        print(world.engine._pool._fork_server.pid, *[s.pid for s in world.engine.workers()], flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.clause("TS-B7")
async def test_all_end_with_the_server_however_it_ends() -> None:
    server = started()
    try:
        assert server.stdout is not None
        pids = [int(word) for word in (await asyncio.to_thread(server.stdout.readline)).split()]
        assert len(pids) == 3
        server.kill()
        assert all(await asyncio.gather(*map(is_gone, pids)))
    finally:
        server.kill()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()


@pytest.mark.clause("TS-B7")
@pytest.mark.soak
async def test_a_forked_worker_killed_again_and_again_is_back_each_time() -> None:
    times = size(100, 20)
    async with world_of(least=2, shares=True, max_retry_s=1e9) as world:
        server = fork_server_of(world)
        seen: set[Any] = set()
        for n in range(times):
            victim = pids_of(world)[n % 2]
            seen.add(victim)
            kill(victim)
            await all_there(world, victim)
            assert await world.ask("x") == "x"
        assert fork_server_of(world) == server
        assert len(seen) == times
        assert sorted(children_of(server)) == sorted(pids_of(world)), "no zombies are left"
