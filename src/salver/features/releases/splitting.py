"""The data plane's stage of releases: the version that answers a request, and who gets to see the answer.

A request goes to the version of its arm, or to the stable one if that is not ready. Calls on its behalf, by
an ensemble or by a model, belong to the same unit. The rules are in ``experiments/``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from salver.features.releases.experiments.answers import AnswerPieces
from salver.features.releases.experiments.router import Plan, Router
from salver.features.releases.experiments.underway import ActiveRequests
from salver.kernel.serving.stages import Change
from salver.words.events import Responded
from salver.words.messages import Call, InferRequest, InferResponse, ModelId
from salver.words.releases import Assignment, Source, Split

#: What is known of all that is asked in the service of a copy. An ensemble, and a model that calls others in
#: the trace of its request, pass it on; a model that asks others outside that trace is not recognised.
COPY: Final[Mapping[Source, str]] = {"copy": "true"}
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
    """The splits, as a stage of the data plane.

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
        under_way: ActiveRequests | None = None,
    ) -> None:
        self.router = router
        self.under_way = under_way or ActiveRequests(lambda: 0.0)
        self.carried: dict[str, Mapping[Source, str]] = {}
        self._mirror = mirror
        self._tell = tell
        if mirror is not None:
            mirror.join(self.carried)

    def __repr__(self) -> str:
        return f"<Splitting by {self.router!r}>"

    def begin(self, model: str, version: str, call: Call) -> "SplitRequest | None":
        """See :class:`~salver.kernel.serving.stages.Stage`; copies are in no release."""
        route = self.router.find(model, version)
        if route is None or _is_copy(call):
            return None
        plan = route.recall(call) or route.early(call, self.router.traits(call))
        self.under_way.begin(call, plan)
        return SplitRequest(self, plan, call)

    def carry(self, call: Call, request: InferRequest) -> None:
        """Assign calls on behalf of this request, below its span, to its unit."""
        if self.router and len(self.carried) < _MOST_CARRIED:  # forgotten at the end of each request
            self.carried[call.traceparent] = self.router.traits(call, request)

    def inherit(self, call: Call) -> bool:
        """See :class:`~salver.kernel.serving.stages.Stage`."""
        if call.parent and call.traits is None:
            call.traits = self.carried.get(call.parent)
        return _is_copy(call)

    def forget(self, call: Call) -> None:
        """See :class:`~salver.kernel.serving.stages.Stage`."""
        if self.carried:
            self.carried.pop(call.traceparent, None)

    def has_room(self, split: Split) -> bool:
        """Return whether one more copy may be under way."""
        return self._mirror is not None and self._mirror.has_room(split)

    def hand_over(
        self,
        plan: Plan,
        request: InferRequest,
        answer: Sequence[InferResponse] | None,
        call: Call,
        why: str,
    ) -> None:
        """Give an answer to those who want it.

        Args:
            answer: None = it was too much to keep.
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


class SplitRequest:
    """The releases' part in one request (:class:`~salver.kernel.serving.stages.Passage`)."""

    __slots__ = ("_call", "_pieces", "_splits", "plan")

    change: Change | None = None

    def __init__(self, splits: Splitting, plan: Plan, call: Call) -> None:
        self.plan = plan
        self._splits = splits
        self._call = call
        self._pieces: AnswerPieces | None = None

    @property
    def model(self) -> str:
        """Return the model in the release."""
        return self.plan.split.model

    @property
    def versions(self) -> Sequence[str]:
        """Return the version of the arm, and the stable one."""
        return self.plan.versions

    @property
    def is_open(self) -> bool:
        """Return whether the unit is unknown until the parameters are read."""
        return self.plan.assignment is None

    def settled(self, request: InferRequest) -> "SplitRequest":
        """See :class:`~salver.kernel.serving.stages.Passage`.

        A sequence that says nothing of its caller is a unit; else each of its requests would be one.
        """
        known = self.plan.assignment
        if known is not None and (known.has_unit or "sequence_id" not in request.parameters):
            return self
        splits, call = self._splits, self._call
        plan = self.plan.route.settled(call, splits.router.traits(call, request))
        splits.under_way.begin(call, plan)
        return SplitRequest(splits, plan, call)

    def wants(self, served: ModelId) -> bool:
        """See :class:`~salver.kernel.serving.stages.Passage`; not of a version that stands in for another."""
        plan = self.plan
        if not plan.may_want or served.version != plan.versions[0]:
            return False
        return plan.is_watched or (plan.is_shadowed and self._splits.has_room(plan.split))

    def keep(self, piece: InferResponse) -> None:
        """See :class:`~salver.kernel.serving.stages.Passage`."""
        if self._pieces is None:
            self._pieces = AnswerPieces()
        self._pieces.add(piece)

    def answered(self, request: InferRequest, answer: Sequence[InferResponse] | None, why: str) -> None:
        """See :class:`~salver.kernel.serving.stages.Passage`."""
        if answer is None:
            answer = ()
            if self._pieces is not None:
                answer = self._pieces.kept
        self._splits.hand_over(self.plan, request, answer, self._call, why)

    def end(self, *, has_begun: bool = True) -> Assignment | None:
        """See :class:`~salver.kernel.serving.stages.Passage`; None = the release has counted it before."""
        if self._splits.under_way.end(self._call):
            return None
        return self.plan.assignment


def _is_copy(call: Call) -> bool:
    """Return whether it is asked in the service of a copy."""
    return call.traits is not None and "copy" in call.traits
