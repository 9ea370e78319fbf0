"""Way of sampled requests to the trace file, off the path of others.

An observer on the bus: while tracing is off it looks at nothing; else it keeps what was sampled, at most
:data:`LIMIT` requests, and writes it on another thread, one piece after another.
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
#: Requests that may wait to be written; further ones are lost, and counted in the log.
LIMIT = 65_536
#: Requests of callers for which what was asked in their service is remembered until they have their answer.
FAMILIES = 4096


class Tracing:
    """Samples requests and has them written.

    Args:
        present: Asked which models there are.

    Raises:
        InvalidInput: the configuration makes no sense, or no file can be where it says.
    """

    def __init__(self, config: TraceConfig, present: Present) -> None:
        self._settings = TraceSettings(config)
        self._file = TraceFile(config.file)
        self._present = present
        self._next = 1  # number of a trace
        self._waiting: list[Trace] = []
        self._below: dict[str, list[Served]] = {}  # asked in the service of the span that is the key
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
                self._remember(event)  # it is traced if the request of the caller is
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
            first = self._next
            self._next += len(family)
            for index, (each, parent) in enumerate(family):
                above = first + parent if index else 0
                trace = Trace(first + index, each, event.model if own else "", frequency, above)
                self._waiting.append(trace)
        if self._waiting:
            self._tasks.start_unless_running("write traces", self._write)

    def _remember(self, event: Served) -> None:
        below = self._below
        if event.parent not in below and len(below) >= FAMILIES:
            del below[next(iter(below))]
        below.setdefault(event.parent, []).append(event)

    def _family(self, event: Served) -> list[tuple[Served, int]]:
        """A request and all that was asked in its service, each with the place of its parent in this list."""
        family = [(event, 0)]
        for index, (each, _) in enumerate(family):  # which grows
            family += [(child, index) for child in self._below.pop(each.traceparent, ())]
        return family

    def update(self, model: str, change: TraceChange) -> TraceSetting:
        """A model's settings, or, without a name, the server's, after a change, which may be empty.

        Raises:
            InvalidInput: the model does not answer, or nothing can be traced so.
            Unsupported: the level is not supported.
        """
        if model and not any(
            status.id.name == model and status.state is State.READY for status in self._present.statuses()
        ):
            raise InvalidInput(f"Request for unknown model : {model}")
        if change:
            self._settings.update(model, change)
        return self._settings.of(model)

    async def close(self) -> None:
        """Returns when all that was sampled is written."""
        await self._tasks.join()

    async def _write(self) -> None:
        while self._waiting:
            traces, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._file.write, traces)
            except OSError as error:
                _LOG.error("%d traces are lost: %s", len(traces), error)
        if self._lost:
            _LOG.warning("%d traces are lost: they came faster than they could be written", self._lost)
            self._lost = 0
