"""HTTP operations of the server itself, outside all dialects."""

from typing import Final

from salver.encoding.bodies import HttpBody, HttpReply
from salver.encoding.json_text import dumps
from salver.transport.faults import http_fault
from salver.transport.parting import Parting
from salver.transport.ports import Exposition, StatusView
from salver.transport.routes import Endpoint, HttpTable, Operation, Route
from salver.words.messages import Call

OPERATIONS: Final = (
    Operation("ready_plain", "GET", "/health/ready", "Readiness of the server", right="known"),
    Operation("metrics", "GET", "/metrics", "Prometheus or OpenMetrics text"),
)


class ServerOperations:
    """Readiness and the metrics page.

    Args:
        parting: Whether the server is about to stop.
    """

    def __init__(self, control: StatusView, exposition: Exposition, parting: Parting) -> None:
        self._control = control
        self._exposition = exposition
        self._parting = parting

    def table(self) -> HttpTable:
        """Return the operations."""
        endpoints = {
            "ready_plain": Endpoint(self.ready),
            "metrics": Endpoint(self.metrics, is_compressible=True),
        }
        return HttpTable(OPERATIONS, endpoints, http_fault)

    async def ready(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        """Answer whether every model that should serve can."""
        if await self._control.is_ready():
            return HttpReply(200, dumps({"ready": True}))
        # Triton answers 400; during shutdown, load balancers need 503.
        return HttpReply(503 if self._parting.is_told else 400, dumps({"ready": False}))

    async def metrics(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        """Answer with the metrics page."""
        accept = http.headers.get(b"accept", b"").decode("latin-1")
        body, content_type = self._exposition.metrics(accept)
        return HttpReply(200, body, ((b"content-type", content_type.encode()),))
