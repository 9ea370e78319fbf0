"""Keys in the ledger, and servers that follow them."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, select, update
from waiting import auntil

from salver.features.access.key_table import KeyTable
from salver.features.access.keys_file import KeyRecord, hash_of
from salver.features.access.limits import LimitRules
from salver.features.keyring.following import FollowedKeys
from salver.features.keyring.key_changes import Author, limited, revoked, rotated
from salver.features.keyring.ledger_keys import LedgerKeys
from salver.features.ledger.faults import LedgerFailed
from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import ACCESS_CHANGE, ACCESS_KEY, DELIVERY, WEBHOOK
from salver.features.registry.audit import history
from salver.words.errors import NotFound, Unidentified

NOW = datetime(2027, 1, 1, tzinfo=UTC)
ANN = Author("ann", why="asked for it")
ADA = KeyRecord("k1", "ada", hash_of("a"), ("infer", "read"), created=NOW, shown="slv_0123…abc")


def opened(ledger: Ledger) -> LedgerKeys:
    return LedgerKeys(ledger, lambda: 1.5)


def admits(table: KeyTable, key: str) -> bool:
    try:
        table.admit([(b"x-api-key", key.encode())], "infer", "m", is_later=False)
    except Unidentified:
        return False
    return True


class Follower:
    """A server's keys, and its clocks."""

    def __init__(self, ledger: Any, *, are_optional: bool = True) -> None:
        self.now = 100.0
        self.table = KeyTable(lambda: self.now, lambda: 0, b"")
        self.keys = FollowedKeys(ledger, self.table, lambda: self.now, are_optional=are_optional)


async def test_each_change_is_written_down_with_who_and_when(ledger: Ledger) -> None:
    known = opened(ledger)
    assert await known.add(ADA, ANN) is True
    assert await known.add(msgspec.structs.replace(ADA, id="k2", hash=hash_of("b")), ANN) is False
    await known.change("k1", "key.changed", ANN, lambda old: limited(old, LimitRules("5/s"), NOW))
    await known.change("k1", "key.rotated", ANN, lambda old: rotated(old, "slv_new", "1h", NOW))
    await known.change("k1", "key.revoked", Author("bob"), lambda old: revoked(old, NOW))
    await known.change("k1", "key.revoked", Author("bob"), lambda old: revoked(old, NOW))  # no change
    lines = await ledger.read(history)
    assert [(line.action, line.subject, line.actor, line.why) for line in reversed(lines)] == [
        ("key.made", "k1 ada", "ann", "asked for it"),
        ("key.made", "k2 ada", "ann", "asked for it"),
        ("key.changed", "k1 ada", "ann", "asked for it"),
        ("key.rotated", "k1 ada", "ann", "asked for it"),
        ("key.revoked", "k1 ada", "bob", ""),
    ]
    assert lines[2].before == "infer read slv_0123…abc"
    assert lines[2].after == 'infer read {"requests":"5/s"} slv_0123…abc'
    assert lines[0].after.endswith(" revoked")
    assert await ledger.read(lambda c: c.scalar(select(ACCESS_CHANGE.c.number))) == 5
    (one, two) = await known.read()
    assert (one.record.id, two.record.id, one.by) == ("k1", "k2", "ann")
    assert (await known.find("k1")).record == one.record
    assert not any(hash_of("a")[7:] in repr(line) for line in lines)


async def test_a_change_that_is_refused_changes_nothing(ledger: Ledger) -> None:
    known = opened(ledger)
    await known.add(ADA, ANN)

    def refuse(old: KeyRecord) -> KeyRecord:
        raise NotFound("no")

    for key in ("k1", "k9"):
        with pytest.raises(NotFound):
            await known.change(key, "key.revoked", ANN, refuse)
    assert len(await ledger.read(history)) == 1
    assert (await known.find("ada")).record == ADA


async def test_webhooks_are_not_told_of_keys(ledger: Ledger) -> None:
    hook = {"id": "w", "url": "http://a", "secret": "s", "created": 1.0, "by": "ann"}
    await ledger.write(lambda c: c.execute(WEBHOOK.insert(), hook) and None)
    await opened(ledger).add(ADA, ANN)
    assert await ledger.read(lambda c: c.execute(select(DELIVERY)).all()) == []


async def test_the_latest_use_stays(ledger: Ledger) -> None:
    known = opened(ledger)
    await known.add(ADA, ANN)
    for at, kept in ((5.0, 5.0), (9.0, 9.0), (7.0, 9.0)):
        await known.use({"k1": at, "gone": at})
        assert (await known.find("k1")).last_use == kept
    await known.use({})


async def test_keys_that_were_made_in_one_second_are_listed_by_name(ledger: Ledger) -> None:
    known = opened(ledger)
    for id, name in (("k1", "shop"), ("k2", "ada")):
        await known.add(replace(ADA, id=id, name=name, hash=hash_of(name)), ANN)
    assert [each.record.name for each in await known.read()] == ["ada", "shop"]


