"""Where does the one door send a request whose model is in a release?

To the version of its arm, and to the stable one where that is not ready. What is asked in its service, by an
ensemble or by a model that calls others, is the same unit's. The rules are ``experiments/``'s.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from salver.features.releases.experiments.router import Plan, Router
from salver.features.releases.experiments.underway import UnderWay
from salver.words.events import Responded
from salver.words.handlers import status_of
from salver.words.messages import Call, InferRequest, InferResponse, ModelId
from salver.words.releases import Source, Split

_MOST_CARRIED = 65_536  # requests under way; a thousand times as many as run at once


class Mirror(Protocol):
    """Asks other versions, too (features/releases/shadow.py)."""

    def join(self, carried: dict[str, Mapping[Source, str]]) -> None:
        """What is known by span of requests under way, as :attr:`Splitting.carried`: copies are, too."""
        ...

    def has_room(self, split: Split) -> bool:
        """May one more copy be under way? Counts those that may not."""
        ...

    def offer(
        self,
        split: Split,
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
        tell: Takes what versions answered, of releases that want to know, and returns at once; None = nobody
            does.
        under_way: Keeps what has begun until it ends.

    Attributes:
        carried: What is known of requests under way that others may be asked in the service of, by span.
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
        """For a request; None = its model is not split for those who say this for a version."""
        route = self.router.find(model, version)
        if route is None:
            return None
        plan = route.recall(call) or route.early(call, self.router.traits(call))
        self.under_way.begin(call, plan)
        return plan

    def settle(self, plan: Plan, call: Call, request: InferRequest) -> Plan:
        """The parameters of the request are known."""
        plan = plan.route.settled(call, self.router.traits(call, request))
        self.under_way.begin(call, plan)
        return plan

    def carry(self, call: Call, request: InferRequest) -> None:
        """What is asked in the service of this request, below its span, shall be its unit's, too."""
        if self.router and len(self.carried) < _MOST_CARRIED:
            self.carried[call.traceparent] = self.router.traits(call, request)

    def inherit(self, call: Call) -> None:
        """What is known of the request in whose service this one is, is known of it, too."""
        if call.parent and call.traits is None:
            call.traits = self.carried.get(call.parent)

    def wants(self, plan: Plan, served: ModelId) -> bool:
        """Is the answer to be handed over? That of a version that stands in for another is not."""
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
        """An answer that is wanted is there, by so many pieces; returns at once, and never raises.

        Args:
            answer: None = it was too much to keep.
            why: ``status`` = it is an error that a handler has written, and no output of the model's.
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
    """A handler says so by its status."""
    return status_of(piece.parameters) >= 500
