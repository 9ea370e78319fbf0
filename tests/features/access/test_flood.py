"""A caller far beyond its limit: others are answered all the same, and its bodies are not read."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import h2.events
import numpy as np
import pytest
import tritonclient.grpc
from http2_callers import Caller
from waiting import PATIENCE_S, auntil
from zoo import write_mlp

from salver.app import Server
from salver.configuration import ServeConfig
from salver.features.access.key_format import digest_of, new_key
from salver.features.access.keys_file import KeyRecord, hash_of, written
from salver.features.access.limits import LimitRules
from salver.features.access.scopes import Scopes
from salver.kernel.serving.dataplane import DataPlane
from salver.transport.asgi import Front
from salver.transport.grpc import GrpcFront
from salver.transport.server import FrontConfig

ITS_LIMIT, TIMES, OTHERS = 20, 20, 100
KEYS = {name: new_key() for name in ("flood", "steady", "spent", "crowd")}
RULES = {
    "flood": LimitRules(f"1/h+{ITS_LIMIT}"),
    "steady": LimitRules(f"1/h+{OTHERS}", at_once=OTHERS),
    "spent": LimitRules("0/s"),
    "crowd": LimitRules(at_once=1),
}
PATH = "/v2/models/mlp/infer"
RPC = "/inference.GRPCInferenceService/ModelInfer"
BODY = b'{"inputs":[{"name":"x","shape":[1,16],"datatype":"FP32","data":[%b]}]}' % b",".join([b"0.5"] * 16)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    write_mlp(tmp_path / "models" / "mlp", 1)
    keys = tmp_path / "keys.toml"
    records = [KeyRecord(name, name, hash_of(KEYS[name]), ("infer",), limits=RULES[name]) for name in KEYS]
    keys.write_text(written(records))
    config = ServeConfig(
        paths=(str(tmp_path / "models"),),
        front=FrontConfig("127.0.0.1", 0),
        tables={"access": {"keys_file": str(keys)}},
    )
    async with Server(config) as server:
        await server.settled()
        yield server


class HttpCaller:
    """Caller over one connection of HTTP/1.1."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def ask(self, keys: Sequence[str]) -> list[int]:
        """Send a request with each key, one after the other; return their statuses."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        statuses = []
        for key in keys:
            writer.write(head(key, len(BODY)) + BODY)
            statuses.append((await reply(reader))[0])
        writer.close()
        return statuses


def head(key: str, size: int) -> bytes:
    lines = [f"POST {PATH} HTTP/1.1", "host: localhost", f"x-api-key: {KEYS[key]}", f"content-length: {size}"]
    return "\r\n".join([*lines, "", ""]).encode()


async def reply(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    async with asyncio.timeout(PATIENCE_S):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        await reader.readexactly(int(headers["content-length"]))
    return int(lines[0].split()[1]), headers


class GrpcCaller:
    """Caller over one connection of HTTP/2, without a socket."""

    def __init__(self, app: Any) -> None:
        self._caller = Caller(app)
        self._next = 1

    async def ask(self, keys: Sequence[str]) -> list[int]:
        """Make a call with each key, ten at a time; return gRPC's statuses as HTTP's."""
        statuses = list[int]()
        for at in range(0, len(keys), 10):
            ids = [self.call(key, message()) for key in keys[at : at + 10]]
            self._caller.talk()
            await auntil(lambda ids=ids: self._ended() >= set(ids))
            statuses += [{"0": 200, "8": 429}[self.status(id)] for id in ids]
        return statuses

    def _ended(self) -> set[int]:
        self._caller.hear()
        return {event.stream_id for event in self._caller.of(h2.events.StreamEnded)}

    def call(self, key: str, data: bytes, *, ends: bool = True) -> int:
        id, self._next = self._next, self._next + 2
        fields = {":method": "POST", ":path": RPC, ":scheme": "http", ":authority": "localhost"}
        fields |= {"content-type": "application/grpc", "te": "trailers", "x-api-key": KEYS[key]}
        self._caller.h2.send_headers(id, [*fields.items()])
        self._caller.h2.send_data(id, data, end_stream=ends)
        return id

    async def begin(self, key: str, size: int) -> tuple[str, int]:
        """Send the first frame of a message of that size; return gRPC's status, and how the stream ends."""
        data = message()
        id = self.call(key, b"\0" + size.to_bytes(4, "big") + data[5:], ends=False)
        self._caller.talk()
        await auntil(lambda: id in self._ended())
        (reset,) = (event for event in self._caller.of(h2.events.StreamReset) if event.stream_id == id)
        return self.status(id), int(reset.error_code)

    def status(self, id: int) -> str:
        kinds = (h2.events.ResponseReceived, h2.events.TrailersReceived)
        found = [event for kind in kinds for event in self._caller.of(kind) if event.stream_id == id]
        return dict(pair for event in found for pair in event.headers)[b"grpc-status"].decode()


