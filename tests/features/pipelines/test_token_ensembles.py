"""Ensembles with a model that answers token by token: streamed, and whole (TR-S6, TR-R6)."""

import json
import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from waiting import PATIENCE_S

from salver.testing.process import ServerProcess

ALPHABET = """
import numpy as np
class Model:
    def step(self, slots, tokens):
        following = np.where(tokens == ord("z"), ord("a"), (tokens + 1) % 256)
        return np.log(np.eye(256, dtype=np.float32)[following] + 1e-9)
    def release(self, slot):
        pass
"""
LOWER = """
import numpy as np
class Model:
    inputs = {"text": ("BYTES", [-1, 1])}
    outputs = {"small": ("BYTES", [-1, 1]), "is_letter": ("BOOL", [-1, 1])}
    def predict(self, inputs):
        texts = inputs["text"][:, 0]
        return {"small": np.array([[text.lower()] for text in texts], dtype=object),
                "is_letter": np.array([[text.isalpha()] for text in texts])}
"""
BEFORE = """
[[ensemble.steps]]
model = "lower"
inputs = { text = "text_input" }
outputs = { small = "prompt" }

[[ensemble.steps]]
model = "alphabet"
inputs = { text_input = "prompt" }
outputs = { text_output = "text_output" }
"""
AFTER = """
[[ensemble.steps]]
model = "alphabet"
inputs = { text_input = "text_input" }
outputs = { text_output = "said" }

[[ensemble.steps]]
model = "lower"
inputs = { text = "said" }
outputs = { small = "text_output", is_letter = "is_letter" }
"""
AT_TIMES = AFTER.replace('inputs = { text = "said" }', 'when = "wanted"\ninputs = { text = "said" }').replace(
    "[[ensemble.steps]]\nmodel",
    """[[ensemble.steps]]
model = "lower"
inputs = { text = "said" }
outputs = { is_letter = "wanted" }

[[ensemble.steps]]
model""",
    1,
)
MODELS = {
    "before": BEFORE,
    "after": AFTER,
    "at_times": AT_TIMES,
    "around": BEFORE.replace('"alphabet"', '"after"'),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("tokens")
    root = folder / "models"
    for name, code in (("alphabet", ALPHABET), ("lower", LOWER)):
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.py").write_text(code)
    (root / "alphabet" / "salver.toml").write_text('[steps]\nvocabulary = "bytes"\n')
    for name, steps in MODELS.items():
        (root / name).mkdir()
        (root / name / "salver.toml").write_text(steps)
    with ServerProcess([root], folder / "log", ["--state-dir="]) as server:
        yield server.wait_ready()


ASKED = {"text_input": "ABCxy", "max_tokens": 4, "temperature": 0}
TOKENS = ["z", "a", "b", "c"]


@pytest.mark.clause("TR-S6")
@pytest.mark.parametrize("model", MODELS)
def test_tokens_come_through_an_ensemble_one_by_one(server: ServerProcess, model: str) -> None:
    status, text = server.ask("POST", f"/v2/models/{model}/generate_stream", json.dumps(ASKED).encode())
    assert status == 200
    events = [json.loads(line[6:]) for line in text.decode().splitlines() if line]
    assert [event["text_output"] for event in events] == TOKENS
    assert {event["model_name"] for event in events} == {model}


@pytest.mark.clause("TR-S6", "TR-G2")
def test_and_over_grpc(server: ServerProcess) -> None:
    came: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(server.address) as client:
        client.start_stream(lambda result, error: came.put(error or result))
        given = triton.InferInput("text_input", [1, 1], "BYTES")
        given.set_data_from_numpy(np.array([[b"ABCxy"]], object))
        client.async_stream_infer("before", [given], parameters={"max_tokens": 4, "temperature": 0})
        answers = [came.get(timeout=PATIENCE_S).as_numpy("text_output").item().decode() for _ in TOKENS]
        assert answers == TOKENS


@pytest.mark.clause("TR-R6")
@pytest.mark.parametrize(
    ("model", "more"),
    [("before", {}), ("after", {"is_letter": [True] * 4}), ("around", {})],
)
def test_the_whole_answer_of_an_ensemble(server: ServerProcess, model: str, more: dict[str, object]) -> None:
    """Texts are strung together, and what a step gives of each token is one after the other."""
    status, answer = server.post(f"/v2/models/{model}/generate", ASKED)
    assert status == 200
    assert answer["text_output"] == "zabc"
    assert answer["model_name"] == model
    assert {name: answer[name] for name in more} == more


@pytest.mark.clause("TR-R6")
def test_what_is_not_sure_to_be_one_answer_is_refused(server: ServerProcess) -> None:
    """A step on a condition may leave outputs out of some of the parts."""
    status, answer = server.post("/v2/models/at_times/generate", ASKED)
    assert status == 200
    assert answer["error"].startswith(
        "generate expects model to produce exactly 1 response, use generate stream"
    )
    status, answer = server.post(
        "/v2/models/before/infer",
        {"inputs": [{"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": ["ABC"]}]},
    )
    assert status == 501
    assert "model 'before' gives any number of responses" in answer["error"]
