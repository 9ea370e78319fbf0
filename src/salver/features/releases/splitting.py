"""Splitting of requests to models in a release, in the data plane.

A request goes to the version of its arm, or to the stable one if that is not ready. Calls on its behalf, by
an ensemble or by a model, belong to the same unit. The rules are in ``experiments/``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from salver.features.releases.experiments.router import Plan, Router
from salver.features.releases.experiments.underway import UnderWay
from salver.words.events import Responded
from salver.words.handlers import status_of
from salver.words.messages import Call, InferRequest, InferResponse, ModelId
from salver.words.releases import Source, Split

_MOST_CARRIED = 65_536  # active requests; a thousand times as many as run concurrently


class Mirror(Protocol):
    """Sender of shadow requests (features/releases/shadow.py)."""

    def join(self, carried: dict[str, Mapping[Source, str]]) -> None:
        """Share the mapping of active requests by span, as :attr:`Splitting.carried`: copies are included."""
        ...

    def has_room(self, split: Split) -> bool:
        """Return whether one more copy may be active; count those that may not."""
        ...

    def offer(
        self,
        split: Split,
        request: InferRequest,
        answer: Sequence[InferResponse] | None,
        call: Call,
    ) -> None:
        """Offer an answer, or None if it was too large; returns immediately and never raises."""
        ...


class Splitting:
    """The splits, as used by the data plane.

    Args:
        mirror: Sender of copies; None = none.
        tell: Receives answers of releases that analyse them, and returns immediately; None = none.
        under_way: Records active requests.

    Attributes:
        carried: Plans of active requests that may cause further calls, by span.
    """

    def __init__(
        self,
        router: Router,
        mirror: Mirror | None = None,
        tell: Callable[[Responded], None] | None = None,
        under_way: UnderWay | None = None,
    ) -> None:
        self.router = router
        self.under_way = under_way or UnderWay(lambda: 0.0)
        self.carried: dict[str, Mapping[Source, str]] = {}
        self._mirror = mirror
        self._tell = tell
        if mirror is not None:
            mirror.join(self.carried)

    def __repr__(self) -> str:
        return f"<Splitting by {self.router!r}>"

    def begin(self, model: str, version: str, call: Call) -> Plan | None:
        """Return the plan of a request; None = its model is not split for this version."""
        route = self.router.find(model, version)
        if route is None:
            return None
        plan = route.recall(call) or route.early(call, self.router.traits(call))
        self.under_way.begin(call, plan)
        return plan

    def settle(self, plan: Plan, call: Call, request: InferRequest) -> Plan:
        """Complete the plan once the request's parameters are known."""
        plan = plan.route.settled(call, self.router.traits(call, request))
        self.under_way.begin(call, plan)
        return plan

    def carry(self, call: Call, request: InferRequest) -> None:
        """Assign calls on behalf of this request, below its span, to its unit."""
        if self.router and len(self.carried) < _MOST_CARRIED:
            self.carried[call.traceparent] = self.router.traits(call, request)

    def inherit(self, call: Call) -> None:
        """Adopt the plan of the request that caused this one."""
        if call.parent and call.traits is None:
            call.traits = self.carried.get(call.parent)

    def wants(self, plan: Plan, served: ModelId) -> bool:
        """Return whether the answer is to be passed on; not if a fallback version answered."""
        if served.version != plan.versions[0]:
            return False
        return plan.is_watched or (
            plan.is_shadowed and self._mirror is not None and self._mirror.has_room(plan.split)
        )

    def answered(
        self,
        plan: Plan,
        request: InferRequest,
        answer: Sequence[InferResponse] | None,
        call: Call,
        why: str,
    ) -> None:
        """Pass on an answer with its number of pieces; returns immediately and never raises.

        Args:
            answer: None = it was too large to keep.
            why: ``status`` = an error written by a handler, not an output of the model.
        """
        if plan.assignment is None:
            return
        if plan.is_shadowed and self._mirror is not None:
            self._mirror.offer(plan.split, request, answer, call)
        if why == "status" or not plan.is_watched or self._tell is None:
            return
        outputs = None
        if answer is not None:
            if len(answer) == 1:
                outputs = answer[0].outputs
            else:
                outputs = tuple([output for piece in answer for output in piece.outputs])
        self._tell(Responded(plan.assignment, call.unit, outputs, bool(request.outputs)))


def has_failed(piece: InferResponse) -> bool:
    """Return whether a handler's status is an error."""
    return status_of(piece.parameters) >= 500
