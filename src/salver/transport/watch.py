"""Watchdog that cuts slow connections, and those of an address that has too many.

A head that arrives byte by byte, or an answer that is read so, would otherwise hold a connection for as long
as its caller likes. The kernel counts the bytes that each socket has received and sent; connections that move
too few are cut, whatever their protocol, with or without TLS. Only the counters of this process's own sockets
are read. Works on Linux; on other systems no connection is cut.
"""

import asyncio
import logging
import os
import socket
import stat
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from salver.kernel.supervise import Faults, every

_LOG = logging.getLogger("salver.front")
_SOCKETS: Final = "/proc/self/fd"
_TCP_INFO: Final = getattr(socket, "TCP_INFO", 0)
#: tcpi_bytes_acked, tcpi_bytes_received and tcpi_notsent_bytes of ``struct tcp_info``.
_COUNTS: Final = struct.Struct("=120xQQ8xI")
_LOOK_S: Final = 5.0
#: Bytes that a connection may send beyond one body before it gets an answer.
UNANSWERED: Final = 1 << 20


class Peer(NamedTuple):
    """Addresses of one connection: the caller's host and port, and the server's port."""

    host: str
    port: int
    own_port: int


class StreamingPeers:
    """Counter of the open streams of each connection.

    Attributes:
        open: Number of streams by connection.
    """

    def __init__(self) -> None:
        self.open: Counter[Peer] = Counter()

    @contextmanager
    def stream(self, scope: Mapping[str, Any]) -> Iterator[None]:
        """Count a request as a stream until the context ends."""
        client, server = scope.get("client"), scope.get("server")
        if not (client and server and server[1]):  # a UNIX socket
            yield
            return
        # By addresses, which is all that the kernel tells of a connection.
        peer = Peer(client[0], client[1], server[1])
        self.open[peer] += 1
        try:
            yield
        finally:
            self.open[peer] -= 1
            if not self.open[peer]:  # or the counter would grow for ever
                del self.open[peer]


class ConnectionLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of connections.

    Attributes:
        per_address: Most connections of one address; 0 = no limit.
        least_rate: Least bytes per second that a caller must send, or read of its answer; 0 = no minimum.
        patience_s: Seconds before the minimum rate applies.
        most_unanswered: Bytes that a connection may send before it gets an answer; 0 = no limit (in a
            configuration file: one body and a mebibyte).
    """

    per_address: int = 0
    least_rate: float = 500.0
    patience_s: float = 30.0
    most_unanswered: int = 0


class Moved(NamedTuple):
    """Bytes moved on a connection since it began.

    Attributes:
        waiting: Bytes that wait for the other end to read.
    """

    received: int
    sent: int
    waiting: int


class OpenConnection(NamedTuple):
    """Connection with its inode number, its addresses, and the bytes moved."""

    mark: int
    peer: Peer
    moved: Moved


class _Observed(msgspec.Struct):
    """State of a connection between two looks.

    Attributes:
        asked_at: Time of the first byte received since the last byte sent; None = none was received.
        asked: Bytes received by then.
        full_since: Time since which sent bytes have been waiting; None = none wait.
        full: Bytes sent by then.
    """

    moved: Moved
    asked_at: float | None = None
    asked: int = 0
    full_since: float | None = None
    full: int = 0


class Judge:
    """Decision which connections to cut, from their byte counts. Pure."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._known: dict[int, _Observed] = {}

    def cut(
        self, found: Iterable[OpenConnection], now: float, streaming: Collection[Peer] = ()
    ) -> dict[OpenConnection, str]:
        """Return the connections to cut, with the reason for each.

        Args:
            streaming: Connections with open streams, whose callers may be silent for a long time.
        """
        known: dict[int, _Observed] = {}
        cut: dict[OpenConnection, str] = {}
        counts: dict[str, int] = {}
        for each in sorted(found):  # oldest first: the newest exceed the limit
            before = self._known.get(each.mark) or _Observed(Moved(0, 0, 0))
            known[each.mark] = before
            counts[each.peer.host] = counts.get(each.peer.host, 0) + 1
            if self._limits.per_address and counts[each.peer.host] > self._limits.per_address:
                cut[each] = f"its address has more than {self._limits.per_address} connections"
            elif why := self._why(before, each.moved, now, each.peer in streaming):
                cut[each] = why
            before.moved = each.moved
        self._known = known
        return cut

    def _why(self, before: _Observed, moved: Moved, now: float, is_streaming: bool) -> str:
        limits, last = self._limits, before.moved
        came = moved.received - last.received
        if moved.sent > last.sent:  # what was received may have come before the answer: start over
            before.asked_at = None
        # Time counts from the first byte: an idle connection owes nothing.
        elif before.asked_at is None and came:
            before.asked_at, before.asked = now, last.received
        if not (moved.waiting and last.waiting):  # at one of the looks all was read
            before.full_since = None
        elif before.full_since is None:
            before.full_since, before.full = now, last.sent
        if before.asked_at is not None and not is_streaming:
            asked = moved.received - before.asked
            if limits.most_unanswered and asked > limits.most_unanswered:
                return f"it sent {asked} bytes that make no request"
            if came and self._is_slow(asked, now - before.asked_at):
                return f"it sent {asked} bytes in {now - before.asked_at:.0f} s"
        if before.full_since is not None and self._is_slow(moved.sent - before.full, now - before.full_since):
            return f"it read {moved.sent - before.full} bytes in {now - before.full_since:.0f} s"
        return ""

    def _is_slow(self, size: int, seconds: float) -> bool:
        return seconds >= self._limits.patience_s and size < self._limits.least_rate * seconds


