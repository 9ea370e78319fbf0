"""Nodes, wanted models, and plans."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from salver.words.errors import InvalidInput

_MOST_BYTES = 1 << 60
_MOST_CORES = 1 << 20
_MOST_COUNT = 1 << 16


class Node(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Machine that replicas can run on, with what it has for all of them.

    Attributes:
        memory: Bytes.
        cores: In thousandths at the finest.
        devices: Accelerators, each for one replica at a time.
        zone: What fails together inside a region; zones of two regions differ even if they have one name.
        draining: Move its replicas away, and start none there.
    """

    name: str
    memory: int
    cores: float = 1.0
    devices: int = 0
    zone: str = ""
    region: str = ""
    draining: bool = False

    def __post_init__(self) -> None:
        """Raises InvalidInput for a number that no machine has."""
        _check(self.name, self.memory, self.cores, self.devices)

    @property
    def place(self) -> str:
        """Return its region and zone, for people."""
        return "/".join(filter(None, (self.region, self.zone)))


class WantedModel(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Model with the number of its replicas, and what each needs.

    Attributes:
        memory: Bytes of a replica, or of each part of it.
        cores: Cores of a replica, or of each part of it.
        devices: Accelerators of a replica, or of each part of it.
        gang: Parts of a replica. They are placed together in one zone, or not at all.
        spread: What should not hold two replicas as long as another has none: regions, then their zones, then
            nodes; zones and nodes; or nodes alone.
        regions: Regions that it may run in; empty = all.
        priority: Who is placed first; higher comes first.
    """

    model: str
    memory: int
    replicas: int = 1
    cores: float = 0.0
    devices: int = 0
    gang: int = 1
    spread: Literal["node", "zone", "region"] = "zone"
    regions: Sequence[str] = ()
    priority: float = 0.0

    def __post_init__(self) -> None:
        """Raises InvalidInput for a number that no model has."""
        _check(self.model, self.memory, self.cores, self.devices)
        if not 0 <= self.replicas <= _MOST_COUNT:
            raise InvalidInput(f"{self.model}: there may be 0 to {_MOST_COUNT} replicas", field="replicas")
        if not 1 <= self.gang <= _MOST_COUNT:
            raise InvalidInput(f"{self.model}: a replica has 1 to {_MOST_COUNT} parts", field="gang")


class Key(NamedTuple):
    """Replica of a model, or one part of it."""

    model: str
    number: int = 0
    part: int = 0

    def __str__(self) -> str:
        return f"{self.model}#{self.number}" + (f".{self.part}" if self.part else "")


class Replica(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Replica that runs on a node, or one part of it.

    Attributes:
        devices: Numbers of its accelerators on the node.
    """

    model: str
    node: str
    number: int = 0
    part: int = 0
    devices: Sequence[int] = ()

    @property
    def key(self) -> Key:
        """Return its identity, which a move does not change."""
        return Key(self.model, self.number, self.part)


class Step(msgspec.Struct, frozen=True, gc=False):
    """One change. A move starts the replica at its new node first, and then stops it at the old one.

    Attributes:
        node: Where it is started, or stopped.
        source: Where it was before a move.
        devices: Numbers of its accelerators on the node.
        bytes: Memory that is filled anew.
    """

    action: Literal["start", "move", "stop"]
    key: Key
    node: str
    why: str
    source: str = ""
    devices: Sequence[int] = ()
    bytes: int = 0


class Unplaced(msgspec.Struct, frozen=True, gc=False):
    """Replica that has no place, or cannot leave the one that it should leave."""

    key: Key
    why: str


class Plan(msgspec.Struct, frozen=True):
    """Changes in an order in which each fits when its turn comes.

    Attributes:
        replicas: All that run once the steps are done.
    """

    steps: Sequence[Step]
    replicas: Sequence[Replica]
    unplaced: Sequence[Unplaced] = ()

    @property
    def moved_bytes(self) -> int:
        """Memory that is filled anew by starts and moves."""
        return sum(step.bytes for step in self.steps)


def _check(name: str, memory: int, cores: float, devices: int) -> None:
    if not 0 <= memory <= _MOST_BYTES:
        raise InvalidInput(f"{name}: memory is 0 to {_MOST_BYTES} bytes", field="memory")
    if not 0 <= cores <= _MOST_CORES:
        raise InvalidInput(f"{name}: there may be 0 to {_MOST_CORES} cores", field="cores")
    if not 0 <= devices <= _MOST_COUNT:
        raise InvalidInput(f"{name}: there may be 0 to {_MOST_COUNT} devices", field="devices")
