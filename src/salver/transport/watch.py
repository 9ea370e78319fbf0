"""Cuts connections that take their time, and those of an address that has too many.

A front counts what it is sent and reads, but has no least rate for it: a head that comes byte by byte,
or an answer that is read so, holds a connection for as long as its caller likes. The kernel knows how
many bytes each connection has received and sent; what moves too little of them is cut, whichever
protocol it speaks, within TLS or without. It looks at this process's own sockets, and takes nothing from
them. Linux; elsewhere nothing is cut.
"""

import asyncio
import logging
import os
import socket
import stat
import struct
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from salver.kernel.supervise import Faults, every

_LOG = logging.getLogger("salver.front")
_SOCKETS: Final = "/proc/self/fd"
_TCP_INFO: Final = getattr(socket, "TCP_INFO", 0)
#: Of ``struct tcp_info``: tcpi_bytes_acked, tcpi_bytes_received, tcpi_notsent_bytes.
_COUNTS: Final = struct.Struct("=120xQQ8xI")
_LOOK_S: Final = 5.0
#: Bytes that a connection may bring beside one body before anything is sent on it.
UNANSWERED: Final = 1 << 20


class Peer(NamedTuple):
    """One connection: the caller's address, and our port."""

    host: str
    port: int
    own_port: int


class StreamingPeers:
    """Counts the open streams of each connection.

    Attributes:
        open: Connections with a stream, with how many each has.
    """

    def __init__(self) -> None:
        self.open: Counter[Peer] = Counter()

    @contextmanager
    def stream(self, scope: Mapping[str, Any]) -> Iterator[None]:
        """Count the request of that ASGI scope, until this ends."""
        client, server = scope.get("client"), scope.get("server")
        if not (client and server and server[1]):  # a UNIX socket
            yield
            return
        peer = Peer(client[0], client[1], server[1])
        self.open[peer] += 1
        try:
            yield
        finally:
            self.open[peer] -= 1
            if not self.open[peer]:
                del self.open[peer]


class ConnectionLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a connection may cost.

    Attributes:
        per_address: Most connections of one address; 0 = as many as there may be.
        least_rate: Bytes a second that a caller sends, or reads of its answer, at least; 0 = any.
        patience_s: Seconds before that counts.
        most_unanswered: Bytes that a connection may bring before anything is sent on it; 0 = any number (in a
            configuration: one body, and a mebibyte).
    """

    per_address: int = 0
    least_rate: float = 500.0
    patience_s: float = 30.0
    most_unanswered: int = 0


class Moved(NamedTuple):
    """Bytes of a connection since it began.

    Attributes:
        waiting: To be sent when the other end takes more.
    """

    received: int
    sent: int
    waiting: int


class OpenConnection(NamedTuple):
    """A connection: a number of its own, who is at the other end, and what has moved."""

    mark: int
    peer: Peer
    moved: Moved


class _Known(msgspec.Struct):
    """What is remembered of a connection.

    Attributes:
        asked_at: When the first byte came since something was sent; None = none has come.
        asked: Bytes received by then.
        full_since: Since when all that is sent waits, or nearly; None = it does not.
        full: Bytes sent by then.
    """

    moved: Moved
    asked_at: float | None = None
    asked: int = 0
    full_since: float | None = None
    full: int = 0


class Judge:
    """Decides which connections are cut. It knows neither clock nor socket."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._known: dict[int, _Known] = {}

    def cut(
        self, found: Iterable[OpenConnection], now: float, streaming: Collection[Peer] = ()
    ) -> dict[OpenConnection, str]:
        """Those that are to be cut, and why.

        Args:
            streaming: Those whose callers may say little for a long time.
        """
        known: dict[int, _Known] = {}
        cut: dict[OpenConnection, str] = {}
        counts: dict[str, int] = {}
        for each in sorted(found):  # the oldest first, so that they stay
            before = self._known.get(each.mark) or _Known(Moved(0, 0, 0))
            known[each.mark] = before
            counts[each.peer.host] = counts.get(each.peer.host, 0) + 1
            if self._limits.per_address and counts[each.peer.host] > self._limits.per_address:
                cut[each] = f"its address has more than {self._limits.per_address} connections"
            elif why := self._why(before, each.moved, now, each.peer in streaming):
                cut[each] = why
            before.moved = each.moved
        self._known = known
        return cut

    def _why(self, before: _Known, moved: Moved, now: float, is_streaming: bool) -> str:
        limits, last = self._limits, before.moved
        came = moved.received - last.received
        if moved.sent > last.sent:  # nobody knows how much of what came was before that
            before.asked_at = None
        elif before.asked_at is None and came:
            before.asked_at, before.asked = now, last.received
        if not (moved.waiting and last.waiting):
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
    """Looks at the connections of some ports every few seconds.

    Args:
        ports: Ours.
        streaming: Peers whose callers may say little for a long time.
    """

    def __init__(self, limits: ConnectionLimits, ports: Collection[int], streaming: Collection[Peer]) -> None:
        self._judge = Judge(limits)
        self._ports = frozenset(ports)
        self._streaming = streaming

    async def run(self) -> None:
        """Look until it is cancelled."""
        await every(_LOOK_S, self._look, Faults(_LOG, "connections are not watched"))

    async def _look(self) -> None:
        found = await asyncio.to_thread(connections, self._ports)
        now = asyncio.get_running_loop().time()
        for each, why in self._judge.cut(found, now, self._streaming).items():
            _LOG.warning("a connection is cut: %s", why, extra={"peer": each.peer.host})
            close(each)


def connections(ports: Collection[int]) -> list[OpenConnection]:
    """The connections of this process at these ports of its own."""
    found = []
    with suppress(OSError):
        for link in Path(_SOCKETS).iterdir() if _TCP_INFO else ():
            each = _look(int(link.name))
            if each is not None and each.peer.own_port in ports:
                found.append(each)
    return found


def close(found: OpenConnection) -> None:
    """End a connection, if it is still the one; its front notices."""
    for link in Path(_SOCKETS).iterdir():
        with suppress(OSError):
            if link.stat().st_ino == found.mark:
                with socket.socket(fileno=os.dup(int(link.name))) as sock:
                    if os.fstat(sock.fileno()).st_ino == found.mark:
                        sock.shutdown(socket.SHUT_RDWR)
                return


def _look(place: int) -> OpenConnection | None:
    """The connection at a descriptor; None if it is none, or none any more."""
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
        sock.detach()  # it is the front's
