"""How do sampled requests reach the trace file without slowing others?

An observer on the bus: while tracing is off it looks at nothing; else it keeps what was sampled, at most
:data:`LIMIT` requests, and writes it on another thread, one piece after another.
"""

import asyncio
import itertools
import logging
from collections.abc import Sequence

from salver.errors import InvalidInput
from salver.events import Event, Served
from salver.messages import State
from salver.telemetry.ports import Present
from salver.telemetry.trace_settings import TraceConfig, TraceSettings
from salver.telemetry.tracefile import Trace, TraceFile
from salver.wire.settings import TraceChange, TraceSetting

_LOG = logging.getLogger("salver.trace")
#: Requests that may wait to be written; further ones are lost, and counted in the log.
LIMIT = 65_536


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
        self._numbers = itertools.count(1)
        self._waiting: list[Trace] = []
        self._writing: asyncio.Task[None] | None = None
        self._lost = 0

    def __repr__(self) -> str:
        return f"<Tracing {self._settings}, {len(self._waiting)} waiting, {self._lost} lost>"

    def observe(self, events: Sequence[Event]) -> None:
        """Sample a batch of events."""
        settings = self._settings
        if not settings.is_on:
            return
        for event in events:
            if type(event) is not Served or not event.version:
                continue  # requests for models that do not exist are not traced
            scope = settings.scope(event.model)
            if not scope.takes():
                continue
            if len(self._waiting) >= LIMIT:
                self._lost += 1
                continue
            own = scope is not settings.scope("")
            frequency = scope.setting.log_frequency
            self._waiting.append(Trace(next(self._numbers), event, event.model if own else "", frequency))
        if self._waiting and self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write())

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
        if self._writing is not None:
            await self._writing

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
        self._writing = None
