"""Records of the management operations on served models, and how they are made."""

from collections.abc import Iterable
from typing import Any

import msgspec

from salver.kernel.serving.present import Load
from salver.transport.access_check import Changing
from salver.words.errors import NotFound
from salver.words.messages import State, VersionStatus


class ServerView(msgspec.Struct, frozen=True):
    """The server itself.

    Attributes:
        changes: Who may make changes at this port: anybody, holders of the token, nobody.
        has_registry: The server has a registry.
        is_compiled: Connections and engine are compiled: it is an accelerated build.
    """

    name: str
    version: str
    changes: Changing
    has_registry: bool
    is_compiled: bool


class Served(msgspec.Struct, frozen=True):
    """A version that this server has loaded, or tried to.

    Attributes:
        digest: SHA-256 of all that decides its answers, if it is a locked pipeline.
    """

    model: str
    version: str
    state: State
    reason: str
    backend: str
    load_seconds: float
    digest: str


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


def load_of(model: str, loads: Iterable[Load]) -> ModelLoad:
    """Return the load of a model. Raises NotFound."""
    found = [load for load in loads if load.id.name == model]
    if not found:
        raise NotFound(f"model '{model}' is not loaded here", field="model")
    return ModelLoad(model, sum(load.queued for load in found), sum(load.running for load in found))


def served(status: VersionStatus) -> Served:
    """Return a version as it is shown."""
    id = status.id
    return Served(
        id.name,
        id.version,
        status.state,
        status.reason,
        status.backend,
        status.load_seconds,
        status.digest,
    )


def traffic(counted: dict[str, Any]) -> Traffic:
    """Return the totals of a version from the statistics extension."""
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
