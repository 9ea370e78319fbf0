"""A real server with more models than its memory holds, asked by unmodified clients."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from onnx import TensorProto, helper, numpy_helper
from waiting import until

from salver.cli import main
from salver.features import TenantsConfig
from salver.features.memory.building import tenants_of
from salver.features.memory.estimates import parse_size
from salver.features.memory.processes import pss, tree
from salver.testing.process import ServerProcess
from salver.words.errors import InvalidInput

WIDE = 1448  # 16 MiB for two square matrices
COUNT = 8  # of 16 MiB: beside the server itself they never fit together
CACHED = 2  # a model with a response cache
NEVER = (COUNT + 2, COUNT + 3)  # nobody asks them for an answer
MIB = 1 << 20
BUDGET = 176 * MIB


def _write(root: Path, number: int, settings: str = "") -> None:
    """Write a model that multiplies by its number."""
    weights = [np.eye(WIDE, dtype=np.float32) * factor for factor in (1, number)]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])],
        "times",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", WIDE])],
        [numpy_helper.from_array(array, name) for array, name in zip(weights, "ab", strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder = root / f"m{number}"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(model.SerializeToString())
    if settings:
        (folder / "salver.toml").write_text(settings)


class Watch(threading.Thread):
    """Highest memory of a server and its processes, looked at each 50 ms."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.most, self.is_over = pid, 0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.is_over.wait(0.05):
            self.most = max(self.most, pss(tree(self.pid)))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("memory") / "models"
    for number in range(COUNT):
        _write(root, number, "memory = { residence = 'lazy' }" if number % 2 else "")
    (root / f"m{CACHED}" / "salver.toml").write_text("response_cache = true")
    _write(root, COUNT, "memory = { max_mb = 8, residence = 'lazy' }")
    _write(root, COUNT + 1, "memory = { tenant = 'small', residence = 'lazy' }")
    for number in NEVER:
        _write(root, number, "memory = { residence = 'lazy' }")
    tenants = {"SALVER_TENANTS_MEMORY": "{ small = { max_mb = 8, share_mb = 4 } }"}
    options = ["--memory", f"{BUDGET // MIB}MiB", "--response-cache", "local,size=1m"]
    with ServerProcess([root], root.parent / "log", options, env=tenants) as server:
        yield server.wait_ready()


def places(server: ServerProcess) -> dict[str, str]:
    return {row["model"]: row["place"] for row in state(server)["models"]}


def state(server: ServerProcess) -> Any:
    return json.loads(server.get("/api/v1/memory")[1])


def _ask(server: ServerProcess, number: int) -> float:
    rows = triton_http.InferInput("x", [1, WIDE], "FP32")
    rows.set_data_from_numpy(np.ones((1, WIDE), np.float32))
    # A client of its own: gevent's do not go from thread to thread.
    with triton_http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        answer = client.infer(f"m{number}", [rows]).as_numpy("y")
    assert answer is not None
    return float(answer[0, 5])


def test_more_models_than_memory_all_answer_and_the_budget_is_kept(server: ServerProcess) -> None:
    watch = Watch(server.pid)
    draw = np.random.default_rng(7)
    numbers = [*range(COUNT), *(int(n) for n in draw.zipf(1.9, 40) % COUNT)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda number: _ask(server, number), numbers)) == numbers
    watch.is_over.set()
    watch.join()
    found = state(server)
    assert 0 < watch.most <= BUDGET
    assert found["refusals"] == 0
    assert sum(row["loads"] for row in found["models"]) > COUNT
    assert all(row["why"] == "room" for row in found["models"] if row["evictions"])


def test_metadata_of_an_absent_model_are_told_without_loading_it(server: ServerProcess) -> None:
    for number in range(COUNT):
        _ask(server, number)
    until(lambda: stays_absent(server))  # the server may load a model ahead meanwhile


