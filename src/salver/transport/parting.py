"""How a listener parts from its callers without breaking an exchange.

Callers of HTTP/1.1 are told ``Connection: close`` with the answer, so that none sends a request into a
connection that closes. New connections are no longer begun, while those that have come are accepted and have
time to send what they came for. What is said on a connection of HTTP/2 (GOAWAY) is the front's own.
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
#: Seconds in which a connection that was accepted last may send its request. Shorter than the second after
#: which a caller who got no answer to his SYN sends it again: that one is refused, or meets another server.
SETTLE_S: Final = 0.5
#: The same of a server that ends at once.
SHORT_S: Final = 0.05
_MOST_S: Final = 5.0  # for an accept queue that does not become empty
_LOOK_S: Final = 0.01
_SO_ATTACH_FILTER: Final = 26  # Linux, asm-generic/socket.h
#: Classic BPF on the TCP header: drop segments with SYN, keep others (load byte 13; test bit 1; 0; all).
_NO_SYN: Final = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


class Parting:
    """Whether callers are told to close, on all connections of a server.

    Attributes:
        is_told: They are.
        hurry: Set by who wants the server to end without further delay.
    """

    __slots__ = ("hurry", "is_told")

    def __init__(self) -> None:
        self.is_told = False
        self.hurry = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Parting {'told' if self.is_told else 'not told'}>"


async def leave(sock: socket.socket, parting: Parting, delay_s: float) -> None:
    """Tell callers to close, go on for so long, then take no new connection.

    Returns when those that had come were accepted, and had time to send a request.

    Args:
        sock: Which another is accepting on, and goes on to.
        delay_s: Seconds in which new connections are taken as ever; cut short by ``parting.hurry``.
    """
    parting.is_told = True
    if sock.fileno() < 0:  # the front has ended by itself
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
    """Begin no new connection on a listening socket; those under way can still be accepted.

    Closing it would reset what is in its accept queue. So SYNs are dropped (Linux), and a UNIX socket loses
    its name. Elsewhere new connections are taken until the socket closes.
    """
    if sock.family == socket.AF_UNIX:
        with contextlib.suppress(OSError):
            Path(sock.getsockname()).unlink()
    elif sys.platform == "linux":
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
        program = struct.pack("HP", len(_NO_SYN), ctypes.addressof(code))
        with contextlib.suppress(OSError):  # of systems that only look like Linux
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
