"""Attacks on the way in which keys travel, against a running server, and on how they are looked up."""

import resource
import socket
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import h2.config
import h2.connection
import h2.events
import pytest
from soaking import ONLY
from waiting import PATIENCE_S, until
from zoo import write_mlp

from salver.features.access.key_format import digest_of, new_key
from salver.features.access.key_table import Key, KeyTable
from salver.features.access.keys_file import KeyRecord, editing, hash_of
from salver.features.access.scopes import Scopes
from salver.testing.process import ServerProcess
from salver.transport.http1_head import Heads
from salver.words.errors import Unidentified

Pairs = Sequence[tuple[str, str]]


class World(NamedTuple):
    server: ServerProcess
    good: str
    other: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("attacks")
    write_mlp(folder / "models" / "mlp", 1)
    good, other = new_key(), new_key()
    with editing(folder / "keys.toml") as records:
        records.append(KeyRecord("good", "good", hash_of(good), ("infer", "read")))
        records.append(KeyRecord("other", "other", hash_of(other), ("infer", "read")))
    options = ["--keys-file", str(folder / "keys.toml")]
    with ServerProcess([folder / "models"], folder / "log", options=options) as server:
        until(lambda: "model ready" in server.output(), server.output)
        yield World(server, good, other)


def raw(world: World, text: str) -> int:
    """Status of the answer to bytes over HTTP/1.1; 0 = the connection was closed without one."""
    with socket.create_connection(("127.0.0.1", world.server.port)) as caller:
        caller.settimeout(PATIENCE_S)
        caller.sendall(text.encode("latin-1"))
        answer = b""
        while b"\r\n" not in answer and (piece := caller.recv(4096)):
            answer += piece
        return int(answer.split(b" ", 2)[1]) if answer else 0


