"""What the connections of a listener have in common."""

from typing import Protocol

from salver.transport.budget import Budget
from salver.transport.doors import App
from salver.transport.exchange import Prompt, PromptFinder
from salver.transport.http1_head import Head, Heads
from salver.transport.parting import Parting


class OpenConnection(Protocol):
    """A connection, as its listener sees it.

    Attributes:
        since: When something last came, or an answer ended, by the event loop's clock.
    """

    since: float

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether nothing of the next request has come."""
        ...

    @property
    def is_in_head(self) -> bool:
        """Whether a head has come in part."""
        ...

    def end(self) -> None:
        """Close when what is in flight has its answer, also what has come in part."""
        ...

    def drop(self) -> None:
        """Close now."""
        ...

    def cut_stalled(self, now: float, patience: float) -> None:
        """Give up answers of which the caller has taken nothing for so many seconds."""
        ...


class Terms:
    """What the connections of a listener have in common.

    Args:
        app: Answers.
        most: Bytes of a body that is whole before the application hears of it; 0 = it receives bodies in
            pieces, as they come, and bounds them itself.
        malformed: JSON that answers what is no request.
        connections: Most of them at one time; 0 = as many as one likes.
        budget: Memory for the bodies of all requests; None = as much as is usual.
        parting: Says when callers are told to close.
        speaks_http2: Connections may be of HTTP/2.

    Attributes:
        open: The connections.
        heads: Reads heads of HTTP/1.1.
    """

    def __init__(
        self,
        app: App,
        most: int = 0,
        malformed: bytes = b"",
        connections: int = 0,
        budget: Budget | None = None,
        parting: Parting | None = None,
        *,
        speaks_http2: bool = True,
    ) -> None:
        self.budget = budget or Budget()
        self.app = app
        self.parting = parting or Parting()
        self._find: PromptFinder | None = getattr(app, "find_prompt", None)
        self.most = most
        self.malformed = malformed
        self.most_connections = connections
        self.speaks_http2 = speaks_http2
        self.open: set[OpenConnection] = set()
        self.heads = Heads()

    def prompt(self, head: Head) -> Prompt | None:
        """Return what answers requests of that head without a task; None = nothing does."""
        prompt: Prompt | None = head.notes.get(self)
        if prompt is None and self._find is not None:
            prompt = self._find(head)
            if prompt is not None:
                head.notes[self] = prompt
        return prompt
