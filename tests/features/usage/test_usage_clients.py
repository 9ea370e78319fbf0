"""Usage and quotas as callers and operators meet them, with their own clients."""

import csv
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import numpy as np
import openai
import pyarrow.parquet
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException
from waiting import until
from zoo import write_mlp

from salver.cli import main
from salver.features.access.key_format import new_key
from salver.features.access.keys_file import KeyRecord, hash_of, written
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
    "plain": None,
    "few": LimitRules(quotas=("5/day",)),
    "rows": LimitRules(quotas=("10 rows/month",)),
    "tokens": LimitRules(quotas=("7 tokens/day",)),
    "kept": LimitRules(quotas=("6/day", "9 seconds/month")),
}


class World(NamedTuple):
    folder: Path
    keys: dict[str, str]
    url: str

    @property
    def address(self) -> str:
        return self.url.partition("//")[2]

    def as_(self, key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[key]}"}

    def told(self, **query: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.url}/api/v1/usage", params=query, headers=self.as_("admin"))
        assert answer.status_code == 200, answer.text
        return list(answer.json()["items"])

    def left(self, key: str) -> list[tuple[str, float]]:
        me = httpx.get(f"{self.url}/api/v1/me", headers=self.as_(key)).json()
        return [(each["name"], each["left"]) for each in me["quotas"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("usage")
    write_mlp(folder / "models" / "mlp", 1)
    letters = folder / "models" / "letters"
    (letters / "1").mkdir(parents=True)
    (letters / "1" / "model.py").write_text(LETTERS)
    (letters / "salver.toml").write_text('[steps]\nvocabulary = "bytes"\nmax_sequences = 2\n')
    return folder


@pytest.fixture(scope="module")
def keys(folder: Path) -> dict[str, str]:
    keys = {name: new_key() for name in (*RULES, "admin")}
    scopes = {"admin": ("*",)}
    records = [
        KeyRecord(name, name, hash_of(key), scopes.get(name, ("infer",)), limits=RULES.get(name))
        for name, key in keys.items()
    ]
    (folder / "keys.toml").write_text(written(records))
    return keys


def serving(folder: Path, log: str) -> ServerProcess:
    return ServerProcess(
        [folder / "models"], folder / log, options=["--keys-file", str(folder / "keys.toml")]
    )


@pytest.fixture(scope="module")
def world(folder: Path, keys: dict[str, str]) -> Iterator[World]:
    with serving(folder, "log") as server:
        until(lambda: server.output().count("model ready") == 2)
        yield World(folder, keys, server.url)


def infer(triton: Any, world: World, key: str, rows: int = 1, model: str = "mlp") -> str:
    """Return the error of a request; empty = it was answered."""
    client = triton.InferenceServerClient(world.address)
    x = triton.InferInput("x", [rows, 16], "FP32")
    x.set_data_from_numpy(np.zeros((rows, 16), np.float32))
    try:
        client.infer(model, [x], headers=world.as_(key))
    except InferenceServerException as error:
        return str(error.message())
    return ""


def test_what_was_used_by_key_and_model(world: World) -> None:
    assert infer(tritonclient.http, world, "plain", rows=3) == ""
    assert infer(tritonclient.grpc, world, "plain", rows=2) == ""
    assert infer(tritonclient.http, world, "plain", model="none") != ""
    client = openai.OpenAI(api_key=world.keys["plain"], base_url=f"{world.url}/v1")
    client.completions.create(model="letters", prompt="abc", max_tokens=4)
    for _ in client.completions.create(model="letters", prompt="abc", max_tokens=4, stream=True):
        pass
    assert httpx.get(f"{world.url}/v2/models/mlp", headers=world.as_("plain")).status_code == 403
    rows = {row["model"]: row for row in world.told(key="plain")}
    assert set(rows) == {"", "letters", "mlp"}
    mlp, letters = rows["mlp"], rows["letters"]
    assert (mlp["requests"], mlp["rows"], mlp["refusals"]) == (2, 5, 0)
    assert mlp["bytes_in"] >= 4 * 16 * 5 and mlp["bytes_out"] > 0 and mlp["compute_seconds"] > 0
    assert (letters["requests"], letters["prompt_tokens"], letters["answer_tokens"]) == (2, 6, 8)
    assert letters["bytes_in"] > 60 and letters["bytes_out"] > 400 and letters["compute_seconds"] > 0
    assert rows[""]["requests"] == 1
    (total,) = world.told(by="", key="plain")
    assert (total["requests"], total["key"], total["model"], total["hour"]) == (5, None, None, None)
    (hour,) = world.told(by="hour", key="plain")
    assert hour["hour"] % 3600 == 0 and hour["requests"] == 5
    assert world.told(key="nobody") == []
    answer = httpx.get(f"{world.url}/api/v1/usage", params={"by": "day"}, headers=world.as_("admin"))
    assert answer.status_code == 400
    answer = httpx.get(f"{world.url}/api/v1/usage", headers=world.as_("plain"))
    assert answer.status_code == 403, "what all keys use is not for each of them"


OVER = "this key has used its quota of 5 requests/day; it is renewed at "


def test_a_quota_in_the_words_of_each_protocol(world: World) -> None:
    assert world.left("few") == [("key-requests-day", 5)]
    for each in (tritonclient.http, tritonclient.grpc) * 2:
        assert infer(each, world, "few") == ""
    assert world.left("few") == [("key-requests-day", 1)]
    assert infer(tritonclient.grpc, world, "few") == ""
    for each in (tritonclient.http, tritonclient.grpc):
        assert infer(each, world, "few").startswith(OVER)
    said = httpx.post(f"{world.url}/v2/models/mlp/infer", json={}, headers=world.as_("few"))
    assert said.status_code == 429 and said.json()["error"].startswith(OVER)
    assert said.headers["ratelimit-policy"] == '"key-requests-day";q=5;w=86400'
    assert said.headers["x-should-retry"] == "false" and 0 < int(said.headers["retry-after"]) <= 86_400
    with grpc.insecure_channel(world.address) as channel:
        stub = tritonclient.grpc.service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(
                tritonclient.grpc.service_pb2.ModelInferRequest(model_name="mlp"),
                metadata=list(world.as_("few").items()),
            )
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ("grpc-retry-pushback-ms", "-1") in error.trailing_metadata()
    said = httpx.post(
        f"{world.url}/v1/completions", json={"model": "letters", "prompt": "a"}, headers=world.as_("few")
    )
    assert said.status_code == 429 and said.json()["error"]["code"] == "insufficient_quota"
    said = httpx.post(f"{world.url}/predictions/mlp", json={}, headers=world.as_("few"))
    assert (said.status_code, said.json()["code"]) == (429, 429)
    assert [row["refusals"] for row in world.told(key="few", by="key")] == [6]
    metrics = httpx.get(f"{world.url}/metrics", headers=world.as_("admin")).text
    assert 'salver_access_refusals_total{key="few",reason="quota"}' in metrics


def test_rows_and_tokens(world: World) -> None:
    assert infer(tritonclient.http, world, "rows", rows=6) == ""
    said = infer(tritonclient.grpc, world, "rows", rows=5)
    assert said.startswith("this key has 4 rows left of its quota of 10 rows/month; it is renewed at ")
    assert infer(tritonclient.http, world, "rows", rows=4) == ""
    assert infer(tritonclient.http, world, "rows").startswith("this key has used its quota of 10 rows/month")
    client = openai.OpenAI(api_key=world.keys["tokens"], base_url=f"{world.url}/v1", max_retries=5)
    ask: Callable[[], Any] = lambda: client.completions.create(model="letters", prompt="abc", max_tokens=3)  # noqa: E731
    ask()
    assert world.left("tokens") == [("key-tokens-day", 1)]
    ask()  # what it takes is known afterwards
    with pytest.raises(openai.RateLimitError) as caught:
        ask()
    assert caught.value.code == "insufficient_quota"
    assert world.left("tokens") == [("key-tokens-day", 0)]


def salver(world: World, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["usage", *words, "--url", world.url]) == 0
    return capsys.readouterr().out


def test_the_command(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert infer(tritonclient.http, world, "plain") == ""
    monkeypatch.setenv("SALVER_TOKEN", world.keys["admin"])
    text = salver(world, capsys, "--key", "plain", "--model", "mlp", "--since", "2d")
    assert "requests" in text and "plain" in text
    rows = [json.loads(line) for line in salver(world, capsys, "--json", "--by", "key").splitlines()]
    assert rows[0]["key"] == "few" and "model" not in rows[0]
    for name in ("u.csv", "u.parquet"):
        salver(world, capsys, "--output", str(tmp_path / name), "--by", "key,model,hour")
    with (tmp_path / "u.csv").open() as file:
        lines = list(csv.DictReader(file))
    table = pyarrow.parquet.read_table(tmp_path / "u.parquet").to_pylist()
    assert [int(line["requests"]) for line in lines] == [row["requests"] for row in table]
    assert str(table[0]["hour"].tzinfo) == "UTC"
    for place in (["--keys-file", str(world.folder / "keys.toml")], ["--url", world.url]):
        assert main(["keys", "show", "rows", *place]) == 0
        assert "quotas         0 left of 10 (key-rows-month)" in capsys.readouterr().out
    assert main(["usage", "--since", "soon", "--url", world.url]) == 1
    assert main(["usage", "--output", "u.xlsx", "--url", world.url]) == 1


def test_quotas_and_usage_are_kept_when_the_server_starts_again(folder: Path, keys: dict[str, str]) -> None:
    for number in range(3):
        with serving(folder, f"log{number}") as server:
            until(lambda server=server: server.output().count("model ready") == 2)
            world = World(folder, keys, server.url)
            assert world.left("kept")[0] == ("key-requests-day", 6 - 2 * number)
            assert [infer(tritonclient.http, world, "kept") for _ in range(2)] == ["", ""]
            (row,) = world.told(key="kept")
            assert row["requests"] == 2 * number + 2
            if number == 1:
                server.signal(signal.SIGKILL)
    with serving(folder, "last") as server:
        until(lambda: server.output().count("model ready") == 2)
        world = World(folder, keys, server.url)
        assert infer(tritonclient.http, world, "kept").startswith("this key has used its quota of 6")
        seconds = dict(world.left("kept"))["key-compute-seconds-month"]
        assert 8 < seconds < 9
