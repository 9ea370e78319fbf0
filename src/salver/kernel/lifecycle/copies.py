"""Loaded copies of versions, and leases on them."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from salver.kernel.lifecycle.policy import RISING
from salver.kernel.lifecycle.ports import Servable
from salver.words.artifacts import Manifest
from salver.words.messages import ModelId, State

ServableT = TypeVar("ServableT", bound=Servable)


class Copy(Generic[ServableT]):
    """One loaded copy of a version, from NEW to GONE."""

    __slots__ = (
        "adjusting", "ending", "failures", "id", "is_rigid", "key", "leases", "load_seconds", "manifest",
        "on_idle", "reason", "retry_at", "servable", "state", "task",
    )  # fmt: skip

    def __init__(self, key: int, manifest: Manifest, failures: int) -> None:
        self.key = key
        self.manifest = manifest
        self.id = manifest.id
        self.failures = failures
        self.state = State.NEW
        self.reason = ""
        self.retry_at: float | None = None
        self.leases = 0
        self.load_seconds = 0.0
        self.servable: ServableT | None = None
        self.on_idle: Callable[[], None] | None = None
        self.task: asyncio.Task[None] | None = None
        self.adjusting: asyncio.Task[None] | None = None
        self.ending: asyncio.Task[None] | None = None  # draining; its sequences may continue until then
        self.is_rigid = False  # its number of instances cannot be changed

    @property
    def is_rising(self) -> bool:
        """Return whether it is being loaded, or will be retried."""
        return self.state in RISING or (self.state is State.FAILED and self.retry_at is not None)

    def __repr__(self) -> str:
        return f"<Copy {self.id} {self.state.value}, {self.leases} leases>"


class Lease(msgspec.Struct, Generic[ServableT], gc=False):
    """The right to use a loaded version, which stays loaded until all its leases are released."""

    id: ModelId
    servable: ServableT
    copy: Copy[ServableT] | None

    def __repr__(self) -> str:
        return f"<Lease {self.id}{' released' if self.copy is None else ''}>"

    def release(self) -> None:
        """Release the lease; further calls have no effect."""
        copy = self.copy
        if copy is not None:
            self.copy = None
            copy.leases -= 1
            if copy.on_idle is not None and not copy.leases:
                copy.on_idle()
