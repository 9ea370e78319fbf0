"""Waiting requests and batches.

Records used by the queue, the rules, the engine and the simulator.

Pure.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from salver.kernel.engine.turns import ResourceTurn

URGENT = 0  # level above all priorities
BULK = 1 << 30  # level below all priorities


class QueuedRequest:
    """A request in the queue.

    Attributes:
        payload: An object of the caller, returned with the batch.
        rows: Extent of axis 0, at least 1.
        key: Equal keys may share a batch.
        arrived: Time of arrival in seconds.
        deadline: Latest start; None = none.
        is_policed: Its deadline comes from the queue policy and applies only until it starts.
        then: Its deadline after it has been moved behind the others of its lane for missing the first one; 0
            = it is rejected instead.
        sender: Sender whose requests keep their order; None = any order.
        size: Elements of a row; 0 = equal for all requests.
        due: When its caller must have the answer to meet the objective (not after a deadline); inf = none.
        target: When its run must end to meet ``due``.
        tenant: Tenant of the request.
        level: ``URGENT``, a priority from 1 (the highest) on, or ``BULK``.
        ahead: Rows that were waiting on arrival; bulk rows count only for bulk requests.
        lane: The lane that holds it.
        planned: Expected end of its run.
        is_live: False once it is taken, dropped or given up.
    """

    __slots__ = (
        "ahead", "arrived", "deadline", "due", "is_live", "is_policed", "key", "lane", "level", "payload",
        "planned", "rows", "sender", "size", "target", "tenant", "then",
    )  # fmt: skip

    def __init__(
        self,
        payload: Any,
        rows: int,
        key: Hashable,
        arrived: float,
        deadline: float | None = None,
        sender: Hashable = None,
    ) -> None:
        self.payload = payload
        self.rows = rows
        self.key = key
        self.arrived = arrived
        self.deadline = deadline
        self.sender = sender
        self.is_policed = False
        self.then = 0.0
        self.size = 0
        self.due = math.inf
        self.target = math.inf
        self.tenant = ""
        self.level = 1
        self.ahead = 0
        self.lane: Any = None
        self.planned = 0.0
        self.is_live = True

    def __repr__(self) -> str:
        return f"<Waiting {self.rows} rows since {self.arrived:.6f}{'' if self.is_live else ', done'}>"


class Batch:
    """Requests to run now, why the batch closed, and dropped requests.

    Attributes:
        reason: ``full``, ``preferred``, ``time``, ``drain``, ``deadline``, ``urgent``, ``bulk`` or
            ``learned``.
        expired: Requests dropped because their deadline has passed; never run.
        given_up: Requests dropped because they cannot be answered in time; never run.
    """

    __slots__ = ("expired", "given_up", "members", "reason", "rows")

    def __init__(
        self,
        members: list[QueuedRequest],
        rows: int,
        reason: str,
        expired: Sequence[QueuedRequest],
        given_up: Sequence[QueuedRequest] = (),
    ) -> None:
        self.members = members
        self.rows = rows
        self.reason = reason
        self.expired = expired
        self.given_up = given_up


class Dispatch:
    """A batch that runs on an instance, or is prepared for one.

    Attributes:
        at: Time at which it started, or is planned to start.
        idle_since: Time since which an instance had been idle.
        release: Marks its instance as idle; None = it has none, or none any more.
        turn: Shared resources that it holds; None = not counted.
        is_again: Its host died before; it is not run a third time.
    """

    __slots__ = ("at", "batch", "idle_since", "is_again", "release", "turn")

    def __init__(
        self,
        batch: Batch,
        at: float,
        idle_since: float,
        release: "Callable[[Dispatch, bool], None] | None" = None,
        turn: "ResourceTurn | None" = None,
    ) -> None:
        self.batch = batch
        self.at = at
        self.idle_since = idle_since
        self.release = release
        self.turn = turn
        self.is_again = False

    @property
    def is_over(self) -> bool:
        """Return whether its instance was freed, or it never had one."""
        return self.release is None

    def free(self, ok: bool) -> None:
        """Mark its instance as idle, at the first call.

        Args:
            ok: The run succeeded.
        """
        release, self.release = self.release, None
        if release is not None:
            release(self, ok)

    def part(self, members: list[QueuedRequest]) -> "Dispatch":
        """Return a run of some of its requests on the same instance."""
        batch = Batch(members, sum(waiting.rows for waiting in members), self.batch.reason, [])
        part = Dispatch(batch, self.at, self.idle_since)
        part.is_again = self.is_again
        return part
