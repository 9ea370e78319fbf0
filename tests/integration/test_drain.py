"""A server that is told to end, with callers who go elsewhere when they are told to."""

import asyncio
import contextlib
import http.client
import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from drain_callers import CALLERS, Waiting, drained
from rolling_pods import rolled
from soaking import size
from waiting import PATIENCE_S, until
from zoo import gauge, infer_body, moody_body, write_constant, write_moody

from salver.app import Server
from salver.configuration import ServeConfig
from salver.testing.process import ServerProcess, TritonProcess
from salver.transport.server import FrontConfig

#: Longer than any test: what is tried meanwhile is tried within it, and a second signal ends it.
LONG = {"SALVER_DRAIN_DELAY": "600"}
BODY = json.dumps(infer_body())
HEAD = f"POST /v2/models/constant/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(BODY)}\r\n\r\n"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_constant(tmp_path / "repository", 1)
    return tmp_path / "repository"


@pytest.fixture
def server(repository: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess([repository], tmp_path / "log", env=LONG) as server:
        yield server.wait_ready()


def drain(server: ServerProcess) -> None:
    server.signal(signal.SIGTERM)
    until(lambda: "draining:" in server.output(), server.output)


@pytest.mark.soak
@pytest.mark.usefixtures("repository")
async def test_a_rolling_update_behind_a_late_balancer_loses_nothing(tmp_path: Path) -> None:
    """As ``benchmarks/rolling.py``, for longer, found with 100 restarts."""
    tally = await rolled(tmp_path, size(6, 3), 1.0, 4.0, 1)
    assert tally.failures == []
    assert set(tally.answered) == {"http1", "http2"}


@pytest.mark.soak
async def test_nobody_sees_a_failure_while_servers_are_drained(repository: Path, tmp_path: Path) -> None:
    """Over HTTP/1.1, HTTP/2, gRPC and its streams; ``benchmarks/drains.py`` is the same, for longer."""
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(Waiting(repository, tmp_path / f"log{number}", 0.3)) for number in range(3)
        ]
        for server in servers:
            await asyncio.to_thread(server.wait_ready)
        tally = await drained(servers, 4, dict.fromkeys(CALLERS, 2), dict.fromkeys(CALLERS, size(40, 15)))
    assert tally.failures == []
    assert set(tally.answered) == set(CALLERS)
    assert all(tally.moved[kind] for kind in ("http1", "http2", "stream")), tally.moved


async def test_requests_and_models_share_the_seconds_to_end(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the callers of a load that hangs have waited is not waited again for the load itself."""
    given: list[float] = []
    config = ServeConfig(paths=(str(repository),), front=FrontConfig(port=0, grace_seconds=30.0))
    server = Server(config)
    await server.start()
    drain, closed = server.kernel.models.drain, server.listeners.closed
    late = asyncio.get_running_loop()
    began = late.time()

    async def slow(seconds: float) -> None:
        await closed(seconds)
        monkeypatch.setattr(late, "time", lambda: began + 1_000.0)

    async def told(seconds: float) -> None:
        monkeypatch.undo()
        given.append(seconds)
        await drain(PATIENCE_S)

    monkeypatch.setattr(server.kernel.models, "drain", told)
    monkeypatch.setattr(server.listeners, "closed", slow)
    await server.stop()
    assert given == [0.0]


def health(server: ServerProcess, path: str, message: bytes = b"") -> bytes:
    with grpc.insecure_channel(server.address) as channel:
        reply: bytes = channel.unary_unary(path)(message, timeout=PATIENCE_S)
    return reply


def test_a_server_that_drains_is_not_ready_and_answers_on_new_and_old_connections(
    server: ServerProcess,
) -> None:
    old = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)
    assert ask(old) == (200, None)
    drain(server)
    assert server.get("/v2/health/ready") == (503, b'{"ready":false}')
    assert server.get("/health/ready")[0] == 503
    assert server.get("/v2/health/live")[0] == 200
    assert server.get("/v2/models/constant/ready")[0] == 400
    assert health(server, "/grpc.health.v1.Health/Check") == b"\x08\x02"  # NOT_SERVING
    assert health(server, "/inference.GRPCInferenceService/ServerReady") == b""
    assert ask(old) == (200, "close")
    assert old.sock is None, "the client closes it, as it is told to"
    new = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)
    assert ask(new) == (200, "close")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.output()


def ask(connection: http.client.HTTPConnection) -> tuple[int, str | None]:
    connection.request("POST", "/v2/models/constant/infer", BODY)
    reply = connection.getresponse()
    reply.read()
    return reply.status, reply.getheader("connection")


def test_an_answer_that_was_under_way_tells_to_close(tmp_path: Path) -> None:
    write_moody(tmp_path / "repository")
    with ServerProcess([tmp_path / "repository"], tmp_path / "log", env=LONG) as server:
        server.wait_ready()
        connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)
        connection.request("POST", "/v2/models/moody/infer", json.dumps(moody_body(f"hold {tmp_path}/gate")))
        until(lambda: gauge(server, "moody", "running_batches") == 1)
        drain(server)
        (tmp_path / "gate").touch()
        reply = connection.getresponse()
        assert (reply.status, reply.getheader("connection")) == (200, "close")
        server.signal(signal.SIGINT)
        assert server.wait() == 0


def test_what_waits_to_be_accepted_is_served(repository: Path, tmp_path: Path) -> None:
    """While the server's process stands still, the kernel takes connections for it."""
    with ServerProcess([repository], tmp_path / "log", env={"SALVER_DRAIN_DELAY": "0"}) as server:
        server.wait_ready()
        server.signal(signal.SIGSTOP)
        callers = [socket.create_connection((server.host, server.port), PATIENCE_S) for _ in range(200)]
        for caller in callers:
            caller.sendall((HEAD + BODY).encode())
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGCONT)
        answers = [caller.recv(12) for caller in callers]
        assert answers == [b"HTTP/1.1 200"] * len(callers)
        assert server.wait() == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((server.host, server.port), PATIENCE_S)


def test_a_request_that_is_half_there_is_heard_out(repository: Path, tmp_path: Path) -> None:
    with ServerProcess([repository], tmp_path / "log", env={"SALVER_DRAIN_DELAY": "0"}) as server:
        server.wait_ready()
        with socket.create_connection((server.host, server.port), PATIENCE_S) as caller:
            caller.sendall(HEAD.encode() + BODY[:9].encode())
            assert server.get("/v2/health/live")[0] == 200  # by then it has come
            server.signal(signal.SIGTERM)
            until(lambda: is_refused(server))
            caller.sendall(BODY[9:].encode())
            assert caller.recv(12) == b"HTTP/1.1 200"
        assert server.wait() == 0


def is_refused(server: ServerProcess) -> bool:
    try:
        socket.create_connection((server.host, server.port), PATIENCE_S).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_triton_server_drains_on_all_its_ports(repository: Path, tmp_path: Path) -> None:
    with TritonProcess([repository], tmp_path / "log", ["--drain-delay=600"]) as server:
        server.wait_ready()
        drain(server)
        assert server.get("/v2/health/ready")[0] == 503
        with grpc.insecure_channel(f"{server.host}:{server.ports['grpc']}") as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            assert check(b"", timeout=PATIENCE_S) == b"\x08\x02"
        assert server.post("/v2/models/constant/infer", infer_body())[0] == 200
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
