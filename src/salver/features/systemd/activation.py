"""Socket activation: the port is open before the server is, so that no caller is refused while it restarts.

Source: sd_listen_fds(3).
"""

import socket
from collections.abc import MutableMapping
from typing import Final

import msgspec

from salver.transport.server import FrontConfig
from salver.words.errors import InvalidInput

#: First descriptor that systemd passes (SD_LISTEN_FDS_START).
FIRST: Final = 3


def activated(front: FrontConfig, environment: MutableMapping[str, str], pid: int) -> FrontConfig:
    """Return the port with the socket that systemd passes to this process, and without one as it was.

    The variables are taken out of the environment, so that no child believes to have a socket.

    Args:
        pid: Process id of this process; the variables may be those of a parent.

    Raises:
        InvalidInput: several sockets are passed, or one that does not listen, or there are several fronts.
    """
    count, process = environment.get("LISTEN_FDS", ""), environment.get("LISTEN_PID", "")
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        environment.pop(name, None)
    if process != str(pid):
        return front
    if count != "1":
        raise InvalidInput(
            f"systemd passes {count} sockets, and the server takes one",
            field="LISTEN_FDS",
            fix="Leave one ListenStream in the .socket unit: all protocols share the port.",
        )
    if front.shares_port:
        raise InvalidInput(
            "several fronts cannot share a socket of systemd",
            field="--fronts",
            fix="Start the server without a .socket unit, or with one front.",
        )
    return _described(front)


def _described(front: FrontConfig) -> FrontConfig:
    """Return the port with the address of the passed socket, by which access is decided."""
    try:
        sock = socket.socket(fileno=FIRST)
    except OSError as error:
        raise InvalidInput(f"descriptor {FIRST} is no socket: {error}", field="LISTEN_FDS") from error
    is_stream = sock.type == socket.SOCK_STREAM
    listens = is_stream and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    name = sock.getsockname()
    sock.detach()
    if not listens:
        raise InvalidInput(
            "the socket that systemd passes does not listen",
            field="LISTEN_FDS",
            fix="Use ListenStream with Accept=no in the .socket unit.",
        )
    if isinstance(name, tuple):
        return msgspec.structs.replace(front, host=name[0], port=name[1], descriptor=FIRST)
    return msgspec.structs.replace(front, path=name, descriptor=FIRST)
