"""A lifecycle manager with a loader whose gates a test opens."""

import asyncio

from salver.kernel.lifecycle import LifecycleConfig, Manager
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.events import StateChanged


class FakeServable:
    leave = None
    processes: tuple[int, ...] = ()

    def __init__(self, tag: str, loader: "FakeLoader") -> None:
        self.tag = tag
        self.loader = loader
        self.warmed = 0
        self.closed = 0

    async def warm(self, config: ModelConfig) -> None:
        self.warmed += 1
        await self.loader.pass_gate(f"warm {self.tag}")
        if error := self.loader.warm_errors.get(self.tag):
            raise error

    async def adjust(self, manifest: Manifest) -> bool:
        tag = f"{manifest.id}@{manifest.fingerprint}"
        await self.loader.pass_gate(f"adjust {tag}")
        if error := self.loader.errors.get(f"adjust {tag}"):
            raise error
        self.tag = tag
        return tag not in self.loader.rigid

    async def close(self) -> None:
        self.closed += 1
        await self.loader.pass_gate(f"close {self.tag}")
        if error := self.loader.close_errors.get(self.tag):
            raise error


class FakeLoader:
    """Loads at once, unless a gate for it is shut."""

    def __init__(self) -> None:
        self.errors: dict[str, Exception] = {}
        self.warm_errors: dict[str, Exception] = {}
        self.close_errors: dict[str, Exception] = {}
        self.rigid: set[str] = set()  # what cannot come about in place
        self.gates: dict[str, asyncio.Event] = {}
        self.loaded: list[FakeServable] = []
        self.loading = self.most_loading = 0

    def shut(self, name: str) -> asyncio.Event:
        self.gates[name] = asyncio.Event()
        return self.gates[name]

    async def pass_gate(self, name: str) -> None:
        await asyncio.sleep(0)
        if gate := self.gates.get(name):
            await gate.wait()

    async def load(self, manifest: Manifest) -> FakeServable:
        tag = f"{manifest.id}@{manifest.fingerprint}"
        self.loading += 1
        self.most_loading = max(self.most_loading, self.loading)
        try:
            await self.pass_gate(f"load {tag}")
        finally:
            self.loading -= 1
        if error := self.errors.get(tag):
            raise error
        servable = FakeServable(tag, self)
        self.loaded.append(servable)
        return servable


class ManagerRig:
    def __init__(self, config: LifecycleConfig | None = None) -> None:
        self.loader = FakeLoader()
        self.now = 0.0
        self.events: list[StateChanged] = []
        self.reclaimed = 0
        self.manager: Manager[FakeServable] = Manager(
            self.loader, lambda: self.now, self.events.append, config, self.reclaim
        )

    def reclaim(self, enough: int) -> None:
        self.reclaimed += 1

    def states(self) -> dict[str, str]:
        return {str(s.id): s.state.value for s in self.manager.statuses()}

    def reason(self, id: str) -> str:
        return next(s.reason for s in self.manager.statuses() if str(s.id) == id)
