"""Control plane: the list of wanted versions, and its changes.

One tick scans the repository on a thread and hands the whole list to the lifecycle, which loads. Ticks happen
once at start, every few seconds, or on request, depending on the mode. If a scan fails, the previous list
stays in force.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol
from weakref import WeakValueDictionary

import msgspec

from salver.kernel.lifecycle.members import with_members
from salver.kernel.repository import NamedModel
from salver.kernel.supervise import Faults, Supervisor, every
from salver.lazy import lazy_imports
from salver.words.artifacts import LoadOrder, Manifest
from salver.words.errors import (
    Conflict,
    Forbidden,
    LoadFailed,
    ModelFailed,
    NotFound,
    NotReady,
    SalverError,
    tritons,
)
from salver.words.messages import ModelId, State, VersionStatus

with lazy_imports():
    from salver.kernel.repository.uploads import Upload


_LOG = logging.getLogger("salver.controlplane")
_AS_IT_LIES = LoadOrder()
_NOBODY: frozenset[str] = frozenset()


class ControlMode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Source of changes.

    Attributes:
        kind: ``none``: serve what exists at the start; ``poll``: follow changes of the files; ``explicit``:
            serve only models that are named, at the start or by request.
        poll_s: Seconds between two scans.
        load: Models to load at start in explicit mode; ``*`` stands for all.
        spares_missing: Log models to load at start that do not exist, and load the others.
    """

    kind: Literal["none", "poll", "explicit"] = "none"
    poll_s: float = 15.0
    load: tuple[str, ...] = ()
    spares_missing: bool = False


class PollFailed(ModelFailed):
    """Error of a model that the repository does not have or cannot read."""


class Scanning(Protocol):
    """List of the versions that could be served (the repository)."""

    overrides: dict[str, Upload]

    @property
    def is_settling(self) -> bool:
        """Whether a change was seen that has not settled yet."""
        ...

    def bring(self, name: str, order: LoadOrder) -> Upload:
        """Return the upload of a load request, for ``overrides``. Blocking."""
        ...

    def place(self, places: Sequence[NamedModel]) -> None:
        """Replace the models that are served by name."""
        ...

    def scan(self, now: float, at_once: frozenset[str] = frozenset()) -> tuple[Manifest, ...]:
        """Return the whole list. Blocking."""
        ...


class Lifecycle(Protocol):
    """Loading of a list of versions (the manager)."""

    def apply(self, known: Sequence[Manifest]) -> None:
        """Keep exactly these versions loaded."""
        ...

    async def load(self, name: str) -> None:
        """Load a model of the list and wait for the outcome."""
        ...

    async def vacated(self, folder: Path) -> None:
        """Wait until no loaded version uses files below a folder."""
        ...

    def statuses(self) -> tuple[VersionStatus, ...]:
        """Return a row for each version."""
        ...


class Changes(Protocol):
    """Changes that requests have made to the list."""

    def over(self, found: Sequence[Manifest]) -> tuple[Manifest, ...]:
        """Return the list with the changes applied."""
        ...

    def ask_again(self, name: str) -> None:
        """Undo the removal of a model."""
        ...


class NamedLoads:
    """Models that are loaded by name, in explicit mode.

    Attributes:
        named: Models that the start or a request named.
        implied: Models that a named ensemble needs.
        unloaded: Models that were loaded before.
        unproven: Models whose first load failed, with an upload.
    """

    def __init__(self) -> None:
        self.named: set[str] = set()
        self.implied: set[str] = set()
        self.unloaded: set[str] = set()
        self.unproven: set[str] = set()

    @property
    def all(self) -> set[str]:
        """Return the models that are to be loaded."""
        return self.named | self.implied

    def discard(self, name: str) -> None:
        """Note that a model is to be unloaded."""
        if name in self.all:
            self.unloaded.add(name)
        for names in (self.named, self.implied, self.unproven):
            names.discard(name)


