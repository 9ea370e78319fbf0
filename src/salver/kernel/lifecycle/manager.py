"""Shell around ``policy`` that loads versions, hands out leases and unloads versions.

It takes the list of all wanted versions, starts the steps that are due, and again whenever something
finishes. Everything but loading, warming and closing happens synchronously on the event loop, so a change of
routes is atomic: a request gets the old version or the new one. It knows no repository and not what a
servable computes.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Generic, TypeVar

from salver.kernel.lifecycle.copies import Copy, Lease
from salver.kernel.lifecycle.members import BoundEnsembles, bind, with_members
from salver.kernel.lifecycle.policy import (
    RISING,
    Adjust,
    Drain,
    Forget,
    Load,
    Present,
    Step,
    advance,
    before_loading,
    choose,
    missed,
    plan,
    version_key,
)
from salver.kernel.lifecycle.ports import Absent, LifecycleConfig, Loader, Residence, Servable
from salver.kernel.lifecycle.routes import Routes
from salver.kernel.supervise import reporting
from salver.lazy import lazy_imports
from salver.machine import give_back_memory, resident_bytes
from salver.words.artifacts import Manifest
from salver.words.errors import InvalidInput, LoadFailed, NotFound, SalverError
from salver.words.events import StateChanged
from salver.words.handlers import FORMAT
from salver.words.messages import ModelId, State, VersionStatus

with lazy_imports():
    from salver.kernel.lifecycle import missing


_LOG = logging.getLogger("salver.lifecycle")
_CLOSE_S = 5.0
_EARLY_S = 0.002  # tolerance for timers that fire early
_MOST_ENDED = 4096
_LEAST_FREED = 1 << 20  # bytes; below that, other memory hides what a model has freed
ServableT = TypeVar("ServableT", bound=Servable)


class Manager(Generic[ServableT]):
    """Manager that keeps the wanted versions loaded. Use from one event loop only.

    Args:
        loader: Loads one version.
        clock: Monotonic seconds.
        emit: Called on every change of state.
        reclaim: Called in a thread after unloading, to return freed memory to the system, with the resident
            bytes of this process that are few enough.

    Attributes:
        residence: Decides which wanted versions are in memory; None = all are.
    """

    residence: Residence | None = None

    def __init__(
        self,
        loader: Loader[ServableT],
        clock: Callable[[], float],
        emit: Callable[[StateChanged], None],
        config: LifecycleConfig | None = None,
        reclaim: Callable[[int], None] = give_back_memory,
    ) -> None:
        self._loader = loader
        self._clock = clock
        self._emit = emit
        self._config = config or LifecycleConfig()
        self._reclaim = reclaim
        self._loading = asyncio.Semaphore(self._config.parallel_loads)
        self._known: tuple[Manifest, ...] | None = None  # never ready before the first wanted list
        self._bound = BoundEnsembles(())  # the same, bound to the members that are ready
        self._targets: dict[ModelId, str] = {}
        self._ids: dict[str, list[ModelId]] = {}  # known versions, by model
        self._absent: Set[ModelId] = frozenset()  # wanted, and not to be in memory
        self._copies: dict[int, Copy[ServableT]] = {}
        self._routes: Routes[Copy[ServableT]] = Routes()
        self._next_key = 0
        self._ended: dict[ModelId, None] = {}  # versions with a copy that has been closed, latest last
        self._is_stopping = False
        self._gone = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Manager {len(self._routes.exact)} ready, {len(self._copies)} copies>"

    # -- one request ---------------------------------------------------------------------------

    def acquire(self, name: str, version: str = "") -> Lease[ServableT]:
        """Return a lease on the version, else the pinned one, else the newest that is ready; never waits.

        Args:
            name: Model name, or ``name@label`` if there is no model of that name.
            version: Version or label; empty = the default.

        Raises:
            NotFound: unknown model or version.
            NotReady: known, but cannot answer now; the message has the reason.
        """
        copy = self._routes.find(name, version)
        if copy is None or copy.servable is None:
            raise self._missing(*self._routes.resolve(name, version))
        copy.leases += 1
        return Lease(copy.id, copy.servable, copy)

    def other(
        self, name: str, version: str, is_wanted: Callable[[ServableT], bool]
    ) -> Lease[ServableT] | None:
        """Return a lease on the newest copy that satisfies the predicate, including copies that are draining.

        Such a copy has been replaced while it had active sequences.
        """
        if not version and all(copy.id.name != name for copy in self._copies.values()):
            name, version = self._routes.of_label(name) or (name, "")
        if version in self._routes.labels.get(name, ()):
            version = ""  # these may have been the default when the sequence began
        for copy in reversed(self._copies.values()):
            if copy.id.name != name or version not in ("", copy.id.version) or copy.servable is None:
                continue
            if (copy.state is State.READY or copy.ending is not None) and is_wanted(copy.servable):
                copy.leases += 1
                return Lease(copy.id, copy.servable, copy)
        return None

    def _missing(self, name: str, version: str) -> SalverError:
        """Return the error of a request that no copy can answer."""
        if self.residence is not None:
            # Also one that has failed and is tried again, as one whose host was killed while it loaded.
            failed = {
                copy.id
                for copy in self._copies.values()
                if copy.state is State.FAILED and (copy.task is None or copy.task.done())
            }
            coming = self._absent | (self._targets.keys() - failed)
            ids = [id for id in self._ids.get(name, ()) if id in coming]
            id = self._routes.meant(ids, name, version)
            if id is not None:
                return Absent.of(id, self.residence)
        known, waiting, broken = self._bound
        return missing.error_of(
            name,
            version,
            missing.ServedVersions(
                self.statuses(),
                self._routes.once,
                self._targets,
                waiting,
                {copy.id.name for copy in self._copies.values() if copy.state in RISING},
                [manifest for manifest in known if manifest.id in broken],
                self._is_stopping,
            ),
        )

    def version_of_label(self, name: str, label: str) -> str:
        """Return the version that a label points to now, loaded or not.

        Raises:
            InvalidInput: the model has no such label; TensorFlow Serving's text and code (TF-R21).
        """
        version = self._routes.labels.get(name, {}).get(label)
        if version is None:
            raise InvalidInput(f"Unrecognized servable version label: {label}")
        return version

    def pin(self, name: str, version: str) -> None:
        """Send requests without a version to this version only, while the version policy wants it.

        The pin is ignored while the version policy does not want the version.
        """
        self._routes.pins[name] = version
        self._publish(name)

    def unpin(self, name: str) -> None:
        """Send requests without a version to the newest that is ready again."""
        if self._routes.pins.pop(name, None) is not None:
            self._publish(name)

    def pinned(self, name: str) -> str:
        """Return the pinned version of a model; empty = none."""
        return self._routes.pins.get(name, "")

    # -- one tick ------------------------------------------------------------------------------

    def apply(self, known: Sequence[Manifest]) -> None:
        """Set the list of wanted versions and start the steps that are due.

        Loading continues in the background; ``settled`` waits for it.
        """
        if not self._is_stopping:
            self._known = tuple(known)
            self._ids = {}
            for manifest in known:
                self._ids.setdefault(manifest.id.name, []).append(manifest.id)
            self._tick()
            self._gone.set()  # or is wanted again

    async def settled(self, name: str = "") -> None:
        """Wait until nothing is loading (of that model and of its members, if one is named).

        A version that will be retried counts as loading.
        """
        names = with_members(self._known or (), frozenset({name}))
        while tasks := [
            task
            for c in self._copies.values()
            for task in (c.task if c.is_rising else c.adjusting,)
            if task is not None and (not name or c.id.name in names) and not task.done()
        ]:
            await asyncio.wait(tasks)

    async def tried(self, names: Collection[str]) -> None:
        """Wait until each wanted version of these models is ready or has failed once."""
        while tasks := [
            copy.task
            for copy in self._copies.values()
            if copy.id.name in names and copy.state in RISING and not copy.failures and copy.task is not None
        ]:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    async def load(self, name: str) -> None:
        """Load the chosen versions of a model, including failed ones, and wait for the result.

        Raises:
            NotFound: the model is not in the wanted list.
            LoadFailed: at least one version did not load; running versions keep running.
        """
        if not any(m.id.name == name for m in self._known or ()):
            raise NotFound(f"Request for unknown model: '{name}' is not found", field="model")
        names = with_members(self._known or (), frozenset({name}))
        for copy in list(self._copies.values()):
            if copy.id.name in names and copy.state is State.FAILED:
                self._forget(copy)
        self._tick()
        for id in [id for id in self._absent if id.name in names]:
            if self.residence is not None:
                await self.residence.demand(id)
        await self.settled(name)
        mine = [m for m in self._bound.known if m.id.name == name]
        if broken := [m.problem for m in mine if m.id in self._bound.broken]:
            raise LoadFailed(f"load failed for model '{name}': {broken[0]}", field="model")
        failed = [(m.id, m.problem) for m in missed(mine)]
        failed += [
            (c.id, c.reason) for c in self._copies.values() if c.id.name == name and c.state is State.FAILED
        ]
        if failed:
            reasons = "; ".join(f"version {id.version} is at UNAVAILABLE state: {why}" for id, why in failed)
            raise LoadFailed(f"load failed for model '{name}': {reasons}", field="model")
        if name not in self._routes.default:
            raise LoadFailed(
                f"load failed for model '{name}': at least one version must be available under the version "
                f"policy of model '{name}'",
                field="model",
            )

    async def outcome(self, id: ModelId) -> str:
        """Wait until a version is ready or is not tried again; return the reason of the failure, or empty."""
        while tasks := [
            copy.task
            for copy in self._copies.values()
            if copy.id == id
            and copy.state in (*RISING, State.FAILED)  # a task of a failed one is its next try
            and copy.task is not None
            and not copy.task.done()
        ]:
            await asyncio.wait(tasks)
        copy = self._routes.exact.get((id.name, id.version))
        if copy is not None:
            return ""
        failed = [c.reason for c in self._copies.values() if c.id == id and c.state is State.FAILED]
        failed += [m.problem for m in self._bound.known if m.id == id and m.problem]
        return failed[0] if failed else "it was taken out"

    async def ended(self, id: ModelId) -> None:
        """Wait until the current copies of a version are gone, or one of them is wanted again."""
        leaving = [copy for copy in self._copies.values() if copy.id == id]
        while any(copy.key in self._copies and not self._stays(copy) for copy in leaving):
            self._gone.clear()
            await self._gone.wait()

    def _stays(self, copy: Copy[ServableT]) -> bool:
        is_up = copy.state is State.READY or copy.is_rising
        return is_up and self._targets.get(copy.id) == copy.manifest.fingerprint

    async def vacated(self, folder: Path) -> None:
        """Wait until no copy uses files below a folder (a resolved path)."""
        while any(c.manifest.path.is_relative_to(folder) for c in self._copies.values()):
            self._gone.clear()
            await self._gone.wait()

    def _tick(self) -> None:
        """Start all steps that are due; repeat, because a step may release members of ensembles."""
        while True:
            present = [
                Present(
                    c.key,
                    c.id,
                    c.manifest.fingerprint,
                    c.state,
                    c.retry_at,
                    c.reason,
                    "" if c.is_rigid else c.manifest.body,
                    c.adjusting is not None,
                )
                for c in self._copies.values()
            ]
            known, waiting, broken = self._bound = bind(self._known or (), present)
            chosen = choose(known)
            if self.residence is not None:
                self._absent = self.residence.absent(chosen)
            left_out = {*waiting, *self._absent}
            self._targets = {m.id: m.fingerprint for m in chosen if m.id not in left_out}
            self._hurry()
            marks = waiting, broken | self._removed(), self._relabel(), self._absent
            steps = plan(known, present, self._clock(), *marks)
            if not steps:
                return
            for step in steps:
                self._perform(step)

    def _removed(self) -> set[ModelId]:
        """Return versions of handlers that are gone from the list: none replaces another, so none waits."""
        known = {manifest.id for manifest in self._known or ()}
        return {c.id for c in self._copies.values() if c.manifest.format == FORMAT} - known

    def _relabel(self) -> set[ModelId]:
        """Move labels to their wanted versions if these are ready; return versions that labels still hold."""
        names, leaving = self._routes.relabel(self._bound.known)
        for name in names:
            self._publish(name)  # immediately, so that no request goes to a version that is about to drain
        return leaving

    def _perform(self, step: Step) -> None:
        match step:
            case Load(manifest):
                self._start(manifest)
            case Adjust(key, manifest):
                self._adjust(self._copies[key], manifest)
            case Drain(key):
                self._drain(self._copies[key])
            case Forget(key):
                self._forget(self._copies[key])

    # -- loading -------------------------------------------------------------------------------

    def _start(self, manifest: Manifest) -> None:
        failures = 0
        for old in list(self._copies.values()):
            if old.id == manifest.id and old.state is State.FAILED:
                failures = old.failures
                self._forget(old)
        self._next_key += 1
        copy = Copy[ServableT](self._next_key, manifest, failures)
        self._copies[copy.key] = copy
        copy.task = asyncio.get_running_loop().create_task(self._bring_up(copy), name=f"load {copy.id}")

    async def _bring_up(self, copy: Copy[ServableT]) -> None:
        async with self._loading:
            try:
                began = self._clock()
                self._move(copy, State.LOADING)
                now = self._clock
                with reporting(_LOG, lambda: f"{copy.id} {copy.state.value}, {now() - began:.0f} s so far"):
                    copy.servable = await self._loader.load(copy.manifest)
                    if self._is_wanted(copy):
                        self._move(copy, State.WARMING)
                        await copy.servable.warm(copy.manifest.config)
            except asyncio.CancelledError:
                await self._close(copy)
                raise
            except Exception as error:
                await self._fail(copy, error)
                return
        if self._is_wanted(copy):
            copy.load_seconds = self._clock() - began
            self._move(copy, State.READY)
            self._publish(copy.id.name)
            self._tick()
        else:
            await self._close(copy)

    def _adjust(self, copy: Copy[ServableT], manifest: Manifest) -> None:
        """Change the number of instances in place; state and active requests are kept (TR-L4)."""
        assert copy.servable is not None
        work = self._adjusted(copy, copy.servable, manifest)
        copy.adjusting = asyncio.get_running_loop().create_task(work, name=f"adjust {copy.id}")

    async def _adjusted(self, copy: Copy[ServableT], servable: ServableT, manifest: Manifest) -> None:
        try:
            is_done = await servable.adjust(manifest)
        except Exception as error:
            _LOG.warning(
                "%s is reloaded because its number of instances could not be changed: %s", copy.id, error
            )
            is_done = False
        copy.adjusting = None
        if is_done:
            copy.manifest = manifest
            _LOG.info("%s now has the configured number of instances", copy.id)
        else:
            copy.is_rigid = True
        self._tick()

    def _is_wanted(self, copy: Copy[ServableT]) -> bool:
        return self._targets.get(copy.id) == copy.manifest.fingerprint

    async def _fail(self, copy: Copy[ServableT], error: Exception) -> None:
        # the event has the reason; an unexpected error needs its traceback
        is_told = isinstance(error, SalverError)
        reason = str(error) if is_told else f"{type(error).__name__}: {error}"
        if not is_told:
            _LOG.error("%s did not load", copy.id, exc_info=error)
        servable, copy.servable = copy.servable, None
        copy.failures += 1
        copy.reason = reason
        retries = self._config.retries
        if isinstance(error, LoadFailed):
            retries = max(retries, error.retries)
        if copy.failures <= retries:
            delay = self._config.backoff.delay(copy.failures)
            copy.retry_at = self._clock() + delay
            copy.task = asyncio.get_running_loop().create_task(self._retry(delay), name=f"retry {copy.id}")
        self._move(copy, State.FAILED)
        if servable is not None:
            await self._dispose(copy.id, servable)
        self._tick()

    async def _retry(self, delay: float) -> None:
        await asyncio.sleep(delay + _EARLY_S)
        self._tick()

    # -- unloading -----------------------------------------------------------------------------

    def _drain(self, copy: Copy[ServableT]) -> None:
        self._move(copy, State.DRAINING)
        self._publish(copy.id.name)
        # Called by the last lease that is released, so that nothing polls for it.
        copy.on_idle = lambda: self._close_if_idle(copy)
        leave = copy.servable.leave if copy.servable is not None else None
        if leave is not None and self._knows(copy.id.name):
            copy.ending = asyncio.get_running_loop().create_task(
                self._see_off(copy, leave), name=f"end sequences of {copy.id}"
            )
        self._close_if_idle(copy)

    def _knows(self, name: str) -> bool:
        return any(manifest.id.name == name for manifest in self._known or ())

    async def _see_off(self, copy: Copy[ServableT], leave: Callable[[float], Awaitable[None]]) -> None:
        await leave(self._config.sequences_s)
        copy.ending = None
        self._close_if_idle(copy)

    def _hurry(self) -> None:
        """Stop waiting for sequences of unloaded models: as in Triton, they are ended."""
        for copy in list(self._copies.values()):
            if copy.ending is not None and not self._knows(copy.id.name):
                copy.ending.cancel()
                copy.ending = None
                self._close_if_idle(copy)

    def _close_if_idle(self, copy: Copy[ServableT]) -> None:
        if not copy.leases and copy.ending is None:
            self._start_closing(copy)

    def _start_closing(self, copy: Copy[ServableT]) -> None:
        copy.on_idle = None
        copy.task = asyncio.get_running_loop().create_task(self._close(copy), name=f"unload {copy.id}")

    async def _close(self, copy: Copy[ServableT]) -> None:
        """Move a copy to GONE, from any state but READY and FAILED."""
        if copy.state is not State.NEW:
            self._move(copy, State.UNLOADING)
        servable, copy.servable = copy.servable, None
        if servable is not None:
            before, is_hosted = resident_bytes(os.getpid()), bool(servable.processes)
            await self._dispose(copy.id, servable)
            del servable
            if not (self._is_stopping or is_hosted):  # at a stop once, at the end
                least = max(copy.manifest.bytes // 2, _LEAST_FREED)
                await asyncio.to_thread(self._reclaim, before - least)
        self._forget(copy)

    async def _dispose(self, id: ModelId, servable: ServableT) -> None:
        try:
            await servable.close()
        except Exception:
            _LOG.exception("%s did not close cleanly", id)

    def _forget(self, copy: Copy[ServableT]) -> None:
        if copy.state in (State.NEW, State.FAILED) and copy.task is not None:
            copy.task.cancel()
        self._move(copy, State.GONE)
        self._copies.pop(copy.key, None)
        # Out and in again, so that the latest is last.
        self._ended.pop(copy.id, None)
        self._ended[copy.id] = None
        if len(self._ended) > _MOST_ENDED:
            del self._ended[next(iter(self._ended))]
        self._gone.set()

    async def drain(self, grace: float) -> None:
        """Shut down: grant no new leases, wait up to ``grace`` seconds for those in use, close everything.

        Loads that have not finished by then are cancelled. Memory is reclaimed once, for all.
        """
        self._is_stopping = True
        self._known = ()
        self._tick()
        try:
            async with asyncio.timeout(grace):
                while self._copies:
                    self._gone.clear()
                    await self._gone.wait()
        except TimeoutError:
            await self._close_rest()
        await asyncio.to_thread(self._reclaim, -1)

    async def _close_rest(self) -> None:
        for copy in list(self._copies.values()):
            if copy.state is State.DRAINING:
                _LOG.warning("%s is closed with %d requests still running", copy.id, copy.leases)
                self._start_closing(copy)
            elif copy.task is not None and copy.state in RISING:
                copy.task.cancel()
        if tasks := [c.task for c in self._copies.values() if c.task is not None]:
            await asyncio.wait(tasks, timeout=_CLOSE_S)
        for copy in self._copies.values():
            _LOG.error("%s does not close; left until the process ends", copy.id)

    # -- state for others ----------------------------------------------------------------------

    def ready(self) -> bool:
        """Return whether every known model has all its chosen versions loaded, and at least one."""
        if self._is_stopping or self._known is None:
            return False
        if {id.name for id in (*self._targets, *self._absent)} != {m.id.name for m in self._known}:
            return False
        return all(
            (copy := self._routes.exact.get((id.name, id.version))) is not None
            and copy.manifest.fingerprint == fingerprint
            for id, fingerprint in self._targets.items()
        )

    def wanted(self) -> frozenset[str] | None:
        """Return the names of the models that are to be in memory; None = unknown yet, or shutting down."""
        if self._is_stopping or self._known is None:
            return None
        names = {manifest.id.name for manifest in self._known}
        return frozenset(names - ({id.name for id in self._absent} - {id.name for id in self._targets}))

    def leases(self, id: ModelId) -> int:
        """Return how many requests use the copy of a version that answers now."""
        copy = self._routes.exact.get((id.name, id.version))
        return copy.leases if copy is not None else 0

    def statuses(self) -> tuple[VersionStatus, ...]:
        """Return one status per version, sorted; a running copy reports why its successor is missing."""
        rows: dict[ModelId, VersionStatus] = {}
        for manifest in self._bound.known:
            waits = self._bound.waiting.get(manifest.id, "")
            is_absent, is_wanted = manifest.id in self._absent, manifest.id in self._targets
            state, reason = before_loading(manifest, waits, is_absent=is_absent, is_wanted=is_wanted)
            rows[manifest.id] = VersionStatus(manifest.id, state, reason, manifest.backend)
        copies = sorted(self._copies.values(), key=lambda c: (c.state is State.READY, c.key))
        for copy in copies:  # a ready copy comes last and takes precedence
            size = copy.manifest.bytes if copy.servable is not None else 0
            reason = copy.reason
            if copy.state is State.READY:
                reason = "; ".join(self._pending_reasons(copy))
            elif copy.ending is not None:
                reason = "replaced, and open to the sequences that it knows until they end"
            rows[copy.id] = VersionStatus(
                copy.id, copy.state, reason, copy.manifest.backend, size, copy.load_seconds
            )
        return tuple(sorted(rows.values(), key=lambda row: (row.id.name, version_key(row.id.version))))

    def versions(self, name: str) -> tuple[VersionStatus, ...]:
        """Return the versions of a model that are or were to be served; versions that ended are GONE."""
        rows = {
            row.id: row
            for row in self.statuses()
            if row.id.name == name
            and (
                row.state not in (State.NEW, State.GONE) or row.id in self._targets or row.id in self._absent
            )
        }
        ended = [id for id in self._ended if id.name == name and id not in rows]
        return (*rows.values(), *(VersionStatus(id, State.GONE) for id in ended))

    def labels(self) -> Mapping[str, Mapping[str, str]]:
        """Return the version that each label points to, by model."""
        return self._routes.labels

    def servable(self, id: ModelId) -> ServableT | None:
        """Return the servable that answers for a version now, or None."""
        copy = self._routes.exact.get((id.name, id.version))
        return copy.servable if copy is not None else None

    def servables(self) -> list[ServableT]:
        """Return all servables that can answer now, one per version."""
        return [copy.servable for copy in list(self._routes.exact.values()) if copy.servable is not None]

    def _pending_reasons(self, copy: Copy[ServableT]) -> Iterator[str]:
        """Return the reasons why wanted successors of running copies are missing."""
        for manifest in self._bound.known:
            if manifest.id == copy.id and manifest.problem:
                yield f"still the files of before, because now: {manifest.problem}"
        for other in self._copies.values():
            if other.id == copy.id and other.state is State.FAILED:
                yield f"still the files of before, because the new ones did not load: {other.reason}"

    def _publish(self, name: str) -> None:
        """Set the routes of a model; contains no await."""
        self._routes.publish(name, self._copies.values(), self._is_let_go)

    def _is_let_go(self, id: ModelId) -> bool:
        """Return whether a version is unwanted and gone, so that its pin has no effect."""
        if id in self._targets or id in self._bound.waiting or id in self._absent:
            return False
        if any(copy.id == id and copy.state is State.READY for copy in self._copies.values()):
            return False
        return any(m.id == id and not m.problem for m in self._bound.known)

    def _move(self, copy: Copy[ServableT], after: State) -> None:
        before, copy.state = copy.state, advance(copy.state, after)
        self._emit(StateChanged(copy.id, before, after, copy.reason))
