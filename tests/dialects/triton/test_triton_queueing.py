"""Queue policies, priorities and FIL models of a ``config.pbtxt``, with tritonclient."""

import queue
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE_S, until

from salver.testing.process import TritonProcess

#: Counts its runs; with MS below 0 it waits until the gate is open.
TURNS = """
import os
import time
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.turn = 0

    def execute(self, requests):
        out = []
        for r in requests:
            ms = pb_utils.get_input_tensor_by_name(r, "MS").as_numpy()
            while ms.ravel()[0] < 0 and not os.path.exists("GATE"):
                open("GATE.begun", "w").close()
                time.sleep(0.005)
            self.turn += 1
            turn = pb_utils.Tensor("TURN", np.full(ms.shape, self.turn, np.int32))
            out.append(pb_utils.InferenceResponse([turn]))
        return out
"""
CONFIG = """
backend: "python"
max_batch_size: 1
input [ { name: "MS" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "TURN" data_type: TYPE_INT32 dims: [ 1 ] } ]
dynamic_batching {
  priority_levels: 2
  default_priority_level: 2
  default_queue_policy {
    default_timeout_microseconds: 60000000 allow_timeout_override: true max_queue_size: 3
  }
}
"""
FOREST = """
backend: "fil"
max_batch_size: 1024
input [ { name: "input__0" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "output__0" data_type: TYPE_FP32 dims: [ 1 ] } ]
parameters [
  { key: "model_type" value { string_value: "xgboost_ubj" } },
  { key: "output_class" value { string_value: "true" } },
  { key: "storage_type" value { string_value: "AUTO" } }
]
dynamic_batching { }
"""


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that lets the blocker go when it is there."""
    return tmp_path_factory.mktemp("gate") / "open"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, gate: Path) -> Iterator[TritonProcess]:
    import xgboost
    from sklearn.datasets import load_iris

    folder = tmp_path_factory.mktemp("queueing")
    root = folder / "repository"
    for name, config in (("turns", CONFIG), ("forest", FOREST)):
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(config)
    (root / "turns" / "1" / "model.py").write_text(TURNS.replace("GATE", str(gate)))
    x, y = load_iris(return_X_y=True)
    settings = {"objective": "multi:softprob", "num_class": 3, "nthread": 1, "verbosity": 0}
    booster = xgboost.train(settings, xgboost.DMatrix(x.astype("f4"), y), 5)
    booster.save_model(root / "forest" / "1" / "xgboost.ubj")
    with TritonProcess([root], folder / "log", ("--state-dir", "")) as server:
        yield server.wait_ready()


def naps(milliseconds: int) -> list[Any]:
    given = grpc.InferInput("MS", [1, 1], "INT32")
    given.set_data_from_numpy(np.array([[milliseconds]], np.int32))
    return [given]


class Asking:
    """Requests under way over one gRPC client."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.said: queue.Queue[tuple[str, Any]] = queue.Queue()

    def ask(self, name: str, milliseconds: int = 1, **options: Any) -> None:
        def done(result: Any, error: Any) -> None:
            self.said.put((name, error or int(result.as_numpy("TURN")[0, 0])))

        self._client.async_infer("turns", naps(milliseconds), done, **options)

    def answers(self, count: int) -> dict[str, Any]:
        return dict(self.said.get(timeout=PATIENCE_S) for _ in range(count))


def waiting(server: TritonProcess) -> int:
    """Requests that wait, as Triton's metrics tell."""
    with urlopen(f"http://127.0.0.1:{server.ports['metrics']}/metrics", timeout=PATIENCE_S) as page:
        text = page.read()
    found = re.search(rb'^nv_inference_pending_request_count{model="turns"[^}]*} (\d+)', text, re.M)
    assert found is not None
    return int(found[1])


@pytest.mark.clause("TR-C8")
def test_priorities_sizes_and_times_over_grpc(server: TritonProcess, gate: Path) -> None:
    with grpc.InferenceServerClient(f"127.0.0.1:{server.ports['grpc']}") as client:
        asking = Asking(client)
        asking.ask("blocker", -1)
        until(gate.with_name("open.begun").exists)  # calls of one client may overtake each other
        for place in (1, 2, 3):
            asking.ask(f"low {place}", priority=2)
            until(lambda: waiting(server) >= place)  # noqa: B023
        with pytest.raises(InferenceServerException, match="Exceeds maximum queue size") as full:
            client.infer("turns", naps(1))
        assert full.value.status() == "StatusCode.UNAVAILABLE"
        asking.ask("high", priority=1)
        until(lambda: waiting(server) >= 4)
        with pytest.raises(InferenceServerException, match="Request timeout expired") as late:
            client.infer("turns", naps(1), priority=1, timeout=50_000)
        assert late.value.status() == "StatusCode.UNAVAILABLE"
        gate.touch()
        turns = asking.answers(5)
    first = turns["blocker"]
    assert turns == {
        "blocker": first,
        "high": first + 1,
        "low 1": first + 2,
        "low 2": first + 3,
        "low 3": first + 4,
    }


@pytest.mark.clause("TR-C12")
def test_a_forest_of_a_fil_repository_over_http(server: TritonProcess) -> None:
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    given = http.InferInput("input__0", [150, 4], "FP32")
    given.set_data_from_numpy(x.astype("f4"))
    client = http.InferenceServerClient(f"127.0.0.1:{server.ports['http']}")
    classes = client.infer("forest", [given]).as_numpy("output__0")
    client.close()
    assert classes.shape == (150, 1) and classes.dtype == np.float32
    assert (classes[:, 0] == y).mean() > 0.95
