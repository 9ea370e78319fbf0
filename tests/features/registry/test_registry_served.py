"""Models of a registry over every protocol: by name, by alias, by number; and a change without a gap."""

import asyncio
import itertools
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
import zoo
from databases import migrated_ledger
from pushing import BODY, VALUES, push
from registries import ANN, KINDS
from waiting import PATIENCE_S

from salver.app import Server
from salver.configuration import ServeConfig
from salver.features.ledger.ledger import Ledger
from salver.features.registry.artifacts import Artifacts
from salver.features.registry.registry import ModelRegistry
from salver.features.registry.webhooks import Webhooks
from salver.transport.server import FrontConfig


async def registry_in(folder: Path, url: str = "") -> ModelRegistry:
    ledger = await Ledger.open(url or f"sqlite:///{folder / 'salver.db'}")
    ids = (f"id{number}" for number in itertools.count())
    return ModelRegistry(ledger, Artifacts(folder), time.time, ids.__next__)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "registry").mkdir()
    return tmp_path / "registry"


def config(folder: Path) -> ServeConfig:
    return ServeConfig(tables={"registry": {"ledger": str(folder)}}, front=FrontConfig("127.0.0.1", 0))


async def until(client: httpx.AsyncClient, path: str, version: str) -> None:
    """Wait until that version answers there."""
    async with asyncio.timeout(60):
        while (await client.post(path, json=BODY)).json().get("model_version") != version:
            await asyncio.sleep(0.02)


async def test_aliases_are_names_over_every_protocol(folder: Path, tmp_path: Path) -> None:
    registry = await registry_in(folder)
    await push(registry, tmp_path / "mlp", "champion")
    await push(registry, tmp_path / "mlp", "candidate")
    await push(registry, tmp_path / "mlp")
    async with (
        Server(config(folder)) as server,
        httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as client,
    ):
        for name, version in {"fraud": "1", "fraud@champion": "1", "fraud@candidate": "2"}.items():
            answer = (await client.post(f"/v2/models/{name}/infer", json=BODY)).json()
            assert (answer["model_name"], answer["model_version"]) == (name, version)
            assert np.allclose(answer["outputs"][0]["data"], zoo.mlp_answer(VALUES).ravel(), atol=1e-5)
            assert (await client.get(f"/v2/models/{name}/ready")).status_code == 200
            assert (await client.get(f"/v2/models/{name}")).json()["inputs"][0]["name"] == "x"
            predicted = await client.post(f"/v1/models/{name}:predict", json={"instances": VALUES.tolist()})
            assert np.allclose(predicted.json()["predictions"], zoo.mlp_answer(VALUES), atol=1e-5)
        assert (await client.post("/v2/models/fraud/versions/2/infer", json=BODY)).json()[
            "model_version"
        ] == "2"
        assert (await client.post("/v2/models/fraud/versions/3/infer", json=BODY)).status_code == 404
        assert (await client.post("/v2/models/fraud@nobody/infer", json=BODY)).status_code == 404
        await asyncio.to_thread(_over_grpc, server.url)
    await registry.ledger.close()


def _over_grpc(url: str) -> None:
    import tritonclient.grpc as triton

    with triton.InferenceServerClient(url.removeprefix("http://")) as client:
        given = triton.InferInput("x", [1, 16], "FP32")
        given.set_data_from_numpy(VALUES)
        answer = client.infer("fraud@candidate", [given])
        assert answer.get_response().model_version == "2"
        assert client.is_model_ready("fraud@champion")


@pytest.mark.parametrize("kind", KINDS)
async def test_an_alias_that_moves_is_followed_and_every_request_is_answered(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    url = migrated_ledger(kind, folder)
    registry = await registry_in(folder, url)
    await push(registry, tmp_path / "mlp", "champion")
    served = ServeConfig(
        tables={"registry": {"ledger": url, "artifacts": str(folder)}}, front=FrontConfig("127.0.0.1", 0)
    )
    async with Server(served) as server, httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as client:
        answers: list[tuple[int, str]] = []
        is_over = asyncio.Event()

        async def ask(name: str) -> None:
            while not is_over.is_set():
                answer = await client.post(f"/v2/models/{name}/infer", json=BODY)
                answers.append((answer.status_code, answer.json().get("model_version", answer.text)))

        asking = [asyncio.create_task(ask(name)) for name in ("fraud", "fraud@champion")]
        for _ in range(2):
            number = await push(registry, tmp_path / "mlp", "champion")
            await until(client, "/v2/models/fraud/infer", str(number))
            await until(client, "/v2/models/fraud@champion/infer", str(number))
        await registry.set_alias("fraud", "champion", 1, ANN)
        await until(client, "/v2/models/fraud/infer", "1")
        is_over.set()
        await asyncio.gather(*asking)
        assert {status for status, _ in answers} == {200}
        assert {version for _, version in answers} == {"1", "2", "3"}
    await registry.ledger.close()


async def test_a_registry_stands_beside_models_of_paths(folder: Path, tmp_path: Path) -> None:
    registry = await registry_in(folder)
    await push(registry, tmp_path / "mlp", "champion")
    zoo.write_mlp(tmp_path / "models" / "plain", 1)
    both = ServeConfig(
        paths=(str(tmp_path / "models"),),
        tables={"registry": {"ledger": str(folder)}},
        front=FrontConfig("127.0.0.1", 0),
    )
    async with Server(both) as server, httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as client:
        for name in ("plain", "fraud"):
            assert (await client.post(f"/v2/models/{name}/infer", json=BODY)).status_code == 200
    await registry.ledger.close()


async def test_a_version_brings_its_own_configuration(folder: Path, tmp_path: Path) -> None:
    registry = await registry_in(folder)
    zoo.write_mlp(tmp_path / "mlp", 1)
    (tmp_path / "mlp" / "salver.toml").write_text("[batching]\nmax_rows = 3\n")
    await push(registry, tmp_path / "mlp", "champion")
    files = [file.path for file in (await registry.versions("fraud"))[0].files]
    assert files == ["model.onnx", "salver.toml"]
    async with (
        Server(config(folder)) as server,
        httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as client,
    ):
        said = (await client.get("/v2/models/fraud/config")).json()
        assert said["max_batch_size"] == 3
    await registry.ledger.close()


async def test_a_server_tells_webhooks_of_changes(folder: Path, tmp_path: Path) -> None:
    told: list[bytes] = []
    is_told = threading.Event()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(204)
            self.end_headers()
            is_told.set()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    receiver = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    registry = await registry_in(folder)
    hooks = Webhooks(registry.ledger, time.time, lambda: "hook", os.urandom)
    await hooks.add(f"http://127.0.0.1:{receiver.server_port}/", "fraud", ["alias.moved"], ANN)
    async with Server(config(folder)):
        await push(registry, tmp_path / "mlp", "champion")
        assert await asyncio.to_thread(is_told.wait, 60)
    assert json.loads(told[0])["data"]["subject"] == "champion"
    receiver.shutdown()
    receiver.server_close()
    await registry.ledger.close()
