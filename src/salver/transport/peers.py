"""Connections that the other end has closed.

For a front that does not tell: looks at this process's own sockets, and takes nothing from them. A caller who
closes only their sending side after the request counts as gone, as most HTTP servers have it. Linux;
elsewhere nobody ever counts as gone.
"""

import select
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

_SOCKETS: Final = "/proc/self/fd"
_CLOSED: Final = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


class Peer(NamedTuple):
    """One connection: the caller's address, and our port."""

    host: str
    port: int
    own_port: int


class Peers:
    """Remembers where connections are, so that most looks are cheap."""

    def __init__(self) -> None:
        self._places: dict[Peer, int] = {}

    def __repr__(self) -> str:
        return f"<Peers at {len(self._places)} descriptors>"

    def gone(self, peers: Iterable[Peer]) -> set[Peer]:
        """Those who have closed their connections; a few system calls each, none of which waits."""
        asked = set(peers)
        lost = {peer for peer in asked & self._places.keys() if _peer_at(self._places[peer]) != peer}
        places = {peer: place for peer, place in self._places.items() if peer in asked - lost}
        if new := asked - lost - places.keys():
            places |= {peer: place for peer, place in _connections().items() if peer in new}
        poll = select.poll()
        for place in places.values():
            poll.register(place, _CLOSED & ~(select.POLLHUP | select.POLLERR))  # those two are always told
        closed = {place for place, event in poll.poll(0) if event & _CLOSED}
        left = {peer for peer, place in places.items() if place in closed}
        self._places = {peer: place for peer, place in places.items() if peer not in left}
        return lost | left


def _connections() -> dict[Peer, int]:
    """Every TCP connection of this process."""
    try:
        places = [int(name.name) for name in Path(_SOCKETS).iterdir()]
    except OSError:
        return {}
    found = ((_peer_at(place), place) for place in places)
    return {peer: place for peer, place in found if peer is not None}


def _peer_at(place: int) -> Peer | None:
    """Who is at the other end of a descriptor; None if it is no connection, or none any more."""
    try:
        sock = socket.socket(fileno=place)
    except OSError:
        return None
    try:
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        host, port = sock.getpeername()[:2]
        return Peer(host.removeprefix("::ffff:"), port, sock.getsockname()[1])
    except OSError:
        return None
    finally:
        sock.detach()  # it is the front's
