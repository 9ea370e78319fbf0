"""Limits of rows, tokens, tenants, models and the server, as clients meet them."""

import itertools
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
from tritonclient.utils import InferenceServerException
from waiting import until
from zoo import write_mlp

from salver.cli import main
from salver.features.access.key_format import new_key
from salver.features.access.keys_file import KeyRecord, hash_of, read_whole, written
from salver.features.access.limit_book import DeclaredLimits
from salver.features.access.limits import LimitRules
from salver.testing.process import ServerProcess

#: Answers with the letters that follow, one token each.
LETTERS = """
import numpy as np
class Model:
    def step(self, slots, tokens):
        return np.eye(256, dtype="f4")[(tokens + 1) % 256] * 50
    def release(self, slot):
        pass
"""
RULES = {
    "rows": LimitRules(rows="1/h+10"),
    "tokens": LimitRules(tokens="1/h+5"),
    "stream": LimitRules(tokens="1/h+5"),
    "leaver": LimitRules(tokens="1/h+5"),
    "plain": None,
    "wisher": LimitRules("1/h+20", at_once=4, quotas=("50 rows/day",)),
}
TENANTS = ("acme", "bolt", "core")


class World(NamedTuple):
    server: ServerProcess
    path: Path
    keys: dict[str, str]

    @property
    def address(self) -> str:
        return self.server.url.partition("//")[2]

    def as_(self, key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[key]}"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("limits")
    for name in ("mlp", "slow", "slower", "shared", "again"):
        write_mlp(folder / "models" / name, 1)
    letters = folder / "models" / "letters"
    (letters / "1").mkdir(parents=True)
    (letters / "1" / "model.py").write_text(LETTERS)
    (letters / "salver.toml").write_text('[steps]\nvocabulary = "bytes"\nmax_sequences = 2\n')
    keys = {name: new_key() for name in (*RULES, *TENANTS, "gateway")}
    records = [
        KeyRecord(name, name, hash_of(key), ("*",), limits=RULES.get(name), tenant=tenant_of(name))
        for name, key in keys.items()
    ]
    declared = DeclaredLimits(
        LimitRules(rows="1000/s+40"),
        {"acme": LimitRules("1/h+2"), "bolt": LimitRules("1/h+3"), "gated-*": LimitRules("1/h+1")},
        {"slow*": LimitRules("1/h+2")},
    )
    path = folder / "keys.toml"
    path.write_text(written(records, declared))
    with ServerProcess([folder / "models"], folder / "log", options=["--keys-file", str(path)]) as server:
        until(lambda: server.output().count("model ready") == 6)
        yield World(server, path, keys)


def tenant_of(name: str) -> str:
    return {"gateway": "*"}.get(name, name if name in TENANTS else "")


def infer(triton: Any, world: World, key: str, model: str = "mlp", rows: int = 1, **more: Any) -> str:
    """Return the error of a request; empty = it was answered."""
    client = triton.InferenceServerClient(world.address)
    x = triton.InferInput("x", [rows, 16], "FP32")
    x.set_data_from_numpy(np.zeros((rows, 16), np.float32))
    try:
        client.infer(model, [x], headers=world.as_(key) | more.pop("headers", {}), **more)
    except InferenceServerException as error:
        assert error.status() in ("429", "StatusCode.RESOURCE_EXHAUSTED"), error
        return str(error.message())
    return ""


def test_rows_of_every_request_count(world: World) -> None:
    over = [tritonclient.http, tritonclient.grpc]
    assert infer(over[0], world, "rows", rows=6) == ""
    for each in over:
        assert infer(each, world, "rows", rows=5) == "this key has its limit of 1/h+10 rows"
        assert infer(each, world, "rows", rows=11) == "a request of this key has at most 10 rows"
        assert infer(each, world, "plain", rows=41) == "a request of this server has at most 40 rows"
    assert infer(over[1], world, "rows", rows=4) == ""
    assert infer(over[1], world, "rows") == "this key has its limit of 1/h+10 rows"
    (state,) = (each for each in me(world, "rows") if each["name"] == "key-rows")
    assert state == {"name": "key-rows", "most": 10, "window_seconds": 36000, "left": 0}


