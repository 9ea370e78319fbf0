"""Does the ledger write all or nothing, one at a time, and read one state? On both databases."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from databases import empty_database, empty_ledger
from relay import DatabaseRelay, Trouble
from sqlalchemy import Connection, func, insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from waiting import PATIENCE_S

from salver.features.ledger.faults import LedgerFailed
from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import AUDIT, BUCKET, EXPOSURE, MODEL, RELEASE, TAG, VERSION
from salver.words.errors import Conflict, InvalidInput, MissingExtra

KINDS = ("sqlite", "postgresql")


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return empty_ledger(request.param, tmp_path)


def model(name: str) -> dict[str, object]:
    return {"name": name, "created": 1.5, "by": "ann", "last_number": 0}


def names(connection: Connection) -> list[str]:
    return list(connection.scalars(select(MODEL.c.name).order_by(MODEL.c.name)))


async def test_what_was_written_is_read_and_stays(url: str) -> None:
    async with await Ledger.open(url) as ledger:
        await ledger.write(lambda c: c.execute(insert(MODEL), [model("a"), model("b")]) and None)
        assert await ledger.read(names) == ["a", "b"]
    async with await Ledger.open(url) as ledger:
        assert await ledger.read(names) == ["a", "b"]


async def test_a_work_that_fails_has_written_nothing(url: str) -> None:
    def fails(connection: Connection) -> None:
        connection.execute(insert(MODEL), model("a"))
        raise Conflict("no")

    async with await Ledger.open(url) as ledger:
        with pytest.raises(Conflict, match="no"):
            await ledger.write(fails)
        assert await ledger.read(names) == []
        await ledger.write(lambda c: c.execute(insert(MODEL), model("b")) and None)
        assert await ledger.read(names) == ["b"]


async def test_a_reader_sees_one_state_while_others_write(url: str) -> None:
    loop = asyncio.get_running_loop()
    async with await Ledger.open(url) as ledger:

        def twice(connection: Connection) -> tuple[list[str], list[str]]:
            before = names(connection)
            writing = asyncio.run_coroutine_threadsafe(
                ledger.write(lambda c: c.execute(insert(MODEL), model("late")) and None), loop
            )
            writing.result(PATIENCE_S)
            return before, names(connection)

        assert await ledger.read(twice) == ([], [])
        assert await ledger.read(names) == ["late"]


async def test_a_reader_cannot_write(url: str) -> None:
    async with await Ledger.open(url) as ledger:
        with pytest.raises(LedgerFailed, match=r"(?i)read.?only"):
            await ledger.read(lambda c: c.execute(insert(MODEL), model("a")) and None)
        assert await ledger.read(names) == []


def count_up(connection: Connection) -> int:
    """Reads, and writes what follows from it: wrong if two did so at one time."""
    number = int(connection.scalar(select(func.count()).select_from(MODEL)) or 0)
    connection.execute(insert(MODEL), model(f"m{number:04d}"))
    return number


async def test_works_follow_one_another(url: str) -> None:
    async with await Ledger.open(url) as one, await Ledger.open(url) as other:
        done = await asyncio.gather(*(ledger.write(count_up) for _ in range(20) for ledger in (one, other)))
    assert sorted(done) == list(range(40))


PROCESS = """
import asyncio, sys
from salver.features.ledger.ledger import Ledger
from test_ledger import count_up
async def main():
    async with await Ledger.open(sys.argv[1]) as ledger:
        for _ in range(10):
            await ledger.write(count_up)
