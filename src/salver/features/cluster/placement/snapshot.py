"""Snapshots of a cluster in files, and questions about them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from salver.backends.loading import read_bounded
from salver.backends.protocol import Traits
from salver.features.cluster.placement.records import Node, Plan, Replica, WantedModel
from salver.features.cluster.placement.room import need_of
from salver.features.cluster.placement.telling import amount
from salver.kernel.engine import placement
from salver.words.artifacts import Instances
from salver.words.errors import InvalidInput

_MOST_BYTES: Final = 256 << 20


class Snapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nodes of a cluster, the models that shall run on them, and what runs now."""

    nodes: Sequence[Node]
    wanted: Sequence[WantedModel]
    replicas: Sequence[Replica] = ()

    def without(self, name: str) -> "Snapshot":
        """Return the snapshot after the loss of a node, zone or region.

        Raises:
            InvalidInput: nothing has that name.
        """
        left = [node for node in self.nodes if name not in (node.name, node.zone, node.place, node.region)]
        if len(left) == len(self.nodes):
            raise InvalidInput(f"no node, zone or region is called {name!r}", field="--without")
        return Snapshot(left, self.wanted, self.replicas)


_DECODER: Final = msgspec.json.Decoder(Snapshot)


def read(path: Path) -> Snapshot:
    """Read a snapshot.

    Raises:
        LoadFailed: the file cannot be read, or is too large.
        InvalidInput: it is none.
    """
    try:
        return _DECODER.decode(read_bounded(path, _MOST_BYTES))
    except msgspec.DecodeError as error:
        raise InvalidInput(f"{path} is no snapshot of a cluster: {error}") from error


def levels(snapshot: Snapshot, plan: Plan, model: str) -> Iterator[str]:
    """Yield why each replica of a model is where it is: in the cluster, on its node, and in its process.

    Raises:
        InvalidInput: the model is not wanted.
    """
    wanted = next((each for each in snapshot.wanted if each.model == model), None)
    if wanted is None:
        raise InvalidInput(f"no model {model!r} is wanted", field="--model")
    nodes = {node.name: node for node in snapshot.nodes}
    reasons = {step.key: step.why for step in plan.steps if step.action != "stop"}
    runs = placement.place(Traits(), Instances(), max(1, int(wanted.cores)))
    for replica in sorted((each for each in plan.replicas if each.model == model), key=lambda each: each.key):
        node = nodes[replica.node]
        others = sum(each.node == node.name for each in plan.replicas) - 1
        yield f"{replica.key} on {node.name}"
        yield f"  cluster: {reasons.get(replica.key, 'it runs there, and nothing needs its place')}"
        devices = ""
        if replica.devices:
            devices = f"; its devices are {', '.join(map(str, replica.devices))}"
        yield (
            f"  node: it takes {amount(need_of(wanted))} of {amount(need_of(node))}; others there: {others}"
            f"{devices}"
        )
        yield (
            f"  process: {runs.slots} run at a time with {runs.threads} threads, unless model.toml says "
            "otherwise; what waits meanwhile is the next batch"
        )
    for each in plan.unplaced:
        if each.key.model == model:
            yield f"{each.key} has no place: {each.why}"
