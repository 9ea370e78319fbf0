"""A listening socket that begins no new connection, and answers that tell to close."""

import asyncio
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE_S, auntil

from salver.transport.parting import Parting, leave, refuse_new


def listening(family: int = socket.AF_INET, address: Any = ("127.0.0.1", 0)) -> socket.socket:
    sock = socket.socket(family)
    sock.bind(address)
    sock.listen(8)
    sock.setblocking(False)
    return sock


@pytest.mark.skipif(sys.platform != "linux", reason="drops SYNs by a socket filter of Linux")
@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["4", "6"]
)
def test_what_has_come_is_accepted_and_nothing_new(family: int, host: str) -> None:
    with listening(family, (host, 0)) as sock:
        address = sock.getsockname()[:2]
        with socket.create_connection(address, PATIENCE_S) as early:
            refuse_new(sock)
            with pytest.raises(TimeoutError):
                socket.create_connection(address, 0.2)
            early.sendall(b"x")
            assert sock.accept()[0].recv(1) == b"x"
            with pytest.raises(BlockingIOError):
                sock.accept()


def test_a_unix_socket_loses_its_name_and_keeps_who_has_come(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with listening(socket.AF_UNIX, path) as sock, socket.socket(socket.AF_UNIX) as early:
        early.connect(path)
        refuse_new(sock)
        with socket.socket(socket.AF_UNIX) as late, pytest.raises(FileNotFoundError):
            late.connect(path)
        sock.accept()[0].close()


async def test_leaving_waits_for_the_delay_or_for_who_is_in_a_hurry() -> None:
    parting = Parting()
    with listening() as sock:
        leaving = asyncio.create_task(leave(sock, parting, 1e6))
        await auntil(lambda: parting.is_told)
        assert not leaving.done()
        parting.hurry.set()
        await asyncio.wait_for(leaving, PATIENCE_S)


async def test_leaving_waits_until_the_accept_queue_is_empty() -> None:
    with listening() as sock, socket.create_connection(sock.getsockname(), PATIENCE_S):
        leaving = asyncio.create_task(leave(sock, Parting(), 0))
        await asyncio.sleep(0.2)
        assert not leaving.done()
        sock.accept()[0].close()
        await asyncio.wait_for(leaving, PATIENCE_S)
