"""When does the wanted state change, and who may change it?

One tick: scan the repository (in a thread), take the whole list, hand it to the lifecycle. Ticks
come once at start, every few seconds, or on request, by the mode. A scan that fails leaves the list
of before in place. It knows no protocol and loads nothing itself.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Protocol

import msgspec

from salver.artifacts import Manifest
from salver.errors import NotFound, NotReady, SalverError
from salver.messages import ModelId, State, VersionStatus

_LOG = logging.getLogger("salver.controlplane")


class ControlMode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where changes come from.

    Attributes:
        kind: ``none``: what lies there at start; ``poll``: changes of the files are followed;
            ``explicit``: only models that were named, at start or by request.
        poll_s: Seconds between two looks.
        load: Models to load at start in explicit mode; ``*`` stands for all.
        spares_missing: Those that are not there are told in the log, and the others are loaded.
    """

    kind: Literal["none", "poll", "explicit"] = "none"
    poll_s: float = 15.0
    load: tuple[str, ...] = ()
    spares_missing: bool = False


class Scanning(Protocol):
    """Lists what could be served (the repository)."""

    overrides: dict[str, str]

    @property
    def is_settling(self) -> bool:
        """A change was seen that does not count yet."""
        ...

    def scan(self, now: float, at_once: frozenset[str] = frozenset()) -> tuple[Manifest, ...]:
        """The whole list. Blocking."""
        ...


class Lifecycle(Protocol):
    """Keeps a list of versions loaded (the manager)."""

    def apply(self, known: Sequence[Manifest]) -> None:
        """Take this as the whole list."""
        ...

    async def load(self, name: str) -> None:
        """Bring a model of the list up and wait for the outcome."""
        ...

    def statuses(self) -> tuple[VersionStatus, ...]:
        """One row a version."""
        ...


class ControlPlane:
    """Keeps the lifecycle told of what is wanted.

    Args:
        clock: Monotonic seconds.
        sleep: Waits that many seconds.
    """

    def __init__(
        self,
        repository: Scanning,
        manager: Lifecycle,
        mode: ControlMode,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._repository = repository
        self._manager = manager
        self._mode = mode
        self._clock = clock
        self._sleep = sleep
        self._found: tuple[Manifest, ...] = ()
        self._named: set[str] = set()
        self._told: set[tuple[ModelId, str, str]] = set()
        self._one_scan = asyncio.Lock()
        self._polling: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<ControlPlane {self._mode.kind}, {len(self._found)} versions known>"

    async def start(self) -> None:
        """The first tick; in poll mode the others follow. Loads go on when it returns.

        Raises:
            SalverError: the paths cannot be read, or a model to load at start is not there.
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
            self._named = wanted
        self._apply()
        if self._mode.kind == "poll":
            self._polling = asyncio.get_running_loop().create_task(self._poll(), name="poll repository")

    async def stop(self) -> None:
        """No more ticks."""
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait([self._polling])
            self._polling = None

    async def load(self, name: str, config: str = "") -> None:
        """Load a model, or load it again if its files changed, and wait for the outcome.

        Args:
            config: A Triton model configuration as JSON that replaces the file until the model
                is unloaded.

        Raises:
            NotReady: not in explicit mode (the code that Triton answers with).
            NotFound: no such model.
            LoadFailed: with the reason; a version that was running still runs.
        """
        self._require_explicit()
        before = self._repository.overrides.get(name)
        if config:
            self._repository.overrides[name] = config
        try:
            await self._scan(frozenset({name}))
            if not any(m.id.name == name for m in self._found):
                raise NotFound(
                    f"failed to load '{name}', failed to poll from model repository: no such model there",
                    field="model",
                )
        except BaseException:
            self._restore_override(name, before)
            raise
        self._named.add(name)
        self._apply()
        await self._manager.load(name)

    async def unload(self, name: str) -> None:
        """Take a model out; returns while requests in flight still end. Unknown names are fine.

        Raises:
            NotReady: not in explicit mode (the code that Triton answers with).
        """
        self._require_explicit()
        self._named.discard(name)
        self._repository.overrides.pop(name, None)
        self._apply()

    def index(self) -> tuple[VersionStatus, ...]:
        """Every version, loaded or not, sorted by name."""
        rows = {status.id: status for status in self._manager.statuses()}
        for manifest in self._found:
            if manifest.id not in rows:
                reason = manifest.problem or "unloaded"
                rows[manifest.id] = VersionStatus(manifest.id, State.GONE, reason, manifest.backend)
        return tuple(
            sorted(rows.values(), key=lambda row: (row.id.name, len(row.id.version), row.id.version))
        )

    # -- inside --------------------------------------------------------------------------------

    async def _poll(self) -> None:
        while True:
            pause = min(1.0, self._mode.poll_s) if self._repository.is_settling else self._mode.poll_s
            await self._sleep(pause)
            try:
                await self._scan(frozenset())
                self._apply()
            except SalverError as error:
                _LOG.error("the repository cannot be read, all stays as it is: %s", error)
            except Exception:
                _LOG.exception("scanning the repository failed, all stays as it is")

    async def _scan(self, at_once: frozenset[str]) -> None:
        async with self._one_scan:
            found = await asyncio.to_thread(self._repository.scan, self._clock(), at_once)
            self._found = found
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
            found = tuple(m for m in found if m.id.name in self._named)
        self._manager.apply(found)

    def _require_explicit(self) -> None:
        if self._mode.kind != "explicit":
            raise NotReady(
                "explicit model load / unload is not allowed if polling is enabled",
                fix="Start the server with --control explicit",
            )

    def _restore_override(self, name: str, before: str | None) -> None:
        if before is None:
            self._repository.overrides.pop(name, None)
        else:
            self._repository.overrides[name] = before
