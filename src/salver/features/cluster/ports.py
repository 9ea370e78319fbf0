"""Interface of a cluster: start a replica, stop it, call it, ask for its health."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from salver.features.cluster.placement.records import Node
from salver.kernel.engine.control import Load, LoadResult
from salver.kernel.engine.ports import Place
from salver.words.tensor import Array


class Replica(Protocol):
    """Loaded copy of a model on a node.

    Attributes:
        url: Its name among the instances of the model.
        node: Node that it is on.
        place: Why it is there, noted by who started it.
    """

    url: str
    node: str
    loaded: LoadResult
    place: Place

    async def call(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], float]:
        """Run a batch; return its outputs and the seconds in the model.

        Raises:
            HostDied: the replica is gone, or :meth:`abandon` was called.
            SalverError: raised by the model.
        """
        ...

    async def check(self) -> None:
        """Ask whether it is alive; the caller limits the time. Raises HostDied if it is gone."""
        ...

    def abandon(self, why: str) -> None:
        """Fail the active calls, and kill it."""
        ...

    async def stop(self) -> None:
        """End it, when it has no active calls."""
        ...


class Cluster(Protocol):
    """Machines on which replicas run."""

    async def nodes(self) -> Sequence[Node]:
        """Return the nodes that are alive."""
        ...

    async def start(self, load: Load, node: str) -> Replica:
        """Load a model on a node.

        Raises:
            LoadFailed: the reason, in words for the owner.
        """
        ...

    async def close(self) -> None:
        """Leave the cluster; replicas that are left end."""
        ...
