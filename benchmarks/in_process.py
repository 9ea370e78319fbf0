"""A server and its callers in one process, without a socket between them.

Requests go into the connection classes as bytes, and answers come out of them as bytes, so that the whole
path of a request runs, and nothing else: no system call, no other process, no timer. With :func:`still_time`
clocks tell the steps of a counter, so that the same requests take the same way each time.
"""

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import forms
import frames
import uvloop
from models import MODELS
from text_models import TEXT

MODEL = MODELS["tiny"]
HOST = "127.0.0.1:8000"
_CREDIT = 1 << 30
#: What a run of the model takes: little enough that one of sixteen rows is expected to be short, too.
RUN_S = 5e-6
#: Turns of the event loop in which a request is answered, at the most.
_MOST_TURNS = 500


class Clock:
    """A clock that each look moves on by a step.

    Attributes:
        now: Seconds.
        step: In seconds.
        looks: So far.
    """

    def __init__(self, step: float) -> None:
        self.now = 1000.0
        self.step = step
        self.looks = 0

    def read(self) -> float:
        self.looks += 1
        self.now += self.step
        return self.now


def still_time() -> dict[str, Clock]:
    """Let clocks tell steps in place of time, from now on; before Salver is imported.

    Returns:
        The clocks, by their names in ``time``.
    """
    clocks = {"monotonic": Clock(1e-6), "perf_counter": Clock(RUN_S), "thread_time": Clock(RUN_S)}
    for name, clock in clocks.items():
        setattr(time, name, clock.read)
    return clocks


class Loop(uvloop.Loop):  # type: ignore[misc]
    """An event loop that can be told to set no timers.

    Attributes:
        is_still: What is to be called later is not called at all.
        calls: Callbacks for its next turn, so far.
        looked: When it last looked for bytes, which is its time within a turn, as of uvloop.
    """

    is_still = False
    calls = 0
    looked = 0.0

    def time(self) -> float:
        return self.looked if self.is_still else super().time()

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        if self.is_still:
            return _Never()
        return super().call_later(delay, callback, *args, context=context)

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        self.calls += 1
        return super().call_soon(callback, *args, context=context)


class _Never:
    def cancel(self) -> None:
        """There is nothing to do."""


class Wire:
    """The transport of a connection, which has no other end.

    Args:
        mark: Bytes that each good answer has once.

    Attributes:
        good: Good answers so far.
        last: What was written last.
        writes: System calls that a socket would have taken.
    """

    def __init__(self, mark: bytes) -> None:
        self._mark = mark
        self.good = self.writes = 0
        self.last = b""

    def write(self, data: bytes) -> None:
        self.last = data
        self.good += data.count(self._mark)
        self.writes += 1

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 50_000) if name in ("peername", "sockname") else default

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


Requests = list[tuple[Callable[[bytes], None], bytes]]
#: Returns what the headers of a request of that number are, beside those that all have.
MoreHeaders = Callable[[int], Sequence[tuple[str, str]]]


def no_headers(number: int) -> Sequence[tuple[str, str]]:
    return ()


class Callers(Protocol):
    """So many callers, who ask together.

    Attributes:
        count: Of them.
        wires: Of their connections.
    """

    count: int
    wires: list[Wire]

    def requests(self) -> Requests:
        """Return what is called with what, for a request of each caller."""
        ...


class HttpCallers:
    """Callers over HTTP/1.1, a connection each."""

    def __init__(self, terms: Any, count: int, more: MoreHeaders = no_headers) -> None:
        from salver.transport.http1 import Connection

        path, self.body = self.asks()
        self._lines = [f"POST {path} HTTP/1.1", f"Host: {HOST}", "Content-Type: application/json"]
        self._lines.append(f"Content-Length: {len(self.body)}")
        self._more, self._number = more, 0
        self.count = count
        self.wires = [Wire(b"HTTP/1.1 200 ") for _ in range(count)]
        self._connections = [Connection(terms, "http") for _ in self.wires]
        for connection, wire in zip(self._connections, self.wires, strict=True):
            connection.connection_made(wire)  # type: ignore[arg-type]

    def asks(self) -> tuple[str, bytes]:
        """Return path and body of a request."""
        form = forms.oip_json(MODEL)
        return form.path, form.encode(MODEL.samples[0])

    def requests(self) -> Requests:
        return [(connection.data_received, self._request()) for connection in self._connections]

    def _request(self) -> bytes:
        more = [f"{name}: {value}" for name, value in self._more(self._number)]
        self._number += 1
        return "\r\n".join([*self._lines, *more, "", ""]).encode() + self.body


