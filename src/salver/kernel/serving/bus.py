"""Bus that carries events to observers, off the path of requests.

``emit`` appends to a list and returns. Every few milliseconds, or as soon as some hundred events wait, the
observers get them in one call. The list is bounded: excess events are dropped and counted.
"""

import asyncio
import logging
from collections.abc import Sequence

from salver.kernel.serving.ports import Observer
from salver.words.events import Event

_LOG = logging.getLogger("salver.bus")
_PERIOD_S = 0.004  # longer periods make batches of events that delay requests noticeably
_CHUNK = 256


class Bus:
    """Carries events to observers.

    Args:
        observers: Called in this order.
        limit: Most events that may wait; further events are dropped.
    """

    def __init__(self, observers: Sequence[Observer] = (), limit: int = 65_536) -> None:
        self._observers = tuple(observers)
        self._limit = limit
        self._waiting: list[Event] = []
        self._is_scheduled = False
        self.dropped = 0

    def __repr__(self) -> str:
        return f"<Bus {len(self._waiting)} waiting, {self.dropped} dropped>"

    def join(self, observer: Observer) -> None:
        """Add an observer, after the others."""
        self._observers = (*self._observers, observer)

    def emit(self, event: Event) -> None:
        """Queue an event for the observers; only from the event loop's thread."""
        waiting = self._waiting
        if len(waiting) >= self._limit:
            self.dropped += 1
            return
        waiting.append(event)
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_later(_PERIOD_S, self.flush)
        elif len(waiting) == _CHUNK:
            asyncio.get_running_loop().call_soon(self._flush_early)

    def flush(self) -> None:
        """Hand all waiting events to the observers now."""
        self._is_scheduled = False
        self._flush_early()

    def _flush_early(self) -> None:
        events, self._waiting = self._waiting, []
        if not events:
            return
        for observer in self._observers:
            try:
                observer.observe(events)
            except Exception:
                _LOG.exception("observer %r failed; %d events are not counted", observer, len(events))