asyncio.run(main())
"""


def test_processes_open_write_and_migrate_at_one_time(url: str) -> None:
    command = [sys.executable, "-c", PROCESS, url]
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [subprocess.Popen(command, env=path) for _ in range(4)]
    assert [process.wait(100) for process in running] == [0, 0, 0, 0]

    async def all_names() -> list[str]:
        async with await Ledger.open(url) as ledger:
            return await ledger.read(names)

    assert asyncio.run(all_names()) == [f"m{number:04d}" for number in range(40)]


async def test_whoever_holds_the_lock_too_long_is_named_as_the_reason(url: str) -> None:
    async with await Ledger.open(url) as holder, await Ledger.open(url, patience=0.05) as waiting:

        def hold(_: Connection) -> None:
            asking = asyncio.run_coroutine_threadsafe(waiting.write(count_up), loop)
            with pytest.raises(LedgerFailed, match="Another process is writing"):
                asking.result(PATIENCE_S)

        loop = asyncio.get_running_loop()
        await holder.write(hold)
        assert await waiting.write(count_up) == 0


async def test_a_work_that_met_a_lock_is_done_again(url: str) -> None:
    tries = []

    def locked_at_first(connection: Connection) -> int:
        tries.append(1)
        number = count_up(connection)
        if len(tries) < 3:
            raise OperationalError("INSERT", {}, Exception("database is locked"))
        return number

    async with await Ledger.open(url) as ledger:
        assert await ledger.write(locked_at_first) == 0
        assert await ledger.read(names) == ["m0000"]
    assert len(tries) == 3


RELEASE_ROW = {
    "id": "r1", "model": "m", "stable": "1", "canary": "2", "alias": "champion", "salt": "s",
    "state": "RUNNING", "created": 1.0, "by": "ann", "changed": 1.0,
}  # fmt: skip


async def test_rows_that_are_kept_can_be_neither_changed_nor_removed(url: str) -> None:
    def fill(connection: Connection) -> None:
        connection.execute(insert(AUDIT), {"time": 1.0, "actor": "ann", "action": "pushed"})
        connection.execute(insert(RELEASE), RELEASE_ROW)
        connection.execute(insert(BUCKET), {"release": "r1", "seq": 0, "body": "{}"})

    async with await Ledger.open(url) as ledger:
        await ledger.write(fill)
        for change in (
            "UPDATE audit SET actor = 'bob'", "DELETE FROM audit", "UPDATE bucket SET body = ''",
            "DELETE FROM bucket",
        ):  # fmt: skip
            with pytest.raises(LedgerFailed, match="are kept as they are"):
                await ledger.write(lambda c, change=change: c.execute(text(change)) and None)
        assert await ledger.read(lambda c: c.execute(select(AUDIT.c.seq, AUDIT.c.actor)).all()) == [
            (1, "ann")
        ]


async def test_exposures_do_not_change_but_old_ones_may_go(url: str) -> None:
    unit = -2  # of 64 bits, the last but one
    row = {"release": "r1", "unit": unit, "arm": "canary", "stage": 0, "propensity": 0.1, "time": 1.0}
    row["is_first"] = 1

    def fill(connection: Connection) -> None:
        connection.execute(insert(RELEASE), RELEASE_ROW)
        connection.execute(insert(EXPOSURE), row)

    async with await Ledger.open(url) as ledger:
        await ledger.write(fill)
        assert await ledger.read(lambda c: c.scalar(select(EXPOSURE.c.unit))) == unit
        with pytest.raises(LedgerFailed, match="are kept as they are"):
            await ledger.write(lambda c: c.execute(text("UPDATE exposure SET arm = 'stable'")) and None)
        await ledger.write(lambda c: c.execute(text("DELETE FROM exposure")) and None)


async def test_rows_refer_to_rows_that_are_there(url: str) -> None:
    async with await Ledger.open(url) as ledger:
        with pytest.raises(LedgerFailed, match=r"(?i)foreign key"):
            tag = {"model": "m", "number": 1, "key": "k", "value": "v"}
            await ledger.write(lambda c: c.execute(insert(TAG), tag) and None)


async def test_numbers_and_text_come_back_bit_by_bit(url: str) -> None:
    number, words = 0.1 + 0.2, "Zürich 🚀 ' \" \\ %s :x"
    async with await Ledger.open(url) as ledger:
        await ledger.write(lambda c: c.execute(insert(MODEL), model("m")) and None)
        row = {
            "model": "m", "number": 2**62, "digest": "d", "size": 2**40, "framework": "onnx",
            "format": "onnx", "created": number, "by": words, "signature": "{}", "resources": "{}",
        }  # fmt: skip
        await ledger.write(lambda c: c.execute(insert(VERSION), row) and None)
        columns = (VERSION.c.number, VERSION.c.size, VERSION.c.created, VERSION.c.by, VERSION.c.files)
        assert await ledger.read(lambda c: c.execute(select(*columns)).one()) == (
            2**62, 2**40, number, words, "[]",
        )  # fmt: skip


@pytest.mark.parametrize("url", ["mysql://u@h/d", "no url", "sqlite://", "sqlite:///:memory:"])
async def test_a_url_that_is_no_ledger_is_refused_with_what_to_write(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"Name sqlite:////folder/salver\.db or postgresql://"):
        await Ledger.open(url)


async def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'salver\[postgres\]'"):
        await Ledger.open("postgresql://ann@nowhere/salver")


async def test_what_cannot_be_opened_says_why_and_keeps_the_password(tmp_path: Path) -> None:
    with pytest.raises(LedgerFailed, match="Check that its folder"):
        await Ledger.open(f"sqlite:///{tmp_path}/none/salver.db")
    (tmp_path / "text.db").write_text("no database, but long enough to be taken for one. " * 40)
    with pytest.raises(LedgerFailed, match="Name another file"):
        await Ledger.open(f"sqlite:///{tmp_path}/text.db")
    with pytest.raises(
        LedgerFailed, match=r"postgresql://ann:\*\*\*@127.0.0.1:1/salver.*Is PostgreSQL running"
    ) as told:
        await Ledger.open("postgresql://ann:hush@127.0.0.1:1/salver")
    assert "hush" not in str(told.value)


async def test_a_connection_that_breaks_in_a_work_costs_a_try_and_no_row(tmp_path: Path) -> None:
    tries = []

    def cut(connection: Connection) -> int:
        number = count_up(connection)
        tries.append(number)
        if len(tries) == 1:
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return number

    async with await Ledger.open(empty_ledger("postgresql", tmp_path)) as ledger:
        assert await ledger.write(cut) == 0
        assert await ledger.read(names) == ["m0000"]
    assert tries == [0, 0]


@pytest.mark.parametrize(("said", "seconds"), [("", "30000"), ("tcp_user_timeout=5000", "5000")])
async def test_a_postgresql_that_is_gone_without_a_word_is_given_up(said: str, seconds: str) -> None:
    address = make_url(empty_database()).update_query_string(said)
    async with await Ledger.open(address.render_as_string(hide_password=False)) as ledger:
        told = await ledger.read(lambda c: c.connection.driver_connection.info.get_parameters())
    assert told["tcp_user_timeout"] == seconds
    assert int(told["keepalives_idle"]) + 4 * int(told["keepalives_interval"]) == 30


@pytest.mark.parametrize("trouble", ["silent", "mute", "deaf"])
async def test_a_postgresql_that_says_nothing_is_given_up(trouble: Trouble) -> None:
    loop, tries = asyncio.get_running_loop(), []
    async with DatabaseRelay(empty_database()) as relay:
        async with await Ledger.open(relay.url) as ledger:

            def interrupted(connection: Connection) -> int:
                tries.append(count_up(connection))
                begins = threading.Event()
                loop.call_soon_threadsafe(lambda: (relay.be(trouble), begins.set()))
                assert begins.wait(PATIENCE_S)
                return count_up(connection)

            with pytest.raises(LedgerFailed, match=r"timeout expired.*reachable from here"):
                await ledger.write(interrupted)
            with pytest.raises(LedgerFailed, match="timeout expired"):
                await ledger.read(names)
            relay.be("")
            assert await ledger.write(count_up) == 0
            assert await ledger.read(names) == ["m0000"]
            assert tries == [0]
            relay.be(trouble)
            reading = asyncio.create_task(ledger.read(names))
            await asyncio.sleep(0)
        with pytest.raises(LedgerFailed):  # it is closed nevertheless
            await reading


@pytest.mark.parametrize("trouble", ["silent", "mute"])
async def test_a_writer_that_is_cut_off_in_the_midst_keeps_no_lock(
    trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, begins, ends = empty_database(), threading.Event(), threading.Event()

    def hangs(connection: Connection) -> None:
        begins.set()
        ends.wait(PATIENCE_S)
        count_up(connection)

    async with (
        DatabaseRelay(url) as relay,
        await Ledger.open(url, patience=PATIENCE_S) as ledger,
        await Ledger.open(relay.url) as other,
    ):
        with (
            monkeypatch.context() as patch
        ):  # for this writer alone: a busy machine lets the other one wait, too
            patch.setattr("salver.features.ledger.databases._MOST_IDLE_MS", 1000)
            cut_off = asyncio.create_task(other.write(hangs))
            assert await asyncio.to_thread(begins.wait, PATIENCE_S)
        relay.be(trouble)
        assert await ledger.write(count_up) == 0  # which waits for the lock
        ends.set()
        with pytest.raises(LedgerFailed):
            await cut_off
        relay.be("")
        assert await other.read(names) == ["m0000"]


async def test_a_postgresql_that_is_slow_is_waited_for() -> None:
    async with (
        DatabaseRelay(empty_database()) as relay,
        await Ledger.open(relay.url) as ledger,
    ):  # two seconds
        assert await ledger.read(lambda c: c.scalar(text("SELECT 1 FROM pg_sleep(3)"))) == 1


async def test_a_work_that_does_not_begin_in_time_is_not_done(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def long(connection: Connection) -> int:
        begun.set()
        goes_on.wait(PATIENCE_S)
        return count_up(connection)

    async with await Ledger.open(url) as ledger:
        writing = asyncio.create_task(ledger.write(long))
        await asyncio.to_thread(begun.wait, PATIENCE_S)
        cancelled = asyncio.create_task(ledger.write(count_up))
        await asyncio.sleep(0)
        cancelled.cancel()
        monkeypatch.setattr("salver.features.ledger.ledger._MOST_QUEUED_SECONDS", 0.01)
        with pytest.raises(LedgerFailed, match=r"did not start this work.*Earlier work"):
            await ledger.write(count_up)
        assert cancelled.cancelled()
        goes_on.set()
        assert await writing == 0
        assert await ledger.read(names) == ["m0000"]
