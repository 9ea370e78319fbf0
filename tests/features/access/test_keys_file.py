"""The file of keys."""

import asyncio
import logging
import re
import stat
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.access.building import WatchedFile
from salver.features.access.key_format import digest_of, new_key
from salver.features.access.key_table import KeyTable
from salver.features.access.keys_file import (
    KeyRecord,
    Previous,
    editing,
    hash_of,
    parse,
    read,
    table,
    written,
)
from salver.features.access.limits import LimitRules
from salver.features.access.scopes import Scopes
from salver.words.errors import InvalidInput, NotFound, Unidentified

TEXTS = st.text(max_size=20).filter(lambda text: "\ud800" not in text)
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(
    lambda time: time.replace(microsecond=0)
)
RECORDS = st.builds(
    KeyRecord,
    id=st.uuids().map(str),
    name=st.from_regex(r"[a-z ]+", fullmatch=True),
    hash=st.builds(lambda data: hash_of(data.hex()), st.binary(min_size=16, max_size=16)),
    scopes=st.sampled_from([("infer",), ("infer:m*", "read"), ("*",)]),
    created=st.none() | TIMES,
    not_after=st.none() | TIMES,
    revoked=st.none() | TIMES,
    limits=st.none() | st.builds(LimitRules, st.sampled_from(["", "5/s", "10/m+3"]), st.integers(1, 9)),
    tenant=st.sampled_from(["", "acme", "*", "two words"]),
    priority=st.integers(0, 1 << 32),
    service_class=st.sampled_from(["urgent", "normal", "bulk"]),
    owner=TEXTS,
    note=TEXTS,
)
ONE = KeyRecord("k1", "ada", hash_of("a"), ("infer",))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


@given(st.lists(RECORDS, max_size=4, unique_by=lambda each: each.hash))
def test_what_is_written_is_read(records: list[KeyRecord]) -> None:
    assert parse(written(records), "keys.toml").key == tuple(records)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[[key]", "no file of keys"),
        ("[[keys]]\nid = 'a'", "no file of keys"),
        (f"[[key]]\nid = 'a'\nname = 'a'\nhash = '{new_key()}'\nscopes = ['infer']", "never the key itself"),
        (
            f"[[key]]\nid = 'a'\nname = 'a'\nhash = '{hash_of('a')}'\nscopes = ['drive']",
            "'drive' is no scope",
        ),
        (f"[[key]]\nid = 'a'\nname = 'a'\nhash = '{hash_of('a')}'\nscopes = []", "without scopes"),
        (f"[[key]]\nid = 'a'\nname = ''\nhash = '{hash_of('a')}'\nscopes = ['infer']", "an id and a name"),
        (written([msgspec.structs.replace(ONE, limits=LimitRules("5/d"))]), "is no rate"),
        (written([msgspec.structs.replace(ONE, limits=LimitRules())]), "limit nothing"),
        (written([ONE]) + "limits = { at_once = -1 }\n", "at_once"),
        (written([ONE]) + "tenant = 'é'\n", "tenant"),
        (written([ONE]) + 'tenant = "acme\\n"\n', "tenant"),
        (written([ONE]) + "priority = -1\n", "priority"),
        (written([ONE]) + "priority = true\n", "priority"),
        (written([ONE]) + "service_class = 'vip'\n", "service_class"),
        (written([ONE, ONE]), "twice"),
        (written([ONE, KeyRecord("k1", "bob", hash_of("b"), ("infer",))]), "two keys have the id 'k1'"),
        (written([ONE]) + "not_after = 2027-01-01T00:00:00\n", "offset"),
    ],
)
def test_wrong_files(text: str, part: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(part)) as caught:
        parse(text, "keys.toml")
    assert "slv_" not in str(caught.value)


def test_the_table_of_a_file() -> None:
    zone = timezone(timedelta(hours=2))
    soon = datetime(2027, 1, 1, 2, tzinfo=zone)
    rotated = KeyRecord("k1", "ada", hash_of("a"), ("infer",), previous=Previous(hash_of("b"), soon))
    revoked = KeyRecord("k2", "bob", hash_of("c"), ("*",), revoked=soon)
    found = sorted((key.id, key.until) for key in table([rotated, revoked]).values())
    assert found == [("k1", datetime(2027, 1, 1, tzinfo=UTC).timestamp()), ("k1", float("inf"))]


def test_editing_keeps_the_file_if_something_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    with editing(path) as records:
        records.append(ONE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    before = path.read_bytes()
    with pytest.raises(NotFound), editing(path) as records:
        records.clear()
        raise NotFound("no")
    assert path.read_bytes() == before
    with editing(path) as records:
        assert records == [ONE]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(InvalidInput, match="cannot be written"), editing(tmp_path / "none" / "keys.toml"):
        pass


async def test_a_server_reads_the_file_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "salver.access")
    path = tmp_path / "keys.toml"
    path.write_text(written([ONE]))
    keys = KeyTable(lambda: 0.0, lambda: 0, b"x-tenant")
    watched = WatchedFile(path, keys)
    watched.read()

    def admits(key: str) -> bool:
        try:
            keys.admit([(b"x-api-key", key.encode())], "infer", "m", is_later=False)
        except Unidentified:
            return False
        return True

    assert admits("a") and not admits("b")
    caplog.clear()
    await watched.look()
    assert not caplog.records, "nothing has changed"
    for wrong in ("[[key", "", None):
        if wrong is None:
            path.unlink()
        else:
            path.write_text(wrong or "key = 1")
        for _ in range(2):
            await watched.look()
        assert [record.levelname for record in caplog.records] == ["ERROR"], "once for each change"
        assert "the keys stay as they are" in caplog.text
        assert admits("a")
        caplog.clear()
    path.write_text(written([KeyRecord("k2", "bob", hash_of("b"), ("infer",))]))
    await watched.look()
    assert admits("b") and not admits("a")
    assert "1 keys" in caplog.text


def test_the_servers_token_is_a_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(written([]))
    keys = KeyTable(lambda: 0.0, lambda: 0, b"x-tenant", digest_of(b"token"))
    WatchedFile(path, keys).read()
    for right in ("models", "infer"):
        assert keys.admit([(b"authorization", b"Bearer token")], right, "m", is_later=False) is None
    assert keys.caller([(b"authorization", b"Bearer token")]) is None  # its caller names itself


def test_a_server_with_a_wrong_file_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("[[key")
    with pytest.raises(InvalidInput, match="no file of keys"):
        WatchedFile(path, KeyTable(lambda: 0.0, lambda: 0, b"x-tenant")).read()
    assert Scopes(("infer",)).texts == ("infer",)


def test_many_edits_at_once_lose_none(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"

    def add(number: int) -> None:
        with editing(path) as records:
            records.append(KeyRecord(f"k{number}", "a", hash_of(str(number)), ("infer",)))

    async def all_at_once() -> None:
        await asyncio.gather(*(asyncio.to_thread(add, number) for number in range(20)))

    asyncio.run(all_at_once())
    assert len(read(path)) == 20
