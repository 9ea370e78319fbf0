"""Cluster of one node, this machine, whose replicas are host processes."""

import itertools
from collections.abc import Sequence

from salver.features.cluster.placement.records import Node
from salver.kernel.engine.child import HostProcess
from salver.kernel.engine.control import Load
from salver.kernel.engine.ports import Place
from salver.kernel.engine.spawn import HostPlan
from salver.words.errors import HostDied

_NODE = "this machine"


class ProcessReplica:
    """Replica in a host process."""

    node = _NODE
    place: Place

    def __init__(self, host: HostProcess, url: str) -> None:
        self.url = url
        self.loaded = host.loaded
        self.call = host.run
        self.stop = host.close
        self._host = host

    def __repr__(self) -> str:
        return f"<ProcessReplica {self.url}, {self._host!r}>"

    async def check(self) -> None:
        """See :class:`~salver.features.cluster.ports.Replica`. The host tells of its death by itself."""
        if self._host.dead.done():
            raise HostDied(f"it died ({self._host.dead.result()})")

    def abandon(self, why: str) -> None:
        """See :class:`~salver.features.cluster.ports.Replica`."""
        self._host.kill(why)


class LocalCluster:
    """See the module.

    Args:
        memory: Bytes that replicas may take.
    """

    def __init__(self, memory: int) -> None:
        self._node = Node(_NODE, memory)
        self._numbers = itertools.count()

    async def nodes(self) -> Sequence[Node]:
        """See :class:`~salver.features.cluster.ports.Cluster`."""
        return [self._node]

    async def start(self, load: Load, node: str) -> ProcessReplica:
        """See :class:`~salver.features.cluster.ports.Cluster`."""
        plan = HostPlan(load.backend, load.manifest, load.options, load.memory_limit_mb)
        host = await HostProcess.launch(plan)
        return ProcessReplica(host, f"process://{host.pid}")

    async def close(self) -> None:
        """See :class:`~salver.features.cluster.ports.Cluster`."""