def message() -> bytes:
    request = tritonclient.grpc.service_pb2.ModelInferRequest(model_name="mlp")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 16])
    request.raw_input_contents.append(np.zeros(16, np.float32).tobytes())
    whole: bytes = request.SerializeToString()
    return b"\0" + len(whole).to_bytes(4, "big") + whole


def a_caller(server: Server, kind: str) -> HttpCaller | GrpcCaller:
    if kind == "http":
        return HttpCaller(server.port)
    return GrpcCaller(server.ports.app(FrontConfig()))


@pytest.mark.parametrize("kind", ["http", "grpc"])
async def test_one_key_at_20_times_its_limit_takes_nothing_from_another(
    server: Server, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, not timed: what is answered, what reaches the data plane, and what needs a task."""
    seen = Counter[str]()

    def counts(owner: Any, name: str, what: str) -> None:
        method = getattr(owner, name)

        def counted(*args: Any, **more: Any) -> Any:
            seen[what] += 1
            return method(*args, **more)

        monkeypatch.setattr(owner, name, counted)

    counts(DataPlane, "post", "runs")
    counts(DataPlane, "infer", "runs")
    counts(Front, "__call__", "tasks")
    counts(GrpcFront, "__call__", "tasks")
    flood, steady = a_caller(server, kind), a_caller(server, kind)
    asked = ["flood"] * (ITS_LIMIT * TIMES)
    of_flood, of_steady = await asyncio.gather(flood.ask(asked), steady.ask(["steady"] * OTHERS))
    assert Counter(of_flood) == {200: ITS_LIMIT, 429: ITS_LIMIT * (TIMES - 1)}
    assert of_steady == [200] * OTHERS
    assert ITS_LIMIT + OTHERS <= seen["runs"] <= ITS_LIMIT + OTHERS + seen["tasks"]
    assert seen["tasks"] <= 20, "refusals without tasks: methods that are not made yet need some"


async def test_heads_that_are_known_are_refused_once_their_key_is_revoked(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first such request needs a task, which forgets what was prepared for the key."""
    caller, tasks = HttpCaller(server.port), Counter[str]()
    assert await caller.ask(["steady", "flood", "steady", "flood"]) == [200] * 4
    answered = Front.__call__

    def counted(self: Any, scope: Any, *others: Any) -> Any:
        tasks[dict(scope["headers"])[b"x-api-key"].decode()] += 1
        return answered(self, scope, *others)

    monkeypatch.setattr(Front, "__call__", counted)
    keys: Any = server.kernel.keys
    keys.replace({digest_of(KEYS["flood"].encode()): keys.own([(b"x-api-key", KEYS["flood"].encode())])})
    assert await caller.ask(["steady", "flood", "steady", "steady", "flood"]) == [401, 200, 401, 401, 200]
    assert tasks == {KEYS["steady"]: 1}


@pytest.mark.parametrize("key", ["spent", "crowd"])
async def test_no_body_of_a_refused_request_is_read_beyond_its_first_frame(server: Server, key: str) -> None:
    keys: Any = server.kernel.keys
    keys.own([(b"x-api-key", KEYS["crowd"].encode())]).limits.running += 1
    for _ in range(3):  # the first, and those whose head is known
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head(key, 50 << 20) + b'{"inputs"')
        status, headers = await reply(reader)
        assert (status, headers["connection"]) == (429, "close")
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.read() == b"", "the connection is closed, without the rest of the body"
        writer.close()
    caller = GrpcCaller(server.ports.app(FrontConfig()))
    assert await caller.ask([key]) == [429]
    for size in (1 << 20, 50 << 20):
        assert await caller.begin(key, size) == ("8", 0), "NO_ERROR: the rest is not wanted"


