"""Free room of all nodes, and where the replicas are in it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from salver.features.cluster.placement.records import Key, Node, WantedModel

Mask: TypeAlias = NDArray[np.bool_]

#: Weights of each replica of the same model on the node, in its zone and in its region. The load weighs at
#: most 1, and so does the wish to keep models without accelerators off the nodes that have some.
_WEIGHTS: Final = (1e1, 1e5, 1e9)
_SPREADS: Final = ("node", "zone", "region")
_FAR: Final = np.inf


class Need(NamedTuple):
    """Demand of one replica, or part of one, in whole numbers, so that sums are exact."""

    memory: int
    millicores: int
    devices: int


def need_of(wanted: WantedModel | Node) -> Need:
    """Return what a replica takes, or what a node has."""
    return Need(wanted.memory, round(wanted.cores * 1000), wanted.devices)


class Room:
    """Nodes with their replicas. Use from one thread.

    Attributes:
        at: Index of the node of each replica.
        held: Needs of the replicas of each node.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes
        self.index = {node.name: number for number, node in enumerate(nodes)}
        sizes = [need_of(node) for node in nodes]
        self.size = np.array(sizes, np.int64).reshape(len(nodes), 3).T.copy()
        self.free = self.size.copy()
        self._part = 1 / np.maximum(self.size, 1)
        self._sizes = sizes
        self._free = [list(size) for size in sizes]
        self._load = np.zeros(len(nodes))
        self._has_devices = self.size[2] > 0
        self._alone = np.arange(len(nodes))
        self.region = _numbered(node.region for node in nodes)
        self.zone = _numbered((node.region, node.zone) for node in nodes)
        self._zone_region = self.region[np.unique(self.zone, return_index=True)[1]]
        self._open: dict[tuple[str, ...], Mask] = {}
        self.at: dict[Key, int] = {}
        self.held: list[dict[Key, Need]] = [{} for _ in nodes]
        self._places: defaultdict[str, dict[Key, int]] = defaultdict(dict)

    def __repr__(self) -> str:
        return f"<Room of {len(self.nodes)} nodes with {len(self.at)} replicas>"

    def put(self, key: Key, need: Need, node: int) -> None:
        """Count a replica on a node, whether it fits or not."""
        self.at[key] = node
        self.held[node][key] = need
        self._places[key.model][key] = node
        self._change(node, need, -1)

    def take(self, key: Key) -> int:
        """Count a replica no longer, and return the node that it was on."""
        node = self.at.pop(key)
        need = self.held[node].pop(key)
        del self._places[key.model][key]
        self._change(node, need, 1)
        return node

    def _change(self, node: int, need: Need, sign: int) -> None:
        free, size = self._free[node], self._sizes[node]
        load = 0.0
        for row in range(3):
            free[row] += sign * need[row]
            self.free[row, node] = free[row]
            if size[row]:
                load = max(load, 1 - free[row] / size[row])
        self._load[node] = load

    def open_to(self, regions: Sequence[str]) -> Mask:
        """Return the nodes where replicas may start: none that drain, and only those of the regions."""
        names = tuple(regions)
        if names not in self._open:
            self._open[names] = np.array(
                [not node.draining and (not names or node.region in names) for node in self.nodes], bool
            )
        return self._open[names]

    def fits(self, need: Need) -> Mask:
        """Return the nodes with room for a replica."""
        memory, cores, devices = self.free
        found: Mask = memory >= need.memory
        found &= cores >= need.millicores
        if need.devices:
            found &= devices >= need.devices
        return found

    def short(self, need: Need, node: int) -> Need:
        """Return what a node lacks for a replica; all 0 = it fits."""
        return Need(*(max(0, wish - free) for wish, free in zip(need, self._free[node], strict=True)))

    def shortage(self, need: Need) -> NDArray[np.float64]:
        """Return how far each node is from having room for a replica, in parts of what it has."""
        found = np.zeros(len(self.nodes))
        for wish, free, part in zip(need, self.free, self._part, strict=True):
            if wish:
                found += np.maximum(wish - free, 0) * part
        return found

    def crowd(self, wanted: WantedModel) -> NDArray[np.float64] | None:
        """Return how many replicas of a model are near each node, weighed by its spread; None = none are."""
        places = list(self._places[wanted.model].values())
        if not places:
            return None
        # Summed by zone first, which are few: this is the dearest part of a decision.
        by_zone = np.zeros(len(self._zone_region))
        if wanted.spread != "node":
            by_zone += _WEIGHTS[1] * np.bincount(self.zone[places], minlength=len(by_zone))
        if wanted.spread == "region":
            in_regions = np.bincount(self.region[places], minlength=len(by_zone))
            by_zone += _WEIGHTS[2] * in_regions[self._zone_region]
        found = by_zone[self.zone]
        for node in places:
            found[node] += _WEIGHTS[0]
        return found

    def levels(self, wanted: WantedModel) -> Sequence[NDArray[np.intp]]:
        """Return the number of the group of each node, for each kind of group that a model is spread over."""
        return (self._alone, self.zone, self.region)[: 1 + _SPREADS.index(wanted.spread)]

    def places(self, model: str) -> Mapping[Key, int]:
        """Return the nodes of a model's replicas."""
        return self._places[model]

    def score(self, wanted: WantedModel) -> NDArray[np.float64]:
        """Return how little each node suits a replica of a model: by its crowd, then by its load."""
        found = self._load
        if not wanted.devices:
            found = found + self._has_devices
        crowd = self.crowd(wanted)
        if crowd is not None:
            found = found + crowd
        return found

    def best(self, wanted: WantedModel, among: Mask) -> int | None:
        """Return the node of these that suits a replica most; None = there are none."""
        if not self.nodes:
            return None
        node = int(np.where(among, self.score(wanted), _FAR).argmin())
        if among[node]:
            return node
        return None


def _numbered(names: Iterable[object]) -> NDArray[np.intp]:
    """Return a number for each name: the same for equal ones."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.intp)
