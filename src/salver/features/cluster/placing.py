"""Choice of the node for one more replica, by the placement policy."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from msgspec.structs import replace

from salver.features.cluster.placement.policy import place
from salver.features.cluster.placement.records import Node, Plan, Replica, WantedModel
from salver.kernel.engine.ports import Place
from salver.words.errors import LoadFailed
from salver.words.sizes import told_bytes

#: Seconds in which a node that lost a replica gets no other, if there are others. Ray takes 15 seconds to see
#: that a node is gone.
SUSPECT_S: Final = 20.0


class PlacedReplica(NamedTuple):
    """Replica that runs or starts: its model, its bytes, and its node."""

    model: str
    memory: int
    node: str


class Placer:
    """See the module.

    Args:
        running: Returns the replicas that run.
        clock: Monotonic seconds.
    """

    def __init__(self, running: Callable[[], Iterable[PlacedReplica]], clock: Callable[[], float]) -> None:
        self._running = running
        self._clock = clock
        self._starting: list[PlacedReplica] = []
        self._suspects: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Placer, {len(self._starting)} replicas start>"

    def suspect(self, node: str) -> None:
        """Note that a node has lost a replica."""
        self._suspects[node] = self._clock() + SUSPECT_S

    @contextmanager
    def place_for(self, model: str, memory: int, nodes: Sequence[Node]) -> Iterator[Place]:
        """Choose a node, and count the replica as starting there until the block ends.

        Raises:
            LoadFailed: no node has room, and why.
        """
        plan = self._plan(model, memory, nodes, 1)
        step = next((step for step in plan.steps if step.action == "start"), None)
        if step is None:
            raise LoadFailed(f"model '{model}' has no place on the cluster: {_reasons(plan)}")
        place = Place("", step.node, step.why, memory, self._against(model, memory, nodes, step.node))
        start = PlacedReplica(model, memory, step.node)
        self._starting.append(start)
        try:
            yield place
        finally:
            self._starting.remove(start)

    def room(self, model: str, memory: int, nodes: Sequence[Node], more: int) -> tuple[int, str]:
        """Return how many of some more replicas have a place, and why the others have none."""
        plan = self._plan(model, memory, nodes, more)
        return sum(step.action == "start" for step in plan.steps), _reasons(plan)

    def _against(self, model: str, memory: int, nodes: Sequence[Node], chosen: str) -> dict[str, str]:
        """Return what is against each node but the chosen one."""
        held = [*self._running(), *self._starting]
        own = {each.node for each in held if each.model == model}
        zones = {node.place for node in nodes if node.place and node.name in own}
        now, found = self._clock(), dict[str, str]()
        for node in nodes:
            if node.name == chosen:
                continue
            free = _without(node, held).memory
            if self._suspects.get(node.name, now) > now:
                found[node.name] = "it has just lost a replica"
            elif free < memory:
                found[node.name] = f"it lacks {told_bytes(memory - free)} of memory"
            elif node.name in own:
                found[node.name] = "it has a replica of the model"
            elif node.place in zones:
                found[node.name] = "its zone has a replica of the model"
            else:
                found[node.name] = f"no less of it is taken: {told_bytes(free)} are free"
        return found

    def _plan(self, model: str, memory: int, nodes: Sequence[Node], more: int) -> Plan:
        now = self._clock()
        trusted = [node for node in nodes if self._suspects.get(node.name, now) <= now]
        held = [*self._running(), *self._starting]
        # Others do not move for it: what they take is as if it were not there.
        left = [_without(node, (each for each in held if each.model != model)) for node in trusted or nodes]
        # The first of equal nodes is chosen, and without others all of them look empty.
        total = {node.name: max(1, node.memory) for node in nodes}
        left.sort(key=lambda node: node.memory / total[node.name], reverse=True)
        names = {node.name for node in left}
        own = [each.node for each in held if each.model == model and each.node in names]
        current = [Replica(model, node, number) for number, node in enumerate(own)]
        return place(left, [WantedModel(model, memory, replicas=len(own) + more)], current)


def _reasons(plan: Plan) -> str:
    return "; ".join(dict.fromkeys(each.why for each in plan.unplaced))


def _without(node: Node, others: Iterable[PlacedReplica]) -> Node:
    taken = sum(each.memory for each in others if each.node == node.name)
    return replace(node, memory=max(0, node.memory - taken))
