"""Observer that samples requests and writes their traces on another thread.

It keeps :data:`LIMIT` requests at most, and does nothing while tracing is off.
"""

import asyncio
import logging
from collections.abc import Sequence

from salver.dialects.triton.settings import TraceChange, TraceSetting
from salver.dialects.triton.trace_settings import TraceConfig, TraceSettings
from salver.dialects.triton.tracefile import Trace, TraceFile
from salver.kernel.serving.present import Present
from salver.kernel.supervise import Supervisor
from salver.words.errors import InvalidInput
from salver.words.events import Event, Served
from salver.words.messages import State

_LOG = logging.getLogger("salver.trace")
#: Requests that may wait to be written; further ones are lost, and their number is logged.
LIMIT = 65_536
#: Callers' requests whose requests to other models are remembered until they end.
FAMILIES = 4096


class Tracing:
    """Samples requests and writes them to the trace file.

    Args:
        present: Lists the models.

    Raises:
        InvalidInput: The configuration is wrong, or its path cannot be a file.
    """

    def __init__(self, config: TraceConfig, present: Present) -> None:
        self._settings = TraceSettings(config)
        self._file = TraceFile(config.file)
        self._present = present
        self._next = 1  # number of a trace
        self._waiting: list[Trace] = []
        self._below: dict[str, list[Served]] = {}  # by the span of the request that they serve
        self._tasks = Supervisor(_LOG, "traces are lost")
        self._lost = 0

    def __repr__(self) -> str:
        return f"<Tracing {self._settings}, {len(self._waiting)} waiting, {self._lost} lost>"

    def observe(self, events: Sequence[Event]) -> None:
        """Sample a batch of events."""
        settings = self._settings
        if not settings.is_on:
            self._below.clear()
            return
        for event in events:
            if type(event) is not Served or not event.version:
                continue  # requests for models that do not exist are not traced
            if event.parent:
                self._remember(event)  # it is traced if the caller's request is
                continue
            family = self._family(event) if self._below else [(event, 0)]
            scope = settings.scope(event.model)
            if not scope.takes():
                continue
            if len(self._waiting) >= LIMIT:
                self._lost += 1
                continue
            own = scope is not settings.scope("")
            frequency = scope.setting.log_frequency
            first, name = self._next, event.model if own else ""
            self._next += len(family)
            for index, (each, parent) in enumerate(family):
                above = first + parent if index else 0
                self._waiting.append(Trace(first + index, each, name, frequency, above))
        if self._waiting:
            self._tasks.start_unless_running("write traces", self._write)

    def _remember(self, event: Served) -> None:
        below = self._below
        if event.parent not in below and len(below) >= FAMILIES:
            del below[next(iter(below))]
        below.setdefault(event.parent, []).append(event)

    def _family(self, event: Served) -> list[tuple[Served, int]]:
        """Return a request and all those that served it, each with the index of its parent."""
        family = [(event, 0)]
        for index, (each, _) in enumerate(family):  # the list grows meanwhile
            family += [(child, index) for child in self._below.pop(each.traceparent, ())]
        return family

    def update(self, model: str, change: TraceChange) -> TraceSetting:
        """Return the settings of a model, or without a name the server's, after a change.

        Raises:
            InvalidInput: The model is not ready, or the settings do not fit together.
            Unsupported: The level is not supported.
        """
        ready = {status.id.name for status in self._present.statuses() if status.state is State.READY}
        if model and model not in ready:
            raise InvalidInput(f"Request for unknown model : {model}")
        if change:
            self._settings.update(model, change)
        return self._settings.of(model)

    async def close(self) -> None:
        """Wait until all sampled requests are written."""
        await self._tasks.join()

    async def _write(self) -> None:
        while self._waiting:
            traces, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._file.write, traces)
            except OSError as error:
                _LOG.error("%d traces are lost: %s", len(traces), error)
        if self._lost:
            _LOG.warning("%d traces are lost: requests came faster than they could be written", self._lost)
            self._lost = 0
