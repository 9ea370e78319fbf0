"""Unmodified clients with keys, against a real server."""

import json
import queue
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import numpy as np
import openai
import pytest
import tritonclient.grpc
import tritonclient.http
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE_S, until
from zoo import write_mlp

from salver.cli import main
from salver.client import Client
from salver.features.access.key_format import new_key
from salver.features.access.keys_file import KeyRecord, editing, hash_of
from salver.features.access.limits import LimitRules
from salver.testing.process import ServerProcess
from salver.words.errors import Unauthenticated

ROW = np.zeros((1, 16), np.float32)

#: Keys that may ask twice, one for each test that asks with it.
FEW = {name: new_key() for name in ("http", "grpc", "stream", "openai", "me")}
#: Key of a tenant.
ACME = new_key()


class World(NamedTuple):
    server: ServerProcess
    keys: Path
    good: str
    other: str

    @property
    def address(self) -> str:
        return self.server.url.partition("//")[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("keys")
    write_mlp(folder / "models" / "mlp", 1)
    good, other, keys = new_key(), new_key(), folder / "keys.toml"
    with editing(keys) as records:
        records.append(KeyRecord("good", "good", hash_of(good), ("infer", "read")))
        records.append(KeyRecord("other", "other", hash_of(other), ("infer:other", "read:other")))
        for name in FEW:
            limits = LimitRules("1/h+2")
            records.append(KeyRecord(name, name, hash_of(FEW[name]), ("infer",), limits=limits))
        records.append(KeyRecord("acme", "acme", hash_of(ACME), ("infer",), tenant="acme"))
    options = ["--keys-file", str(keys), "--access-log", "all", "--trace-file", str(folder / "trace")]
    options += ["--trace-level", "timestamps", "--trace-rate", "1"]
    with ServerProcess([folder / "models"], folder / "log", options=options) as server:
        until(lambda: "model ready" in server.output())
        yield World(server, keys, good, other)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("triton", [tritonclient.http, tritonclient.grpc])
def test_tritons_clients(world: World, triton: Any) -> None:
    client = triton.InferenceServerClient(world.address)
    assert client.is_server_live()
    x = triton.InferInput("x", [1, 16], "FP32")
    x.set_data_from_numpy(ROW)
    for _ in range(3):
        assert client.infer("mlp", [x], headers=bearer(world.good)).as_numpy("y").shape == (1, 3)
        for key, status in (("slv_nobodys", "401 UNAUTHENTICATED"), (world.other, "403 PERMISSION_DENIED")):
            with pytest.raises(InferenceServerException) as caught:
                client.infer("mlp", [x], headers=bearer(key))
            assert str(caught.value.status()).rpartition(".")[2] in status
    with pytest.raises(InferenceServerException, match="needs a key"):
        client.get_model_metadata("mlp")
    assert client.get_model_metadata("mlp", headers={"x-api-key": world.good})


def test_tritons_plugin_for_basic_authentication(world: World) -> None:
    import tritonclient.http.auth

    client = tritonclient.http.InferenceServerClient(world.address)
    client.register_plugin(tritonclient.http.auth.BasicAuth("anybody", world.good))
    assert client.is_server_ready()


def test_tensorflow_servings_stubs(world: World) -> None:
    asked = get_model_status_pb2.GetModelStatusRequest()
    asked.model_spec.name = "mlp"
    with grpc.insecure_channel(world.address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        assert stub.GetModelStatus(asked, metadata=[*bearer(world.good).items()]).model_version_status
        both = [*bearer(world.good).items(), *bearer(world.good).items()]  # channel's and call's credentials
        assert stub.GetModelStatus(asked, metadata=both).model_version_status
        for metadata, code in (
            ((), grpc.StatusCode.UNAUTHENTICATED),
            ([*both, ("x-api-key", world.other)], grpc.StatusCode.UNAUTHENTICATED),
            ([("api-key", world.other)], grpc.StatusCode.PERMISSION_DENIED),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                stub.GetModelStatus(asked, metadata=metadata)
            assert caught.value.code() is code


def test_openais_client(world: World) -> None:
    def client(key: str) -> openai.OpenAI:
        return openai.OpenAI(api_key=key, base_url=f"{world.server.url}/v1", max_retries=0)

    assert [model.id for model in client(world.good).models.list()] == ["mlp"]
    with pytest.raises(openai.AuthenticationError):
        client("slv_nobodys").models.list()
    with pytest.raises(openai.AuthenticationError) as unknown:
        client("slv_nobodys").completions.create(model="mlp", prompt="a")
    assert (unknown.value.code, unknown.value.type) == ("invalid_auth", "authentication_error")
    with pytest.raises(openai.PermissionDeniedError) as refused:
        client(world.other).completions.create(model="mlp", prompt="a")
    assert refused.value.type == "permission_error"
    with pytest.raises(openai.PermissionDeniedError):
        client(world.other).embeddings.create(model="no-such-model", input="a")
    azure = openai.AzureOpenAI(
        api_key=world.good, api_version="1", base_url=f"{world.server.url}/v1", max_retries=0
    )
    assert [model.id for model in azure.models.list()] == ["mlp"]


def test_curl(world: World) -> None:
    def curl(*words: str) -> str:
        command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{world.server.url}/v2/models/mlp"]
        return subprocess.run([*command, *words], capture_output=True, text=True, check=True).stdout

    assert curl() == curl("-u", ":wrong") == curl("-G", "-d", f"api_key={world.good}") == "401"
    assert curl("-H", f"x-api-key: {world.other}") == "403"
    assert curl("-H", f"x-api-key: {world.good}", "-H", f"x-api-key: {world.other}") == "400"
    assert curl("-u", f":{world.good}") == curl("--oauth2-bearer", world.good) == "200"


async def test_salvers_own_client(world: World) -> None:
    async with Client(world.server.url, token=world.good) as client, Client(world.server.url) as nobody:
        assert (await client.infer("mlp", {"x": ROW}))["y"].shape == (1, 3)
        with pytest.raises(Unauthenticated):
            await nobody.infer("mlp", {"x": ROW})


def a_row(triton: Any) -> Any:
    x = triton.InferInput("x", [1, 16], "FP32")
    x.set_data_from_numpy(ROW)
    return x


@pytest.mark.parametrize(
    ("triton", "name", "status"),
    [(tritonclient.http, "http", "429"), (tritonclient.grpc, "grpc", "StatusCode.RESOURCE_EXHAUSTED")],
)
def test_a_key_with_a_limit(world: World, triton: Any, name: str, status: str) -> None:
    client = triton.InferenceServerClient(world.address)
    for _ in range(2):
        assert client.infer("mlp", [a_row(triton)], headers=bearer(FEW[name]))
    for _ in range(2):
        with pytest.raises(InferenceServerException, match="its limit of 1/h") as caught:
            client.infer("mlp", [a_row(triton)], headers=bearer(FEW[name]))
        assert caught.value.status() == status
    assert client.infer("mlp", [a_row(triton)], headers=bearer(world.good)), "others go on"


@pytest.mark.parametrize("triton", [tritonclient.http, tritonclient.grpc])
@pytest.mark.parametrize("is_acmes", [True, False])
def test_a_request_is_of_its_keys_tenant(world: World, triton: Any, *, is_acmes: bool) -> None:
    """The access log names the tenant by which requests share a model."""
    client = triton.InferenceServerClient(world.address)
    headers = bearer(ACME if is_acmes else world.good)
    asked = f"{triton.__name__}-{is_acmes}"
    for number, said in enumerate(({}, {"x-tenant": "rival"})):
        parameters = {"tenant": "rival", "service_class": "urgent"} if number else {}
        given = {**headers, **said, "x-request-id": f"{asked}-{number}"}
        assert client.infer("mlp", [a_row(triton)], headers=given, parameters=parameters)
        until(lambda number=number: f"{asked}-{number}" in world.server.output())
    lines = [json.loads(text) for text in world.server.output().splitlines() if asked in text]
    assert [line.get("tenant") for line in lines] == ["acme" if is_acmes else None] * 2


def test_each_message_of_a_stream_counts(world: World) -> None:
    client = tritonclient.grpc.InferenceServerClient(world.address)
    replies: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: replies.put(error), headers=bearer(FEW["stream"]))
    for _ in range(4):
        client.async_stream_infer("mlp", [a_row(tritonclient.grpc)])
    errors = [replies.get(timeout=PATIENCE_S) for _ in range(4)]
    client.stop_stream()
    assert errors[:2] == [None, None]
    assert all("its limit of 1/h" in str(error) for error in errors[2:])


def test_openais_client_is_told_when_to_come_again(world: World) -> None:
    client = openai.OpenAI(api_key=FEW["openai"], base_url=f"{world.server.url}/v1", max_retries=0)
    for _ in range(2):
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model="mlp", input="a")  # which is no model of texts, and counts
    with pytest.raises(openai.RateLimitError) as caught:
        client.embeddings.create(model="mlp", input="a")
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    headers = caught.value.response.headers
    assert 3590 <= int(headers["retry-after"]) <= 3600
    assert headers["ratelimit-policy"] == '"key-requests";q=2;w=7200'


@pytest.mark.parametrize("triton", [tritonclient.http, tritonclient.grpc])
def test_a_revoked_key_ends_within_a_second(
    world: World, triton: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ("--keys-file", str(world.keys))
    assert main(["keys", "create", "short", *file]) == 0
    key = capsys.readouterr().out.strip()
    client = triton.InferenceServerClient(world.address)
    x = triton.InferInput("x", [1, 16], "FP32")
    x.set_data_from_numpy(ROW)

    def is_admitted() -> bool:
        try:
            client.infer("mlp", [x], headers=bearer(key))
        except InferenceServerException as error:
            assert "the key is not valid" in str(error)
            return False
        return True

    until(is_admitted)
    with editing(world.keys) as records:
        id = next(each.id for each in records if each.hash == hash_of(key))
    assert main(["keys", "revoke", id, *file]) == 0
    until(lambda: not is_admitted())


def test_a_refused_head_is_admitted_once_its_key_is(world: World) -> None:
    """Heads are remembered with what became of them."""
    client, key = tritonclient.http.InferenceServerClient(world.address), new_key()

    def is_admitted() -> bool:
        return suppressed(lambda: bool(client.infer("mlp", [a_row(tritonclient.http)], headers=bearer(key))))

    assert not any(is_admitted() for _ in range(3))
    with editing(world.keys) as records:
        records.append(KeyRecord("late", "late", hash_of(key), ("infer:other",)))
    assert not any(is_admitted() for _ in range(3))
    with editing(world.keys) as records:
        records[-1] = KeyRecord("late", "late", hash_of(key), ("infer:mlp",))
    until(is_admitted)
    assert all(is_admitted() for _ in range(3))


def test_an_open_stream_ends_with_its_key(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    file = ("--keys-file", str(world.keys))
    assert main(["keys", "create", "stream", "--json", *file]) == 0
    made = json.loads(capsys.readouterr().out)
    client = tritonclient.grpc.InferenceServerClient(world.address)

    def is_admitted() -> bool:
        return bool(client.is_server_ready(headers=bearer(made["key"])))

    until(lambda: suppressed(is_admitted))
    replies: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: replies.put((result, error)), headers=bearer(made["key"]))
    client.async_stream_infer("mlp", [a_row(tritonclient.grpc)])
    result, error = replies.get(timeout=PATIENCE_S)
    assert error is None and result.as_numpy("y").shape == (1, 3)
    assert main(["keys", "revoke", made["id"], *file]) == 0
    result, error = replies.get(timeout=PATIENCE_S)
    assert (result, error.status()) == (None, "StatusCode.UNAUTHENTICATED")
    assert "the key is not valid" in str(error)
    client.stop_stream()


def suppressed(ask: Callable[[], bool]) -> bool:
    try:
        return ask()
    except InferenceServerException:
        return False


def test_a_large_body_of_a_refused_request_ends_the_connection(world: World) -> None:
    host, _, port = world.address.partition(":")
    head = b"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    for size, closes in ((10, False), (1 << 30, True)):
        with socket.create_connection((host, int(port))) as caller:
            caller.settimeout(PATIENCE_S)
            caller.sendall(head % size + b"x" * 10)
            answer = caller.recv(4096)
            assert answer.startswith(b"HTTP/1.1 401")
            assert (b"connection: close" in answer.lower()) == closes
            if closes:
                while caller.recv(4096):
                    pass


def test_a_caller_reads_what_its_key_may_do_and_what_is_left(world: World) -> None:
    def me(key: str) -> Any:
        return httpx.get(f"{world.server.url}/api/v1/me", headers=bearer(key)).raise_for_status().json()

    acme = {"id": "acme", "name": "acme", "scopes": ["infer"], "tenant": "acme", "priority": 0}
    assert me(ACME) == {**acme, "service_class": "normal", "expires": None, "limits": []}
    client = tritonclient.http.InferenceServerClient(world.address)
    limit = {"name": "key-requests", "most": 2, "window_seconds": 7200}
    for left in (2, 1, 0):
        assert me(FEW["me"])["limits"] == [{**limit, "left": left}], "to ask is free"
        is_admitted = suppressed(
            lambda: bool(client.infer("mlp", [a_row(tritonclient.http)], headers=bearer(FEW["me"])))
        )
        assert is_admitted == bool(left)


def refused(world: World, reason: str, key: str) -> float:
    page = httpx.get(f"{world.server.url}/metrics", headers=bearer(world.good)).text
    label = f'salver_access_refusals_total{{key="{key}",reason="{reason}"}} '
    return sum(float(line.removeprefix(label)) for line in page.splitlines() if line.startswith(label))


@pytest.mark.parametrize("triton", [tritonclient.http, tritonclient.grpc])
def test_each_refused_request_counts_once(world: World, triton: Any) -> None:
    """Whether it is answered with a task or without."""
    client = triton.InferenceServerClient(world.address)

    def is_admitted(key: str) -> bool:
        return suppressed(lambda: bool(client.infer("mlp", [a_row(triton)], headers=bearer(key))))

    while is_admitted(FEW["http"]):
        pass  # up to its limit
    cases = {
        ("invalid_key", ""): "slv_nobodys",
        ("scope", "other"): world.other,
        ("limit", "http"): FEW["http"],
    }
    before = {labels: refused(world, *labels) for labels in cases}
    for key in cases.values():
        assert not any(is_admitted(key) for _ in range(4))
    assert {labels: refused(world, *labels) - before[labels] for labels in cases} == dict.fromkeys(cases, 4)


def test_refusals_and_changes_of_keys_are_in_the_log(world: World) -> None:
    key = new_key()
    assert httpx.get(f"{world.server.url}/v2", headers=bearer(key)).status_code == 401
    with editing(world.keys) as records:
        records.append(KeyRecord("audited", "audited", hash_of(key), ("infer",)))

    def has(event: str, field: str) -> bool:
        lines = [json.loads(text) for text in world.server.output().splitlines() if "salver.audit" in text]
        return any(line["event"] == event and field in line.values() for line in lines)

    until(lambda: has("request refused", "invalid_key") and has("key added", "audited"))
    with editing(world.keys) as records:
        records.pop()
    until(lambda: has("key revoked", "audited"))


def test_no_key_is_written_anywhere(world: World) -> None:
    page = httpx.get(f"{world.server.url}/metrics", headers=bearer(world.good)).text
    told = [world.server.output(), page, *(path.read_text() for path in world.keys.parent.glob("trace*"))]
    for key in (world.good, world.other, "slv_nobodys", ACME, *FEW.values()):
        assert all(key not in text for text in told)
    assert "salver_requests_total" in page and len(told) > 2
