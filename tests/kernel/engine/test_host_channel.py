"""How a host waits for its next order: asleep, or awake where the last one came at once."""

import itertools
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import PATIENCE_S

from salver.kernel.engine import host_channel
from salver.kernel.engine.control import GiveUp, Next, Stop, frame
from salver.kernel.engine.host_channel import Channel


class Socket:
    """Gives each order after so many looks in vain, of 100 µs each, or after as much sleep."""

    def __init__(self, clock: "Clock", *waits: int) -> None:
        self.clock, self.waits = clock, list(waits)
        self.looks = self.sleeps = 0

    def recv(self, size: int, flags: int = 0) -> bytes:
        if not self.waits:
            return b""
        if flags & socket.MSG_DONTWAIT:
            self.looks += 1
            if self.waits[0]:
                self.waits[0] -= 1
                self.clock.now += 100e-6
                raise BlockingIOError
        else:
            self.sleeps += 1
            self.clock.now += self.waits[0] * 100e-6
        self.waits.pop(0)
        return bytes(frame(Next(1)))


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(host_channel, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    monkeypatch.setattr(host_channel, "usable_cores", lambda: 2)
    yield clock


def channel(sock: Any) -> Any:
    return Channel(sock)


@pytest.mark.parametrize(
    ("waits", "lone", "looks", "sleeps"),
    [
        ((2, 2, 2), (True, True, True), 6, 1),  # the first pause is not known
        ((2, 2, 2), (True, False, True), 3, 2),  # others asked at the same time
        ((50, 50, 50), (True, True, True), 0, 3),  # they come seldom
        ((2, 50, 50, 2, 2), (True,) * 5, 4 + 3, 4),  # one look in vain, then asleep until it pays again
        ((0, 0), (False, False), 0, 2),
    ],
)
def test_the_next_order_is_waited_for_awake_only_where_that_has_paid(
    clock: Clock, waits: tuple[int, ...], lone: tuple[bool, ...], looks: int, sleeps: int
) -> None:
    sock = Socket(clock, *waits)
    orders = channel(sock)
    for is_lone in lone:
        assert isinstance(orders.receive(is_lone=is_lone), Next)
    assert (sock.looks, sock.sleeps) == (looks, sleeps)
    assert isinstance(orders.receive(is_lone=True), Stop)


def test_on_a_single_core_it_sleeps(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_channel, "usable_cores", lambda: 1)
    sock = Socket(clock, 1, 1, 1)
    orders = channel(sock)
    for _ in range(3):
        orders.receive(is_lone=True)
    assert (sock.looks, sock.sleeps) == (0, 3)


def test_over_a_real_socket_orders_come_in_order_and_the_end_is_seen_awake_or_not() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        orders = channel(theirs)
        for order, is_lone in zip((Next(1), GiveUp(1), Next(2), GiveUp(2)), itertools.cycle((True, False))):
            ours.sendall(frame(order))
            assert type(orders.receive(is_lone=is_lone)) is type(order)
        ours.close()
        assert isinstance(orders.receive(is_lone=True), Stop)


@pytest.mark.clause("TS-B7")
def test_whoever_keeps_something_hears_once_that_nothing_comes() -> None:
    ours, theirs = socket.socketpair()
    idle, heard = threading.Semaphore(0), []
    waiting = Channel(theirs, idle_s=0.02)
    waiting.when_idle(idle.release)
    thread = threading.Thread(target=lambda: heard.extend(waiting.receive() for _ in range(2)))
    thread.start()
    for mark in (1, 2):
        assert idle.acquire(timeout=PATIENCE_S)
        assert not idle.acquire(timeout=0.1)  # and not again until something has come
        ours.sendall(frame(Next(mark)))
    thread.join(PATIENCE_S)
    assert heard == [Next(1), Next(2)]
    ours.close()
    assert waiting.receive() == Stop()
    theirs.close()


@pytest.mark.clause("TS-B7")
def test_what_comes_at_once_is_no_idleness() -> None:
    ours, theirs = socket.socketpair()
    waiting = Channel(theirs, idle_s=30.0)
    waiting.when_idle(pytest.fail)
    for mark in range(5):
        ours.sendall(frame(Next(mark)))
        assert waiting.receive() == Next(mark)
    ours.close()
    assert waiting.receive() == Stop()
    theirs.close()
