"""Terms that the connections of a listener share, and their common base class."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic, thread_time
from typing import TYPE_CHECKING, Any, Final, Protocol

from salver.transport.budget import Budget
from salver.transport.doors import App
from salver.transport.exchange import Exchange, Prompt, PromptFinder
from salver.transport.http1_head import Head, Headers, Heads
from salver.transport.parting import Parting
from salver.words.messages import NO_PLACE_S, Alike, Closable

if TYPE_CHECKING:
    from salver.transport.large_body import LargeBody

_ASGI: Final = {"version": "3.0", "spec_version": "2.4"}


#: Seconds of delay up to which a request counts as read on arrival.
_NO_LAG_S: Final = 2e-3
#: CPU seconds of a turn while more comes than can be answered: refusals then leave within twice as long.
TURN_S: Final = 3e-3
#: Seconds of work from which places are limited, and the most that count; pauses are taken off, so that the
#: loop counts as overloaded if it is busy for more than 95 % of the time.
_BACKLOG_S: Final = 0.05
_MOST_BACKLOG_S: Final = 0.2
_PAUSE_WEIGHT: Final = 20.0
#: Least places for each refusal of a turn.
_LEAST_SHARE: Final = 1 / 16
#: CPU seconds of a turn without requests below which it is a pause, and not spent on bodies or answers.
_NO_WORK_S: Final = 1e-4
#: Seconds that a byte of a large body takes, at least and at most, and the weight of a body in the mean.
_LEAST_PACE_S: Final = 1e-9
_MOST_PACE_S: Final = 5e-9
_PACE_SHARE: Final = 0.1
#: Bytes of large bodies that an overloaded event loop receives at once; more than a processor's cache holds.
MOST_RECEIVED: Final = 8 << 20
#: Seconds after which an overload counts as over.
_OVER_S: Final = 1.0
#: Seconds between two refusals below which they probably are of one turn.
_RUSH_S: Final = 1e-4
#: Most kinds of refusals.
_KINDS: Final = 1024
#: Facts about the other ends of connections that are remembered with the heads of their requests.
_MOST_FACTS: Final = 256
#: Returns what a connection tells about its other end, as headers that no caller can send.
PeerFacts = Callable[[asyncio.BaseTransport], Headers]
#: Bytes of an answer that are written before others have their turns: libuv writes what it has in one turn.
TURN: Final = 1 << 16


class Places:
    """Number of requests that a turn of an overloaded event loop may let in.

    A turn that lets in a constant number ends after a constant time, since the others are refused at a
    fraction of the cost; the number is corrected until that time is :data:`TURN_S`. A short backlog is worked
    off without a limit. Pure.

    >>> places = Places()
    >>> places.turned(taken=1500, refused=0, seconds=0.06)  # long enough
    >>> places.limit
    75.0
    >>> places.rested(0.01)
    >>> places.limit
    inf

    Attributes:
        limit: Requests; inf = no limit.
    """

    __slots__ = ("_backlog", "limit")

    def __init__(self) -> None:
        self.limit = math.inf
        self._backlog = 0.0  # seconds of work, less a multiple of the pauses

    def turned(self, taken: int, refused: int, seconds: float) -> None:
        """Record a turn.

        Args:
            taken: Requests that were let in.
            refused: Copies of refusals that were sent.
            seconds: CPU time of the event loop's thread.
        """
        self._backlog = min(self._backlog + seconds, _MOST_BACKLOG_S)
        if self._backlog < _BACKLOG_S or seconds <= 0:
            return
        limit = self.limit
        if limit < math.inf:
            if taken < limit:
                return
            limit *= min(max(math.sqrt(TURN_S / seconds), 0.5), 2.0)
        elif seconds > TURN_S:
            limit = taken * TURN_S / seconds
        # Where refusals fill the turn, letting in fewer would not end it sooner.
        self.limit = max(1.0, limit, refused * _LEAST_SHARE)

    def rested(self, seconds: float) -> None:
        """Record a pause of the event loop."""
        self._backlog = max(self._backlog - seconds * _PAUSE_WEIGHT, 0.0)
        if self._backlog < _BACKLOG_S:
            self.limit = math.inf


class Refusal:
    """Answer to a refused request, of which others of its kind get copies until the turn ends.

    Attributes:
        is_open: Copies may be sent.
    """

    __slots__ = ("_alike", "_begin", "_end", "is_open")

    def __init__(self) -> None:
        self.is_open = False

    def open(self, begin: bytes, end: bytes, alike: Alike) -> None:
        """Set the answer, before and after the request's id."""
        self._begin, self._end, self._alike = begin, end, alike
        self.is_open = True

    def copy(self) -> bytes:
        """Return the answer to a further request."""
        return b"%b%b%b" % (self._begin, self._alike.new_id().encode(), self._end)

    def close(self) -> int:
        """Count the copies; return their number."""
        self.is_open = False
        return self._alike.close()


