"""Where does the one door send a request whose model is in a release?

To the version of its arm, and to the stable one where that is not ready. What is asked in its service, by an
ensemble or by a model that calls others, is the same unit's. The rules are ``experiments/``'s.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from salver.experiments.router import Router, is_settled, settled
from salver.messages import Call, InferRequest, InferResponse
from salver.releases import Assignment, Source, Split
from salver.serving.ports import Inferring

_MOST_CARRIED = 65_536  # requests under way; a thousand times as many as run at once


class Mirror(Protocol):
    """Asks other versions, too (serving/shadow.py)."""

    def wants(self, split: Split, assignment: Assignment) -> bool:
        """Shall the canary be asked what this request asked the stable version?"""
        ...

    def offer(
        self,
        split: Split,
        assignment: Assignment,
        request: InferRequest,
        answer: Sequence[InferResponse],
        call: Call,
    ) -> None:
        """An answer has left; returns at once, and never raises."""
        ...


class Splitting:
    """The splits, as the door asks them.

    Args:
        mirror: None = nothing is copied.
    """

    def __init__(self, router: Router, mirror: Mirror | None = None) -> None:
        self.router = router
        self.mirror = mirror
        self._carried: dict[str, Mapping[Source, str]] = {}

    def __repr__(self) -> str:
        return f"<Splitting by {self.router!r}>"

    def begin(self, model: str, version: str, call: Call) -> "Trip | None":
        """For a request; None = its model is not split for those who say this for a version."""
        router = self.router
        if not router:
            return None
        splits = router.find(model, version)
        return Trip(self, splits, call) if splits else None

    def carry(self, call: Call, request: InferRequest) -> None:
        """What is asked in the service of this request, below its span, shall be its unit's, too."""
        if self.router and len(self._carried) < _MOST_CARRIED:
            self._carried[call.traceparent] = self.router.traits(call, request)

    def inherit(self, call: Call) -> None:
        """What is known of the request in whose service this one is, is known of it, too."""
        if call.parent and call.traits is None:
            call.traits = self._carried.get(call.parent)

    def end(self, call: Call) -> None:
        """It has its answer."""
        if self._carried:
            self._carried.pop(call.traceparent, None)


class Trip:
    """One request whose model is split.

    Attributes:
        split: The one that it is in.
        assignment: None = not before its parameters are read.
    """

    __slots__ = ("_call", "_home", "_splits", "assignment", "split")

    def __init__(self, home: Splitting, splits: Sequence[Split], call: Call) -> None:
        self._home = home
        self._splits = splits
        self._call = call
        self.split = splits[0]
        self.assignment: Assignment | None = None
        traits = home.router.traits(call)
        if is_settled(splits, traits):
            self.split, self.assignment = settled(splits, traits)

    def __repr__(self) -> str:
        return f"<Trip of {self.split.release}: {self.assignment}>"

    @property
    def versions(self) -> tuple[str, ...]:
        """Whom to ask, and whom else if that one is not ready."""
        stable = self.split.stable
        if self.assignment is None or self.assignment.version == stable:
            return (stable,)
        return self.assignment.version, stable

    def settle(self, request: InferRequest) -> None:
        """Its parameters are known."""
        traits = self._home.router.traits(self._call, request)
        self.split, self.assignment = settled(self._splits, traits)

    def leave(self) -> None:
        """It goes on with what it began elsewhere, and is in no release."""
        self.assignment = None

    def is_mirrored(self, servable: Inferring) -> bool:
        """Is its answer to be kept for :meth:`answered`? Never one of any number of responses."""
        mirror, assignment = self._home.mirror, self.assignment
        if mirror is None or assignment is None or not mirror.wants(self.split, assignment):
            return False
        return getattr(servable, "stream", None) is None or getattr(servable, "gives_parts", False)

    def answered(self, request: InferRequest, pieces: Sequence[InferResponse]) -> None:
        """It has been, by so many pieces, and was :meth:`is_mirrored`."""
        mirror, assignment = self._home.mirror, self.assignment
        if mirror is not None and assignment is not None:
            mirror.offer(self.split, assignment, request, pieces, self._call)
