"""Lifecycle and meter for tests of the memory budget's shell."""

import asyncio
import threading
from dataclasses import dataclass
from pathlib import Path

from waiting import PATIENCE_S, auntil

from salver.features.memory.ports import Usage, Use
from salver.features.memory.residence import Residence
from salver.kernel.lifecycle.ports import Outline
from salver.words.artifacts import Manifest, Memory, ModelConfig
from salver.words.events import BatchRan
from salver.words.messages import ModelId, Signature

MIB = 1 << 20


def m(
    name: str, mib: int = 10, fingerprint: str = "", config: ModelConfig | None = None, **wish: object
) -> Manifest:
    config = config or ModelConfig(memory=Memory(**{"min_s": 0.0, "residence": "lazy", **wish}))  # type: ignore[arg-type]
    return Manifest(
        ModelId(name, "1"), Path("/x"), "other", "none", config, fingerprint or name, bytes=mib * MIB
    )


@dataclass
class Loaded:
    """A loaded version."""

    manifest: Manifest
    processes: list[int]
    limits: dict[str, int]

    @property
    def outline(self) -> Outline:
        return Outline(self.manifest, Signature((), ()), 1, False)

    @property
    def largest_run(self) -> int:
        return self.manifest.config.batching.largest_run

    def limit_rows(self, most: int) -> None:
        self.limits[self.manifest.id.name] = most


class World:
    """A lifecycle whose loads end when the test says so, with a meter that knows what is loaded."""

    def __init__(self, budget_mib: int) -> None:
        self.now = 0.0
        self.held: set[ModelId] = set()
        self.known: list[Manifest] = []
        self.up: dict[ModelId, Manifest] = {}
        self.loads: list[str] = []
        self.failures: dict[str, str] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.extra = self.shared = self.peak = self.surge = 0
        self.hosts: dict[ModelId, int] = {}  # bytes of versions in host processes
        self.dead: set[int] = set()  # numbers of host processes that have been killed
        self.limits: dict[str, int] = {}  # rows of a run, by model
        self.kept: set[ModelId] = set()  # versions that answer although others are wanted
        self.exact = 0  # measurements that read all memory
        self.may_read = threading.Event()
        self.may_read.set()
        self.residence = Residence(budget_mib * MIB, self, lambda: self.now, self, self.refresh)

    async def serve(self, *known: Manifest) -> None:
        await self.residence.begin()
        self.known = list(known)
        self.refresh()

    def refresh(self) -> None:
        absent = self.residence.absent(self.known)
        for manifest in self.known:
            if manifest.id not in absent and self.up.get(manifest.id) != manifest:
                self.up[manifest.id] = manifest
                self.loads.append(manifest.id.name)
                if servable := self.servable(manifest.id):
                    self.residence.attach(servable)
        wanted = {*self.kept, *(manifest.id for manifest in self.known)} - set(absent)
        for id in self.up.keys() - wanted:
            self.up.pop(id)

    def leases(self, id: ModelId) -> int:
        return int(id in self.held)

    async def outcome(self, id: ModelId) -> str:
        if gate := self.gates.get(id.name):
            await gate.wait()
        return self.failures.get(id.name, "")

    async def ended(self, id: ModelId) -> None:
        if gate := self.gates.get(f"end {id.name}"):
            await gate.wait()

    def servable(self, id: ModelId) -> Loaded | None:
        if id not in self.up:
            return None
        numbers = [
            number for number, other in enumerate(self.hosts) if other == id and number not in self.dead
        ]
        return Loaded(self.up[id], numbers, self.limits)

    def read(self, *, is_exact: bool, trims: bool = False) -> Usage:
        self.may_read.wait(PATIENCE_S)
        self.exact += is_exact
        own = 50 * MIB + self.extra + sum(each.bytes for id, each in self.up.items() if id not in self.hosts)
        uses = {
            number: Use(size, size, size, size + self.peak)
            for number, (id, size) in enumerate(self.hosts.items())
            if number not in self.dead and id in self.up
        }
        return Usage(Use(own, own, own, own + self.surge), uses, self.shared)

    def forget_peak(self) -> None:
        pass

    def places(self) -> dict[str, str]:
        return {id.name: each.place for id, each in self.residence.residents.all.items()}

    async def are(self, **places: str) -> None:
        await auntil(lambda: self.places() == places, self.places)

    async def ask(self, name: str) -> None:
        self.now += 1.0  # so that what was loaded before has stayed for long enough
        await self.residence.demand(ModelId(name, "1"))

    def gate(self, name: str) -> asyncio.Event:
        self.gates[name] = asyncio.Event()
        return self.gates[name]


def ran(name: str, rows: int) -> BatchRan:
    return BatchRan(name, "1", rows, 1, 0.01, 0.0, 0.0, "full")


async def leaving() -> tuple[World, asyncio.Event, asyncio.Task[None]]:
    """Return a world in which ``a`` leaves for ``b``: its event ends that, its task asks for ``b``."""
    world = World(80)
    await world.serve(m("a"), m("b"))
    await world.ask("a")
    end = world.gate("end a")
    ask = asyncio.create_task(world.ask("b"))
    await world.are(a="leaving", b="absent")
    return world, end, ask
