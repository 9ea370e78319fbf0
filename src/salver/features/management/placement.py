"""Operation that tells where a model runs, and why: cluster, node and process."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from salver.kernel.engine.ports import Place
from salver.kernel.serving.ports import ModelStatistics
from salver.kernel.serving.servable import Servable
from salver.transport.operations import Answer, ApiRequest, Operation
from salver.transport.ports import StatusView
from salver.words.artifacts import Batching
from salver.words.errors import NotFound
from salver.words.messages import ModelId


class ClusterLevel(msgspec.Struct, frozen=True):
    """Choice of nodes.

    Attributes:
        replicas: Empty = it runs on this machine alone.
        lacking: Why there are fewer than are needed; empty = there are not.
    """

    replicas: Sequence[Place] = ()
    lacking: str = ""


class NodeLevel(msgspec.Struct, frozen=True):
    """Share of each node that the model gets.

    Attributes:
        runner: ``thread`` of the server, ``process``, or ``replica``.
        processes: Ids of host processes of this machine.
        instances: Runs at a time, on all nodes together.
        threads: Threads of one run.
        cpus: Cores that processes keep to; empty = any.
        cpu_quota: Cores' worth of time of each process; 0 = no limit.
    """

    runner: str
    processes: Sequence[int]
    instances: int
    threads: int
    cpus: Sequence[int]
    cpu_quota: float


class ProcessLevel(msgspec.Struct, frozen=True):
    """Batches.

    Attributes:
        rule: Batching rule; empty = the model takes no batches.
        batch: When a run begins.
        most_rows: Maximum rows of a run now.
        mean_rows: Average rows of its runs so far; 0 = there was none.
        queued: Requests that wait.
        running: Runs under way.
        waits: What waits now, and for what.
    """

    rule: str
    batch: str
    most_rows: int
    mean_rows: float
    queued: int
    running: int
    waits: str


class PlacementView(msgspec.Struct, frozen=True):
    """Placement of a model on three levels, with reasons."""

    model: str
    version: str
    cluster: ClusterLevel
    node: NodeLevel
    process: ProcessLevel


def placement_operation(
    control: StatusView,
    servables: Callable[[], Iterable[Servable]],
    statistics: ModelStatistics | None,
) -> Operation:
    """Return the operation.

    Args:
        servables: Returns what is loaded.
        statistics: None = the rows of earlier runs are unknown.
    """

    async def tell(asked: ApiRequest) -> Answer:
        name = asked.names["model"]
        found = [each for each in servables() if each.manifest.id.name == name]
        if not found:
            reasons = [each.reason for each in control.statuses() if each.id.name == name and each.reason]
            raise NotFound("; ".join([f"model '{name}' is not loaded here", *reasons]), field="model")
        newest = max(found, key=lambda each: (len(each.manifest.id.version), each.manifest.id.version))
        return Answer(_viewed(newest, statistics))

    about = "Where a model runs, and why: cluster, node and process"
    return Operation("placement", "GET", "/models/{model}/placement", about, tell, PlacementView)


def _viewed(servable: Servable, statistics: ModelStatistics | None) -> PlacementView:
    id, placement, placed = servable.manifest.id, servable.placement, servable.placed
    cluster, runner = ClusterLevel(), placement.runner
    if placed is not None:
        cluster, runner = ClusterLevel(placed.places, placed.lacking), "replica"
    wish, slots = servable.manifest.config.instances, placement.slots
    node = NodeLevel(runner, servable.processes, slots, placement.threads, wish.cpus, wish.cpu_quota)
    queued, running = servable.engine.queued, servable.engine.running
    rule = servable.engine.insight().rule
    batch = batch_of(rule, servable.manifest.config.batching)
    process = ProcessLevel(
        rule,
        batch,
        servable.most_rows,
        _mean_rows(statistics, id),
        queued,
        running,
        waits_for(queued, running, slots),
    )
    return PlacementView(id.name, id.version, cluster, node, process)


def batch_of(rule: str, batching: Batching) -> str:
    """Return when a run begins, in words.

    >>> batch_of("window", Batching(max_delay_ms=5))
    'an idle instance waits up to 5 ms for 64 rows'
    """
    if not rule:
        return "requests run one by one, or step by step"
    if rule == "window":
        return f"an idle instance waits up to {batching.max_delay_ms:g} ms for {batching.max_rows} rows"
    if rule == "learned":
        return "an idle instance waits as its learned table says"
    return "an idle instance takes what waits"


def waits_for(queued: int, running: int, slots: int) -> str:
    """Return what waits now, and for what, in words.

    >>> waits_for(3, 2, 2)
    '3 requests wait for one of 2 runs to end'
    """
    if not queued:
        return "nothing waits"
    if running >= slots:
        return f"{queued} requests wait for one of {slots} runs to end"
    return f"{queued} requests wait for their batch to fill"


def _mean_rows(statistics: ModelStatistics | None, id: ModelId) -> float:
    if statistics is None:
        return 0.0
    told = statistics.statistics(id.name, id.version)["model_stats"]
    rows = sum(int(each["inference_count"]) for each in told)
    return round(rows / max(1, sum(int(each["execution_count"]) for each in told)), 2)
