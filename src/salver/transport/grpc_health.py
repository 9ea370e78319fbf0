"""gRPC's own health service, ``grpc.health.v1.Health``.

Names and numbers follow grpc/grpc-proto (Apache-2.0).
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

from salver.lazy import lazy_imports
from salver.transport.effects import reads
from salver.transport.ports import StatusView
from salver.words.errors import InvalidInput, NotFound
from salver.words.messages import Call

with lazy_imports():
    from google.protobuf import message as errors

    from salver.encoding import protobuf_tables as protobuf


SERVICE: Final = "grpc.health.v1.Health"
CHECK: Final = f"/{SERVICE}/Check"
WATCH: Final = f"/{SERVICE}/Watch"
MESSAGES: Final[dict[str, str]] = {
    "HealthCheckRequest": "string service = 1",
    "HealthCheckResponse": "ServingStatus status = 1",
}
#: Method -> its request and response.
TYPES: Final = dict.fromkeys((CHECK, WATCH), ("HealthCheckRequest", "HealthCheckResponse"))
#: ServingStatus by number.
_STATUS: Final = "UNKNOWN SERVING NOT_SERVING SERVICE_UNKNOWN"
_STATUS_OF: Final[Mapping[bool | None, str]] = {
    True: "SERVING",
    False: "NOT_SERVING",
    None: "SERVICE_UNKNOWN",
}


@cache
def build() -> dict[str, Any]:
    """Return message classes by name."""
    return protobuf.build(protobuf.Table("grpc.health.v1", MESSAGES, {"ServingStatus": _STATUS}))


class Health:
    """Health of the server, of its services and of its models.

    Args:
        services: Names that stand for the whole server.
    """

    def __init__(self, control: StatusView, services: Iterable[str]) -> None:
        self._control = control
        self._services = frozenset(("", SERVICE, *services))

    @reads
    async def check(self, message: bytes, call: Call) -> bytes:
        """Answer a HealthCheckRequest.

        Raises:
            InvalidInput: the message cannot be decoded.
            NotFound: there is no such service or model.
        """
        service = self._asked(message)
        is_serving = await self._serves(service)
        if is_serving is None:
            raise NotFound(f"unknown service {service!r}")
        return self._encoded(is_serving)

    async def look(self, message: bytes) -> bytes:
        """Return the current answer for a watcher. Raises InvalidInput."""
        return self._encoded(await self._serves(self._asked(message)))

    def _asked(self, message: bytes) -> str:
        try:
            service: str = build()["HealthCheckRequest"].FromString(message).service
        except errors.DecodeError as error:
            raise InvalidInput(f"the message is not a HealthCheckRequest: {error}") from None
        return service

    def _encoded(self, is_serving: bool | None) -> bytes:
        status = _STATUS.split().index(_STATUS_OF[is_serving])
        return build()["HealthCheckResponse"](status=status).SerializeToString()  # type: ignore[no-any-return]

    async def _serves(self, service: str) -> bool | None:
        """Return whether the server, or a model, can answer; None if there is no such service or model."""
        if service in self._services:
            return await self._control.is_ready()
        if any(status.id.name == service for status in self._control.statuses()):
            return await self._control.is_ready(service)
        return None
