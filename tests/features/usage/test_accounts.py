"""What is counted is written once, and quotas hold on several servers of one ledger."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from accounting import ask, close, drop, open_accounts
from databases import POSTGRESQL_MOSTLY, SQLITE_MOSTLY, migrated_ledger
from relay import DatabaseRelay

from salver.features.ledger.ledger import Ledger
from salver.features.usage.accounts import WRITE_S, KeyAccounts
from salver.features.usage.meters import Place
from salver.features.usage.state_file import path_of
from salver.features.usage.store import Query, UsageStore
from salver.words.errors import QuotaExceeded, SalverError
from salver.words.messages import Timing

HOUR = 3600
NOW = 1_796_000_400.0  # 2026-11-29 01:00 UTC


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=SQLITE_MOSTLY)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return migrated_ledger(request.param, tmp_path)


@pytest.fixture
async def accounts(url: str, tmp_path: Path, clock: Clock) -> AsyncIterator[KeyAccounts]:
    opened = await open_accounts(url, "s1", tmp_path, clock)
    yield opened
    await close(opened)


RUN = (2, 500, 60, Timing(inference=0.002, batch_rows=4))


async def rows(accounts: KeyAccounts, **query: Any) -> list[dict[str, Any]]:
    return await accounts._store.find(Query(**query))


async def test_usage_by_key_model_and_hour(accounts: KeyAccounts, clock: Clock) -> None:
    meter = accounts.meters.meter("k1")
    meter.record("m", *RUN)
    meter.record("m", *RUN)
    meter.refuse("m")
    meter.add_tokens("m", 30, 4)
    accounts.meters.meter("k2").record("other", *RUN)
    clock.now += HOUR
    await accounts.tick()
    meter.record("m", *RUN)
    await accounts.write()
    assert await rows(accounts, by=("key", "model", "hour")) == [
        {"key": "k1", "model": "m", "hour": NOW, "requests": 2, "rows": 4, "prompt_tokens": 30,
         "answer_tokens": 4, "bytes_in": 1000, "bytes_out": 120, "compute_us": 2000, "refusals": 1},
        {"key": "k1", "model": "m", "hour": NOW + HOUR, "requests": 1, "rows": 2, "prompt_tokens": 0,
         "answer_tokens": 0, "bytes_in": 500, "bytes_out": 60, "compute_us": 1000, "refusals": 0},
        {"key": "k2", "model": "other", "hour": NOW, "requests": 1, "rows": 2, "prompt_tokens": 0,
         "answer_tokens": 0, "bytes_in": 500, "bytes_out": 60, "compute_us": 1000, "refusals": 0},
    ]  # fmt: skip
    assert [(row["key"], row["requests"]) for row in await rows(accounts, by=("key",))] == [
        ("k1", 3),
        ("k2", 1),
    ]
    assert [row["requests"] for row in await rows(accounts, by=())] == [4]
    assert [row["requests"] for row in await rows(accounts, by=(), since=NOW + 1)] == [1]
    assert [row["requests"] for row in await rows(accounts, by=(), until=NOW + HOUR, key="k1")] == [2]
    assert await rows(accounts, by=(), model="none") == []


async def test_it_is_written_every_ten_seconds(accounts: KeyAccounts, clock: Clock) -> None:
    accounts.meters.meter("k").record("m", *RUN)
    await accounts.tick()
    assert await rows(accounts) == []
    clock.now += WRITE_S
    await accounts.tick()
    assert [row["requests"] for row in await rows(accounts)] == [1]


async def test_nothing_is_counted_twice(accounts: KeyAccounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Confirmations are lost, and the ledger is away: a batch is tried until it is known to be there."""
    fates = iter(["lost", "away", "lost", ""])
    flush = UsageStore.flush

    async def troubled(self: UsageStore, *given: Any) -> None:
        fate = next(fates, "")
        if fate != "away":
            await flush(self, *given)
        if fate:
            raise SalverError(fate)

    monkeypatch.setattr(UsageStore, "flush", troubled)
    meter = accounts.meters.meter("k")
    for _ in range(6):
        meter.record("m", *RUN)
        try:
            await accounts.write()
        except SalverError:
            continue
    await asyncio.gather(accounts.write(), accounts.write())
    assert [row["requests"] for row in await rows(accounts)] == [6]


async def test_another_run_of_a_server_counts_by_itself(
    url: str, tmp_path: Path, clock: Clock, accounts: KeyAccounts
) -> None:
    accounts.meters.meter("k").record("m", *RUN)
    await accounts.write()
    other = await open_accounts(url, "s2", None, clock)
    other.meters.meter("k").record("m", *RUN)
    await close(other)
    assert [row["requests"] for row in await rows(accounts)] == [2]


async def test_old_usage_is_deleted(url: str, clock: Clock) -> None:
    accounts = await open_accounts(url, "s1", None, clock, days=2)
    accounts.meters.meter("k").record("m", *RUN)
    await ask(accounts.quotas("k", ("5/day",)))
    await accounts.tick()
    clock.now += 90 * 86_400
    await accounts.tick()
    accounts.meters.meter("k").record("m", *RUN)
    clock.now += WRITE_S
    await accounts.tick()
    assert [row["hour"] for row in await rows(accounts, by=("hour",))] == [NOW + 90 * 86_400]
    await close(accounts)


# -- quotas ----------------------------------------------------------------------------------------


