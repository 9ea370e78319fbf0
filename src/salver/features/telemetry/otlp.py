"""How do spans reach a collector without slowing requests?

An observer on the bus keeps spans, at most so many, and another thread sends them, a batch at a time. What
the collector does not take in time is dropped and counted: a trace is worth less than an answer.
"""

import asyncio
import contextlib
import gzip
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import msgspec

from salver.features.telemetry.otlp_messages import CONTENT_TYPE, Span, Value, encode, rejected
from salver.features.telemetry.spans import spans_of
from salver.words.errors import InvalidInput
from salver.words.events import Event, Served

_LOG = logging.getLogger("salver.otlp")
#: Statuses after which another try is worth it (OTLP specification, "Failures").
_AGAIN: Final = frozenset((429, 502, 503, 504))
_TRIES: Final = 4
_MOST_PAUSE_S: Final = 30.0
_CLOSING_S: Final = 5.0


class SpanConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where spans go, and how many at a time. The batch's settings are OpenTelemetry's.

    Attributes:
        url: ``http://`` or ``https://``, with the path (``/v1/traces``); empty = spans go nowhere.
        resource: Whose spans they are.
        headers: Sent along, such as a secret.
        rate: One request in so many that no trace came with; 0 = none of them.
        count: So many of those, then no more; -1 = without end.
        queue: Spans that may wait; further ones are dropped.
        delay_s: Between two batches, while fewer than ``batch`` wait.
        batch: Most spans in one request.
        timeout_s: Of one request.
    """

    url: str = ""
    resource: tuple[tuple[str, Value], ...] = (("service.name", "salver"),)
    headers: tuple[tuple[str, str], ...] = ()
    rate: int = 1
    count: int = -1
    queue: int = 2048
    delay_s: float = 5.0
    batch: int = 512
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        """Raises InvalidInput where a value makes no sense."""
        if self.url and not self.url.startswith(("http://", "https://")):
            raise InvalidInput(
                f"spans cannot go to {self.url!r}", fix="Give the URL, as http://localhost:4318/v1/traces."
            )
        if not 0 < self.batch <= self.queue or self.delay_s <= 0 or self.timeout_s <= 0 or self.rate < 0:
            raise InvalidInput(
                f"a queue of {self.queue} spans, batches of {self.batch}, a delay of {self.delay_s:g} s and "
                f"a trace rate of {self.rate} make no sense",
                fix="A batch has at least one span, and fits into the queue.",
            )


class Post(Protocol):
    """Sends a body to the collector; blocking."""

    def __call__(self, config: SpanConfig, body: bytes) -> tuple[int, float, bytes]:
        """Status, the seconds after which to come back (0 = not said), and body of its answer.

        Raises:
            OSError: there was none.
        """
        ...


def post(config: SpanConfig, body: bytes) -> tuple[int, float, bytes]:
    """See :class:`Post`."""
    headers = {
        **dict(config.headers),
        "Content-Type": CONTENT_TYPE,
        "Content-Encoding": "gzip",
        "User-Agent": "salver",
    }
    request = urllib.request.Request(config.url, gzip.compress(body, 1), headers)
    try:
        with urllib.request.urlopen(request, timeout=config.timeout_s) as reply:
            return reply.status, 0.0, reply.read(1 << 16)
    except urllib.error.HTTPError as error:
        with error:
            pause = error.headers.get("Retry-After", "")
            return error.code, float(pause) if pause.isdecimal() else 0.0, b""


class SpanExport:
    """Sends the spans of sampled requests to a collector.

    Args:
        new_id: Fresh ids of spans.
        send: Sends one body.
        sleep: Waits that many seconds.
        offset: Nanoseconds from the server's monotonic clock to the Unix epoch, now.
    """

    def __init__(
        self,
        config: SpanConfig,
        new_id: Callable[[], str],
        version: str = "",
        send: Post = post,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        offset: Callable[[], int] = lambda: time.time_ns() - time.monotonic_ns(),
    ) -> None:
        self._config = config
        self._new_id = new_id
        self._scope = ("salver", version)
        self._send = send
        self._sleep = sleep
        self._offset = offset
        self._waiting: list[Span] = []
        self._is_due = asyncio.Event()
        self._is_closing = False
        self._sending: asyncio.Task[None] | None = None
        self._remaining = config.count
        self._seen = 0
        self._told_at = 1
        self.lost = 0

    def __repr__(self) -> str:
        return f"<SpanExport to {self._config.url}, {len(self._waiting)} waiting, {self.lost} lost>"

    def samples(self) -> bool:
        """Shall a request that comes without a trace begin one?"""
        if not self._config.rate or not self._remaining:
            return False
        self._seen += 1
        if self._seen % self._config.rate:
            return False
        if self._remaining > 0:
            self._remaining -= 1
        return True

    def observe(self, events: Sequence[Event]) -> None:
        """Keep the spans of a batch of events."""
        offset = self._offset()
        for event in events:
            if type(event) is Served and (event.traceparent or event.parent):
                self._keep(spans_of(event, offset, self._new_id))
        if self._waiting and self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._run(), name="export spans")

    def _keep(self, spans: list[Span]) -> None:
        room = self._config.queue - len(self._waiting)
        if len(spans) > room:  # half a request's spans would mislead
            self._lose(len(spans), "they came faster than they could be sent")
            return
        self._waiting += spans
        if len(self._waiting) >= self._config.batch:
            self._is_due.set()

    async def close(self) -> None:
        """Returns when what waits is sent, or has been given up."""
        self._is_closing = True
        self._is_due.set()
        if self._sending is not None:
            _, late = await asyncio.wait([self._sending], timeout=_CLOSING_S)
            for task in late:
                task.cancel()
                self._lose(len(self._waiting), "the server ended before the collector took them")

    async def _run(self) -> None:
        while self._waiting:
            if len(self._waiting) < self._config.batch and not self._is_closing:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._config.delay_s):
                        await self._is_due.wait()
            self._is_due.clear()
            batch = self._waiting[: self._config.batch]
            del self._waiting[: len(batch)]
            try:
                await self._deliver(batch)
            except Exception:
                _LOG.exception("%d spans are lost", len(batch))
                self.lost += len(batch)
        self._sending = None

    async def _deliver(self, batch: list[Span]) -> None:
        body = await asyncio.to_thread(encode, batch, self._config.resource, self._scope)
        reason = ""
        for attempt in range(_TRIES):
            pause = 2.0**attempt
            try:
                status, asked, answer = await asyncio.to_thread(self._send, self._config, body)
            except OSError as error:
                reason = str(error)
            else:
                if status < 300:
                    count, why = rejected(answer)
                    self._lose(count, why)
                    return
                reason = f"the collector answered {status}"
                if status not in _AGAIN:
                    break
                pause = max(pause, asked)
            if self._is_closing or attempt == _TRIES - 1:
                break
            await self._sleep(min(pause, _MOST_PAUSE_S))
        self._lose(len(batch), reason)

    def _lose(self, count: int, reason: str) -> None:
        """Counted always, told of each time that they have become twice as many."""
        self.lost += count
        if count and self.lost >= self._told_at:
            self._told_at = 2 * self.lost
            _LOG.warning("spans are lost, %d so far: %s", self.lost, reason)
