"""Real clients of every protocol ask a model in a release: one unit, one version, however it is asked."""

import asyncio
import json
import queue
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import msgspec
import numpy as np
import openai
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from programs import program
from splitting_server import SplittingServer
from waiting import PATIENCE_S

from salver.app import Server
from salver.configuration import ServeConfig
from salver.features.releases.experiments.assign import assign
from salver.transport.server import FrontConfig
from salver.words.artifacts import LoadOrder
from salver.words.events import Served
from salver.words.releases import Arm, Condition, Split

MODEL = """
import numpy as np
class Model:
    inputs = {"text": ("BYTES", [-1, 1])}
    outputs = {"embedding": ("FP32", [-1, 1])}
    def predict(self, inputs):
        return {"embedding": np.full((len(inputs["text"]), 1), VERSION, "f4")}
"""
GRAPH = """
platform: "ensemble" max_batch_size: 8
input { name: "TEXT" data_type: TYPE_STRING dims: [1] }
output { name: "VERSION" data_type: TYPE_FP32 dims: [1] }
ensemble_scheduling { step { model_name: "m" model_version: -1
  input_map { key: "text" value: "TEXT" } output_map { key: "embedding" value: "VERSION" } } }
"""
CALLER = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        replies = []
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
            reply = pb_utils.InferenceRequest(
                model_name="m", requested_output_names=["embedding"],
                inputs=[pb_utils.Tensor("text", text)], trace=request.trace()).exec()
            found = pb_utils.get_output_tensor_by_name(reply, "embedding").as_numpy()
            replies.append(pb_utils.InferenceResponse([pb_utils.Tensor("VERSION", found)]))
        return replies
