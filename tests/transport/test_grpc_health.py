"""gRPC's health service."""

from types import SimpleNamespace
from typing import Any

import pytest

from salver.transport.grpc_health import Health, build
from salver.words.errors import InvalidInput, NotFound
from salver.words.messages import Call

CALL = Call("grpc", 0.0)


class Models:
    """Model ``m`` is ready, and nothing else is."""

    def statuses(self) -> tuple[Any, ...]:
        return (SimpleNamespace(id=SimpleNamespace(name="m")),)

    async def is_ready(self, model: str = "", version: str = "") -> bool:
        return model == "m"


def request(service: str) -> bytes:
    return build()["HealthCheckRequest"](service=service).SerializeToString()  # type: ignore[no-any-return]


async def test_health_of_the_server_its_services_and_its_models() -> None:
    health = Health(Models(), ("a.Service",))  # type: ignore[arg-type]
    assert await health.check(request("m"), CALL) == b"\x08\x01"  # SERVING, as grpc_health.proto numbers it
    for name in ("", "a.Service", "grpc.health.v1.Health"):
        assert await health.check(request(name), CALL) == b"\x08\x02"
    with pytest.raises(NotFound, match="unknown service 'none'"):
        await health.check(request("none"), CALL)
    with pytest.raises(InvalidInput, match="not a HealthCheckRequest"):
        await health.check(b"\xff", CALL)
    assert await health.look(request("none")) == b"\x08\x03"  # SERVICE_UNKNOWN
