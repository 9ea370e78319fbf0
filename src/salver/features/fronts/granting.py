"""Grants: the versions that fronts answer for, and the engines that are lent to them.

A front answers only while the home process would answer with the same loaded version.
"""

import logging
import pickle
from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

import msgspec

from salver.backends.discovery import backends
from salver.features.fronts.copies import (
    MOST_MODELS,
    ROWS,
    Granted,
    Times,
    Way,
    can_batch,
    can_copy,
    can_share,
    way_of,
)
from salver.features.fronts.lent_engines import LentEngine
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.warmup import samples
from salver.kernel.serving.ports import Lease
from salver.kernel.serving.servable import Servable
from salver.kernel.supervise import Supervisor
from salver.parts import Kernel
from salver.words.artifacts import Manifest
from salver.words.errors import SalverError
from salver.words.tensor import Array

_LOG: Final = logging.getLogger("salver.fronts")
#: Runs that are timed for a number of rows, and seconds after which no more than the least number begin.
_LEAST_RUNS: Final = 4
_MOST_RUNS: Final = 15
_RUNS_S: Final = 0.1
_SAID: Final[dict[Way, str]] = {
    "copy": "each process runs a copy of it",
    "shared": "all processes share its runs",
}
#: Seconds of a run after which sharing it costs nothing worth measuring.
_LONG_S: Final = 0.05


class Grant(NamedTuple):
    """Version that fronts answer for, with what the home process had then."""

    servable: Servable
    manifest: Manifest
    capabilities: Any
    pickled: bytes
    engine: LentEngine | None


class Grants:
    """Versions that fronts answer for.

    Args:
        changed: Called when the list has changed.

    Attributes:
        epoch: Number of the list.
        revoked: Last epoch that has taken a version from the fronts.
        engines: Lent engines by key.
    """

    def __init__(self, kernel: Kernel, changed: Callable[[], None]) -> None:
        self._kernel = kernel
        self._changed = changed
        self._grants: dict[str, Grant] = {}
        self.epoch = 0
        self.revoked = 0
        self.engines: dict[int, LentEngine] = {}
        self._last = 0
        self._ending: list[tuple[int, LentEngine]] = []
        self._ways: WeakKeyDictionary[Servable, Way | None] = WeakKeyDictionary()  # None = being measured
        self._backends = backends()
        self._measuring = Supervisor(_LOG, "a model is not measured")

    def __repr__(self) -> str:
        return f"<Grants of {', '.join(self._grants) or 'nothing'}>"

    def pickled(self) -> tuple[bytes, ...]:
        """Return the versions as fronts are told of them."""
        return tuple(grant.pickled for grant in self._grants.values())

    def ways(self) -> Iterator[tuple[Manifest, Way]]:
        """Return the versions, and where fronts have them run."""
        for grant in self._grants.values():
            yield grant.manifest, "shared" if grant.engine else "copy"

    def are_current(self) -> bool:
        """Return whether the home process would still answer with each of the versions."""
        grants = self._grants
        return not grants or (self._may_grant() and all(map(self._is_current, grants.values())))

    def look(self) -> None:
        """Decide again, and call ``changed`` if the list is another one."""
        found: dict[str, Grant] = {}
        if self._may_grant():
            for servable in self._kernel.models.servables():
                name = servable.manifest.id.name
                if len(found) < MOST_MODELS and (grant := self._grant(name, servable)) is not None:
                    found[name] = grant
        if found != self._grants:
            self._replace(found)

    def acknowledged(self, epoch: int) -> None:
        """Let versions be unloaded that fronts have no more since this epoch."""
        for at, engine in self._ending:
            if at <= epoch:
                engine.end()
                self.engines.pop(engine.key, None)
        self._ending = [each for each in self._ending if each[0] > epoch]

    async def close(self) -> None:
        """Let all versions be unloaded."""
        await self._measuring.close()
        self._replace({})
        self.acknowledged(self.epoch)

    # -- the choice --

    def _may_grant(self) -> bool:
        """Return whether any request can be decoded outside the home process."""
        kernel = self._kernel
        path, context = kernel.door.path, kernel.context
        return not (
            kernel.keys is not None
            or kernel.models.residence is not None  # it decides by the requests that it sees
            or kernel.config.allow_client_shm
            or path.stage is not None
            or path.samples is not None
            or context.interest.headers
            or any(rules.guard or rules.forwarding for rules in (context.http, context.grpc))
        )

    def _grant(self, name: str, servable: Servable) -> Grant | None:
        known = self._grants.get(name)
        if known is not None and known.servable is servable and self._is_current(known):
            return known
        lease = self._default(name)
        if lease is None:
            return None
        way = None
        if lease.servable is servable:
            way = self._way(servable)
        if way is None:
            lease.release()
            return None
        engine = None
        if way == "shared":
            self._last += 1
            engine = self.engines[self._last] = LentEngine(self._last, lease)
        else:
            lease.release()
        manifest, capabilities = servable.manifest, servable.capabilities
        granted = Granted(
            _placed(servable), servable.signature, engine.key if engine else 0, capabilities.owns_timeout
        )
        return Grant(servable, manifest, capabilities, pickle.dumps(granted), engine)

    def _way(self, servable: Servable) -> Way | None:
        """Return where fronts have a version run; None = they pass its requests on, for now at least."""
        backend = self._backends.get(servable.manifest.backend)
        may_copy = can_copy(servable, is_native=backend is not None and backend.traits.native)
        if not can_share(servable):
            return "copy" if may_copy else None
        if not (may_copy and can_batch(servable)):
            return way_of(None, may_copy=may_copy)
        if servable not in self._ways:
            self._ways[servable] = None
            self._measuring.start(f"measure {servable.manifest.id}", self._measure(servable))
        return self._ways[servable]

    async def _measure(self, servable: Servable) -> None:
        lease = self._default(servable.manifest.id.name)
        if lease is None:
            self._ways.pop(servable, None)
            return
        try:
            times = await measured(servable)
        finally:
            lease.release()
        self._ways[servable] = way = way_of(times, may_copy=True)
        if times is not None:
            told = f"a row takes {times.one * 1e3:.2f} ms, {ROWS} together take {times.many * 1e3:.2f} ms"
            _LOG.info("fronts: model %s, %s: %s", servable.manifest.id, told, _SAID[way])
        self.look()

    def _default(self, name: str) -> Lease[Servable] | None:
        try:
            return self._kernel.models.acquire(name)
        except SalverError:
            return None

    def _is_current(self, grant: Grant) -> bool:
        """Return whether the home process would still answer with a version that was granted."""
        servable, lease = grant.servable, self._default(grant.manifest.id.name)
        if lease is None:
            return False
        lease.release()
        return (
            lease.servable is servable
            and servable.manifest is grant.manifest
            and servable.capabilities is grant.capabilities
        )

    def _replace(self, found: dict[str, Grant]) -> None:
        self.epoch += 1
        for name, grant in self._grants.items():
            if found.get(name) is not grant:
                self.revoked = self.epoch
                if grant.engine is not None:
                    self._ending.append((self.epoch, grant.engine))
        self._grants = found
        self._changed()