def _soon(call: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_soon(call)


class Pulse:
    """Estimator of the time that requests wait in the kernel while the event loop is busy.

    A loop polls its sockets once per turn, and spends the turn on what it found. While it does not pause, a
    request found by a poll may have arrived at any time since the previous one; the estimate is the earliest.
    Turns are only counted from :data:`_NO_LAG_S` after a pause, because each takes a callback.

    >>> ends = []
    >>> pulse, request = Pulse(ends.append, cpu=lambda: 0.0), Exchange(None, None)
    >>> pulse.read(request, now=1.0)  # after a pause
    >>> request.lag
    0.0
    >>> for now in 1.001, 1.002, 1.003:
    ...     pulse.read(request, now)
    >>> round(request.lag, 3)
    0.003

    Args:
        soon: Calls a function at the end of the turn.
        clock: Monotonic seconds.
        cpu: CPU time of the event loop's thread.

    Attributes:
        refusing: Refusals of which copies are sent until the turn ends.
        limited_until: Time until which more large bodies may come than can be answered.
    """

    __slots__ = (
        "_ahead", "_before", "_clock", "_cpu", "_has_read", "_is_busy", "_pace", "_paused", "_places",
        "_polled", "_read", "_receiving", "_refusals", "_refused", "_since", "_soon", "_spent", "_taken",
        "limited_until", "refusing",
    )  # fmt: skip

    def __init__(
        self,
        soon: Callable[[Callable[[], object]], None] = _soon,
        clock: Callable[[], float] = monotonic,
        cpu: Callable[[], float] = thread_time,
    ) -> None:
        self._soon, self._clock, self._cpu = soon, clock, cpu
        self._since = self._read = self._paused = 0.0  # beginning of work; last request; end of the last turn
        self._polled = self._before = 0.0  # beginning of this turn, and of the previous one
        self._is_busy = self._has_read = False
        self._places = Places()
        self._taken = 0
        self._spent = 0.0
        self._refusals: dict[object, Refusal] = {}
        self._refused = -math.inf  # the last request that was refused for its caller
        # Bytes that had come by the last turn, and bytes that were to be received at the beginning, of all.
        self._receiving: dict[LargeBody, tuple[int, int]] = {}
        self._pace = _LEAST_PACE_S
        self._ahead = 0  # bytes that are to be received, with those of the body that has begun last
        self.limited_until = -math.inf
        self.refusing: list[Closable] = []

    def read(self, exchange: Exchange, now: float) -> None:
        """Set the arrival of a request that is read now, and its lag, which is an upper bound."""
        exchange.arrival = now
        if not self._is_busy:
            if now - self._read > _NO_LAG_S:
                self._since = now
            self._read = now
            if now - self._since <= _NO_LAG_S:
                return
            self._begin(now)
        self._has_read = True
        # Answers leave at the end of the turn, which is expected to be as long as the previous one.
        lag = max(now - self._before, 2 * (self._polled - self._before))
        if self._taken >= self._places.limit:
            exchange.lag = NO_PLACE_S
            return
        self._taken += 1
        if lag > _NO_LAG_S:
            exchange.lag = lag

    def read_large(self, exchange: Exchange, now: float, size: int, begun: float = math.inf) -> None:
        """Set arrival, lag and wait of a request, of which the beginning of a body of so many bytes is read.

        Args:
            begun: When its head was read, if that was before.
        """
        self.read(exchange, now)
        self._ahead, exchange.wait = 0, 0.0
        if not self._is_busy:
            return
        ahead = sum([body.size - body.at for body in self._receiving])
        self._ahead = ahead + size
        exchange.wait = self._pace * self._ahead
        if self._places.limit < math.inf:
            self.limited_until = now + _OVER_S
        if now < self.limited_until:
            if begun < now - _NO_LAG_S:
                exchange.lag += now - begun
            if ahead and self._ahead > MOST_RECEIVED:
                exchange.lag = NO_PLACE_S

    def receive(self, exchange: Exchange) -> None:
        """Begin to receive the large body of the request that was read last."""
        if self._ahead and exchange.large is not None:
            self._receiving[exchange.large] = exchange.large.at, self._ahead

    def received(self, exchange: Exchange) -> None:
        """End the reception of a large body."""
        assert exchange.large is not None
        seconds = self._clock() - exchange.arrival
        if exchange.lag:
            exchange.lag += seconds
        if (begun := self._receiving.pop(exchange.large, None)) is not None:
            pace = min(max(seconds / begun[1], _LEAST_PACE_S), _MOST_PACE_S)
            self._pace += (pace - self._pace) * _PACE_SHARE

    def _begin(self, now: float) -> None:
        """Begin to count turns."""
        self._is_busy = True
        self._before = self._polled = self._since
        spent = self._cpu()
        self._places.rested(now - self._paused - (spent - self._spent))
        self._spent = spent
        self._soon(self._turn)

    def _turn(self) -> None:
        """End a turn of a busy event loop."""
        copies = self._close()
        now = self._clock()
        spent = self._cpu()
        if not self._has_read and spent - self._spent < _NO_WORK_S:
            self._is_busy = False
            self._since = self._read = self._paused = now
            self._spent, self._taken = spent, 0
            self._receiving.clear()
            return
        self._places.turned(self._taken, copies, spent - self._spent)
        self._before, self._polled = self._polled, now
        self._spent, self._taken, self._has_read = spent, 0, False
        if self._receiving:  # without those that wait for their callers
            self._receiving = {
                body: (body.at, ahead) for body, (at, ahead) in self._receiving.items() if body.at > at
            }
        self._soon(self._turn)

    def _close(self) -> int:
        """End the refusals of this turn; return the number of copies."""
        count = sum([refusal.close() for refusal in self.refusing])
        self.refusing.clear()
        return count

    def is_in_rush(self, now: float) -> bool:
        """Note that a request which is read now is refused; return whether others are expected in this turn.

        Copies for a request that comes by itself would cost more than its answer.
        """
        gap, self._refused = now - self._refused, now
        return self._is_busy or gap < _RUSH_S

    def refuse(self, kind: object, head: Head, begin: bytes, end: bytes, alike: Alike) -> None:
        """Send copies of a refusal to further requests with this head until the turn ends.

        Args:
            kind: Whatever tells its requests from others. Heads of one kind share the refusal; None = it is
                of this head alone.
        """
        refusal = Refusal() if kind is None else self._refusals.get(kind)
        if refusal is None:
            if len(self._refusals) >= _KINDS:
                self._refusals.clear()
            refusal = self._refusals[kind] = Refusal()
        head.notes[Refusal] = refusal
        if not refusal.is_open:
            refusal.open(begin, end, alike)
            self.keep(refusal)

    def keep(self, refusal: Closable) -> None:
        """Close a refusal at the end of the turn."""
        self.refusing.append(refusal)
        if len(self.refusing) == 1 and not self._is_busy:
            self._soon(self._close)


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
        peers: Tells about the other end of a connection; None = nothing is told.
        facts: What it tells, behind the headers of each request.
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
        self.peers: PeerFacts | None = None
        self.facts: Headers = ()
        self._by_facts: dict[Headers, Terms] = {}

    def of(self, transport: asyncio.BaseTransport) -> "Terms":
        """Return the terms of a connection, which shares heads and prompts with those of the same facts."""
        facts = () if self.peers is None else self.peers(transport)
        if not facts:
            return self
        found = self._by_facts.get(facts)
        if found is None:
            if len(self._by_facts) >= _MOST_FACTS:
                self._by_facts.clear()
            found = self._by_facts[facts] = Terms(
                *(self.app, self.most, self.malformed, self.most_connections, self.budget),
                *(self.parting, self.pulse),
                speaks_http2=self.speaks_http2,
            )
            found.open, found.facts, found.heads = self.open, facts, Heads(facts)
        return found

    def prompt(self, head: Head) -> Prompt | None:
        """Return the function that answers requests with this head without a task; None = there is none."""
        prompt: Prompt | None = head.notes.get(self)
        if prompt is None and self._find is not None:
            prompt = self._find(head)
            if prompt is not None:
                head.notes[self] = prompt
        return prompt


class WrittenConnection:
    """Connection that stops writing while its caller does not read.

    It is a protocol of asyncio's, but extends no class of it: compiled, its attributes would be slow.
    """

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._is_full = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def has_unsent(self) -> bool:
        """Whether bytes of answers wait for the caller to read."""
        return self._transport.get_write_buffer_size() > 0

    def eof_received(self) -> None:
        """Note that the caller sends no more, upon which the transport is closed."""

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
