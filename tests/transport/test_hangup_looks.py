"""Callers who leave without the front's telling: sockets of this process, and the requests behind them."""

import asyncio
import os
import socket
import struct
from collections.abc import Iterable, Iterator

import pytest

from salver.transport.hangup import HangUps
from salver.transport.peers import Peer, Peers


class Pair:
    """A connection over the loopback interface."""

    def __init__(self, family: socket.AddressFamily = socket.AF_INET) -> None:
        host = "127.0.0.1" if family is socket.AF_INET else "::1"
        listener = socket.create_server((host, 0), family=family)
        self.caller = socket.create_connection((host, listener.getsockname()[1]))
        self.ours, address = listener.accept()
        self.peer = Peer(host, address[1], listener.getsockname()[1])
        listener.close()

    def close(self) -> None:
        self.caller.close()
        self.ours.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def arrived(pair: Pair) -> None:
    """What the caller did has reached the other end."""
    pair.ours.settimeout(10)
    pair.ours.recv(1)


def test_tr_r35_a_connection_that_is_open(pair: Pair) -> None:
    peers = Peers()
    pair.caller.sendall(b"the next request already")
    assert peers.gone([pair.peer]) == set()
    assert peers.gone([pair.peer]) == set()


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("how", ["closed", "half closed", "reset"])
def test_tr_r35_a_connection_that_was_closed(pair: Pair, how: str, is_known: bool) -> None:
    peers = Peers()
    if is_known:
        assert peers.gone([pair.peer]) == set()
    if how == "half closed":
        pair.caller.shutdown(socket.SHUT_WR)
    else:
        if how == "reset":
            pair.caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        pair.caller.close()
    if how == "reset":
        with pytest.raises(ConnectionResetError):
            arrived(pair)
        # Its end is no connection any more: only who was known before is known to have left.
        assert peers.gone([pair.peer]) == ({pair.peer} if is_known else set())
    else:
        arrived(pair)
        assert peers.gone([pair.peer]) == {pair.peer}


def test_tr_r35_a_descriptor_that_belongs_to_another_by_now(pair: Pair) -> None:
    peers = Peers()
    assert peers.gone([pair.peer]) == set()
    place = pair.ours.detach()
    other = Pair()

    os.dup2(other.ours.fileno(), place)
    assert peers.gone([pair.peer, other.peer]) == {pair.peer}
    os.close(place)
    other.close()


def test_who_was_never_seen_is_not_gone() -> None:
    assert Peers().gone([Peer("192.0.2.1", 1, 2)]) == set()


def test_ipv6() -> None:
    try:
        pair = Pair(socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    pair.caller.shutdown(socket.SHUT_WR)
    arrived(pair)
    assert Peers().gone([pair.peer]) == {pair.peer}
    pair.close()


class Told(Peers):
    """Says what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.left: set[Peer] = set()
        self.asked = asyncio.Event()

    def gone(self, peers: Iterable[Peer]) -> set[Peer]:
        self.asked.set()
        return self.left & set(peers)


def scope(port: int) -> dict[str, object]:
    return {"client": ("127.0.0.1", port), "server": ("127.0.0.1", 80)}


async def test_tr_r35_only_the_request_of_who_left_is_cancelled() -> None:
    peers = Told()
    hangups = HangUps(0.0001, peers)

    async def work(port: int) -> None:
        task = hangups.enter(scope(port))
        try:
            await asyncio.Event().wait()
        finally:
            hangups.leave(task)

    tasks = [asyncio.create_task(work(port)) for port in (1, 2)]
    await peers.asked.wait()
    assert not any(task.done() for task in tasks)
    peers.left.add(Peer("127.0.0.1", 1, 80))
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert [task.cancelled() for task in tasks] == [True, False]
    tasks[1].cancel()
    await asyncio.wait(tasks)


async def test_a_request_without_an_address_is_left_alone() -> None:
    peers = Told()
    hangups = HangUps(0.0001, peers)
    task = hangups.enter({"client": None, "server": ("/run/socket", None)})
    await peers.asked.wait()
    hangups.leave(task)
