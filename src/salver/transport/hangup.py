"""Has the caller gone away while we work?

Asking costs a task, so it is asked only for requests that have been running for a while: a
timer looks at those in flight and starts a watcher for each that is older than ``patience``. The
watcher waits for ``http.disconnect`` and cancels the request's task. Where the front does not
report hang-ups (HTTP/1.1 on h2corn 2.0) the connections themselves are looked at, now and then.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from salver.transport.peers import Peer, Peers

Receive = Callable[[], Awaitable[dict[str, Any]]]
Scope = Mapping[str, Any]
#: Ticks between two looks at connections.
_TICKS_A_LOOK: Final = 12


class HangUps:
    """Cancels the tasks of callers who hung up.

    Args:
        patience: Seconds before a request is watched.
        peers: Looks at connections.
    """

    def __init__(self, patience: float = 0.02, peers: Peers | None = None) -> None:
        self._patience = patience
        self._peers = peers or Peers()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: dict[asyncio.Task[Any], Receive | Scope] = {}
        self._watchers: dict[asyncio.Task[Any], asyncio.Task[None]] = {}
        self._old: frozenset[asyncio.Task[Any]] = frozenset()
        self._older: frozenset[asyncio.Task[Any]] = frozenset()  # in flight at the last look
        self._ticks = 0
        self._is_ticking = False
        #: Callers of streams, who may say little for a long time, with how many each has.
        self.streaming: Counter[Peer] = Counter()

    @contextmanager
    def stream(self, scope: Scope) -> Iterator[None]:
        """The request of that scope is a stream of requests, until this ends."""
        peer = _peer(scope)
        if peer is None:
            yield
            return
        self.streaming[peer] += 1
        try:
            yield
        finally:
            self.streaming[peer] -= 1
            if not self.streaming[peer]:
                del self.streaming[peer]

    def enter(self, caller: Receive | Scope) -> "asyncio.Task[Any]":
        """The current task works for the caller behind ``receive``; the request is read.

        Args:
            caller: Or the request's scope, where the front tells nothing.
        """
        task = asyncio.current_task(self._loop)
        if task is None:  # the first time, or another loop than before
            self._loop = asyncio.get_running_loop()
            task = asyncio.current_task(self._loop)
            assert task is not None
        self._running[task] = caller
        if not self._is_ticking:
            self._is_ticking = True
            asyncio.get_running_loop().call_later(self._patience, self._tick)
        return task

    def leave(self, task: "asyncio.Task[Any]") -> None:
        """It is done, one way or another."""
        self._running.pop(task, None)
        if self._watchers:
            watcher = self._watchers.pop(task, None)
            if watcher is not None:
                watcher.cancel()

    def _tick(self) -> None:
        running = self._running
        for task in self._old:
            caller = running.get(task)
            if callable(caller) and task not in self._watchers:
                self._watchers[task] = asyncio.get_running_loop().create_task(self._watch(task, caller))
        self._ticks += 1
        if self._ticks >= _TICKS_A_LOOK:
            self._ticks = 0
            self._look()
        self._old = frozenset(running)
        self._is_ticking = bool(running)
        if running:
            asyncio.get_running_loop().call_later(self._patience, self._tick)

    def _look(self) -> None:
        """Find who has left, of the callers whom the server does not watch."""
        mine = {task: scope for task, scope in self._running.items() if not callable(scope)}
        waiting = {task: _peer(scope) for task, scope in mine.items() if task in self._older}
        self._older = frozenset(mine)
        if waiting:
            gone = self._peers.gone(peer for peer in waiting.values() if peer)
            for task, peer in waiting.items():
                if peer in gone:
                    task.cancel()
                    self._running.pop(task, None)

    async def _watch(self, task: "asyncio.Task[Any]", receive: Receive) -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            # What is left of the body; nobody asked for it.
        if task in self._running:
            task.cancel()


def _peer(scope: Scope) -> Peer | None:
    """The connection that a request came on; None for a socket of files."""
    client, server = scope.get("client"), scope.get("server")
    return Peer(client[0], client[1], server[1]) if client and server and server[1] else None
