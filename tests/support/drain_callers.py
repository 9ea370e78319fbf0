"""Callers of several servers, of which one after the other is drained; none of them may see a failure.

A caller keeps a connection until it is told to close it (``Connection: close``, GOAWAY, the end of a stream
that says so), and goes elsewhere then, or where a new connection is refused. Whatever else goes wrong is a
failure: a broken exchange, a reset, a status that is not a success.
"""

import asyncio
import contextlib
import itertools
import json
import queue
import signal
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np
from tritonclient.grpc import InferInput, service_pb2
from zoo import infer_body

from salver.testing.process import ServerProcess

_BODY: Final = json.dumps(infer_body()).encode()
_PATH: Final = b"/v2/models/constant/infer"
_SERVICE: Final = "/inference.GRPCInferenceService/"
_PAUSE_S: Final = 0.002
#: Who is refused tries another server, after so long.
_REFUSED_S: Final = 0.02
_ENDING: Final = "shutting down"


_PROGRAM: Final = """
import sys
from salver.configuration import ServeConfig
from salver.transport.server import FrontConfig
import uvloop
from salver.running import serve
port, delay, *paths = sys.argv[1:]
front = FrontConfig(port=int(port))
config = ServeConfig(tuple(paths), front=front, drain_delay=float(delay), waits_for_models=True)
sys.exit(uvloop.run(serve(config, lambda info: None)))
"""


class Waiting(ServerProcess):
    """A server that opens its port when its models are loaded, so that nobody comes too early."""

    def __init__(self, repository: Path, log: Path, delay: float) -> None:
        super().__init__([repository], log, [str(delay)])

    def command(self) -> list[str]:
        """The command line."""
        return [sys.executable, "-c", _PROGRAM, str(self.port), *self._options, *map(str, self._paths)]


class Tally:
    """What callers have seen, by kind."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.moved: Counter[str] = Counter()
        self.failures: list[str] = []
        self.is_over = False

    def __repr__(self) -> str:
        return f"<Tally {self.answered.total()} answered, {len(self.failures)} failed>"

    def fail(self, kind: str, what: object) -> None:
        """An exchange went wrong."""
        self.failures.append(f"{kind}: {what!r}")

    def report(self, **run: object) -> int:
        """Print what a run was, and what callers saw; return 1 where one of them saw a failure."""
        told = {
            **run,
            "answered": dict(self.answered),
            "failures": len(self.failures),
            "first": self.failures[:5],
        }
        print(json.dumps(told, indent=2))
        return int(bool(self.failures))


class Ports:
    """Where servers are, also some that are being drained or started."""

    def __init__(self, ports: list[int]) -> None:
        self.all = ports
        self._turns = itertools.cycle(ports)

    def next(self) -> int:
        """The next one."""
        return next(self._turns)

    async def socket(self, tally: Tally) -> socket.socket | None:
        """The same as a socket."""
        while not tally.is_over:
            sock = socket.socket()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.next()))
                return sock
            except ConnectionRefusedError:
                sock.close()
                await asyncio.sleep(_REFUSED_S)
        return None

    async def connect(self, tally: Tally) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection to the first one that takes it; None = the callers shall end."""
        while not tally.is_over:
            try:
                return await asyncio.open_connection("127.0.0.1", self.next())
            except ConnectionRefusedError:
                await asyncio.sleep(_REFUSED_S)
        return None


