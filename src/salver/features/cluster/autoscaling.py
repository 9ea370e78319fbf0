"""Replicas that are added and taken away as their models are asked."""

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final
from weakref import WeakKeyDictionary

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from salver.features.cluster.replicas import ReplicaRunner
from salver.features.cluster.scaling import Demand, Scaler, demand
from salver.kernel.serving.servable import Servable
from salver.kernel.supervise import Supervisor
from salver.parts import Kernel
from salver.words.errors import LoadFailed
from salver.words.messages import ModelId

_LOG: Final = logging.getLogger("salver.cluster")
#: Seconds before replicas are started again, when some could not be.
_RETRY_S: Final = 10.0


class _State:
    """State of one model version."""

    def __init__(self, count: int, now: float) -> None:
        self.scaler = Scaler(count, now)
        self.is_changing = False
        self.retry_at = now


class Autoscaler:
    """See the module.

    Args:
        runners: Returns the models that run on the cluster.
        room: Returns how many more replicas of a model have a place, of some, and why the others have none.
    """

    def __init__(
        self,
        kernel: Kernel,
        runners: Callable[[], Mapping[ModelId, ReplicaRunner]],
        room: Callable[[ModelId, int], Awaitable[tuple[int, str]]],
    ) -> None:
        self._kernel = kernel
        self._runners = runners
        self._room = room
        self._states: WeakKeyDictionary[Servable, _State] = WeakKeyDictionary()
        self._tasks = Supervisor(_LOG, "the number of replicas is not changed")

    def __repr__(self) -> str:
        return f"<Autoscaler of {len(self._states)} models>"

    async def tick(self) -> None:
        """Decide for each model, and begin to change what differs."""
        now, runners = self._kernel.clock(), self._runners()
        for servable in self._kernel.models.servables():
            runner = runners.get(servable.manifest.id)
            limits = self._kernel.terms.wish_of(servable.manifest)
            if runner is None or not limits.max_count or not servable.can_resize:
                continue
            slots = servable.placement.slots
            state = self._states.get(servable)
            if state is None:
                state = self._states[servable] = _State(slots, now)
            runner.wanted = state.scaler.decide(_demand(servable), limits, now)
            if runner.wanted == slots:
                runner.router.note = ""
            elif not state.is_changing and now >= state.retry_at:
                state.is_changing = True
                self._tasks.start(f"scale {runner.id}", self._scale(servable, runner, state))

    async def _scale(self, servable: Servable, runner: ReplicaRunner, state: "_State") -> None:
        slots, wanted = servable.placement.slots, runner.wanted
        why = ""
        try:
            if wanted > slots:
                more, why = await self._room(runner.id, wanted - slots)
                wanted = slots + more
            if wanted != slots:
                await servable.resize(wanted)
                _LOG.info("[%s] has %d replicas now, and had %d", runner.id, wanted, slots)
        except LoadFailed as error:
            why = str(error)
        finally:
            state.is_changing = False
        if why:
            state.retry_at = self._kernel.clock() + _RETRY_S
            why = f"{runner.wanted} replicas are wanted: {why}"
            if why != runner.router.note:
                _LOG.warning("[%s] %s", runner.id, why)
        runner.router.note = why

    def collect(self) -> Iterator[Metric]:
        """Return the metric families; called by the Prometheus registry."""
        labels = ("model", "version")
        wanted = GaugeMetricFamily(
            "salver_replicas_wanted", "Replicas that a model is to have.", labels=labels
        )
        alive = GaugeMetricFamily("salver_replicas_alive", "Replicas that a model has.", labels=labels)
        for id, runner in self._runners().items():
            wanted.add_metric((id.name, id.version), runner.wanted or runner.slots)
            alive.add_metric((id.name, id.version), len(runner.nodes))
        yield from (wanted, alive)

    async def close(self) -> None:
        """End the changes under way."""
        await self._tasks.close()


def _demand(servable: Servable) -> Demand:
    """Return the demand of all signatures of a model together."""
    objective, slots, largest = servable.manifest.config.objective, servable.placement.slots, 1
    promise_s = (objective.latency_p99_ms or objective.deadline_ms) / 1e3
    if servable.signature.batched:
        largest = servable.manifest.config.batching.largest_run
    parts = [
        demand(engine.insight(), slots, engine.queued, largest, promise_s) for engine in servable.engines
    ]
    return Demand(sum(each.work for each in parts), sum(each.backlog_s for each in parts))