class ConnectionWatch:
    """Periodic check of the connections of some ports.

    Args:
        ports: The server's ports.
        streaming: Connections with open streams, whose callers may be silent for a long time.
        has_any: Whether any connection is open; an idle server has nothing to look at.
    """

    def __init__(
        self,
        limits: ConnectionLimits,
        ports: Collection[int],
        streaming: Collection[Peer],
        has_any: Callable[[], bool],
    ) -> None:
        self._judge = Judge(limits)
        self._has_any = has_any
        self._ports = frozenset(ports)
        self._streaming = streaming

    async def run(self) -> None:
        """Check until cancelled."""
        await every(_LOOK_S, self._look, Faults(_LOG, "connections are not watched"))

    async def _look(self) -> None:
        # On a thread: thousands of descriptors take longer than a turn of the loop may.
        found = await asyncio.to_thread(connections, self._ports) if self._has_any() else []
        now = asyncio.get_running_loop().time()
        for each, why in self._judge.cut(found, now, self._streaming).items():
            _LOG.warning("a connection is cut: %s", why, extra={"peer": each.peer.host})
            close(each)


def connections(ports: Collection[int]) -> list[OpenConnection]:
    """Return this process's connections at some of its ports."""
    found = []
    with suppress(OSError):
        for link in Path(_SOCKETS).iterdir() if _TCP_INFO else ():
            each = _look(int(link.name))
            if each is not None and each.peer.own_port in ports:
                found.append(each)
    return found


def close(found: OpenConnection) -> None:
    """Shut a connection down, if its descriptor still has the same inode."""
    # Numbers of descriptors are reused: between look and cut another connection may have got this one.
    for link in Path(_SOCKETS).iterdir():
        with suppress(OSError):
            if link.stat().st_ino == found.mark:
                with socket.socket(fileno=os.dup(int(link.name))) as sock:
                    if os.fstat(sock.fileno()).st_ino == found.mark:
                        sock.shutdown(socket.SHUT_RDWR)
                return


def _look(place: int) -> OpenConnection | None:
    """Return the connection of a descriptor; None if it is not one, or closed meanwhile."""
    try:
        if not stat.S_ISSOCK(os.fstat(place).st_mode):
            return None
        sock = socket.socket(fileno=place)
    except OSError:
        return None
    try:
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
            return None
        host, port = sock.getpeername()[:2]
        own_port = sock.getsockname()[1]
        told = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _COUNTS.size)
        sent, received, unsent = _COUNTS.unpack(told)
        peer = Peer(host.removeprefix("::ffff:"), port, own_port)
        return OpenConnection(os.fstat(place).st_ino, peer, Moved(received, sent, unsent))
    except (OSError, struct.error):
        return None
    finally:
        sock.detach()  # the descriptor belongs to the listener
