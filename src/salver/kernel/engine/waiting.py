"""What waits, and what is taken together?

Two records that the queue, the rules, the engine and the simulator pass on.

Pure.
"""

import math
from collections.abc import Hashable
from typing import Any

import msgspec

URGENT = 0  # the level above all priorities
BULK = 1 << 30  # the level below them


class Waiting:
    """A request in the queue.

    Attributes:
        payload: Whatever the caller wants back with the batch.
        rows: Extent of axis 0; at least 1.
        key: Equal keys may share a batch.
        arrived: Seconds.
        deadline: It is not begun after that; None = never.
        is_policed: Its deadline is the model's queue policy, and only holds until it is begun.
        then: Its deadline once it has been set back behind the others of its lane for being past the one
            before; 0 = it is refused instead.
        sender: Keeps its order; None = no order asked for.
        size: Elements of a row; 0 = the same for all.
        due: When its caller must have the answer, for the objective to hold (not after a deadline); inf =
            no matter.
        target: When its run must end for that.
        tenant: Whose it is.
        level: ``URGENT``, a priority from 1 (the highest) on, or ``BULK``.
        ahead: Rows that waited when it came; those of bulk work only if it is some itself.
        lane: The queue that holds it.
        planned: When its run is expected to end.
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
    """What to run now, why it closed, and who waited in vain.

    Attributes:
        reason: ``full``, ``preferred``, ``time``, ``drain``, ``deadline``, ``urgent``, ``bulk`` or
            ``learned``.
        expired: Taken out because their deadline is past; never to be executed.
        given_up: Taken out because they cannot be answered in time; never to be executed.
    """

    members: list[Waiting]
    rows: int
    reason: str
    expired: list[Waiting]
    given_up: list[Waiting] = []