async def accepted(accounts: KeyAccounts, texts: Sequence[str], most: int = 1000) -> int:
    quotas = accounts.quotas("k", tuple(texts))
    count = 0
    while count < most and await ask(quotas):
        count += 1
    return count


async def test_a_quota_is_exact_and_kept_across_restarts(url: str, tmp_path: Path, clock: Clock) -> None:
    total = 0
    for number, end in enumerate([close, drop, drop, close, drop]):
        accounts = await open_accounts(url, f"s{number}", tmp_path, clock)
        total += await accepted(accounts, ["100/day"], 15)
        (state,) = accounts._quotas["k"].states()
        assert state.left == 100 - total
        await end(accounts)
    accounts = await open_accounts(url, "last", tmp_path, clock)
    accounts.quotas("k", ("100/day",))
    (state,) = accounts._quotas["k"].states()
    assert (state.left, state.most) == (100 - total, 100), "without asking for more"
    total += await accepted(accounts, ["100/day"])
    assert total == 100
    clock.now += 86_400
    assert await accepted(accounts, ["100/day"]) == 100, "the next day"
    await close(accounts)


async def test_many_who_ask_at_once(accounts: KeyAccounts) -> None:
    quotas = accounts.quotas("k", ("40/day",))
    told = await asyncio.gather(*(ask(quotas) for _ in range(100)))
    assert sum(told) == 40


async def test_one_who_is_cancelled_disturbs_nobody(accounts: KeyAccounts) -> None:
    quotas = accounts.quotas("k", ("40/day",))
    first, second = (asyncio.ensure_future(ask(quotas)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second


async def test_rows_are_counted_before_they_run(accounts: KeyAccounts) -> None:
    quotas = accounts.quotas("k", ("100 rows/day",))
    assert await ask(quotas, 60)
    with pytest.raises(SalverError, match="has 40 rows left of its quota of 100 rows/day"):
        await ask(quotas, 41)
    assert await ask(quotas, 40)
    assert not await ask(quotas, 1)


async def test_without_its_file_a_slice_counts_as_used(url: str, tmp_path: Path, clock: Clock) -> None:
    accounts = await open_accounts(url, "s1", tmp_path, clock)
    assert await accepted(accounts, ["800/day"], 1) == 1
    await drop(accounts)
    path_of(tmp_path, "s1").unlink()
    other = await open_accounts(url, "s2", tmp_path, clock)
    assert await accepted(other, ["800/day"]) == 700
    await close(other)


async def test_a_running_servers_file_is_left_alone(url: str, tmp_path: Path, clock: Clock) -> None:
    one = await open_accounts(url, "s1", tmp_path, clock)
    assert await accepted(one, ["800/day"], 1) == 1
    two = await open_accounts(url, "s2", tmp_path, clock)
    assert await accepted(two, ["800/day"], 650) == 650
    assert path_of(tmp_path, "s1").exists()
    assert await accepted(one, ["800/day"]) + 651 <= 800
    await close(one)
    await close(two)


@pytest.mark.parametrize("kind", POSTGRESQL_MOSTLY)
async def test_two_servers_share_a_quota_exactly(kind: str, tmp_path: Path, clock: Clock) -> None:
    url = migrated_ledger(kind, tmp_path)
    servers = [await open_accounts(url, f"s{number}", tmp_path, clock) for number in range(2)]
    counts = await asyncio.gather(*(accepted(each, ["500/day"]) for each in servers))
    assert sum(counts) == 500
    for each in servers:
        await close(each)


async def test_two_servers_cut_off_from_postgresql(tmp_path: Path, clock: Clock) -> None:
    """Each uses its slice, and no more; when the line is back, the rest."""
    url = migrated_ledger("postgresql", tmp_path)
    total = 0
    async with DatabaseRelay(url) as one, DatabaseRelay(url) as two:
        lines = (one, two)
        servers = [
            await open_accounts(line.url, f"s{number}", tmp_path, clock) for number, line in enumerate(lines)
        ]
        for each in servers:
            total += await accepted(each, ["800/day"], 10)
        slices = [each._quotas["k"].slices()[0].left for each in servers]
        assert all(slice > 10 for slice in slices)
        for line in lines:
            line.be("refused")
        counts = await asyncio.gather(*(accepted(each, ["800/day"]) for each in servers))
        assert counts == slices
        refusal = servers[0]._quotas["k"].refusal(is_trial=False)
        assert refusal is not None and not isinstance(refusal, QuotaExceeded), "it is not known to be used up"
        total += sum(counts)
        for line in lines:
            line.be("")
        clock.now += WRITE_S
        total += sum(await asyncio.gather(*(accepted(each, ["800/day"]) for each in servers)))
        assert total == 800
        for each in servers:
            await close(each)


async def test_the_file_of_the_ledger_is_one_of_its_own(tmp_path: Path, clock: Clock) -> None:
    accounts = await open_accounts(f"sqlite:///{tmp_path / 'usage.db'}", "s1", tmp_path, clock)
    accounts.meters.meter("k").record("m", *RUN)
    await close(accounts)
    ledger = await Ledger.open(f"sqlite:///{tmp_path / 'usage.db'}")
    assert len(await UsageStore(ledger, "s2").find(Query())) == 1
    await ledger.close()


def test_places_are_in_the_order_of_the_table() -> None:
    assert sorted([Place("b", "a", 1), Place("a", "b", 2), Place("a", "b", 1)])[0] == Place("a", "b", 1)