def get(world: World, headers: str, path: str = "/v2/models/mlp", verb: str = "GET") -> int:
    for _ in range(2):  # the second by a head that is known
        status = raw(world, f"{verb} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
    return status


def test_each_place_and_spelling_of_a_key(world: World) -> None:
    key, other = world.good, world.other
    for headers in (
        f"Authorization: Bearer {key}\r\n",
        f"AUTHORIZATION: BEARER  {key}  \r\n",
        f"authorization: bearer {key}\r\n",
        f"X-API-KEY: {key}\r\n",
        f"Api-Key: {key}\r\n",
        f"x-api-key: {key}\r\nx-api-key: {key}\r\nAuthorization: Bearer {key}\r\n",
        f"Authorization: AWS4-HMAC-SHA256 Credential=x\r\nx-api-key: {key}\r\n",
    ):
        assert get(world, headers) == 200, headers
    for headers in (
        f"Authorization: Bearer {key}\r\nAuthorization: Bearer {other}\r\n",
        f"Authorization: Bearer {other}\r\nAuthorization: Bearer {key}\r\n",
        f"authorization: Bearer {key}\r\nX-Api-Key: {other}\r\n",
        f"x-api-key: {key}\r\nApi-Key: nobodys\r\n",
        f"Authorization: Bearer {key}\r\nAUTHORIZATION: Bearer\r\n",
        f"x-api-key: {key}\r\nx-api-key: \r\n",
    ):
        assert get(world, headers) == 400, headers
    for headers in (
        "Authorization: Bearer\r\n",
        "Authorization: Bearer a b\r\n",
        'Authorization: ""\r\n',
        f"Authorization: {key}\r\n",
        f"Authorization: Bearer{key}\r\n",
        f"Authorization: Token {key}\r\n",
        f"Authorization: Bearer {key.lower()}\r\n",
        f"Authorization: Bearer {key[:-1]}\r\n",
        f"Authorization: Bearer {key}\xad\r\n",
        f"Authorization: Bearer {key},{key}\r\n",
        f"X_Api_Key: {key}\r\n",
        f"Cookie: x-api-key={key}\r\n",
        f"Proxy-Authorization: Bearer {key}\r\n",
        "X-Forwarded-User: good\r\nX-Forwarded-For: 127.0.0.1\r\n",
        f"x-api-key: {key}{'x' * 8192}\r\n",
    ):
        assert get(world, headers) in (400, 401), headers


def test_a_key_elsewhere_than_in_a_header(world: World) -> None:
    key = world.good
    for path in (f"/v2/models/mlp?api_key={key}", f"/v2/models/mlp?authorization=Bearer%20{key}", f"/{key}"):
        assert get(world, "", path) in (401, 404)
    body = f'{{"x-api-key": "{key}", "api_key": "{key}"}}'
    head = f"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    assert raw(world, head + body) == 401
    chunked = "POST /v2/models/mlp/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert raw(world, f"{chunked}2\r\n{{}}\r\n0\r\nx-api-key: {key}\r\n\r\n") == 401, "a trailer"


def test_what_two_readers_would_understand_differently(world: World) -> None:
    key = world.good
    for headers in (
        f"x-api-key : {key}\r\n",
        f"x-api-key: a\r\n {key}\r\n",
        f" x-api-key: {key}\r\n",
        f"x-api-key: {key}\nx-other: 1\r\n",
        f"x-api-key: {key}\x00\r\n",
        f":certificate: {key}\r\n",
        f":proxy: 127.0.0.1\r\nx-api-key: {key}\r\n",
        f"Host: elsewhere\r\nx-api-key: {key}\r\n",
        f"Content-Length: 0\r\nContent-Length: 1\r\nx-api-key: {key}\r\n",
        f"Content-Length: 2\r\nTransfer-Encoding: chunked\r\nx-api-key: {key}\r\n",
    ):
        assert get(world, headers) == 400, headers
    hidden = f"GET /v2 HTTP/1.1\r\nHost: localhost\r\nx-api-key: {key}\r\n\r\n"
    head = f"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(hidden)}\r\n\r\n"
    assert raw(world, head + hidden) == 401, "a request in the body of a refused one is not answered"


def test_paths_and_verbs_do_not_go_round_a_key(world: World) -> None:
    for path in (
        *("/v2/health/live/../../models/mlp", "/v2/health/live/%2e%2e/ready", "//v2/models/mlp"),
        *(
            "/V2/MODELS/MLP",
            "/v2/models/mlp/",
            "/v2/models%2fmlp",
            "/v2/health/live/x",
            "/v2/health/live?/metrics",
        ),
        *(
            "/v2/./models/mlp",
            "/metrics/",
            "http://localhost/v2/models/mlp",
            "/v2/models/mlp#/v2/health/live",
        ),
    ):
        is_live = path.startswith("/v2/health/live?")
        assert get(world, "", path) in ((200,) if is_live else (400, 401, 404)), path
    for verb in ("HEAD", "TRACE", "OPTIONS", "PUT", "get", "BREW"):
        assert get(world, "", verb=verb) in (401, 404, 405), verb


def over_http2(world: World, headers: Pairs, *, trailers: Pairs = ()) -> str:
    """Status of the answer, or what the server does with the stream or the connection."""
    config = h2.config.H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    connection.send_headers(1, [*headers], end_stream=not trailers)
    if trailers:
        connection.send_headers(1, [*trailers], end_stream=True)
    with socket.create_connection(("127.0.0.1", world.server.port)) as caller:
        caller.settimeout(PATIENCE_S)
        caller.sendall(connection.data_to_send())
        while data := caller.recv(65_536):
            for event in connection.receive_data(data):
                match event:
                    case h2.events.ResponseReceived(headers=found):
                        return dict(found)[b":status"].decode()
                    case h2.events.StreamReset():
                        return "reset"
                    case h2.events.ConnectionTerminated():
                        return "ended"
    return "closed"


def asking(*more: tuple[str, str], path: str = "/v2/models/mlp") -> list[tuple[str, str]]:
    usual = [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "localhost")]
    return [*usual, *more]


