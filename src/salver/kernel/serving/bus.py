"""Bus that carries events to observers, off the path of requests.

``emit`` appends to a list and returns. Every few milliseconds, or as soon as some hundred events wait, the
observers get them in one call. The list is bounded: excess events are dropped and counted.
"""

import asyncio
import logging
from collections.abc import Sequence

from salver.kernel.serving.ports import Observer
from salver.words.events import Event, Refused

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
        self._observers = tuple(map(_with_form, observers))
        self._limit = limit
        self._waiting: list[Event] = []
        self._is_scheduled = False
        self.dropped = 0

    def __repr__(self) -> str:
        return f"<Bus {len(self._waiting)} waiting, {self.dropped} dropped>"

    def join(self, observer: Observer) -> None:
        """Add an observer, after the others."""
        self._observers = (*self._observers, _with_form(observer))

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
        single: Sequence[Event] = ()
        for observer, takes_refused in self._observers:
            given: Sequence[Event] = events
            if not takes_refused:
                single = given = single or _single(events)
            try:
                observer.observe(given)
            except Exception:
                _LOG.exception("observer %r failed; %d events are not counted", observer, len(events))


def _with_form(observer: Observer) -> tuple[Observer, bool]:
    return observer, getattr(observer, "takes_refused", False)


def _single(events: Sequence[Event]) -> Sequence[Event]:
    """Return events with one for each refused request."""
    if not any(type(event) is Refused for event in events):
        return events
    found: list[Event] = []
    for event in events:
        if type(event) is Refused:
            found += event.each()
        else:
            found.append(event)
    return found
