"""Waiting requests and batches.

Two records used by the queue, the rules, the engine and the simulator.

Pure.
"""

import math
from collections.abc import Hashable
from typing import Any

import msgspec

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


class Batch(msgspec.Struct, frozen=True):
    """Requests to run now, why the batch closed, and dropped requests.

    Attributes:
        reason: ``full``, ``preferred``, ``time``, ``drain``, ``deadline``, ``urgent``, ``bulk`` or
            ``learned``.
        expired: Requests dropped because their deadline has passed; never run.
        given_up: Requests dropped because they cannot be answered in time; never run.
    """

    members: list[QueuedRequest]
    rows: int
    reason: str
    expired: list[QueuedRequest]
    given_up: list[QueuedRequest] = []