def test_keys_over_http2(world: World) -> None:
    key, other = world.good, world.other
    assert over_http2(world, asking(("authorization", f"Bearer {key}"))) == "200"
    assert over_http2(world, asking(("x-api-key", key), ("x-api-key", key))) == "200"
    assert over_http2(world, asking(("x-api-key", key), ("x-api-key", other))) == "400"
    assert over_http2(world, asking()) == "401"
    for headers in (
        asking(("X-Api-Key", key)),
        asking((":certificate", key)),
        asking((":proxy", "127.0.0.1")),
        asking(("x-api-key", key), (":path", "/v2")),
        asking(("x-api-key", f"{key}\r\nx-other: 1")),
        asking((":path", "/v2/health/live"), ("x-api-key", key)),
        asking(("connection", "x-api-key"), ("x-api-key", key)),
    ):
        assert over_http2(world, headers) in ("reset", "ended", "closed", "400"), headers
    trailer = [(":method", "POST"), *asking(path="/v2/models/mlp/infer")[1:]]
    assert over_http2(world, trailer, trailers=[("x-api-key", key)]) in ("401", "reset")


class Steps:
    """Number of bytecode instructions that a call takes."""

    def __init__(self) -> None:
        self.count = 0

    def of(self, call: Any) -> int:
        self.count = 0
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            call()
        finally:
            sys.settrace(before)
        return self.count

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.count += event == "opcode"
        return self._trace


def test_a_look_up_does_the_same_for_every_wrong_key() -> None:
    """Nothing is compared letter by letter: a dictionary by digest answers, whatever a key begins with."""
    key, expired = new_key(), new_key()
    table = KeyTable(lambda: 1000.0, lambda: 0, b"")
    table.replace(
        {
            digest_of(key.encode()): Key("a", "a", Scopes(("infer",))),
            digest_of(expired.encode()): Key("b", "b", Scopes(("infer",)), until=999.0),
        }
    )

    def ask(text: str) -> str:
        try:
            table.admit([(b"x-api-key", text.encode())], "infer", "m", is_later=False, is_trial=True)
        except Unidentified as error:
            return str(error)
        return ""

    wrong = [key[:length] + "x" * (len(key) - length) for length in range(len(key))]
    steps, told = Steps(), set()
    counts = set()
    for text in wrong:
        counts.add(steps.of(lambda text=text: told.add(ask(text))))
    assert len(counts) == 1 and steps.count > 50, counts
    assert told == {ask(expired)} and told != {""}
    assert ask(key) == ""


class Guesser:
    """Somebody who tries random keys, each in a head of its own."""

    def __init__(self) -> None:
        self.heads = Heads()
        self.table = KeyTable(lambda: 0.0, lambda: 0, b"")
        self.table.replace({digest_of(b"k"): Key("a", "a", Scopes(("infer",)))})
        self.next = 0

    def guess(self, count: int) -> None:
        refused = 0
        for number in range(self.next, self.next + count):
            head = self.heads.parse(b"GET /v2 HTTP/1.1\r\nhost: a\r\nx-api-key: slv_%030d" % number)
            assert head is not None
            try:
                self.table.admit(head.headers, "infer", "m", is_later=False)
            except Unidentified:
                refused += 1
        assert refused == count
        self.next += count
        assert len(self.heads.known) <= 512 and len(self.table.refusals._tallies) == 1


def test_random_heads_and_keys_cost_no_memory() -> None:
    """What is remembered of heads is bounded, and of keys nothing is."""
    guesser = Guesser()
    guesser.guess(2000)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        guesser.guess(20_000)
        assert tracemalloc.get_traced_memory()[0] - before < 2_000_000
    finally:
        tracemalloc.stop()


@ONLY
def test_a_million_random_keys_cost_no_memory() -> None:
    """Anything kept of each would be fifty megabytes."""
    guesser = Guesser()
    guesser.guess(10_000)
    before = resident_bytes()
    guesser.guess(1_000_000)
    assert resident_bytes() - before <= 5 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
