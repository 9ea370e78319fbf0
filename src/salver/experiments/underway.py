"""Which requests of releases have no answer yet?

A version that hangs tells nothing, as what it is asked never ends. So where more is under way than is
answered, requests are kept while they are, and those that wait for far too long are told as if their callers
had left; each once, whatever becomes of it later. Who looks, and what is too long, is not known here.
"""

from collections.abc import Callable
from typing import Final

from salver.errors import Code
from salver.events import Served
from salver.experiments.router import Plan
from salver.messages import Call, Timing
from salver.releases import COUNTED, Arm

_NO_TIME: Final = Timing()


class _Way:
    """One request."""

    __slots__ = ("call", "is_told", "plan")

    def __init__(self, call: Call, plan: Plan) -> None:
        self.call = call
        self.plan = plan
        self.is_told = False


class UnderWay:
    """Requests that have begun and not ended, since somebody wants to know.

    Args:
        clock: Monotonic seconds, as those of arrivals.

    Attributes:
        is_on: What begins is kept; else it costs nothing.
        ways: Those that are kept, by the identity of their calls.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.is_on = False
        self._clock = clock
        self.ways: dict[int, _Way] = {}

    def __repr__(self) -> str:
        return f"<UnderWay {len(self.ways)} requests{'' if self.is_on else ', off'}>"

    def begin(self, call: Call, plan: Plan) -> None:
        """A request goes there, or is known now to go there."""
        self.ways[id(call)] = _Way(call, plan)

    def end(self, call: Call) -> bool:
        """It has its answer, or none is wanted any more: was it told before?"""
        way = self.ways.pop(id(call), None)
        return way is not None and way.is_told

    def overdue(self, release: str, seconds: float) -> list[Served]:
        """Those that have waited for longer, as time-outs, and were not told before."""
        now, found = self._clock(), []
        for way in self.ways.values():
            call, assigned = way.call, way.plan.assignment
            if way.is_told or assigned is None or assigned.release != release:
                continue
            if now - call.arrival > seconds and assigned.reason in COUNTED:
                way.is_told = True
                found.append(
                    Served(
                        way.plan.split.model,
                        assigned.version,
                        call.protocol,
                        Code.DEADLINE_EXCEEDED.value,
                        now - call.arrival,
                        _NO_TIME,
                        request_id=call.request_id,
                        arrival=call.arrival,
                        assignment=assigned,
                        unit=call.unit,
                    )
                )
        return found

    def oldest(self, release: str) -> float:
        """For how many seconds the canary has kept one waiting; 0 = nobody is known to wait."""
        arrivals = [
            way.call.arrival
            for way in self.ways.values()
            if (assigned := way.plan.assignment) is not None
            and assigned.release == release
            and assigned.arm is Arm.CANARY
        ]
        return self._clock() - min(arrivals) if arrivals else 0.0
