"""Connections that do nothing, or do it slowly, or end in the middle."""

import contextlib
import json
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import PATIENCE_S, until
from zoo import infer_body, write_mlp

from salver.testing.process import ServerProcess

IDLE = 10_000
BODY = json.dumps(infer_body()).encode()
HEAD = b"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(BODY)


@contextlib.contextmanager
def many(server: ServerProcess, count: int) -> Iterator[list[socket.socket]]:
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            sockets.append(socket.create_connection((server.host, server.port), timeout=PATIENCE_S))
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def answers(server: ServerProcess) -> None:
    status, reply = server.post("/v2/models/mlp/infer", infer_body())
    assert status == 200, reply


def read_reply(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data or not data.endswith(b"}"):
        part = sock.recv(65536)
        if not part:
            break
        data += part
    return data


def test_ten_thousand_idle_connections(strict: ServerProcess) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(IDLE, soft - 500)
    print(f"{count} idle connections; RLIMIT_NOFILE is {soft}")
    before = strict.descriptors()
    with many(strict, count) as idle:
        until(lambda: strict.descriptors() >= before + count - 50, strict.descriptors)
        for _ in range(20):
            answers(strict)
        idle[count // 2].sendall(HEAD + BODY)
        assert read_reply(idle[count // 2]).startswith(b"HTTP/1.1 200")
    until(lambda: strict.descriptors() <= before + 20, strict.descriptors)


class Starved(ServerProcess):
    """May open 400 files."""

    def command(self) -> list[str]:
        return ["sh", "-c", 'ulimit -n 400; exec "$@"', "-", *super().command()]


def test_more_connections_than_descriptors_wait_and_end_nothing(tmp_path: Path) -> None:
    write_mlp(tmp_path / "mlp", 1)
    with Starved([tmp_path / "mlp"], tmp_path / "log") as server:
        server.wait_ready()
        with many(server, 600) as idle:
            until(lambda: server.descriptors() > 150, server.descriptors)
            idle[0].sendall(HEAD + BODY)
            assert read_reply(idle[0]).startswith(b"HTTP/1.1 200")
            assert server.descriptors() < 390
        answers(server)
        assert server.stop() == 0


def test_slow_heads_and_bodies_hold_nobody_up(strict: ServerProcess) -> None:
    with many(strict, 200) as slow:
        for index, sock in enumerate(slow):
            sock.sendall(HEAD[:20] if index % 2 else HEAD + BODY[:10])
        for _ in range(10):
            answers(strict)
        for index, sock in enumerate(slow):
            sock.sendall(HEAD[20:] + BODY if index % 2 else BODY[10:])
        for sock in slow:
            assert read_reply(sock).startswith(b"HTTP/1.1 200")


def test_a_body_sent_byte_by_byte_is_answered(strict: ServerProcess) -> None:
    with many(strict, 1) as (sock,):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in HEAD + BODY:
            sock.sendall(bytes([byte]))
        assert read_reply(sock).startswith(b"HTTP/1.1 200")


def test_callers_that_leave_in_the_middle_of_a_body(strict: ServerProcess) -> None:
    before = strict.descriptors()
    for cut in range(0, len(HEAD) + len(BODY), 5):
        with many(strict, 1) as (sock,):
            sock.sendall((HEAD + BODY)[:cut])
    until(lambda: strict.descriptors() <= before + 5, strict.descriptors)


BAD_HEADS = {
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00" * 10 + b"\r\n\r\n",
    "no such version": b"GET / HTTP/9.9\r\n\r\n",
    "two lengths": HEAD.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n") + BODY,
    "length and chunks": HEAD.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n") + b"0\r\n\r\n",
    "a negative length": HEAD.replace(b"%d" % len(BODY), b"-5"),
    "a length that is text": HEAD.replace(b"%d" % len(BODY), b"abc"),
    "a bad chunk": b"POST /v2 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a NUL in a header": b"GET / HTTP/1.1\r\nHost: localhost\r\nA: \0\r\n\r\n",
    "ten thousand headers": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 10_000 + b"\r\n",
    "an endless header": b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 3_000_000 + b"\r\n\r\n",
    "an endless path": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "broken HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000,
}


@pytest.mark.parametrize("case", BAD_HEADS)
def test_broken_heads_end_their_connection_and_no_other(strict: ServerProcess, case: str) -> None:
    with many(strict, 1) as (sock,):
        sock.settimeout(PATIENCE_S)
        reply = b""
        with contextlib.suppress(ConnectionError, BrokenPipeError):
            sock.sendall(BAD_HEADS[case])
            with contextlib.suppress(OSError):  # the server may have ended it by now
                sock.shutdown(socket.SHUT_WR)
            while part := sock.recv(65536):
                reply += part
        if case != "broken HTTP/2":
            assert not reply.startswith(b"HTTP/1.1 200"), reply[:200]
            assert not reply.startswith(b"HTTP/1.1 5"), reply[:200]


def test_no_descriptor_at_all_costs_connections_and_not_the_server(tmp_path: Path) -> None:
    """Models, files and other processes' limits can take what connections are counted to leave."""
    write_mlp(tmp_path / "mlp", 1)
    with ServerProcess([tmp_path / "mlp"], tmp_path / "log") as server:
        server.wait_ready()
        answers(server)
        pid, limit = server.pid, resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (server.descriptors() + 5, limit[1]))
        with many(server, 100):
            until(lambda: "no file descriptor is left" in server.output(), server.output)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
        until(lambda: can_ask(server), server.output)
        answers(server)
        assert server.family()[0] == pid
        assert server.output().count("no file descriptor is left") < 6
        assert server.stop() == 0


def can_ask(server: ServerProcess) -> bool:
    with contextlib.suppress(OSError):
        return server.get("/v2/health/live")[0] == 200
    return False


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def test_a_header_block_without_end_is_cut(strict: ServerProcess) -> None:
    """By its size; empty frames by how many bytes make no request (``transport/watch.py``)."""
    begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 0, 1, b"\x82")
    with many(strict, 1) as (sock,):
        sock.sendall(begin)
        end = time.monotonic() + PATIENCE_S
        with pytest.raises(ConnectionError):
            while time.monotonic() < end:
                sock.sendall(frame(9, 0, 1, b"\x00\x01a\x01b") * 100)
    answers(strict)