class TextCallers(HttpCallers):
    """Callers who send a text to a classifier.

    Attributes:
        model: Its name.
    """

    model = "words"

    def asks(self) -> tuple[str, bytes]:
        """Return path and body of a request."""
        return f"/v1/models/{self.model}", json.dumps({"inputs": TEXT}).encode()


class GraphCallers(TextCallers):
    """Callers who send a text to a pipeline."""

    model = "graph"


class GrpcCallers:
    """Calls over gRPC, as streams of one connection."""

    def __init__(self, terms: Any, count: int, more: MoreHeaders = no_headers) -> None:
        import hpack

        from salver.transport import http2_frames
        from salver.transport.http1_head import PREFACE
        from salver.transport.http2 import Http2

        self._frame, self._encoder = http2_frames.frame, hpack.Encoder()
        self._headers = [
            (":method", "POST"), (":scheme", "http"), (":path", frames.INFER_PATH), (":authority", HOST),
            ("te", "trailers"), ("content-type", "application/grpc"),
        ]  # fmt: skip
        self._more, self._number = more, 0
        self.message = frames.frame(forms.oip_grpc(MODEL).encode(MODEL.samples[0]))
        self.count = count
        self.wires = [Wire(b"grpc-status\x010")]
        self._connection = Http2(self.wires[0], terms, "http")  # type: ignore[arg-type]
        settings = self._frame(http2_frames.SETTINGS, 0, 0)
        self._connection.data_received(PREFACE + settings + http2_frames.window_update(0, _CREDIT))

    def requests(self) -> Requests:
        """All calls are in one read."""
        whole = b""
        for _ in range(self.count):
            block = self._encoder.encode([*self._headers, *self._more(self._number)])
            id = 2 * self._number + 1
            whole += self._frame(1, 4, id, block) + self._frame(0, 1, id, self.message)
            self._number += 1
        return [(self._connection.data_received, whole)]


def good(callers: Callers) -> int:
    """Return how many good answers there were so far."""
    return sum(wire.good for wire in callers.wires)


async def ask(callers: Callers, requests: Requests | None = None, pause_s: float = 0.0) -> int:
    """Hand a request of each caller over at once, and have them answered; return the turns of the loop."""
    most = good(callers) + callers.count
    loop = asyncio.get_running_loop()
    if isinstance(loop, Loop):
        loop.looked = time.monotonic()
    for receive, data in requests or callers.requests():
        receive(data)
    return await answered(callers, most, pause_s)


async def answered(callers: Callers, most: int, pause_s: float = 0.0) -> int:
    """Wait for so many good answers in all; return the turns of the loop."""
    for turns in range(_MOST_TURNS):
        if good(callers) == most:
            return turns
        await asyncio.sleep(pause_s)
    found = good(callers) - most + callers.count
    raise SystemExit(f"{found} of {callers.count} answers are good, such as {callers.wires[0].last!r}")


def run(work: Callable[["Loop"], Awaitable[Any]]) -> Any:
    """Run a coroutine on a loop of this kind, which never seems to lag, however slow a count makes it."""
    from salver.transport import terms

    terms._NO_LAG_S = math.inf  # type: ignore[misc]
    with asyncio.Runner(loop_factory=Loop) as runner:
        loop = runner.get_loop()
        return runner.run(work(loop))  # type: ignore[arg-type]