async def test_copies_of_a_refusal_go_to_its_caller_alone_and_count(server: Server) -> None:
    """Within a turn of the loop, other requests with the same head get the same answer."""
    keys: Any = server.kernel.keys
    http = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(8)]
    for key, status in (("spent", 429), ("steady", 200), ("spent", 429), ("spent", 429)):
        for _, writer in http:
            writer.write(head(key, len(BODY)) + BODY)
        answers = [await reply(reader) for reader, _ in http]
        assert {answer[0] for answer in answers} == {status}
        assert len({answer[1]["x-request-id"] for answer in answers}) == 8
    for at, (_, writer) in enumerate(http):
        writer.write(head(("spent", "steady")[at % 2], len(BODY)) + BODY)
    assert [(await reply(reader))[0] for reader, _ in http] == [429, 200] * 4

    def counted() -> dict[str, float]:
        families = keys.refusals.collect()
        return {one.labels["key"]: one.value for each in families for one in each.samples}

    await auntil(lambda: counted() == {"spent": 28.0})
    for _, writer in http:
        writer.close()


async def test_copies_over_grpc_go_to_the_same_caller_and_count(server: Server) -> None:
    """Also on other connections, in one turn of the loop."""
    app, keys = server.ports.app(FrontConfig()), server.kernel.keys
    callers = [GrpcCaller(app) for _ in range(3)]
    for caller in callers:
        assert await caller.ask(["spent", "steady"]) == [429, 200]
    for _ in range(2):
        found = await asyncio.gather(*(caller.ask(["spent", "steady"] * 5) for caller in callers))
        assert found == [[429, 200] * 5] * 3

    def counted() -> float:
        families: Any = keys.refusals.collect()  # type: ignore[union-attr]
        return sum(one.value for each in families for one in each.samples)

    await auntil(lambda: counted() == 3 + 2 * 3 * 5)


async def test_refused_keys_get_copies_over_grpc_that_count(server: Server) -> None:
    """In one turn of the loop; a key of another scope in the next turn is decided by itself."""
    app, keys = server.ports.app(FrontConfig()), server.kernel.keys
    found: Any = keys.own([(b"x-api-key", KEYS["steady"].encode())])  # type: ignore[union-attr]
    caller = GrpcCaller(app)
    assert await caller.ask(["steady"]) == [200]
    found.scopes = Scopes(("read",))
    ids = [caller.call("steady", message()) for _ in range(1 + 2 * 10)]
    for _ in range(2):
        caller._caller.talk()
    await auntil(lambda: caller._ended() >= set(ids))
    late = [caller.call("steady", message()) for _ in range(10)]
    caller._caller.talk()
    await auntil(lambda: caller._ended() >= set(late))
    assert {caller.status(id) for id in (*ids, *late)} == {"7"}

    def counted() -> float:
        families: Any = keys.refusals.collect()  # type: ignore[union-attr]
        return sum(one.value for each in families for one in each.samples)

    await auntil(lambda: counted() == len(ids) + len(late))