async def http1(ports: Ports, tally: Tally) -> None:
    """One request at a time on a kept-alive connection of HTTP/1.1."""
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (_PATH, len(_BODY))
    while (pair := await ports.connect(tally)) is not None:
        reader, writer = pair
        is_kept = True
        while is_kept and not tally.is_over:
            try:
                writer.write(head + _BODY)
                answer = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(answer.split(b"content-length: ")[1].split()[0]))
            except (OSError, asyncio.IncompleteReadError) as error:
                tally.fail("http1", error)
                break
            if answer.split()[1] == b"200":
                tally.answered["http1"] += 1
            else:
                tally.fail("http1", answer)
            is_kept = b"connection: close" not in answer
            await asyncio.sleep(_PAUSE_S)
        tally.moved["http1"] += not is_kept
        writer.close()


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _field(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


_FIELDS: Final = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", _PATH),
    (b":authority", b"localhost"),
    (b"content-length", b"%d" % len(_BODY)),
)
_HEADERS: Final = b"".join(_field(*field) for field in _FIELDS)
_PREFACE: Final = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0) + _frame(8, 0, 0, struct.pack(">I", 1 << 30))
)
_OK: Final = 0x88  # ``:status: 200`` of HPACK's table
_REFUSED: Final = 7


class Wire:
    """A connection that is read to its end whatever becomes of what is written to it, as clients in C do.

    asyncio's streams forget what was received once a write has failed, a GOAWAY with it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = b""

    async def write(self, data: bytes) -> None:
        """Send all; where that fails, the next read tells why."""
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def read(self, size: int) -> bytes:
        """So many bytes. Raises OSError, IncompleteReadError."""
        while len(self._received) < size:
            piece = await asyncio.get_running_loop().sock_recv(self._sock, 1 << 16)
            if not piece:
                raise asyncio.IncompleteReadError(self._received, size)
            self._received += piece
        found, self._received = self._received[:size], self._received[size:]
        return found


async def http2(ports: Ports, tally: Tally) -> None:
    """One request at a time on a connection of HTTP/2."""
    while (sock := await ports.socket(tally)) is not None:
        wire = Wire(sock)
        await wire.write(_PREFACE)
        stream, is_kept = 1, True
        while is_kept and not tally.is_over:
            try:
                await wire.write(_frame(1, 4, stream, _HEADERS) + _frame(0, 1, stream, _BODY))
                is_answered, is_kept = await _answer(wire, stream)
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                tally.fail("http2", error)
                break
            tally.answered["http2"] += is_answered
            stream += 2
            await asyncio.sleep(_PAUSE_S)
        tally.moved["http2"] += not is_kept
        sock.close()


async def _answer(wire: Wire, stream: int) -> tuple[bool, bool]:
    """Was this request answered, or else left undone, as one that the server has told of; goes it on here?

    Raises:
        ValueError: the answer is no success.
    """
    is_kept, is_dropped = True, False
    while True:
        try:
            head = await wire.read(9)
            payload = await wire.read(int.from_bytes(head[:3], "big"))
        except (OSError, asyncio.IncompleteReadError):
            if is_dropped:  # GOAWAY said that it is not worked on
                return False, False
            raise
        kind, flags, of = head[3], head[4], int.from_bytes(head[5:], "big")
        if kind == 4 and not flags & 1:
            await wire.write(_frame(4, 1, 0))
        elif kind == 7:
            is_kept = False
            is_dropped = int.from_bytes(payload[:4], "big") < stream
        elif kind == 3 and of == stream:
            if int.from_bytes(payload, "big") == _REFUSED:
                return False, False
            raise ValueError(f"RST_STREAM {payload.hex()}")
        elif kind == 1 and of == stream and payload[0] != _OK:
            raise ValueError(f"HEADERS {payload!r}")
        if kind in (0, 1) and of == stream and flags & 1:
            return True, is_kept


def _target(ports: Ports) -> tuple[str, list[tuple[str, str | int]]]:
    addresses = ",".join(f"127.0.0.1:{port}" for port in ports.all)
    options: list[tuple[str, str | int]] = [
        ("grpc.default_authority", "localhost"),  # its own, a list of addresses, is none
        ("grpc.lb_policy_name", "round_robin"),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 200),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return f"ipv4:{addresses}", options


def _request() -> bytes:
    given = InferInput("x", [1, 16], "FP32")
    given.set_data_from_numpy(np.zeros((1, 16), np.float32))
    return bytes(
        service_pb2.ModelInferRequest(
            model_name="constant", inputs=[given._get_tensor()], raw_input_contents=[given._get_content()]
        ).SerializeToString()
    )


async def grpc_unary(ports: Ports, tally: Tally) -> None:
    """Calls over gRPC, spread over all servers by gRPC itself."""
    message = _request()
    async with grpc.aio.insecure_channel(*_target(ports)) as channel:
        call = channel.unary_unary(f"{_SERVICE}ModelInfer")
        while not tally.is_over:
            try:
                await call(message, wait_for_ready=True)
                tally.answered["grpc"] += 1
            except grpc.aio.AioRpcError as error:
                tally.fail("grpc", (error.code(), error.details()))
            await asyncio.sleep(_PAUSE_S)


async def grpc_stream(ports: Ports, tally: Tally) -> None:
    """One request at a time on a stream of gRPC's; a new one where the server says that it ends.

    With gRPC's synchronous client: a write of ``grpc.aio`` to a stream that has just ended hides the status.
    """
    await asyncio.to_thread(_stream, ports, tally)


def _stream(ports: Ports, tally: Tally) -> None:
    message = _request()
    with grpc.insecure_channel(*_target(ports)) as channel:
        open_stream = channel.stream_stream(f"{_SERVICE}ModelStreamInfer")
        while not tally.is_over:
            messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            messages.put(message)
            try:
                for _ in open_stream(iter(messages.get, None), wait_for_ready=True):
                    tally.answered["stream"] += 1
                    time.sleep(_PAUSE_S)
                    messages.put(None if tally.is_over else message)
                if not tally.is_over:
                    tally.fail("stream", "ended without a word")
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE and _ENDING in (error.details() or ""):
                    tally.moved["stream"] += 1
                else:
                    tally.fail("stream", (error.code(), error.details()))
            messages.put(None)


CALLERS: Final[dict[str, Callable[[Ports, Tally], Coroutine[Any, Any, None]]]] = {
    "http1": http1,
    "http2": http2,
    "grpc": grpc_unary,
    "stream": grpc_stream,
}


async def roll(
    servers: Sequence[ServerProcess], tally: Tally, drains: int, per_drain: Mapping[str, int]
) -> None:
    """Drain one server after the other, and start it again.

    Args:
        per_drain: Answers of each kind that callers have before the next drain begins.

    Raises:
        AssertionError: a server did not end well.
    """
    wanted: Counter[str] = Counter()
    starting: dict[int, asyncio.Task[object]] = {}
    for number in range(drains):
        turn = number % len(servers)
        for other in [turn, (turn + 1) % len(servers)]:  # whom callers go to has to be there
            if other in starting:
                await starting.pop(other)
        wanted.update(per_drain)
        while any(tally.answered[kind] < count for kind, count in wanted.items()):
            assert not tally.failures, tally.failures[:3]
            await asyncio.sleep(_PAUSE_S)
        server = servers[turn]
        server.signal(signal.SIGTERM)
        code = await asyncio.to_thread(server.wait)
        assert code == 0, server.output()[-2000:]
        starting[turn] = asyncio.create_task(asyncio.to_thread(_start, server))
    for task in starting.values():
        await task


def _start(server: ServerProcess) -> None:
    server.start(port=server.port)
    server.wait_ready()


async def drained(
    servers: Sequence[ServerProcess],
    drains: int,
    kinds: Mapping[str, int],
    per_drain: Mapping[str, int],
) -> Tally:
    """What callers see while servers are drained.

    Args:
        kinds: How many callers there are of each kind.
        per_drain: As of :func:`roll`.
    """
    tally, ports = Tally(), Ports([server.port for server in servers])
    async with asyncio.TaskGroup() as callers:
        for kind, count in kinds.items():
            for _ in range(count):
                callers.create_task(CALLERS[kind](ports, tally))
        try:
            await roll(servers, tally, drains, per_drain)
        finally:
            tally.is_over = True
    return tally