async def test_a_server_follows_the_ledger(ledger: Ledger) -> None:
    known, server = opened(ledger), Follower(ledger)
    await server.keys.start()
    assert server.table.is_open and admits(server.table, "anything")
    await known.add(ADA, ANN)
    await server.keys.look()
    assert not server.table.is_open and admits(server.table, "a") and not admits(server.table, "anything")
    await known.change("k1", "key.rotated", ANN, lambda old: rotated(old, "b", "1h", NOW))
    await server.keys.catch_up()
    assert admits(server.table, "a") and admits(server.table, "b")
    await known.change("k1", "key.revoked", ANN, lambda old: revoked(old, NOW))
    await server.keys.look()
    assert not admits(server.table, "a") and not admits(server.table, "b")
    assert not server.table.is_open, "who once had keys needs them also without any"

    def forget(connection: Connection) -> None:
        connection.execute(ACCESS_KEY.delete())
        connection.execute(update(ACCESS_CHANGE).values(number=99))

    await ledger.write(forget)
    await server.keys.look()
    assert not server.table.is_open, "not even if somebody takes the rows away"
    await server.keys.stop()


async def test_the_use_of_keys_is_written(ledger: Ledger) -> None:
    known, server = opened(ledger), Follower(ledger)
    await known.add(ADA, ANN)
    await server.keys.start()
    await server.keys.write_uses(known)
    assert (await known.find("k1")).last_use is None
    assert admits(server.table, "a")
    await server.keys.write_uses(known)
    assert (await known.find("k1")).last_use == 100.0
    await known.change("k1", "key.rotated", ANN, lambda old: rotated(old, "b", "1h", NOW))
    await server.keys.look()
    assert server.table.last_uses() == {"k1": 100.0}, "it stays with the id"
    server.now = 200.0
    assert admits(server.table, "b")
    await server.keys.write_uses(known)
    assert (await known.find("k1")).last_use == 200.0


async def test_a_key_that_cannot_be_read_is_refused_and_the_others_are_not(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """A newer server may have written rules that this one does not know."""
    known, server = opened(ledger), Follower(ledger)
    await known.add(ADA, ANN)
    await known.add(msgspec.structs.replace(ADA, id="k2", hash=hash_of("b")), ANN)
    body = '{"id":"k1","name":"ada","hash":"h","scopes":["infer"],"limits":{"moons":"3/d"}}'
    await ledger.write(
        lambda c: c.execute(update(ACCESS_KEY).where(ACCESS_KEY.c.id == "k1").values(body=body)) and None
    )
    await server.keys.start()
    assert not admits(server.table, "a") and admits(server.table, "b")
    assert "the key k1 is refused" in caplog.text


class AwayLedger:
    """A ledger that answers, is silent, or fails, as a test says."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.answers = asyncio.Event()
        self.answers.set()
        self.fails = False
        self.readings = 0

    async def read(self, work: Callable[[Connection], Any]) -> Any:
        self.readings += 1
        if self.fails:
            raise LedgerFailed("no connection")
        await self.answers.wait()
        return await self._ledger.read(work)


async def test_a_server_that_is_cut_off_goes_on_with_the_keys_that_it_knows(
    ledger: Ledger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("salver.features.keyring.following._LATE_S", 0.001)
    caplog.set_level(logging.INFO, "salver.access")
    away = AwayLedger(ledger)
    known, server = opened(ledger), Follower(away)
    await known.add(ADA, ANN)
    await server.keys.start()
    for is_silent in (True, False):
        caplog.clear()
        away.answers.clear() if is_silent else setattr(away, "fails", True)
        before = away.readings
        for _ in range(3):
            server.now += 1
            await server.keys.look()
        assert away.readings - before == (1 if is_silent else 3), "one reading at a time is waited for"
        assert [record.levelname for record in caplog.records] == ["ERROR"], "told once"
        assert "the keys stay as they are" in caplog.text
        assert admits(server.table, "a")
        (family,) = server.keys.collect()
        assert family.samples[0].value == 3
        away.answers.set()
        away.fails = False
        await known.change("k1", "key.changed", ANN, lambda old: limited(old, LimitRules(at_once=1), NOW))
        await known.change("k1", "key.changed", ANN, lambda old: limited(old, None, NOW))
        await auntil(lambda: _hears(server))
        assert "the ledger answers again" in caplog.text
    await server.keys.stop()


async def _hears(server: Follower) -> bool:
    await server.keys.look()
    (family,) = server.keys.collect()
    return bool(family.samples[0].value == 0)


async def test_a_reading_that_is_under_way_ends_with_the_server(ledger: Ledger) -> None:
    away = AwayLedger(ledger)
    server = Follower(away)
    await server.keys.start()
    away.answers.clear()
    looking = asyncio.create_task(server.keys.look())
    await auntil(lambda: away.readings == 2)
    looking.cancel()
    await server.keys.stop()
    assert server.keys._reading is not None and server.keys._reading.cancelled()


async def test_two_changes_at_once_lose_none(url: str) -> None:
    async with await Ledger.open(url) as one, await Ledger.open(url) as two:
        await opened(one).add(ADA, ANN)

        def grown(old: KeyRecord) -> KeyRecord:
            return msgspec.structs.replace(old, note=old.note + "x")

        changes = [opened(each).change("k1", "key.changed", ANN, grown) for each in (one, two) * 5]
        await asyncio.gather(*changes)
        assert (await opened(one).find("k1")).record.note == "x" * 10
