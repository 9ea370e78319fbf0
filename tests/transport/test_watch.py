"""Which connections are cut, and that they are."""

import asyncio
import socket
import sys

import pytest
from waiting import auntil

from salver.transport import budget, watch
from salver.transport.budget import pace
from salver.transport.watch import (
    ConnectionLimits,
    ConnectionWatch,
    Judge,
    Moved,
    OpenConnection,
    Peer,
    close,
    connections,
)
from salver.words.errors import DeadlineExceeded

LIMITS = ConnectionLimits(least_rate=500.0, patience_s=30.0, most_unanswered=1_000_000)


def one(received: int, sent: int, waiting: int = 0, mark: int = 1) -> OpenConnection:
    return OpenConnection(mark, Peer("10.0.0.1", mark, 8000), Moved(received, sent, waiting))


def looks(judge: Judge, found: list[OpenConnection], **more: set[Peer]) -> list[str]:
    """What is said of one connection, in looks five seconds apart."""
    return [
        next(iter(judge.cut([each], 5.0 * index, **more).values()), "") for index, each in enumerate(found)
    ]


def test_a_head_that_comes_byte_by_byte_is_cut() -> None:
    said = looks(Judge(LIMITS), [one(10 + 5 * index, 0) for index in range(8)])
    assert said[:6] == [""] * 6
    assert said[6] == "it sent 40 bytes in 30 s"


def test_so_is_one_on_a_connection_that_was_answered_before() -> None:
    before = [one(1000, 500), one(2000, 1000)]
    said = looks(Judge(LIMITS), [*before, *[one(2000 + 5 * index, 1000) for index in range(1, 9)]])
    assert said[:7] == [""] * 7
    assert any(said[7:])


def test_who_waits_for_an_answer_is_not() -> None:
    assert not any(looks(Judge(LIMITS), [one(1000, 0)] * 100))


def test_nor_is_who_sends_fast_enough_or_is_answered_meanwhile() -> None:
    assert not any(looks(Judge(LIMITS), [one(2_501 * index, 0) for index in range(1, 100)]))
    assert not any(looks(Judge(LIMITS), [one(5 * index, 10 * index) for index in range(1, 100)]))


def test_nor_is_a_stream_whose_caller_says_little() -> None:
    found = [one(5 * index, 0) for index in range(1, 100)]
    assert not any(looks(Judge(LIMITS), found, streaming={found[0].peer}))


def test_a_flood_that_makes_no_request_is_cut() -> None:
    said = looks(Judge(LIMITS), [one(0, 100), one(900_000, 100), one(1_800_000, 100)])
    assert said == ["", "", "it sent 1800000 bytes that make no request"]


def test_a_large_upload_that_is_answered_by_window_updates_is_not() -> None:
    assert not any(looks(Judge(LIMITS), [one(0, 10), one(71_000_000, 50), one(142_000_000, 90)]))


def test_an_answer_that_is_read_byte_by_byte_is_cut() -> None:
    said = looks(Judge(LIMITS), [one(100, 70_000 + 5 * index, 90_000) for index in range(9)])
    assert said[:7] == [""] * 7
    assert said[7].startswith("it read ")


def test_one_that_is_read_as_fast_as_it_can_be_is_not() -> None:
    assert not any(looks(Judge(LIMITS), [one(100, 3_000 * index, 90_000) for index in range(1, 100)]))


def test_of_an_address_with_too_many_the_newest_are_cut() -> None:
    judge = Judge(ConnectionLimits(per_address=2))
    other = OpenConnection(9, Peer("10.0.0.2", 1, 8000), Moved(0, 0, 0))
    cut = judge.cut([one(0, 0, mark=3), one(0, 0, mark=1), other, one(0, 0, mark=2)], 0.0)
    assert [each.mark for each in cut] == [3]
    assert "more than 2 connections" in cut[one(0, 0, mark=3)]


def test_what_is_gone_is_forgotten() -> None:
    judge = Judge(LIMITS)
    judge.cut([one(5, 0)], 0.0)
    judge.cut([], 5.0)
    assert judge._known == {}


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
async def test_an_idle_server_looks_at_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []
    monkeypatch.setattr(watch, "connections", lambda ports: looked.append(ports) or [])
    busy: list[bool] = []
    watching = ConnectionWatch(ConnectionLimits(), [1], (), lambda: bool(busy))
    await watching._look()
    assert not looked
    busy.append(True)
    await watching._look()
    assert looked


def test_the_kernel_tells_what_has_moved_and_the_one_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as caller:
            mine, _ = listening.accept()
            with mine:
                caller.sendall(b"x" * 1000)
                mine.recv(1, socket.MSG_PEEK)  # it is here
                mine.setblocking(False)
                with pytest.raises(BlockingIOError):
                    while True:
                        mine.send(b"y" * 100_000)
                (found,) = connections({port})
                assert found.peer == Peer("127.0.0.1", caller.getsockname()[1], port)
                assert found.moved.received == 1000
                assert found.moved.waiting > 0
                close(found)
                while caller.recv(1 << 20):
                    pass
        assert connections({port}) == []


async def test_a_body_has_a_least_rate_and_a_total_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "PATIENCE_S", 0.01)
    with pytest.raises(DeadlineExceeded, match="too slowly"):
        async with pace() as timer:
            await timer.came(1)
            await asyncio.Event().wait()
    monkeypatch.setattr(budget, "LONGEST_S", 0.01)
    with pytest.raises(DeadlineExceeded):
        async with pace() as timer:
            await timer.came(1 << 40)
            await asyncio.Event().wait()


async def test_a_body_that_has_come_far_has_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "PATIENCE_S", 0.01)
    async with pace() as timer:
        await timer.came(1 << 20)
        begin = asyncio.get_running_loop().time()
        await auntil(lambda: asyncio.get_running_loop().time() > begin + 0.03)
