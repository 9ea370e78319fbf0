"""Parts of telemetry: the metrics page, explanations, the event log and spans."""

from typing import Any

import msgspec

from salver.features.telemetry.eventlog import EventLog
from salver.features.telemetry.explain import Explanations
from salver.features.telemetry.metrics import Metrics
from salver.kernel.logs import LogConfig
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.ports import Observer, OwnNumbers
from salver.kernel.serving.state import ServerState
from salver.lazy import lazy_imports
from salver.parts import Kernel, MetricsPage, Parts
from salver.transport.ports import Exposition

with lazy_imports():
    from salver.features.telemetry.otlp import SpanExport, span_config
    from salver.transport.orca import TokenRoom


class TelemetryExposition:
    """Counts of telemetry for the metrics page (:class:`salver.transport.ports.Exposition`)."""

    def __init__(self, bus: Bus, state: ServerState, metrics: Metrics, explanations: Explanations) -> None:
        self._bus = bus
        self._state = state
        self._metrics = metrics
        self._explanations = explanations

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics page and its content type."""
        self._bus.flush()
        return self._metrics.render(accept)

    def token_room(self, model: str, version: str) -> TokenRoom | None:
        """Return how full a model that answers token by token is."""
        room = self._state.token_room(model, version)
        if room is None:
            return None
        return TokenRoom(*room)

    def explain(self, model: str, version: str, request: str = "") -> dict[str, Any]:
        """Return where the time of requests went, or of the one with this id."""
        self._bus.flush()
        if request:
            return self._explanations.request(model, request)
        return self._explanations.model(model, version)


async def build(kernel: Kernel, config: None) -> Parts:
    """Return the observers of a server, and offer the metrics page."""
    metrics, explanations = Metrics(kernel.state), Explanations(kernel.clock, kernel.state)
    kernel.services.offer(OwnNumbers, metrics.own)
    kernel.services.offer(MetricsPage, metrics)
    kernel.services.offer(Exposition, TelemetryExposition(kernel.bus, kernel.state, metrics, explanations))
    log = EventLog(kernel.config.table("log", LogConfig).access_log)
    observers: list[Observer] = [metrics, explanations, log]
    optional = {"explanations": explanations.switch}
    if not kernel.config.tables.get("tracing"):
        return Parts(observers, optional=optional)
    spans = span_config(kernel.config)
    if not spans.url:
        return Parts(observers, optional=optional)
    export = SpanExport(spans, kernel.new_id, kernel.version)
    kernel.state.spans_lost = lambda: export.lost
    kernel.door.path = msgspec.structs.replace(kernel.door.path, samples=export.samples)
    optional["traces"] = export.switch
    return Parts([*observers, export], optional=optional, close=export.close)
