"""Management operations on served models and their traffic, which need no registry."""

import time
from collections.abc import Callable
from typing import Any, Literal

from salver import is_compiled
from salver.features.management.serving_views import (
    ModelLoad,
    Served,
    ServerView,
    TrafficView,
    load_of,
    served,
    traffic,
)
from salver.kernel.serving.ports import ModelStatistics
from salver.kernel.serving.present import Present
from salver.transport.operations import Answer, ApiRequest, Operation, Page
from salver.transport.ports import StatusView


def serving_operations(
    control: StatusView,
    present: Present,
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
        return Answer(ServerView(*server, asked.changing, has_registry, is_compiled()))

    async def list_served(asked: ApiRequest) -> Answer:
        return Answer(Page([served(each) for each in control.statuses() if asked.may_see(each.id.name)]))

    async def tell_traffic(asked: ApiRequest) -> Answer:
        told: list[dict[str, Any]] = []
        if statistics is not None:
            told = statistics.statistics()["model_stats"]
        return Answer(TrafficView(wall(), [traffic(one) for one in told]))

    async def tell_load(asked: ApiRequest) -> Answer:
        return Answer(load_of(asked.names["model"], present.loads()))

    listed, load = "Versions that are loaded or wanted", "/models/{model}/load"
    keda, asked = "Waiting and running requests, for KEDA's metrics API", "Request counters of each version"
    group: Literal["statistics"] = "statistics"
    return [
        Operation("server", "GET", "/server", "Facts about the server", tell_server, ServerView),
        Operation("list_served", "GET", "/served", listed, list_served, Page[Served], filters=True),
        Operation("traffic", "GET", "/traffic", asked, tell_traffic, TrafficView, group=group),
        Operation("load", "GET", load, keda, tell_load, ModelLoad, group=group),
    ]
