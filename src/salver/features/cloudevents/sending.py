"""Events that are sent to a URL without delaying requests.

KServe's agent keeps requests waiting while its queue of 100 is full; here events are dropped and counted.
"""

import asyncio
import contextlib
import json
import logging
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Final, Literal

import msgspec
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric

from salver.features import CloudEventsConfig
from salver.kernel.supervise import Supervisor

_LOG: Final = logging.getLogger("salver.cloudevents")
_MOST_WAITING: Final = 100
#: Bytes of all events that wait.
_MOST_BYTES: Final = 64 << 20
_SENDERS: Final = 4
_TIMEOUT_S: Final = 10.0
_CLOSING_S: Final = 5.0
_TYPE: Final = "org.kubeflow.serving.inference."


class Event(msgspec.Struct, frozen=True):
    """A request or an answer.

    Attributes:
        id: The same for a request and its answer.
        content_type: That of the request, also for its answer, as KServe has it.
        body: As it was sent.
        metadata: Headers of the request that the configuration names.
    """

    kind: Literal["request", "response"]
    id: str
    arrival: datetime
    content_type: str
    body: bytes
    metadata: Mapping[str, list[str]]


#: Sends a body with headers, blocking. Raises OSError.
Post = Callable[[str, bytes, Mapping[str, str]], None]


def post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Send an event. Raises OSError if nobody accepts it."""
    request = urllib.request.Request(url, body, dict(headers))
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S):
        pass


def headers_of(event: Event, config: CloudEventsConfig, now: datetime) -> dict[str, str]:
    """Return the headers of an event in binary mode (logger/worker.go:87 of KServe).

    >>> arrival = datetime(2026, 12, 1, tzinfo=UTC)
    >>> event = Event("request", "7", arrival, "application/json", b"{}", {"Foo": ["bar"]})
    >>> made = headers_of(event, CloudEventsConfig(), arrival)
    >>> made["Ce-Type"], made["Ce-Metadata"]
    ('org.kubeflow.serving.inference.request', '{"Foo": ["bar"]}')
    """
    made = {
        "Content-Type": event.content_type,
        "Ce-Specversion": "1.0",
        "Ce-Id": event.id,
        "Ce-Type": _TYPE + event.kind,
        "Ce-Source": config.source,
        "Ce-Time": event.arrival.isoformat(),
        "Ce-Recordedtime": now.isoformat(),
        "Ce-Inferenceservicename": config.service,
        "Ce-Namespace": config.namespace,
        "Ce-Component": config.component,
        "Ce-Endpoint": config.endpoint,
        "Ce-Metadata": json.dumps(event.metadata),
    }
    if config.annotations:
        made["Ce-Annotations"] = json.dumps(config.annotations)
    return made


class EventSender:
    """Sends events in the background; what comes faster than it can be sent is dropped.

    Attributes:
        counts: Events by what became of them: ``sent``, ``failed`` or ``dropped``.
    """

    def __init__(self, config: CloudEventsConfig, send: Post = post) -> None:
        self._config = config
        self._send = send
        self._waiting: deque[Event] = deque()
        self._held = 0
        self._tasks = Supervisor(_LOG, "an event is lost")
        self._told_at = 1
        self.counts = {"sent": 0, "failed": 0, "dropped": 0}

    def __repr__(self) -> str:
        return f"<EventSender to {self._config.url}, {len(self._waiting)} waiting>"

    def put(self, event: Event) -> None:
        """Send an event soon, or drop it; from the event loop's thread."""
        if len(self._waiting) >= _MOST_WAITING or self._held + len(event.body) > _MOST_BYTES:
            self.lose("dropped", "they come faster than they can be sent")
            return
        self._waiting.append(event)
        self._held += len(event.body)
        for number in range(min(len(self._waiting), _SENDERS)):
            self._tasks.start_unless_running(f"send events {number}", self._run)

    def lose(self, outcome: Literal["failed", "dropped"], reason: str) -> None:
        """Count a lost event; log whenever their number has doubled."""
        self.counts[outcome] += 1
        lost = self.counts["failed"] + self.counts["dropped"]
        if lost >= self._told_at:
            self._told_at = 2 * lost
            _LOG.warning("events have been lost, %d so far: %s", lost, reason)

    async def close(self) -> None:
        """Send what waits, or give it up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_S):
                await self._tasks.join()
        await self._tasks.close()
        while self._waiting:
            self._waiting.pop()
            self.lose("dropped", "the server has ended")

    async def _run(self) -> None:
        while self._waiting:
            event = self._waiting.popleft()
            try:
                headers = headers_of(event, self._config, datetime.now(UTC))
                await asyncio.to_thread(self._send, self._config.url, event.body, headers)
                self.counts["sent"] += 1
            except (OSError, HTTPException) as error:
                self.lose("failed", str(error))
            finally:
                self._held -= len(event.body)

    def collect(self) -> Iterator[Metric]:
        """Return the metric family; called by the Prometheus registry."""
        family = CounterMetricFamily(
            "salver_cloudevents", "Requests and answers sent as events.", labels=("outcome",)
        )
        for outcome, count in self.counts.items():
            family.add_metric((outcome,), count)
        yield family