"""
CALLER_CONFIG = """
backend: "python" max_batch_size: 8
input { name: "TEXT" data_type: TYPE_STRING dims: [1] }
output { name: "VERSION" data_type: TYPE_FP32 dims: [1] }
"""
GRAPHS = {"graph": (GRAPH, ""), "caller": (CALLER_CONFIG, CALLER)}
SPLIT = Split("r1", "m", stable="1", canary="2", weight=0.5, salt="clients")
USERS = [f"user-{number}" for number in range(8)]


def write(root: Path) -> None:
    for version in (1, 2, 3):
        folder = root / "m" / str(version)
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(MODEL.replace("VERSION", str(version)))
    (root / "m" / "salver.toml").write_text('[versions]\nall = true\n[labels]\nchampion = "1"\n')


class Watch:
    """An observer that keeps what was served."""

    def __init__(self) -> None:
        self.served: list[Served] = []

    def observe(self, events: Any) -> None:
        self.served += [event for event in events if isinstance(event, Served)]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    write(tmp_path)
    async with SplittingServer(
        ServeConfig(paths=(str(tmp_path),), front=FrontConfig(port=0), control="explicit", load=("m",))
    ) as server:
        server.splits.router.replace([SPLIT])
        yield server


def expected(user: str, split: Split = SPLIT) -> int:
    return int(assign(split, {"header:x-user-id": user, "request": ""}).version)


def curl(port: int, user: str, model: str = "m", version: str = "", **more: str) -> int:
    """Open Inference over HTTP."""
    name, output = ("text", "embedding") if model.startswith("m") else ("TEXT", "VERSION")
    body = {"inputs": [{"name": name, "datatype": "BYTES", "shape": [1, 1], "data": ["a"]}]}
    path = f"/v2/models/{model}{'/versions/' + version if version else ''}/infer"
    headers = [f"x-{key}: {value}" for key, value in {"user-id": user, **more}.items()]
    command = [program("curl"), "-sf", f"http://127.0.0.1:{port}{path}", "-d", json.dumps(body)]
    said = subprocess.run(
        [*command, *(part for header in headers for part in ("-H", header))], check=True, capture_output=True
    )
    outputs = json.loads(said.stdout)["outputs"]
    return int(next(one for one in outputs if one["name"] == output)["data"][0])


def by_triton_http(port: int, user: str) -> int:
    client = triton_http.InferenceServerClient(f"127.0.0.1:{port}")
    given = triton_http.InferInput("text", [1, 1], "BYTES")
    given.set_data_from_numpy(np.array([[b"a"]], dtype=object))
    found = client.infer("m", [given], headers={"x-user-id": user}).as_numpy("embedding")
    client.close()
    return int(found[0, 0])


def by_parameter(port: int, user: str) -> int:
    client = triton_http.InferenceServerClient(f"127.0.0.1:{port}")
    given = triton_http.InferInput("text", [1, 1], "BYTES")
    given.set_data_from_numpy(np.array([[b"a"]], dtype=object))
    found = client.infer("m", [given], parameters={"user": user}).as_numpy("embedding")
    client.close()
    return int(found[0, 0])


def by_triton_grpc(port: int, user: str) -> int:
    client = triton_grpc.InferenceServerClient(f"127.0.0.1:{port}")
    given = triton_grpc.InferInput("text", [1, 1], "BYTES")
    given.set_data_from_numpy(np.array([[b"a"]], dtype=object))
    found = client.infer("m", [given], headers={"x-user-id": user}).as_numpy("embedding")
    client.close()
    return int(found[0, 0])


def by_triton_stream(port: int, user: str) -> int:
    client = triton_grpc.InferenceServerClient(f"127.0.0.1:{port}")
    given = triton_grpc.InferInput("text", [1, 1], "BYTES")
    given.set_data_from_numpy(np.array([[b"a"]], dtype=object))
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)), headers={"x-user-id": user})
    client.async_stream_infer("m", [given])
    result, error = answers.get(timeout=PATIENCE_S)
    client.stop_stream()
    client.close()
    assert error is None
    return int(result.as_numpy("embedding")[0, 0])


def by_tensorflow_grpc(port: int, user: str, label: str = "") -> int:
    from tensorflow_serving.apis.predict_pb2 import PredictRequest
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

    request = PredictRequest()
    request.model_spec.name = "m"
    if label:
        request.model_spec.version_label = label
    text = request.inputs["text"]
    text.dtype = 7
    text.string_val.append(b"a")
    for size in (1, 1):
        text.tensor_shape.dim.add().size = size
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = PredictionServiceStub(channel)
        said = stub.Predict(request, timeout=30, metadata=(("x-user-id", user),))
    assert said.model_spec.version.value == int(said.outputs["embedding"].float_val[0])
    return int(said.outputs["embedding"].float_val[0])


def by_tensorflow_rest(port: int, user: str, label: str = "") -> int:
    path = f"/v1/models/m{'/labels/' + label if label else ''}:predict"
    command = [program("curl"), "-sf", f"http://127.0.0.1:{port}{path}", "-H", f"x-user-id: {user}"]
    said = subprocess.run([*command, "-d", '{"instances": [["a"]]}'], check=True, capture_output=True)
    return int(json.loads(said.stdout)["predictions"][0][0])


def by_openai(port: int, user: str) -> int:
    with openai.OpenAI(api_key="none", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0) as client:
        said = client.embeddings.create(model="m", input="a", user=user, encoding_format="float")
    return int(said.data[0].embedding[0])


CLIENTS: list[Callable[[int, str], int]] = [
    curl,
    by_triton_http,
    by_parameter,
    by_triton_grpc,
    by_triton_stream,
    by_tensorflow_grpc,
    by_tensorflow_rest,
    by_openai,
]


async def test_a_unit_meets_one_version_over_every_protocol(server: Server) -> None:
    for user in USERS:
        said = {ask.__name__: await asyncio.to_thread(ask, server.port, user) for ask in CLIENTS}
        assert said == dict.fromkeys(said, expected(user)), user
    assert {expected(user) for user in USERS} == {1, 2}


async def test_a_tenant_is_a_unit_over_every_protocol(tmp_path: Path) -> None:
    write(tmp_path)
    split = msgspec.structs.replace(SPLIT, units=("tenant", "request"))
    config = ServeConfig(paths=(str(tmp_path),), front=FrontConfig(port=0), tenant_header="x-user-id")
    async with SplittingServer(config) as server:
        server.splits.router.replace([split])
        for user in USERS:
            by_header = [ask for ask in CLIENTS if ask not in (by_parameter, by_openai)]
            said = {ask.__name__: await asyncio.to_thread(ask, server.port, user) for ask in by_header}
            version = int(assign(split, {"tenant": user, "request": ""}).version)
            assert said == dict.fromkeys(said, version), user


@pytest.mark.parametrize("model", ["graph", "caller"])
async def test_a_split_inside_a_graph_and_inside_a_model_that_calls_others(
    server: Server, tmp_path: Path, model: str
) -> None:
    config, code = GRAPHS[model]
    (tmp_path / model / "1").mkdir(parents=True)
    (tmp_path / model / "config.pbtxt").write_text(config)
    if code:
        (tmp_path / model / "1" / "model.py").write_text(code)
    await server.control.load(model, LoadOrder())
    for user in USERS:
        assert await asyncio.to_thread(curl, server.port, user, model) == expected(user)


async def test_those_who_name_the_alias_that_a_release_moves_are_split_too(server: Server) -> None:
    server.splits.router.replace([msgspec.structs.replace(SPLIT, asked=("champion",))])
    for user in USERS:
        said = [
            await asyncio.to_thread(by_tensorflow_grpc, server.port, user, "champion"),
            await asyncio.to_thread(by_tensorflow_rest, server.port, user, "champion"),
            await asyncio.to_thread(curl, server.port, user, "m", "champion"),
            await asyncio.to_thread(curl, server.port, user, "m@champion"),
        ]
        assert said == [expected(user)] * 4
    assert await asyncio.to_thread(by_openai, server.port, "ada") == 3  # who names nothing gets the newest


async def test_nobody_leaves_the_canary_while_it_grows_to_everybody(server: Server) -> None:
    before: set[str] = set()
    for weight in (0.1, 0.3, 0.6, 1.0):
        server.splits.router.replace([msgspec.structs.replace(SPLIT, weight=weight)])
        asked = {user: await asyncio.to_thread(by_triton_http, server.port, user) for user in USERS}
        now = {user for user, version in asked.items() if version == 2}
        assert before <= now
        before = now
    assert before == set(USERS)


async def test_lists_regions_and_named_versions(server: Server) -> None:
    split = msgspec.structs.replace(
        SPLIT,
        weight=0.0,
        always=frozenset({"ada"}),
        never=frozenset({"bo"}),
        only=(Condition("header:x-region", ("eu",)),),
    )

    async def ask(*given: Any, **more: str) -> int:
        return await asyncio.to_thread(lambda: curl(server.port, *given, **more))

    server.splits.router.replace([split])
    assert await ask("ada") == 2
    assert await ask("carl", region="eu") == 1
    server.splits.router.replace([msgspec.structs.replace(split, weight=1.0)])
    assert await ask("bo", region="eu") == 1
    assert await ask("carl", region="eu") == 2
    assert await ask("carl", region="us") == 1
    assert await ask("carl", "m", "3", region="eu") == 3
    server.splits.router.replace([])
    assert await ask("carl") == 3  # the newest one, as before


async def test_a_canary_that_is_not_there_costs_nobody_an_answer(server: Server) -> None:
    watch = Watch()
    server.kernel.bus.join(watch)
    server.splits.router.replace([msgspec.structs.replace(SPLIT, canary="9", weight=1.0)])
    assert await asyncio.to_thread(by_triton_grpc, server.port, "ada") == 1
    server.kernel.bus.flush()
    (served,) = watch.served
    assert served.assignment is not None
    assert (served.outcome, served.version) == ("ok", "1")
    assert (served.assignment.arm, served.assignment.version) == (Arm.CANARY, "9")
