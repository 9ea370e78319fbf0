"""Graceful shutdown of a listener, without breaking an exchange.

HTTP/1.1 answers carry ``Connection: close``, so that no caller sends a request into a closing connection. The
kernel refuses new connections, while those in the accept queue are accepted and get time for a request.
``http2.py`` sends GOAWAY on its own.
"""

import asyncio
import contextlib
import ctypes
import select
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Mapping[str, Any], Callable[[], Awaitable[dict[str, Any]]], Send], Awaitable[None]]

CLOSE: Final = (b"connection", b"close")
#: Seconds in which the last accepted connection may send its request. Below one second, after which a client
#: resends a dropped SYN, which is then refused or reaches another server.
SETTLE_S: Final = 0.5
#: The same for a server that stops at once.
SHORT_S: Final = 0.05
#: Seconds between the two GOAWAYs of HTTP/2: longer than a round trip on a usual network.
PARTING_S: Final = 0.1
_MOST_S: Final = 5.0  # wait for an accept queue that does not empty
_LOOK_S: Final = 0.01
_SO_ATTACH_FILTER: Final = 26  # Linux, asm-generic/socket.h
#: Classic BPF on the TCP header: drop segments with SYN, keep others (load byte 13; test bit 1; 0; all).
_NO_SYN: Final = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


class Parting:
    """Shutdown state that all connections of a server share.

    Attributes:
        is_told: Callers are told to close.
        hurry: Event that ends the remaining delays.
    """

    __slots__ = ("hurry", "is_told")

    def __init__(self) -> None:
        self.is_told = False
        self.hurry = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Parting {'told' if self.is_told else 'not told'}>"


async def leave(sock: socket.socket, parting: Parting, delay_s: float) -> None:
    """Tell callers to close, wait for the delay, then refuse new connections.

    Returns when the queued connections are accepted and have had time to send a request.

    Args:
        sock: Listening socket, on which the event loop goes on accepting.
        delay_s: Seconds in which new connections are still accepted; cut short by ``parting.hurry``.
    """
    parting.is_told = True
    if sock.fileno() < 0:  # the listener has ended by itself
        return
    if delay_s > 0:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(parting.hurry.wait(), delay_s)
    if sock.fileno() < 0:
        return
    refuse_new(sock)
    now = asyncio.get_running_loop().time
    is_patient = delay_s > 0 and not parting.hurry.is_set()
    end = now() + (SETTLE_S if is_patient else SHORT_S)
    latest = end + _MOST_S
    waiting = select.poll()
    waiting.register(sock, select.POLLIN)
    while now() < end or (sock.fileno() >= 0 and waiting.poll(0) and now() < latest):  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_S)


def refuse_new(sock: socket.socket) -> None:
    """Refuse new connections on a listening socket; queued ones can still be accepted.

    Closing the socket would reset the connections in its accept queue. Instead, Linux drops SYNs with a
    filter, and a UNIX socket loses its name. On other systems new connections are accepted until the socket
    closes.
    """
    if sock.family == socket.AF_UNIX:
        with contextlib.suppress(OSError):
            Path(sock.getsockname()).unlink()
    elif sys.platform == "linux":
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
        program = struct.pack("HP", len(_NO_SYN), ctypes.addressof(code))
        with contextlib.suppress(OSError):  # systems that emulate Linux may lack it
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
