"""Export of spans to a collector without delaying requests.

An observer buffers a bounded number of spans, and a thread sends them in batches. Spans that the collector
does not accept in time are dropped and counted: traces matter less than answers.
"""

import asyncio
import contextlib
import functools
import gzip
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from salver.configuration import ServeConfig
from salver.features.telemetry.otlp_messages import CONTENT_TYPE, Span, Value, encode, rejected
from salver.features.telemetry.spans import spans_of
from salver.kernel.supervise import Backoff, Supervisor, retry
from salver.words.errors import InvalidInput
from salver.words.events import Event, Served

_LOG = logging.getLogger("salver.otlp")
#: Statuses after which to retry (OTLP specification, "Failures").
_AGAIN: Final = frozenset((429, 502, 503, 504))
_TRIES: Final = 4
_PAUSE: Final = Backoff(first_s=1.0, most_s=30.0)
_CLOSING_S: Final = 5.0


class SpanConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Destination and batching of spans. The batch settings are OpenTelemetry's.

    Attributes:
        url: ``http://`` or ``https://``, with the path (``/v1/traces``); empty = no export.
        resource: Attributes of the source of the spans.
        headers: Additional headers, such as a secret.
        rate: Trace one in this many requests that come without a trace; 0 = none.
        count: Maximum number of those; -1 = no limit.
        queue: Maximum buffered spans; further ones are dropped.
        delay_s: Seconds between two batches while fewer than ``batch`` are buffered.
        batch: Maximum spans per request.
        timeout_s: Time-out of a request.
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
        """Check the values. Raises InvalidInput."""
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


def span_config(config: ServeConfig) -> SpanConfig:
    """Return the table of a server's configuration. Raises InvalidInput."""
    return config.table("tracing", SpanConfig)


#: Sends a body and returns status, seconds after which to retry (0 = not given), and body of the answer.
Post = Callable[[SpanConfig, bytes], tuple[int, float, bytes]]


def post(config: SpanConfig, body: bytes) -> tuple[int, float, bytes]:
    """Send a body to the collector, blocking. Raises OSError without an answer."""
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


class _Refused(OSError):
    """Answer of a collector that did not take spans."""

    def __init__(self, status: int, pause: float) -> None:
        super().__init__(f"the collector answered {status}")
        self.is_passing = status in _AGAIN
        self.pause = pause


class SpanExport:
    """Exporter of the spans of sampled requests.

    Args:
        new_id: Returns a new span id.
        send: Sends one body.
        sleep: Waits that many seconds.
        offset: Returns the nanoseconds from the server's monotonic clock to the Unix epoch.
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
        self._tasks = Supervisor(_LOG, "spans are lost")
        self._remaining = config.count
        self._seen = 0
        self._is_on = True
        self._told_at = 1
        self.lost = 0

    def __repr__(self) -> str:
        return f"<SpanExport to {self._config.url}, {len(self._waiting)} waiting, {self.lost} lost>"

    def switch(self, is_on: bool) -> None:
        """Start no traces, or start them again; those of callers are always continued."""
        self._is_on = is_on

    def samples(self) -> bool:
        """Return whether to start a trace for a request without one."""
        if not (self._is_on and self._config.rate and self._remaining):
            return False
        self._seen += 1
        if self._seen % self._config.rate:
            return False
        if self._remaining > 0:
            self._remaining -= 1
        return True

    def observe(self, events: Sequence[Event]) -> None:
        """Buffer the spans of a batch of events."""
        offset = self._offset()
        for event in events:
            if type(event) is Served and (event.traceparent or event.parent):
                self._keep(spans_of(event, offset, self._new_id))
        if self._waiting:
            self._tasks.start_unless_running("export spans", self._run)

    def _keep(self, spans: list[Span]) -> None:
        room = self._config.queue - len(self._waiting)
        if len(spans) > room:  # an incomplete request would be misleading
            self._lose(len(spans), "they came faster than they could be sent")
            return
        self._waiting += spans
        if len(self._waiting) >= self._config.batch:
            self._is_due.set()

    async def close(self) -> None:
        """Send or give up the buffered spans, then stop."""
        self._is_closing = True
        self._is_due.set()
        try:
            async with asyncio.timeout(_CLOSING_S):
                await self._tasks.join()
        except TimeoutError:
            await self._tasks.close()
            self._lose(len(self._waiting), "the server ended before the collector took them")

    async def _run(self) -> None:
        while self._waiting:
            if len(self._waiting) < self._config.batch and not self._is_closing:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._config.delay_s):
                        await self._is_due.wait()
            self._is_due.clear()
            # Taken out at once: what comes while it is sent is of the next batch.
            batch = self._waiting[: self._config.batch]
            del self._waiting[: len(batch)]
            try:
                await self._deliver(batch)
            except Exception:
                _LOG.exception("%d spans have been dropped", len(batch))
                self.lost += len(batch)

    async def _deliver(self, batch: list[Span]) -> None:
        body = await asyncio.to_thread(encode, batch, self._config.resource, self._scope)
        try:
            call = functools.partial(asyncio.to_thread, self._send_once, body)
            lost, reason = await retry(call, self._pause, self._sleep)
        except OSError as error:
            lost, reason = len(batch), str(error)
        self._lose(lost, reason)

    def _send_once(self, body: bytes) -> tuple[int, str]:
        """Return how many spans the collector rejected, and why. Blocking; raises OSError."""
        status, asked, answer = self._send(self._config, body)
        if status >= 300:
            raise _Refused(status, asked)
        return rejected(answer)

    def _pause(self, error: Exception, failures: int) -> float | None:
        if self._is_closing or failures == _TRIES or not isinstance(error, OSError):
            return None
        if not isinstance(error, _Refused):
            return _PAUSE.delay(failures)
        if not error.is_passing:
            return None
        return min(max(_PAUSE.delay(failures), error.pause), _PAUSE.most_s)

    def _lose(self, count: int, reason: str) -> None:
        """Count dropped spans; log whenever their number has doubled."""
        self.lost += count
        if count and self.lost >= self._told_at:
            self._told_at = 2 * self.lost
            _LOG.warning("spans have been dropped, %d so far: %s", self.lost, reason)
