"""Where does the one door send a request whose model is in a release?

To the version of its arm, and to the stable one where that is not ready. What is asked in its service, by an
ensemble or by a model that calls others, is the same unit's. The rules are ``experiments/``'s.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from salver.events import Event, Responded
from salver.experiments.router import Plan, Router, settled
from salver.handlers import status_of
from salver.messages import Call, InferRequest, InferResponse, ModelId
from salver.releases import Assignment, Source, Split

#: Takes a request and the pieces of its answer, or None where they were too much to keep; returns at once,
#: and never raises.
Taker = Callable[[InferRequest, Sequence[InferResponse] | None, Call], None]
_MOST_CARRIED = 65_536  # requests under way; a thousand times as many as run at once


class Mirror(Protocol):
    """Asks other versions, too (serving/shadow.py)."""

    def join(self, carried: dict[str, Mapping[Source, str]]) -> None:
        """What is known by span of requests under way, as :attr:`Splitting.carried`: copies are, too."""
        ...

    def has_room(self, split: Split) -> bool:
        """May one more copy be under way? Counts those that may not."""
        ...

    def offer(
        self,
        split: Split,
        assignment: Assignment,
        request: InferRequest,
        answer: Sequence[InferResponse] | None,
        call: Call,
    ) -> None:
        """An answer is there, or was too large to keep; returns at once, and never raises."""
        ...


class Splitting:
    """The splits, as the door asks them.

    Args:
        mirror: None = nothing is copied.
        emit: Told what versions answered, of releases that want to know; None = nobody is.

    Attributes:
        carried: What is known of requests under way that others may be asked in the service of, by span.
    """

    def __init__(
        self, router: Router, mirror: Mirror | None = None, emit: Callable[[Event], None] | None = None
    ) -> None:
        self.router = router
        self.carried: dict[str, Mapping[Source, str]] = {}
        self._mirror = mirror
        self._emit = emit
        if mirror is not None:
            mirror.join(self.carried)

    def __repr__(self) -> str:
        return f"<Splitting by {self.router!r}>"

    def begin(self, model: str, version: str, call: Call) -> Plan | None:
        """For a request; None = its model is not split for those who say this for a version."""
        route = self.router.find(model, version)
        if route is None:
            return None
        return route.recall(call.traits) or route.early(self.router.traits(call))

    def settle(self, plan: Plan, call: Call, request: InferRequest) -> Plan:
        """The parameters of the request are known."""
        return settled(plan.splits, self.router.traits(call, request))

    def carry(self, call: Call, request: InferRequest) -> None:
        """What is asked in the service of this request, below its span, shall be its unit's, too."""
        if self.router and len(self.carried) < _MOST_CARRIED:
            self.carried[call.traceparent] = self.router.traits(call, request)

    def inherit(self, call: Call) -> None:
        """What is known of the request in whose service this one is, is known of it, too."""
        if call.parent and call.traits is None:
            call.traits = self.carried.get(call.parent)

    def takers(self, plan: Plan, served: ModelId) -> tuple[Taker, ...]:
        """Who is to be handed the answer; nobody that of a version that stands in for another."""
        if not (plan.is_watched or plan.is_shadowed) or served.version != plan.versions[0]:
            return ()
        tell = (functools.partial(self._tell, plan),) if plan.is_watched and self._emit is not None else ()
        if plan.is_shadowed and self._mirror is not None and self._mirror.has_room(plan.split):
            return (*tell, functools.partial(self._copy, plan))
        return tell

    def _copy(
        self, plan: Plan, request: InferRequest, answer: Sequence[InferResponse] | None, call: Call
    ) -> None:
        """Ask the canary, too, what was just answered, by so many pieces."""
        if self._mirror is not None and plan.assignment is not None:
            self._mirror.offer(plan.split, plan.assignment, request, answer, call)

    def _tell(
        self, plan: Plan, request: InferRequest, answer: Sequence[InferResponse] | None, call: Call
    ) -> None:
        """What was just answered is looked at off the path."""
        if self._emit is not None and plan.assignment is not None:
            are_chosen = bool(request.outputs)
            outputs = None
            if answer is not None:
                if any(piece.parameters and has_failed(piece) for piece in answer):
                    return  # an error, and no output of the model's
                if len(answer) == 1:
                    outputs = answer[0].outputs
                else:
                    outputs = tuple([output for piece in answer for output in piece.outputs])
            self._emit(Responded(plan.assignment, outputs, are_chosen))


def has_failed(piece: InferResponse) -> bool:
    """A handler says so by its status."""
    return status_of(piece.parameters) >= 500
