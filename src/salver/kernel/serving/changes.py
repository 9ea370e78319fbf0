"""Who sees a change to its end, when whoever asked for it has left?

Half a change is none. It knows neither what is changed nor by which protocol.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Changes:
    """Changes under way.

    Args:
        name: Of their tasks.
        failed: What the log says of one that failed when nobody waited for it, with a place for why.
    """

    def __init__(self, name: str, log: logging.Logger, failed: str) -> None:
        self._name = name
        self._log = log
        self._failed = failed
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<Changes {self._name}, {len(self._tasks)} under way>"

    async def whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for it; it goes on if the caller leaves."""
        task = asyncio.get_running_loop().create_task(work, name=self._name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._tell)
            raise

    def _tell(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.warning(self._failed, error)
