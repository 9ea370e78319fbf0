"""What the connections of a listener have in common."""

import asyncio
from collections import deque
from typing import Any, Final, Protocol

from salver.transport.budget import Budget
from salver.transport.doors import App
from salver.transport.exchange import Exchange, Prompt, PromptFinder
from salver.transport.http1_head import Head, Heads
from salver.transport.parting import Parting

_ASGI: Final = {"version": "3.0", "spec_version": "2.4"}


#: Seconds up to which a request counts as read when it came, and up to which a pause is none.
_NO_LAG_S: Final = 2e-3
_NO_PAUSE_S: Final = 5e-4


class Pulse:
    """Estimates how long requests waited in the kernel before a busy event loop read them.

    A loop looks for bytes once a turn, and reads what it has found for as long as the turn takes. What it
    finds after a turn without a pause may have come at any time since it looked before: that is what a
    promise has to assume.

    Attributes:
        worked: When the loop last read or answered a request.

    >>> pulse, request = Pulse(), Exchange(None, None)
    >>> pulse.read(request, looked=1.0, now=1.0)  # after a pause
    >>> request.came, request.lag
    (1.0, 0.0)
    >>> pulse.worked = 1.025
    >>> pulse.read(request, looked=1.025, now=1.035)  # one of many that came meanwhile
    >>> request.came, round(request.lag, 3)
    (1.0, 0.035)
    """

    __slots__ = ("_before", "_looked", "worked")

    def __init__(self) -> None:
        self._looked = self._before = self.worked = 0.0

    def read(self, exchange: Exchange, looked: float, now: float) -> None:
        """Set when a request came that is read now.

        Args:
            looked: When the loop last looked for bytes: ``loop.time()`` of uvloop, which stands still
                within a turn. (asyncio's own goes on: such a loop seems never to lag.)
        """
        if looked != self._looked:
            # A pause is longer than the work before it: after that, answers are still to be sent.
            worked = self.worked
            has_paused = looked - worked > max(worked - self._looked, _NO_PAUSE_S)
            self._before = looked if has_paused else self._looked
            self._looked = looked
        self.worked = now
        lag = now - self._before
        if lag > _NO_LAG_S:
            exchange.came, exchange.lag = self._before, lag
        else:
            exchange.came = now


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
        pulse: Of the event loop, which the listeners share.
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
        pulse: Pulse | None = None,
        *,
        speaks_http2: bool = True,
    ) -> None:
        self.budget = budget or Budget()
        self.app = app
        self.parting = parting or Parting()
        self.pulse = pulse or Pulse()
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


class WrittenConnection(asyncio.Protocol):
    """A connection that waits with writing while its caller does not read."""

    def __init__(self) -> None:
        self._is_full = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    def pause_writing(self) -> None:
        """The caller does not read as fast as we write."""
        self._is_full = True

    def resume_writing(self) -> None:
        """There is room again."""
        self._is_full = False
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)

    async def drained(self) -> None:
        """Returns when there is room for more, or nobody reads any more."""
        if self._is_full:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting


def scope_of(
    exchange: Exchange, scheme: str, client: tuple[str, int] | None, server: tuple[str, int] | None
) -> dict[str, Any]:
    """Return the scope of a request, as ASGI has it.

    It also has ``spelled``, the headers as they were sent; ``lag`` and ``came`` as of an exchange.
    """
    head = exchange.head
    return {
        "type": "http",
        "asgi": _ASGI,
        "http_version": head.version,
        "method": head.method,
        "scheme": scheme,
        "path": head.path.decode("latin-1"),
        "raw_path": head.path,
        "query_string": head.query,
        "root_path": "",
        "headers": head.headers,
        "spelled": head.spelled,
        "came": exchange.came,
        "lag": exchange.lag,
        "client": client,
        "server": server,
    }
