"""Protocols of a feature's stage on the path of requests.

The stage of releases (``features/releases/splitting.py``) chooses the version that answers, and collects
answers for comparison. The stage of rules (``features/routing/rules/``) stands before it, and changes or
refuses requests. A server without such a feature has no stage on its path.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec

from salver.words.errors import SalverError
from salver.words.messages import Call, InferRequest, InferResponse, ModelId, Service
from salver.words.releases import Assignment


class Change(msgspec.Struct, frozen=True):
    """Change of a request by a stage.

    Attributes:
        model, version: What is asked, in place of what the caller named.
        refusal: Makes the error with which it is refused; None = it is not refused.
        timeout_s: Seconds from its arrival to its deadline, if that is not sooner; 0 = unchanged.
        priority, service: As in :class:`~salver.words.messages.Standing`; 0 and empty = unchanged.
        group: As in :class:`~salver.words.messages.InferRequest`.
    """

    model: str
    version: str
    refusal: Callable[[], SalverError] | None = None
    timeout_s: float = 0.0
    priority: int = 0
    service: Service | Literal[""] = ""
    group: str = ""


class VersionChoice(Protocol):
    """Choice of the version that answers a request.

    Attributes:
        model: Name of the model.
        versions: Candidates in order of preference; the first that is ready answers. Empty = what is named.
        is_open: The request has to be decoded: :meth:`settled` chooses by it, or ``change`` has more than a
            model and version.
        change: Change of the request; None = none, or not known yet.
    """

    @property
    def model(self) -> str: ...  # noqa: D102

    @property
    def versions(self) -> Sequence[str]: ...  # noqa: D102

    @property
    def is_open(self) -> bool: ...  # noqa: D102

    @property
    def change(self) -> Change | None: ...  # noqa: D102

    def settled(self, request: InferRequest) -> "Passage":
        """Return the passage with the choice made from the decoded request; itself if unchanged."""
        ...


class Passage(VersionChoice, Protocol):
    """Part of a stage in one request: the choice of a version, and what becomes of it."""

    def wants(self, served: ModelId) -> bool:
        """Return whether :meth:`answered` wants the answer of this version."""
        ...

    def keep(self, piece: InferResponse) -> None:
        """Keep a piece of a streamed answer for :meth:`answered`, as long as memory allows."""
        ...

    def answered(self, request: InferRequest, answer: Sequence[InferResponse] | None, why: str) -> None:
        """Receive a wanted answer. Returns at once and never raises.

        Args:
            answer: Answer; None = the pieces that were kept.
            why: ``status`` = the answer is an error written by a handler, not an output of the model.
        """
        ...

    def end(self, *, has_begun: bool = True) -> Assignment | None:
        """End the passage; return the arm to which the request is counted, if any.

        Args:
            has_begun: Otherwise the request is about to begin in another way.
        """
        ...


class Stage(Protocol):
    """Stage of a feature on the path of every request."""

    def begin(self, model: str, version: str, call: Call) -> Passage | None:
        """Return the passage of a request; None = no part in it, and the server chooses the version."""
        ...

    def carry(self, call: Call, request: InferRequest) -> None:
        """Keep the request's context for the calls that its model makes to other models."""
        ...

    def inherit(self, call: Call) -> bool:
        """Pass the kept context of a request on to a call that its model makes.

        Returns:
            Whether the request is a shadow copy, which must skip caches and logs (:meth:`DataPlane.quiet
            <salver.kernel.serving.dataplane.DataPlane.quiet>`).
        """
        ...

    def forget(self, call: Call) -> None:
        """Drop the context kept by :meth:`carry`, once the request is answered."""
        ...
