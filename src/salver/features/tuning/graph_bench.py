"""Measurement of a pipeline with some settings of its steps: loaded as on a server, asked by several callers.

It chooses nothing.
"""

import asyncio
import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from salver.backends.discovery import backends
from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.features.pipelines.planning import Node, Plan
from salver.features.pipelines.running import Running, unfit_step
from salver.features.pipelines.served import PipelineEngine, PipelineLoader, Surroundings
from salver.features.tuning.graph_search import GraphMeasurement, Knob, Settings
from salver.kernel.engine.warmup import samples
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.inner import Inner
from salver.kernel.serving.loader import Loader
from salver.kernel.serving.loading import Terms
from salver.kernel.serving.servable import Servable
from salver.kernel.serving.warmup_requests import warm_request
from salver.words.artifacts import Manifest, Warmup
from salver.words.errors import NotReady
from salver.words.messages import InferRequest
from salver.words.tensor import Tensor

#: Callers who ask, each again when it has its answer; enough for batches to form.
CALLERS: Final = 16
_FEWEST: Final = 2  # answers of each caller in a turn
_TURNS: Final = 5
_ROWS: Final = (1, 4, 16, 64)


class _NoModels(Inner):
    """Models of a server that has none."""

    def __init__(self) -> None:
        super().__init__(_refuse)

    def hold(self, models: Iterable[tuple[str, str]]) -> Any:
        """Return what is released with the pipeline."""
        return self

    def release(self) -> None:
        """Release nothing."""


def _refuse() -> Any:
    raise NotReady("there are no other models here")


class GraphBench:
    """Measurement of one pipeline.

    Args:
        seconds: Of one measurement.
    """

    def __init__(self, manifest: Manifest, cores: int, *, trust_pickle: bool, seconds: float = 1.0) -> None:
        self._manifest = manifest
        self._seconds = seconds
        terms = Terms(cores, trust_pickle)
        self._load = Loader(backends(), Bus(()), time.monotonic, terms).load

    async def measure(self, servable: Servable, other: Servable) -> list[GraphMeasurement]:
        """Let callers ask two pipelines in turns, or one alone.

        Raises:
            SalverError: one refuses what it is asked.
        """
        pipelines = [servable, other][: 1 + (other is not servable)]
        runs: list[list[tuple[float, list[float]]]] = [[] for _ in pipelines]
        for turn in range(_TURNS):
            for pipeline, told in zip(pipelines, runs, strict=True):
                if not turn:  # the first answers are slow for reasons of their own
                    await pipeline.infer(await self._request(pipeline))
                told.append(await self._turn(pipeline))
        return [_measured(told) for told in runs]

    async def _turn(self, servable: Servable) -> tuple[float, list[float]]:
        """Return requests per second and latencies of one turn."""
        request = await self._request(servable)
        latencies: list[float] = []
        began = time.perf_counter()
        until = began + self._seconds / _TURNS
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(CALLERS):
                    group.create_task(self._call(servable, request, until, latencies))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return len(latencies) / (time.perf_counter() - began), latencies

    async def opened(self, settings: Settings) -> Servable:
        """Return the pipeline with these settings. Raises LoadFailed."""
        around = Surroundings(settings=settings)
        loader = PipelineLoader(_NoModels(), self._load, lambda event: None, time.monotonic, around)
        return await loader.load(self._manifest)

    async def _call(
        self, servable: Servable, request: InferRequest, until: float, latencies: list[float]
    ) -> None:
        for count in range(1_000_000):
            began = time.perf_counter()
            if began >= until and count >= _FEWEST:
                return
            await servable.infer(request)
            latencies.append(time.perf_counter() - began)

    async def _request(self, servable: Servable) -> InferRequest:
        """Return the warm-up request, or a row of zeros."""
        config, signature = self._manifest.config, servable.signature
        if config.warmup.file:
            decode = OpenInferenceHttp().decode
            return await warm_request(self._manifest, config.warmup.file, signature, decode)
        row = next(samples(signature, Warmup((1,), 1, config.warmup.free_dim)))
        types = {spec.name: spec.datatype for spec in signature.inputs}
        tensors = tuple(Tensor(name, types[name], np.asarray(array)) for name, array in row.items())
        return InferRequest(self._manifest.id.name, tensors)


def _measured(turns: Sequence[tuple[float, list[float]]]) -> GraphMeasurement:
    """Return the median rate of turns, and the 99th percentile of all latencies."""
    latencies = sorted(latency for _, told in turns for latency in told)
    rate = statistics.median(rate for rate, _ in turns)
    return GraphMeasurement({}, rate, latencies[math.ceil(0.99 * len(latencies)) - 1])


def knobs_of(plan: Plan, cores: int) -> tuple[Settings, list[Knob]]:
    """Return the settings of the file, and what may be tried: what the file does not say, and what can be."""
    found = [knob for node in plan.nodes for knob in _knobs(node, cores)]
    return {node.name: node.table.how for node in plan.nodes}, [knob for knob in found if knob.changes]


def _knobs(node: Node, cores: int) -> Iterable[Knob]:
    """Yield the open settings of a step, without the values that it has anyway."""
    how, step = node.table.how, node.step
    threads, rows = (1, 64) if step is None else (step.threads, 2)
    if step is not None and not step.is_heavy and not how.placement:
        return
    open_keys: Mapping[str, list[dict[str, object]]] = {
        "placement": [{"placement": "process"}, *([{"placement": "thread"}] if step is None else ())],
        "instances": [{"instances": count} for count in sorted({2, cores, 2 * cores} - {threads})],
        "max_rows": [{"max_rows": most} for most in _ROWS if most != rows],
    }
    for key, changes in open_keys.items():
        if not getattr(how, key):
            yield Knob(node.name, [change for change in changes if _may(node, how, change)])


def _may(node: Node, how: Running, change: Mapping[str, object]) -> bool:
    """Return whether a step may run so, if only in a host process."""
    if node.step is None:
        return True
    has_lists = node.items is not None or node.step.merges
    placed = {"placement": how.placement or "process"} if "instances" in change else {}
    return (
        unfit_step(node.step, msgspec.structs.replace(how, **{**placed, **change}), has_lists=has_lists)
        is None
    )


def plan_of(servable: Servable) -> Plan:
    """Return the plan of a loaded pipeline."""
    engine = servable.engine
    assert isinstance(engine, PipelineEngine), "what was loaded is a pipeline"
    return engine.plan
