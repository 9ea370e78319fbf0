"""Which requests of releases have no answer yet?

A version that hangs tells nothing, as what it is asked never ends. So requests are kept while they are under
way, and those that wait for far too long are told as if their callers had left; each once, whatever becomes
of it later. Who looks, and what is too long, is not known here.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from salver.features.releases.experiments.router import Plan
from salver.words.errors import Code
from salver.words.events import Served
from salver.words.messages import Call, Timing
from salver.words.releases import COUNTED, Arm, Assignment

_NO_TIME: Final = Timing()
#: At a look one in so many is told of those that wait for too long. Where callers do not ask again before
#: they are answered, all of them hang at once; the judge takes what comes in one bucket alone for a hiccup,
#: and hears of those who still wait in the next ones.
_ONE_IN: Final = 8


class _Way(NamedTuple):
    """One that is known to be of a release."""

    call: Call
    plan: Plan
    assigned: Assignment


class UnderWay:
    """Requests that have begun and not ended.

    Args:
        clock: Monotonic seconds, as those of arrivals.

    Attributes:
        ways: By its call, where each goes that was not told, in their order.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.ways: dict[Call, Plan] = {}
        self._told: dict[Call, _Way] = {}

    def __repr__(self) -> str:
        return f"<UnderWay {len(self.ways) + len(self._told)} requests>"

    def begin(self, call: Call, plan: Plan) -> None:
        """A request goes there, or is known now to go there."""
        self.ways[call] = plan

    def end(self, call: Call) -> bool:
        """It has its answer, or none is wanted any more: was it told before?"""
        if self.ways.pop(call, None) is not None or not self._told:
            return False
        return self._told.pop(call, None) is not None

    def overdue(self, release: str, seconds: float) -> list[Served]:
        """Some of those that have waited for longer and were not told before, as time-outs: the oldest ones,
        whatever their arms.
        """
        late = self._late(release, seconds)
        return [self._timed_out(way) for way in late[: -(-len(late) // _ONE_IN)]]

    def waiting(self, release: str, seconds: float) -> tuple[int, float]:
        """How many have waited for the canary for longer than that, or were told, and the oldest of them for
        how many seconds.
        """
        told = [way for way in self._told.values() if way.assigned.release == release]
        late = [*told, *self._late(release, seconds)]
        arrivals = [way.call.arrival for way in late if way.assigned.arm is Arm.CANARY]
        now = self._clock()
        return len(arrivals), now - min(arrivals, default=now)

    def _late(self, release: str, seconds: float) -> list[_Way]:
        now, found = self._clock(), []
        for call, plan in self.ways.items():
            if now - call.arrival <= seconds:
                break  # those that came later wait for less
            assigned = plan.assignment
            if assigned is not None and assigned.release == release and assigned.reason in COUNTED:
                found.append(_Way(call, plan, assigned))
        return found

    def _timed_out(self, way: _Way) -> Served:
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
