"""A ledger that is full, locked or stopped: serving goes on, counts wait, and none is lost or comes twice."""

import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from databases import own_server
from releasing import POLICY, Clock, Server
from sqlalchemy import text

from salver.features.ledger.faults import LedgerFailed
from salver.features.ledger.ledger import Ledger
from salver.features.releases.distinct_units import met
from salver.features.releases.judge.policy import Stage
from salver.features.releases.release_rows import ReleaseSnapshot

LONG = msgspec.structs.replace(POLICY, stages=(Stage(0.5, 1000),), no_data_seconds=1e9)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """In a release, as a window begins, on a ledger of SQLite's that waits for nobody."""
    async with await Ledger.open(f"sqlite:///{tmp_path / 'salver.db'}", patience=0.01) as ledger:
        yield await begun(Server(ledger, Clock()))


async def begun(server: Server) -> Server:
    await server.propose(policy=LONG)
    await ticks(server, 10)
    return server


async def ticks(server: Server, seconds: int, *, fails: str = "") -> None:
    """One each second; those that hand something in fail so."""
    failed = []
    for _ in range(seconds):
        server.clock.now += 1
        try:
            await server.releases.tick()
        except LedgerFailed as error:
            failed.append(str(error))
    assert [fails in each for each in failed] == [True] * len(failed) and bool(failed) == bool(fails)


async def check(server: Server, windows: int, asked: int) -> None:
    """All of it was judged, window by window."""
    looks = await server.store.looks("r0")
    buckets = [look.entry.bucket for look in looks][-windows:]
    assert [bucket.seconds for bucket in buckets] == [10.0] * windows
    assert sum(bucket.requests.total for bucket in buckets) == asked
    units = (await server.store._ledger.read(lambda connection: met(connection, "r0"))).units.tolist()
    assert sum(bucket.exposures.total for bucket in buckets) == len(units) == len(set(units))


def users(window: int, count: int = 2000) -> list[str]:
    return [f"user-{window}-{number}" for number in range(count)] + ["ada"] * 100


async def pragma(server: Server, statement: str) -> int:
    return await server.store._ledger.write(lambda connection: connection.scalar(text(f"PRAGMA {statement}")))


async def test_on_a_full_disk_counts_wait_and_then_come_in_order(server: Server) -> None:
    pages = await pragma(server, "page_count")
    assert await pragma(server, f"max_page_count = {pages}") == pages
    for window in range(5):
        server.serve(users(window))
        await ticks(server, 10, fails="full")
        assert server.traffic.splits[0].weight == 0.5
        assert len(server.pending.of("r0")) == window + 1
    await pragma(server, "max_page_count = 1000000")
    server.serve(users(5))
    await ticks(server, 10)
    assert server.pending.of("r0") == ()
    await check(server, windows=6, asked=6 * 2100)


async def test_while_somebody_holds_the_ledger_counts_wait_and_then_come_in_order(
    server: Server, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "salver.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for window in range(2):
            server.serve(users(window))
            await ticks(server, 10, fails="locked")
        other.execute("ROLLBACK")
    await ticks(server, 1)
    await check(server, windows=2, asked=2 * 2100)


async def test_nobody_goes_on_meeting_a_canary_of_which_nothing_was_heard_for_five_minutes(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(tmp_path / "salver.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for seconds in (10, 280):
            server.serve(users(seconds))
            server.clock.now += seconds - 1
            await ticks(server, 1, fails="locked")
            assert [split.weight for split in server.traffic.splits] == [0.5]
            assert server.releases.shares == {"r0": 0.5}
        assert server.releases.silence() == 290
        assert caplog.text == ""
        for seconds in (10, 600):
            server.clock.now += seconds - 1
            await ticks(server, 1, fails="locked")
            server.serve(users(seconds))
            assert server.traffic.splits == ()
            assert (server.releases.shares, len(server.releases.known)) == ({}, 1)
        assert [record.message.partition(": the ledger")[0] for record in caplog.records] == [
            "release r0 of fraud: this server sends no requests to version 2, but all to 1"
        ]
        other.execute("ROLLBACK")
    await ticks(server, 1)
    assert [split.weight for split in server.traffic.splits] == [0.5]
    assert (server.releases.shares, server.releases.silence()) == ({"r0": 0.5}, 0)
    server.serve(users(1))
    await ticks(server, 10)
    looks = [look.entry.bucket for look in await server.store.looks("r0")]
    assert sum(bucket.requests.total for bucket in looks) == 3 * 2100
    assert {bucket.share for bucket in looks} == {0.5}


@pytest.fixture
def folder() -> Iterator[Path]:
    """That every user can reach."""
    found = Path(tempfile.mkdtemp(prefix="salver-away-"))
    found.chmod(0o755)
    yield found
    shutil.rmtree(found, ignore_errors=True)


async def test_a_postgresql_that_was_stopped_for_a_minute_finds_all_counts_when_it_is_back(
    folder: Path,
) -> None:
    with own_server(folder) as postgres:
        async with await Ledger.open(postgres.get_uri(), patience=1) as ledger:
            server = await begun(Server(ledger, Clock()))
            server.serve(users(0))
            await ticks(server, 10)
            postgres.stop()
            for window in range(1, 7):
                server.serve(users(window))
                await ticks(server, 10, fails="failed")
                assert server.traffic.splits[0].weight == 0.5
            postgres.start()
            server.serve(users(7))
            await ticks(server, 10)
            await check(server, windows=8, asked=8 * 2100)


async def test_trouble_is_told_once_and_so_is_its_end(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "salver.releases")
    trouble = ["the disk is full"] * 3 + ["no connection"] + [""] * 2

    async def fails(*_: object) -> None:
        if trouble[0]:
            raise LedgerFailed(trouble[0])

    picture = server.store.picture
    with monkeypatch.context() as patched:
        patched.setattr(type(server.store), "hand_in", fails)
        patched.setattr(type(server.store), "picture", lambda _: _either(fails, picture))
        while trouble:
            await server.releases._faults.catch(server.releases.tick())
            trouble.pop(0)
    told = [record.message for record in caplog.records]
    assert [message.partition(": ")[2] for message in told] == ["the disk is full", "no connection", ""]
    assert told[-1] == "releases go on"


async def _either(
    fails: Callable[[], Awaitable[None]], picture: Callable[[], Awaitable[ReleaseSnapshot]]
) -> ReleaseSnapshot:
    await fails()
    return await picture()