def me(world: World, key: str) -> Any:
    return httpx.get(f"{world.server.url}/api/v1/me", headers=world.as_(key)).json()["limits"]


def test_a_request_of_too_many_rows_is_told_so_over_http_and_grpc(world: World) -> None:
    body = {"inputs": [{"name": "x", "shape": [99, 16], "datatype": "FP32", "data": [0.0] * 16 * 99}]}
    url = f"{world.server.url}/v2/models/mlp/infer"
    said = httpx.post(url, json=body, headers=world.as_("plain"))
    assert said.status_code == 429
    assert said.headers["ratelimit-policy"] == '"server-rows";q=40;qu="rows";w=1'
    assert said.headers["x-should-retry"] == "false" and "retry-after" not in said.headers
    request = tritonclient.grpc.service_pb2.ModelInferRequest(model_name="mlp")
    request.inputs.add(name="x", datatype="FP32", shape=[99, 16])
    request.raw_input_contents.append(bytes(4 * 16 * 99))
    with grpc.insecure_channel(world.address) as channel:
        stub = tritonclient.grpc.service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request, metadata=[*world.as_("plain").items()])
    assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "-1"


@pytest.mark.parametrize("key", ["tokens", "stream"])
def test_tokens_count_once_they_are_known(world: World, key: str) -> None:
    client = openai.OpenAI(
        api_key=world.keys[key], base_url=f"{world.server.url}/v1", max_retries=0, timeout=60
    )
    answer: Any = client.completions.create(
        model="letters", prompt="abc", max_tokens=6, stream=key == "stream"
    )
    pieces = answer if key == "stream" else [answer]
    assert "".join(piece.choices[0].text for piece in pieces) == "defghi"
    with pytest.raises(openai.RateLimitError) as caught:
        client.completions.create(model="letters", prompt="a", max_tokens=1)
    assert caught.value.code == "rate_limit_exceeded"
    assert "this key has its limit of 1/h+5 tokens" in str(caught.value)
    # 9 tokens of 5: 4 more than there are, and the next one, at one an hour
    assert 4.9 * 3600 < int(caught.value.response.headers["retry-after"]) <= 5 * 3600
    assert me(world, key)[0]["left"] == 0


def test_what_is_left_is_told_with_an_answer_where_the_caller_asks(world: World) -> None:
    body = {"inputs": [{"name": "x", "shape": [2, 16], "datatype": "FP32", "data": [0.0] * 32}]}
    asks = [
        ("POST", "/v2/models/mlp/infer", body),
        ("POST", "/v1/models/mlp:predict", {"instances": [[0] * 16]}),
    ]
    text = {"model": "letters", "prompt": "a", "max_tokens": 1}
    asks += [("POST", "/v1/completions", text), ("POST", "/v1/completions", text | {"stream": True})]
    headers, left = world.as_("wisher"), []
    for verb, path, sent in asks:
        url = world.server.url + path
        assert "ratelimit" not in httpx.request(verb, url, json=sent, headers=headers).headers
        said = httpx.request(verb, url, json=sent, headers=headers | {"Prefer": "wait=9, ratelimit"})
        assert said.status_code == 200, said.text
        assert said.headers["ratelimit-policy"] == (
            '"key-requests";q=20;w=72000, "key-concurrent-requests";q=4;qu="concurrent-requests", '
            '"server-rows";q=40;qu="rows";w=1, "key-rows-day";q=50;qu="rows";w=86400'
        )
        left.append([each.split(";")[1] for each in said.headers["ratelimit"].split(", ")])
    # An answer in pieces tells it when it begins, while it is running.
    assert [(each[0], each[1]) for each in left] == [
        ("r=18", "r=4"),
        ("r=16", "r=4"),
        ("r=14", "r=4"),
        ("r=12", "r=3"),
    ]
    assert [each[3] for each in left] == ["r=46", "r=44", "r=42", "r=40"]
    request = tritonclient.grpc.service_pb2.ModelInferRequest(model_name="mlp")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 16])
    request.raw_input_contents.append(bytes(4 * 16))
    with grpc.insecure_channel(world.address) as channel:
        infer = tritonclient.grpc.service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        told = []
        for more in ({}, {"prefer": "ratelimit"}):
            _, call = infer.with_call(request, metadata=[*(headers | more).items()])
            told.append({each.key: each.value for each in call.initial_metadata()})
    assert "ratelimit" not in told[0]
    assert told[1]["ratelimit"].startswith('"key-requests";r=10;t=36000, "key-concurrent-requests";r=4, ')


