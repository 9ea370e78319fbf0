"""Requests of releases that have no answer yet.

A version that hangs produces no events, because its requests never end. So active requests are recorded, and
those that wait far too long are reported as if their callers had disconnected; each once, whatever happens
later. The caller decides when to check and what is too long.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from salver.features.releases.experiments.router import Plan
from salver.words.errors import Code
from salver.words.events import Served
from salver.words.messages import Call, Timing
from salver.words.releases import COUNTED, Arm, Assignment

_NO_TIME: Final = Timing()
#: One in this many overdue requests is reported per check. Where callers do not retry before they are
#: answered, all requests hang at once; the judge treats events in a single bucket as a hiccup, and sees the
#: others in the next ones.
_ONE_IN: Final = 8


class _ActiveRequest(NamedTuple):
    """Plan and start of an active request."""

    call: Call
    plan: Plan
    assigned: Assignment


class ActiveRequests:
    """Active requests of releases.

    Args:
        clock: Monotonic seconds, as for arrivals.

    Attributes:
        ways: By call, the plan of each request that was not reported, in order.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.ways: dict[Call, Plan] = {}
        self._told: dict[Call, _ActiveRequest] = {}

    def __repr__(self) -> str:
        return f"<ActiveRequests {len(self.ways) + len(self._told)} requests>"

    def begin(self, call: Call, plan: Plan) -> None:
        """Record that a request was sent, or that its plan is now known."""
        self.ways[call] = plan

    def end(self, call: Call) -> bool:
        """Remove a request; return whether it had been reported."""
        if self.ways.pop(call, None) is not None or not self._told:
            return False
        return self._told.pop(call, None) is not None

    def overdue(self, release: str, seconds: float) -> list[Served]:
        """Return some overdue requests that were not reported, as time-outs, the oldest first."""
        late = self._late(release, seconds)
        return [self._timed_out(way) for way in late[: -(-len(late) // _ONE_IN)]]

    def reported(self, release: str) -> list[tuple[Assignment, str]]:
        """Return assignment and unit of each request that was reported and still waits."""
        return [
            (way.assigned, way.call.unit) for way in self._told.values() if way.assigned.release == release
        ]

    def waiting(self, release: str, seconds: float) -> tuple[int, float]:
        """Return the number of overdue requests to the canary, and the longest wait in seconds."""
        told = [way for way in self._told.values() if way.assigned.release == release]
        late = [*told, *self._late(release, seconds)]
        arrivals = [way.call.arrival for way in late if way.assigned.arm is Arm.CANARY]
        now = self._clock()
        return len(arrivals), now - min(arrivals, default=now)

    def _late(self, release: str, seconds: float) -> list[_ActiveRequest]:
        now, found = self._clock(), []
        for call, plan in self.ways.items():
            if now - call.arrival <= seconds:
                break  # later requests have waited less
            assigned = plan.assignment
            if assigned is not None and assigned.release == release and assigned.reason in COUNTED:
                found.append(_ActiveRequest(call, plan, assigned))
        return found

    def _timed_out(self, way: _ActiveRequest) -> Served:
        call, plan, assigned = self._told[way.call] = way
        del self.ways[call]
        return Served(
            plan.split.model,
            assigned.version,
            call.protocol,
            Code.DEADLINE_EXCEEDED.value,
            self._clock() - call.arrival,
            _NO_TIME,
            request_id=call.request_id,
            arrival=call.arrival,
            assignment=assigned,
            unit=call.unit,
        )
