"""Cluster of Ray, whose replicas are actors without a public route.

The actors belong to this process: they end with it, whatever ends it, and no other program shares them.
"""

import asyncio
import os
import pickle
import signal
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from salver.features.cluster.placement.records import Node
from salver.features.cluster.ray_actor import ModelActor
from salver.kernel.engine.control import Load, LoadResult, RunError, rebuild
from salver.kernel.engine.ports import Place
from salver.words.errors import HostDied, LoadFailed, NotReady, Unsupported
from salver.words.tensor import Array

_NAMESPACE: Final = "salver"
#: Batches up to this size go with the call. Through the object store, one of 128 KiB takes twice as long, and
#: one of 5 MB a quarter.
_WITH_CALL_BYTES: Final = 1 << 20
#: An actor that takes longer to answer a health check hangs. On a busy node it may take seconds.
_HANGS_S: Final = 10.0
#: Digits of a node's id that are its name; Ray's own tools find it by them.
_NAME: Final = 12
_LOOPBACK: Final = ("", "127.0.0.1", "localhost")


class RayReplica:
    """Replica in an actor.

    Args:
        raylet: Address at which its node takes connections.
    """

    loaded: LoadResult
    place: Place

    def __init__(self, ray: Any, actor: Any, node: str, raylet: tuple[str, int], url: str) -> None:
        self.node = node
        self._raylet = raylet
        self._asked: asyncio.Future[list[BaseException | None]] | None = None
        self.url = url
        self._ray = ray
        self._actor = actor
        self._abandoned: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"<RayReplica {self.url}>"

    async def load(self, load: Load) -> None:
        """Load the model. Raises LoadFailed, or HostDied."""
        reply = await self._answer(self._actor.load.remote(load))
        if isinstance(reply, RunError):
            raise rebuild(reply)
        self.loaded, process = reply
        self.url = f"{self.url}/{process}"

    async def call(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], float]:
        """See :class:`~salver.features.cluster.ports.Replica`."""
        batch = pickle.dumps(inputs, pickle.HIGHEST_PROTOCOL)
        reply = pickle.loads(await self._answer(self._actor.run.remote(batch)))
        if isinstance(reply, RunError):
            raise rebuild(reply)
        outputs, seconds = reply
        return outputs, seconds

    async def check(self) -> None:
        """See :class:`~salver.features.cluster.ports.Replica`.

        A node that is gone takes no connection. A busy one does so at once, though its actors are slow.
        """
        try:
            _, writer = await asyncio.open_connection(*self._raylet)
        except ConnectionError as error:
            raise HostDied(f"its node is gone: {error}") from error
        except OSError as error:  # such as no route
            raise TimeoutError(str(error)) from error
        writer.close()
        if self._asked is None:
            answer = self._answer(self._actor.check.options(concurrency_group="check").remote())
            self._asked = asyncio.gather(asyncio.wait_for(answer, _HANGS_S), return_exceptions=True)
        elif self._asked.done():
            (problem,) = self._asked.result()
            self._asked = None
            if isinstance(problem, TimeoutError):
                raise HostDied(f"no answer to a health check in {_HANGS_S:g} s")
            if problem is not None:
                raise problem

    def abandon(self, why: str) -> None:
        """See :class:`~salver.features.cluster.ports.Replica`."""
        if not self._abandoned.done():
            self._abandoned.set_result(why)
        self._ray.kill(self._actor)

    async def stop(self) -> None:
        """See :class:`~salver.features.cluster.ports.Replica`."""
        self._ray.kill(self._actor)

    async def _answer(self, reference: Any) -> Any:
        """Wait for the result of a method. Raises HostDied."""
        answer = reference.as_future(asyncio.get_running_loop())
        # Ray itself takes 15 seconds to see that a node is gone; the health checks take one at most.
        try:
            await asyncio.wait((answer, self._abandoned), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise HostDied(f"the replica {self.url} is gone: {self._abandoned.result()}")
            return answer.result()
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().partition("\n")[0]
            raise HostDied(f"the replica {self.url} is gone: {type(error).__name__}: {reason}") from error
        finally:
            answer.cancel()  # else Ray's error would be logged when it comes, long after a check gave up


class RayCluster:
    """Connection to a Ray cluster.

    Args:
        ray: The module, connected.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._ids: dict[str, str] = {}
        self._raylets: dict[str, tuple[str, int]] = {}
        self._class = ray.remote(concurrency_groups={"check": 1})(ModelActor)

    @classmethod
    async def connect(cls, address: str) -> "RayCluster":
        """Connect to the cluster whose head has this HOST:PORT, on one of its nodes.

        Args:
            address: Empty = start a cluster of this machine alone, which ends with this process.

        Raises:
            Unsupported: Ray is not installed.
            NotReady: there is no cluster at this address.
        """
        cluster = cls(await asyncio.to_thread(_connected, address))
        if threading.current_thread() is threading.main_thread():
            # Ray puts a handler before it that prints a trace, as if a stop were a crash.
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        return cluster

    async def nodes(self) -> Sequence[Node]:
        """See :class:`~salver.features.cluster.ports.Cluster`."""
        told = await asyncio.to_thread(self._ray.nodes)
        alive = {node["NodeID"][:_NAME]: node for node in told if node["Alive"]}
        self._ids = {name: node["NodeID"] for name, node in alive.items()}
        self._raylets = {
            name: (node["NodeManagerAddress"], node["NodeManagerPort"]) for name, node in alive.items()
        }
        return [_node(name, node["Resources"], node.get("Labels", {})) for name, node in alive.items()]

    async def start(self, load: Load, node: str) -> RayReplica:
        """See :class:`~salver.features.cluster.ports.Cluster`."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        id = load.manifest.id
        # No core is reserved at Ray: Salver chooses the node, and counts what is there.
        actor = self._class.options(
            num_cpus=0,
            max_restarts=0,
            enable_task_events=False,  # one for each batch
            scheduling_strategy=NodeAffinitySchedulingStrategy(self._ids[node], soft=False),
        ).remote()
        replica = RayReplica(self._ray, actor, node, self._raylets[node], f"ray://{node}")
        try:
            await replica.load(load)
        except BaseException as error:
            await replica.stop()
            if isinstance(error, HostDied):
                raise LoadFailed(f"model '{id.name}' could not be loaded on node {node}: {error}") from error
            raise
        return replica

    async def close(self) -> None:
        """See :class:`~salver.features.cluster.ports.Cluster`."""
        await asyncio.to_thread(self._ray.shutdown)


def _node(id: str, resources: Mapping[str, float], labels: Mapping[str, str]) -> Node:
    zone, region = (labels.get(f"ray.io/availability-{part}", "") for part in ("zone", "region"))
    return Node(id, int(resources.get("memory", 0)), resources.get("CPU", 0.0), zone=zone, region=region)


def _connected(address: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_max_direct_call_object_size", str(_WITH_CALL_BYTES))
    try:
        import ray
    except ImportError as error:
        raise Unsupported(
            f"--engine ray needs the package 'ray': {error}", fix="Install it with: pip install 'salver[ray]'"
        ) from error
    where: dict[str, Any] = {"address": address}
    if not address:
        where = {"address": "local", "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    if address.rpartition(":")[0] in _LOOPBACK:
        # Ray would listen on the machine's outer address instead, and has no setting against that.
        from ray._private import services

        services.node_ip_address_from_perspective = lambda address=None: "127.0.0.1"
    try:
        ray.init(**where, namespace=_NAMESPACE, logging_level="ERROR", log_to_driver=False)
    except Exception as error:
        raise NotReady(
            f"no Ray cluster answers at {address or 'this machine'}: {error}",
            fix="Name the head's address and port (usually 6379), and start Salver on a node of the cluster.",
        ) from error
    return ray
