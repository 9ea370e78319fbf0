"""Loaded pipelines as the management interface shows them: graph, times of steps, statistics of edges."""

from collections.abc import Callable, Iterable

import msgspec

from salver.features.pipelines.planning import Node
from salver.features.pipelines.served import PipelineEngine
from salver.features.pipelines.statistics import PSI_LIMIT, Summary, compared
from salver.features.pipelines.watching import StepTally, edges_of
from salver.kernel.serving.servable import Servable
from salver.transport.operations import Answer, ApiRequest, Operation
from salver.words.errors import NotFound


class VersionQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Version that is meant.

    Attributes:
        version: Empty = the newest that is loaded.
    """

    version: str = ""


class ReadView(msgspec.Struct, frozen=True):
    """Edge to a step.

    Attributes:
        source: ``step.output``, or the name of an input.
        input: Name of the step's input, or ``when`` or ``unless``.
    """

    source: str
    input: str


class StepView(msgspec.Struct, frozen=True):
    """Step of a pipeline, and its runs since it was loaded.

    Attributes:
        use: Kind of the step; empty = a model.
        is_standby: It runs only when another step has failed.
        seconds: Mean time of a run, of which ``queue_seconds`` were waiting and ``run_seconds`` in the step.
        failures: Runs that failed, of which for ``stood_in`` constants or another step stood in.
        cache_lookups: Rows or requests that were looked up in the response cache, of which it had
            ``cache_hits``; 0 = it has no `cache`.
    """

    name: str
    use: str
    model: str
    reads: list[ReadView]
    gives: list[str]
    is_standby: bool
    runs: int
    seconds: float
    queue_seconds: float
    run_seconds: float
    failures: int
    stood_in: int
    cache_lookups: int = 0
    cache_hits: int = 0


class EdgeView(msgspec.Struct, frozen=True):
    """Edge of a pipeline, and the values that were seen there.

    Attributes:
        requests: Requests that were looked at.
        values: Values that the rest is about, the newest; of texts, their lengths in bytes.
        nulls: Share of NaN, or of empty texts.
        psi: Population stability index towards the training data; None = there are too few values, or none
            were recorded.
        nulls_more: Difference of ``nulls`` from the training data.
        is_notable: The difference is beyond the limits.
    """

    name: str
    type: str
    requests: int = 0
    values: int = 0
    nulls: float = 0.0
    mean: float = 0.0
    sd: float = 0.0
    least: float = 0.0
    most: float = 0.0
    psi: float | None = None
    nulls_more: float = 0.0
    is_notable: bool = False


class PipelineView(msgspec.Struct, frozen=True):
    """A loaded pipeline.

    Attributes:
        digest: Of all that decides its answers, if it has a lock file.
        requests: Answered requests since it was loaded.
        is_sampled: Statistics of edges are made.
        psi_limit: Index from which a difference is notable.
        outputs: Sources by output.
    """

    model: str
    version: str
    digest: str
    requests: int
    is_sampled: bool
    psi_limit: float
    steps: list[StepView]
    edges: list[EdgeView]
    outputs: dict[str, str]


def viewed(engine: PipelineEngine) -> PipelineView:
    """Return a loaded pipeline as it is shown."""
    plan, watch = engine.plan, engine.watch
    assert watch is not None, "every pipeline on a server has one"
    watch.add_up()
    references = engine.checked.statistics
    found = watch.summaries(references)
    return PipelineView(
        engine.id.name,
        engine.id.version,
        engine.checked.digest,
        watch.requests,
        watch.is_sampling,
        PSI_LIMIT,
        [_step(node, watch.steps[node.name], node.name in plan.standby) for node in plan.nodes],
        [
            _edge(name, str(type), found.get(name), references.get(name))
            for name, type in edges_of(plan).items()
        ],
        {output.name: output.source for output in plan.outputs},
    )


def _step(node: Node, tally: StepTally, is_standby: bool) -> StepView:
    reads = [ReadView(edge.source, edge.port) for edge in (*node.edges, *filter(None, [node.condition]))]
    runs = max(1, tally.runs)
    return StepView(
        node.name,
        node.table.use,
        node.table.model,
        reads,
        [*node.outputs],
        is_standby,
        tally.runs,
        tally.seconds / runs,
        tally.queue / runs,
        tally.inference / runs,
        tally.failures,
        tally.stood_in,
        tally.looked,
        tally.had,
    )


def _edge(name: str, type: str, found: Summary | None, reference: Summary | None) -> EdgeView:
    if found is None:
        return EdgeView(name, type)
    view = EdgeView(
        name,
        type,
        found.requests,
        found.values,
        found.nulls,
        found.mean,
        found.sd,
        found.least,
        found.most,
    )
    difference = compared(reference, found) if reference is not None else None
    if difference is None:
        return view
    return msgspec.structs.replace(
        view, psi=difference.psi, nulls_more=difference.nulls, is_notable=difference.is_notable
    )


def pipeline_operations(servables: Callable[[], Iterable[Servable]]) -> list[Operation]:
    """Return the operation that tells about a pipeline.

    Args:
        servables: Returns what is loaded.
    """

    async def tell(asked: ApiRequest) -> Answer:
        name, version = asked.names["model"], asked.query.version
        found = [
            servable.engine
            for servable in servables()
            if servable.manifest.id.name == name
            and version in ("", servable.manifest.id.version)
            and isinstance(servable.engine, PipelineEngine)
        ]
        if not found:
            raise NotFound(f"no pipeline '{name}' is loaded here", field="model")
        newest = max(found, key=lambda engine: (len(engine.id.version), engine.id.version))
        return Answer(viewed(newest))

    about = "Steps of a pipeline with their times, and statistics of its edges"
    path = "/models/{model}/pipeline"
    return [
        Operation("pipeline", "GET", path, about, tell, PipelineView, query=VersionQuery, group="statistics")
    ]
