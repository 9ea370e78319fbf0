"""Loaded copy of a version, and its state machine as a table."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

from salver.words.artifacts import Manifest
from salver.words.messages import State

ServableT = TypeVar("ServableT")

#: Allowed next states of each state.
MOVES: Final[Mapping[State, frozenset[State]]] = {
    State.NEW: frozenset({State.LOADING, State.GONE}),
    State.LOADING: frozenset({State.WARMING, State.UNLOADING, State.FAILED}),
    State.WARMING: frozenset({State.READY, State.UNLOADING, State.FAILED}),
    State.READY: frozenset({State.DRAINING}),
    State.DRAINING: frozenset({State.UNLOADING}),
    State.UNLOADING: frozenset({State.GONE}),
    State.FAILED: frozenset({State.GONE}),
    State.GONE: frozenset(),
}

#: States on the way to READY.
RISING: Final = frozenset({State.NEW, State.LOADING, State.WARMING})


def advance(before: State, after: State) -> State:
    """Return the state after a move.

    Raises:
        ValueError: the table has no such move, which is a bug in the caller.

    >>> advance(State.WARMING, State.READY).value
    'READY'
    """
    if after not in MOVES[before]:
        raise ValueError(f"no move from {before} to {after}")
    return after


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
