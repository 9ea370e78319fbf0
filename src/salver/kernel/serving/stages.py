"""How a feature takes part in requests on their way through the data plane.

The kernel owns these protocols. A server without such a feature has no stage, and its requests pass none.
Releases have one (``features/releases/splitting.py``): it chooses the version that answers, and takes answers
for comparison.
"""

from collections.abc import Sequence
from typing import Protocol

from salver.words.messages import Call, InferRequest, InferResponse, ModelId
from salver.words.releases import Assignment


class Passage(Protocol):
    """A stage's part in one request.

    Attributes:
        model: Whose versions these are.
        versions: To be asked, the preferred one first; the first one that is ready answers.
        is_open: The choice depends on the request's parameters, and is made by :meth:`settled`.
    """

    @property
    def model(self) -> str: ...  # noqa: D102

    @property
    def versions(self) -> Sequence[str]: ...  # noqa: D102

    @property
    def is_open(self) -> bool: ...  # noqa: D102

    def settled(self, request: InferRequest) -> "Passage":
        """Return the part of the request with its parameters known; itself where they change nothing."""
        ...

    def wants(self, served: ModelId) -> bool:
        """Return whether :meth:`answered` is to be called with the answer of this version."""
        ...

    def keep(self, piece: InferResponse) -> None:
        """Keep a piece of a streamed answer for :meth:`answered`, as long as memory allows."""
        ...

    def answered(self, request: InferRequest, answer: Sequence[InferResponse] | None, why: str) -> None:
        """Take an answer that is wanted. Returns at once, and never raises.

        Args:
            answer: None = what was kept.
            why: ``status`` = it is an error that a handler has written, and no output of the model's.
        """
        ...

    def end(self) -> Assignment | None:
        """End the request's part; return the arm that its event is counted for, if any."""
        ...


class Stage(Protocol):
    """A feature's place on the path of every request."""

    def begin(self, model: str, version: str, call: Call) -> Passage | None:
        """Return the stage's part in a request; None = it has none, and leaves the choice to the server."""
        ...

    def carry(self, call: Call, request: InferRequest) -> None:
        """Keep what is known of a request, for what its model asks in its service."""
        ...

    def inherit(self, call: Call) -> bool:
        """Tell a call what is known of the request in whose service it is made.

        Returns:
            Whether it serves a copy, which must leave no trace (:meth:`DataPlane.quiet
            <salver.kernel.serving.dataplane.DataPlane.quiet>`).
        """
        ...

    def forget(self, call: Call) -> None:
        """Drop what was kept by :meth:`carry`: the request has its answer."""
        ...
