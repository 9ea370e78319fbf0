"""Terms that the connections of a listener share, and their common base class."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from salver.transport.budget import Budget
from salver.transport.doors import App
from salver.transport.exchange import Exchange, Prompt, PromptFinder
from salver.transport.http1_head import Head, Heads
from salver.transport.parting import Parting

_ASGI: Final = {"version": "3.0", "spec_version": "2.4"}


#: Seconds of delay up to which a request counts as read on arrival, and of a pause that does not count as
#: one.
_NO_LAG_S: Final = 2e-3
_NO_PAUSE_S: Final = 5e-4


#: Bytes of an answer that are written before others have their turns: libuv writes what it has in one turn.
TURN: Final = 1 << 16


class Pulse:
    """Estimator of the time that requests wait in the kernel while the event loop is busy.

    A loop polls its sockets once per turn, and spends the turn on what it found. If it does not pause in
    between, a request found by a poll may have arrived at any time since the previous one; the estimate is
    the earliest.

    >>> pulse, request = Pulse(), Exchange(None, None)
    >>> pulse.read(request, looked=1.0, now=1.0)  # after a pause
    >>> request.lag
    0.0
    >>> pulse.read(Exchange(None, None), looked=1.0, now=1.025)  # the last of many
    >>> pulse.read(request, looked=1.026, now=1.036)  # may have arrived right after the first was read
    >>> round(request.lag, 3)
    0.052
    """

    __slots__ = ("_before", "_looked", "_read")

    def __init__(self) -> None:
        self._looked = self._before = self._read = 0.0

    def read(self, exchange: Exchange, looked: float, now: float) -> None:
        """Set the arrival of a request that is read now, and its lag, which is an upper bound.

        Args:
            looked: Time of the loop's last poll: ``loop.time()`` of uvloop, which is constant within a turn.
                (asyncio's clock is not, so such a loop never seems to lag.)
        """
        if looked != self._looked:
            # Only a gap longer than the reading before it is a pause: sending the answers takes time, too.
            before, last = self._looked, self._read
            has_paused = looked - last > max(last - before, _NO_PAUSE_S)
            self._before = looked if has_paused else before
            self._looked = looked
        self._read = now
        exchange.arrival = now
        lag = now - self._before
        if lag > _NO_LAG_S:
            # Answers leave at the end of the turn, which is expected to be as long as the previous one.
            exchange.lag = max(lag, 2 * (self._looked - self._before))


class OpenConnection(Protocol):
    """Connection, as its listener sees it.

    Attributes:
        since: Time of the last received byte or finished answer, by the event loop's clock.
    """

    since: float

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether no byte of the next request has been received."""
        ...

    @property
    def is_in_head(self) -> bool:
        """Whether a part of a head has been received."""
        ...

    @property
    def has_unsent(self) -> bool:
        """Whether bytes of answers wait for the caller to read."""
        ...

    def end(self) -> None:
        """Close after the requests in flight, including incomplete ones, are answered."""
        ...

    def drop(self) -> None:
        """Close now."""
        ...

    def cut_stalled(self, now: float, patience: float) -> None:
        """Abort answers of which the caller has read nothing for so many seconds."""
        ...


class Terms:
    """Settings and collaborators that the connections of a listener share.

    Args:
        app: ASGI application.
        most: Most bytes of a body, which is then read completely before the application is called; 0 = pass
            bodies on in pieces, and leave the limit to the application.
        malformed: JSON body of the answer to malformed HTTP.
        connections: Most connections at a time; 0 = no limit.
        budget: Memory for the bodies of all requests; None = the default.
        parting: Shutdown state.
        pulse: Pulse of the event loop, which the listeners share.
        speaks_http2: Accept HTTP/2.

    Attributes:
        open: Open connections.
        heads: Parser of HTTP/1.1 heads.
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
        """Return the function that answers requests with this head without a task; None = there is none."""
        prompt: Prompt | None = head.notes.get(self)
        if prompt is None and self._find is not None:
            prompt = self._find(head)
            if prompt is not None:
                head.notes[self] = prompt
        return prompt


class WrittenConnection(asyncio.Protocol):
    """Connection that stops writing while its caller does not read."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._is_full = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def has_unsent(self) -> bool:
        """Whether bytes of answers wait for the caller to read."""
        return self._transport.get_write_buffer_size() > 0

    def pause_writing(self) -> None:
        """Note that the write buffer is full."""
        self._is_full = True

    def resume_writing(self) -> None:
        """Note that the write buffer has room again."""
        self._is_full = False
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)

    async def drained(self) -> None:
        """Wait until there is room to write, or the connection is lost."""
        if self._is_full:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting


async def in_turns(
    write: Callable[[bytes], None], drained: Callable[[], Awaitable[None]], head: bytes, body: bytes
) -> bytes:
    """Write an answer with a large body but for its last piece, and return that.

    Others have their turns meanwhile, and the caller's reading sets the pace.
    """
    piece = head + body[:TURN]
    for at in range(TURN, len(body), TURN):
        write(piece)
        await drained()
        await asyncio.sleep(0)
        piece = body[at : at + TURN]
    return piece


def scope_of(
    exchange: Exchange, scheme: str, client: tuple[str, int] | None, server: tuple[str, int] | None
) -> dict[str, Any]:
    """Return the ASGI scope of a request.

    It also has ``spelled``, the headers as they were sent, and the exchange's ``lag``.
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
        "lag": exchange.lag,
        "client": client,
        "server": server,
    }