def stays_absent(server: ServerProcess) -> bool:
    """Ask for metadata of a model that is not in memory; return whether nothing was loaded."""
    known = [name for name, place in places(server).items() if place == "absent" and int(name[1:]) < COUNT]
    if not known:  # one is on its way
        return False
    absent = known[0]
    loads = sum(row["loads"] for row in state(server)["models"])
    with triton_http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        assert client.is_model_ready(absent)
        found = client.get_model_metadata(absent)
        assert (found["inputs"][0]["shape"], found["versions"]) == ([-1, WIDE], ["1"])
        assert client.get_model_config(absent)["input"][0]["name"] == "x"
        client.get_inference_statistics(absent)
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        assert list(client.get_model_metadata(absent).inputs[0].shape) == [-1, WIDE]
    status, body = server.get(f"/v1/models/{absent}/metadata")
    assert (status, json.loads(body)["model_spec"]["name"]) == (200, absent)
    is_there = places(server)[absent] != "absent"
    return not is_there and sum(row["loads"] for row in state(server)["models"]) == loads


def test_metadata_of_models_that_were_never_loaded_wait_for_them(server: ServerProcess) -> None:
    status, body = server.get(f"/v1/models/m{NEVER[0]}/metadata")
    assert (status, json.loads(body)["model_spec"]["version"]) == (200, "1")
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        assert list(client.get_model_metadata(f"m{NEVER[1]}").inputs[0].shape) == [-1, WIDE]


def test_a_model_beyond_its_ceiling_is_refused_by_name(server: ServerProcess) -> None:
    body = {"inputs": [{"name": "x", "shape": [1, WIDE], "datatype": "FP32", "data": [1.0] * WIDE}]}
    status, answer = server.post(f"/v2/models/m{COUNT}/infer", body)
    assert status == 503
    assert "more than its memory.max_mb" in answer["error"]


def test_a_tenant_beyond_its_ceiling_hears_what_is_short(server: ServerProcess) -> None:
    body = {"inputs": [{"name": "x", "shape": [1, WIDE], "datatype": "FP32", "data": [1.0] * WIDE}]}
    status, answer = server.post(f"/v2/models/m{COUNT + 1}/infer", body)
    assert status == 503
    assert "of the 8 MiB of the tenant 'small' are missing" in answer["error"]


@pytest.mark.parametrize(
    ("tenants", "said"),
    [
        ({"a": {"share_mb": 9, "max_mb": 8}}, "the tenant 'a' has a share above its max_mb"),
        ({"a": {"priority": 0}}, "the tenant 'a' has a number out of bounds"),
        ({"a": {"share_mb": 80}, "b": {"share_mb": 80}}, "the tenants' shares are 160 MiB together"),
    ],
)
async def test_shares_that_make_no_sense_are_refused_at_the_start(tenants: dict[str, Any], said: str) -> None:
    with pytest.raises((InvalidInput, msgspec.ValidationError), match=said):
        tenants_of(msgspec.convert({"memory": tenants}, TenantsConfig), 150 * MIB)


def test_the_command_and_the_metrics_tell_it(
    server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _ask(server, CACHED) == CACHED
    assert main(["memory", "--url", server.url]) == 0
    heading, *rows, total = capsys.readouterr().out.splitlines()
    assert heading.split() == [
        "model", "place", "bytes", "residence", "rate", "idle", "reload", "loads", "evictions", "why",
    ]  # fmt: skip
    assert sum(row.startswith("m") for row in rows) == COUNT + 2 + len(NEVER)
    assert "tenant small: 0 B of at most 8 MiB, a share of 4 MiB" in rows
    assert f" of {BUDGET // MIB} MiB are used" in total
    assert "KiB of it by the response cache)" in total
    assert main(["memory", "--json", "--url", server.url]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["budget"] == BUDGET
    assert 4 * WIDE < found["cache"] < 8 * WIDE
    page = server.get("/metrics")[1].decode()
    assert f"salver_memory_budget_bytes {BUDGET / 1e8:.8f}e+08" in page
    assert 'salver_memory_evictions_total{reason="room"}' in page
    assert 'salver_memory_ahead_on{source="gaps"} 1.0' in page


@pytest.mark.parametrize(
    ("text", "said"), [("plenty", "'plenty' is no size"), ("3", "not between 64 MiB and 1 EiB")]
)
def test_what_is_no_budget_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=rf"{said} \(at --memory\)\. Write .*8GiB"):
        parse_size(text, "--memory")