class ControlPlane:
    """Source of the wanted versions for the lifecycle.

    Args:
        clock: Monotonic seconds.
        sleep: Waits that many seconds.
        changes: Changes by requests; None = only the repository decides.
    """

    def __init__(
        self,
        repository: Scanning,
        manager: Lifecycle,
        mode: ControlMode,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        changes: Changes | None = None,
    ) -> None:
        self._repository = repository
        self.changes = changes
        self._manager = manager
        self._mode = mode
        self._clock = clock
        self._sleep = sleep
        self._found: tuple[Manifest, ...] = ()
        self._scanned: Sequence[Manifest] | None = None  # what the last scan found, if ``_found`` is that
        self._places: dict[str, tuple[NamedModel, ...]] = {}  # named models, by owner
        self._loads = NamedLoads()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._leaving: dict[Upload, asyncio.Task[None]] = {}
        self._told: set[tuple[ModelId, str, str]] = set()
        self._one_scan = asyncio.Lock()
        self._polling = Supervisor(_LOG, "the repository is not polled any more")

    def __repr__(self) -> str:
        return f"<ControlPlane {self._mode.kind}, {len(self._found)} versions known>"

    async def start(self) -> None:
        """Do the first tick; in poll mode, start the others. Loads go on after it returns.

        Raises:
            SalverError: the paths cannot be read, or a model to load at start does not exist.
        """
        await self._scan(frozenset())
        if self._mode.kind == "explicit":
            there = {m.id.name for m in self._found}
            wanted = there if "*" in self._mode.load else set(self._mode.load)
            if missing := wanted - there:
                error = NotFound(
                    f"cannot load {', '.join(sorted(missing))} at start: no such model",
                    fix=f"There are: {', '.join(sorted(there)) or 'none'}",
                )
                if not self._mode.spares_missing:
                    raise error
                _LOG.error("%s", error)
            self._loads.named = wanted
            # Members of the named ensembles are loaded with them, and unloaded with the last of them.
            self._loads.implied = set(with_members(self._found, frozenset(wanted))) - wanted
        self._apply()
        if self._mode.kind == "poll":
            faults = Faults(_LOG, "the repository cannot be read, all stays as it is")
            self._polling.start("poll repository", every(self._pause, self._poll, faults, self._sleep))

    async def replace(self, places: Sequence[NamedModel], owner: str = "") -> None:
        """Replace the models that an owner serves by name; loads go on after it returns.

        Args:
            owner: Name of the list; models of other owners stay.

        Raises:
            Conflict: another owner names a model of one of these names; nothing has changed.
            SalverError: a path cannot be opened; nothing has changed.
        """
        async with self._one_scan:
            lists = {**self._places, owner: tuple(places)}
            _check_owners(lists)
            self._repository.place([place for some in lists.values() for place in some])
            self._places = lists
            for place in places if owner else ():  # uploads of earlier requests no longer count
                self._retire(self._repository.overrides.pop(place.name, None))
        await self._scan(frozenset())
        self._apply()

    async def stop(self) -> None:
        """Stop ticking."""
        await self._polling.close()

    async def close(self) -> None:
        """Discard the uploads of requests; call it after the lifecycle has ended."""
        for task in self._leaving.values():
            task.cancel()
        for brought in (*self._repository.overrides.values(), *self._leaving):
            await asyncio.to_thread(brought.discard)
        self._repository.overrides.clear()

    async def load(self, name: str, order: LoadOrder = _AS_IT_LIES) -> None:
        """Load a model, or load it again if its files changed, and wait for the outcome.

        The models of an ensemble are loaded with it, unless they are loaded already.

        Args:
            order: Replaces the model's own configuration and files until it is unloaded, or until the next
                such order. If it does not load, a model that was loaded stays as it was.

        Raises:
            NotReady: not in explicit mode (the code that Triton answers with).
            Forbidden: the order brings something for a model that the registry manages.
            PollFailed: there is no such model, or its configuration cannot be read.
            LoadFailed: with the reason; a version that was running still runs.
            InvalidInput, TooLarge: the upload was refused.
        """
        self._require_explicit()
        if order != _AS_IT_LIES:
            self.check_unowned(name)
        # An explicit load undoes an earlier removal by request.
        if self.changes is not None:
            self.changes.ask_again(name)
        if order.files and not order.config:
            _LOG.error("%s: files came without a configuration: send the parameter `config`, too", name)
            raise _poll_failed(name)
        # One order per model at a time: each must know the upload that it replaces.
        turn = self._turns.setdefault(name, asyncio.Lock())
        async with turn:
            before = after = self._repository.overrides.get(name)
            if order.config or order.folder:
                after = await asyncio.to_thread(self._repository.bring, name, order)
            elif name in self._loads.unproven:
                # A plain load does not repeat an upload that has never loaded.
                after = None
            try:
                await self._load(name, before, after)
            finally:
                # Discards whichever of the two is no longer in force.
                self._retire(before)
                self._retire(after)

    async def unload(self, name: str, *, dependents: bool = False, waits: bool = False) -> None:
        """Unload a model; requests in flight go on after it returns. Unknown names are ignored.

        Args:
            dependents: Unload also the models that were loaded only because this ensemble needs them.
            waits: Return only when no loaded version uses the folder that a load request named.

        Raises:
            NotReady: not in explicit mode (the code that Triton answers with).
            Forbidden: the registry manages the model.
        """
        self._require_explicit()
        self.check_unowned(name)
        gone = [name]
        brought = []
        for each in gone:  # the list grows in the loop
            members = self._members({each}) & self._loads.implied if dependents else set()
            brought.append(self._take_out(each))
            # Keep members that another loaded ensemble still needs.
            gone += sorted(members - self._members(self._loads.all))
        self._apply()
        for files in brought:
            self._retire(files)
            if waits and files is not None and files.folder is not None:
                for folder in (files.folder, *files.members.values()):
                    await self._manager.vacated(folder)

    def check_unowned(self, name: str) -> None:
        """Check that requests may load and unload a model.

        Raises:
            Forbidden: another owner lists it, such as the registry.
        """
        for owner, places in self._places.items():
            if owner and any(place.name == name for place in places):
                raise Forbidden(
                    f"{name} is a model of the {owner}, which alone says what is served of it",
                    field="model",
                    fix="Move an alias of it (salver registry alias) or propose a release (salver rollout "
                    "start); /api/v1 does the same.",
                )

    def _members(self, names: Container[str]) -> set[str]:
        """Return the models that these ensembles are made of."""
        return {model for m in self._found if m.id.name in names for model, _ in m.config.ensemble.models}

    def _take_out(self, name: str) -> Upload | None:
        self._loads.discard(name)
        brought = self._repository.overrides.pop(name, None)
        if brought is not None and brought.folder is not None:
            gone = {name, *brought.members}
            self._loads.named -= gone
            self._loads.implied -= gone
            self._found, self._scanned = tuple(m for m in self._found if m.id.name not in gone), None
        return brought

    @property
    def missing(self) -> frozenset[str]:
        """Models that the operator names and that have no files."""
        placed = {place.name for some in self._places.values() for place in some}
        return frozenset(placed) - {manifest.id.name for manifest in self._found}

    async def look(self) -> None:
        """Scan the repository now, whatever the mode, until changes have settled.

        Raises:
            SalverError: it cannot be read; nothing has changed.
        """
        await self._look()
        while self._repository.is_settling:
            await self._sleep(min(1.0, self._mode.poll_s))
            await self._look()

    async def _look(self) -> None:
        await self._scan(frozenset())
        self._apply()

    async def _poll(self) -> None:
        """Scan the repository; apply what was found, unless it is the result of the last scan itself."""
        before = self._scanned
        await self._scan(frozenset())
        if self._scanned is not before:
            self._apply()

    def refresh(self) -> None:
        """Hand the list to the lifecycle again, with changes by requests; nothing is scanned."""
        self._apply()

    def index(self) -> tuple[VersionStatus, ...]:
        """Return every version, loaded or not, sorted by name."""
        rows = {status.id: status for status in self._manager.statuses()}
        for manifest in self._found:
            if manifest.id not in rows:
                reason = manifest.problem or ("unloaded" if manifest.id.name in self._loads.unloaded else "")
                rows[manifest.id] = VersionStatus(manifest.id, State.GONE, reason, manifest.backend)
        return tuple(
            sorted(rows.values(), key=lambda row: (row.id.name, len(row.id.version), row.id.version))
        )

    # -- inside --------------------------------------------------------------------------------

    def _pause(self) -> float:
        """Return the seconds until the next scan."""
        if self._repository.is_settling:
            return min(1.0, self._mode.poll_s)
        return self._mode.poll_s

    async def _load(self, name: str, before: Upload | None, after: Upload | None) -> None:
        """Load with the upload ``after``; if that fails, go back to ``before``."""
        for member in after.members if after else ():
            self.check_unowned(member)
        was_loaded = name in self._loads.all and name not in self._loads.unproven
        try:
            self._put(name, after)
            await self._scan(frozenset({name}), frozenset(after.members) if after else _NOBODY)
            await self._imply(name)
            if name not in self._loads.implied:  # which are unloaded with their ensemble, as in Triton
                self._loads.named.add(name)
            self._apply()
            await self._manager.load(name)
            self._loads.unproven.discard(name)
        except PollFailed:
            self._put(name, before)
            raise
        except LoadFailed:
            is_current = name in self._loads.all and self._repository.overrides.get(name) is after
            if is_current and after is not before:
                if was_loaded:
                    self._put(name, before)
                    with contextlib.suppress(PollFailed):  # the previous list then stays in force
                        await self._scan(frozenset({name}), frozenset(before.members) if before else _NOBODY)
                    self._apply()
                else:
                    self._loads.unproven.add(name)
            raise

    async def _imply(self, name: str) -> None:
        """Add the models that an ensemble needs; changes of those that are not loaded count at once."""
        loaded = self._loads.all
        members = _NOBODY
        while (found := with_members(self._found, frozenset({name})) - {name}) != members:
            members = found
            if (fresh := members - loaded) and self._repository.is_settling:
                await self._scan(frozenset({name}), fresh)
        self._loads.implied |= members - self._loads.named

    def _put(self, name: str, brought: Upload | None) -> None:
        if brought is None:
            self._repository.overrides.pop(name, None)
        else:
            self._repository.overrides[name] = brought

    def _retire(self, brought: Upload | None) -> None:
        """Discard an upload as soon as no loaded version uses it, unless it is in force."""
        if brought is None or brought.folder is None or brought in self._leaving:
            return
        if brought not in self._repository.overrides.values():
            leaving = self._leave(brought, brought.folder)
            self._leaving[brought] = asyncio.get_running_loop().create_task(leaving, name="discard files")

    async def _leave(self, brought: Upload, folder: Path) -> None:
        await self._manager.vacated(folder)
        await asyncio.to_thread(brought.discard)
        del self._leaving[brought]

    async def _scan(self, asked: frozenset[str], members: frozenset[str] = _NOBODY) -> None:
        """Scan the repository; of models loaded by name, apply only the changes of the given ones.

        Args:
            asked: Models whose changes are applied.
            members: Their members, if they are ensembles; these need not exist.

        Raises:
            PollFailed: a model in ``asked`` does not exist, or cannot be read; nothing has changed.
            SalverError: ``asked`` is empty, and the repository cannot be read.
        """
        async with self._one_scan:
            try:
                found = await asyncio.to_thread(self._repository.scan, self._clock(), asked | members)
            except SalverError as error:
                if not asked:
                    raise
                raise _poll_failed(", ".join(asked), str(error)) from error
            if not asked and found is self._scanned:
                return
            self._scanned = None if asked else found
            self._tell(found)
            for name in asked:
                mine = [m for m in found if m.id.name == name]
                if all(m.is_unreadable for m in mine):
                    reason = "no such model there"
                    if mine:
                        reason = mine[0].problem
                    raise _poll_failed(name, reason)
            if asked:
                kept = self._loads.all - asked - members
                found = (
                    *(m for m in found if m.id.name not in kept),
                    *(m for m in self._found if m.id.name in kept),
                )
            self._found = tuple(sorted(found, key=lambda m: m.id))

    def _tell(self, found: Sequence[Manifest]) -> None:
        """Log each problem and notice once."""
        told = {(m.id, m.fingerprint, m.problem) for m in found}
        for manifest in found:
            if (manifest.id, manifest.fingerprint, manifest.problem) not in self._told:
                for notice in manifest.notices:
                    _LOG.warning("%s: %s", manifest.id, notice)
                if manifest.problem:
                    _LOG.error("%s cannot be served: %s", manifest.id, manifest.problem)
        self._told = told

    def _apply(self) -> None:
        found = self._found
        if self._mode.kind == "explicit":
            wanted = self._loads.all
            found = tuple(m for m in found if m.id.name in wanted)
        self._manager.apply(found if self.changes is None else self.changes.over(found))

    def _require_explicit(self) -> None:
        if self._mode.kind != "explicit":
            raise tritons(
                NotReady(
                    "models are not loaded and unloaded by request here: the server follows its folders",
                    fix="Start it with --control explicit.",
                ),
                "explicit model load / unload is not allowed if polling is enabled",
            )


def _poll_failed(name: str, reason: str = "") -> PollFailed:
    """Return the error of a model that cannot be polled."""
    text = f"failed to load '{name}', failed to poll from model repository"
    if not reason:
        without = f"model '{name}' cannot be loaded: files came without a configuration"
        return tritons(PollFailed(without, fix="Send the parameter `config`, too."), text)
    return tritons(PollFailed(f"model '{name}' cannot be loaded: {reason}"), f"{text}: {reason}")


def _check_owners(lists: Mapping[str, Sequence[NamedModel]]) -> None:
    seen: set[str] = set()
    for places in lists.values():
        names = {place.name for place in places}
        if twice := seen & names:
            raise Conflict(
                f"two lists name the model {', '.join(sorted(twice))}",
                field="model",
                fix="Rename one.",
            )
        seen |= names