def test_a_refusal_tells_one_limit_though_the_caller_asks_for_all(world: World) -> None:
    body = {"inputs": [{"name": "x", "shape": [41, 16], "datatype": "FP32", "data": [0.0] * 16 * 41}]}
    headers = world.as_("plain") | {"prefer": "ratelimit"}
    said = httpx.post(f"{world.server.url}/v2/models/mlp/infer", json=body, headers=headers)
    assert said.status_code == 429
    assert said.headers.get_list("ratelimit") == ['"server-rows";r=0']


def test_who_leaves_before_the_end_pays_for_each_piece(world: World) -> None:
    url = f"{world.server.url}/v2/models/letters/generate_stream"
    body = {"text_input": "abc", "max_tokens": 2000}
    with httpx.stream("POST", url, json=body, headers=world.as_("leaver"), timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        assert len(list(itertools.islice(answer.iter_lines(), 40))) == 40
    assert me(world, "leaver")[0]["left"] == 0


@pytest.mark.parametrize("triton", [tritonclient.http, tritonclient.grpc])
def test_a_tenant_has_its_limits_whatever_the_key(world: World, triton: Any) -> None:
    tenant, count = ("acme", 2) if triton is tritonclient.http else ("bolt", 3)
    said = [infer(triton, world, tenant) for _ in range(count + 1)]
    assert said[:-1] == [""] * count and said[-1].startswith(f"this tenant has its limit of 1/h+{count}")
    assert infer(triton, world, "gateway", headers={"x-tenant": tenant}) == said[-1]
    assert infer(triton, world, "gateway", parameters={"tenant": tenant}) == said[-1]
    assert infer(triton, world, "core") == ""
    names = ("gated-1", "gated-2") if triton is tritonclient.http else ("gated-3", "gated-4")
    for name in names:
        said = [infer(triton, world, "gateway", headers={"x-tenant": name}) for _ in range(2)]
        assert said == ["", "this tenant has its limit of 1/h+1 requests"]


@pytest.mark.parametrize("triton", [tritonclient.http, tritonclient.grpc])
def test_a_model_has_its_limits_whoever_asks(world: World, triton: Any) -> None:
    model = "slow" if triton is tritonclient.http else "slower"
    said = [infer(triton, world, key, model) for key in ("plain", "core", "gateway")]
    assert said == ["", "", "this model has its limit of 1/h+2 requests"]
    assert infer(triton, world, "gateway") == ""


def test_salver_keys_keeps_the_limits_in_the_file_and_the_server_takes_changes(world: World) -> None:
    found = read_whole(world.path)
    assert main(["keys", "create", "more", "--keys-file", str(world.path)]) == 0
    assert read_whole(world.path).limits == found.limits
    of_model = {**found.limits.models, "shared": LimitRules("1/h", at_once=3), "a*": LimitRules(at_once=1)}
    declared = DeclaredLimits(found.limits.server, found.limits.tenants, of_model)
    assert infer(tritonclient.http, world, "plain", "shared") == ""
    world.path.write_text(written(found.key, declared))

    def is_refused(ask: Callable[[], str]) -> bool:
        return "this model has its limit of 1/h requests" in ask()

    until(lambda: is_refused(lambda: infer(tritonclient.http, world, "plain", "shared")))
    assert is_refused(lambda: infer(tritonclient.grpc, world, "core", "shared"))
    assert infer(tritonclient.grpc, world, "core", "again") == ""
