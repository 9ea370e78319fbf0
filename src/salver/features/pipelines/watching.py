"""Times and failures of a loaded pipeline's steps, and statistics of its edges from a sample of requests."""

import asyncio
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from salver.features.pipelines.edges import EdgeType
from salver.features.pipelines.graph import Flow
from salver.features.pipelines.planning import Plan
from salver.features.pipelines.statistics import MOST_OF_REQUEST, EdgeStatistics, Summary, sampled
from salver.words.messages import StepTime
from salver.words.tensor import Array

#: Requests whose times are added up together.
_TOGETHER: Final = 64
#: Samples that may wait; more are left out.
_MOST_WAITING: Final = 32


class StepTally(msgspec.Struct):
    """Sums over the runs of one step, in seconds.

    Attributes:
        queue: Waiting for an instance, and for a batch to fill.
        inference: In the model or step itself.
        failures: Runs that failed, also those for which something stood in.
        looked: Rows or requests that were looked up in the response cache, of which it had ``had``.
    """

    runs: int = 0
    seconds: float = 0.0
    queue: float = 0.0
    inference: float = 0.0
    failures: int = 0
    stood_in: int = 0
    looked: int = 0
    had: int = 0


class Watch:
    """Tallies of one loaded pipeline's steps and edges, used from the event loop.

    Args:
        sample: Part of the requests whose edges are looked at; 0 = none.
    """

    def __init__(self, plan: Plan, sample: float) -> None:
        self.steps = {node.name: StepTally() for node in plan.nodes}
        self.requests = 0
        self._pending: list[list[StepTime]] = []
        self._every = round(1 / sample) if sample else 0
        self._edges: dict[str, EdgeStatistics] = {}
        for name, type in edges_of(plan).items():
            self._edges[name] = EdgeStatistics(type.datatype)
        self._waiting: deque[list[tuple[str, Array]]] = deque()
        self._lock = threading.Lock()
        self._is_adding = False
        self.left_out = 0

    def __repr__(self) -> str:
        return f"<Watch of {len(self.steps)} steps, {self.requests} requests>"

    @property
    def is_sampling(self) -> bool:
        """Whether it looks at edges."""
        return bool(self._every)

    def answered(self, times: list[StepTime], flow: Flow) -> None:
        """Note a request that was answered."""
        self._pending.append(times)
        self.requests += 1
        if len(self._pending) >= _TOGETHER:
            self.add_up()
        if self._every and self.requests % self._every == 0:
            self._look(flow)

    def failed(self, step: str, *, is_rescued: bool) -> None:
        """Note that a step failed."""
        tally = self.steps.get(step)
        if tally is not None:
            tally.failures += 1
            tally.stood_in += is_rescued

    def add_up(self) -> None:
        """Add the times of the requests that were answered since the last call."""
        for times in self._pending:
            for name, began, ended, queue, inference, looked, had in times:
                tally = self.steps.get(name)
                if tally is not None:
                    tally.runs += 1
                    tally.seconds += ended - began
                    tally.queue += queue
                    tally.inference += inference
                    tally.looked += looked
                    tally.had += had
        self._pending.clear()

    def summaries(self, references: Mapping[str, Summary]) -> dict[str, Summary]:
        """Return the distributions at the edges that were looked at, in the bins of the training data."""
        with self._lock:
            return {
                name: edge.summary(references.get(name))
                for name, edge in self._edges.items()
                if edge.requests
            }

    def _look(self, flow: Flow) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self.left_out += 1
            return
        # Copies, since an array may lie in memory that is used again after the request.
        self._waiting.append(looked_at(flow, self._edges))
        if not self._is_adding:
            self._is_adding = True
            asyncio.get_running_loop().run_in_executor(None, self._add)

    def _add(self) -> None:
        """Add what waits, on a thread."""
        try:
            while self._waiting:
                add(self._edges, self._waiting.popleft(), self._lock)
        finally:
            self._is_adding = False


def edges_of(plan: Plan) -> dict[str, EdgeType]:
    """Return the edges of a plan with their types: its inputs, and the outputs of its steps."""
    found = {name: type for name, type in plan.inputs.items() if type is not None}
    for node in plan.nodes:
        found.update((f"{node.name}.{name}", type) for name, type in node.outputs.items() if type is not None)
    return found


def looked_at(
    flow: Flow, edges: Mapping[str, object], most: int = MOST_OF_REQUEST
) -> list[tuple[str, Array]]:
    """Return values of the edges of a request, at most so many of each."""
    found = ((name, value) for name, value in flow.values.items() if value is not None and name in edges)
    return [(name, sampled(value.tensor.array, most)) for name, value in found]


def add(
    edges: Mapping[str, EdgeStatistics], values: Sequence[tuple[str, Array]], lock: threading.Lock
) -> None:
    """Add values of a request to the statistics of its edges."""
    with lock:
        for name, array in values:
            edges[name].add(array)
