"""Callers who leave a stream of events: the model is told, and stops."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import program
from waiting import until

from salver.testing.process import ServerProcess

CONFIG = """
backend: "python"
model_transaction_policy { decoupled: true }
input { name: "notes" data_type: TYPE_STRING dims: 1 }
input { name: "pause_ms" data_type: TYPE_INT32 dims: 1 }
output { name: "number" data_type: TYPE_INT32 dims: 1 }
"""
MODEL = """
import threading, time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            notes = pb_utils.get_input_tensor_by_name(request, "notes").as_numpy()[0].decode()
            pause = int(pb_utils.get_input_tensor_by_name(request, "pause_ms").as_numpy()[0]) / 1e3
            threading.Thread(target=self.answer, args=(request.get_response_sender(), notes, pause)).start()

    def answer(self, sender, notes, pause):
        open(notes + ".begun", "w").close()
        for number in range(400):
            until = time.monotonic() + pause
            while time.monotonic() < until and not sender.is_cancelled():
                time.sleep(0.01)
            if sender.is_cancelled():
                open(notes, "w").write(f"stopped at {number}")
                break
            tensor = pb_utils.Tensor("number", np.array([number], np.int32))
            sender.send(pb_utils.InferenceResponse([tensor]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("counting")
    (folder / "models" / "count" / "1").mkdir(parents=True)
    (folder / "models" / "count" / "config.pbtxt").write_text(CONFIG)
    (folder / "models" / "count" / "1" / "model.py").write_text(MODEL)
    with ServerProcess([folder / "models"], folder / "log", ["--state-dir="]) as server:
        yield server.wait_ready()


@pytest.mark.clause("TR-R35")
@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
@pytest.mark.parametrize(
    ("pause_ms", "first"), [(20, b"data: "), (60_000, b"")], ids=["streaming", "waiting"]
)
def test_who_leaves_a_stream_ends_it(
    counting: ServerProcess, tmp_path: Path, version: str, pause_ms: int, first: bytes
) -> None:
    notes = tmp_path / "notes"
    body = json.dumps({"notes": str(notes), "pause_ms": pause_ms})
    url = f"{counting.url}/v2/models/count/generate_stream"
    caller = subprocess.Popen([program("curl"), "-sSN", version, url, "-d", body], stdout=subprocess.PIPE)
    assert caller.stdout is not None
    if first:
        assert caller.stdout.readline().startswith(first)
    else:  # its request is under way before its caller leaves
        until(Path(f"{notes}.begun").exists)
    assert not notes.exists()
    caller.kill()
    caller.communicate()
    until(notes.exists)
    until(lambda: notes.read_text().startswith("stopped at "))
