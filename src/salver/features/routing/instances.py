"""State of one instance of a model: load, measured latency, health.

Pure: the time is an argument, in seconds of one monotonic clock.
"""

import math
from typing import Final

import msgspec

_LEAST_SHARE: Final = 0.1


class Load(msgspec.Struct):
    """Measurements of an instance.

    Attributes:
        pending: Requests under way.
        latency: Latency in seconds as the policy counts it; 0 = none was measured.
        under_way: Average of the requests that were under way when one began, itself included.
        measured_at: Time of its last measurement.
        answer_s: Seconds of its last answer.
        answered, failed: Attempts since the start.
        credit: Turns that it is owed, as round robin counts them.
    """

    pending: int = 0
    latency: float = 0.0
    under_way: float = 1.0
    measured_at: float = 0.0
    answer_s: float = 0.0
    answered: int = 0
    failed: int = 0
    credit: float = 0.0


class Instance:
    """One instance: a server that answers for the model.

    Args:
        weight: Share of the requests, relative to others.
        level: Priority; 0 is first.
        slow_start_s: Seconds in which its share grows to the whole, when it comes or comes back; 0 = at once.
        group: Group to which rules can send requests; empty = none.

    Attributes:
        joined_at: When it came, or came back.
        is_draining: Gets no new requests, as the operator asked.
        unfit: Why it cannot answer for this model; empty = it can.
        is_down: Its last health checks failed.
        failures: Failed attempts in a row.
        failure_share: Share of failed attempts, the newest counting most.
        ejections: Times that it was ejected without an answer in between.
        ejected_until: End of its ejection; it is then tried with one request at a time until one succeeds.
    """

    __slots__ = (
        *(
            "ejected_until",
            "ejections",
            "failure_share",
            "failures",
            "group",
            "is_draining",
            "is_down",
            "joined_at",
            "level",
            "load",
        ),
        *("slow_start_s", "unfit", "url", "weight"),
    )

    def __init__(
        self, url: str, weight: float = 1.0, level: int = 0, slow_start_s: float = 0.0, group: str = ""
    ) -> None:
        self.url = url
        self.weight = weight
        self.level = level
        self.slow_start_s = slow_start_s
        self.group = group
        self.joined_at = -math.inf
        self.load = Load()
        self.is_draining = False
        self.unfit = ""
        self.is_down = False
        self.failures = 0
        self.failure_share = 0.0
        self.ejections = 0
        self.ejected_until = -math.inf

    def __repr__(self) -> str:
        return f"<Instance {self.url}, {self.load.pending} pending, {self.failures} failures in a row>"

    @property
    def is_ejected(self) -> bool:
        """Whether it was ejected and has not answered since."""
        return self.ejections > 0

    def is_available(self, now: float) -> bool:
        """Return whether it may get a request: a new one, or the one with which an ejected one is tried."""
        if self.is_draining or self.unfit or self.is_down:
            return False
        return not self.is_ejected or (now >= self.ejected_until and not self.load.pending)

    def share(self, now: float) -> float:
        """Return its weight, less at first: a cold instance must not get its whole share at once.

        >>> instance = Instance("a", weight=2.0, slow_start_s=10.0)
        >>> instance.joined_at = 100.0
        >>> [instance.share(now) for now in (100.0, 105.0, 110.0)]
        [0.2, 1.0, 2.0]
        """
        age = now - self.joined_at
        if age >= self.slow_start_s:
            return self.weight
        return self.weight * max(_LEAST_SHARE, age / self.slow_start_s)