def _placed(servable: Servable) -> Manifest:
    """Return the manifest with the number of instances and threads that the home process has found."""
    manifest, placement = servable.manifest, servable.placement
    instances = msgspec.structs.replace(
        manifest.config.instances, count=placement.slots, threads=placement.threads
    )
    config = msgspec.structs.replace(manifest.config, instances=instances)
    return msgspec.structs.replace(manifest, config=config)


async def measured(servable: Servable) -> Times | None:
    """Return how long runs take; None = they are short, or the model does not run on zeros, or must not."""
    engine, wish = servable.engine, servable.manifest.config.warmup
    assert isinstance(engine, Engine)
    if not wish.rounds:
        return None
    least, size = list[float](), 0
    for rows in (1, ROWS):
        try:
            (inputs,) = samples(engine.signature, msgspec.structs.replace(wish, rows=(rows,), rounds=1))
            size = size or sum(array.nbytes for array in inputs.values())
            least.append(await _least(engine, inputs))
            if rows == 1 and engine.runs_inline(inputs):
                return None
        except Exception:  # whatever the model raises
            return None
        if least[0] > _LONG_S:
            return Times(least[0], 0.0, size)
    return Times(least[0], least[1], size)


async def _least(engine: Engine, inputs: Mapping[str, Array]) -> float:
    seconds, until = list[float](), monotonic() + _RUNS_S
    while len(seconds) < _LEAST_RUNS or (len(seconds) < _MOST_RUNS and monotonic() < until):
        seconds.append(await engine.time_alone(inputs))
        if seconds[-1] > _LONG_S:
            break
    return min(seconds)
