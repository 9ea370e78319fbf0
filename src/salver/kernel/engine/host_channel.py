"""Child's end of the control channel between the server and a host process."""

import contextlib
import math
import os
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable

from salver.kernel.engine.control import Frames, Order, Reply, Stop, describe, frame, read_order
from salver.machine import usable_cores
from salver.words.errors import TooLarge

#: Longest busy wait for the next order, after a run for a lone caller whose previous requests followed one
#: another at once: to fall asleep and be woken costs more than a small run.
_AWAKE_S = 400e-6
#: Seconds without an order after which the model may let go of what it keeps for the next one.
_IDLE_S = 10.0


class Channel:
    """Child's end of the control channel, blocking.

    Args:
        idle_s: Seconds without an order after which the callback of :meth:`when_idle` is called.
    """

    def __init__(self, sock: socket.socket, idle_s: float = _IDLE_S) -> None:
        self.sock = sock
        self._idle_s = idle_s
        self._on_idle: Callable[[], None] | None = None
        self._sending = threading.RLock()  # reentrant: a finalizer may send during a send
        self._frames = Frames()
        self._orders: deque[Order] = deque()
        self._may_wake = usable_cores() > 1
        self._pause = math.inf  # between the last two orders, in seconds

    def receive(self, *, is_lone: bool = False) -> Order:
        """Return the next order; Stop once the parent is gone.

        Args:
            is_lone: The last run had one request: the next one may come as soon as it did before.
        """
        while not self._orders:
            began = time.perf_counter()
            data = b""
            if is_lone and self._may_wake and self._pause < _AWAKE_S:
                data = self._look(began + _AWAKE_S)
            data = data or self._wait()
            self._pause = time.perf_counter() - began
            if not data:
                return Stop()
            self._orders.extend(map(read_order, self._frames.feed(data)))
        return self._orders.popleft()

    def when_idle(self, on_idle: Callable[[], None]) -> None:
        """Call ``on_idle`` once whenever no order comes for a while; it must not raise."""
        self._on_idle = on_idle
        self._limit(self._idle_s)

    def _wait(self) -> bytes:
        with contextlib.suppress(BlockingIOError):
            return self.sock.recv(1 << 14)
        if self._on_idle is not None:
            self._on_idle()
        self._limit(0.0)
        try:
            return self.sock.recv(1 << 14)
        finally:
            self._limit(self._idle_s)

    def _limit(self, seconds: float) -> None:
        """Set the socket's own timeout, which costs nothing where data is there; 0 = none."""
        whole, part = divmod(int(seconds * 1e6), 1_000_000)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", whole, part))

    def _look(self, until: float) -> bytes:
        """Poll until that time, yielding the core to others; return nothing if nothing came."""
        while time.perf_counter() < until:
            with contextlib.suppress(BlockingIOError):
                return self.sock.recv(1 << 14, socket.MSG_DONTWAIT)
            os.sched_yield()
        return b""

    def send(self, reply: Reply) -> None:
        """Send a reply, on any thread; one that is too long is replaced by its error."""
        try:
            framed = frame(reply)
        except TooLarge as error:
            framed = frame(describe(error))
        with self._sending:
            self.sock.sendall(framed)
