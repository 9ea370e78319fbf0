"""Management operations on served models and their traffic, which need no registry."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from salver.kernel.serving.ports import ModelStatistics
from salver.transport.access_check import Changing
from salver.transport.operations import Answer, ApiRequest, Operation, Page
from salver.transport.ports import Looking
from salver.words.errors import NotFound
from salver.words.messages import ModelId, State


class ServerView(msgspec.Struct, frozen=True):
    """The server itself.

    Attributes:
        changes: Who may make changes at this port: anybody, holders of the token, nobody.
        has_registry: The server has a registry.
    """

    name: str
    version: str
    changes: Changing
    has_registry: bool


class Served(msgspec.Struct, frozen=True):
    """A version that this server has loaded, or tried to."""

    model: str
    version: str
    state: State
    reason: str
    backend: str
    load_seconds: float


class Traffic(msgspec.Struct, frozen=True):
    """Totals of a version's requests since it was loaded. Differences over time are rates.

    Attributes:
        ok, failed: Number of requests.
        seconds: Total time of successful requests, from arrival to answer.
        queue_seconds: Part of it spent waiting for a batch or an instance.
        runs: Runs of the model; one batch each.
    """

    model: str
    version: str
    ok: int
    failed: int
    seconds: float
    queue_seconds: float
    runs: int


class TrafficView(msgspec.Struct, frozen=True):
    """Totals of every version's requests.

    Attributes:
        at: Unix seconds of these counts.
    """

    at: float
    items: list[Traffic]


class ModelLoad(msgspec.Struct, frozen=True):
    """Load of the engines of a model's versions: waiting requests and running batches."""

    model: str
    queued: int
    running: int


class Busy(Protocol):
    """Load of a version's engine."""

    @property
    def id(self) -> ModelId:
        """Return the version."""
        ...

    @property
    def queued(self) -> int:
        """Return the number of waiting requests."""
        ...

    @property
    def running(self) -> int:
        """Return the number of running batches."""
        ...


class Counting(Protocol):
    """Source of loads."""

    def loads(self) -> Sequence[Busy]:
        """Return the load of every loaded version."""
        ...


def serving_operations(
    control: Looking,
    counts: Counting,
    server: tuple[str, str],
    statistics: ModelStatistics | None = None,
    *,
    has_registry: bool = False,
    wall: Callable[[], float] = time.time,
) -> list[Operation]:
    """Return the operations.

    Args:
        server: Name and version of the server.
        statistics: None = nothing is told of what versions were asked.
    """

    async def tell_server(asked: ApiRequest) -> Answer:
        return Answer(ServerView(*server, asked.changing, has_registry))

    async def list_served(asked: ApiRequest) -> Answer:
        return Answer(Page([_served(status) for status in control.statuses()]))

    async def tell_traffic(asked: ApiRequest) -> Answer:
        told = statistics.statistics() if statistics is not None else {"model_stats": []}
        return Answer(TrafficView(wall(), [_traffic(one) for one in told["model_stats"]]))

    async def tell_load(asked: ApiRequest) -> Answer:
        name = asked.names["model"]
        found = [load for load in counts.loads() if load.id.name == name]
        if not found:
            raise NotFound(f"model '{name}' is not loaded here", field="model")
        queued, running = sum(load.queued for load in found), sum(load.running for load in found)
        return Answer(ModelLoad(name, queued, running))

    return [
        Operation("server", "GET", "/server", "The server itself", tell_server, ServerView),
        Operation(
            "list_served",
            "GET",
            "/served",
            "Versions that are loaded, or were to be",
            list_served,
            Page[Served],
        ),
        Operation(
            "traffic",
            "GET",
            "/traffic",
            "What was asked of each version",
            tell_traffic,
            TrafficView,
            group="statistics",
        ),
        Operation(
            "load",
            "GET",
            "/models/{model}/load",
            "For KEDA's metrics API: what waits and what runs",
            tell_load,
            ModelLoad,
            group="statistics",
        ),
    ]


def _served(status: Any) -> Served:
    id = status.id
    return Served(id.name, id.version, status.state, status.reason, status.backend, status.load_seconds)


def _traffic(counted: dict[str, Any]) -> Traffic:
    stats = counted["inference_stats"]
    return Traffic(
        counted["name"],
        counted["version"],
        stats["success"]["count"],
        stats["fail"]["count"],
        stats["success"]["ns"] / 1e9,
        stats["queue"]["ns"] / 1e9,
        counted["execution_count"],
    )
