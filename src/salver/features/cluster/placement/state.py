"""State of one decision: what runs where, and where it shall run."""

from collections.abc import Iterable, Sequence

from salver.features.cluster.placement.records import Key, Node, Replica, WantedModel
from salver.features.cluster.placement.room import Mask, Need, Room, need_of
from salver.words.errors import InvalidInput


class State:
    """WantedModel models with the room that is planned for them. Use from one thread.

    Attributes:
        room: Room once the plan is done.
        before: What is free on each node before the first step but after all stops.
        home: Index of the node that each replica runs on now, if the node is there.
        gone: Name of the lost node of each replica that ran on one.
        stopped: Replicas to stop first, with the reason.
        why: Reason for each change.
        zones: Zone of each replica of several parts, by model and number.
    """

    def __init__(
        self, nodes: Sequence[Node], wanted: Iterable[WantedModel], current: Iterable[Replica]
    ) -> None:
        self.room = Room(nodes)
        if len(self.room.index) < len(nodes):
            raise InvalidInput("two nodes have the same name", field="nodes")
        self.wanted: dict[str, WantedModel] = {}
        for each in wanted:
            if each.model in self.wanted:
                raise InvalidInput(f"{each.model} is given twice", field="wanted")
            self.wanted[each.model] = each
        self._needs = {name: need_of(each) for name, each in self.wanted.items()}
        self.home: dict[Key, int] = {}
        self.gone: dict[Key, str] = {}
        self.devices: dict[Key, Sequence[int]] = {}
        self.stopped: list[tuple[Key, int, str]] = []
        self.why: dict[Key, str] = {}
        self.zones: dict[tuple[str, int], int] = {}
        for replica in current:
            self._keep(replica)
        self.before = self.room.free.T.tolist()

    def __repr__(self) -> str:
        return f"<State of {self.room!r}, {len(self.why)} of them changed>"

    def _keep(self, replica: Replica) -> None:
        key, wanted = replica.key, self.wanted.get(replica.model)
        if key in self.home or key in self.gone:
            raise InvalidInput(f"{key} is given twice", field="current")
        node = self.room.index.get(replica.node)
        if node is None:
            self.gone[key] = replica.node
        elif wanted is None:
            self.stopped.append((key, node, "its model is not wanted"))
        elif key.part >= wanted.gang:
            self.stopped.append((key, node, f"a replica has {wanted.gang} parts"))
        else:
            self.home[key] = node
            self.devices[key] = replica.devices
            self.room.put(key, self._needs[key.model], node)
            if wanted.gang > 1:
                self.zones[key.model, key.number] = int(self.room.zone[node])

    def parts(self, key: Key) -> tuple[Key, ...]:
        """Return all parts of a replica."""
        return tuple(Key(key.model, key.number, part) for part in range(self.wanted[key.model].gang))

    def need(self, key: Key) -> Need:
        """Return what a replica takes."""
        return self._needs[key.model]

    def open_to(self, key: Key) -> Mask:
        """Return the nodes where a replica may start."""
        wanted = self.wanted[key.model]
        found = self.room.open_to(wanted.regions)
        if wanted.gang > 1 and (key.model, key.number) in self.zones:
            found = found & (self.room.zone == self.zones[key.model, key.number])
        return found

    def put(self, key: Key, node: int, why: str) -> None:
        """Plan a replica on a node."""
        self.room.put(key, self._needs[key.model], node)
        self.why[key] = why

    def stop(self, key: Key, why: str) -> None:
        """Plan to stop a replica that runs; its room is free at once, as stops are the first steps."""
        node = self.room.take(key)
        del self.home[key]
        self.why.pop(key, None)
        self.stopped.append((key, node, why))
        self.before[node] = [
            free + need for free, need in zip(self.before[node], self.need(key), strict=True)
        ]

    def order(self) -> tuple[list[Key], list[Key]]:
        """Return the changes in an order in which each fits, and those that only fit after one another."""
        free = [*self.before]
        waiting = [key for key in self.why if self.room.at[key] != self.home.get(key)]
        done: list[Key] = []
        while waiting:
            stuck = []
            for key in waiting:
                need, node = self.need(key), self.room.at[key]
                left = [have - take for have, take in zip(free[node], need, strict=True)]
                if min(left) < 0 and any(each < 0 < take for each, take in zip(left, need, strict=True)):
                    stuck.append(key)
                    continue
                free[node] = left
                if (source := self.home.get(key)) is not None:
                    free[source] = [have + take for have, take in zip(free[source], need, strict=True)]
                done.append(key)
            if len(stuck) == len(waiting):
                break
            waiting = stuck
        return done, waiting
