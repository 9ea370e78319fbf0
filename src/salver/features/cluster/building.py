"""Parts of a server whose models run on a cluster."""

import asyncio
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Final

from salver.backends.protocol import LoadOptions
from salver.features import ClusterConfig
from salver.features.cluster.autoscaling import Autoscaler
from salver.features.cluster.local import LocalCluster
from salver.features.cluster.placing import PlacedReplica, Placer
from salver.features.cluster.ports import Cluster, Replica
from salver.features.cluster.ray_cluster import RayCluster
from salver.features.cluster.replicas import Care, ReplicaRunner
from salver.features.cluster.scaling import PERIOD_S
from salver.features.memory.estimates import estimate
from salver.features.routing import Routing
from salver.kernel.engine.control import Load
from salver.kernel.serving.loading import Additions
from salver.machine import memory_bytes
from salver.parts import Kernel, Parts, Tick
from salver.words.artifacts import Manifest
from salver.words.messages import ModelId

_LOG: Final = logging.getLogger("salver.cluster")
#: How long the first node that can run models waits for the others.
_MORE_NODES_S: Final = 120.0


class ClusterEngine:
    """Opens models on the cluster."""

    def __init__(self, kernel: Kernel, config: ClusterConfig) -> None:
        self._kernel = kernel
        self._config = config
        self._cluster: Cluster | None = None
        self._runners: list[ReplicaRunner] = []
        self._needs: dict[str, int] = {}
        self._placer = Placer(self._placed, kernel.clock)
        self.scaler = Autoscaler(kernel, lambda: {each.id: each for each in self.models()}, self._room)

    async def prepare(self) -> None:
        """Connect to the cluster. Raises NotReady."""
        if self._config.engine == "processes":
            self._cluster = LocalCluster(memory_bytes())
        else:
            self._cluster = await RayCluster.connect(self._config.address)
        count = await self._wait_for_nodes(self._cluster)
        _LOG.info("models run on %d nodes of %s", count, self._config.engine)

    async def _wait_for_nodes(self, cluster: Cluster) -> int:
        """Wait for the nodes that are to be there: what loads earlier goes to the first, and stays there."""
        until, clock = math.inf, self._kernel.clock
        while len(nodes := await cluster.nodes()) < self._config.nodes and clock() < until:
            if any(node.memory for node in nodes):
                until = min(until, clock() + _MORE_NODES_S)
            await asyncio.sleep(1)
        return len(nodes)

    async def open(self, backend: str, manifest: Manifest, options: LoadOptions) -> ReplicaRunner | None:
        """See :class:`~salver.kernel.serving.loading.RunnerSource`."""
        cluster = self._cluster
        # The files of a model that a request brings are on this machine alone.
        if cluster is None or manifest.brought in ("files", "path"):
            return None
        load = Load(backend, manifest, options, (), manifest.config.instances.memory_limit_mb)

        model = str(manifest.id)
        self._needs[model] = need = estimate(manifest, has_framework=False).resident

        async def start() -> Replica:
            with self._placer.place_for(model, need, await cluster.nodes()) as place:
                replica = await cluster.start(load, place.node)
                replica.place = place
                return replica

        wish = self._kernel.terms.wish_of(manifest)
        count = wish.count or 1
        # A new version takes over what the scaler gave to the one before.
        before = max((each.slots for each in self.models() if each.id.name == manifest.id.name), default=0)
        care = Care(self._placer.suspect, clock=self._kernel.clock)
        runner = await ReplicaRunner.start(manifest.id, start, count, care, min(before, wish.max_count))
        if runner.loaded.asks != "batch":
            _LOG.info("model %s takes requests one by one, so it runs on this server", manifest.id)
            await runner.close()
            return None
        self._runners.append(runner)
        return runner

    def _placed(self) -> Iterator[PlacedReplica]:
        for runner in self.models():
            model = str(runner.id)
            yield from (PlacedReplica(model, self._needs[model], node) for node in runner.nodes)

    async def _room(self, id: ModelId, more: int) -> tuple[int, str]:
        """Return how many of some more replicas have a place, and why the others have none."""
        assert self._cluster is not None
        return self._placer.room(str(id), self._needs[str(id)], await self._cluster.nodes(), more)

    def models(self) -> Sequence[ReplicaRunner]:
        """Return the models that run on the cluster."""
        self._runners = [runner for runner in self._runners if not runner.is_closed]
        return self._runners

    async def close(self) -> None:
        """Leave the cluster."""
        await self.scaler.close()
        if self._cluster is not None:
            await self._cluster.close()


async def build(kernel: Kernel, config: ClusterConfig) -> Parts:
    """Return what loads models on the cluster."""
    engine = ClusterEngine(kernel, config)
    kernel.services.need(Routing).others.append(engine.models)
    return Parts(
        collectors=[engine.scaler],
        additions=Additions(elsewhere=engine),
        ticks=[Tick("replicas", PERIOD_S, engine.scaler.tick)],
        prepare=engine.prepare,
        close=engine.close,
    )
