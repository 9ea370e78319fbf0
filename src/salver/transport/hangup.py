"""Has the caller gone away while we work?

Asking costs a task, so it is asked only for requests that have been running for a while: a
timer looks at those in flight and starts a watcher for each that is older than ``patience``. The
watcher waits for ``http.disconnect`` and cancels the request's task. Where the front does not
report hang-ups (HTTP/1.1 on h2corn 2.0) a watcher waits in vain and ends with the request.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]


class HangUps:
    """Cancels the tasks of callers who hung up.

    Args:
        patience: Seconds before a request is watched.
    """

    def __init__(self, patience: float = 0.02) -> None:
        self._patience = patience
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: dict[asyncio.Task[Any], Receive] = {}
        self._watchers: dict[asyncio.Task[Any], asyncio.Task[None]] = {}
        self._old: frozenset[asyncio.Task[Any]] = frozenset()
        self._is_ticking = False

    def enter(self, receive: Receive) -> "asyncio.Task[Any]":
        """The current task works for the caller behind ``receive``, whose request is read."""
        task = asyncio.current_task(self._loop)
        if task is None:  # the first time, or another loop than before
            self._loop = asyncio.get_running_loop()
            task = asyncio.current_task(self._loop)
            assert task is not None
        self._running[task] = receive
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
            if task in running and task not in self._watchers:
                self._watchers[task] = asyncio.get_running_loop().create_task(
                    self._watch(task, running[task])
                )
        self._old = frozenset(running)
        self._is_ticking = bool(running)
        if running:
            asyncio.get_running_loop().call_later(self._patience, self._tick)

    async def _watch(self, task: "asyncio.Task[Any]", receive: Receive) -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            # What is left of the body; nobody asked for it.
        if task in self._running:
            task.cancel()
