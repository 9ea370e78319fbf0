"""A server and its callers in one process, without a socket between them.

Requests go into the connection classes as bytes, and answers come out of them as bytes, so that the whole
path of a request runs, and nothing else: no system call, no other process, no timer. With :func:`still_time`
clocks tell the steps of a counter, so that the same requests take the same way each time.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import forms
import frames
import uvloop
from models import MODELS

MODEL = MODELS["tiny"]
HOST = "127.0.0.1:8000"
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_CREDIT = 1 << 30
#: Of the event loop, in which a batch runs and the answers of HTTP/2 are written.
TURNS = 2


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
        The clocks, by their names in ``time``. A run of a model takes 10 µs.
    """
    clocks = {"monotonic": Clock(1e-6), "perf_counter": Clock(1e-5), "thread_time": Clock(1e-5)}
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
    """The transport of a connection: keeps what was last written.

    Attributes:
        writes: System calls that a socket would have taken.
    """

    def __init__(self) -> None:
        self.last = b""
        self.writes = 0
        self.protocol: Any = None

    def write(self, data: bytes) -> None:
        self.last = data
        self.writes += 1

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 50_000) if name in ("peername", "sockname") else default

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


Requests = list[tuple[Callable[[bytes], None], bytes]]


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

    def are_answered(self) -> bool:
        """Return whether each has had a good answer to its last request."""
        ...


class HttpCallers:
    """Callers over HTTP/1.1, a connection each."""

    def __init__(self, terms: Any, count: int, headers: Sequence[str] = ()) -> None:
        from salver.transport.http1 import Connection

        form = forms.oip_json(MODEL)
        body = form.encode(MODEL.samples[0])
        lines = [f"POST {form.path} HTTP/1.1", f"Host: {HOST}", "Content-Type: application/json"]
        head = "\r\n".join([*lines, *headers, f"Content-Length: {len(body)}", "", ""])
        self._request = head.encode() + body
        self.count = count
        self.wires = [Wire() for _ in range(count)]
        self._connections = [Connection(terms, "http") for _ in self.wires]
        for connection, wire in zip(self._connections, self.wires, strict=True):
            connection.connection_made(wire)  # type: ignore[arg-type]

    def requests(self) -> Requests:
        return [(connection.data_received, self._request) for connection in self._connections]

    def are_answered(self) -> bool:
        return all(wire.last.startswith(b"HTTP/1.1 200 ") for wire in self.wires)


class GrpcCallers:
    """Calls over gRPC, as streams of one connection."""

    def __init__(self, terms: Any, count: int, headers: Sequence[tuple[str, str]] = ()) -> None:
        import hpack

        from salver.transport import http2_frames
        from salver.transport.http1_head import PREFACE
        from salver.transport.http2 import Http2

        self._frame, self._encoder = http2_frames.frame, hpack.Encoder()
        self._headers = [
            (":method", "POST"), (":scheme", "http"), (":path", _INFER), (":authority", HOST),
            ("te", "trailers"), ("content-type", "application/grpc"), *headers,
        ]  # fmt: skip
        self._message = frames.frame(forms.oip_grpc(MODEL).encode(MODEL.samples[0]))
        self.count, self._id = count, 1
        self.wires = [Wire()]
        self._connection = Http2(self.wires[0], terms, "http")  # type: ignore[arg-type]
        settings = self._frame(http2_frames.SETTINGS, 0, 0)
        self._connection.data_received(PREFACE + settings + http2_frames.window_update(0, _CREDIT))

    def requests(self) -> Requests:
        """All calls are in one read."""
        whole = b""
        for _ in range(self.count):
            block = self._encoder.encode(self._headers)
            whole += self._frame(1, 4, self._id, block) + self._frame(0, 1, self._id, self._message)
            self._id += 2
        return [(self._connection.data_received, whole)]

    def are_answered(self) -> bool:
        return self.wires[0].last.count(b"grpc-status\x010") == self.count


async def turn(callers: Callers, requests: Requests | None = None) -> None:
    """Hand a request of each caller over in one turn of the event loop, and have them answered."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, Loop):
        loop.looked = time.monotonic()
    for receive, data in requests or callers.requests():
        receive(data)
    for _ in range(TURNS):
        await asyncio.sleep(0)


def run(work: Callable[["Loop"], Awaitable[Any]]) -> Any:
    """Run a coroutine on a loop of this kind."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        loop = runner.get_loop()
        return runner.run(work(loop))  # type: ignore[arg-type]
